"""Calls of CDRs: what a call was, and what each of its legs heard. Pure.

The row that holds a Call-ID or media is not always the row of the Dial, so all rows of a call are looked at
together (`cdr_groups`).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from pipeline.instants import EPOCH
from pipeline.protocols.asterisk import SCALARS, STRINGS, parse_leg
from pipeline.protocols.leg import Leg, tie
from pipeline.quality.cdr_groups import CdrGroup, end_of
from pipeline.quality.rating import LegName, Place, Row, leg_rows
from pipeline.quality.settings import QualitySettings

MEASURED: Final = (*STRINGS, *SCALARS)
COLUMNS: Final = {leg: {name: f"rtcp_{leg}_{name}" for name in MEASURED} for leg in ("a", "b")}
"""For each leg: its name in `asterisk.parse_leg` -> the column of table `cdr`."""

_CHANNEL: Final = re.compile(r"(.+)-[0-9a-f]{4,}(?:;[12])?")
_REMOTE_SSRC: Final = re.compile(r"(?:^|;)themssrc=(\d{1,10})")


def endpoint_of(channel: str | None) -> str | None:
    """`PJSIP/trunk-0000002a` -> `PJSIP/trunk`."""
    found = _CHANNEL.fullmatch(channel or "")
    return found[1] if found else channel or None


def remote_ssrc_of(text: str | None) -> int | None:
    """The phone's SSRC of a string `all`; None where nothing was received."""
    found = _REMOTE_SSRC.search(text or "")
    return int(found[1]) or None if found else None


@dataclass(slots=True)
class CdrCall:
    """What the store gets of a call: a row of `cdr_call_state`, and rows of the two other tables."""

    call: Row
    ties: list[Row]
    legs: list[Row]


@dataclass(slots=True)
class _Heard:
    """A leg with media, as one row tells it."""

    name: LegName
    channel: str | None
    call_id: str | None
    codec: str | None
    leg: Leg
    row: Row
    raw: dict[str, Any] = field(default_factory=dict)

    @property
    def packets(self) -> int:
        return (self.leg.incoming.packets or 0) + (self.leg.outgoing.packets or 0)

    def is_same(self, other: _Heard) -> bool:
        """Two rows may tell of one leg: by its Call-ID, its channel, or its pair of SSRCs."""
        if self.call_id and other.call_id:
            return self.call_id == other.call_id
        if self.channel and other.channel and self.channel == other.channel:
            return True
        ssrcs = self.leg.ssrc, self.leg.remote_ssrc
        return None not in ssrcs and ssrcs == (other.leg.ssrc, other.leg.remote_ssrc)


def present_columns(rows: Iterable[Row]) -> set[str]:
    """The columns of media that these rows show to exist: those of leg A and leg B go together."""
    found = {
        name
        for row in rows
        for name in MEASURED
        if row[COLUMNS["a"][name]] is not None or row[COLUMNS["b"][name]] is not None
    }
    return {COLUMNS[leg][name] for leg in ("a", "b") for name in found}


def assess_call(
    group: CdrGroup,
    present: set[str],
    codecs: Mapping[str, str],
    legs_by_ssrc: Mapping[int, str],
    settings: QualitySettings,
    revision: int,
) -> CdrCall:
    """One call from all its rows.

    `present` are the columns that the source has, `codecs` maps Call-IDs to codecs as the SDP agreed on them,
    `legs_by_ssrc` the phones' SSRCs to the Call-IDs under which RTCP reports of them came.
    """
    root_row = next((row for row in group.rows if row["uniqueid"] == group.root), group.rows[0])
    call_id = next(
        (row["call_id"] for row in group.rows if _is_first(row, root_row) and row["call_id"]), None
    )
    tied_by_ssrc: set[str] = set()
    heard = _best(_heard(group, root_row, call_id, present, codecs, settings, legs_by_ssrc, tied_by_ssrc))
    call = _call_row(group, call_id, heard, revision)
    legs: list[Row] = []
    for one in heard:
        place = Place(
            unit=group.unit,
            source="cdr",
            leg=one.name,
            call_id=call_id,
            leg_call_id=one.call_id,
            ts=one.row["ts"],
            end_ts=end_of(one.row) if one.row["ts"] else None,
            node=one.row["node"],
            leg_name=one.channel,
            endpoint=endpoint_of(one.channel),
            joined_by="call-id" if call_id else None,
        )
        raw = json.dumps(one.raw, separators=(",", ":"))
        legs += leg_rows(one.leg, place, one.codec, settings, revision, raw=raw)
    return CdrCall(call, _ties(group, root_row, call, tied_by_ssrc, revision), legs)


