"""The list of calls: searched, sorted and cut into pages in SQL, with what is known of each.

The window and the search pick calls by a few narrow columns; all the others, quality, CDRs and findings are fetched
for the page alone. `calls` takes two statements for that: which calls, and what of them.
"""

from __future__ import annotations

import difflib
import re
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from pipeline.errors import StoreError
from pipeline.instants import EPOCH
from pipeline.store.call_search import Condition, compile_search
from pipeline.store.heard_queries import ENOUGH, ENOUGH_PACKETS
from pipeline.store.queries import Row, Source, rows_of

# Media and messages of a call that is in the window may lie that far outside of it.
LONGEST_CALL: Final = timedelta(hours=12)
# Longer than a proxy lets a call ring (RFC 3261 16.6, timer C).
UNFINISHED_AFTER: Final = timedelta(minutes=5)

_STATE: Final = """
    CASE WHEN outcome IS NOT NULL THEN outcome
        WHEN final_status >= 400 THEN 'refused'
        WHEN final_status >= 300 THEN 'redirected'
        WHEN last_ts < $now::TIMESTAMPTZ - $unfinished_after::INTERVAL THEN 'unfinished'
        ELSE 'in_progress' END"""

# What searches, columns and sortings ask. `c` is one row a call: its newest state, on the node that saw the most
# of it; most calls have one row, and only the others are sorted. The rest is asked by Call-ID. A statement takes the
# tables that it names.
_TABLES: Final = {
    "asked": "(SELECT *, hash(call_id) AS same FROM call_state WHERE {window})",
    "several": "(SELECT same FROM asked GROUP BY same HAVING count(*) > 1)",
    "newest": """(
        SELECT * FROM asked SEMI JOIN several USING (same)
        QUALIFY row_number() OVER (PARTITION BY node, call_id ORDER BY recorded_at DESC) = 1)""",
    "c": f"""(
        SELECT *, {_STATE} AS state FROM (
            SELECT * FROM asked ANTI JOIN several USING (same)
            UNION ALL
            SELECT * FROM newest
            QUALIFY row_number() OVER (PARTITION BY call_id ORDER BY messages DESC NULLS LAST, node) = 1))""",
    "said": """(
        SELECT call_id, src_ip, src_port, dst_ip, dst_port, user_agent,
            CASE WHEN status IS NULL THEN method END AS request
        FROM sip WHERE {ts_near})""",
    # A call that is leg B of another has that leg only; the other one has both.
    "leg": """(
        SELECT * REPLACE (unnest(list_distinct([call_id, leg_call_id])) AS call_id)
        FROM leg_quality_best($near_since, $near_until, NULL))""",
    # Not every source knows where media come from: of the records of a leg any that does will do.
    "peer": """(
        SELECT unnest(list_distinct([call_id, leg_call_id])) AS call_id, peer_ip
        FROM leg_quality WHERE peer_ip IS NOT NULL AND {ts_near})""",
    "worst": f"""(
        SELECT call_id,
            min(r_factor) AS r_factor,
            min(r_factor) FILTER ((grounded OR codec IS NULL) AND {ENOUGH}) AS sure_r_factor,
            arg_min(coalesce(mos_cq, mos_lq), r_factor) AS mos,
            arg_min(mos_method, r_factor) AS mos_method,
            bool_and(grounded) AS grounded,
            max(loss_pct) AS loss_pct,
            max(jitter_ms) AS jitter_ms,
            max(rtt_ms) AS rtt_ms,
            sum(packets)::BIGINT AS packets,
            bool_or(contains(flags, 'one_way')) AS one_way,
            coalesce(any_value(endpoint) FILTER (leg = 'b'), any_value(endpoint)) AS endpoint
        FROM leg l {{of_page}} GROUP BY call_id)""",
    "cdr": """(
        SELECT unnest(list_distinct([call_id, call_id_b])) AS call_id, trunk, accountcode, start_ts
        FROM cdr_call WHERE {start_ts_near})""",
    "billed": """(
        SELECT call_id, arg_max(trunk, start_ts) AS trunk, arg_max(accountcode, start_ts) AS accountcode
        FROM cdr {of_page} GROUP BY call_id)""",
    "ghosts": "(SELECT DISTINCT call_id FROM finding WHERE kind = 'late_register' AND {ts_near})",
}
# Small when made; the others are looked through, not kept.
_ONCE: Final = {"several", "worst", "billed", "ghosts"}
_OF_CALLS: Final = {"asked", "several", "newest", "c"}  # of a page, these are known
_CALLS_OF_PAGE: Final = f"""
    WITH page AS MATERIALIZED ({{page}}),
    c AS (
        SELECT s.*, {_STATE} AS state, page.position
        FROM call_state s JOIN page USING (call_id, node, recorded_at)
    )"""

