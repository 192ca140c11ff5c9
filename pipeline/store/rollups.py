"""Counts that outlive what they count: SIP messages by minute, voice quality by hour.

Both go by the time of commits, and note with each row how far they have come: rows and mark are one commit, so
nothing is counted twice or left out, whenever a pass is cut off. What comes late counts where it belongs: a late
message adds a row to its minute, a late leg has its hour made again.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.errors import StoreError
from pipeline.store.commits import Span, newest
from pipeline.store.writer import Writer

_HOURS_AT_ONCE: Final = 24
_CHANGING: Final = timedelta(days=2)  # facts about a leg come in within that

_SPREAD: Final = ", ".join(
    f"quantile_cont({column}, {share}) AS {name}_p{round(share * 100)}"
    for column, name, shares in (
        ("r_factor", "r", (0.05, 0.5, 0.95)),
        ("loss_pct", "loss_pct", (0.5, 0.95)),
        ("jitter_ms", "jitter_ms", (0.5, 0.95)),
        ("rtt_ms", "rtt_ms", (0.5, 0.95)),
    )
    for share in shares
)


def count_messages(writer: Writer) -> int:
    """Count the SIP messages that were committed since the last pass into `sip_minute`; returns how many.

    Raises StoreError or duckdb.Error; the next pass goes on from what is stored.
    """
    with writer.cursor() as cursor:
        cursor.execute("USE lake")
        new = _new(cursor, "sip", "sip_minute")
        if new.is_empty:
            return 0
        counts = cursor.execute(
            f"""
            SELECT date_trunc('minute', ts) AS minute, method, status // 100 AS status_class,
                count(*) AS messages, sum(payload_bytes)::BIGINT AS bytes, $committed_to AS counted_to
            FROM sip WHERE {new.condition} AND ts IS NOT NULL
            GROUP BY ALL""",
            new.parameters,
        ).to_arrow_table()
    _store(writer, "sip_minute", counts)
    return int(pc.sum(counts["messages"]).as_py() or 0)


def rate_hours(writer: Writer) -> int:
    """Make the hours of `quality_hour` again of which a leg is new or changed since the last pass; how many.

    Raises StoreError or duckdb.Error; the next pass goes on from what is stored.
    """
    with writer.cursor() as cursor:
        cursor.execute("USE lake")
        new = _new(cursor, "leg_quality_state", "quality_hour_state")
        hours = [] if new.is_empty else _touched_hours(cursor, new)
        for first in range(0, len(hours), _HOURS_AT_ONCE):
            some = hours[first : first + _HOURS_AT_ONCE]
            counted_to = new.to if some[-1] == hours[-1] else new.after
            made = [_hour(cursor, hour, counted_to) for hour in some]
            _store(writer, "quality_hour", pa.concat_tables(made, promote_options="permissive"))
    return len(hours)


def _touched_hours(cursor: duckdb.DuckDBPyConnection, new: Span) -> list[datetime]:
    """The hours of new and changed legs, also those in which earlier revisions of such a leg had it."""
    found = cursor.execute(
        f"""
        SELECT DISTINCT date_trunc('hour', ts) AS hour FROM leg_quality_state
        WHERE ts IS NOT NULL AND ($changing IS NULL OR recorded_at >= $changing)
            AND unit IN (SELECT unit FROM leg_quality_state WHERE {new.condition})
        ORDER BY hour""",
        {"changing": new.after and new.after - _CHANGING, **new.parameters},
    ).to_arrow_table()
    hours: list[datetime] = found["hour"].to_pylist()
    return hours


def _hour(cursor: duckdb.DuckDBPyConnection, hour: datetime, counted_to: datetime | None) -> pa.Table:
    """The rows of one hour; one that says nothing, where it has no legs any more."""
    made = cursor.execute(
        f"""
        SELECT $hour::TIMESTAMPTZ AS hour, coalesce(endpoint, peer_ip) AS trunk, codec, count(*) AS directions,
            count(r_factor) AS rated, count(r_factor) FILTER (grounded) AS grounded, avg(r_factor) AS r_mean,
            {_SPREAD}, $counted_to::TIMESTAMPTZ AS counted_to
        FROM leg_quality_best($hour::TIMESTAMPTZ, $hour::TIMESTAMPTZ + INTERVAL 1 HOUR, NULL)
        GROUP BY trunk, codec""",
        {"hour": hour, "counted_to": counted_to},
    ).to_arrow_table()
    if made.num_rows:
        return made
    return pa.Table.from_pylist([{"hour": hour, "counted_to": counted_to}], made.schema)


def _store(writer: Writer, table: str, rows: pa.Table) -> None:
    if rows.num_rows:
        if writer.status().is_behind:  # what waits is not seen here, and would be counted again
            raise StoreError("the store does not write at the moment, or is behind")
        done = writer.append(table, rows)
        writer.flush()
        done.result()


def _new(cursor: duckdb.DuckDBPyConnection, table: str, counts: str) -> Span:
    """The rows of `table` that `counts` does not know of yet."""
    found = cursor.execute(f"SELECT max(counted_to) AS mark FROM {counts}").to_arrow_table()
    return Span(found["mark"][0].as_py(), newest(cursor, [table])[table])
