"""Which messages to take: of the calls that a search finds, or messages by themselves, in some time. In bounded
memory: rows come from DuckDB some at a time, and go to the file.
"""

from __future__ import annotations

import heapq
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, BinaryIO, Final

import duckdb

from pipeline.errors import StoreError
from pipeline.export.capture import write_pcap
from pipeline.store import call_queries, queries
from pipeline.store.lake import Reader
from pipeline.store.message_queries import compile_message_search
from pipeline.store.queries import Row

_ROWS_AT_ONCE: Final = 1_000
_MOST_FINDINGS: Final = 100_000
_BEFORE, _AFTER = timedelta(minutes=1), timedelta(minutes=5)  # as `queries.call_messages` has them
_ATTEMPTS: Final = 3
_COLUMNS: Final = (
    "ts, msg_id, transport, src_ip, src_port, dst_ip, dst_port, node, agent_addr, agent_id, payload"
)


@dataclass(frozen=True, slots=True)
class Selection:
    """What `search` finds in [since, until): whole calls, or with `single` the messages themselves, by the keys
    that messages have. Without a search: all messages of that time, whatever they belong to.
    """

    search: str = ""
    since: datetime | None = None
    until: datetime | None = None
    single: bool = False


def export_pcap(
    reader: Reader,
    file: str | os.PathLike[str] | BinaryIO,
    selection: Selection,
    *,
    hide_secrets: bool = True,
) -> int:
    """Write the selected messages, in order of time, as `write_pcap` does; returns how many.

    With the calls come the messages that prove their findings: the REGISTER of the phone that rang for nothing.
    Raises SearchError, StoreError, CaptureError.
    """
    findings = _findings(reader, selection)
    for attempt in range(_ATTEMPTS):
        try:
            return write_pcap(
                file, _messages(reader, selection, findings), findings, hide_secrets=hide_secrets
            )
        except duckdb.Error as error:
            # The tap stopped, started, or tidied up meanwhile; what was written to a file is written anew.
            if attempt == _ATTEMPTS - 1 or not isinstance(file, (str, os.PathLike)):
                raise StoreError(f"cannot read what is to be exported: {error}") from error
            reader.reopen()
    raise AssertionError("unreachable")


def _messages(reader: Reader, selection: Selection, findings: list[Row]) -> Iterator[Row]:
    sql, parameters = _question(selection)
    cursor = reader.connection.cursor()
    cursor.execute("USE lake")
    batches = cursor.execute(sql, parameters).to_arrow_reader(_ROWS_AT_ONCE)
    found = (row for batch in batches for row in batch.to_pylist())
    if selection.single or not selection.search:
        yield from found
        return
    proof = sorted({msg_id for finding in findings for msg_id in finding["msg_ids"] or ()})
    last = None
    for row in heapq.merge(found, queries.messages_by_id(reader, proof), key=_order):
        if row["msg_id"] != last:
            yield row
        last = row["msg_id"]


def _order(row: Row) -> tuple[datetime, int]:
    return row["ts"], row["msg_id"]


def _question(selection: Selection) -> tuple[str, dict[str, Any]]:
    time = {"since": selection.since, "until": selection.until}
    in_time = "($since IS NULL OR ts >= $since) AND ($until IS NULL OR ts < $until)"
    if selection.single or not selection.search:
        condition = compile_message_search(selection.search)
        return (
            f"SELECT {_COLUMNS} FROM sip WHERE {in_time} AND {condition.sql} ORDER BY ts, msg_id",
            {**time, **condition.parameters},
        )
    calls, parameters = _calls(selection)
    sql = f"""
        WITH found AS MATERIALIZED ({calls})
        SELECT {_COLUMNS} FROM sip SEMI JOIN found USING (call_id)
        WHERE ts >= (SELECT min(first_ts) FROM found) - $before AND ts <= (SELECT max(last_ts) FROM found) + $after
        ORDER BY ts, msg_id"""
    return sql, {**parameters, "before": _BEFORE, "after": _AFTER}


def _calls(selection: Selection) -> call_queries.Question:
    return call_queries.found(selection.search, call_queries.Window(selection.since, selection.until))


def _findings(reader: Reader, selection: Selection) -> list[Row]:
    """Those of the calls found; without a search for calls, those of the time."""
    if selection.single or not selection.search:
        return queries.findings(reader, since=selection.since, until=selection.until, limit=_MOST_FINDINGS)
    calls, parameters = _calls(selection)
    sql = f"SELECT * FROM finding WHERE call_id IN (SELECT call_id FROM ({calls})) LIMIT {_MOST_FINDINGS}"
    return queries.rows_of(reader, sql, parameters)
