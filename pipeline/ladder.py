"""The ladder of a call: who sent what to whom, with findings and actions drawn in. One model, drawn as text
here; the app and the notebooks draw the same model their way.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from typing import Any, Literal

from pipeline.engine.actions import OWN_TAG_PREFIX

_GAP_CHARS_MIN, _GAP_CHARS_MAX = 24, 34
_TIME_CHARS = 10
_TRYING = 100
CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2066-\u2069]")
"""What steers a terminal, or changes the direction of the text."""


def printable(text: object) -> str:
    """Text from the wire, safe on a terminal: what steers it becomes a dot."""
    return CONTROL.sub("·", str(text))


@dataclass(slots=True)
class Arrow:
    """One message from one participant to another, by their indices.

    `msg_ids` are all that was mirrored of it, in order of time: it as it was first seen, retransmissions, what a
    second capture agent saw of the same hop; with hops collapsed also its further hops, and `via` is whom it passed.
    """

    ts: datetime
    src: int
    dst: int
    label: str
    msg_id: int
    copies: int = 1  # of its first hop
    kind: str = "message"  # message | own: part of a compensating call
    call_id: str = ""
    msg_ids: list[int] = field(default_factory=list)
    via: list[str] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The label, and how often it was seen where that was more than once."""
        return f"{self.label} x{self.copies}" if self.copies > 1 else self.label

    @property
    def family(self) -> str:
        """What it is drawn as: own, request, 1xx, 2xx, 3xx, or failure."""
        first = self.label[:1]
        if self.kind == "own" or not first.isdigit():
            return "own" if self.kind == "own" else "request"
        return f"{first}xx" if first in "123" else "failure"


@dataclass(slots=True)
class Note:
    """A line across the ladder: a finding, or what an action did about it."""

    ts: datetime
    label: str
    kind: str  # finding | action


@dataclass(slots=True)
class Ladder:
    """Participants as `ip:port` in the order of their first message, and the steps in time.

    `agents` are the User-Agent or Server that each of them named first, "" where it named none.
    """

    participants: list[str] = field(default_factory=list)
    steps: list[Arrow | Note] = field(default_factory=list)
    agents: list[str] = field(default_factory=list)

    @property
    def arrows(self) -> list[Arrow]:
        """The steps that are messages."""
        return [step for step in self.steps if isinstance(step, Arrow)]


def build(
    messages: Iterable[Mapping[str, Any]],
    findings: Iterable[Mapping[str, Any]] = (),
    attempts: Iterable[Mapping[str, Any]] = (),
    *,
    collapse_hops: bool = False,
) -> Ladder:
    """A ladder from rows of the tables `sip`, `finding` and `action_attempt`, in any order.

    `collapse_hops` draws a message that proxies passed on as one arrow from its sender to its last receiver.
    """
    places: dict[str, int] = {}
    agents: dict[int, str] = {}
    origins: dict[object, int] = {}
    drawn: dict[tuple[object, ...], Arrow] = {}
    hops: list[tuple[Arrow, tuple[object, ...]]] = []
    for row in sorted(messages, key=lambda row: (row["ts"], row["msg_id"])):
        src = places.setdefault(_place(row["src_ip"], row["src_port"]), len(places))
        dst = places.setdefault(_place(row["dst_ip"], row["dst_port"]), len(places))
        identity = _identity(row)
        if row.get("user_agent") and src == origins.setdefault(identity or row["msg_id"], src):
            agents.setdefault(src, printable(row["user_agent"]))  # a proxy passes on that of others
        label = message_label(row)
        same = (src, dst, label, row["call_id"], row["cseq"], row["via_branch"])
        if same in drawn:
            drawn[same].copies += 1
            drawn[same].msg_ids.append(row["msg_id"])
            continue
        own = (row["from_tag"] or "").startswith(OWN_TAG_PREFIX)
        arrow = Arrow(row["ts"], src, dst, label, row["msg_id"], kind="own" if own else "message")
        arrow.call_id, arrow.msg_ids = row["call_id"], [row["msg_id"]]
        drawn[same] = arrow
        hops.append((arrow, identity))
    ladder = Ladder(list(places), agents=[agents.get(place, "") for place in range(len(places))])
    ladder.steps += _collapsed(hops, ladder.participants) if collapse_hops else [arrow for arrow, _ in hops]
    ladder.steps += [Note(row["ts"], _finding_label(row), "finding") for row in findings]
    ladder.steps += [
        Note(row["started_at"], _attempt_label(row), "action") for row in attempts if row["started_at"]
    ]
    ladder.steps.sort(key=lambda step: (step.ts, isinstance(step, Note)))
    return _without_passed(ladder)


