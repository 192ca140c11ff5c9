"""`hepduck calls` and `call`: find the call, see its ladder, read its messages, take them away."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as opt

_COLUMNS = [
    *("first_ts", "from", "to", "state", "ghost", "final_status", "pdd_ms", "ring_ms", "talk_ms"),
    *("r_factor", "mos", "loss_pct", "trunk", "call_id"),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(calls)
    app.command()(call)


def calls(
    search: opt.Search = None,
    where: opt.Where = None,
    since: opt.Since = None,
    until: opt.Until = None,
    zone: opt.Zone = "UTC",
    sort: Annotated[
        str, typer.Option("--sort", help='Column to sort by; "-" before it: downwards.')
    ] = "-first_ts",
    limit: opt.Limit = 100,
    count: Annotated[bool, typer.Option("--count", help="Print only how many there are.")] = False,
    store: opt.Store = None,
    as_json: opt.Json = False,
    as_csv: opt.Csv = False,
) -> None:
    """List calls, newest first: all of a time, or what a search finds (--json and --csv have more columns).

    Examples: `hepduck calls 4930123456 --since 1h`; `hepduck calls "state:failed pdd>3s" --where "-code:486" --csv`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store import call_queries
    from pipeline.store.lake import Reader
    from pipeline.store.queries import rows_of

    text, span = opt.search_text(search, where), opt.span(since, until, zone)
    window = call_queries.Window(span.since, span.until)
    with Reader(opt.store_path(store)) as reader:
        if count:
            typer.echo(rows_of(reader, *call_queries.count(text, window))[0]["calls"])
            return
        asked = call_queries.calls(reader, text, window, sort=sort, limit=limit + 1)
        rows = rows_of(reader, *asked)
    columns = call_queries.COLUMNS if as_json or as_csv else _COLUMNS
    print_rows(rows[:limit], columns, as_json=as_json, as_csv=as_csv, zone=span.zone)
    if len(rows) > limit:
        typer.echo(f"the first {limit} only: --limit shows more, --count tells how many", err=True)


def call(
    call_id: Annotated[
        str, typer.Argument(help="Call-ID, or a part of it that fits one call only.", callback=opt.readable)
    ],
    ladder: Annotated[bool, typer.Option("--ladder", help="The ladder alone.")] = False,
    raw: Annotated[bool, typer.Option("--raw", help="The messages as they were on the wire.")] = False,
    pcap: Annotated[
        Path | None,
        typer.Option("--pcap", help="Write its messages to this pcapng file.", show_default=False),
    ] = None,
    zone: opt.Zone = "UTC",
    store: opt.Store = None,
    as_json: opt.Json = False,
) -> None:
    """Show a call: its facts and its ladder, with findings and actions drawn in, and how it sounded.

    Examples: `hepduck call 7f3a@10.0.0.5 --pcap ticket.pcapng`; `hepduck call 7f3a@10.0.0.5 --raw --zone Europe/Kyiv`
    """
    from pipeline import callview
    from pipeline.cli.output import print_rows
    from pipeline.store.lake import Reader

    if ladder + raw + as_json > 1:
        raise typer.BadParameter("one of --ladder, --raw and --json")
    shown_in = opt.zone_of(zone)
    with Reader(opt.store_path(store)) as reader:
        seen = callview.view(reader, call_id)
    if pcap is not None:
        from pipeline.export import write_pcap

        written = write_pcap(pcap, seen.messages, seen.findings)
        typer.echo(f"{written} messages in {pcap}", err=True)
        if not ladder + raw + as_json:
            return
    if as_json:
        print_rows([callview.as_object(seen)], None, as_json=True, zone=shown_in)
    elif ladder:
        typer.echo(callview.ladder_text(seen), nl=False)
    elif raw:
        typer.echo(callview.raw_text(seen, shown_in), nl=False)
    else:
        typer.echo(callview.as_text(seen, shown_in), nl=False)