_COLUMNS: Final = {
    "first_ts": "c.first_ts",
    "call_id": "c.call_id",
    "node": "c.node",
    "from": "coalesce(c.from_user, c.from_host)",
    "to": "coalesce(c.to_user, c.to_host)",
    "state": "c.state",
    "ghost": "c.call_id IN (SELECT call_id FROM ghosts)",
    "final_status": "c.final_status",
    "final_reason": "c.final_reason",
    "srd_ms": "c.srd_ms",
    "pdd_ms": "c.pdd_ms",
    "ring_ms": "c.ring_ms",
    "talk_ms": "c.talk_ms",
    "codec": "c.codec",
    "user_agent": "c.user_agent",
    "trunk": "coalesce(b.trunk, w.endpoint)",
    "account": "b.accountcode",
    "r_factor": "w.r_factor",
    "mos": "w.mos",
    "mos_method": "w.mos_method",
    "grounded": "w.grounded",
    "loss_pct": "w.loss_pct",
    "jitter_ms": "w.jitter_ms",
    "rtt_ms": "w.rtt_ms",
    "media": "CASE WHEN w.packets = 0 AND c.outcome = 'answered' THEN 'no_rtp' WHEN w.one_way THEN 'one_way' END",
    "messages": "c.messages",
    "legs": "c.legs",
    "last_ts": "c.last_ts",
    "from_display": "c.from_display",
    "from_host": "c.from_host",
    "to_host": "c.to_host",
    "src_ip": "c.src_ip",
    "dst_ip": "c.dst_ip",
}
COLUMNS: Final = tuple(_COLUMNS)


_KEYS: Final = "c.call_id, c.node, c.recorded_at"
_JOINS: Final = {
    "w.": "LEFT JOIN worst w ON w.call_id = c.call_id",
    "b.": "LEFT JOIN billed b ON b.call_id = c.call_id",
}


class Question(NamedTuple):
    """A statement and what is bound to it."""

    sql: str
    parameters: Row


class Window(NamedTuple):
    """Calls that were on at any time of [since, until); None is no bound."""

    since: datetime | None = None
    until: datetime | None = None


ALWAYS: Final = Window()


def calls(
    source: Source,
    search: str = "",
    window: Window = ALWAYS,
    *,
    sort: str = "-first_ts",
    limit: int | None = 100,
    offset: int = 0,
) -> Question:
    """What to ask for a page of the list: `COLUMNS`, in order of `sort` (a column; `-` before it: downwards), what
    is not known last. `limit` None is no limit. Raises SearchError, and StoreError for an unknown column.
    """
    given = compile_search(search)
    if limit is None:
        page = _picked(given, window, f"{_KEYS}, row_number() OVER ({_order(sort)}) AS position", sort)
        near = window
    else:
        asked = _picked(
            given,
            window,
            f"{_KEYS}, c.first_ts, c.last_ts",
            sort,
            f"{_order(sort)} LIMIT $limit OFFSET $offset",
        )
        rows = rows_of(source, asked.sql, {**asked.parameters, "limit": limit, "offset": offset})
        keys = {name: [row[name] for row in rows] for name in ("call_id", "node", "recorded_at")}
        keys["position"] = list(range(len(rows)))
        page = Question(f"SELECT {', '.join(f'unnest(${name}) AS {name}' for name in keys)}", keys)
        times = [time for row in rows for time in (row["first_ts"], row["last_ts"])] or [EPOCH]
        near = Window(min(times), max(times))
    columns = ", ".join(f'{sql} AS "{name}"' for name, sql in _COLUMNS.items())
    sql = f"SELECT {columns} FROM c {' '.join(_JOINS.values())} ORDER BY c.position"
    return _question(sql, near, page.parameters, page=page.sql)


