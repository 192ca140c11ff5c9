"""The list of calls: searched, sorted and cut into pages in SQL, with what is known of each.

The window and the search pick calls by a few narrow columns; all the others, quality, CDRs and findings are fetched
for the page alone. `calls` takes two statements for that: which calls, and what of them.
"""

from __future__ import annotations

import difflib
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from pipeline.errors import StoreError
from pipeline.store.call_search import Condition, compile_search
from pipeline.store.quality_queries import ENOUGH_PACKETS
from pipeline.store.queries import Row, Source, rows_of

LONGEST_CALL: Final = timedelta(
    hours=12
)  # media and messages of a call in the window may lie that far outside
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
UNFINISHED_AFTER: Final = timedelta(
    minutes=5
)  # longer than a proxy lets a call ring (RFC 3261 16.6, timer C)

_STATE: Final = """
    CASE WHEN outcome IS NOT NULL THEN outcome
        WHEN final_status >= 400 THEN 'refused'
        WHEN final_status >= 300 THEN 'redirected'
        WHEN last_ts < $now::TIMESTAMPTZ - $unfinished_after::INTERVAL THEN 'unfinished'
        ELSE 'in_progress' END"""

# One row a call: its newest state, on the node that saw the most of it.
_CALLS: Final = f"""
    newest AS NOT MATERIALIZED (
        SELECT * FROM call_state WHERE {{window}}
        QUALIFY row_number() OVER (PARTITION BY node, call_id ORDER BY recorded_at DESC) = 1
    ),
    c AS NOT MATERIALIZED (
        SELECT *, {_STATE} AS state FROM newest
        QUALIFY row_number() OVER (PARTITION BY call_id ORDER BY messages DESC NULLS LAST, node) = 1
    )"""
_CALLS_OF_PAGE: Final = f"""
    page AS MATERIALIZED ({{page}}),
    c AS (SELECT *, {_STATE} AS state FROM call_state JOIN page USING (call_id, node, recorded_at))"""

# What the search and the columns ask besides, by Call-ID.
_BESIDES: Final = """
    said AS NOT MATERIALIZED (
        SELECT call_id, src_ip, src_port, dst_ip, dst_port, user_agent,
            CASE WHEN status IS NULL THEN method END AS request
        FROM sip WHERE {sip_near}
    ),
    leg AS NOT MATERIALIZED (  -- a call that is leg B of another has that leg only; the other one has both
        SELECT * REPLACE (unnest(list_distinct([call_id, leg_call_id])) AS call_id)
        FROM leg_quality_best($near_since, $near_until, NULL)
    ),
    worst AS (
        SELECT call_id,
            min(r_factor) AS r_factor,
            min(r_factor) FILTER ((grounded OR codec IS NULL)
                AND (reports >= 2 OR coalesce(packets, 0) + greatest(coalesce(lost, 0), 0) >= $enough)
            ) AS sure_r_factor,
            arg_min(coalesce(mos_cq, mos_lq), r_factor) AS mos,
            arg_min(mos_method, r_factor) AS mos_method,
            bool_and(grounded) AS grounded,
            max(loss_pct) AS loss_pct,
            max(jitter_ms) AS jitter_ms,
            max(rtt_ms) AS rtt_ms,
            sum(packets)::BIGINT AS packets,
            bool_or(contains(flags, 'one_way')) AS one_way,
            coalesce(any_value(endpoint) FILTER (leg = 'b'), any_value(endpoint)) AS endpoint
        FROM leg {of_page} GROUP BY call_id
    ),
    cdr AS NOT MATERIALIZED (
        SELECT unnest(list_distinct([call_id, call_id_b])) AS call_id, trunk, accountcode, start_ts
        FROM cdr_call WHERE {cdr_near}
    ),
    billed AS (
        SELECT call_id, arg_max(trunk, start_ts) AS trunk, arg_max(accountcode, start_ts) AS accountcode
        FROM cdr {of_page} GROUP BY call_id
    ),
    ghosts AS (SELECT DISTINCT call_id FROM finding WHERE kind = 'late_register' AND {finding_near})"""

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
    picked = _picked(compile_search(search), window, sort, limit, offset)
    if limit is None:
        page, given, near = picked.sql, picked.parameters, window
    else:
        rows = rows_of(source, picked.sql, picked.parameters)
        given = {name: [row[name] for row in rows] for name in ("call_id", "node", "recorded_at", "position")}
        page = f"SELECT {', '.join(f'unnest(${name}) AS {name}' for name in given)}"
        times = [time for row in rows for time in (row["first_ts"], row["last_ts"])] or [_EPOCH]
        near = Window(min(times), max(times))
    columns = ", ".join(f'{sql} AS "{name}"' for name, sql in _COLUMNS.items())
    tables, asked = _tables(_CALLS_OF_PAGE.format(page=page), near, of_page=True)
    sql = f"{tables} SELECT {columns} FROM c {' '.join(_JOINS.values())} ORDER BY c.position"
    return Question(sql, {**given, **asked})


