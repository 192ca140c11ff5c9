"""Charts of ghost calls: pure functions from the tables of `pipeline.api.findings` and `delays` to Altair charts."""

from __future__ import annotations

from datetime import tzinfo
from typing import Final

import altair as alt
import pandas as pd

from app import look
from app.registration_charts import clock_ms, time_axis

OUTCOMES: Final = {
    "canceled": ("caller gave up", look.ORANGE),
    "answered": ("answered elsewhere", look.BLUE),
    "declined": ("declined", look.VIOLET),
    "busy": ("busy", look.AMBER),
    "rejected": ("rejected", look.RED),
    "no_answer": ("nobody answered", look.TEAL),
}
"""How the lost call had ended: words, colour."""

_WOKEN: Final = {
    "in time": look.TEAL,
    "late": look.RED,
    "after the end": look.GREY,
}
_WORDS: Final = {
    "in time": "in time",
    "late": "too late: a ghost call",
    "after the end": "after the end, no ghost call",
}
_LINE: Final = "#7d8894"
HEIGHT_PX: Final = 220
_WHOLE: Final = alt.Axis(tickMinStep=1, format=",d")
_FIRST_S: Final = 0.125  # where an axis that has no zero begins


def rate(table: pd.DataFrame, zone: tzinfo) -> alt.Chart:
    """Ghost calls in steps of time, stacked by how the lost call had ended."""
    step = pd.Timedelta(seconds=int(table["step_s"].iloc[0])) if len(table) else pd.Timedelta(minutes=1)
    form = "%Y-%m-%d %H:%M:%S" if step < pd.Timedelta(minutes=1) else "%Y-%m-%d %H:%M"
    drawn = table.assign(
        until=clock_ms(table["at"] + step, zone),
        when=table["at"].dt.tz_convert(zone).dt.strftime(form),
        at=clock_ms(table["at"], zone),
        ended=[outcome_words(outcome) for outcome in table["outcome"]],
    )
    stacked = _stacked(drawn, "at", "findings", "ended", list(_by_outcome(drawn["ended"])))
    return (
        alt.Chart(stacked)
        .mark_rect(strokeWidth=0)
        .encode(
            x=time_axis(),
            x2="until",
            y=alt.Y("bottom:Q", title=f"ghost calls in {_length(step)}", axis=_WHOLE),
            y2="top",
            color=_colour("ended:N", _by_outcome(drawn["ended"])),
            tooltip=[alt.Tooltip("when:N", title="from"), "ended:N", alt.Tooltip("findings:Q", format=",")],
        )
        .properties(height=HEIGHT_PX)
    )


def delays(table: pd.DataFrame, window_s: float | None) -> alt.LayerChart:
    """From the call's INVITE to the woken phone's REGISTER, with the detector's window drawn in."""
    last = max(60.0, window_s or 0.0)
    drawn = table.assign(
        low=table["low_s"].clip(lower=_FIRST_S),
        high=table["high_s"].clip(upper=last),
        step=[
            f"{low:g} to {high:g} s" if high != float("inf") else f"over {low:g} s"
            for low, high in zip(table["low_s"], table["high_s"], strict=True)
        ],
        words=table["what"].map(_WORDS),
    )
    drawn = drawn[(drawn["phones"] > 0) & (drawn["high"] > drawn["low"])]
    present = {words: _WOKEN[what] for what, words in _WORDS.items() if (drawn["what"] == what).any()}
    stacked = _stacked(drawn, "low", "phones", "words", list(present)).drop(columns=["low_s", "high_s"])
    scale = alt.Scale(type="log", domain=[_FIRST_S, last], nice=False)
    axis = alt.Axis(values=[0.25, 0.5, 1, 2, 5, 10, 15, 30, 60], format="~g", grid=False)
    x = alt.X("low:Q", title="seconds from INVITE to REGISTER", scale=scale, axis=axis)
    bars = (
        alt.Chart(stacked)
        .mark_rect(stroke="white", strokeWidth=0.5, strokeOpacity=0.4)
        .encode(
            x=x,
            x2="high",
            y=alt.Y("bottom:Q", title="phones", axis=_WHOLE),
            y2="top",
            color=_colour("words:N", present),
            tooltip=[
                alt.Tooltip("step:N", title="delay"),
                alt.Tooltip("words:N", title="the phone was"),
                alt.Tooltip("phones:Q", format=","),
            ],
        )
    )
    if window_s is None:
        return alt.layer(bars).properties(height=HEIGHT_PX)
    mark = pd.DataFrame([{"low": window_s, "told": f"window {window_s:g} s"}])
    rule = alt.Chart(mark).mark_rule(color=_LINE, strokeDash=[6, 3], strokeWidth=2).encode(x=x)
    told = (
        alt.Chart(mark)
        .mark_text(align="right", baseline="top", dx=-5, fontSize=12, fontWeight="bold", color=_LINE)
        .encode(x=x, y=alt.value(2), text="told:N")
    )
    return alt.layer(bars, rule, told).properties(height=HEIGHT_PX)


