"""Questions about REGISTERs that were refused: wrong passwords, storms, scanners.

A REGISTER is one Call-ID and CSeq, however many hops it passes. It is refused when it ended in no 2xx. A reply that
asks to send it again (a challenge, 401 or 407) is no refusal of its own when one of the next two CSeq of the same
Call-ID comes to another end, good or bad (RFC 3261 22.2); what is too young to tell is left out. So a wrong password
counts once where it is answered by 403, and twice where it is answered by another challenge.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from pipeline.errors import StoreError
from pipeline.instants import EPOCH
from pipeline.store.call_queries import Question
from pipeline.store.queries import Row, Source, rows_of

SCANNED_ACCOUNTS: Final = 10  # so many accounts tried from one address, and hardly one let in: a scanner
SCANNER_REFUSED_PCT: Final = 90.0
STORM_PER_MINUTE: Final = 60  # so many from one address (to one account) in a minute: a storm
_RETRY: Final = timedelta(seconds=5)  # within which a phone answers a challenge
_LONGEST: Final = timedelta(seconds=32)  # of a transaction: 64 T1 (RFC 3261 17.1.2.2)

# Which REGISTERs of [since, until) were refused: `status` NULL means that no final reply came. The texts of those
# few are fetched in a second pass, so that the first one, over all, is cheap.
_AGAIN: Final = "(401, 407, 421, 423, 494)"
_REFUSED: Final = f"""
    registers AS MATERIALIZED (
        SELECT hash(call_id) AS call, cseq, min(ts) AS ts,
            coalesce(min(msg_id) FILTER (status IS NULL), min(msg_id)) AS msg_id,
            coalesce(min(status) FILTER (status BETWEEN 200 AND 299), max(status) FILTER (status >= 300)) AS status
        FROM sip WHERE method = 'REGISTER' AND ts >= $back_to AND ts < $on_to GROUP BY ALL
    ),
    decided AS (SELECT call, cseq - unnest([1, 2]) AS cseq FROM registers WHERE status NOT IN {_AGAIN}),
    suspects AS (
        SELECT *, coalesce(status IN {_AGAIN}, false) AS again FROM registers
        WHERE ts >= $since AND ts < $until AND coalesce(status >= 300, ts < $answered_by)
    ),
    refused AS MATERIALIZED (
        SELECT call, ts, msg_id, status FROM suspects WHERE NOT again
        UNION ALL
        SELECT call, ts, msg_id, status FROM suspects ANTI JOIN decided USING (call, cseq)
        WHERE again AND ts < $retried_by
    ),
    told AS (
        SELECT r.ts, r.status, CASE WHEN s.status IS NULL THEN s.src_ip ELSE s.dst_ip END AS src_ip,
            concat('sip:', s.to_user, '@', s.to_host) AS aor, s.user_agent, s.call_id
        FROM sip s JOIN refused r ON s.msg_id = r.msg_id
        WHERE s.method = 'REGISTER' AND s.ts >= $back_to AND s.ts < $on_to
    )"""
_STATUSES: Final = """
    count(*) FILTER (status IN (401, 407)) AS unauthorized, count(*) FILTER (status = 403) AS forbidden,
    count(*) FILTER (status = 404) AS not_found,
    count(*) FILTER (status NOT IN (401, 403, 404, 407)) AS other, count(*) FILTER (status IS NULL) AS unanswered"""

GROUPINGS: Final = {"source": "src_ip", "account": "aor"}


def refusals(
    source: Source,
    *,
    by: str = "source",
    ip: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    limit: int = 100,
) -> Question:
    """Refused REGISTERs by source address or by account, the most first; of the address `ip` only, if given.

    Columns: src_ip or aor, refused, unauthorized (401, 407), forbidden (403), not_found (404), other, unanswered,
    accounts and sources (how many), tried (up to five accounts, the most tried first), user_agent (the most
    frequent), user_agents (how many), per_minute_max (the busiest minute), accepted (REGISTERs from there that were
    let in, by source only), first, last, call_id (the last one), and kind by source: scanner, storm, or refused.
    Raises StoreError for another `by`.
    """
    if by not in GROUPINGS:
        raise StoreError(f"no refusals by {by!r}: there are {', '.join(GROUPINGS)}")
    key = GROUPINGS[by]
    sql = f"""
        WITH {_REFUSED},
        minutes AS (
            SELECT {key}, max(refused) AS per_minute_max FROM (
                SELECT {key}, time_bucket(INTERVAL 1 MINUTE, ts) AS minute, count(*) AS refused
                FROM told WHERE $ip IS NULL OR src_ip = $ip GROUP BY ALL
            ) GROUP BY ALL
        ),
        grouped AS (
            SELECT {key}, count(*) AS refused, {_STATUSES}, count(DISTINCT aor) AS accounts,
                count(DISTINCT src_ip) AS sources, approx_top_k(aor, 5) AS tried, mode(user_agent) AS user_agent,
                count(DISTINCT user_agent) AS user_agents, min(ts) AS first, max(ts) AS last,
                arg_max(call_id, ts) AS call_id
            FROM told WHERE $ip IS NULL OR src_ip = $ip GROUP BY ALL
        ),
        let_in AS (
            SELECT dst_ip AS src_ip, count(*) AS accepted FROM sip
            WHERE method = 'REGISTER' AND status BETWEEN 200 AND 299 AND ts >= $since AND ts < $until GROUP BY ALL
        )
        SELECT grouped.*, per_minute_max, {_KIND if by == "source" else "NULL AS accepted, NULL AS kind"}
        FROM grouped JOIN minutes USING ({key}) {"LEFT JOIN let_in USING (src_ip)" if by == "source" else ""}
        ORDER BY refused DESC, {key} LIMIT $limit"""
    given = {**_window(source, since, until), "ip": ip, "limit": limit}
    if by == "source":
        given |= {"scanned": SCANNED_ACCOUNTS, "share": SCANNER_REFUSED_PCT, "storm": STORM_PER_MINUTE}
    return Question(sql, given)


def refusals_by_step(source: Source, *, since: datetime, until: datetime, step_s: int) -> Question:
    """For each step of `step_s` seconds in [since, until): at (its start), refused, unauthorized, forbidden,
    not_found, other, unanswered, sources."""
    sql = f"""
        WITH {_REFUSED},
        counted AS (
            SELECT time_bucket(to_seconds($step_s), ts) AS at, count(*) AS refused, {_STATUSES},
                count(DISTINCT src_ip) AS sources
            FROM told GROUP BY ALL
        ),
        steps AS (
            SELECT unnest(generate_series(time_bucket(to_seconds($step_s), $since::TIMESTAMPTZ),
                $until::TIMESTAMPTZ - INTERVAL 1 MICROSECOND, to_seconds($step_s))) AS at
        )
        SELECT s.at, {", ".join(f"coalesce({name}, 0) AS {name}" for name in _COUNTS)}
        FROM steps s LEFT JOIN counted c ON s.at = c.at ORDER BY s.at"""
    return Question(sql, {**_window(source, since, until), "step_s": step_s})


_COUNTS: Final = ("refused", "unauthorized", "forbidden", "not_found", "other", "unanswered", "sources")
_KIND: Final = """coalesce(accepted, 0) AS accepted,
    CASE WHEN accounts >= $scanned AND 100.0 * refused / (refused + coalesce(accepted, 0)) >= $share THEN 'scanner'
        WHEN per_minute_max >= $storm THEN 'storm' ELSE 'refused' END AS kind"""


def first_message(source: Source) -> datetime | None:
    """When the first SIP message that is stored was; None where there is none."""
    at: datetime | None = rows_of(source, "SELECT min(ts) AS at FROM sip")[0]["at"]
    return at


def _window(source: Source, since: datetime | None, until: datetime | None) -> Row:
    now = datetime.now(UTC)
    since = max(since or first_message(source) or now, EPOCH)
    until = until or now
    return {
        "since": since,
        "until": until,
        "back_to": since - _LONGEST,
        "on_to": until + _LONGEST,
        "retried_by": now - _RETRY,
        "answered_by": now - _LONGEST,
    }
