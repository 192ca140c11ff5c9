"""Questions about how calls sounded over some time. To find which records of legs count is the costly thing: it is done
once (`heard`), and all parts of a report are made of it in the same statement, from one snapshot.

Percentiles are of R; the MOS of a percentile is the MOS of that R (percentiles of MOS would mix methods, and means of
it are no MOS). Directions of codecs without published impairments count in percentiles with a stand-in, which
`grounded` tells, and so do those of few packets, which `enough` tells; both are left out of rankings.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from functools import cache
from typing import Final

from pipeline.errors import StoreError
from pipeline.protocols.emodel import band, mos
from pipeline.store.queries import Row, Source, rows_of

ENOUGH_PACKETS: Final = 100  # expected; with fewer a direction is not ranked
# Of a direction `l`, with ENOUGH_PACKETS bound to `enough`. Reports come every five seconds or so, and some sources of
# them count no packets.
ENOUGH: Final = "(l.reports >= 2 OR coalesce(l.packets, 0) + greatest(coalesce(l.lost, 0), 0) >= $enough)"

EDGES: Final[dict[str, tuple[float, ...]]] = {
    "loss_pct": (0, 0.1, 0.2, 0.5, 1, 2, 3, 5, 10, 20),
    "jitter_ms": (1, 2, 5, 10, 20, 30, 40, 50, 75, 100, 200),
    "rtt_ms": (10, 20, 50, 100, 150, 200, 300, 400, 600, 1000),
}
"""Upper ends of the steps in which each figure is counted; what lies beyond the last is a step of its own. Narrow where
people hear nothing yet, with an edge at each threshold (loss 1 and 3 %, jitter 30 ms, round trip 300 ms)."""

_KEYS: Final = {
    "all": "'all'",
    "trunk": "coalesce(l.endpoint, l.peer_ip)",
    "codec": "l.codec",
    "ua": "u.user_agent",
    "account": "c.accountcode",
    "hour": "strftime(date_trunc('hour', l.ts AT TIME ZONE $zone), '%Y-%m-%d %H:00')",
    "network": """CASE WHEN contains(n.peer_ip, ':')
            THEN array_to_string(string_split(split_part(n.peer_ip, '::', 1), ':')[1:3], ':') || '::/48'
            ELSE regexp_replace(n.peer_ip, '[0-9]+$', '0/24') END""",
}
GROUPINGS: Final = tuple(_KEYS)

_NEAR: Final = """($since IS NULL OR ts >= $since::TIMESTAMPTZ - INTERVAL 1 HOUR)
            AND ($until IS NULL OR ts < $until::TIMESTAMPTZ + INTERVAL 1 HOUR)"""
_JOINS: Final = {
    # Leg A's User-Agent is on its INVITE; leg B's is on the replies to the INVITE that the switch sent it.
    "ua": """
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
    ) u ON u.call_id = l.leg_call_id AND u.leg = l.leg""",
    "account": """
    LEFT JOIN (SELECT call_id, any_value(accountcode) AS accountcode FROM cdr_call GROUP BY call_id) c
        ON c.call_id = l.call_id""",
    # Where the phone's media come from. Not every source knows: of the records of a leg any that does will do.
    "network": f"""
    LEFT JOIN (
        SELECT call_id, leg, any_value(peer_ip) AS peer_ip FROM leg_quality
        WHERE peer_ip IS NOT NULL AND {_NEAR} GROUP BY ALL
    ) n ON n.call_id = l.call_id AND n.leg = l.leg""",
}

_HEARD: Final = """
    heard AS MATERIALIZED (
        SELECT l.row_id, l.ts, hash(coalesce(l.call_id, l.unit)) AS of_call, l.r_factor, l.loss_pct, l.jitter_ms,
            l.rtt_ms, l.codec, l.mos_method, l.source, l.grounded, l.mos_cq IS NOT NULL AS conversational,
            coalesce({enough}, false) AS enough, {key} AS key
        FROM (
            SELECT rowid AS row_id, * FROM leg_quality_state
            WHERE rowid IN (FROM leg_quality_chosen($since, $until, NULL))
                AND ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)
        ) l {join}
    )"""
_CALLS: Final = "count(DISTINCT of_call) AS calls"
_R: Final = """count(r_factor) AS rated,
            count(*) FILTER (r_factor IS NOT NULL AND enough) AS enough,
            quantile_cont(r_factor, [0.05, 0.5, 0.95]) AS r_p"""
_RANKED: Final = "(grounded OR codec IS NULL) AND enough"
_ROWS_A_CALL: Final = 16  # it has up to four directions, more when it was forked
# The columns of the few rows that it takes are read in the same statement: row numbers hold for one snapshot only.
_WORST: Final = f"""
            WITH lowest AS (
                SELECT row_id FROM heard WHERE r_factor IS NOT NULL AND coalesce({{ranked}}, false)
                ORDER BY r_factor, ts DESC LIMIT {_ROWS_A_CALL} * $limit
            ),
            page AS (
                SELECT l.*, coalesce(l.call_id, l.unit) AS of_call
                FROM leg_quality_state l WHERE l.rowid IN (FROM lowest)
                QUALIFY row_number() OVER (PARTITION BY of_call ORDER BY r_factor, ts DESC, leg, direction) = 1
                ORDER BY r_factor, ts DESC, of_call LIMIT $limit
            ),
            party AS (
                SELECT call_id, arg_max(from_user, recorded_at) AS from_user, arg_max(to_user, recorded_at) AS to_user
                FROM call_state WHERE call_id IN (SELECT call_id FROM page) GROUP BY call_id
            ),
            billed AS (
                SELECT call_id, any_value(src) AS src, any_value(dst) AS dst
                FROM cdr_call WHERE call_id IN (SELECT call_id FROM page) GROUP BY call_id
            )
            SELECT p.ts, p.call_id, coalesce(party.from_user, billed.src) AS from_user,
                coalesce(party.to_user, billed.dst) AS to_user, p.leg, p.direction, p.r_factor,
                coalesce(p.mos_cq, p.mos_lq) AS mos, p.mos_method, p.grounded,
                date_diff('millisecond', p.ts, p.end_ts) / 1000 AS seconds,
                p.packets + greatest(coalesce(p.lost, 0), 0) AS due, p.reports, p.loss_pct,
                p.jitter_ms, p.rtt_ms, p.codec,
                coalesce(p.endpoint, p.peer_ip) AS trunk, p.flags, p.source
            FROM page p LEFT JOIN party USING (call_id) LEFT JOIN billed USING (call_id)"""

_DAY_S: Final = 86_400
NO_STEPS: Final = (_DAY_S, datetime(2000, 1, 1, tzinfo=UTC))


@cache
def band_limits() -> dict[str, float]:
    """The lowest R of each band, the best first: they lie on whole numbers (G.107 annex B)."""
    return {band(r): float(r) for r in range(100, -1, -1)}


def span(
    source: Source, since: datetime | None = None, until: datetime | None = None
) -> tuple[datetime, datetime, int] | None:
    """When the first and the last leg of [since, until) began that anything is known of, and about how many directions
    that are; None when there is none."""
    sql = """
        SELECT min(ts) AS first, max(ts) AS last, count(*) AS directions FROM leg_quality_state
        WHERE ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)"""
    row = rows_of(source, sql, {"since": since, "until": until})[0]
    return None if row["first"] is None else (row["first"], row["last"], row["directions"])


def _bands() -> str:
    limits = list(band_limits().values())
    counts = ", ".join(
        f"count(*) FILTER (r_factor >= {low} AND r_factor < {high})"
        for low, high in zip(limits, [1000.0, *limits], strict=False)
    )
    return f"""SELECT unnest({list(band_limits())}) AS band, unnest({limits}::DOUBLE[]) AS r_from,
            unnest([{counts}]) AS directions FROM heard"""


def _spread() -> str:
    return " UNION ALL ".join(
        f"SELECT '{figure}' AS figure, unnest(map_keys(h)) AS high, unnest(map_values(h)) AS directions"
        f" FROM (SELECT histogram({figure}, {[float(edge) for edge in edges]}::DOUBLE[]) AS h FROM heard)"
        for figure, edges in EDGES.items()
    )


def _parts(whole_days: bool) -> dict[str, str]:
    """Name of each part -> its SELECT."""
    # Steps of hours begin at the reader's midnight; steps of days are days of his calendar, some of 23 hours.
    days = "time_bucket(to_seconds($step_s), ts AT TIME ZONE $zone) AT TIME ZONE $zone"
    step = days if whole_days else "time_bucket(to_seconds($step_s), ts, $midnight::TIMESTAMPTZ)"
    return {
        "total": f"""SELECT count(DISTINCT of_call) FILTER (r_factor IS NOT NULL) AS calls, {_R},
            count(*) AS directions, count(*) FILTER (grounded AND r_factor IS NOT NULL) AS grounded FROM heard""",
        "over_time": f"SELECT {step} AS at, {_R} FROM heard GROUP BY ALL",
        "bands": _bands(),
        "spread": _spread(),
        "by_hour": f"""SELECT isodow(local) AS weekday, hour(local) AS hour, {_R}
            FROM (SELECT *, ts AT TIME ZONE $zone AS local FROM heard) GROUP BY ALL""",
        "by": f"""SELECT coalesce(key, '-') AS key, {_CALLS}, {_R}, count(*) - count(r_factor) AS unrated,
            100.0 * count(*) FILTER (grounded) / nullif(count(r_factor), 0) AS grounded_pct,
            quantile_cont(loss_pct, [0.5, 0.95]) AS loss_pct_p, quantile_cont(jitter_ms, [0.5, 0.95]) AS jitter_ms_p,
            quantile_cont(rtt_ms, [0.5, 0.95]) AS rtt_ms_p
            FROM heard GROUP BY ALL""",
        "methods": """SELECT mos_method, conversational, codec, grounded, source, count(*) AS directions,
            count(*) FILTER (enough) AS enough
            FROM heard WHERE r_factor IS NOT NULL GROUP BY ALL""",
        "worst": _WORST.format(ranked=_RANKED),
        "unranked": _WORST.format(ranked=f"NOT ({_RANKED})"),
    }


PARTS: Final = tuple(_parts(True))


def overview(
    source: Source,
    parts: Sequence[str] = PARTS,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    by: str = "all",
    zone: str = "UTC",
    steps: tuple[int, datetime] = NO_STEPS,
    limit: int = 20,
) -> dict[str, list[Row]]:
    """Name of each of `parts` -> its rows, in no order but where one is named:

    total      calls (rated), directions, rated, enough, grounded, r_*, mos_*
    over_time  at (start of a step), rated, enough, r_*, mos_*; `steps`: seconds, and where steps of hours begin
    bands      band (words of `emodel.band`), r_from, directions; the best first
    spread     figure (of `EDGES`), high (upper end of the step, infinite for the last), directions
    by_hour    weekday (1 is Monday), hour, rated, enough, r_*, mos_*; in `zone`
    by         key (of `by`, one of GROUPINGS), calls, rated, unrated, enough, grounded_pct, r_*, mos_*, loss_pct_*,
               jitter_ms_*, rtt_ms_*; the worst p5 first, hours in order
    methods    mos_method, conversational, codec, grounded, source, directions, enough
    worst      the `limit` calls with the lowest R, each with its worst direction: ts, call_id, from_user,
               to_user, leg, direction, r_factor, band, mos, mos_method, grounded, seconds (length of the leg), due
               (packets expected), reports, loss_pct, jitter_ms, rtt_ms, codec, trunk, flags, source
    unranked   the same of those that are left out of rankings

    r_* and mos_* are p5, p50, p95; the others p50 and p95. `rated` are directions with an R, `enough` those of them
    with enough packets. Raises StoreError for another `by`.
    """
    if by not in _KEYS:
        raise StoreError(f"no quality by {by!r}: there are {', '.join(GROUPINGS)}")
    step_s, midnight = steps
    selects = _parts(step_s % _DAY_S == 0)
    heard = _HEARD.format(enough=ENOUGH, key=_KEYS[by], join=_JOINS.get(by, ""))
    sql = f"WITH {heard} SELECT " + ", ".join(
        f"(SELECT list(p) FROM ({selects[name]}) p) AS {name}" for name in parts
    )
    given = {"since": since, "until": until, "enough": ENOUGH_PACKETS, "zone": zone}
    given |= {"step_s": step_s, "midnight": midnight, "limit": limit}
    used = {name: value for name, value in given.items() if f"${name}" in sql}
    answer = rows_of(source, sql, used)[0]
    found = {name: [_spelt(row) for row in answer[name] or ()] for name in parts}
    if "by" in found:
        found["by"].sort(key=_by_hour if by == "hour" else _by_r)
    for row in [*found.get("worst", ()), *found.get("unranked", ())]:
        row["band"] = band(row["r_factor"])
    for name in {"worst", "unranked"} & set(parts):
        found[name].sort(key=lambda row: (row["r_factor"], -row["ts"].timestamp()))
    return found


def _by_hour(row: Row) -> str:
    return str(row["key"])


def _by_r(row: Row) -> tuple[bool, float, str]:
    return (row["r_p5"] is None, row["r_p5"] or 0.0, row["key"])


def _spelt(row: Row) -> Row:
    """Lists of percentiles (`r_p`, `loss_pct_p` ...) as columns of their own, and the MOS of each R."""
    spelt: Row = {}
    for name, value in row.items():
        if not name.endswith("_p"):
            spelt[name] = value
            continue
        shares = ("5", "50", "95") if name == "r_p" else ("50", "95")
        values = value or [None] * len(shares)
        spelt |= {f"{name}{share}": each for share, each in zip(shares, values, strict=True)}
        if name == "r_p":
            spelt |= {f"mos_p{s}": None if r is None else mos(r) for s, r in zip(shares, values, strict=True)}
    return spelt
