"""The running tap: the only place that knows every part.

    tap threads -> BatchQueue -> this loop (decode, detect) -> writer thread -> lake
                                        `-> findings -> rules thread -> actions

Detection never waits for the store: findings leave the loop before the rows of the same batch do.
"""

from __future__ import annotations

import contextlib
import gc
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from operator import attrgetter
from queue import SimpleQueue
from typing import Any

import structlog

from pipeline.accounting import Minutes, Overload, status_of
from pipeline.assemble import actions_of, detectors_of
from pipeline.decode import Decoder
from pipeline.engine.commands import Finding
from pipeline.engine.engine import Engine
from pipeline.engine.rows import finding_row
from pipeline.engine.rule_settings import check_rules
from pipeline.engine.rules import RuleRunner
from pipeline.errors import CaptureError, StoreError
from pipeline.ingest.cdr.source import CdrSource
from pipeline.ingest.queue import BatchQueue
from pipeline.ingest.recordings import RecordingWriter
from pipeline.ingest.tap import Tap
from pipeline.instants import at, now_us
from pipeline.jobs import Jobs
from pipeline.ledger_work import FORGET_EVERY, LedgerWork
from pipeline.outbox import Outbox
from pipeline.priority import lower_library_threads
from pipeline.protocols.redact import Redactor
from pipeline.quality.heard import NewLegs
from pipeline.quality.work import QualityWork
from pipeline.recall import recall
from pipeline.settings import Settings
from pipeline.states import States
from pipeline.status import Status, StatusFile, plugin_states
from pipeline.store.cdrs import CdrStore
from pipeline.store.ledger import Ledger
from pipeline.store.paths import StorePaths
from pipeline.store.work import StoreWork
from pipeline.store.writer import Writer

IDLE_S = 0.25  # longest sleep of the loop
# What the loop does at once is what a finding may have to wait for: a few milliseconds each.
TURN_DATAGRAMS = 256
HAND_OVER_ROWS = 1_000  # made into columns before `HAND_OVER_S` is over
HAND_OVER_S = 0.5
STATUS_S = 1.0
AGENTS_S = 10.0
HOLDS_S = 1.0  # a stop waits that long for findings that are still held
REPORT_DUE = timedelta(minutes=1)  # how often it is looked whether the daily report is due
STOP_FLUSH_S = 10.0
STOP_ORDERS_S = 2.0  # longer only on a stuck disk
SPOOL_S = 10.0  # a start waits that long for what was spooled; the watchdog is fed later
SWITCH_INTERVAL_S = 0.0005  # the receive threads and the rules must not wait 5 ms for the interpreter

log = structlog.get_logger(__name__)


