"""Which CDR rows are one call. Pure.

One call has one to three rows (a fork, a hunt, a transfer, a Local channel, a dialplan that goes on after Dial):
they are gathered by `linkedid` where the table has it, else by `uniqueid` and by the names of channels that hand
a call on.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from pipeline.instants import EPOCH
from pipeline.quality.rating import Row

_HAND_OVER: Final = timedelta(seconds=5)  # a channel's next row begins when its last one ends


@dataclass(slots=True)
class CdrGroup:
    """The rows of one call of one source, by time."""

    source: str
    root: str  # linkedid, or the uniqueid of the first channel
    rows: list[Row]

    @property
    def unit(self) -> str:
        """The name under which the call is written."""
        return f"cdr/{self.source}/{self.root}"

    @property
    def stale_units(self) -> list[str]:
        """What a part of these rows may have been written as, before the others came."""
        roots = {row["uniqueid"] or row["source_row"] for row in self.rows} - {self.root}
        return [f"cdr/{self.source}/{root}" for root in sorted(roots)]


def gather(rows: Iterable[Row]) -> list[CdrGroup]:
    """The calls that `rows` are of. Rows without a time are calls of their own."""
    parents: dict[str, str] = {}

    def find(name: str) -> str:
        parents.setdefault(name, name)
        while parents[name] != name:
            parents[name] = name = parents[parents[name]]
        return name

    ordered = sorted(rows, key=_in_order)
    held: dict[tuple[str, str], tuple[str, datetime]] = {}  # channel -> (row, end)
    names = []
    for row in ordered:
        source = row["source"]
        name = f"row:{source}/{row['source_row']}"
        names.append(name)
        if row["linkedid"]:
            parents[find(name)] = find(f"id:{source}/{row['linkedid']}")
            continue
        if row["uniqueid"]:
            parents[find(name)] = find(f"id:{source}/{row['uniqueid']}")
        if row["ts"] is None:
            continue
        for channel in filter(None, (row["channel"], row["dst_channel"])):
            key = source, channel.removesuffix(";1").removesuffix(";2")
            before = held.get(key)
            if before is not None and row["ts"] <= before[1] + _HAND_OVER:
                parents[find(name)] = find(before[0])
            held[key] = name, max(end_of(row), before[1]) if before else end_of(row)
    groups: dict[str, list[Row]] = {}
    for row, name in zip(ordered, names, strict=True):
        groups.setdefault(find(name), []).append(row)
    return [CdrGroup(members[0]["source"], _root(members), members) for members in groups.values()]


def _in_order(row: Row) -> tuple[Any, ...]:
    """By start; of rows that start in one second the first channel's is first, whichever was read first."""
    return row["ts"] or EPOCH, row["sequence"] or 0, _age(row["uniqueid"] or ""), str(row["source_row"])


def _root(rows: Sequence[Row]) -> str:
    linked = next((row["linkedid"] for row in rows if row["linkedid"]), None)
    if linked:
        return str(linked)
    ids = [str(row["uniqueid"]) for row in rows if row["uniqueid"]]
    return min(ids, key=_age) if ids else str(rows[0]["source_row"])


def _age(uniqueid: str) -> tuple[int, ...]:
    """`[systemname-]epoch.N` as numbers, so that the first channel comes first."""
    return tuple(int(part) for part in re.findall(r"\d+", uniqueid.rpartition("-")[2]))


def end_of(row: Mapping[str, Any]) -> datetime:
    """When the row ends; without an end its start and its duration."""
    began: datetime = row["ts"]
    end: datetime | None = row["end_ts"]
    return end or began + timedelta(milliseconds=row["duration_ms"] or 0)
