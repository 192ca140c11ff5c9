"""The ladder as an SVG drawing of its own: one file for a ticket or a page, readable in a light and a dark viewer.

Text is text (it can be searched and copied), every colour's meaning stands in words, and nothing is loaded from
anywhere. Times are seconds since the first step, or on the clock of a zone.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from datetime import UTC, tzinfo
from typing import Final
from xml.sax.saxutils import escape

from pipeline.ladder import Arrow, Clock, Ladder, Note, times
from pipeline.palette import ARROWS, GREY

_LANE_PX, _GUTTER_PX, _MARGIN_PX = 190, 96, 24
_HEAD_PX, _STEP_PX, _LINE_PX = 56, 26, 15
_CHAR_PX = 6.7  # of the 11 px font
_NO_XML: Final = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_STYLE: Final = (
    "svg{background:#fff;color:#1d2733;font:11px ui-monospace,monospace}text{fill:currentColor}"
    "@media(prefers-color-scheme:dark){svg{background:#12171e;color:#dfe5ec}}"
)


def to_svg(ladder: Ladder, *, title: str = "", clock: Clock = "first", zone: tzinfo = UTC) -> str:
    """The drawing as a standalone file; `title` stands above it."""
    lanes = max(len(ladder.participants), 1)
    width = _GUTTER_PX + _LANE_PX * lanes
    parts: list[str] = []
    y = float(_HEAD_PX + _MARGIN_PX)
    for step, told in zip(ladder.steps, times(ladder, clock, zone), strict=True):
        drawn = list(_arrow(step, y) if isinstance(step, Arrow) else _note(step, y, width))
        parts.append(_text(8, y + (_STEP_PX - 9 if isinstance(step, Arrow) else 14), told, color=GREY))
        parts += drawn
        y += _STEP_PX if isinstance(step, Arrow) else _note_px(step, width)
    height = round(y + _MARGIN_PX)
    lines = [_line(_x(lane), _HEAD_PX + 16, _x(lane), y + 6, GREY, 'opacity="0.5"') for lane in range(lanes)]
    heads = [
        _text(_x(lane), _HEAD_PX, name, "middle", "bold")
        + _text(_x(lane), _HEAD_PX + 13, _cut(agent, _LANE_PX - 12), "middle", color=GREY)
        for lane, (name, agent) in enumerate(zip(ladder.participants, ladder.agents, strict=True))
    ]
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
            f'viewBox="0 0 {width} {height}">',
            f"<title>{_safe(title)}</title><style>{_STYLE}</style>",
            _text(8, 20, title, weight="bold"),
            *heads,
            *lines,
            *parts,
            "</svg>\n",
        ]
    )


def _x(lane: float) -> float:
    return _GUTTER_PX + _LANE_PX * (lane + 0.5)


def _arrow(arrow: Arrow, top: float) -> Iterator[str]:
    """A line with its head and its label above; what goes to its own sender is a short one."""
    colour = ARROWS[arrow.family]
    y = top + _STEP_PX - 9
    tip = _x(arrow.dst)
    begin = _x(arrow.src) if arrow.src != arrow.dst else tip + _LANE_PX / 4
    sign = 1 if tip > begin else -1
    dashes = 'stroke-dasharray="4 3"' if arrow.kind == "own" else ""
    yield _line(begin, y, tip - 7 * sign, y, colour, f'stroke-width="1.5" {dashes}')
    yield f'<path d="M{tip:.1f} {y:.1f}l{-8 * sign} -4v8z" fill="{colour}"/>'
    room = abs(tip - begin) - 16
    middle = (begin + tip) / 2 if arrow.src != arrow.dst else begin
    yield _text(middle, y - 5, _cut(arrow.text, room if arrow.src != arrow.dst else _LANE_PX / 2), "middle")


def _note(note: Note, top: float, width: int) -> Iterator[str]:
    """A band across all lanes, with its words."""
    height = _note_px(note, width)
    yield (
        f'<rect x="4" y="{top:.1f}" width="{width - 8}" height="{height - 3}" rx="3" '
        f'fill="{ARROWS[note.kind]}" fill-opacity="0.16"/>'
    )
    for number, line in enumerate(_lines(note, width)):
        yield _text(_GUTTER_PX, top + 14 + _LINE_PX * number, line)


def _lines(note: Note, width: int) -> list[str]:
    return textwrap.wrap(note.label, int((width - _GUTTER_PX - 8) / _CHAR_PX)) or [""]


def _note_px(note: Note, width: int) -> int:
    return _LINE_PX * len(_lines(note, width)) + 10


def _cut(text: str, room_px: float) -> str:
    fits = max(int(room_px / _CHAR_PX), 4)
    return text if len(text) <= fits else f"{text[: fits - 1]}…"


def _line(x1: float, y1: float, x2: float, y2: float, colour: str, more: str = "") -> str:
    return f'<line x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke="{colour}" {more}/>'


def _text(
    x: float, y: float, text: str, anchor: str = "start", weight: str = "normal", color: str = ""
) -> str:
    style = f' style="fill:{color}"' if color else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}"{style} xml:space="preserve">'
        f"{_safe(text)}</text>"
    )


def _safe(text: str) -> str:
    """Text that XML may hold: mark-up escaped, what no XML document may contain replaced."""
    return escape(_NO_XML.sub("�", text))
