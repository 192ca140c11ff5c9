"""The tables of the page Quality, as they are written there; what is made of little is grey, and says so."""

from __future__ import annotations

from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st
from pandas.io.formats.style import Styler

from app import look
from pipeline.api.quality import FEW
from pipeline.ladder import printable
from pipeline.protocols.emodel import band
from pipeline.store.heard_queries import ENOUGH_PACKETS

_GREY: Final = f"color: {look.GREY}; font-style: italic"


def ranked(table: pd.DataFrame) -> pd.DataFrame:
    """A breakdown with the rows that are made of few directions behind the others."""
    few = table["enough"].fillna(0) < FEW
    return pd.concat([table[~few], table[few]]).reset_index(drop=True)


def breakdown(table: pd.DataFrame, of: str) -> Styler:
    """Figures of each key."""
    few = list(table["enough"].fillna(0) < FEW)
    written = pd.DataFrame(
        {
            of: ["(not known)" if key == "-" else printable(key) for key in table["key"]],
            "R p5": table["r_p5"].map(look.r_factor),
            "MOS p5": table["mos_p5"].map(look.mos),
            "users are": [_words(r, pale) for r, pale in zip(table["r_p5"], few, strict=True)],
            "R p50": table["r_p50"].map(look.r_factor),
            "MOS p50": table["mos_p50"].map(look.mos),
            "loss p95": table["loss_pct_p95"].map(look.percent),
            "jitter p95": table["jitter_ms_p95"].map(look.milliseconds),
            "round trip p95": table["rtt_ms_p95"].map(look.milliseconds),
            "calls": table["calls"].map(look.number),
            "directions": table["rated"].map(look.number),
            "not rated": table["unrated"].map(look.number),
            "grounded": [look.number(share, 0, "%") for share in table["grounded_pct"]],
        }
    )
    return _greyed(written, few)


def breakdown_columns(of: str) -> dict[str, Any]:
    """How the columns of `breakdown` are laid out."""
    column = st.column_config.TextColumn
    return {
        of: column(of, width="medium"),
        "users are": column("users are", help="What users say at percentile 5 of R (ITU-T G.109)"),
        "directions": column("directions", help="Of legs, with an R; a leg counts once each way"),
        "not rated": column("not rated", help="Directions of which too little is known"),
        "grounded": column(
            "grounded", help="Directions whose codec has a published impairment; else a stand-in"
        ),
        **{
            name: column(name, alignment="right")
            for name in (
                "R p5",
                "MOS p5",
                "R p50",
                "MOS p50",
                "loss p95",
                "jitter p95",
                "round trip p95",
                "calls",
            )
        },
    }


def worst(table: pd.DataFrame, zone: ZoneInfo) -> Styler:
    """Calls with their worst direction."""
    few = [not enough for enough in _enough(table)]
    written = pd.DataFrame(
        {
            "time": [look.time(ts, zone) for ts in table["ts"]],
            "from": [_text(value) for value in table["from_user"]],
            "to": [_text(value) for value in table["to_user"]],
            "R": table["r_factor"].map(look.r_factor),
            "MOS": [
                ("" if grounded is True or look.missing(mos) else "~") + look.mos(mos)
                for mos, grounded in zip(table["mos"], table["grounded"].astype(object), strict=True)
            ],
            "users are": table["band"],
            "length": [look.length(None if look.missing(s) else 1000 * s) for s in table["seconds"]],
            "sample": [
                _sample(due, reports) for due, reports in zip(table["due"], table["reports"], strict=True)
            ],
            "loss": table["loss_pct"].map(look.percent),
            "jitter": table["jitter_ms"].map(look.milliseconds),
            "round trip": table["rtt_ms"].map(look.milliseconds),
            "codec": [_text(value) for value in table["codec"]],
            "trunk": [_text(value) for value in table["trunk"]],
            "direction": [f"{leg} {way}" for leg, way in zip(table["leg"], table["direction"], strict=True)],
            "remarks": [_text(value) for value in table["flags"]],
            "source": table["source"],
            "method": table["mos_method"],
        }
    )
    return _greyed(written, few)


_COLUMN: Final = st.column_config.TextColumn
WORST_COLUMNS: Final[dict[str, Any]] = {
    "MOS": _COLUMN(
        "MOS", help="~: the codec has no published impairment, a stand-in was taken", alignment="right"
    ),
    "sample": _COLUMN("sample", help="Packets that were due in this direction, or RTCP reports"),
    "direction": _COLUMN("direction", help="Leg, and way: incoming is from the phone to the switch"),
    **{name: _COLUMN(name, alignment="right") for name in ("R", "length", "loss", "jitter", "round trip")},
}


def methods(table: pd.DataFrame) -> pd.DataFrame:
    """How each MOS was made."""
    return pd.DataFrame(
        {
            "method": table["mos_method"],
            "kind": table["kind"],
            "codec": [_text(value) for value in table["codec"]],
            "Ie": [look.number(value, 0) for value in table["ie"]],
            "Bpl": [look.number(value, 1) for value in table["bpl"]],
            "published": [
                "yes" if grounded is True else "no, stand-in" for grounded in table["grounded"].astype(object)
            ],
            "basis": [_text(value) for value in table["basis"]],
            "source": table["source"],
            "directions": table["directions"].map(look.number),
            "with enough packets": table["enough"].map(look.number),
        }
    )


def _enough(table: pd.DataFrame) -> list[bool]:
    return [
        (not look.missing(reports) and reports >= 2) or (not look.missing(due) and due >= ENOUGH_PACKETS)
        for due, reports in zip(table["due"], table["reports"], strict=True)
    ]


def _sample(due: Any, reports: Any) -> str:
    if not look.missing(due):
        return f"{due:,} packets"
    return look.MISSING if look.missing(reports) else f"{reports:,} reports"


def _words(r: Any, few: bool) -> str:
    if look.missing(r):
        return look.MISSING
    return "too few to tell" if few else band(r)


def _text(value: Any) -> str:
    return look.MISSING if look.missing(value) or value == "" else printable(value)


def _greyed(written: pd.DataFrame, grey: list[bool]) -> Styler:
    return written.style.apply(lambda row: [_GREY if grey[row.name] else ""] * len(row), axis=1)