def other_windows(table: pd.DataFrame, window_s: float | None) -> alt.LayerChart:
    """What each window finds, the one in force marked."""
    drawn = table.assign(
        window=[_window(each, window_s) for each in table["window_s"]],
        mine=[each == window_s for each in table["window_s"]],
        told=[look.number(found) for found in table["found"]],
    )
    long = drawn.melt(
        id_vars=["window", "mine"], value_vars=["canceled", "answered", "other"], var_name="outcome"
    )
    long["ended"] = [outcome_words(outcome) for outcome in long["outcome"]]
    long["opacity"] = long["mine"].map({True: 1.0, False: 0.65})
    x = alt.X(
        "window:N",
        sort=list(drawn["window"]),
        title="window after the end of the call",
        axis=alt.Axis(labelAngle=0),
    )
    bars = (
        alt.Chart(long[long["value"] > 0])
        .mark_bar()
        .encode(
            x=x,
            y=alt.Y("value:Q", stack="zero", title="ghost calls found", axis=_WHOLE),
            color=_colour("ended:N", _by_outcome(long.loc[long["value"] > 0, "ended"])),
            opacity=look.as_it_is(alt.Opacity, "opacity", "Q"),
            tooltip=["window:N", "ended:N", alt.Tooltip("value:Q", title="found", format=",")],
        )
    )
    told = (
        alt.Chart(drawn)
        .mark_text(dy=-7, color=_LINE, fontSize=12)
        .encode(x=x, y=alt.Y("found:Q", title="ghost calls found"), text="told:N")
    )
    return alt.layer(bars, told).properties(height=HEIGHT_PX)


def outcome_words(outcome: object) -> str:
    """How the lost call had ended, for people."""
    return OUTCOMES[str(outcome)][0] if str(outcome) in OUTCOMES else look.printable(str(outcome))


def _by_outcome(present: pd.Series) -> dict[str, str]:
    """Words of the outcomes that are present, with their colours."""
    known = {words: colour for words, colour in OUTCOMES.values() if (present == words).any()}
    return known | dict.fromkeys(sorted(set(present) - set(known)), look.GREY)


def _colour(field: str, of: dict[str, str]) -> alt.Color:
    return alt.Color(
        field, scale=look.colours(list(of), of), legend=alt.Legend(labelLimit=300, symbolStrokeWidth=0)
    )


def _stacked(table: pd.DataFrame, at: str, count: str, what: str, order: list[str]) -> pd.DataFrame:
    """Where each bar begins and ends above the others of its place. (Vega stacks no bars that are as wide as told.)"""
    ranked = table.assign(rank=table[what].map(order.index)).sort_values([at, "rank"])
    top = ranked.groupby(at)[count].cumsum()
    return ranked.assign(bottom=top - ranked[count], top=top)


def _length(step: pd.Timedelta) -> str:
    return (
        look.length(step.total_seconds() * 1000)
        .replace(".0 s", " s")
        .replace(" 00 s", "")
        .replace(" 00 min", "")
    )


def _window(seconds: float, in_force: float | None) -> str:
    return f"{seconds:g} s" + (" (now)" if seconds == in_force else "")
