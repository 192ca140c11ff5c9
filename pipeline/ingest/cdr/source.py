"""A source of CDRs being read: each row once, what is wrong counted and visible, nothing else disturbed."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

import structlog

from pipeline.errors import HepduckError
from pipeline.ingest.cdr import Chunk, Position, RowReader
from pipeline.ingest.cdr.csvfiles import CsvFile
from pipeline.ingest.cdr.rows import BadRowError, ReadRow, Row, RowMaker
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.tables import CdrTable

_REMEMBERED_REFUSALS = 10_000
_ZONE_SAMPLE = 3  # rows that must agree before the time zone is called wrong

log = structlog.get_logger(__name__)


class Sink(Protocol):
    """Where rows go; `pipeline.store.cdrs.CdrStore` is meant."""

    def known(
        self, table: str, source: str, keys: Collection[str], first: datetime, last: datetime
    ) -> set[str]:
        """Those of `keys` that are stored, among rows that start between `first` and `last`."""
        ...

    def store(self, table: str, rows: Sequence[Row], state: Row) -> None:
        """Store the rows and after them the state; returns once both are committed, or raises StoreError."""
        ...

    def last_state(self, source: str) -> Row | None:
        """The state stored last."""
        ...


@dataclass(slots=True)
class SourceStatus:
    """What a source says of itself. `imported` and `refused` count rows since it was first read."""

    source: str
    shown: str  # where the rows come from, without a password
    state: str = "waiting"  # waiting (not polled yet) | ok | failing
    error: str | None = None
    warning: str | None = None
    imported: int = 0
    refused: int = 0
    polls: int = 0
    failures: int = 0  # polls that failed since the start
    polled_at: str | None = None  # ISO 8601, UTC
    succeeded_at: str | None = None

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


class CdrSource:
    """One source and its state. `poll` from one thread at a time; `status` from any."""

    def __init__(self, settings: CdrSourceSettings, sink: Sink, *, once: bool = False) -> None:
        """`once`: a file is read to its end, and from its start, whatever was read before."""
        self.settings = settings
        self.name = settings.name
        self.refusals: list[str] = []  # of the last poll: where and why
        self._sink = sink
        self._once = once
        self._maker = RowMaker(settings)
        self._reader: RowReader = (
            CdrTable(settings) if settings.is_table else CsvFile(settings, to_the_end=once)
        )
        self._status = SourceStatus(self.name, settings.shown)
        self._position: Position | None = None
        self._stored: Row | None = None  # the state as the store has it
        self._remembered = False
        self._stop = threading.Event()
        self._refused_rows: set[int] = set()
        self._ahead: Counter[int] = (
            Counter()
        )  # by quarters of an hour that starts differ from their uniqueids
        self._notes: list[str] = []
        self._refusal: str | None = None  # of the last poll that had any

    @property
    def status(self) -> SourceStatus:
        """The state of this moment; a copy."""
        return SourceStatus(**asdict(self._status))

    def stop(self) -> None:
        """Ask a running poll to end after the chunk it is at; what it stored stays stored."""
        self._stop.set()

    def run(self) -> None:
        """A poll that never raises: what goes wrong becomes the state, told once, and the next poll tries again."""
        try:
            self.poll()
        except HepduckError as error:
            self.fail(str(error))
        except Exception as error:  # whatever it is, it must not end the job
            log.exception("cdr source failed", source=self.name)
            self.fail(f"{type(error).__name__}: {error}")

    def poll(self) -> int:
        """Read what is new and store it; the number of rows stored. Raises CdrError or StoreError."""
        self._status.polls += 1
        self._status.polled_at = _now()
        self.refusals = []
        self._notes = []
        self._remember()
        stored = 0
        with closing(self._reader.chunks(None if self._once else self._position)) as chunks:
            for chunk in chunks:
                stored += self._take(chunk)
                if self._stop.is_set():
                    break
        was_failing = self._status.state == "failing"
        self._status.state, self._status.error = "ok", None
        self._status.succeeded_at = _now()
        self._status.warning = self._warning()
        self._store_state([])
        if stored or was_failing:
            log.info("cdr rows stored", source=self.name, rows=stored)
        return stored

    def _remember(self) -> None:
        """Take up where an earlier run left off."""
        if self._remembered:
            return
        state = self._sink.last_state(self.name)
        if state is not None:
            self._position = state["position"]
            self._status.imported = state["imported"] or 0
            self._status.refused = state["refused"] or 0
            self._stored = {
                name: state[name] for name in ("state", "error", "warning", "position", "refused")
            }
        self._remembered = True

    def _take(self, chunk: Chunk) -> int:
        made: dict[str, ReadRow] = {}
        for raw in chunk.rows:
            if isinstance(raw, str):
                self._refuse(raw)
                continue
            try:
                read = self._maker.read(raw)
            except BadRowError as error:
                # A table's window is read again and again: each of its bad rows counts once.
                if not self.settings.is_table or self._is_new_refusal(hash(repr(raw.values))):
                    self._refuse(f"{raw.place}: {error}")
                continue
            made.setdefault(read.row["source_row"], read)
        fresh = self._fresh(made)
        for read in fresh:
            if read.ahead_s is not None:
                self._ahead[round(read.ahead_s / 900) if read.zone_is_off else 0] += 1
        self._notes += chunk.notes
        moved = chunk.position is not None and chunk.position != self._position
        before = self._position
        if moved:
            self._position = chunk.position
        try:
            self._status.imported += len(fresh)
            if fresh or moved:
                self._store_state([read.row for read in fresh])
        except BaseException:
            self._position = before
            self._status.imported -= len(fresh)
            raise
        return len(fresh)

    def _fresh(self, made: dict[str, ReadRow]) -> list[ReadRow]:
        if not made:
            return []
        times = [read.row["ts"] for read in made.values()]
        known = self._sink.known(self._maker.target, self.name, made.keys(), min(times), max(times))
        return [read for key, read in made.items() if key not in known]

    def _store_state(self, rows: list[Row]) -> None:
        """Store rows and what changed about the source; the counts alone are no change."""
        state = {
            "state": "ok",
            "error": None,
            "warning": self._status.warning,
            "position": self._position,
            "refused": self._status.refused,
        }
        if not rows and state == self._stored:
            return
        now = datetime.now(UTC)
        for row in rows:
            row["imported_at"] = now
        self._sink.store(
            self._maker.target,
            rows,
            {**state, "source": self.name, "updated_at": now, "imported": self._status.imported},
        )
        self._stored = state

    def fail(self, error: str) -> None:
        """Note that a poll failed, in the status and in the store."""
        self._status.failures += 1
        first = self._status.error != error
        self._status.state, self._status.error = "failing", error
        if not first:
            return
        log.warning("cdr source cannot be read", source=self.name, error=error)
        if self._stored is None or self._stored["error"] != error:
            self._tell_store(error)

    def _tell_store(self, error: str) -> None:
        state = {**(self._stored or {}), "state": "failing", "error": error, "position": self._position}
        state |= {"warning": self._status.warning, "refused": self._status.refused}
        more = {"source": self.name, "updated_at": datetime.now(UTC), "imported": self._status.imported}
        try:
            self._sink.store(self._maker.target, [], {**state, **more})
        except HepduckError as failure:  # the store is what fails
            log.warning("the state of a cdr source is not stored", source=self.name, error=str(failure))
            return
        self._stored = state

    # -- what looks wrong --------------------------------------------------------------------------------

    def _refuse(self, refusal: str) -> None:
        self._status.refused += 1
        self.refusals.append(refusal)
        if len(self.refusals) == 1:
            log.warning("cdr row refused", source=self.name, refusal=refusal)

    def _is_new_refusal(self, row: int) -> bool:
        if row in self._refused_rows or len(self._refused_rows) >= _REMEMBERED_REFUSALS:
            return False
        self._refused_rows.add(row)
        return True

    def _warning(self) -> str | None:
        if self.refusals:
            self._refusal = f"{len(self.refusals)} refused, the first: {self.refusals[0]}"
        found = [*self._notes, *([self._refusal] if self._refusal else [])]
        (quarters, rows), *_ = self._ahead.most_common(1) or [(0, 0)]
        if quarters and rows >= min(_ZONE_SAMPLE, self._ahead.total()):
            hours = f"{abs(quarters) / 4:g} h {'ahead of' if quarters > 0 else 'behind'}"
            found.append(
                f"its times are {hours} their uniqueids: zone {self.settings.tz.key!r} is not the zone they are in"
            )
        return "; ".join(found) or None


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
