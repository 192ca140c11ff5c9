"""Charts of voice quality: pure functions from the tables of `pipeline.api.quality` to Altair charts.

R is drawn with the words of its bands (ITU-T G.109); percentiles differ by dash as well as by colour, and what is made
of few directions is drawn hollow.
"""

from __future__ import annotations

from datetime import tzinfo
from typing import Final

import altair as alt
import pandas as pd

from app import look
from app.registration_charts import clock_ms, time_axis
from pipeline.api.quality import FEW
from pipeline.protocols.emodel import band as emodel_band
from pipeline.store.heard_queries import band_limits

HEIGHT_PX: Final = 260
WEEKDAYS: Final = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")

LIMITS: Final[dict[str, tuple[str, str, float, float]]] = {
    "loss_pct": ("packet loss", "%", 1, 3),
    "jitter_ms": ("jitter", "ms", 30, 50),
    "rtt_ms": ("round trip", "ms", 300, 600),
}
"""Of each figure: name, unit, up to where it is good, and up to where it is fair (G.114, and common practice)."""

_GRADES: Final = {"good": look.GREEN, "fair": look.AMBER, "poor": look.RED}
_DASHES: Final = {"p95": [2, 2], "p50": [1, 0], "p5": [6, 3]}
_LINE: Final = "#7d8894"
_HOLLOW: Final = "transparent"
_CELL_PX: Final = 17
_BAR_PX: Final = 22
_NAME_PX: Final = 220
_WORDS_PX: Final = 130
_WIDEST_R: Final = (50.0, 100.0)


def over_time(table: pd.DataFrame, zone: tzinfo) -> alt.LayerChart:
    """Percentiles 5, 50 and 95 of R in steps of time, over the bands of R."""
    drawn = _with_gaps(table, zone)
    low = _lowest(table["r_p5"])
    long = drawn.melt(
        id_vars=["at", "when", "rated", "few", "mos_p5", "mos_p50", "mos_p95"],
        value_vars=["r_p95", "r_p50", "r_p5"],
        var_name="percentile",
        value_name="r",
    )
    long["percentile"] = long["percentile"].str.removeprefix("r_")
    long["fill"] = long["percentile"].map(look.PERCENTILES).mask(long["few"], _HOLLOW)
    base = alt.Chart(long).encode(
        x=time_axis(),
        y=_r_axis("r:Q", low),
        color=alt.Color(
            "percentile:N",
            scale=look.colours(list(_DASHES), look.PERCENTILES),
            legend=alt.Legend(symbolType="stroke", symbolStrokeWidth=2, symbolSize=400),
        ),
        tooltip=[
            alt.Tooltip("when:N", title="from"),
            "percentile:N",
            alt.Tooltip("r:Q", title="R", format=".1f"),
            alt.Tooltip("rated:Q", title="directions", format=","),
            *(
                alt.Tooltip(f"mos_{share}:Q", title=f"MOS {share}", format=".2f")
                for share in ("p5", "p50", "p95")
            ),
        ],
    )
    dash = alt.StrokeDash(
        "percentile:N",
        scale=alt.Scale(domain=list(_DASHES), range=list(_DASHES.values())),
        legend=alt.Legend(),
    )
    lines = base.mark_line(strokeWidth=2).encode(strokeDash=dash)
    points = base.mark_point(size=28, strokeWidth=1.5).encode(
        y=_r_axis("r:Q", low, shown=False),
        fill=look.as_it_is(alt.Fill, "fill"),
    )
    spread = (
        alt.Chart(drawn)
        .mark_area(color=look.BLUE, opacity=0.12)
        .encode(x=time_axis(), y=_r_axis("r_p5:Q", low), y2="r_p95:Q")
    )
    drawn_in = alt.layer(*_bands_behind(low), spread, lines, points).resolve_axis(y="independent")
    return drawn_in.properties(height=HEIGHT_PX)


