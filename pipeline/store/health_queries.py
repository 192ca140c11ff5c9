"""Questions about the tap and the store: what came in when, who sends, what could not be decoded, how sources fare."""

from __future__ import annotations

from datetime import datetime
from typing import Final

from pipeline.store.call_queries import Question
from pipeline.store.queries import Source, rows_of
from pipeline.store.schema import tables


def intake(*, since: datetime, until: datetime, step_s: int) -> Question:
    """For each step of `step_s` seconds (at least a minute) in [since, until): at (its start), received, stored,
    rejected, shed, kernel_dropped; of all nodes. A message may be received in one step and stored in the next."""
    sql = """
        WITH counted AS (
            SELECT time_bucket(to_seconds($step_s), minute) AS at, sum(received)::BIGINT AS received,
                sum(stored)::BIGINT AS stored, sum(rejected)::BIGINT AS rejected,
                sum(list_sum(json_extract(shed, '$.*')::BIGINT[]))::BIGINT AS lost,
                sum((shed->>'$.kernel')::BIGINT)::BIGINT AS kernel_dropped
            FROM ingest_minute WHERE minute >= $since::TIMESTAMPTZ - INTERVAL 1 MINUTE AND minute < $until
            GROUP BY ALL
        ),
        steps AS (
            SELECT unnest(generate_series(time_bucket(to_seconds($step_s), $since::TIMESTAMPTZ),
                $until::TIMESTAMPTZ - INTERVAL 1 MICROSECOND, to_seconds($step_s))) AS at
        )
        SELECT s.at, coalesce(received, 0) AS received, coalesce(stored, 0) AS stored,
            coalesce(rejected, 0) AS rejected, coalesce(lost, 0) - coalesce(kernel_dropped, 0) AS shed,
            coalesce(kernel_dropped, 0) AS kernel_dropped
        FROM steps s LEFT JOIN counted c ON s.at = c.at ORDER BY s.at"""
    return Question(sql, {"since": since, "until": until, "step_s": max(step_s, 60)})


def first_minute(source: Source) -> datetime | None:
    """When counting began; None before that."""
    first: datetime | None = rows_of(source, "SELECT min(minute) AS at FROM ingest_minute")[0]["at"]
    return first


def agents(*, since: datetime | None = None, until: datetime | None = None) -> Question:
    """Capture agents that were heard in [since, until), the longest silent last."""
    sql = """
        SELECT node, agent, agent_addr, agent_id, name, hep_versions, trusted, first_seen, last_seen, skew_ms, received
        FROM agent WHERE ($since IS NULL OR last_seen >= $since) AND ($until IS NULL OR first_seen < $until)
        ORDER BY last_seen DESC, node, agent"""
    return Question(sql, {"since": since, "until": until})


def weird(*, since: datetime | None = None, until: datetime | None = None) -> Question:
    """What could not be decoded, by kind, the most frequent first: messages, senders, first, last, detail (last)."""
    sql = f"""
        SELECT kind, count(*) AS messages, count(DISTINCT agent_addr) AS senders, min(received_at) AS first,
            max(received_at) AS last, arg_max(agent_addr, received_at) AS agent_addr,
            arg_max(detail, received_at) AS detail
        FROM weird WHERE {_RECEIVED} GROUP BY kind ORDER BY messages DESC, kind"""
    return Question(sql, {"since": since, "until": until})


def weird_samples(
    *, kind: str | None = None, since: datetime | None = None, until: datetime | None = None, limit: int = 20
) -> Question:
    """The newest undecodable messages, newest first, with the first bytes of each (`head`) and their number."""
    sql = f"""
        SELECT received_at, ts, node, agent_addr, kind, detail, bytes, head
        FROM weird WHERE {_RECEIVED} AND ($kind IS NULL OR kind = $kind)
        ORDER BY received_at DESC, kind LIMIT $limit"""
    return Question(sql, {"since": since, "until": until, "kind": kind, "limit": limit})


def cdr_sources() -> Question:
    """The state of each CDR source as stored last."""
    sql = """
        SELECT node, source, state, error, warning, imported, refused, updated_at
        FROM cdr_source ORDER BY node, source"""
    return Question(sql, {})


def store_tables(source: Source) -> Question:
    """Per table: table_name, rows, files, bytes on disk, first and last (of its first column of time). A store that
    an older hepduck made has fewer tables until the tap brings it up to date."""
    there = {
        row["table_name"] for row in rows_of(source, "SELECT table_name FROM ducklake_table_info('lake')")
    }
    counted = []
    for table, columns in tables().items():
        if table in there:
            time = next(name for name, sql_type in columns.items() if sql_type == "TIMESTAMPTZ")
            counted.append(
                f"SELECT '{table}' AS table_name, count(*) AS rows, min({time}) AS first, max({time}) AS last"
                f" FROM {table}"
            )
    sql = f"""
        SELECT table_name, rows, file_count AS files, file_size_bytes AS bytes, first, last
        FROM ({" UNION ALL ".join(counted)}) JOIN ducklake_table_info('lake') USING (table_name)
        ORDER BY bytes DESC, table_name"""
    return Question(sql, {})


_RECEIVED: Final = (
    """($since IS NULL OR received_at >= $since) AND ($until IS NULL OR received_at < $until)"""
)
