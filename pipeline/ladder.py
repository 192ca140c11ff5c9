"""The ladder of a call: who sent what to whom, with findings and actions drawn in. One model, drawn as text
here; the app and the notebooks draw the same model their way.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pipeline.engine.actions import OWN_TAG_PREFIX

_GAP_CHARS_MIN, _GAP_CHARS_MAX = 24, 34
_TIME_CHARS = 10
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
"""What steers a terminal, or changes the direction of the text."""


def printable(text: object) -> str:
    """Text from the wire, safe on a terminal: what steers it becomes a dot."""
    return CONTROL.sub("·", str(text))


@dataclass(slots=True)
class Arrow:
    """One message from one participant to another, by their indices. `copies` counts what was not drawn:
    retransmissions, and what a second capture agent mirrored of the same hop."""

    ts: datetime
    src: int
    dst: int
    label: str
    msg_id: int
    copies: int = 1
    kind: str = "message"  # message | own: part of a compensating call


@dataclass(slots=True)
class Note:
    """A line across the ladder: a finding, or what an action did about it."""

    ts: datetime
    label: str
    kind: str  # finding | action


@dataclass(slots=True)
class Ladder:
    """Participants as `ip:port` in the order of their first message, and the steps in time."""

    participants: list[str] = field(default_factory=list)
    steps: list[Arrow | Note] = field(default_factory=list)


def build(
    messages: Iterable[Mapping[str, Any]],
    findings: Iterable[Mapping[str, Any]] = (),
    attempts: Iterable[Mapping[str, Any]] = (),
) -> Ladder:
    """A ladder from rows of the tables `sip`, `finding` and `action_attempt`, in any order."""
    ladder = Ladder()
    places: dict[str, int] = {}
    drawn: dict[tuple[object, ...], Arrow] = {}
    for row in sorted(messages, key=lambda row: (row["ts"], row["msg_id"])):
        src = places.setdefault(_place(row["src_ip"], row["src_port"]), len(places))
        dst = places.setdefault(_place(row["dst_ip"], row["dst_port"]), len(places))
        label = message_label(row)
        same = (src, dst, label, row["call_id"], row["cseq"], row["via_branch"])
        if same in drawn:
            drawn[same].copies += 1
            continue
        own = (row["from_tag"] or "").startswith(OWN_TAG_PREFIX)
        arrow = Arrow(row["ts"], src, dst, label, row["msg_id"], kind="own" if own else "message")
        drawn[same] = arrow
        ladder.steps.append(arrow)
    ladder.participants = list(places)
    ladder.steps += [Note(row["ts"], _finding_label(row), "finding") for row in findings]
    ladder.steps += [
        Note(row["started_at"], _attempt_label(row), "action") for row in attempts if row["started_at"]
    ]
    ladder.steps.sort(key=lambda step: (step.ts, isinstance(step, Note)))
    return ladder


def to_text(ladder: Ladder) -> str:
    """The ladder for a terminal or a ticket: times in seconds from the first message."""
    if not ladder.steps:
        return "no messages\n"
    lanes = _Lanes(len(ladder.participants), _gap_chars(ladder))
    lines = [" " * _TIME_CHARS + lanes.heading(ladder.participants), " " * _TIME_CHARS + lanes.lifelines()]
    start = ladder.steps[0].ts
    for step in ladder.steps:
        time = f"{(step.ts - start).total_seconds():9.3f} "
        if isinstance(step, Arrow):
            lines.append(time + lanes.arrow(step))
        else:
            first, *rest = lanes.note(step)
            lines += [time + first, *(" " * _TIME_CHARS + line for line in rest)]
    lines.append(" " * _TIME_CHARS + lanes.lifelines())
    return "\n".join(line.rstrip() for line in lines) + "\n"


def _gap_chars(ladder: Ladder) -> int:
    """Between two lifelines: wide enough for most labels, narrow enough for a ticket."""
    labels = [_text(step) for step in ladder.steps if isinstance(step, Arrow)]
    longest = max([len(label) for label in labels] + [len(name) for name in ladder.participants], default=0)
    return min(max(longest + 6, _GAP_CHARS_MIN), _GAP_CHARS_MAX)


def _text(arrow: Arrow) -> str:
    return f"{arrow.label} x{arrow.copies}" if arrow.copies > 1 else arrow.label


@dataclass(frozen=True, slots=True)
class _Lanes:
    """The lifelines as columns of text."""

    count: int
    gap_chars: int

    def lifelines(self) -> str:
        return (" " * self.gap_chars).join("|" * self.count)

    def heading(self, participants: list[str]) -> str:
        line = ""
        for index, name in enumerate(participants):
            at = index * (self.gap_chars + 1) - (len(name) // 2 if index else 0)
            line = line.ljust(max(at, len(line) + 1 if index else 0)) + name
        return line

    def arrow(self, arrow: Arrow) -> str:
        low, high = sorted((arrow.src, arrow.dst))
        gap = " " * self.gap_chars
        line = "~" if arrow.kind == "own" else "-"
        if low == high:
            return gap.join("|" * (low + 1)) + f"<{line} {_text(arrow)}"
        span = (high - low) * (self.gap_chars + 1) - 1
        text = f" {_text(arrow)} "
        if len(text) > span - 4:
            text = text[: span - 6] + "… "
        shaft = text.center(span - 1, line)
        drawn = f"{shaft}>" if arrow.src < arrow.dst else f"<{shaft}"
        before = "".join("|" + gap for _ in range(low))
        after = "".join(gap + "|" for _ in range(self.count - 1 - high))
        return f"{before}|{drawn}|{after}"

    def note(self, note: Note) -> list[str]:
        width = max((self.count - 1) * (self.gap_chars + 1), 60)
        sign = "!! " if note.kind == "finding" else "=> "
        return textwrap.wrap(note.label, width, initial_indent=sign, subsequent_indent="   ") or [sign]


def _place(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def message_label(row: Mapping[str, Any]) -> str:
    """A message of table `sip` in a few words: `INVITE bob`, `180 Ringing`."""
    if row["status"] is not None:
        return printable(f"{row['status']:.0f} {row['reason'] or row['method'] or ''}".strip())
    user = row["ruri_user"] if row["method"] != "REGISTER" else row["to_user"]
    return printable(f"{row['method']} {user or ''}".strip())


def _finding_label(row: Mapping[str, Any]) -> str:
    late = row.get("late_ms")
    if row["kind"] == "late_register" and late is not None:
        when = f"{late:.0f} ms after" if late >= 0 else f"{-late:.0f} ms before"
        how = f"the call was {row.get('outcome')}"
        return printable(f"GHOST CALL: {row['target']} registered {when} {how}, and no INVITE reached it")
    return printable(f"{row['kind']}: {row['identifier']}")


def _attempt_label(row: Mapping[str, Any]) -> str:
    how = " (dry run)" if row["dry_run"] else ""
    detail = f": {row['detail'].splitlines()[0]}" if row.get("detail") else ""
    return printable(f"{row['action']}{how}: {row['outcome']}{detail}")