def bands(table: pd.DataFrame) -> alt.LayerChart:
    """How many directions lie in each band of R, the best above."""
    drawn = table.assign(
        label=[f"{band} (R {_range(band)})" for band in table["band"]],
        told=[
            f"{look.number(count)} ({look.number(share, 1, '%')})"
            for count, share in zip(table["directions"], table["share_pct"], strict=True)
        ],
    )
    base = alt.Chart(drawn).encode(
        x=alt.X(
            "directions:Q", title="directions of legs", axis=alt.Axis(tickMinStep=1, format=",d", tickCount=5)
        ),
        y=alt.Y("label:N", sort=None, title=None, axis=alt.Axis(labelLimit=_NAME_PX, labelOverlap=False)),
        tooltip=["band:N", alt.Tooltip("told:N", title="directions")],
    )
    bars = base.mark_bar().encode(
        color=alt.Color("band:N", scale=look.colours(list(look.BANDS), look.BANDS), legend=None)
    )
    told = base.mark_text(align="left", dx=4, color=_LINE).encode(text="told:N")
    return alt.layer(bars, told).properties(height=alt.Step(_BAR_PX + 6))


def spread(table: pd.DataFrame, figure: str) -> alt.Chart:
    """How many directions had how much of `figure` (of `LIMITS`): a bar for each step, coloured and named by grade."""
    name, unit, good, fair = LIMITS[figure]
    rows = table[table["figure"] == figure]
    drawn = rows.assign(
        step=[_step(low, high) for low, high in zip(rows["low"], rows["high"], strict=True)],
        grade=["good" if high <= good else "fair" if high <= fair else "poor" for high in rows["high"]],
    )
    return (
        alt.Chart(drawn)
        .mark_bar(strokeWidth=0)
        .encode(
            x=alt.X(
                "step:N",
                sort=None,
                title=f"{name}, {unit}",
                axis=alt.Axis(labelAngle=-45, labelOverlap=False),
            ),
            y=alt.Y("share_pct:Q", title="% of directions", axis=alt.Axis(tickCount=5)),
            color=alt.Color("grade:N", scale=look.colours(list(_GRADES), _GRADES), legend=alt.Legend()),
            tooltip=[
                alt.Tooltip("step:N", title=f"{name}, {unit}"),
                alt.Tooltip("directions:Q", format=","),
                alt.Tooltip("share_pct:Q", title="share, %", format=".2f"),
                "grade:N",
            ],
        )
        .properties(height=250)
    )


def by_hour(table: pd.DataFrame) -> alt.LayerChart:
    """Percentile 5 of R by hour and weekday, written into each cell; of few directions pale and in brackets."""
    known = table.dropna(subset=["r_p5"])
    few = known["rated"] < FEW
    drawn = known.assign(
        day=[WEEKDAYS[day - 1] for day in known["weekday"]],
        from_=[f"{hour:02d}" for hour in known["hour"]],
        band=[emodel_band(r) for r in known["r_p5"]],
        few=few,
        told=[f"({r:.0f})" if pale else f"{r:.0f}" for r, pale in zip(known["r_p5"], few, strict=True)],
        opacity=few.map({True: 0.35, False: 0.95}),
        ink=few.map({True: _LINE, False: "white"}),
    )
    hours = [f"{hour:02d}" for hour in range(24)]
    base = alt.Chart(drawn).encode(
        x=alt.X("day:N", sort=list(WEEKDAYS), scale=alt.Scale(domain=list(WEEKDAYS)), title=None,
                axis=alt.Axis(orient="top", labelAngle=0, domain=False, ticks=False)),
        y=alt.Y("from_:N", sort=hours, scale=alt.Scale(domain=hours), title="hour of the day",
                axis=alt.Axis(labelOverlap=False, domain=False, ticks=False)),
        tooltip=[
            "day:N",
            alt.Tooltip("from_:N", title="hour"),
            alt.Tooltip("r_p5:Q", title="R p5", format=".1f"),
            alt.Tooltip("mos_p5:Q", title="MOS p5", format=".2f"),
            alt.Tooltip("r_p50:Q", title="R p50", format=".1f"),
            alt.Tooltip("rated:Q", title="directions", format=","),
        ],
    )  # fmt: skip
    cells = base.mark_rect(stroke=_LINE, strokeOpacity=0.15).encode(
        color=alt.Color(
            "band:N",
            scale=look.colours(list(look.BANDS), look.BANDS),
            legend=alt.Legend(columns=2, symbolOpacity=1, symbolStrokeWidth=0),
        ),
        opacity=look.as_it_is(alt.Opacity, "opacity", "Q"),
    )
    told = base.mark_text(fontSize=11).encode(text="told:N", color=look.as_it_is(alt.Color, "ink"))
    return alt.layer(cells, told).properties(height=alt.Step(_CELL_PX))


