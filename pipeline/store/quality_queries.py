"""Reads about voice quality: figures by what a call went through, the worst legs, one call's legs, what is not joined.

As in `queries`: a reader in, plain rows out. Percentiles are of R; the MOS of a percentile is the MOS of that R
(percentiles of MOS would mix methods, and means of it are no MOS). Legs of codecs without published impairments
count in percentiles with a stand-in, which `grounded_pct` tells, and are left out of rankings.
"""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pipeline.errors import StoreError
from pipeline.protocols.emodel import band, mos
from pipeline.store.queries import Row, Source, rows_of

ENOUGH_PACKETS: Final = 100  # expected; with fewer a leg is not ranked

_KEYS: Final = {
    "all": "'all'",
    "trunk": "coalesce(l.endpoint, l.peer_ip)",
    "codec": "l.codec",
    "ua": "u.user_agent",
    "account": "c.accountcode",
    "hour": "strftime(date_trunc('hour', l.ts AT TIME ZONE $zone), '%Y-%m-%d %H:00')",
}
GROUPINGS: Final = tuple(_KEYS)

# Leg A's User-Agent is on its INVITE; leg B's is on the replies to the INVITE that the switch sent it.
_USER_AGENTS: Final = """
    LEFT JOIN (
        SELECT call_id, leg, arg_min(user_agent, ts) AS user_agent FROM (
            SELECT call_id, 'a' AS leg, user_agent, ts FROM sip
            WHERE method = 'INVITE' AND status IS NULL AND user_agent IS NOT NULL
                AND ($since IS NULL OR ts >= $since::TIMESTAMPTZ - INTERVAL 12 HOUR)
            UNION ALL
            SELECT call_id, 'b', user_agent, ts FROM sip
            WHERE method = 'INVITE' AND status BETWEEN 180 AND 299 AND user_agent IS NOT NULL
                AND ($since IS NULL OR ts >= $since::TIMESTAMPTZ - INTERVAL 12 HOUR)
        ) GROUP BY ALL
    ) u ON u.call_id = l.leg_call_id AND u.leg = l.leg"""
_ACCOUNTS: Final = """
    LEFT JOIN (SELECT call_id, any_value(accountcode) AS accountcode FROM cdr_call GROUP BY call_id) c
        ON c.call_id = l.call_id"""


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
    if by not in _KEYS:
        raise StoreError(f"no quality by {by!r}: there are {', '.join(GROUPINGS)}")
    spread = ", ".join(
        f"quantile_cont({column}, {share}) AS {name}_p{round(share * 100)}"
        for column, name, shares in (
            ("r_factor", "r", (0.05, 0.5, 0.95)),
            ("loss_pct", "loss_pct", (0.5, 0.95)),
            ("jitter_ms", "jitter_ms", (0.5, 0.95)),
            ("rtt_ms", "rtt_ms", (0.5, 0.95)),
        )
        for share in shares
    )
    joined = _USER_AGENTS if by == "ua" else _ACCOUNTS if by == "account" else ""
    sql = f"""
        SELECT $by AS by, coalesce({_KEYS[by]}, '-') AS key, count(DISTINCT coalesce(l.call_id, l.unit)) AS calls,
            count(l.r_factor) AS rated, count(*) - count(l.r_factor) AS unrated,
            100.0 * count(*) FILTER (l.grounded) / nullif(count(l.r_factor), 0) AS grounded_pct, {spread}
        FROM leg_quality_best($since, $until, NULL) l {joined}
        GROUP BY key ORDER BY {"key" if by == "hour" else "r_p5 NULLS LAST, key"}"""
    given: Row = {"by": by, "since": since, "until": until}
    if by == "hour":
        given["zone"] = zone
    found = rows_of(source, sql, given)
    for row in found:
        for share in ("p5", "p50", "p95"):
            r = row[f"r_{share}"]
            row[f"mos_{share}"] = None if r is None else mos(r)
    return found


