"""What waits for its commit, oldest first: on disk what the store did not take, behind it what is in memory.

One lock, and nothing is read or written under it: who puts rows in never waits for a disk. The writer takes batches
by `next`, and says what became of them; the spooler takes copies of them to disk (`to_save`, `saved`). A batch has
its id before either of them touches it, so both may be at it at once.
"""

from __future__ import annotations

import math
import threading
import time
from collections import deque
from collections.abc import Iterable, Mapping
from datetime import datetime

from pipeline.errors import StoreError
from pipeline.store.batch import Batch, Entry
from pipeline.store.books import Books, WriterStatus
from pipeline.store.settings import WriterSettings
from pipeline.store.spool import Spool, SpoolFile, SpoolStatus


class Backlog:
    """The queue of one writer, its spool (None: it has none), and its books."""

    def __init__(
        self, settings: WriterSettings, spool: Spool | None, left_behind: Iterable[SpoolFile]
    ) -> None:
        self.changed = threading.Condition()
        self.books = Books(settings.spool_after.total_seconds())
        self._settings = settings
        self._spool = spool
        self._spool_error: str | None = None
        self._spool_full = False
        self._files = deque(left_behind)
        self._place = max((file.place for file in self._files), default=0)
        self._disk_files = self._disk_rows = self._disk_bytes = 0
        for file in self._files:
            self._count(file, 1)
        self._formed: deque[Batch] = deque()  # by the spooler
        self._rows: deque[Entry] = deque()
        self._awaited: deque[Entry] = deque()
        self._in_flight: Batch | None = None
        self._number = 0
        self._memory_rows = 0
        self._memory_bytes = 0
        self._flush_now = False
        self._last_flush_s = -math.inf
        self._ends_s: float | None = None  # set by `end`

    # -- who puts rows in --------------------------------------------------------------------------------

    def put(self, entry: Entry, *, hurry: bool = False) -> bool:
        """Queue an entry; False when there is no room, or the writer is stopped."""
        rows, size = entry.rows.num_rows, entry.rows.nbytes
        with self.changed:
            full = (
                self._memory_rows + rows > self._settings.queue_rows
                or self._memory_bytes + size > self._settings.queue_bytes
            )
            if self._ends_s is not None or (full and rows and self._has_entries()):
                return False
            self._number += 1
            entry.number, entry.came_s = self._number, time.monotonic()
            (self._rows if entry.done is None else self._awaited).append(entry)
            self._memory_rows += rows
            self._memory_bytes += size
            self._flush_now = self._flush_now or hurry
            if hurry or self._memory_rows >= self._settings.flush_rows or self._has_entries(only=1):
                self.changed.notify_all()
        return True

    def status(self) -> WriterStatus:
        """The counters of this moment."""
        with self.changed:
            books = self.books
            return WriterStatus(
                queued_rows=self._memory_rows,
                stored=dict(books.stored),
                lost=dict(books.lost),
                refused=dict(books.refused),
                recovered=dict(books.recovered),
                batches=books.batches,
                flush_ms=books.flush_ms,
                last_commit_at=books.last_commit_at,
                errors=books.errors,
                last_error=books.error(),
                failing_since=books.failing_since(),
                spool=self._spool_status(),
            )

    # -- the writer --------------------------------------------------------------------------------------

    def next(self) -> Batch | None:
        """Wait for the next batch that is due; None when the writer is stopped and nothing is left, or time is up."""
        with self.changed:
            while True:
                now = time.monotonic()
                if self._ends_s is not None and now >= self._ends_s:
                    return None
                if self._files:
                    return self._fly(Batch.of_file(self._files[0]))
                if self._formed:
                    return self._fly(self._formed.popleft())
                due = self._last_flush_s + self._settings.flush_interval.total_seconds()
                hurry = self._flush_now or self._ends_s is not None
                if self._has_entries() and (
                    hurry or now >= due or self._memory_rows >= self._settings.flush_rows
                ):
                    self._last_flush_s = now
                    return self._fly(self._take())
                if self._ends_s is not None:
                    return None
                self.changed.wait(due - now if self._has_entries() else None)

    def attempt(self, batch: Batch) -> None:
        """The writer begins to commit a batch."""
        with self.changed:
            batch.attempts += 1
            self.books.attempt_s = time.monotonic()

    def failed(self, error: BaseException) -> bool:
        """The attempt failed; True when it is another failure than the last."""
        with self.changed:
            first = self.books.fail(error)
            self.changed.notify_all()
        return first

    def pause(self, wait_s: float) -> bool:
        """Wait before the next attempt; False when there is to be none, for the writer is stopped and time is up."""
        with self.changed:
            if self._ends_s is None:
                self.changed.wait(wait_s)
            if self._ends_s is not None:
                left_s = self._ends_s - time.monotonic()
                if left_s <= 0:
                    return False
                self.changed.wait(min(wait_s, left_s))
        return True

    def settle(
        self,
        batch: Batch,
        stored: Mapping[str, int],
        at: datetime | None,
        refused: Mapping[str, int],
    ) -> SpoolFile | None:
        """The store has these rows of the batch, the others are set aside; its file, that has to go now."""
        with self.changed:
            file = self._land(batch)
            self.books.succeed(stored, at, left_behind=batch.left_behind)
            self.books.refused.update({} if batch.left_behind else refused)
        for entry in batch.entries:
            if entry.done is not None:
                entry.done.set_result(None)
        return file

    def drop(self, batch: Batch) -> None:
        """The file of the batch was damaged and is set aside: its rows are lost."""
        with self.changed:
            self._land(batch)
            self.books.attempt_s = None
            if not batch.left_behind:
                self.books.lost.update(batch.rows)

    def part(self, batch: Batch) -> None:
        """Make two of a batch that is not in the store: what may go to the spool, and what somebody waits for."""
        with self.changed:
            self._in_flight = None
            self.books.attempt_s = None
            batch.settled = True
            parts = [
                [entry for entry in batch.entries if (entry.done is None) is free] for free in (True, False)
            ]
            self._formed.extendleft(self._placed(entries) for entries in reversed(parts))

    def put_back(self, batch: Batch) -> None:
        """The writer gives up, as it is stopped; the batch may still go to the spool."""
        with self.changed:
            self._in_flight = None
            self.books.attempt_s = None
            if batch.file is None:
                self._formed.appendleft(batch)
            elif not (self._files and self._files[0] is batch.file):
                self._files.appendleft(batch.file)
                self._forget(batch)

    # -- the spooler -------------------------------------------------------------------------------------

    def to_save(self, *, all_: bool = False) -> Batch | None:
        """The oldest batch that ought to be on disk as well, if any; `all_`: because the writer is stopped."""
        with self.changed:
            lasts_s = self.books.trouble_s()
            patience_s = self._settings.spool_after.total_seconds()
            lasting = lasts_s is not None and lasts_s >= patience_s
            crowded = self._crowded() and (bool(self._files) or self.books.failing_since() is not None)
            if not (all_ or lasting or crowded):
                return None
            batch = self._unsaved(patience_s, soon=all_ or crowded)
            if batch is None or not batch.may_be_spooled:
                return None
            size = sum(rows.nbytes for rows in (batch.tables or {}).values())
            self._spool_full = self._disk_bytes + size > self._settings.spool_bytes
            if self._spool_full:
                return None
            batch.saving = True
            return batch

    def saved(self, batch: Batch, file: SpoolFile) -> SpoolFile | None:
        """The batch is on disk; the file, if it has to go again because the store has the batch meanwhile."""
        with self.changed:
            batch.saving = False
            self._spool_error = None
            if batch.settled:
                return file
            batch.file = file
            self._count(file, 1)
            if batch is not self._in_flight:
                self._formed.remove(batch)
                self._files.append(file)
                self._forget(batch)
                self.changed.notify_all()
        return None

    def not_saved(self, batch: Batch, error: BaseException) -> bool:
        """The batch cannot be put on disk; True when that is news."""
        with self.changed:
            batch.saving = False
            first, self._spool_error = self._spool_error != str(error), str(error)
        return first

    # -- the end -----------------------------------------------------------------------------------------

    def end(self, timeout_s: float) -> None:
        """Take no more rows; commit what is queued for so long."""
        with self.changed:
            if self._ends_s is None:
                self._ends_s = time.monotonic() + timeout_s
            self.changed.notify_all()

    def give_up(self) -> None:
        """What is neither stored nor on disk is lost."""
        with self.changed:
            left = [*([self._in_flight] if self._in_flight else []), *self._formed]
            while self._has_entries():
                left.append(self._take())
            self._formed.clear()
            for batch in left:
                batch.settled = True
                if batch.file is None:
                    self.books.lost.update(batch.rows)
                self._forget(batch)
            self._in_flight = None
            why = self.books.error()
        for entry in (entry for batch in left for entry in batch.entries):
            if entry.done is not None:
                entry.done.set_exception(StoreError(f"given up at stop: {why}"))

    # -- with the lock held ------------------------------------------------------------------------------

    def _has_entries(self, only: int | None = None) -> bool:
        count = len(self._rows) + len(self._awaited)
        return count > 0 if only is None else count == only

    def _take(self) -> Batch:
        """What was put in first, whether somebody waits for it or not."""
        entries: list[Entry] = []
        rows = 0
        while self._has_entries() and rows < self._settings.flush_rows:
            awaited = not self._rows or (self._awaited and self._awaited[0].number < self._rows[0].number)
            entries.append((self._awaited if awaited else self._rows).popleft())
            rows += entries[-1].rows.num_rows
        self._flush_now = self._flush_now and self._has_entries()
        return self._placed(entries)

    def _form(self) -> Batch:
        """A batch of rows that nobody waits for."""
        entries: list[Entry] = []
        rows = 0
        while self._rows and rows < self._settings.flush_rows:
            entries.append(self._rows.popleft())
            rows += entries[-1].rows.num_rows
        return self._placed(entries)

    def _placed(self, entries: list[Entry]) -> Batch:
        self._place += 1
        return Batch(entries, self._place)

    def _fly(self, batch: Batch) -> Batch:
        self._in_flight = batch
        return batch

    def _land(self, batch: Batch) -> SpoolFile | None:
        batch.settled = True
        self._in_flight = None
        if self._files and self._files[0] is batch.file:
            self._files.popleft()
        if batch.file is not None:
            self._count(batch.file, -1)
        self._forget(batch)
        return batch.file

    def _forget(self, batch: Batch) -> None:
        """Its rows are not in memory any more."""
        self._memory_rows -= sum(entry.rows.num_rows for entry in batch.entries)
        self._memory_bytes -= sum(entry.rows.nbytes for entry in batch.entries)

    def _crowded(self) -> bool:
        return (
            self._memory_rows * 2 > self._settings.queue_rows
            or self._memory_bytes * 2 > self._settings.queue_bytes
        )

    def _unsaved(self, patience_s: float, *, soon: bool) -> Batch | None:
        flying = self._in_flight
        if flying is not None and flying.may_be_spooled:
            return flying
        waiting = next((batch for batch in self._formed if batch.may_be_spooled), None)
        if waiting is None and self._rows:
            old = time.monotonic() - self._rows[0].came_s >= patience_s
            if soon or old or sum(e.rows.num_rows for e in self._rows) >= self._settings.flush_rows:
                waiting = self._form()
                self._formed.append(waiting)
        return waiting

    def _count(self, file: SpoolFile, sign: int) -> None:
        self._disk_files += sign
        self._disk_rows += sign * sum(file.rows.values())
        self._disk_bytes += sign * file.bytes

    def _spool_status(self) -> SpoolStatus | None:
        if self._spool is None:
            return None
        return SpoolStatus(
            folder=str(self._spool.folder),
            files=self._disk_files,
            rows=self._disk_rows,
            bytes=self._disk_bytes,
            allowed_bytes=self._spool.allowed_bytes,
            broken=self._spool.broken,
            full=self._spool_full and self.books.trouble_s() is not None,
            error=self._spool_error,
        )
