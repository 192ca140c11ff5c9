"""The daily report: figures of one day by trunk, codec, User-Agent, account and hour, and the worst directions.

Three files a day, each written whole or not at all: `quality-2026-11-22.html` for people, `quality-2026-11-22.csv`
with every figure, `quality-2026-11-22-worst.csv` with the worst directions.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from datetime import date, datetime, timedelta
from datetime import time as time_of_day
from html import escape
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from pipeline.protocols.emodel import band
from pipeline.quality.settings import QualitySettings
from pipeline.store import quality_queries as queries
from pipeline.store.queries import Row, Source

WORST: Final = 50
_FIGURES: Final = {
    "key": "",
    "calls": "calls",
    "rated": "rated",
    "unrated": "not rated",
    "r_p5": "R p5",
    "r_p50": "R p50",
    "r_p95": "R p95",
    "mos_p5": "MOS p5",
    "mos_p50": "MOS p50",
    "mos_p95": "MOS p95",
    "loss_pct_p50": "loss p50, %",
    "loss_pct_p95": "loss p95, %",
    "jitter_ms_p50": "jitter p50, ms",
    "jitter_ms_p95": "jitter p95, ms",
    "rtt_ms_p50": "rtt p50, ms",
    "rtt_ms_p95": "rtt p95, ms",
    "grounded_pct": "codec grounded, %",
}
_WORST: Final = {
    "ts": "time",
    "call_id": "Call-ID",
    "leg": "leg",
    "direction": "direction",
    "r_factor": "R",
    "band": "users are",
    "mos": "MOS",
    "mos_method": "method",
    "loss_pct": "loss, %",
    "jitter_ms": "jitter, ms",
    "rtt_ms": "rtt, ms",
    "codec": "codec",
    "trunk": "trunk",
    "seconds": "length, s",
    "flags": "flags",
}
_JOINED: Final = {"what": "", "reason": "reason", "calls": "calls"}
_DECIMALS: Final = {"mos": 2, "loss": 2, "r": 1, "jitter": 1, "rtt": 1, "grounded": 0, "seconds": 0}
_STYLE: Final = (
    "body{font:14px system-ui,sans-serif;margin:2em;color:#222}table{border-collapse:collapse;margin:.5em 0 2em}"
    "th,td{padding:.2em .7em;text-align:right;border-bottom:1px solid #ddd}th{font-weight:600}"
    "td:first-child,th:first-child,td.t{text-align:left}tr.bad td{background:#fde8e8}tr.poor td{background:#fff5dc}"
)


def day_to_report(settings: QualitySettings, now: datetime) -> date | None:
    """The day whose report is due and not there; None when there is nothing to do."""
    if settings.report_dir is None:
        return None
    local = now.astimezone(ZoneInfo(settings.report_zone))
    if local.time() < time_of_day.fromisoformat(settings.report_at):
        return None
    day = local.date() - timedelta(days=1)
    return None if (settings.report_dir / f"quality-{day}.html").exists() else day


def write_report(source: Source, day: date, zone: str, folder: Path) -> list[Path]:
    """Write the report of `day` in `zone` into `folder` and return its files. Raises OSError, duckdb.Error."""
    midnight = datetime.combine(day, time_of_day(), ZoneInfo(zone))
    since, until = midnight, datetime.combine(day + timedelta(days=1), time_of_day(), ZoneInfo(zone))
    figures = {
        by: queries.figures(source, by=by, since=since, until=until, zone=zone) for by in queries.GROUPINGS
    }
    worst = queries.worst(source, since=since, until=until, limit=WORST)
    for row in worst:
        row["ts"] = row["ts"].astimezone(ZoneInfo(zone)).strftime("%H:%M:%S")
    joined = queries.join_counts(source, since=since, until=until)
    folder.mkdir(parents=True, exist_ok=True)
    every = [row for rows in figures.values() for row in rows]
    texts = {  # the page last: it says that the report is there
        f"quality-{day}.csv": _csv(every, ["by", *_FIGURES]),
        f"quality-{day}-worst.csv": _csv(worst, list(_WORST)),
        f"quality-{day}.html": _page(day, zone, figures, worst, joined),
    }
    written = []
    for name, text in texts.items():
        fresh = folder / f".{name}.new"
        fresh.write_text(text, encoding="utf-8")
        written.append(fresh.replace(folder / name))
    return written


# -- CSV -------------------------------------------------------------------------------------------------


def _csv(rows: Sequence[Row], columns: Sequence[str]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows([_safe(row[column]) for column in columns] for row in rows)
    return text.getvalue()


def _safe(value: Any) -> Any:
    """Empty for unknown; a spreadsheet must not take what came from the wire for a formula."""
    if isinstance(value, str) and value[:1] in {"=", "+", "-", "@"} and value != "-":
        return "'" + value
    return "" if value is None else value


# -- HTML ------------------------------------------------------------------------------------------------


def _page(day: date, zone: str, figures: dict[str, list[Row]], worst: list[Row], joined: list[Row]) -> str:
    titles = {"all": "All calls", "trunk": "By trunk", "codec": "By codec", "ua": "By User-Agent"}
    titles |= {"account": "By account", "hour": "By hour", "network": "By network"}
    parts = [f"<h2>{titles[by]}</h2>{_table(rows, _FIGURES)}" for by, rows in figures.items()]
    parts.append(f"<h2>Worst directions</h2>{_table(worst, _WORST)}")
    parts.append(f"<h2>Calls and CDRs</h2>{_table(joined, _JOINED)}")
    notes = (
        "Each leg counts twice: incoming is from the phone to the switch, outgoing the other way. R and MOS are "
        "estimates of the E-model (ITU-T G.107) from loss, delay and codec; MOS is that of the R beside it. "
        "Percentile 5 is what the worst twentieth falls below. A dash is not known, never zero."
    )
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Voice quality {day}</title>"
        f"<style>{_STYLE}</style><h1>Voice quality, {day} ({escape(zone)})</h1><p>{notes}</p>"
        f"{''.join(parts)}</html>\n"
    )


def _table(rows: Sequence[Row], columns: dict[str, str]) -> str:
    if not rows:
        return "<p>None.</p>"
    head = "".join(f"<th>{escape(title)}</th>" for title in columns.values())
    body = "".join(
        f"<tr{_shade(row)}>{''.join(_cell(column, row[column]) for column in columns)}</tr>" for row in rows
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _shade(row: Row) -> str:
    """By the band of R; the words, or the figures, say the same."""
    r = row.get("r_factor", row.get("r_p5"))
    words = "" if r is None else band(r)
    if words in {"not recommended", "nearly all dissatisfied"}:
        return " class=bad"
    return " class=poor" if words in {"many dissatisfied", "some dissatisfied"} else ""


def _cell(column: str, value: Any) -> str:
    if value is None:
        return "<td>-</td>"
    if isinstance(value, int | float) and not isinstance(value, bool):
        return f"<td>{value:.{_DECIMALS.get(column.partition('_')[0], 0)}f}</td>"
    return f"<td class=t>{escape(str(value))}</td>"