def count(search: str = "", window: Window = ALWAYS) -> Question:
    """How many calls there are: one row, `calls`."""
    return _grouped(search, window, "count(*) AS calls", "")


def states(search: str = "", window: Window = ALWAYS) -> Question:
    """How many calls there are of each `state`, the most frequent first."""
    return _grouped(
        search, window, "c.state, count(*) AS calls", "GROUP BY c.state ORDER BY calls DESC, state"
    )


def _grouped(search: str, window: Window, columns: str, grouping: str) -> Question:
    given = compile_search(search)
    tables, asked = _tables_in(window)
    return Question(
        f"{tables} SELECT {columns} FROM c WHERE {given.sql} {grouping}", asked | given.parameters
    )


def _picked(given: Condition, window: Window, sort: str, limit: int | None, offset: int) -> Question:
    """Which calls are on the page, in order of `position`."""
    name = sort.removeprefix("-")
    if name not in _COLUMNS:
        near = difflib.get_close_matches(name, COLUMNS, n=1)
        raise StoreError(f"no column {name!r} to sort by" + (f": did you mean {near[0]}?" if near else ""))
    order = _COLUMNS[name]
    joins = " ".join(join for alias, join in _JOINS.items() if alias in order)
    down = "DESC" if sort.startswith("-") else "ASC"
    tables, asked = _tables_in(window)
    sql = f"""{tables}
        SELECT *, row_number() OVER () AS position FROM (
            SELECT c.call_id, c.node, c.recorded_at, c.first_ts, c.last_ts FROM c {joins} WHERE {given.sql}
            ORDER BY {order} {down} NULLS LAST, c.first_ts DESC, c.call_id
            {"" if limit is None else "LIMIT $limit OFFSET $offset"}
        )"""
    asked |= given.parameters
    if limit is not None:
        asked |= {"limit": limit, "offset": offset}
    return Question(sql, asked)


def _tables_in(window: Window) -> Question:
    """The WITH clause for all calls in the window."""
    # Asked of every state of a call: the newest spans the most, so it passes whenever an earlier one does.
    touches = {"last_ts >= $since": window.since, "first_ts < $until": window.until}
    asked = " AND ".join(test for test, bound in touches.items() if bound) or "true"
    tables, parameters = _tables(_CALLS.format(window=asked), window)
    return Question(tables, parameters | {k: v for k, v in window._asdict().items() if v is not None})


def _tables(of_calls: str, window: Window, *, of_page: bool = False) -> Question:
    """The WITH clause, and what is bound in it; `window` is that of the calls asked for."""
    near_since = window.since and window.since - LONGEST_CALL
    near_until = window.until and window.until + LONGEST_CALL

    def near(column: str) -> str:
        bounds = ((">=", "near_since", near_since), ("<", "near_until", near_until))
        return " AND ".join(f"{column} {sign} ${name}" for sign, name, bound in bounds if bound) or "true"

    besides = _BESIDES.format(
        sip_near=near("ts"),
        cdr_near=near("start_ts"),
        finding_near=near("ts"),
        of_page="WHERE call_id IN (SELECT call_id FROM page)" if of_page else "",
    )
    asked = {
        **{"near_since": near_since, "near_until": near_until, "enough": ENOUGH_PACKETS},
        **{"now": datetime.now(UTC), "unfinished_after": UNFINISHED_AFTER},
    }
    return Question(f"WITH {of_calls}, {besides}", asked)
