"""The ladder as an Altair chart: for the app, where a click on an arrow selects its message, and for notebooks.

Coordinates are pixels downwards and lanes across: lane 0 is the first participant, the gutter left of it holds the
times. Every colour's meaning stands in words beside it.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, tzinfo
from typing import Any, Final

import altair as alt

from pipeline.ladder import Arrow, Clock, Ladder, Note, times
from pipeline.palette import ARROWS, BLUE, GREY

SELECTION: Final = "msg"
"""Name of the selection; its field is `msg_id`, that of the arrow's first message."""

MOST_STEPS = 200
"""What a browser draws without a wait; longer ladders are shown in parts."""

HEAD_PX, ARROW_PX, LINE_PX, NOTE_PAD_PX = 46, 27, 15, 10
MIN_LANE_PX: Final = 110
_RIGHT = 0.5  # lanes right of the last participant
_NOTE_CHARS, _NOTE_CHARS_PER_LANE = 50, 17  # at least; in a lane of the least width
_HEAD_EVERY = 30  # steps
_ALL: Final = slice(None)
_DATA: Final = ("lifelines", "heads", "notes", "arrows", "clocks")
_INK = "currentColor"  # of the page that shows the chart, light or dark

Row = dict[str, Any]


def chart(
    ladder: Ladder,
    *,
    clock: Clock = "first",
    zone: tzinfo = UTC,
    selected: int | None = None,
    shown: slice = _ALL,
) -> alt.LayerChart:
    """The chart, as high as it needs to be and as wide as its place.

    `clock` and `zone` as for `ladder.times`; `selected` is the `msg_id` of the arrow to mark; `shown` are the steps
    to draw, of a ladder too long for one chart.
    """
    rows = _rows(_part(ladder, shown), times(ladder, clock, zone)[shown])
    left, right = _edges(ladder)
    lanes = right - left
    x_scale = alt.Scale(domain=[left, right], nice=False, zero=False)
    y_scale = alt.Scale(domain=[rows["height"], 0], nice=False, zero=False)

    def x(name: str = "x") -> alt.X:  # every layer says `axis=None`: Vega-Lite cannot merge one that does not
        return alt.X(f"{name}:Q", axis=None, scale=x_scale)

    def y(name: str = "y") -> alt.Y:
        return alt.Y(f"{name}:Q", axis=None, scale=y_scale)

    whole_step = (x("left"), alt.X2("right:Q"), y("top"), alt.Y2("bottom:Q"))
    colour = alt.Color(
        "kind:N", legend=None, scale=alt.Scale(domain=list(ARROWS), range=list(ARROWS.values()))
    )
    points = alt.Scale(domain=["right", "left"], range=["triangle-right", "triangle-left"])
    dashes = alt.StrokeDash(
        "kind:N",
        legend=None,
        scale=alt.Scale(domain=list(ARROWS), range=[[4, 3] if kind == "own" else [1, 0] for kind in ARROWS]),
    )
    lane_px = f"(width / {lanes:.3f})"
    in_lane = alt.ExprRef(f"{lane_px} - 8")
    in_notes = alt.ExprRef(f"{lane_px} * {right:.3f} - 4")
    in_span = alt.ExprRef(f"max(60, {lane_px} * datum.lanes - 24)")

    data: dict[str, list[Row]] = {name: rows[name] for name in _DATA}
    data["marked"] = [row for row in rows["arrows"] if row["msg_id"] == selected]
    lifelines, heads, notes, arrows, clocks, marked = (alt.Chart(alt.NamedData(name)) for name in data)
    layers = [
        lifelines.mark_rule(color=GREY, opacity=0.4).encode(x(), y(), y2="y2:Q"),
        marked.mark_bar(color=BLUE, opacity=0.22, cornerRadius=3).encode(*whole_step),
        heads.mark_text(color=_INK, fontWeight="bold", dy=-9, limit=in_lane).encode(x(), y(), text="name:N"),
        heads.mark_text(color=GREY, dy=6, limit=in_lane).encode(x(), y(), text="agent:N"),
        notes.mark_bar(opacity=0.14, cornerRadius=3).encode(*whole_step, color=colour),
        notes.mark_text(
            color=_INK, align="left", baseline="top", lineBreak="\n", lineHeight=LINE_PX, limit=in_notes
        ).encode(x(), y(), text="label:N"),
        clocks.mark_text(color=GREY, align="left", font="monospace").encode(x(), y(), text="time:N"),
        arrows.mark_rule(strokeWidth=1.5).encode(x(), y(), colour, dashes, x2="tip:Q"),
        arrows.mark_point(filled=True, size=70, opacity=1).encode(
            x("head"), y(), colour, shape=alt.Shape("points:N", legend=None, scale=points)
        ),
        arrows.mark_text(color=_INK, dy=-8, limit=in_span).encode(x("middle"), y(), text="label:N"),
        _clickable(arrows, whole_step),
    ]
    no_frame = alt.Config(view=alt.ViewConfig(stroke=None))
    return alt.LayerChart(
        layer=layers, datasets=data, height=rows["height"], width="container", config=no_frame
    )