def by_key(table: pd.DataFrame, most: int = 15) -> alt.LayerChart:
    """R of each key, the worst above: a bar from percentile 5 to 95, a point at 50; hollow where it is made of few."""
    known = table.dropna(subset=["r_p5"]).head(most)
    few = known["enough"] < FEW
    drawn = known.assign(
        key=known["key"].map(look.printable),
        opacity=few.map({True: 0.25, False: 0.5}),
        fill=few.map({True: _HOLLOW, False: look.BLUE}),
    )
    low = _lowest(known["r_p5"])
    base = alt.Chart(drawn).encode(
        y=alt.Y("key:N", sort=None, title=None, axis=alt.Axis(labelLimit=_NAME_PX, labelOverlap=False)),
        tooltip=[
            alt.Tooltip("key:N", title="of"),
            *(
                alt.Tooltip(f"r_{share}:Q", title=f"R {share}", format=".1f")
                for share in ("p5", "p50", "p95")
            ),
            alt.Tooltip("rated:Q", title="directions", format=","),
            alt.Tooltip("calls:Q", format=","),
        ],
    )
    scale = alt.Scale(domain=[low, 100], nice=False, clamp=True)
    rules = alt.Chart(pd.DataFrame({"r": _inner_limits(low)})).mark_rule(
        color=_LINE, opacity=0.45, strokeDash=[2, 4]
    )
    title = "R: bar from percentile 5 to 95, point at 50"
    axis = alt.Axis(grid=False, values=[low, *_inner_limits(low), 100])
    span = base.mark_bar(size=9, color=look.BLUE).encode(
        x=alt.X("r_p5:Q", title=title, scale=scale, axis=axis),
        x2="r_p95:Q",
        opacity=look.as_it_is(alt.Opacity, "opacity", "Q"),
    )
    middle = base.mark_point(size=70, strokeWidth=2, color=look.BLUE, opacity=1).encode(
        x=alt.X("r_p50:Q", title=title, scale=scale, axis=axis),
        fill=look.as_it_is(alt.Fill, "fill"),
    )
    return alt.layer(
        rules.encode(x=alt.X("r:Q", title=title, scale=scale, axis=axis)), span, middle
    ).properties(height=alt.Step(_BAR_PX))


def reasons(table: pd.DataFrame) -> alt.LayerChart:
    """How many calls have quality, and why the others have none."""
    drawn = table.assign(
        told=[look.number(calls) for calls in table["calls"]],
        kind=["has quality" if why == "rated" else "has none" for why in table["why"]],
    )
    base = alt.Chart(drawn).encode(
        x=alt.X("calls:Q", title="calls", axis=alt.Axis(tickMinStep=1, format=",d", tickCount=5)),
        y=alt.Y("why:N", sort=None, title=None, axis=alt.Axis(labelLimit=300, labelOverlap=False)),
        tooltip=["why:N", alt.Tooltip("calls:Q", format=",")],
    )
    bars = base.mark_bar().encode(
        color=alt.Color(
            "kind:N",
            scale=alt.Scale(domain=["has quality", "has none"], range=[look.TEAL, look.GREY]),
            legend=None,
        )
    )
    told = base.mark_text(align="left", dx=4, color=_LINE).encode(text="told:N")
    return alt.layer(bars, told).properties(height=alt.Step(_BAR_PX))


