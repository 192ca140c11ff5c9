"""Charts of the tap's health: pure functions from the tables of `pipeline.api.health` to Altair charts."""

from __future__ import annotations

from datetime import tzinfo
from typing import Final

import altair as alt
import pandas as pd

from app import look, registration_charts

FATES: Final = {
    "stored": ("stored", look.BLUE),
    "queued": ("queued", look.GREY),
    "rejected": ("rejected", look.AMBER),
    "shed": ("shed", look.RED),
    "kernel_dropped": ("dropped by the kernel", look.VIOLET),
}
"""What becomes of messages: words and colour."""
_BAR_PX: Final = 26


def intake(rate: pd.DataFrame, zone: tzinfo) -> alt.Chart:
    """Messages stored, rejected and lost over time, stacked."""
    series = {name: told for name, told in FATES.items() if name != "queued"}
    return registration_charts.stacked(rate, series, "messages", zone)


def fates(counters: pd.DataFrame) -> alt.Chart:
    """One bar, as long as what was received, cut into what became of it."""
    drawn = counters[counters["fate"].isin(list(FATES)) & (counters["messages"] > 0)]
    scale = alt.Scale(domain=list(FATES), range=[colour for _, colour in FATES.values()])
    return (
        alt.Chart(drawn)
        .mark_bar(height=_BAR_PX)
        .encode(
            x=alt.X("messages:Q", title=None, stack="zero", scale=alt.Scale(nice=False), axis=None),
            color=alt.Color("fate:N", scale=scale, legend=None),
            order=alt.Order("rank:Q"),
            tooltip=["fate:N", alt.Tooltip("messages:Q", format=",")],
        )
        .transform_calculate(rank=f"indexof({list(FATES)!r}, datum.fate)")
        .properties(height=_BAR_PX)
    )
