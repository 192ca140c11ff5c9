"""`hepduck findings`, `tail`, `call`, `sql`: reading the store, while the tap runs or not."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import options as opt

if TYPE_CHECKING:
    from pipeline.store.lake import Reader

_FINDING_COLUMNS = ["ts", "kind", "aor", "target", "outcome", "late_ms", "call_id", "trusted"]
_TAIL_COLUMNS = [
    *("ts", "src_ip", "src_port", "dst_ip", "dst_port", "transport", "method", "status", "reason"),
    *("from_user", "to_user", "call_id"),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(findings)
    app.command()(tail)
    app.command()(call)
    app.command()(sql)


def _open(store: Path | None) -> Reader:
    from pipeline.store.lake import Reader

    return Reader(opt.store_path(store))


def since_time(text: str | None, now: datetime | None = None) -> datetime | None:
    """`"1h"` -> an hour before `now`; an ISO time as it stands, in UTC where it names no zone."""
    if text is None:
        return None
    from pipeline.durations import parse_duration

    try:
        length = parse_duration(text)
        if isinstance(length, timedelta):
            return (now or datetime.now(UTC)) - length
    except ValueError:
        pass
    try:
        when = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f'{text!r}: write "1h", "30m", or an ISO time') from None
    return when if when.tzinfo else when.replace(tzinfo=UTC)


def findings(
    store: opt.Store = None,
    since: opt.Since = None,
    kind: Annotated[str | None, typer.Option("--kind", help="Only this kind, e.g. late_register.")] = None,
    limit: opt.Limit = 100,
    as_json: opt.Json = False,
    as_csv: opt.Csv = False,
) -> None:
    """List what the detectors found, newest first.

    Examples: `hepduck findings --since 1h`; `hepduck findings --json | jq .evidence.late_ms`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store import queries

    with _open(store) as reader:
        rows = queries.findings(reader, since=since_time(since), kind=kind, limit=limit)
    print_rows(rows, None if as_json else _FINDING_COLUMNS, as_json=as_json, as_csv=as_csv)


def tail(
    store: opt.Store = None,
    lines: Annotated[int, typer.Option("-n", "--lines", min=0, help="Begin with the last N messages.")] = 20,
    follow: Annotated[bool, typer.Option("-F", "--follow", help="Go on as messages arrive.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Print the newest messages, one line each; with --follow as they arrive (a second behind the wire).

    Examples: `hepduck tail -n 50`; `hepduck tail --follow --json`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store import queries

    with _open(store) as reader:
        rows = queries.tail(reader, limit=max(lines, 1))
        last = rows[-1]["msg_id"] if rows else 0
        print_rows(
            rows[-lines:] if lines else [], None if as_json else _TAIL_COLUMNS, as_json=as_json, plain=True
        )
        while follow:
            time.sleep(0.5)
            rows = queries.tail(reader, after_msg_id=last, limit=10_000)
            if rows:
                last = rows[-1]["msg_id"]
                columns = None if as_json else _TAIL_COLUMNS
                print_rows(rows, columns, as_json=as_json, plain=True, header=False)


def call(
    call_id: Annotated[str, typer.Argument(help="Call-ID, or a part of it that fits one call only.")],
    store: opt.Store = None,
    raw: Annotated[bool, typer.Option("--raw", help="The messages as they were on the wire.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Show a call: its facts and its ladder, with findings and actions drawn in.

    Examples: `hepduck call 7f3a@10.0.0.5`; `hepduck call 7f3a@10.0.0.5 --raw`
    """
    from pipeline.callview import as_object, as_text, raw_text, view
    from pipeline.cli.output import print_rows

    with _open(store) as reader:
        seen = view(reader, call_id)
    if as_json:
        print_rows([as_object(seen)], None, as_json=True)
    else:
        typer.echo(raw_text(seen) if raw else as_text(seen), nl=False)


def sql(
    query: Annotated[str, typer.Argument(help="One SELECT.")] = "SHOW TABLES",
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
    with _open(store) as reader:
        frame = queries.run_sql(reader, query)
    rows: list[dict[str, Any]] = [
        dict(zip(frame.columns, row, strict=True)) for row in frame.itertuples(index=False, name=None)
    ]
    print_rows(rows, list(frame.columns), as_json=as_json, as_csv=as_csv)
