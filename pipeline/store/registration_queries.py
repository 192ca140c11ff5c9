"""Questions about bindings: who is registered, what changed, which phones come and go.

A binding is a contact of an account. It begins with an accepted REGISTER and lasts until the next one for it, until
the lifetime that was asked for is over (the registrar may have granted less), or until a REGISTER with expires 0 or
`Contact: *` takes it away (RFC 3261 10.2.2). A device with a +sip.instance has one binding wherever it is (RFC 5626);
without one, each contact URI is a binding.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from pipeline.errors import StoreError
from pipeline.instants import EPOCH
from pipeline.store.call_queries import Question
from pipeline.store.queries import Row, Source, rows_of

FLAPS: Final = 3  # so often a phone came back, or came from elsewhere, until it counts as flapping
_LONGEST_LIFE: Final = timedelta(
    days=400
)  # whoever asks for more shall not make every read look at everything

# Every accepted REGISTER and every removal of the account and window, in time order. Of what was `made`: until when,
# and what it followed on (`before` NULL: nothing that is known of). `lapsed`: the lifetime was over by then.
# Contacts are looked into only where it matters: of phones without an instance, and where something was removed.
_URIS: Final = """CASE WHEN contains(contact, '<') THEN regexp_extract_all(contact, '<([^>]*)>', 1)
    ELSE [trim(split_part(contact, ';', 1))] END"""
_LIVES: Final = f"""
    told AS NOT MATERIALIZED (
        SELECT *, CASE WHEN instance IS NOT NULL THEN instance ELSE coalesce(({_URIS})[1], device) END AS binding
        FROM registration WHERE ts >= $back_to AND ts <= $until AND ($account IS NULL OR aor = $account)
    ),
    made AS NOT MATERIALIZED (SELECT * FROM told WHERE event IN ('registered', 'refreshed')),
    taken AS NOT MATERIALIZED (SELECT * FROM told WHERE event = 'removed'),
    named AS (  -- what removals name besides their own
        SELECT * FROM (SELECT DISTINCT ts, aor, binding, unnest({_URIS}) AS uri FROM taken)
    ),
    there AS (
        SELECT DISTINCT aor, binding, unnest({_URIS}) AS uri FROM made WHERE aor IN (SELECT aor FROM taken)
    ),
    events AS NOT MATERIALIZED (
        SELECT 'made' AS what, * FROM made
        UNION ALL BY NAME SELECT 'removed' AS what, * FROM taken
        UNION ALL BY NAME
        SELECT DISTINCT 'removed' AS what, r.ts, r.aor, d.binding FROM named r JOIN there d
            ON r.aor = d.aor AND r.uri = d.uri AND r.binding <> d.binding
        UNION ALL BY NAME
        SELECT DISTINCT 'removed' AS what, r.ts, r.aor, d.binding
        FROM (SELECT * FROM named WHERE uri = '*') r JOIN there d ON r.aor = d.aor AND r.binding <> d.binding
    ),
    lives AS NOT MATERIALIZED (
        SELECT *, what = 'made' AND coalesce(before = 'made' AND last_ran_out < ts, false) AS lapsed,
            what = 'made' AND CASE WHEN before IS NULL THEN event = 'registered' ELSE before = 'removed' OR lapsed END
                AS anew,
            what = 'made' AND coalesce(before = 'made' AND NOT lapsed AND place <> last_place, false) AS moved
        FROM (
            SELECT *, ts + to_seconds(expires) AS runs_out, hash(src_ip, src_port, transport) AS place,
                least(runs_out, lead(ts) OVER one) AS ended, lag(what) OVER one AS before,
                lag(ts) OVER one AS before_ts, lag(runs_out) OVER one AS last_ran_out,
                lag(place) OVER one AS last_place
            FROM events WINDOW one AS (PARTITION BY hash(aor, binding) ORDER BY ts, what DESC)
        )
    )"""

_PHONE: Final = "coalesce(instance, user_agent, '-')"

BINDING_GROUPS: Final = {
    "user_agent": "coalesce(user_agent, '-')",
    "transport": "coalesce(transport, '-')",
    "address": "coalesce(src_ip, '-')",
    "account": "aor",
}


def bindings(
    source: Source,
    *,
    at: datetime | None = None,
    account: str | None = None,
    text: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Question:
    """Who is registered at that time (without one: now), by account, the newest first.

    Columns: aor, device, instance, user_agent, src_ip, src_port, transport, contact, refreshed_at, expires_s (asked
    for), left_s, call_id, node. `account` is an AOR (`sip:bob@sip.test`); `text` is looked for, whatever the case,
    in account, device, address, contact and User-Agent.
    """
    sql = f"""
        WITH {_LIVES}
        SELECT aor, device, instance, user_agent, src_ip, src_port, transport, contact, ts AS refreshed_at,
            expires AS expires_s, date_diff('second', $until::TIMESTAMPTZ, ended) AS left_s, call_id, node
        FROM lives WHERE what = 'made' AND ended > $until AND {_HAS_TEXT}
        ORDER BY aor, ts DESC, binding LIMIT $limit OFFSET $offset"""
    given = {**_until(source, at), "account": account, "text": text, "limit": limit, "offset": offset}
    return Question(sql, given)


def binding_counts(
    source: Source,
    *,
    at: datetime | None = None,
    by: str | None = None,
    text: str | None = None,
    limit: int = 100,
) -> Question:
    """How many are registered at that time: bindings, accounts, addresses; for each value of `by` (a key of
    `BINDING_GROUPS`) the most frequent first, or in all. Raises StoreError for another `by`."""
    if by is not None and by not in BINDING_GROUPS:
        raise StoreError(f"no bindings by {by!r}: there are {', '.join(BINDING_GROUPS)}")
    key = BINDING_GROUPS[by] if by else "'all'"
    sql = f"""
        WITH {_LIVES}
        SELECT {key} AS key, count(*) AS bindings, count(DISTINCT aor) AS accounts,
            count(DISTINCT src_ip) AS addresses
        FROM lives WHERE what = 'made' AND ended > $until AND {_HAS_TEXT}
        GROUP BY key ORDER BY bindings DESC, key LIMIT $limit"""
    return Question(sql, {**_until(source, at), "account": None, "text": text, "limit": limit})


def changes(
    source: Source,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    account: str | None = None,
    text: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> Question:
    """What changed in [since, until), newest first: registered (anew), refreshed, moved (refreshed from another
    address), removed. Columns as `bindings`, with ts and change instead of refreshed_at and left_s."""
    given = {"account": account, "text": text, "limit": limit, "offset": offset}
    window = _window(source, since, until)
    # What came before is looked at of the newest ones only.
    oldest = rows_of(
        source,
        f"""
        SELECT min(ts) AS ts FROM (
            SELECT ts FROM registration
            WHERE ts >= $since AND ts <= $until AND ($account IS NULL OR aor = $account) AND {_HAS_TEXT}
                AND event <> 'expired'
            ORDER BY ts DESC LIMIT $limit + $offset
        )""",
        {name: value for name, value in {**given, **window}.items() if name != "back_to"},
    )[0]["ts"]
    if oldest is not None:
        window = _window(source, oldest, window["until"])
    sql = f"""
        WITH {_LIVES}
        SELECT ts, aor, device, CASE WHEN what = 'removed' THEN 'removed' WHEN anew THEN 'registered'
                WHEN moved THEN 'moved' ELSE 'refreshed' END AS change,
            instance, user_agent, src_ip, src_port, transport, contact, expires AS expires_s, call_id, node
        FROM lives WHERE ts >= $since AND event IS NOT NULL AND {_HAS_TEXT}
        ORDER BY ts DESC, aor, binding LIMIT $limit OFFSET $offset"""
    return Question(sql, {**window, **given})


def by_step(
    source: Source, *, since: datetime, until: datetime, step_s: int, account: str | None = None
) -> Question:
    """For each step of `step_s` seconds in [since, until]: at (its start), bindings (registered at its end),
    registered (anew), refreshed, moved, removed, expired."""
    sql = f"""
        WITH {_LIVES},
        narrow AS MATERIALIZED (SELECT ts, what, event, anew, moved, ended, runs_out FROM lives),
        happened AS (
            SELECT ts AS t, (what = 'made')::INT AS gained, what = 'made' AND anew AS registered,
                what = 'made' AND NOT anew AND NOT moved AS refreshed, moved, what = 'removed' AND event IS NOT NULL
                AS removed, false AS expired
            FROM narrow
            UNION ALL BY NAME
            SELECT ended AS t, -1 AS gained, ended = runs_out AS expired
            FROM narrow WHERE what = 'made' AND ended <= $until
        ),
        counted AS (
            SELECT time_bucket(to_seconds($step_s), greatest(t, $since::TIMESTAMPTZ)) AS at,
                sum(gained) AS gained, {", ".join(_COUNTED)}
            FROM happened GROUP BY ALL
        ),
        steps AS (
            SELECT unnest(generate_series(
                time_bucket(to_seconds($step_s), $since::TIMESTAMPTZ), $until::TIMESTAMPTZ, to_seconds($step_s)
            )) AS at
        )
        SELECT s.at, (sum(coalesce(gained, 0)) OVER (ORDER BY s.at))::BIGINT AS bindings,
            coalesce(registered, 0) AS registered, coalesce(refreshed, 0) AS refreshed, coalesce(moved, 0) AS moved,
            coalesce(removed, 0) AS removed, coalesce(expired, 0) AS expired
        FROM steps s LEFT JOIN counted c ON s.at = c.at ORDER BY s.at"""
    return Question(sql, {**_window(source, since, until), "account": account, "step_s": step_s})


def flaps(
    source: Source,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    at_least: int = FLAPS,
    limit: int = 100,
) -> Question:
    """Phones that came back, or came from another address, at least so often in [since, until), the worst first.

    A phone is told by its +sip.instance, else by account and User-Agent. Columns: aor, phone, user_agent, times
    (came_back + moved), came_back (anew after a removal or an expiry, or from a new contact), moved, removed, lapsed
    (expired in between), addresses, first, last, per_hour, src_ip, src_port, transport, call_id (the last ones).
    """
    sql = f"""
        WITH {_LIVES},
        counted AS (
            SELECT hash(aor, {_PHONE}) AS phone_hash, count(*) FILTER (anew) - arg_min(anew, ts)::INT AS came_back,
                count(*) FILTER (moved) AS moved, count(*) FILTER (what = 'removed') AS removed,
                count(*) FILTER (lapsed) AS lapsed, min(ts) AS first, max(ts) AS last
            FROM lives WHERE event IS NOT NULL AND ts >= $since GROUP BY ALL
        ),
        worst AS (
            FROM counted WHERE came_back + moved >= $at_least
            ORDER BY came_back + moved DESC, first, phone_hash LIMIT $limit
        ),
        names AS (
            SELECT hash(aor, {_PHONE}) AS phone_hash, any_value(aor) AS aor, any_value({_PHONE}) AS phone,
                arg_max(user_agent, ts) AS user_agent, count(DISTINCT src_ip) AS addresses,
                arg_max(src_ip, ts) AS src_ip, arg_max(src_port, ts) AS src_port,
                arg_max(transport, ts) AS transport, arg_max(call_id, ts) AS call_id
            FROM told WHERE ts >= $since AND hash(aor, {_PHONE}) IN (SELECT phone_hash FROM worst) GROUP BY ALL
        )
        SELECT aor, phone, user_agent, came_back + moved AS times, came_back, moved, removed, lapsed, addresses, first,
            last, 3600000.0 * times / nullif(date_diff('millisecond', first, last), 0) AS per_hour,
            src_ip, src_port, transport, call_id
        FROM worst JOIN names USING (phone_hash) ORDER BY times DESC, aor, phone"""
    given = {**_window(source, since, until), "account": None, "at_least": at_least, "limit": limit}
    return Question(sql, given)


def refresh_intervals(
    source: Source, *, since: datetime | None = None, until: datetime | None = None, limit: int = 100
) -> Question:
    """How often phones refresh, by User-Agent, the most refreshes first; p5, p50, p95 of seconds between two.

    Columns: user_agent, devices, refreshes, per_minute, interval_s_p5, interval_s_p50, interval_s_p95, expires_s_p50
    (asked for), share_pct_p50 (of the lifetime that went by before the refresh), lapsed (came after the lifetime).
    """
    sql = f"""
        WITH {_LIVES}, gaps AS (
            SELECT coalesce(user_agent, '-') AS user_agent, hash(aor, binding) AS device, expires, lapsed, ts,
                CASE WHEN NOT lapsed AND NOT anew THEN date_diff('millisecond', before_ts, ts) / 1000 END AS gap_s
            FROM lives WHERE what = 'made' AND before = 'made' AND ts >= $since
        )
        SELECT user_agent, count(DISTINCT device) AS devices, count(gap_s) AS refreshes,
            60.0 * refreshes / nullif(date_diff('second', $since::TIMESTAMPTZ, $until::TIMESTAMPTZ), 0) AS per_minute,
            quantile_cont(gap_s, 0.05) AS interval_s_p5, quantile_cont(gap_s, 0.5) AS interval_s_p50,
            quantile_cont(gap_s, 0.95) AS interval_s_p95, quantile_cont(expires, 0.5) AS expires_s_p50,
            quantile_cont(100.0 * gap_s / nullif(expires, 0), 0.5) AS share_pct_p50, count(*) FILTER (lapsed) AS lapsed
        FROM gaps GROUP BY user_agent ORDER BY refreshes DESC, user_agent LIMIT $limit"""
    return Question(sql, {**_window(source, since, until), "account": None, "limit": limit})


def span(source: Source) -> tuple[datetime, datetime] | None:
    """When the first and the last change was; None where there is none."""
    row = rows_of(source, "SELECT min(ts) AS first, max(ts) AS last FROM registration")[0]
    return (row["first"], row["last"]) if row["first"] else None


_HAS_TEXT: Final = """($text IS NULL OR contains(
    lower(concat_ws(chr(10), aor, device, src_ip, contact, user_agent)), lower($text)))"""
_COUNTED: Final = [
    f"count(*) FILTER ({name} AND t >= $since) AS {name}"
    for name in ("registered", "refreshed", "moved", "removed", "expired")
]


def _until(source: Source, at: datetime | None) -> Row:
    """What can still be alive at that time."""
    until = max(at or datetime.now(UTC), EPOCH)
    return {"back_to": until - _longest_life(source), "until": until}


def _window(source: Source, since: datetime | None, until: datetime | None) -> Row:
    """The window, and how far back its first bindings may have begun."""
    until = max(until or datetime.now(UTC), EPOCH)
    if since is None:
        known = span(source)
        since = known[0] if known else until
    since = max(since, EPOCH)
    return {"back_to": since - _longest_life(source), "since": since, "until": until}


def _longest_life(source: Source) -> timedelta:
    row = rows_of(source, "SELECT max(expires) AS s FROM registration")[0]
    return min(timedelta(seconds=row["s"] or 0), _LONGEST_LIFE)