class Service:
    """Everything that `hepduck run` runs. `start`, then `loop` until `stop` is called from anywhere."""

    def __init__(self, settings: Settings, *, record_to: RecordingWriter | None = None) -> None:
        self.settings = settings
        self.paths = StorePaths.of(settings.store.path)
        detectors, actions = detectors_of(settings), actions_of(settings)
        self.plugins = plugin_states(settings.plugins_dir, detectors, actions)
        check_rules(settings.rules, actions)
        self.engine = Engine(detectors, settings.engine)
        self.queue = BatchQueue(settings.engine.queue_datagrams)
        self._record_to = record_to
        deliver = self.queue.put_batch if record_to is None else self._deliver_and_record
        self.tap = Tap(settings.tap, deliver)  # binds first: a port in use must not cost a store
        try:
            self.writer = Writer(self.paths.root, settings.node, settings.store.writer, patient=True)
            self.ledger = Ledger(self.paths.ledger)
        except BaseException:
            self.tap.stop()
            raise
        self._ledger_work = LedgerWork(self.ledger)
        self._status_file = StatusFile(self.paths.root)
        self.outbox = Outbox(self.writer)
        self.decoder = Decoder(
            settings.node,
            self.engine.interest,
            settings.tap.agent_check().admit,
            last_msg_id=self.writer.last_msg_id,
            redactor=self._redactor(),
        )
        self._states = States(self.engine, self.decoder, self.outbox, settings.node)
        self.rules = RuleRunner(
            settings.rules, actions, self.ledger, self._record_attempt, stop_file=self.paths.root / "STOP"
        )
        self._cdr_store = CdrStore(self.writer)
        self.cdr_sources = [CdrSource(source, self._cdr_store) for source in settings.cdr]
        self.quality = QualityWork(self.writer, settings.quality)
        self._new_legs = NewLegs(self.writer)
        self.store = StoreWork(self.writer, settings.store.retention)
        self.jobs = Jobs()
        self._schedule()
        self._stop = threading.Event()
        self._asked: SimpleQueue[Callable[[], object]] = SimpleQueue()
        self.every_second: Callable[[Status], object] = lambda _status: None  # called in the loop
        self.started_us = now_us()
        self.findings: Counter[str] = Counter()
        self._handed_over_s = self._status_s = self._agents_s = time.monotonic()
        self._minutes = Minutes()
        self._overload = Overload()
        self.last_arrival_us = 0
        self.latency_us = 0  # from arrival to the end of detection, of the last batch
        self.latest = self.status("running")  # as last written, for other threads

    def _redactor(self) -> Redactor:
        key = self.settings.tap.auth_key
        return Redactor(self.settings.store.redact, [key.get_secret_value().encode()] if key else [])

    def _schedule(self) -> None:
        every, how = self.jobs.every, self.settings.quality
        for source in self.cdr_sources:
            cdr, error = source.settings, partial(attrgetter("status.error"), source)
            every(cdr.interval, f"cdr {source.name}", source.run, jitter=cdr.jitter, failing=error)
        if how.enabled:
            every(how.interval, "quality", self.quality.refresh, failing=self.quality.error)
        if how.enabled and self.engine.hears_legs:
            every(how.interval, "legs", self._hear_legs)
        if how.report_dir is not None:
            every(REPORT_DUE, "quality report", self.quality.report, failing=self.quality.report_error)
        every(FORGET_EVERY, "ledger", self._ledger_work.forget, failing=self._ledger_work.error)
        for name, work, interval, after in self.store.jobs(self.settings.store):
            every(interval, name, work, after=after, failing=self.store.failing(name), can_wait=True)

    def start(self) -> None:
        """Open the store and begin to receive."""
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        gc.collect()
        gc.freeze()  # what stands now stays; collections look at calls and devices only
        gc.set_threshold(50_000, 20, 50)
        self._ledger_work.settle()
        self.rules.start()
        self.tap.start()
        for warning in self.tap.warnings():
            log.warning(warning)
        log.info("listening", on=[str(address) for address in self.tap.addresses], store=str(self.paths.root))
        self.store.take_orders()
        self.jobs.start()
        lower_library_threads()
        self._write_status("running")

    def loop(self) -> None:
        """Decode and detect until `stop`; then drain what was received and close everything."""
        try:
            self._recall()
            while not self._stop.is_set():
                self.step()
        except BaseException:
            log.exception("the loop failed")
            self._close(drain=False)
            raise
        self._close()

    def _recall(self) -> None:
        """What was known before the last stop or crash; messages that come meanwhile wait in the queue."""
        how = self.settings.engine
        now = datetime.now(UTC)
        store = self.writer.status()
        if store.is_behind and store.failing_since is None:  # what the last run left in the spool counts, too
            with contextlib.suppress(StoreError, TimeoutError):
                self.writer.flush(SPOOL_S)
        try:
            with self.writer.as_it_was() as past:
                found = recall(self.engine, past, now=now, lookback=how.recall, most=how.recall_messages)
        except StoreError as error:  # what is new is found all the same
            log.error("nothing of before the start is remembered", error=str(error))
            return
        for finding in found:
            self._raise(finding)

    def stop(self) -> None:
        """Ask the loop to end; safe in signal handlers and from other threads."""
        self._stop.set()

    def ask(self, work: Callable[[], object]) -> None:
        """Have `work` done by the loop between two turns; safe in signal handlers and from other threads."""
        self._asked.put(work)

    def step(self) -> None:
        """One turn: the next batch, or what became due while none came."""
        batch = self.queue.get(self._sleep_s(), TURN_DATAGRAMS)
        if batch:
            # A backlog is older than the wall clock: timers must not run ahead of what still waits.
            findings = self.engine.tick(batch[0].arrival_us)
            events = self.decoder.decode(batch)
            self.last_arrival_us = batch[-1].arrival_us
            findings += self.engine.handle(events, self.last_arrival_us)
            self.latency_us = now_us() - self.last_arrival_us
        else:
            findings = self.engine.tick(now_us())
        for finding in findings:
            self._raise(finding)
        self._housekeeping()

    # -- findings --------------------------------------------------------------------------------------

    def _raise(self, finding: Finding) -> None:
        self.rules.submit(finding)
        self.findings[finding.kind] += 1
        self.outbox.add("finding", [finding_row(finding, self.settings.node)])

    def _hear_legs(self) -> None:
        """A job: legs that quality has rated go to the detectors, in the loop."""
        if legs := self._new_legs.poll():
            self.ask(lambda: self._raise_all(self.engine.hear_legs(legs)))

    def _raise_all(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            self._raise(finding)

    def _record_attempt(self, row: dict[str, Any]) -> None:
        times = {name: at(row[name]) for name in ("started_at", "ended_at")}
        self.outbox.add("action_attempt", [{**row, **times, "node": self.settings.node}])

    # -- rows ------------------------------------------------------------------------------------------

    def _sleep_s(self) -> float:
        due_us = self.engine.clocks.next_due_us()
        if due_us is None:
            return IDLE_S
        return min(max((due_us - now_us()) / 1e6, 0.0), IDLE_S)

    def _housekeeping(self) -> None:
        now_s = time.monotonic()
        while not self._asked.empty():
            self._asked.get()()
        self._states.hand_over()
        if self.decoder.pending >= HAND_OVER_ROWS or now_s - self._handed_over_s >= HAND_OVER_S:
            self._handed_over_s = now_s
            self._hand_over()
        if now_s - self._agents_s >= AGENTS_S:
            self._agents_s = now_s
            self._hand_over_agents()
            lower_library_threads()
        if now_s - self._status_s >= STATUS_S:
            self._status_s = now_s
            self._states.note_calls()
            self._write_status("running")
            self.every_second(self.latest)

    def _hand_over(self) -> None:
        if self.decoder.has_agent_news:  # before their messages: recall must know whether they were trusted
            self._states.hand_over_agents()
            self.outbox.flush()
        self.outbox.put(self.decoder.take())
        self.outbox.flush()

    def _hand_over_agents(self) -> None:
        self._states.hand_over_agents()
        self.outbox.add("ingest_minute", self._minutes.gained(self.status("running")))
        self.outbox.flush()  # see `_hand_over`

    # -- status ----------------------------------------------------------------------------------------

    def status(self, state: str) -> Status:
        """The counters of this moment, exact in the loop's thread."""
        return status_of(self, state)

    def _write_status(self, state: str) -> None:
        self.latest = self.status(state)
        self._overload.look(self.latest)
        if state == "running":
            self._status_file.offer(self.latest)
        else:
            self._status_file.close(self.latest)

    # -- the end ---------------------------------------------------------------------------------------

    def _deliver_and_record(self, batch: list[Any]) -> None:
        self.queue.put_batch(batch)
        recording = self._record_to
        if recording is None:
            return
        try:
            recording.write(batch)
        except CaptureError as error:  # the receive thread must live
            self._record_to = None
            log.error("recording given up", error=str(error))
            with contextlib.suppress(CaptureError):
                recording.close()

    def _close(self, *, drain: bool = True) -> None:
        log.info("stopping", queued=self.queue.depth)
        for source in self.cdr_sources:
            source.stop()
        self._cdr_store.close()
        self.quality.stop()
        _within(STOP_ORDERS_S, self.store.stop)
        self.jobs.stop()
        if drain:
            self._await_holds()
        self.tap.stop()
        while drain and self.queue.depth:
            self.step()
        self.rules.stop()
        self._states.hand_over_all()
        self._hand_over()
        if self.writer.status().failing_since is None:  # else `stop` puts all into the spool
            with contextlib.suppress(StoreError, TimeoutError):  # `stop` tries longer, and says what is lost
                self.writer.flush(STOP_FLUSH_S)
        self._hand_over_agents()  # with the minute's last counts
        self.outbox.flush()
        self.writer.stop()
        self.ledger.close()
        self._write_status("stopped")
        log.info("stopped")

    def _await_holds(self) -> None:
        """Let findings that are held come to their end, with the tap still open: what spares a phone its call
        may yet come."""
        give_up_s = time.monotonic() + HOLDS_S
        while self.engine.holding and time.monotonic() < give_up_s:
            self.step()
        if self.engine.holding:
            log.warning("findings still held were given up", held=self.engine.holding)


def _within(patience_s: float, work: Callable[[], object]) -> None:
    """Do `work`, and leave it alone when it takes longer."""
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    worker.join(patience_s)
