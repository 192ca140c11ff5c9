"""The writer's numbers: what became of the rows, and whether the store takes any."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import structlog

from pipeline.store.spool import SpoolStatus

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """Rows by table: `stored` are committed, `refused` were set aside for what is in them, `lost` were given up at
    stop or in a spool that was damaged; `recovered` came from the spool of runs before and are in no other number.

    What was put and is in none of these waits: `queued_rows` in memory, the others in the spool.
    """

    queued_rows: int
    stored: dict[str, int]
    lost: dict[str, int]
    refused: dict[str, int]
    recovered: dict[str, int]
    batches: int
    flush_ms: float
    last_commit_at: datetime | None
    errors: int
    last_error: str | None
    failing_since: datetime | None  # nothing could be written since
    spool: SpoolStatus | None

    @property
    def is_behind(self) -> bool:
        """True while the store does not write, or what it did not write is still being made up for."""
        return self.failing_since is not None or bool(self.spool and self.spool.files)


@dataclass(slots=True)
class Books:
    """Counters; whoever uses them holds the lock of the backlog."""

    slow_s: float  # an attempt that takes longer counts as failing
    stored: Counter[str] = field(default_factory=Counter)
    lost: Counter[str] = field(default_factory=Counter)
    refused: Counter[str] = field(default_factory=Counter)
    recovered: Counter[str] = field(default_factory=Counter)
    batches: int = 0
    flush_ms: float = 0.0
    last_commit_at: datetime | None = None
    errors: int = 0
    last_error: str | None = None
    attempt_s: float | None = None  # when the attempt under way began
    failed_s: float | None = None  # since when all attempts failed

    def trouble_s(self) -> float | None:
        """For how long nothing could be written: seconds, or None while all is well."""
        began = [at for at in (self.failed_s, self.attempt_s) if at is not None]
        return time.monotonic() - min(began) if began else None

    def failing_since(self) -> datetime | None:
        """When that began, if an attempt failed or takes too long."""
        lasts_s = self.trouble_s()
        if lasts_s is None or (self.failed_s is None and lasts_s < self.slow_s):
            return None
        return datetime.now(UTC) - timedelta(seconds=lasts_s)

    def error(self) -> str | None:
        """What is wrong, in one line."""
        if self.last_error is None and self.failing_since() is not None:
            return "a write to the store has not come to its end yet: is the disk stuck?"
        return self.last_error

    def fail(self, error: BaseException) -> bool:
        """Note a failed attempt; True when it is another failure than the last."""
        told = str(error).partition("\n")[0] or repr(error)
        self.failed_s = self.failed_s or self.attempt_s or time.monotonic()
        self.attempt_s = None
        self.errors += 1
        first, self.last_error = self.last_error != told, told
        return first

    def succeed(self, rows: Mapping[str, int], at: datetime | None, *, left_behind: bool) -> None:
        """Note a commit at that time; None: there was nothing to commit."""
        self.recovered.update(rows if left_behind else {})
        self.stored.update({} if left_behind else rows)
        if at is not None:
            self.batches += 1
            self.last_commit_at = at
            if self.attempt_s is not None:
                self.flush_ms = (time.monotonic() - self.attempt_s) * 1000
        if self.failed_s is not None:
            _log.info("store_writes_again", after_s=round(time.monotonic() - self.failed_s))
        self.attempt_s = self.failed_s = self.last_error = None
