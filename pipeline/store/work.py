"""What the running tap does about its store: jobs that never raise, and orders from the command line."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Final, NamedTuple

import duckdb
import structlog

from pipeline.errors import StoreError
from pipeline.store import upkeep
from pipeline.store.check import check_store
from pipeline.store.control import Control
from pipeline.store.orders import orders_of
from pipeline.store.retention import is_too_large, prune
from pipeline.store.rollups import count_messages, rate_hours
from pipeline.store.settings import RetentionSettings, UpkeepSettings
from pipeline.store.writer import Writer

# Often with a small limit and seldom with a large one: a large file is not written again for each small one.
_SMALL_BYTES: Final = 16 << 20
_MIDDLING_BYTES: Final = 64 << 20
_ORPHANED_AFTER: Final = timedelta(days=1)  # files that nobody knows, and folders that nothing is in
_FOOTERS: Final = 200  # read by a check

log = structlog.get_logger(__name__)


class Job(NamedTuple):
    """Work to be done `after` the start, and then at intervals."""

    name: str
    work: Callable[[], str | None]
    interval: timedelta
    after: timedelta


class StoreWork:
    """The jobs of one store. Each says in a few words what it did."""

    def __init__(self, writer: Writer, retention: RetentionSettings) -> None:
        self._writer = writer
        self._retention = retention
        self._errors: dict[str, str | None] = {}
        self._control: Control | None = None

    def take_orders(self) -> None:
        """From now on do what `hepduck store` asks for. Raises StoreError when the socket cannot be made."""
        self._control = Control(self._writer.paths, orders_of(self._writer, self._retention))

    def stop(self) -> None:
        """Take no more orders."""
        if self._control is not None:
            self._control.stop()

    def jobs(self, how: UpkeepSettings) -> Iterator[Job]:
        """What is to be done, and how often; most of it once a start has settled."""
        for name, work, interval, after_s in (
            ("merge", self.merge, how.merge_interval, 0),
            ("counts by minute", self.count, how.count_interval, 10),
            ("quality by hour", self.rate, how.rate_interval, 30),
            ("prune", self.prune, how.prune_interval, 60),
            ("store check", self.check, how.check_interval, 300),
        ):
            if interval:
                yield Job(name, work, interval, min(interval, timedelta(seconds=after_s)))

    def failing(self, job: str) -> Callable[[], str | None]:
        """What tells how the last run of a job went wrong, in one line."""
        return lambda: self._errors.get(job)

    def merge(self) -> str | None:
        """Join small files, and delete those that no reader can still use."""
        return self._do("merge", self._merge)

    def prune(self) -> str | None:
        """Drop what is too old or too much, and what was replaced; join files of middling size."""
        return self._do("prune", self._prune)

    def count(self) -> str | None:
        """Count new messages by minute."""
        return self._do("counts by minute", lambda: _told(count_messages(self._writer), "messages"))

    def rate(self) -> str | None:
        """Make the hours of `quality_hour` again that changed."""
        return self._do("quality by hour", lambda: _told(rate_hours(self._writer), "hours"))

    def check(self) -> str | None:
        """Look whether the store is whole."""
        return self._do("store check", self._check)

    def _merge(self) -> str:
        merged = self._writer.merge(_SMALL_BYTES)
        with self._writer.tending() as cursor:
            upkeep.expire(cursor)
            upkeep.clean_up(cursor)
        return _told(merged.files_before, "files joined")

    def _prune(self) -> str:
        dropped = prune(self._writer, self._retention)
        self._writer.merge(_MIDDLING_BYTES)
        with self._writer.tending() as cursor:
            upkeep.expire(cursor)
            upkeep.clean_up(cursor)
            upkeep.clear_orphans(cursor, _ORPHANED_AFTER)
        upkeep.clear_folders(self._writer.paths, _ORPHANED_AFTER)
        if too_large := is_too_large(self._writer, self._retention):
            raise StoreError(f"{too_large}: no old messages are left to drop")
        return ", ".join(f"{each.rows} of {each.table} ({each.reason})" for each in dropped) or "nothing"

    def _check(self) -> str:
        wrong = self._wrong() and self._wrong()  # what is gone a moment later was under way
        if wrong:
            raise StoreError("; ".join(wrong))
        return "whole"

    def _wrong(self) -> list[str]:
        found = check_store(self._writer.paths.root, sample=_FOOTERS)
        return [f"{each.what}: {each.detail}" for each in found if not each.ok]

    def _do(self, job: str, work: Callable[[], str]) -> str | None:
        try:
            told = work()
        except (StoreError, duckdb.Error, OSError) as error:
            self._fail(job, str(error).partition("\n")[0])
        except Exception as error:  # a bug of ours must not end the job
            if not self._writer.stopping:
                log.exception("upkeep failed", job=job)
            self._fail(job, repr(error))
        else:
            self._errors[job] = None
            return told
        return None

    def _fail(self, job: str, error: str) -> None:
        if not self._writer.stopping and self._errors.get(job) != error:
            log.warning("upkeep failed, will be tried again", job=job, error=error)
        self._errors[job] = error


def _told(count: int, what: str) -> str:
    return f"{count} {what}" if count else "nothing"