def min_width_px(ladder: Ladder) -> int:
    """Below this width labels are cut too short to be read."""
    left, right = _edges(ladder)
    return round(MIN_LANE_PX * max(right - left, 3.5))


def height_px(ladder: Ladder, shown: slice = _ALL) -> int:
    """How high the chart is."""
    part = _part(ladder, shown)
    return int(_rows(part, [""] * len(part.steps))["height"])


def _part(ladder: Ladder, shown: slice) -> Ladder:
    return replace(ladder, steps=ladder.steps[shown])


def _edges(ladder: Ladder) -> tuple[float, float]:
    """The lane coordinates of the left edge, with room for the times, and of the right one."""
    count = len(ladder.participants)
    return -min(0.8, 0.2 + 0.14 * count), max(count - 1, 0) + _RIGHT


def _clickable(arrows: alt.Chart, whole_step: Sequence[Any]) -> alt.Chart:
    """An almost invisible bar over each arrow: easier to hit than a line, and it lights up below the pointer."""
    clicked = alt.selection_point(name=SELECTION, fields=["msg_id"], toggle=False)
    below = alt.selection_point(
        name="below", fields=["msg_id"], on="pointerover", clear="pointerout", empty=False
    )
    told = (("label", "message"), ("time", "at"), ("src", "from"), ("dst", "to"), ("via", "via"))
    bars: alt.Chart = (
        arrows.mark_bar(color=BLUE, cornerRadius=3, cursor="pointer")
        .encode(
            *whole_step,
            opacity=alt.OpacityValue(0.001, condition={"param": below.name, "empty": False, "value": 0.12}),
            tooltip=[alt.Tooltip(f"{name}:N", title=title) for name, title in told],
        )
        .add_params(clicked, below)
    )
    return bars


# -- rows ------------------------------------------------------------------------------------------------


def _rows(ladder: Ladder, clocks: Sequence[str]) -> Mapping[str, Any]:
    """What the layers draw, from the top down."""
    left, right = _edges(ladder)
    box = {"left": left, "right": right}
    y = 0.0
    arrows: list[Row] = []
    notes: list[Row] = []
    heads: list[Row] = []
    told: list[Row] = []
    for at, (step, clock) in enumerate(zip(ladder.steps, clocks, strict=True)):
        if at % _HEAD_EVERY == 0:
            heads += _heads(ladder, y + HEAD_PX / 2)
            y += HEAD_PX
        label = step.text if isinstance(step, Arrow) else _wrapped(step, ladder)
        height = ARROW_PX if isinstance(step, Arrow) else LINE_PX * (label.count("\n") + 1) + NOTE_PAD_PX
        row = {**box, "label": label, "top": y, "bottom": y + height - 2, "time": clock}
        if isinstance(step, Arrow):
            arrows.append({**row, **_arrow(step, ladder), "y": y + height - 9})
        else:
            notes.append({**row, "x": 0, "y": y + NOTE_PAD_PX / 2, "kind": step.kind})
        told.append(
            {"x": left, "y": y + (height - 9 if isinstance(step, Arrow) else LINE_PX - 3), "time": clock}
        )
        y += height
    lifelines = [{"x": lane, "y": HEAD_PX - 6, "y2": y} for lane in range(len(ladder.participants))]
    return {
        "arrows": arrows,
        "notes": notes,
        "heads": heads,
        "clocks": told,
        "lifelines": lifelines,
        "height": y + 4,
    }


def _heads(ladder: Ladder, y: float) -> list[Row]:
    named = zip(ladder.participants, ladder.agents, strict=True)
    return [{"x": lane, "y": y, "name": name, "agent": agent} for lane, (name, agent) in enumerate(named)]


def _arrow(arrow: Arrow, ladder: Ladder) -> Row:
    """Where it begins and ends; what goes to its own sender is a short one to the right."""
    src, dst = float(arrow.src), float(arrow.dst)
    if src == dst:
        src += 0.25
    sign = 1 if dst > src else -1
    return {
        "msg_id": arrow.msg_id,
        "kind": arrow.family,
        "x": src,
        "tip": dst,
        "head": dst - 0.025 * sign,
        "points": "right" if sign > 0 else "left",
        "middle": (src + dst) / 2 if arrow.src != arrow.dst else arrow.src + 0.3,
        "lanes": max(abs(arrow.dst - arrow.src), 1),
        "src": ladder.participants[arrow.src],
        "dst": ladder.participants[arrow.dst],
        "via": ", ".join(arrow.via) or "-",
    }


def _wrapped(note: Note, ladder: Ladder) -> str:
    chars = max(_NOTE_CHARS, _NOTE_CHARS_PER_LANE * len(ladder.participants))
    return "\n".join(textwrap.wrap(note.label, chars) or [""])
