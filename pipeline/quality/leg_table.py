"""Rows of the table of legs (`cdr_leg`) to rated legs: every leg has a row, and both Call-IDs. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from pipeline.protocols.asterisk import STRINGS, parse_leg
from pipeline.protocols.leg import Leg, tie
from pipeline.quality.cdr_calls import endpoint_of
from pipeline.quality.rating import LegName, Place, Row, leg_rows
from pipeline.quality.settings import QualitySettings

COLUMNS = {name: f"rtcp_{name}" for name in STRINGS}


@dataclass(slots=True)
class LegGroup:
    """The legs of one call of one source."""

    source: str
    root: str
    rows: list[Row]

    @property
    def unit(self) -> str:
        """The name under which they are written."""
        return f"legs/{self.source}/{self.root}"


def gather(rows: Iterable[Row]) -> list[LegGroup]:
    """By `linkedid`; a leg without one is alone."""
    groups: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        root = row["linkedid"] or row["uniqueid"] or row["source_row"]
        groups.setdefault((row["source"], root), []).append(row)
    return [LegGroup(source, root, members) for (source, root), members in groups.items()]


def assess_legs(
    group: LegGroup, codecs: Mapping[str, str], settings: QualitySettings, revision: int
) -> tuple[list[Row], list[Row]]:
    """Rows of `call_leg_state` and of `leg_quality_state`. The table's codec counts before that of the SDP."""
    legs: list[tuple[Row, Leg, str | None]] = []
    for row in group.rows:
        codec = row["codec"] or codecs.get(row["call_id"] or "")
        leg = parse_leg(
            {name: row[column] for name, column in COLUMNS.items()},
            leg="a",  # no race here: each leg writes for itself
            codec=codec or settings.assume_codec,
        )
        if leg is not None:
            legs.append((row, leg, codec))
    first = next((at for at, (row, _, _) in enumerate(legs) if row["leg"] == "a"), None)
    others = [at for at in range(len(legs)) if at != first]
    if first is not None and len(others) == 1:  # with more, who was bridged with whom the table does not tell
        (row_a, a, codec_a), (row_b, b, codec_b) = legs[first], legs[others[0]]
        a, b = tie(a, b, codec_a, codec_b)
        legs = [(row_a, a, codec_a), (row_b, b, codec_b)]
    rated = [
        row
        for source_row, leg, codec in legs
        for row in _rated(group, source_row, leg, codec, settings, revision)
    ]
    ties = [row for source_row in group.rows for row in _ties(group, source_row, revision)]
    return ties, rated


def _leg_name(row: Row) -> LegName:
    return "b" if row["leg"] == "b" else "a"


def _rated(
    group: LegGroup, row: Row, leg: Leg, codec: str | None, settings: QualitySettings, revision: int
) -> list[Row]:
    place = Place(
        unit=group.unit,
        source="leg table",
        leg=_leg_name(row),
        call_id=row["call_id_a"] or row["call_id"],
        leg_call_id=row["call_id"],
        ts=row["ts"],
        end_ts=row["end_ts"],
        node=row["node"],
        leg_name=row["channel"],
        endpoint=endpoint_of(row["channel"]),
        peer_ip=(row["rtp_dest"] or "").rpartition(":")[0].strip("[]") or None,
        joined_by="call-id" if row["call_id"] else None,
    )
    raw = {name: row[column] for name, column in COLUMNS.items() if row[column] is not None}
    text = json.dumps(raw, separators=(",", ":"))
    return leg_rows(leg, place, codec, settings, revision, raw=text)


def _ties(group: LegGroup, row: Row, revision: int) -> list[Row]:
    shared = {
        "call_id": row["call_id_a"] or row["call_id"],
        "leg": _leg_name(row),
        "leg_call_id": row["call_id"],
        "endpoint": endpoint_of(row["channel"]),
        "tied_by": "leg table",
        "ts": row["ts"],
        "end_ts": row["end_ts"],
        "node": row["node"],
        "unit": group.unit,
        "revision": revision,
    }
    named = (("call-id", row["call_id"]), ("channel", row["channel"]))
    return [{"name": name, "kind": kind, **shared} for kind, name in named if name]
