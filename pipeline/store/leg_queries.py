"""Reads about the legs of one call: which other Call-IDs belong to it."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from pipeline.store.queries import Source, rows_of

_AROUND: Final = timedelta(hours=1)  # a CDR may tell it late, and clocks disagree
_MOST_LEGS: Final = 12


def other_legs(source: Source, call_id: str, root: str, at: datetime | None) -> list[str]:
    """Call-IDs of the other legs of the call whose leg A is `root` (`call_id` itself, or what it is leg B of).

    `at` is when the call began: it spares the search of other days.
    """
    sql = """
        SELECT DISTINCT name FROM call_leg
        WHERE call_id = $root AND kind = 'call-id' AND name <> $call_id
            AND ($since IS NULL OR (ts >= $since AND ts <= $until))
        ORDER BY name LIMIT $limit"""
    since = at and at - _AROUND
    until = at and at + _AROUND
    given = {"root": root, "call_id": call_id, "since": since, "until": until, "limit": _MOST_LEGS}
    found = [str(row["name"]) for row in rows_of(source, sql, given)]
    return [*([root] if root not in (call_id, *found) else []), *found]