def _is_first(row: Row, root_row: Row) -> bool:
    return bool(row["channel"] == root_row["channel"])


def _heard(
    group: CdrGroup,
    root_row: Row,
    call_id: str | None,
    present: set[str],
    codecs: Mapping[str, str],
    settings: QualitySettings,
    legs_by_ssrc: Mapping[int, str],
    tied_by_ssrc: set[str],
) -> Iterator[_Heard]:
    """Every leg that every row tells of. The Call-IDs that only an SSRC told go to `tied_by_ssrc`."""
    for row in group.rows:
        first = _is_first(row, root_row)
        b_call_id = row["call_id_b"] if row["call_id_b"] != row["call_id"] else None
        sides = {
            "a": ("a" if first else "b", row["channel"], call_id if first else row["call_id"]),
            "b": ("b", row["dst_channel"] or (None if first else row["channel"]), b_call_id),
        }
        found: dict[str, _Heard] = {}
        for side in ("a", "b"):
            raw = {
                name: value for name, column in COLUMNS[side].items() if (value := row[column]) is not None
            }
            if not raw:
                continue
            name, channel, leg_call_id = sides[side]
            if leg_call_id is None:
                by_ssrc = legs_by_ssrc.get(remote_ssrc_of(row[COLUMNS[side]["all"]]) or 0)
                if by_ssrc is not None and by_ssrc != call_id:
                    leg_call_id = by_ssrc
                    tied_by_ssrc.add(by_ssrc)
            codec = codecs.get(leg_call_id or "")
            leg = parse_leg(
                {name: row[column] for name, column in COLUMNS[side].items() if column in present},
                leg="a" if side == "a" else "b",
                codec=codec or settings.assume_codec,
                duration_s=None if row["billsec_ms"] is None else row["billsec_ms"] / 1000,
            )
            if leg is not None:
                found[side] = _Heard("a" if name == "a" else "b", channel, leg_call_id, codec, leg, row, raw)
        if len(found) == 2:
            a, b = found["a"], found["b"]
            if (a.leg.ssrc, a.leg.remote_ssrc) == (b.leg.ssrc, b.leg.remote_ssrc):
                del found["b"]  # after a transfer by the caller both halves tell of the channel that stays
            else:
                a.leg, b.leg = tie(a.leg, b.leg, a.codec, b.codec)
        yield from found.values()


def _best(heard: Iterable[_Heard]) -> list[_Heard]:
    """Of several rows about one leg: the one that was written whole, and then the one that counted most."""
    kept: list[_Heard] = []
    for one in sorted(heard, key=lambda each: ("truncated_b" in each.leg.flags, -each.packets)):
        if not any(one.is_same(other) for other in kept):
            kept.append(one)
    return sorted(kept, key=lambda each: (each.name, each.row["ts"] or EPOCH))


# -- the call's own row ----------------------------------------------------------------------------------


