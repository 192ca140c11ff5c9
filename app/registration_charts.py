"""Charts of registrations: pure functions from the tables of `pipeline.api.registrations` to Altair charts.

Vega knows the browser's zone and UTC only, so times are drawn as what a clock in the chosen zone shows, on a UTC axis.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import tzinfo
from typing import Final

import altair as alt
import pandas as pd

from app import look

CHANGES: Final = {
    "registered": look.GREEN,
    "moved": look.VIOLET,
    "removed": look.AMBER,
    "expired": look.RED,
}
"""What happens to bindings, but for refreshes, which would hide all else."""

REFUSALS: Final = {
    "unauthorized": ("401 / 407", look.AMBER),
    "forbidden": ("403", look.RED),
    "not_found": ("404", look.VIOLET),
    "other": ("other reply", look.BLUE),
    "unanswered": ("no reply", look.GREY),
}
"""How REGISTERs are refused: column, words, colour."""

HEIGHT_PX: Final = 180
_BAR_PX: Final = 20
_NAME_PX: Final = 260
# Vega's own labels have hours of twelve; a midnight shows its day.
_CLOCK: Final = (
    "utcFormat(datum.value, utchours(datum.value) + utcminutes(datum.value) + utcseconds(datum.value) == 0"
    " ? '%d %b' : utcseconds(datum.value) == 0 ? '%H:%M' : '%H:%M:%S')"
)


def registered(rate: pd.DataFrame, zone: tzinfo) -> alt.Chart:
    """Bindings over time, as a line over an area, in steps."""
    return (
        alt.Chart(wall_clock(rate, zone))
        .mark_area(
            color=look.BLUE,
            fillOpacity=0.25,
            interpolate="step-after",
            line={"color": look.BLUE, "strokeWidth": 1.5},
        )
        .encode(
            x=time_axis(),
            y=alt.Y("bindings:Q", title="bindings", axis=alt.Axis(tickMinStep=1, format=",d")),
            tooltip=[alt.Tooltip("when:N", title="from"), alt.Tooltip("bindings:Q", format=",")],
        )
        .properties(height=HEIGHT_PX)
    )


def changes(rate: pd.DataFrame, zone: tzinfo) -> alt.Chart:
    """What happened to bindings over time, stacked."""
    return stacked(rate, {name: (name, colour) for name, colour in CHANGES.items()}, "changes", zone)


def refusals(rate: pd.DataFrame, zone: tzinfo) -> alt.Chart:
    """Refused REGISTERs over time, stacked by how they were refused."""
    return stacked(rate, REFUSALS, "refused", zone)


def stacked(rate: pd.DataFrame, series: Mapping[str, tuple[str, str]], title: str, zone: tzinfo) -> alt.Chart:
    """Counts in steps of time, stacked; `series` is column -> words, colour."""
    words = {column: told for column, (told, _) in series.items()}
    long = wall_clock(rate, zone).melt(
        id_vars=["at", "until", "when"], value_vars=list(series), var_name="what", value_name="count"
    )
    ends = long["at"].isin([long["at"].min(), long["at"].max()])  # the axis is as long as the range
    long = long[(long["count"] > 0) | ends].assign(what=lambda frame: frame["what"].map(words))
    order = list(words.values())
    return (
        alt.Chart(long)
        .mark_bar(strokeWidth=0)
        .encode(
            x=time_axis(),
            x2="until",
            y=alt.Y("sum(count):Q", title=title, axis=alt.Axis(tickMinStep=1, format=",d")),
            color=alt.Color("what:N", scale=alt.Scale(domain=order, range=[c for _, c in series.values()])),
            order=alt.Order("rank:Q"),
            tooltip=[alt.Tooltip("when:N", title="from"), "what:N", alt.Tooltip("count:Q", format=",")],
        )
        .transform_calculate(rank=f"indexof({order!r}, datum.what)")
        .properties(height=HEIGHT_PX)
    )


def by_name(counts: pd.DataFrame, value: str, title: str) -> alt.LayerChart:
    """A bar for each `key` of `counts`, the longest first, its number beside it."""
    drawn = counts.assign(key=counts["key"].map(look.printable))
    base = alt.Chart(drawn).encode(
        x=alt.X(f"{value}:Q", title=title, axis=alt.Axis(tickMinStep=1, format=",d")),
        y=alt.Y("key:N", sort=None, title=None, axis=alt.Axis(labelLimit=_NAME_PX, labelOverlap=False)),
        tooltip=[alt.Tooltip("key:N", title="what"), alt.Tooltip(f"{value}:Q", format=",")],
    )
    bars = base.mark_bar(color=look.BLUE, opacity=0.75)
    told = base.mark_text(align="left", dx=4, color=look.GREY).encode(text=alt.Text(f"{value}:Q", format=","))
    return alt.layer(bars, told).properties(height=alt.Step(_BAR_PX))


def intervals(table: pd.DataFrame) -> alt.LayerChart:
    """Seconds between two refreshes by User-Agent: p5 to p95 as a bar, p50 as a point, what was asked for as a tick."""
    drawn = table.assign(key=table["user_agent"].map(look.printable))
    base = alt.Chart(drawn).encode(
        y=alt.Y("key:N", sort=None, title=None, axis=alt.Axis(labelLimit=_NAME_PX, labelOverlap=False)),
        tooltip=[
            alt.Tooltip("key:N", title="User-Agent"),
            *(
                alt.Tooltip(f"{column}:Q", title=title, format=",.0f")
                for column, title in (
                    ("interval_s_p5", "p5, s"),
                    ("interval_s_p50", "p50, s"),
                    ("interval_s_p95", "p95, s"),
                    ("expires_s_p50", "Expires, s"),
                )
            ),
        ],
    )
    seconds = alt.Scale(type="symlog", constant=10, domainMin=0)
    axis = alt.X("interval_s_p5:Q", title="seconds between two refreshes", scale=seconds)
    span = base.mark_bar(color=look.BLUE, opacity=0.4, size=8).encode(x=axis, x2="interval_s_p95:Q")
    middle = base.mark_point(color=look.BLUE, filled=True, size=60, opacity=1).encode(
        x=alt.X("interval_s_p50:Q", title="")
    )
    asked = base.mark_tick(color=look.RED, thickness=3, size=16).encode(x=alt.X("expires_s_p50:Q", title=""))
    return alt.layer(span, middle, asked).properties(height=alt.Step(_BAR_PX + 6))


# -- times -----------------------------------------------------------------------------------------------


def wall_clock(rate: pd.DataFrame, zone: tzinfo) -> pd.DataFrame:
    """The steps with `at` and `until` as a clock in `zone` shows them, and `when` for people."""
    step = rate["at"].diff().median() if len(rate) > 1 else pd.Timedelta(minutes=1)
    form = "%Y-%m-%d %H:%M:%S" if step < pd.Timedelta(minutes=1) else "%Y-%m-%d %H:%M"
    return rate.assign(
        at=clock_ms(rate["at"], zone),
        until=clock_ms(rate["at"] + step, zone),
        when=rate["at"].dt.tz_convert(zone).dt.strftime(form),
    )


def clock_ms(times: pd.Series, zone: tzinfo) -> pd.Series:
    """What clocks in `zone` show, as milliseconds of a UTC axis."""
    clock = times.dt.tz_convert(zone).dt.tz_localize(None)
    return (clock - pd.Timestamp(0)) / pd.Timedelta(milliseconds=1)


def time_axis() -> alt.X:
    """Time from left to right, as `wall_clock` made it."""
    axis = alt.Axis(labelExpr=_CLOCK, labelOverlap=True, tickCount=6)
    return alt.X("at:T", title=None, scale=alt.Scale(type="utc", nice=False), axis=axis)