def _identity(row: Mapping[str, Any]) -> tuple[object, ...]:
    """What a message keeps when a proxy passes it on; a proxy's own 100 passes nothing on (RFC 3261 16.7)."""
    if row["status"] == _TRYING:
        return ()
    names = ("call_id", "cseq", "method", "status", "from_tag", "to_tag")
    return tuple(row.get(name) for name in names)


def _collapsed(hops: Iterable[tuple[Arrow, tuple[object, ...]]], names: list[str]) -> list[Arrow]:
    """Hops of one message joined where one ends and the next begins; what a proxy forks begins at the sender."""
    found: list[Arrow] = []
    paths: dict[tuple[object, ...], list[tuple[list[int], Arrow]]] = {}
    for hop, identity in hops:
        known = paths.setdefault(identity, []) if identity else []
        before = next((one for one in known if hop.src in one[0][1:] and hop.dst not in one[0]), None)
        if before is None:
            known.append(([hop.src, hop.dst], hop))
            found.append(hop)
            continue
        path, whole = before
        if path[-1] == hop.src:
            whole.dst = hop.dst
            whole.via.append(names[hop.src])
            whole.msg_ids += hop.msg_ids
            path.append(hop.dst)
        else:
            so_far = path[: path.index(hop.src) + 1]
            hop.src, hop.via = so_far[0], [names[place] for place in so_far[1:]]
            known.append(([*so_far, hop.dst], hop))
            found.append(hop)
    return found


def _without_passed(ladder: Ladder) -> Ladder:
    """Without the participants that messages only passed."""
    used = sorted({place for arrow in ladder.arrows for place in (arrow.src, arrow.dst)})
    for arrow in ladder.arrows:
        arrow.src, arrow.dst = used.index(arrow.src), used.index(arrow.dst)
    ladder.participants = [ladder.participants[place] for place in used]
    ladder.agents = [ladder.agents[place] for place in used]
    return ladder


Clock = Literal["absolute", "first", "previous"]
"""How the times of a ladder are told: on the clock, since its first step, or since the step before."""


def times(ladder: Ladder, clock: Clock = "first", zone: tzinfo = UTC) -> list[str]:
    """The time of each step: `12:04:05.123`, or seconds as `+1.508`."""
    if clock == "absolute":
        local = [step.ts.astimezone(zone) for step in ladder.steps]
        return [f"{ts:%H:%M:%S}.{ts.microsecond // 1000:03d}" for ts in local]
    starts = [ladder.steps[0], *ladder.steps] if clock == "previous" else ladder.steps[:1] * len(ladder.steps)
    return [
        f"+{(step.ts - start.ts).total_seconds():.3f}"
        for start, step in zip(starts, ladder.steps, strict=False)
    ]


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
    labels = [arrow.text for arrow in ladder.arrows]
    longest = max([len(label) for label in labels] + [len(name) for name in ladder.participants], default=0)
    return min(max(longest + 6, _GAP_CHARS_MIN), _GAP_CHARS_MAX)


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
            return gap.join("|" * (low + 1)) + f"<{line} {arrow.text}"
        span = (high - low) * (self.gap_chars + 1) - 1
        text = f" {arrow.text} "
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
    outcome = "" if row["outcome"] == "dry_run" else row["outcome"]
    detail = row["detail"].splitlines()[0].rstrip(":") if row.get("detail") else ""
    return printable(": ".join(part for part in (f"{row['action']}{how}", outcome, detail) if part))
