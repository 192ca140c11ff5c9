"""Every read of the store, as a function: a reader in, plain rows out.

`source` is a `Reader` (long-lived, opens again by itself) or a connection from `open_reader`. Times come
back as aware datetimes in UTC, JSON columns as Python values, payloads as bytes. All values are bound.
A read during which upkeep took a file away is tried once more on the newest snapshot.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import duckdb

from pipeline.errors import StoreError
from pipeline.instants import at
from pipeline.store.call_search import EVERY, Condition
from pipeline.store.lake import Reader
from pipeline.store.readonly import require_reading
from pipeline.store.schema import tables

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

Source = Reader | duckdb.DuckDBPyConnection
Row = dict[str, Any]

_BEFORE_CALL = timedelta(minutes=1)  # the mirror's clocks may disagree
_AFTER_CALL = timedelta(minutes=5)  # retransmissions, a late BYE, the compensating call
_TAIL_SPAN = timedelta(minutes=10)
_TAIL_COLUMNS = (
    "msg_id, ts, received_at, node, agent_id, agent_addr, transport, src_ip, src_port, dst_ip, dst_port,"
    " call_id, method, status, reason, cseq, from_user, from_host, to_user, to_host, ruri_user, ruri_host,"
    " user_agent"
)


def find_calls(
    source: Source,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    text: str | None = None,
    limit: int = 100,
) -> list[Row]:
    """The latest state of calls that touch [since, until), newest first.

    `text` is looked for, whatever the case, in Call-ID, users, displayed name, addresses and User-Agent.
    """
    # The time window is asked of every state of a call: the latest one has the widest span, so it passes
    # whenever an earlier one does.
    sql = """
        SELECT * EXCLUDE (recorded_at) FROM (
            SELECT * FROM call_state
            WHERE ($since IS NULL OR last_ts >= $since) AND ($until IS NULL OR first_ts < $until)
            QUALIFY row_number() OVER (PARTITION BY node, call_id ORDER BY recorded_at DESC) = 1
        )
        WHERE $text IS NULL OR contains(
            lower(concat_ws(chr(10), call_id, from_user, from_display, to_user, ruri_user, src_ip, dst_ip,
                user_agent)), lower($text))
        ORDER BY first_ts DESC, call_id LIMIT $limit"""
    return rows_of(source, sql, {"since": since, "until": until, "text": text or None, "limit": limit})


def call_rows(source: Source, call_id: str) -> list[Row]:
    """What is known of a call, as each node that saw it has it; the one that saw the most first."""
    sql = 'SELECT * FROM "call" WHERE call_id = $call_id ORDER BY messages DESC NULLS LAST'
    return rows_of(source, sql, {"call_id": call_id})


def call_messages(source: Source, call_id: str, known: Sequence[Row] | None = None) -> list[Row]:
    """All messages with this Call-ID in order of time, with payloads.

    What is `known` of the call (its `call_rows`, asked when not given) gives the time window first, so that a big store
    is not searched from end to end.
    """
    rows = call_rows(source, call_id) if known is None else known
    firsts, lasts = ([row[name] for row in rows if row[name]] for name in ("first_ts", "last_ts"))
    ended = rows and all(row["end_ts"] for row in rows)
    since = min(firsts) - _BEFORE_CALL if firsts else None
    until = max(lasts) + _AFTER_CALL if ended and lasts else None
    return messages_between(source, [call_id], since, until)


def messages_between(
    source: Source, call_ids: Sequence[str], since: datetime | None, until: datetime | None
) -> list[Row]:
    """The messages of [since, until) with one of these Call-IDs in order of time, with payloads."""
    names = {f"call_id_{number}": call_id for number, call_id in enumerate(call_ids)}
    sql = f"""
        SELECT * FROM sip
        WHERE call_id IN ({", ".join(f"${name}" for name in names)})
            AND ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)
        ORDER BY ts, msg_id"""
    return rows_of(source, sql, {**names, "since": since, "until": until})


def messages_by_id(source: Source, msg_ids: Sequence[int]) -> list[Row]:
    """The messages with these ids in order of time, with payloads: the proof of a finding."""
    if not msg_ids:
        return []
    # msg_id begins as the time of arrival in microseconds; the window spares the search of other days.
    since, until = (at(pick(msg_ids)) for pick in (min, max))
    sql = """
        SELECT * FROM sip WHERE list_contains($msg_ids, msg_id)
            AND received_at >= $since AND received_at <= $until
        ORDER BY ts, msg_id"""
    around = {"since": since - timedelta(minutes=1), "until": until + timedelta(minutes=1)}
    return rows_of(source, sql, {"msg_ids": list(msg_ids), **around})


def findings(
    source: Source,
    *,
    since: datetime | None = None,
    until: datetime | None = None,
    kind: str | None = None,
    call_id: str | None = None,
    text: str | None = None,
    limit: int = 100,
) -> list[Row]:
    """Findings of [since, until), newest first; `evidence` as a dict.

    `text` is looked for, whatever the case, in identifier, account, target and Call-ID.
    """
    sql = """
        SELECT * FROM finding
        WHERE ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)
            AND ($kind IS NULL OR kind = $kind) AND ($call_id IS NULL OR call_id = $call_id)
            AND ($text IS NULL OR contains(
                lower(concat_ws(chr(10), identifier, aor, target, call_id)), lower($text)))
        ORDER BY ts DESC, finding_id LIMIT $limit"""
    asked = {"since": since, "until": until, "kind": kind, "call_id": call_id, "text": text, "limit": limit}
    return _parsed(rows_of(source, sql, asked), "evidence")


def action_attempts(
    source: Source,
    *,
    finding_id: str | None = None,
    call_id: str | None = None,
    since: datetime | None = None,
    limit: int = 100,
) -> list[Row]:
    """What actions did, oldest first; `sip_statuses` as a list of {status, at_us}."""
    sql = """
        SELECT * FROM action_attempt
        WHERE ($finding_id IS NULL OR finding_id = $finding_id) AND ($call_id IS NULL OR call_id = $call_id)
            AND ($since IS NULL OR started_at >= $since)
        ORDER BY started_at, attempt_id LIMIT $limit"""
    asked = {"finding_id": finding_id, "call_id": call_id, "since": since, "limit": limit}
    return _parsed(rows_of(source, sql, asked), "sip_statuses")


def tail(
    source: Source, *, after_msg_id: int | None = None, limit: int = 50, wanted: Condition = EVERY
) -> list[Row]:
    """The messages after `after_msg_id` in order, at most `limit`; without it the last ones. No payloads.

    `wanted` is a condition on them, as `message_queries.compile_message_search` makes it.
    """
    if after_msg_id is not None:
        sql = f"""
            SELECT {_TAIL_COLUMNS} FROM sip WHERE msg_id > $after AND {wanted.sql}
            ORDER BY msg_id LIMIT $limit"""
        return rows_of(source, sql, {"after": after_msg_id, "limit": limit, **wanted.parameters})
    newest = rows_of(source, "SELECT max(received_at) AS at FROM sip")[0]["at"]
    if newest is None:
        return []
    sql = f"""
        FROM (
            SELECT {_TAIL_COLUMNS} FROM sip WHERE received_at >= $since AND {wanted.sql}
            ORDER BY msg_id DESC LIMIT $limit
        )
        ORDER BY msg_id"""
    return rows_of(source, sql, {"since": newest - _TAIL_SPAN, "limit": limit, **wanted.parameters})


def newest_msg_id(source: Source, after: int = 0) -> int:
    """The `msg_id` of the newest message, or `after` when there is none above it."""
    newest = rows_of(source, "SELECT max(msg_id) AS id FROM sip WHERE msg_id > $after", {"after": after})
    return int(newest[0]["id"] or after)


def counts_by_minute(
    source: Source, *, since: datetime | None = None, until: datetime | None = None
) -> list[Row]:
    """Per minute of event time: messages, requests, invites, registers, failures (final status >= 400)."""
    sql = """
        SELECT date_trunc('minute', ts) AS minute, count(*) AS messages,
            count(*) FILTER (status IS NULL) AS requests,
            count(*) FILTER (status IS NULL AND method = 'INVITE') AS invites,
            count(*) FILTER (status IS NULL AND method = 'REGISTER') AS registers,
            count(*) FILTER (status >= 400) AS failures
        FROM sip WHERE ($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)
        GROUP BY ALL ORDER BY minute"""
    return rows_of(source, sql, {"since": since, "until": until})


def ingest_by_minute(source: Source, *, since: datetime | None = None) -> list[Row]:
    """Per minute of arrival: received, stored, rejected, and what was shed by reason, of all nodes."""
    sql = """
        SELECT minute, sum(received)::BIGINT AS received, sum(stored)::BIGINT AS stored,
            sum(rejected)::BIGINT AS rejected, list(shed) FILTER (shed IS NOT NULL) AS shed
        FROM ingest_minute WHERE ($since IS NULL OR minute >= $since)
        GROUP BY ALL ORDER BY minute"""
    found = rows_of(source, sql, {"since": since})
    return [{**row, "shed": _added_up(row["shed"] or [])} for row in found]


def weird_summary(source: Source, *, since: datetime | None = None) -> list[Row]:
    """What could not be decoded, by kind, most frequent first, with an example of each."""
    sql = """
        SELECT kind, count(*) AS messages, min(received_at) AS first, max(received_at) AS last,
            arg_max(detail, received_at) AS detail, arg_max(agent_addr, received_at) AS agent_addr,
            arg_max(head, received_at) AS head
        FROM weird WHERE ($since IS NULL OR received_at >= $since)
        GROUP BY kind ORDER BY messages DESC, kind"""
    return rows_of(source, sql, {"since": since})


def agents(source: Source) -> list[Row]:
    """What is known of each capture agent, by node and name."""
    return rows_of(source, "SELECT * FROM agent ORDER BY node, agent")


def registrations(
    source: Source, *, aor: str | None = None, since: datetime | None = None, limit: int = 100
) -> list[Row]:
    """Changes of bindings, newest first."""
    sql = """
        SELECT * FROM registration
        WHERE ($aor IS NULL OR aor = $aor) AND ($since IS NULL OR ts >= $since)
        ORDER BY ts DESC LIMIT $limit"""
    return rows_of(source, sql, {"aor": aor, "since": since, "limit": limit})


def info(source: Source) -> list[Row]:
    """Per table: rows, files, bytes on disk, first and last time (of its first column of time)."""
    counted = []
    for table, columns in tables().items():
        time = next(name for name, sql_type in columns.items() if sql_type == "TIMESTAMPTZ")
        counted.append(
            f"SELECT '{table}' AS table_name, count(*) AS rows, min({time}) AS first, max({time}) AS last"
            f" FROM {table}"
        )
    return rows_of(
        source,
        f"""SELECT table_name, rows, file_count AS files, file_size_bytes AS bytes, first, last
            FROM ({" UNION ALL ".join(counted)}) LEFT JOIN ducklake_table_info('lake') USING (table_name)
            ORDER BY table_name""",
    )


def read_sql(source: Source, sql: str) -> pa.Table:
    """The result of the user's own query: what `require_reading` lets pass, never a change.

    Raises StoreError for anything else, and for what DuckDB makes of it.
    """
    try:
        require_reading(sql)
        return _fetch(source, sql, None)
    except duckdb.Error as error:
        raise StoreError(str(error)) from error


def run_sql(source: Source, sql: str) -> pd.DataFrame:
    """The same as a DataFrame."""
    frame: pd.DataFrame = read_sql(source, sql).to_pandas()
    return frame


def rows_of(source: Source, sql: str, parameters: Row | None = None) -> list[Row]:
    """The rows that a query of ours gives."""
    found: list[Row] = _fetch(source, sql, parameters).to_pylist()
    return found


def _fetch(source: Source, sql: str, parameters: Row | None) -> pa.Table:
    if isinstance(source, Reader):
        return source.query(sql, parameters)
    try:
        return source.execute(sql, parameters).to_arrow_table()
    except duckdb.IOException:  # upkeep took a file away; the same statement sees the newest snapshot now
        return source.execute(sql, parameters).to_arrow_table()


def _parsed(rows: list[Row], column: str) -> list[Row]:
    for row in rows:
        row[column] = json.loads(row[column]) if row[column] is not None else None
    return rows


def _added_up(texts: Sequence[str]) -> dict[str, int]:
    total: dict[str, int] = {}
    for text in texts:
        for reason, count in json.loads(text).items():
            total[reason] = total.get(reason, 0) + int(count)
    return total
