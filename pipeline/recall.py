"""What the tap knew before it was stopped or killed: calls and devices, rebuilt from the messages in the store.

The engine is fed again what it was fed then, at the times of arrival of then, so timers fall due as they did. What
it raises on the way is new only where the last run did not live to store it; the ledger knows what was acted on.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any, Protocol

import duckdb
import structlog

from pipeline.agents_seen import agent_name
from pipeline.engine.commands import Finding
from pipeline.engine.engine import Engine
from pipeline.engine.events import SipEvent
from pipeline.engine.state import CALL_LONGEST_US, CALL_SILENT_US
from pipeline.errors import DecodeError
from pipeline.instants import us_of
from pipeline.protocols.sip import parse

log = structlog.get_logger(__name__)

Row = dict[str, Any]
_ROWS_AT_ONCE = 2_000
# Messages of calls that were heard of lately or have not ended, each call whole; REGISTERs for as long as
# `lookback`; the newest `most` of all that.
_MESSAGES = """
    WITH open_calls AS (
        SELECT call_id FROM call_state WHERE node = $node AND last_ts >= $calls_since AND recorded_at >= $oldest
        UNION
        SELECT call_id FROM "call" WHERE node = $node AND end_ts IS NULL AND last_ts >= $oldest
    ),
    wanted AS (
        SELECT ts, received_at, agent_id, agent_addr, transport, src_ip, src_port, dst_ip, dst_port, msg_id, payload
        FROM sip
        WHERE node = $node AND received_at >= $oldest AND list_contains($methods, method)
            AND ($before IS NULL OR received_at < $before)
            AND CASE WHEN method = 'REGISTER' THEN received_at >= $registers_since
                ELSE received_at >= $calls_since OR call_id IN (FROM open_calls) END
        ORDER BY msg_id DESC LIMIT $most
    )
    FROM wanted ORDER BY msg_id"""


class Remembered(Protocol):
    """A store held for writing: messages are remembered of its own node only."""

    @property
    def node(self) -> str:
        """What its rows are marked with."""

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection to read what is committed."""


def recall(
    engine: Engine,
    writer: Remembered,
    *,
    now: datetime,
    lookback: timedelta,
    most: int,
    before: datetime | None = None,
) -> list[Finding]:
    """Feed `engine` the stored messages that can still matter; the findings that are not in the store yet.

    Takes `most` messages at most, the newest (of those that came before `before`); none when it is 0. An agent
    counts as trusted if it was when it was last heard.
    """
    if not most:
        return []
    oldest = now - timedelta(microseconds=CALL_LONGEST_US)
    asked = {
        "node": writer.node,
        "methods": sorted(engine.interest),
        "oldest": min(oldest, now - lookback),
        "calls_since": now - timedelta(microseconds=CALL_SILENT_US),
        "registers_since": now - lookback,
        "most": most,
        "before": before,
    }
    began_s = time.monotonic()
    findings: list[Finding] = []
    messages = 0
    with closing(writer.cursor()) as cursor:
        cursor.execute("USE lake")
        trusted = {name for (name,) in cursor.execute("SELECT agent FROM agent WHERE trusted").fetchall()}
        known = cursor.execute(  # an agent's clock may be ahead, so that some lie in the future
            "SELECT kind, identifier, epoch_us(ts) FROM finding "
            "WHERE ts >= $oldest AND ($before IS NULL OR ts <= $before)",
            {"oldest": asked["oldest"], "before": before},
        ).fetchall()
        for kind, identifier, raised_us in known:  # also what is only decided once the tap listens again
            engine.remember_raised(kind, identifier, raised_us)
        for row in _rows(cursor, asked):
            event = stored_event(row, trusted)
            if event is None:
                continue
            messages += 1
            arrival_us = us_of(row["received_at"])
            findings += [*engine.tick(arrival_us), *engine.handle([event], arrival_us)]
    for call in engine.state.calls.values():
        call.heard_in_part = True
    engine.state.registered.clear()  # stored already
    if messages:
        took_ms = round((time.monotonic() - began_s) * 1000)
        calls, devices = len(engine.state.calls), len(engine.state.devices)
        log.info("remembered", messages=messages, calls=calls, devices=devices, took_ms=took_ms)
    if messages == most:
        log.warning("the store holds more than is remembered: see engine.recall_messages", messages=most)
    return findings


def _rows(cursor: duckdb.DuckDBPyConnection, asked: Row) -> Iterator[Row]:
    for batch in cursor.execute(_MESSAGES, asked).to_arrow_reader(_ROWS_AT_ONCE):
        yield from batch.to_pylist()


def stored_event(row: Row, trusted: Collection[str]) -> SipEvent | None:
    """The event that the message was when it came."""
    try:
        sip = parse(row["payload"], datagram=True)[0]
    except DecodeError:  # redaction or an older version may have left what we do not read today
        return None
    agent = agent_name(row["agent_addr"], row["agent_id"])
    src, dst = (row["src_ip"], row["src_port"]), (row["dst_ip"], row["dst_port"])
    ts_us = us_of(row["ts"])
    return SipEvent(ts_us, row["msg_id"], agent, agent in trusted, row["transport"], src, dst, sip)
