"""The quality of one call: a line for each leg and direction, its RTCP reports over time, its CDRs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

import altair as alt
import pandas as pd
import streamlit as st

from app import look
from pipeline.ladder import printable
from pipeline.palette import BLUE, ORANGE, TEAL, VIOLET
from pipeline.protocols.emodel import band

Row = Mapping[str, Any]

_SERIES = {"a incoming": BLUE, "a outgoing": TEAL, "b incoming": ORANGE, "b outgoing": VIOLET}
_MEASURES = {"loss_pct": "loss, %", "jitter_ms": "jitter, ms", "rtt_ms": "round trip, ms"}


def strip(legs: Sequence[Row], *, every_source: bool) -> None:
    """One line a leg and direction: what is believed, or what every source says."""
    shown = [row for row in legs if every_source or row["best"]]
    st.dataframe(
        pd.DataFrame([_line(row) for row in shown]),
        key="call_quality",
        hide_index=True,
        height="content",
        column_config={"R": st.column_config.Column(help="R factor of ITU-T G.107; MOS is made of it")},
    )


def _line(row: Row) -> dict[str, str]:
    """What is not known is a dash."""
    cq = row["mos_cq"] is not None
    value = row["mos_cq"] if cq else row["mos_lq"]
    sample = f"{row['reports']} reports" if row["reports"] else f"{look.number(row['packets'])} packets"
    return {
        "leg": row["leg"],
        "direction": row["direction"],
        "R": look.r_factor(row["r_factor"]),
        "users": look.MISSING if row["r_factor"] is None else band(row["r_factor"]),
        "MOS": look.MISSING if value is None else f"{value:.2f} {'CQ' if cq else 'LQ'}",
        "made by": _method(row),
        "sample": sample,
        "loss": look.percent(row["loss_pct"]),
        "jitter": look.milliseconds(row["jitter_ms"]),
        "jitter max": look.milliseconds(row["jitter_max_ms"]),
        "round trip": look.milliseconds(row["rtt_ms"]),
        "codec": printable(row["codec"] or look.MISSING),
        "source": printable(
            " ".join(part for part in (row["source"], row["endpoint"] or row["peer_ip"]) if part)
        ),
        "flags": row["flags"] or "",
    }


def _method(row: Row) -> str:
    if row["r_factor"] is None:
        return look.MISSING
    return f"{row['mos_method'] or look.MISSING}{'' if row['grounded'] else ', by a stand-in'}"


def over_time(reports: Sequence[Row], zone: ZoneInfo) -> None:
    """Loss, jitter and round trip as each report tells them, a line a leg and direction."""
    st.altair_chart(
        reports_chart(reports, zone), key="call_reports", width="stretch", alt="RTCP reports over time"
    )


def reports_chart(reports: Sequence[Row], zone: ZoneInfo) -> alt.VConcatChart:
    """Three small charts with one time axis. Times are shown as the clock of `zone` has them."""
    frame = pd.DataFrame(reports)
    frame["series"] = frame["leg"] + " " + frame["direction"]
    frame["at"] = frame["ts"].dt.tz_convert(zone).dt.tz_localize(None)
    names = [name for name in _SERIES if name in set(frame["series"])]
    colour = alt.Color(
        "series:N",
        title=None,
        scale=look.colours(names, _SERIES),
        legend=alt.Legend(orient="top", symbolSize=60),
    )
    charts = [
        alt.Chart(frame.dropna(subset=[column])[["at", "series", column]])
        .mark_line(point=alt.OverlayMarkDef(size=30), strokeWidth=1.5)
        .encode(
            alt.X("at:T", title=None, axis=alt.Axis(format="%H:%M:%S", labels=column == "rtt_ms")),
            alt.Y(f"{column}:Q", title=None, axis=alt.Axis(tickCount=3, minExtent=34)),
            colour,
            shape=alt.Shape("series:N", title=None),
            tooltip=[
                alt.Tooltip("at:T", format="%H:%M:%S", title="at"),
                "series:N",
                alt.Tooltip(f"{column}:Q", format=".2f"),
            ],
        )
        .properties(
            height=80, width="container", title=alt.Title(title, anchor="start", fontSize=12, offset=4)
        )
        for column, title in _MEASURES.items()
    ]
    stacked: alt.VConcatChart = alt.vconcat(*charts, spacing=4).resolve_scale(x="shared")
    return stacked


def cdrs(rows: Sequence[Row], zone: ZoneInfo) -> None:
    """What the switch billed."""
    table = [
        {
            "source": printable(row["source"]),
            "start": look.time(row["start_ts"], zone),
            "disposition": row["disposition"] or look.MISSING,
            "duration": look.length(row["duration_ms"]),
            "billed": look.length(row["billsec_ms"]),
            "from": printable(row["src"] or look.MISSING),
            "to": printable(row["dst"] or look.MISSING),
            "account": printable(row["accountcode"] or look.MISSING),
            "channel": printable(row["channel"] or look.MISSING),
            "to channel": printable(row["dst_channel"] or look.MISSING),
            "rows": row["cdr_rows"],
        }
        for row in rows
    ]
    st.dataframe(pd.DataFrame(table), key="call_cdrs", hide_index=True, height="content")