def worst(
    source: Source, *, since: datetime | None = None, until: datetime | None = None, limit: int = 20
) -> list[Row]:
    """The directions with the lowest R, with the length of the call beside; see `ENOUGH_PACKETS`."""
    sql = """
        SELECT l.ts, l.call_id, l.leg, l.direction, l.r_factor, coalesce(l.mos_cq, l.mos_lq) AS mos, l.mos_method,
            l.loss_pct, l.jitter_ms, l.rtt_ms, l.codec, coalesce(l.endpoint, l.peer_ip) AS trunk,
            date_diff('millisecond', l.ts, l.end_ts) / 1000 AS seconds, l.packets, l.grounded, l.flags, l.source
        FROM leg_quality_best($since, $until, NULL) l
        WHERE l.r_factor IS NOT NULL AND (l.grounded OR l.codec IS NULL)
            AND (l.reports >= 2 OR coalesce(l.packets, 0) + greatest(coalesce(l.lost, 0), 0) >= $enough)
        ORDER BY l.r_factor, l.ts DESC, l.call_id, l.leg, l.direction LIMIT $limit"""
    given = {"since": since, "until": until, "limit": limit, "enough": ENOUGH_PACKETS}
    found = rows_of(source, sql, given)
    for row in found:
        row["band"] = band(row["r_factor"])
    return found


def call_legs(source: Source, call_id: str) -> list[Row]:
    """All that is known of a call's quality, the preferred record of each leg and direction marked `best`."""
    sql = """
        SELECT l.*, b.unit IS NOT NULL AS best
        FROM (SELECT * FROM leg_quality WHERE call_id = $call_id) l
        LEFT JOIN (SELECT unit, leg, direction, coalesce(leg_name, '') AS leg_name
            FROM leg_quality_best(NULL, NULL, $call_id)) b
            ON b.unit = l.unit AND b.leg = l.leg AND b.direction = l.direction
            AND b.leg_name = coalesce(l.leg_name, '')
        ORDER BY l.leg, l.ts, l.direction, NOT best, l.source"""
    return rows_of(source, sql, {"call_id": call_id})


def call_cdrs(source: Source, call_id: str) -> list[Row]:
    """The calls of the CDRs with this Call-ID: several when it was used again, or several sources have it."""
    return rows_of(
        source, "SELECT * FROM cdr_call WHERE call_id = $call_id ORDER BY start_ts", {"call_id": call_id}
    )


def call_of_leg(source: Source, call_id: str) -> str | None:
    """The Call-ID of the call that the one with `call_id` is leg B of; None where nobody says so."""
    sql = """
        SELECT call_id FROM call_leg
        WHERE name = $call_id AND leg = 'b' AND call_id IS NOT NULL AND call_id <> $call_id
        ORDER BY tied_by LIMIT 1"""
    return next((row["call_id"] for row in rows_of(source, sql, {"call_id": call_id})), None)


def why_without_cdr(source: Source, call_id: str) -> str | None:
    """The reason why no CDR is joined with a call on the mirror; None when one is."""
    sql = "SELECT reason FROM sip_unjoined WHERE call_id = $call_id"
    return next((row["reason"] for row in rows_of(source, sql, {"call_id": call_id})), None)


def join_counts(source: Source, *, since: datetime | None = None, until: datetime | None = None) -> list[Row]:
    """How many calls are joined, and how many are not and why: what, reason, calls."""
    sql = """
        SELECT * FROM (
            SELECT 'joined' AS what, NULL AS reason, count(*) AS calls FROM call_join
            WHERE in_sip AND in_cdr AND ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)
            UNION ALL
            SELECT 'CDR without SIP', reason, count(*) FROM cdr_unjoined
            WHERE ($since IS NULL OR start_ts >= $since) AND ($until IS NULL OR start_ts < $until) GROUP BY reason
            UNION ALL
            SELECT 'SIP without CDR', reason, count(*) FROM sip_unjoined
            WHERE ($since IS NULL OR first_ts >= $since) AND ($until IS NULL OR first_ts < $until) GROUP BY reason
        ) ORDER BY what DESC, calls DESC, reason"""
    return rows_of(source, sql, {"since": since, "until": until})