# -- R and its bands -------------------------------------------------------------------------------------


def _r_axis(field: str, low: float, *, shown: bool = True) -> alt.Y:
    axis = alt.Axis(values=[*_inner_limits(low), low, 100], grid=False, orient="left") if shown else None
    scale = alt.Scale(domain=[low, 100], nice=False, clamp=True)
    return alt.Y(field, title="R factor" if shown else None, scale=scale, axis=axis)


def _bands_behind(low: float) -> list[alt.Chart]:
    """Where each band begins, and its words at the right."""
    limits = band_limits()
    tops = [100.0, *limits.values()]
    rows = pd.DataFrame(
        [
            {"from": max(r_from, low), "middle": (max(r_from, low) + top) / 2, "band": band}
            for (band, r_from), top in zip(limits.items(), tops, strict=False)
            if top > low
        ]
    )
    scale = alt.Scale(domain=[low, 100], nice=False, clamp=True)
    base = alt.Chart(rows)
    edges = base.mark_rule(color=_LINE, opacity=0.5, strokeDash=[2, 4]).encode(
        y=alt.Y("from:Q", scale=scale, axis=None)
    )
    words = alt.Axis(
        orient="right",
        values=list(rows["middle"]),
        labelExpr=f"{dict(zip(rows['middle'], rows['band'], strict=True))!r}[datum.value]",
        labelLimit=_WORDS_PX,
        domain=False,
        ticks=False,
        grid=False,
        title=None,
    )
    named = base.mark_point(opacity=0).encode(
        y=alt.Y("middle:Q", scale=scale, axis=words), tooltip=alt.TooltipValue(None)
    )
    return [edges, named]


def _lowest(values: pd.Series) -> float:
    """Where an axis of R begins: at a band, low enough for all values and never above 50."""
    least = values.min()
    return min(_WIDEST_R[0], 10.0 * (least // 10)) if pd.notna(least) else _WIDEST_R[0]


def _inner_limits(low: float) -> list[float]:
    return [limit for limit in band_limits().values() if limit > low]


def _range(band: str) -> str:
    limits = band_limits()
    names = list(limits)
    at = names.index(band)
    if at == 0:
        return f"from {limits[band]:.0f}"
    above = f"{limits[names[at - 1]]:.0f}"
    return f"below {above}" if at == len(names) - 1 else f"{limits[band]:.0f} to {above}"


# -- times and steps -------------------------------------------------------------------------------------


def _with_gaps(table: pd.DataFrame, zone: tzinfo) -> pd.DataFrame:
    """The steps as a clock in `zone` shows them; after a step that nothing follows, an empty one that ends the line."""
    columns = [f"{what}_{share}" for what in ("r", "mos") for share in ("p5", "p50", "p95")]
    known = table[["at", "rated", *columns]].assign(few=table["rated"].fillna(0) < FEW)
    step = pd.Timedelta(seconds=int(table["step_s"].iloc[0])) if len(table) else pd.Timedelta(hours=1)
    jumps = known["at"].diff().shift(-1) > 1.5 * step
    gaps = pd.DataFrame({"at": known.loc[jumps, "at"] + step, "rated": 0, "few": True})
    every = pd.concat([known, gaps]).sort_values("at") if len(gaps) else known
    form = "%Y-%m-%d"
    if step < pd.Timedelta(days=1):
        form += " %H:%M:%S" if step < pd.Timedelta(minutes=1) else " %H:%M"
    return every.assign(
        at=clock_ms(every["at"], zone), when=every["at"].dt.tz_convert(zone).dt.strftime(form)
    )


def _step(low: float, high: float) -> str:
    """`0`, `0.1-0.2`, `over 20`."""
    if high == float("inf"):
        return f"over {low:g}"
    if low in {0.0, float("-inf")}:
        return f"up to {high:g}" if high else "0"
    return f"{low:g}\N{EN DASH}{high:g}"
