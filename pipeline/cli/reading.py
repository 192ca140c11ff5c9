"""`hepduck findings`, `tail`, `registrations`, `sql`: reading the store, while the tap runs or not."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from pipeline.cli import options as opt

_FINDING_COLUMNS = ["ts", "kind", "aor", "target", "outcome", "late_ms", "call_id", "trusted", "facts"]
_TAIL_COLUMNS = [
    *("ts", "src_ip", "src_port", "dst_ip", "dst_port", "transport", "method", "status", "reason"),
    *("from_user", "to_user", "call_id"),
]
_BINDING_COLUMNS = [
    *(
        "aor",
        "user_agent",
        "src_ip",
        "src_port",
        "transport",
        "refreshed_at",
        "expires_s",
        "left_s",
        "contact",
    ),
]
_CHANGE_COLUMNS = [
    "ts",
    "change",
    "aor",
    "user_agent",
    "src_ip",
    "src_port",
    "transport",
    "expires_s",
    "contact",
]
_PAGE = 10_000

Text = Annotated[
    str | None,
    typer.Argument(
        help="Only those with this text, whatever its case.", callback=opt.readable, show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(findings)
    app.command()(tail)
    app.command()(registrations)
    app.command()(sql)


def findings(
    text: Text = None,
    kind: Annotated[
        str | None,
        typer.Option(
            "--kind", help="Only this kind, e.g. late_register.", callback=opt.readable, show_default=False
        ),
    ] = None,
    since: opt.Since = None,
    until: opt.Until = None,
    zone: opt.Zone = "UTC",
    limit: opt.Limit = 100,
    store: opt.Store = None,
    as_json: opt.Json = False,
    as_csv: opt.Csv = False,
) -> None:
    """List what the detectors found, newest first; a text is looked for in account, target, Call-ID and identifier.

    Examples: `hepduck findings --since 1h`; `hepduck findings bob@ --json | jq .evidence.late_ms`
    """
    from pipeline.cli.output import print_rows
    from pipeline.evidence import in_words
    from pipeline.store import queries
    from pipeline.store.finding_queries import LATE
    from pipeline.store.lake import Reader

    span = opt.span(since, until, zone)
    with Reader(opt.store_path(store)) as reader:
        rows = queries.findings(reader, since=span.since, until=span.until, kind=kind, text=text, limit=limit)
    for row in rows:  # a ghost call's are in the columns
        row["facts"] = "" if row["kind"] == LATE else in_words(row["evidence"])
    columns = None if as_json else _FINDING_COLUMNS
    print_rows(rows, columns, as_json=as_json, as_csv=as_csv, zone=span.zone)


def tail(
    search: opt.Search = None,
    where: opt.Where = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Begin with the last N messages.")] = 20,
    follow: Annotated[bool, typer.Option("-F", "--follow", help="Go on as messages arrive.")] = False,
    zone: opt.Zone = "UTC",
    store: opt.Store = None,
    as_json: opt.Json = False,
    as_csv: opt.Csv = False,
) -> None:
    """Print the newest messages, one line each; with --follow as they arrive (a second behind the wire).

    Examples: `hepduck tail -n 50`; `hepduck tail method:INVITE,BYE ip:10.0.0.5 --follow --json`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store import queries
    from pipeline.store.lake import Reader
    from pipeline.store.message_queries import compile_message_search

    wanted = compile_message_search(opt.search_text(search, where))
    shown_in, columns = opt.zone_of(zone), None if as_json else _TAIL_COLUMNS
    with Reader(opt.store_path(store)) as reader:
        newest = queries.newest_msg_id(reader)
        rows = queries.tail(reader, limit=lines, wanted=wanted) if lines else []
        header = True
        while True:
            print_rows(
                rows, columns, as_json=as_json, as_csv=as_csv, plain=True, header=header, zone=shown_in
            )
            header = False
            if not follow:
                return
            # What is not wanted is not looked at again. More than a page waits for the next turn.
            last = (
                rows[-1]["msg_id"] if len(rows) == _PAGE else max([newest, *(row["msg_id"] for row in rows)])
            )
            time.sleep(0.5)
            newest = queries.newest_msg_id(reader, last)
            rows = queries.tail(reader, after_msg_id=last, limit=_PAGE, wanted=wanted)


def registrations(
    text: Text = None,
    changes: Annotated[
        bool, typer.Option("--changes", help="Instead: what was registered, refreshed, moved, removed.")
    ] = False,
    since: opt.Since = None,
    until: opt.Until = None,
    zone: opt.Zone = "UTC",
    limit: opt.Limit = 100,
    store: opt.Store = None,
    as_json: opt.Json = False,
    as_csv: opt.Csv = False,
) -> None:
    """Show who is registered, now or at --until; with --changes what changed since --since, newest first.

    Examples: `hepduck registrations bob@`; `hepduck registrations --changes --since 1h --json`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store import registration_queries as queries
    from pipeline.store.lake import Reader
    from pipeline.store.queries import rows_of

    if since is not None and not changes:
        raise typer.BadParameter("goes with --changes", param_hint="--since")
    span = opt.span(since, until, zone)
    with Reader(opt.store_path(store)) as reader:
        if changes:
            asked = queries.changes(reader, since=span.since, until=span.until, text=text, limit=limit)
        else:
            asked = queries.bindings(reader, at=span.until, text=text, limit=limit)
        rows = rows_of(reader, *asked)
    columns = None if as_json else _CHANGE_COLUMNS if changes else _BINDING_COLUMNS
    print_rows(rows, columns, as_json=as_json, as_csv=as_csv, zone=span.zone)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT.", callback=opt.readable)] = "SHOW TABLES",
    zone: opt.Zone = "UTC",
    store: opt.Store = None,
    as_json: opt.Json = False,
    as_csv: opt.Csv = False,
    attach: Annotated[
        bool, typer.Option("--attach", help="Print the lines that attach the store in your own DuckDB.")
    ] = False,
) -> None:
    """Run a query on the store; read-only, live while the tap runs.

    Examples: `hepduck sql "SELECT method, count(*) FROM sip GROUP BY 1"`; `hepduck sql "FROM call" --csv`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store import lake, queries

    if attach:
        typer.echo("\n".join(lake.attach_lines(opt.store_path(store))))
        return
    with lake.Reader(opt.store_path(store)) as reader:
        table = queries.read_sql(reader, query)
    names = [
        name if name not in table.column_names[:at] else f"{name}_{at}"
        for at, name in enumerate(table.column_names)
    ]
    rows = table.rename_columns(names).to_pylist()
    print_rows(rows, names, as_json=as_json, as_csv=as_csv, zone=opt.zone_of(zone))