def _call_row(group: CdrGroup, call_id: str | None, heard: Sequence[_Heard], revision: int) -> Row:
    rows = group.rows
    timed = [row for row in rows if row["ts"] is not None]
    start = min((row["ts"] for row in timed), default=None)
    end = max((end_of(row) for row in timed), default=None)
    answered = [row for row in rows if row["disposition"] == "ANSWERED"]
    answer = min((at for row in answered if (at := _answer_of(row))), default=None)
    last_dial = next((row for row in reversed(rows) if row["dst_channel"]), rows[-1])
    telling = answered[0] if answered else last_dial
    dialled = next((row for row in answered if row["dst_channel"]), last_dial)
    ids_b = [row["call_id_b"] for row in (*answered, *reversed(rows))]
    ids_b += [one.call_id for one in heard if one.name == "b"]
    ids_b += [row["call_id"] for row in rows]
    return {
        "call_id": call_id,
        "call_id_b": next((one for one in ids_b if one and one != call_id), None),
        "source": group.source,
        "linkedid": group.root,
        "start_ts": start,
        "answer_ts": answer,
        "end_ts": end,
        "duration_ms": _ms(start, end),
        "billsec_ms": _ms(answer, end) if answer else (0 if rows and not answered else None),
        "disposition": telling["disposition"],
        "src": _first(rows, "src"),
        "dst": _first(rows, "dst"),
        "clid": _first(rows, "clid"),
        "channel": rows[0]["channel"],
        "dst_channel": dialled["dst_channel"],
        "trunk": endpoint_of(dialled["dst_channel"]),
        "accountcode": _first(rows, "accountcode"),
        "cdr_rows": len(rows),
        "media_rows": sum(any(row[column] for column in COLUMNS["a"].values()) for row in rows)
        + sum(any(row[column] for column in COLUMNS["b"].values()) for row in rows),
        "node": rows[0]["node"],
        "unit": group.unit,
        "revision": revision,
    }


def _answer_of(row: Row) -> datetime | None:
    """When it was answered; without such a column its end less its billed time."""
    if row["answer_ts"] is not None or row["ts"] is None or row["billsec_ms"] is None:
        found: datetime | None = row["answer_ts"]
        return found
    return end_of(row) - timedelta(milliseconds=row["billsec_ms"])


def _first(rows: Sequence[Row], column: str) -> Any:
    return next((row[column] for row in rows if row[column]), None)


def _ms(start: datetime | None, end: datetime | None) -> int | None:
    return None if start is None or end is None else (end - start) // timedelta(milliseconds=1)


# -- which leg is which ----------------------------------------------------------------------------------


def _ties(group: CdrGroup, root_row: Row, call: Row, by_ssrc: set[str], revision: int) -> list[Row]:
    """Call-IDs and channels of the call, each with its leg."""
    call_id = call["call_id"]
    found: dict[tuple[str, str], Row] = {}

    def add(
        kind: str, name: str | None, leg: str, own: str | None, channel: str | None, by: str = "cdr"
    ) -> None:
        if name:
            empty = {"leg": leg, "leg_call_id": None, "endpoint": None, "tied_by": by}
            known = found.setdefault((kind, name), empty)
            known["leg_call_id"] = known["leg_call_id"] or own
            known["endpoint"] = known["endpoint"] or endpoint_of(channel)

    for row in group.rows:
        first = _is_first(row, root_row)
        own = call_id if first else row["call_id"]
        add("call-id", own, "a" if first else "b", own, row["channel"])
        add("channel", row["channel"], "a" if first else "b", own, row["channel"])
        b_call_id = row["call_id_b"] if row["call_id_b"] != row["call_id"] else None
        add("call-id", b_call_id, "b", b_call_id, row["dst_channel"])
        add("channel", row["dst_channel"], "b", b_call_id, row["dst_channel"])
    for name in by_ssrc:
        add("call-id", name, "b", name, call["dst_channel"], "ssrc")
    return [
        {
            "name": name,
            "kind": kind,
            "call_id": call_id or (None if kind == "channel" else name),
            **tie_,
            "ts": call["start_ts"],
            "end_ts": call["end_ts"],
            "node": call["node"],
            "unit": group.unit,
            "revision": revision,
        }
        for (kind, name), tie_ in found.items()
    ]
