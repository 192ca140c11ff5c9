"""Reads about voice quality: figures by what a call went through, the worst legs, one call's legs, what is not joined.

As in `queries`: a reader in, plain rows out. What figures are made of, `heard_queries` says.
"""

from __future__ import annotations

from datetime import datetime

from pipeline.protocols.emodel import band
from pipeline.store.heard_queries import ENOUGH, ENOUGH_PACKETS, GROUPINGS, overview
from pipeline.store.queries import Row, Source, rows_of

__all__ = [
    "ENOUGH_PACKETS",
    "GROUPINGS",
    "call_cdrs",
    "call_legs",
    "figures",
    "join_counts",
    "why_without_cdr",
    "worst",
]


def figures(
    source: Source,
    *,
    by: str = "all",
    since: datetime | None = None,
    until: datetime | None = None,
    zone: str = "UTC",
) -> list[Row]:
    """For each value of `by` (of `GROUPINGS`): calls, directions rated and not, R and MOS at p5, p50, p95, and loss,
    jitter and round trip at p50 and p95; the worst p5 first, hours in order. Raises StoreError for another `by`."""
    rows = overview(source, ["by"], by=by, since=since, until=until, zone=zone)["by"]
    return [{"by": by, **row} for row in rows]


def worst(
    source: Source, *, since: datetime | None = None, until: datetime | None = None, limit: int = 20
) -> list[Row]:
    """The directions with the lowest R, with the length of the call beside; see `ENOUGH_PACKETS`."""
    sql = f"""
        SELECT l.ts, l.call_id, l.leg, l.direction, l.r_factor, coalesce(l.mos_cq, l.mos_lq) AS mos, l.mos_method,
            l.loss_pct, l.jitter_ms, l.rtt_ms, l.codec, coalesce(l.endpoint, l.peer_ip) AS trunk,
            date_diff('millisecond', l.ts, l.end_ts) / 1000 AS seconds, l.packets, l.grounded, l.flags, l.source
        FROM leg_quality_best($since, $until, NULL) l
        WHERE l.r_factor IS NOT NULL AND (l.grounded OR l.codec IS NULL)
            AND {ENOUGH}
        ORDER BY l.r_factor, l.ts DESC, l.call_id, l.leg, l.direction LIMIT $limit"""
    given = {"since": since, "until": until, "limit": limit, "enough": ENOUGH_PACKETS}
    found = rows_of(source, sql, given)
    for row in found:
        row["band"] = band(row["r_factor"])
    return found


def call_legs(source: Source, call_id: str) -> list[Row]:
    """All that is known of a call's quality, the preferred record of each leg and direction marked `best`."""
    sql = """
        FROM (
            SELECT * EXCLUDE (row_id, revision, recorded_at),
                row_id IN (FROM leg_quality_chosen(NULL, NULL, $call_id)) AS best
            FROM leg_quality_newest($call_id)
        )
        ORDER BY leg, ts, direction, NOT best, source"""
    return rows_of(source, sql, {"call_id": call_id})


def call_cdrs(source: Source, call_id: str) -> list[Row]:
    """The calls of the CDRs with this Call-ID: several when it was used again, or several sources have it."""
    return rows_of(
        source, "SELECT * FROM cdr_call WHERE call_id = $call_id ORDER BY start_ts", {"call_id": call_id}
    )


def why_without_cdr(source: Source, call_id: str, began: datetime) -> str | None:
    """The reason why no CDR is joined with a call on the mirror that `began` then; None when one is."""
    sql = """
        SELECT reason FROM call_without_cdr($began, $began::TIMESTAMPTZ + INTERVAL 1 MICROSECOND)
        WHERE call_id = $call_id"""
    asked = {"call_id": call_id, "began": began}
    return next((row["reason"] for row in rows_of(source, sql, asked)), None)


def join_counts(source: Source, *, since: datetime | None = None, until: datetime | None = None) -> list[Row]:
    """How many calls are joined, and how many are not and why: what, reason, calls."""
    sql = """
        SELECT * FROM (
            SELECT 'joined' AS what, NULL AS reason, count(*) AS calls FROM call_join($since, $until)
            WHERE in_sip AND in_cdr
            UNION ALL
            SELECT 'CDR without SIP', reason, count(*) FROM cdr_unjoined
            WHERE ($since IS NULL OR start_ts >= $since) AND ($until IS NULL OR start_ts < $until) GROUP BY reason
            UNION ALL
            SELECT 'SIP without CDR', reason, count(*) FROM call_without_cdr($since, $until) GROUP BY reason
        ) ORDER BY what DESC, calls DESC, reason"""
    return rows_of(source, sql, {"since": since, "until": until})
