"""Legs that were rated lately, as events for detectors."""

from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime, timedelta
from typing import Final

import duckdb
import structlog

from pipeline.engine.events import LegRated
from pipeline.errors import StoreError
from pipeline.store.commits import Span, newest
from pipeline.store.writer import Writer

log = structlog.get_logger(__name__)

_TABLE: Final = "leg_quality_state"
_BACK: Final = timedelta(hours=1)  # at the start: what the last run did not live to hear
# The newest revision of each unit that came, both directions of a leg as one row; of calls that were answered.
_LEGS: Final = """
    WITH fresh AS (
        SELECT * FROM leg_quality_state WHERE {condition} AND leg IS NOT NULL
        QUALIFY revision = max(revision) OVER (PARTITION BY unit)
    ),
    answered AS (
        SELECT call_id FROM call_state WHERE call_id IN (SELECT call_id FROM fresh) AND answer_ts IS NOT NULL
        UNION
        SELECT call_id FROM cdr_call_state WHERE call_id IN (SELECT call_id FROM fresh) AND answer_ts IS NOT NULL
    )
    SELECT call_id, leg, leg_name AS name, max(endpoint) AS endpoint, max(peer_ip) AS peer_ip,
        max(source) AS source, epoch_us(min(ts)) AS ts_us, epoch_us(max(end_ts)) AS end_us,
        max(packets) FILTER (direction = 'incoming') AS incoming_packets,
        max(packets) FILTER (direction = 'outgoing') AS outgoing_packets, max(flags) AS flags
    FROM fresh WHERE call_id IN (FROM answered)
    GROUP BY unit, call_id, leg, leg_name
    ORDER BY end_us"""


class NewLegs:
    """Gives each leg once whenever it was rated; from any thread, one at a time."""

    def __init__(self, writer: Writer, now: datetime | None = None) -> None:
        self._writer = writer
        self._heard_to = (now or datetime.now(UTC)) - _BACK

    def poll(self) -> list[LegRated]:
        """As `take`, for a job: what fails is told, and done again the next time."""
        try:
            return self.take()
        except (duckdb.Error, StoreError) as error:
            log.warning("rated legs not looked at, will be tried again", error=str(error))
            return []

    def take(self) -> list[LegRated]:
        """The legs rated since the last time. Raises StoreError or duckdb.Error; then nothing was taken."""
        with closing(self._writer.cursor()) as cursor:
            cursor.execute("USE lake")
            span = Span(self._heard_to, newest(cursor, [_TABLE])[_TABLE])
            if span.is_empty:
                return []
            found = cursor.execute(_LEGS.format(condition=span.condition), span.parameters)
            rows = found.to_arrow_table().to_pylist()
        self._heard_to = span.to
        return [
            LegRated(
                ts_us=row["end_us"] or row["ts_us"] or 0,
                call_id=row["call_id"],
                leg=row["leg"],
                name=row["name"],
                endpoint=row["endpoint"],
                peer_ip=row["peer_ip"],
                source=row["source"] or "",
                seconds=((row["end_us"] or 0) - (row["ts_us"] or row["end_us"] or 0)) / 1e6,
                incoming_packets=row["incoming_packets"],
                outgoing_packets=row["outgoing_packets"],
                flags=frozenset((row["flags"] or "").split()),
            )
            for row in rows
        ]
