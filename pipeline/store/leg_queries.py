"""Reads about the legs of one call: which other Call-IDs belong to it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from pipeline.store.queries import Row, Source, messages_between, rows_of

_AROUND: Final = timedelta(hours=1)  # a CDR may tell it late, and clocks disagree
_MOST_LEGS: Final = 12

# As view `call_leg` has it, without a look at all units. Each condition alone lets parts of files be passed over.
_COLUMNS: Final = "name, kind, call_id, leg, tied_by, ts, end_ts, unit, revision"
_TOLD_OF: Final = f"""
    WITH told AS MATERIALIZED (
        SELECT {_COLUMNS} FROM call_leg_state WHERE name = $call_id
        UNION
        SELECT {_COLUMNS} FROM call_leg_state WHERE call_id = $call_id
    )
    SELECT name, kind, call_id, leg, ts, end_ts FROM told
    WHERE leg IS NOT NULL AND (unit, revision) IN (
        SELECT (unit, max(revision)) FROM call_leg_state WHERE unit IN (SELECT unit FROM told) GROUP BY unit)
    ORDER BY tied_by, name, ts"""


@dataclass(frozen=True, slots=True)
class Legs:
    """What is told of the legs of a call. `of` is the Call-ID of the call that this one is leg B of, where it is."""

    call_id: str
    of: str | None
    told: list[Row]  # rows of view `call_leg`, of the whole call


def legs(source: Source, call_id: str) -> Legs:
    """What CDRs and reports tell of the legs of the call that this Call-ID is a leg of."""
    told = _told_of(source, call_id)
    of = next(
        (
            row["call_id"]
            for row in told
            if row["name"] == call_id and row["leg"] == "b" and row["call_id"] not in (None, call_id)
        ),
        None,
    )
    return Legs(call_id, of, told if of is None else _told_of(source, of))


def other_messages(source: Source, known: Legs, at: datetime | None) -> dict[str, list[Row]]:
    """The messages of the other legs, by Call-ID, leg A first; of the call that was `at` then, should its Call-ID have
    been used again."""
    root = known.of or known.call_id
    rows = [
        row
        for row in known.told
        if row["kind"] == "call-id"
        and row["call_id"] == root
        and row["name"] != known.call_id
        and row["ts"] is not None
        and (row["name"] == root or at is None or abs(row["ts"] - at) <= _AROUND)
    ]
    names = sorted({str(row["name"]) for row in rows} - {root})[:_MOST_LEGS]
    if known.of is not None:
        names.insert(0, root)
    begins = [row["ts"] for row in rows] + ([at] if at else [])
    ends = [row["end_ts"] for row in rows]
    since = min(begins) - _AROUND if begins else None
    until = max(ends) + _AROUND if ends and None not in ends else None
    found: dict[str, list[Row]] = {name: [] for name in names}
    for row in messages_between(source, names, since, until) if names else ():
        found[row["call_id"]].append(row)
    return found


def _told_of(source: Source, call_id: str) -> list[Row]:
    return rows_of(source, _TOLD_OF, {"call_id": call_id})
