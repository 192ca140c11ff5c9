"""The table of calls: what its columns are called, how their values are written, and the same as a CSV file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final, cast
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st

from app import look
from app.config import settings
from app.export import csv_lines
from pipeline.api import calls as api
from pipeline.api.opened import Store
from pipeline.ladder import printable
from pipeline.privacy import mask_frame

LABELS: Final = {
    "first_ts": "time",
    "from": "from",
    "to": "to",
    "state": "state",
    "remarks": "remarks",
    "final_status": "final reply",
    "pdd_ms": "PDD",
    "ring_ms": "ring",
    "talk_ms": "talk",
    "r_factor": "R",
    "mos": "MOS",
    "loss_pct": "loss",
    "codec": "codec",
    "trunk": "trunk",
    "user_agent": "User-Agent",
    "call_id": "Call-ID",
}
"""Columns, and their headings."""

SORTABLE: Final = frozenset(LABELS) - {"remarks"}
PAGE_ROWS = 50
MOST_EXPORTED: Final = 500_000

_RIGHT: Final = frozenset({"pdd_ms", "ring_ms", "talk_ms", "r_factor", "mos", "loss_pct"})
_WIDTHS: Final = {"first_ts": 165, "state": 90, "user_agent": 180, "call_id": 220}
_HELP: Final = {
    "pdd_ms": "Post-dial delay: INVITE to the first 18x",
    "ring_ms": "First 18x to the answer or the end",
    "talk_ms": "Answer to BYE",
    "r_factor": "R factor of the worst direction (ITU-T G.107)",
    "mos": "MOS of the worst direction; ~: rated by a stand-in for the codec. Its page tells the method.",
    "loss_pct": "Packet loss of the worst direction",
    "trunk": "Of the CDR; without one the switch's endpoint",
}
_WORDS: Final = {"one_way": "one-way", "no_rtp": "no RTP", "canceled": "cancelled"}
_EXPORTED: Final = (
    *(
        "first_ts",
        "last_ts",
        "call_id",
        "from",
        "from_display",
        "from_host",
        "to",
        "to_host",
        "state",
        "ghost",
    ),
    *(
        "final_status",
        "final_reason",
        "srd_ms",
        "pdd_ms",
        "ring_ms",
        "talk_ms",
        "codec",
        "user_agent",
        "trunk",
    ),
    *("account", "r_factor", "mos", "mos_method", "grounded", "loss_pct", "jitter_ms", "rtt_ms", "media"),
    *("messages", "legs", "src_ip", "dst_ip", "node"),
)
_BATCH_ROWS: Final = 20_000


def written(calls: pd.DataFrame, zone: ZoneInfo) -> pd.DataFrame:
    """The table as text, in the columns of `LABELS`; what is not known is a dash."""
    records = cast("list[dict[str, Any]]", calls.to_dict("records"))
    rows = [_row(record, zone) for record in records]
    return pd.DataFrame(rows, columns=list(LABELS), dtype="str")


def _row(call: dict[str, Any], zone: ZoneInfo) -> dict[str, str]:
    def text(column: str) -> str:
        return look.MISSING if look.missing(call[column]) else printable(call[column])

    state, media = text("state"), text("media")
    remarks = ["ghost call"] * bool(call["ghost"]) + [_WORDS.get(media, media)] * (media != look.MISSING)
    status = look.number(call["final_status"]).replace(",", "")
    reason = "" if look.missing(call["final_reason"]) else f" {text('final_reason')}"
    guessed = not look.missing(call["grounded"]) and not call["grounded"]
    return {
        "first_ts": look.time(call["first_ts"], zone),
        "from": text("from"),
        "to": text("to"),
        "state": _WORDS.get(state, state).replace("_", " "),
        "remarks": ", ".join(remarks),
        "final_status": status + reason,
        "pdd_ms": look.length(call["pdd_ms"]),
        "ring_ms": look.length(call["ring_ms"]),
        "talk_ms": look.length(call["talk_ms"]),
        "r_factor": look.r_factor(call["r_factor"]),
        "mos": ("~" if guessed else "") + look.mos(call["mos"]),
        "loss_pct": look.percent(call["loss_pct"]),
        **{column: text(column) for column in ("codec", "trunk", "user_agent", "call_id")},
    }


def columns(sort: str) -> dict[str, Any]:
    """How Streamlit shows them; the one that is sorted by has an arrow."""
    arrow = {sort.lstrip("-"): " ↓" if sort.startswith("-") else " ↑"}
    return {
        column: st.column_config.TextColumn(
            label + arrow.get(column, ""),
            help=_HELP.get(column),
            width=_WIDTHS.get(column),
            alignment="right" if column in _RIGHT else None,
        )
        for column, label in LABELS.items()
    }


def as_csv(store: Store, search: str, span: dict[str, Any], sort: str, zone: ZoneInfo) -> bytes:
    """Every call that the search finds, up to `MOST_EXPORTED`, read in batches; times in `zone`."""
    found = api.calls(search, **span, sort=sort, limit=MOST_EXPORTED, relation=True, store=store)

    def frames() -> Iterator[pd.DataFrame]:
        for batch in found.to_arrow_reader(_BATCH_ROWS):
            frame = batch.to_pandas()
            for column in ("first_ts", "last_ts"):
                frame[column] = frame[column].dt.tz_convert(zone)
            yield mask_frame(frame) if settings().app.mask_numbers else frame

    return csv_lines(frames(), _EXPORTED)