def found(search: str = "", window: Window = ALWAYS) -> Question:
    """The calls alone: `call_id`, `first_ts`, `last_ts`, in any order."""
    return _picked(compile_search(search), window, "c.call_id, c.first_ts, c.last_ts")


def count(search: str = "", window: Window = ALWAYS) -> Question:
    """How many calls there are: one row, `calls`."""
    return _picked(compile_search(search), window, "count(*) AS calls")


def states(search: str = "", window: Window = ALWAYS) -> Question:
    """How many calls there are of each `state`, the most frequent first."""
    grouping = "GROUP BY c.state ORDER BY calls DESC, c.state"
    return _picked(compile_search(search), window, "c.state, count(*) AS calls", then=grouping)


def _order(sort: str) -> str:
    name = sort.removeprefix("-")
    if name not in _COLUMNS:
        near = difflib.get_close_matches(name, COLUMNS, n=1)
        raise StoreError(f"no column {name!r} to sort by" + (f": did you mean {near[0]}?" if near else ""))
    down = "DESC" if sort.startswith("-") else "ASC"
    return f"ORDER BY {_COLUMNS[name]} {down} NULLS LAST, c.first_ts DESC, c.call_id"


def _picked(given: Condition, window: Window, columns: str, sort: str = "", then: str = "") -> Question:
    """`columns` of the calls that the search finds in the window, with the tables that `sort` needs."""
    order = _COLUMNS.get(sort.removeprefix("-"), "")
    joins = " ".join(join for alias, join in _JOINS.items() if alias in order)
    return _question(f"SELECT {columns} FROM c {joins} WHERE {given.sql} {then}", window, given.parameters)


def _question(sql: str, window: Window, given: Row, page: str | None = None) -> Question:
    """`sql` with the tables that it names: of the calls in the window, or of those on the `page`, which are in it."""
    bounds = {
        "since": window.since,
        "until": window.until,
        "near_since": window.since and window.since - LONGEST_CALL,
        "near_until": window.until and window.until + LONGEST_CALL,
    }

    def within(*tests: str) -> str:
        return " AND ".join(test for test in tests if bounds[test.partition("$")[2]]) or "true"

    parts = {
        # Asked of every state of a call: the newest spans the most, so it passes whenever an earlier one does.
        "window": within("last_ts >= $since", "first_ts < $until"),
        "ts_near": within("ts >= $near_since", "ts < $near_until"),
        "start_ts_near": within("start_ts >= $near_since", "start_ts < $near_until"),
        "of_page": "WHERE call_id IN (SELECT call_id FROM page)" if page else "",
    }
    tables: list[str] = []
    named = sql
    for name, table in reversed(_TABLES.items()):
        if re.search(rf"\b(?:FROM|JOIN) {name}\b", named) and not (page and name in _OF_CALLS):
            kept = "MATERIALIZED" if name in _ONCE else "NOT MATERIALIZED"
            tables.insert(0, f"{name} AS {kept} {table.format_map(parts)}")
            named += table
    first = _CALLS_OF_PAGE.format(page=page) + "," * bool(tables) if page else "WITH"
    whole = f"{first} {', '.join(tables)} {sql}"
    known = {
        **bounds,
        **given,
        "enough": ENOUGH_PACKETS,
        "now": datetime.now(UTC),
        "unfinished_after": UNFINISHED_AFTER,
    }
    return Question(
        whole, {name: known[name] for name in set(re.findall(r"\$(\w+)", whole)) if name in known}
    )
