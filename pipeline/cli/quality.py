"""`hepduck quality`: how calls sounded, by what they went through, and the worst of them."""

from __future__ import annotations

from typing import Annotated

import typer

from pipeline.cli import options as opt

_FIGURES = [
    *("key", "calls", "rated", "unrated", "r_p5", "r_p50", "r_p95", "mos_p5", "mos_p50", "mos_p95"),
    *("loss_pct_p50", "loss_pct_p95", "jitter_ms_p50", "jitter_ms_p95", "rtt_ms_p50", "rtt_ms_p95"),
    "grounded_pct",
]
_WORST = [
    *("ts", "call_id", "leg", "direction", "r_factor", "band", "mos", "mos_method", "loss_pct", "jitter_ms"),
    *("rtt_ms", "codec", "trunk", "seconds", "packets", "flags", "source"),
]

By = Annotated[
    str | None,
    typer.Option("--by", help="trunk, codec, ua, account, network or hour.", show_default=False),
]
Worst = Annotated[
    int | None,
    typer.Option("--worst", min=1, help="Instead: that many directions, lowest R first.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(quality)


def quality(
    by: By = None,
    worst: Worst = None,
    since: opt.Since = None,
    until: opt.Until = None,
    zone: opt.Zone = "UTC",
    store: opt.Store = None,
    as_json: opt.Json = False,
    as_csv: opt.Csv = False,
) -> None:
    """Show how calls sounded: percentiles of R with their MOS, loss, jitter and round trip, each leg both ways.

    Examples: `hepduck quality --by trunk --since 24h`; `hepduck quality --worst 20 --json`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store import quality_queries as queries
    from pipeline.store.lake import Reader

    if by is not None and by not in queries.GROUPINGS:
        raise typer.BadParameter(f"{by!r}: there are {', '.join(queries.GROUPINGS)}")
    span = opt.span(since, until, zone)
    with Reader(opt.store_path(store)) as reader:
        if worst is not None:
            rows = queries.worst(reader, since=span.since, until=span.until, limit=worst)
            columns = None if as_json else _WORST
            print_rows(rows, columns, as_json=as_json, as_csv=as_csv, zone=span.zone)
            return
        rows = queries.figures(reader, by=by or "all", since=span.since, until=span.until, zone=zone)
        counts = queries.join_counts(reader, since=span.since, until=span.until)
    print_rows(rows, None if as_json else _FIGURES, as_json=as_json, as_csv=as_csv)
    if not (as_json or as_csv):
        for row in counts:
            why = f": {row['reason']}" if row["reason"] else ""
            typer.echo(f"{row['calls']} calls {row['what']}{why}", err=True)
