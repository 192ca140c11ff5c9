"""The tap's books: what became of every message, so that the numbers add up at every moment (see `Status`)."""

from __future__ import annotations

import os
from collections import Counter
from dataclasses import asdict
from typing import Any, Protocol

import structlog

from pipeline.decode import Decoder
from pipeline.engine.engine import Engine
from pipeline.engine.rules import RuleRunner
from pipeline.ingest.cdr.source import CdrSource
from pipeline.ingest.queue import BatchQueue
from pipeline.ingest.tap import Tap
from pipeline.instants import at, now_us, us_of
from pipeline.jobs import Jobs
from pipeline.outbox import Outbox
from pipeline.quality.work import QualityWork
from pipeline.settings import Settings
from pipeline.status import Status
from pipeline.store.writer import Writer, WriterStatus

MESSAGE_TABLES = ("sip", "rtcp", "log", "weird")
CALM_US = 5_000_000  # without a loss: an overload is over
_MINUTE_US = 60_000_000

log = structlog.get_logger(__name__)


class Parts(Protocol):
    """What is asked for its numbers; `pipeline.service.Service` is made of these."""

    settings: Settings
    tap: Tap
    queue: BatchQueue
    decoder: Decoder
    engine: Engine
    rules: RuleRunner
    outbox: Outbox
    writer: Writer
    jobs: Jobs
    quality: QualityWork
    cdr_sources: list[CdrSource]
    plugins: list[dict[str, str]]
    findings: Counter[str]
    started_us: int
    last_arrival_us: int
    latency_us: int


def status_of(parts: Parts, state: str) -> Status:
    """The counters of this moment; messages by fate add up exactly when asked for in the loop's thread."""
    engine, decoder, rules = parts.engine, parts.decoder, parts.rules.counts()
    listeners, writer = parts.tap.counters(), parts.writer.status()
    return Status(
        state=state,
        pid=os.getpid(),
        node=parts.settings.node,
        started_us=parts.started_us,
        updated_us=now_us(),
        listeners=dict(listeners),
        receive_buffers={
            name: {"asked_bytes": asked, "granted_bytes": granted}
            for name, (asked, granted) in parts.tap.receive_buffers().items()
        },
        **_fates(parts, listeners, writer),
        bad_keys=[
            {**who._asdict(), "count": refused.count, "last_us": refused.last_us}
            for who, refused in decoder.counts.bad_keys.items()
        ],
        weird=dict(decoder.counts.weird),
        defects=dict(decoder.counts.defects),
        findings=dict(parts.findings),
        actions=[
            {"action": action, "outcome": outcome, "dry_run": dry_run, "count": count}
            for (action, outcome, dry_run), count in rules.outcomes.items()
        ],
        rules_dropped=rules.dropped,
        rows_refused=dict(parts.outbox.refused + Counter(writer.lost) + Counter(writer.refused)),
        detectors_off=engine.switched_off,
        own_messages=engine.own_messages,
        evicted=dict(engine.state.evicted),
        calls=len(engine.state.calls),
        devices=len(engine.state.devices),
        last_arrival_us=parts.last_arrival_us or None,
        last_commit_us=us_of(writer.last_commit_at),
        flush_ms=writer.flush_ms,
        store_errors=writer.errors,
        store_error=writer.last_error,
        store_failing_since_us=us_of(writer.failing_since),
        spool=asdict(writer.spool) if writer.spool else None,
        recovered=sum(writer.recovered.get(table, 0) for table in MESSAGE_TABLES),
        latency_us=parts.latency_us,
        cdr_sources=[source.status.as_json() for source in parts.cdr_sources],
        quality=parts.quality.status(),
        jobs=parts.jobs.status(),
        plugins=parts.plugins,
    )


def _fates(parts: Parts, listeners: dict[str, Any], writer: WriterStatus) -> dict[str, Any]:
    """Messages received, and what became of them."""
    decoder, queue = parts.decoder, parts.queue.counters()
    rejected = Counter(decoder.counts.rejected)
    kernel_dropped = 0
    for name, counters in listeners.items():
        kernel_dropped += counters["kernel_dropped"]
        if name.startswith("udp:"):  # on streams it is connections that are turned away
            rejected.update(counters["rejected"])
    stored = sum(writer.stored.get(table, 0) for table in MESSAGE_TABLES)
    lost = sum(writer.lost.get(table, 0) for table in MESSAGE_TABLES)
    refused = sum(writer.refused.get(table, 0) for table in MESSAGE_TABLES)
    turned_away = rejected.total() - decoder.counts.rejected.total()  # before the queue
    return {
        "received": queue.accepted
        + sum(queue.shed.values())
        + kernel_dropped
        + decoder.counts.unpacked
        + turned_away,
        "stored": stored,
        "rejected": rejected.total(),
        "rejected_by_reason": dict(rejected),
        "shed_by_reason": {
            **queue.shed,
            "store_queue_full": parts.outbox.refused_messages,
            "store_gave_up": lost,
            "store_refused": refused,
        },
        "kernel_dropped": kernel_dropped,
        "queued": queue.depth + decoder.pending + parts.outbox.handed_over - stored - lost - refused,
    }


class Minutes:
    """What each minute gained, for the table `ingest_minute`."""

    def __init__(self) -> None:
        self._before: dict[str, int] = {}

    def gained(self, status: Status) -> list[dict[str, Any]]:
        """A row of what came since the last call, or none when nothing did."""
        now = {"received": status.received, "stored": status.stored, "rejected": status.rejected}
        now |= {f"shed:{reason}": count for reason, count in status.dropped_by_reason.items()}
        gained = {name: count - self._before.get(name, 0) for name, count in now.items()}
        self._before = now
        if not any(gained.values()):
            return []
        shed = {n.removeprefix("shed:"): c for n, c in gained.items() if n.startswith("shed:") and c}
        plain = {name: gained[name] for name in ("received", "stored", "rejected")}
        minute = at(status.updated_us // _MINUTE_US * _MINUTE_US)
        return [{"minute": minute, "node": status.node, "shed": shed, **plain}]


class Overload:
    """Says in the log when messages begin to be lost and when that is over: one line each, with counts by reason."""

    def __init__(self) -> None:
        self._known: Counter[str] = Counter()
        self._before: Counter[str] = Counter()
        self._began_us: int | None = None
        self._last_us = 0

    def look(self, status: Status) -> None:
        """To be called with each status."""
        lost = Counter(status.dropped_by_reason)
        if lost != self._known:
            self._last_us = status.updated_us
            if self._began_us is None:
                self._began_us, self._before = status.updated_us, self._known
                log.warning(
                    "overload: messages are shed", queued=status.queued, lost=dict(lost - self._known)
                )
            self._known = lost
        over = status.state != "running" or status.updated_us - self._last_us >= CALM_US
        if self._began_us is not None and over:
            lasted_s = round((self._last_us - self._began_us) / 1e6, 1)
            log.warning("overload: over", lasted_s=lasted_s, lost=dict(lost - self._before))
            self._began_us = None
