"""The one writer: a bounded queue, a thread, and the only write connection.

Batches of columns go in by `put`, small rows by `append`; both are committed together, at most every
second. What `status().stored` counts is on disk and in the catalog, once. A flush that fails is tried
again with the same batch until it succeeds or the writer is stopped.
"""

from __future__ import annotations

import math
import os
import threading
import time
import uuid
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import structlog

from pipeline.errors import StoreError
from pipeline.store import upkeep
from pipeline.store.catalog import Catalog
from pipeline.store.commits import newest
from pipeline.store.cursors import Cursors
from pipeline.store.parquet import conform, latest
from pipeline.store.paths import StorePaths, WriterLock, fsync, wait_until_closed
from pipeline.store.schema import base_table, read_migrations, tables
from pipeline.store.settings import WriterSettings

_TENDING_ENDS_S = 5.0

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class WriterStatus:
    """Counters: `stored` rows are committed, `lost` rows were given up at stop; both by table."""

    queued_rows: int
    stored: dict[str, int]
    lost: dict[str, int]
    batches: int
    flush_ms: float
    last_commit_at: datetime | None
    errors: int
    last_error: str | None


@dataclass(slots=True)
class _Entry:
    table: str
    rows: pa.Table
    done: Future[None] | None = None


class _Batch:
    """What one commit takes, in the order it came."""

    def __init__(self, entries: list[_Entry]) -> None:
        self.entries = entries
        self.batch_id = uuid.uuid4().hex
        self.failed = False  # once at least
        grouped: dict[str, list[pa.Table]] = {}
        for entry in entries:
            if entry.rows.num_rows:
                grouped.setdefault(entry.table, []).append(entry.rows)
        self.tables = {name: latest(name, pa.concat_tables(parts)) for name, parts in grouped.items()}


class Writer:
    """The only writer of the store at `path`. Raises StoreError when another one runs, or it cannot open."""

    def __init__(
        self, path: str | os.PathLike[str], node: str, settings: WriterSettings | None = None
    ) -> None:
        self.paths = StorePaths.of(path)
        self.node = node
        self.settings = settings or WriterSettings()
        try:
            self.paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = WriterLock(self.paths)
        except OSError as error:
            raise StoreError(f"cannot write to the store at {self.paths.root}: {error}") from error
        try:
            self._catalog: Catalog | None = self._open()
            self.last_msg_id = self._catalog.last_msg_id()
            with self._catalog.connection.cursor() as cursor:  # should the clock have been set back since
                self._recorded_at = max(datetime.now(UTC), *newest(cursor, tables()).values())
        except BaseException:
            self._lock.release()
            raise
        self._committing = threading.Lock()
        self._tending = threading.Lock()
        self._tender: duckdb.DuckDBPyConnection | None = None
        self._cursors = Cursors()
        self._changed = threading.Condition()
        self._queue: deque[_Entry] = deque()
        self._queued_rows = 0
        self._queued_bytes = 0
        self._flush_now = False
        self._give_up_at: float | None = None  # set by stop()
        self._stored: dict[str, int] = {}
        self._lost: dict[str, int] = {}
        self._batches = 0
        self._flush_ms = 0.0
        self._last_commit_at: datetime | None = None
        self._errors = 0
        self._last_error: str | None = None
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def put(self, table: str, rows: pa.Table) -> bool:
        """Queue a batch of columns; False when the queue is full: the caller counts the loss.

        Raises StoreError for rows that the table cannot hold.
        """
        return self._enqueue(_Entry(base_table(table), conform(table, rows, self.node)))

    def append(self, table: str, rows: Sequence[Mapping[str, Any]]) -> Future[None]:
        """Queue a few rows; the future is done once they are committed, or fails with StoreError.

        All errors come by the future: the queue is full, the writer is stopped, the table cannot hold them.
        """
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # what is queued cannot be taken back
        try:
            if not self._enqueue(_Entry(base_table(table), conform(table, rows, self.node), done)):
                raise StoreError("the store's queue is full, or the writer is stopped")
        except StoreError as error:
            done.set_exception(error)
        return done

    def flush(self, timeout_s: float | None = 60.0) -> None:
        """Wait until all that was queued before is committed. Raises TimeoutError."""
        done: Future[None] = Future()
        with self._changed:
            if self._give_up_at is not None:
                raise StoreError("the writer is stopped")
            self._queue.append(_Entry("sip", conform("sip", [], self.node), done))
            self._flush_now = True
            self._changed.notify_all()
        done.result(timeout_s)

    def status(self) -> WriterStatus:
        """The counters of this moment."""
        with self._changed:
            return WriterStatus(
                queued_rows=self._queued_rows,
                stored=dict(self._stored),
                lost=dict(self._lost),
                batches=self._batches,
                flush_ms=self._flush_ms,
                last_commit_at=self._last_commit_at,
                errors=self._errors,
                last_error=self._last_error,
            )

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A second connection beside the flushes, for reading and upkeep; the caller closes it, soon."""
        return self._cursors.open(lambda: self._opened().connection)

    def _opened(self) -> Catalog:
        if self._catalog is None:
            raise StoreError("the store is closed, or being opened again after an error")
        return self._catalog

    @contextmanager
    def tending(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A cursor in the lake for upkeep beside the flushes: one at a time, for what merges and what deletes would
        refuse each other. Raises StoreError when the writer is stopped."""
        with self._tending:
            if self.stopping:
                raise StoreError("the writer is stopped")
            with self.cursor() as cursor:
                cursor.execute("USE lake")
                self._tender = cursor
                try:
                    yield cursor
                finally:
                    self._tender = None

    @contextmanager
    def between_commits(self) -> Iterator[None]:
        """No batch is committed meanwhile: DuckLake refuses rows for a table that others are deleted from at that
        moment. What arrives is queued, so be quick."""
        with self._committing:
            yield

    def register(self, batch_id: str, files: Mapping[str, Sequence[Path]]) -> None:
        """Make Parquet files that were written beside the queue (see `store.bulk`) part of the store, all or none.

        Raises StoreError.
        """
        catalog = self._opened()
        with self._committing:
            try:
                catalog.register(batch_id, files)
            except duckdb.Error as error:
                if not catalog.has_committed(batch_id):
                    raise StoreError(f"cannot store what was read: {error}") from error

    def commit_time(self) -> datetime:
        """A time for `recorded_at`: strictly rising, so that the latest of several states is always known."""
        with self._changed:
            self._recorded_at = max(datetime.now(UTC), self._recorded_at + timedelta(microseconds=1))
            return self._recorded_at

    @property
    def stopping(self) -> bool:
        """True once `stop` was called: upkeep ends soon then."""
        return self._give_up_at is not None

    def copy_catalog(self, file: Path) -> list[str]:
        """Write a copy of the catalog to a new file; the files that it names, below the folder of files."""
        return self._opened().write_copy(file)

    def renew_catalog(self, patience_s: float = 30.0) -> None:
        """Write the catalog file anew, so that nothing is in it any more that was deleted, not even in its gaps.

        At the end nobody reads or writes for a moment: live readers attach again by themselves. Raises StoreError when
        somebody does not let go of the catalog within `patience_s`; nothing has changed then.
        """
        # Who has a cursor may be waiting for a commit: so that comes last.
        with self._tending, self._cursors.nobody_else(patience_s), self._committing:
            catalog = self._opened()
            catalog.write_copy(self.paths.fresh_catalog)
            self._catalog = None
            catalog.close()
            try:
                # While anybody has the old file open, DuckDB would go on with that one.
                wait_until_closed([self.paths.catalog, self.paths.catalog_log], patience_s)
                self.paths.fresh_catalog.replace(self.paths.catalog)
                fsync(self.paths.root)
            finally:
                self._catalog = self._open()

    def merge(self, max_file_bytes: int | None = None) -> upkeep.Merged:
        """Merge files, those below `max_file_bytes` only, beside the flushes (see `upkeep.merge`)."""
        with self.tending() as cursor:
            return upkeep.merge(cursor, self.paths, max_file_bytes)

    def stop(self, timeout_s: float = 30.0) -> WriterStatus:
        """Commit what is queued, close, and return the last counters.

        When the store cannot be written for `timeout_s`, the rest is given up and counted in `lost`.
        """
        with self._changed:
            if self._give_up_at is None:
                self._give_up_at = time.monotonic() + timeout_s
            self._changed.notify_all()
        self._thread.join()
        tended = self._end_tending()
        if self._catalog is not None:
            self._catalog.close()
            self._catalog = None
        if tended:
            self._tending.release()
        self._lock.release()
        return self.status()

    def _end_tending(self) -> bool:
        """Cut off what upkeep is about, so that nobody has the catalog open any more; True when it let go in time."""
        give_up_s = time.monotonic() + _TENDING_ENDS_S
        while not self._tending.acquire(timeout=0.05):
            if time.monotonic() > give_up_s:
                return False
            if (tender := self._tender) is not None:
                tender.interrupt()
        return True

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _open(self) -> Catalog:
        return Catalog(self.paths, self.node, self.settings, read_migrations())

    def _enqueue(self, entry: _Entry) -> bool:
        rows, size = entry.rows.num_rows, entry.rows.nbytes
        with self._changed:
            full = (
                self._queued_rows + rows > self.settings.queue_rows
                or self._queued_bytes + size > self.settings.queue_bytes
            )
            if self._give_up_at is not None or (full and self._queue):
                return False
            self._queue.append(entry)
            self._queued_rows += rows
            self._queued_bytes += size
            if self._queued_rows >= self.settings.flush_rows or len(self._queue) == 1:
                self._changed.notify_all()
        return True

    def _run(self) -> None:
        last_flush = -math.inf
        while (batch := self._next_batch(last_flush)) is not None:
            last_flush = time.monotonic()
            self._write(batch)

    def _next_batch(self, last_flush: float) -> _Batch | None:
        """The next batch once it is due; None when the writer is stopped and nothing is left."""
        due = last_flush + self.settings.flush_interval.total_seconds()
        with self._changed:
            while True:
                now = time.monotonic()
                hurry = self._flush_now or self._give_up_at is not None
                if self._queue and (hurry or now >= due or self._queued_rows >= self.settings.flush_rows):
                    return self._take()
                if self._give_up_at is not None:
                    return None
                self._changed.wait(due - now if self._queue else None)

    def _take(self) -> _Batch:
        entries: list[_Entry] = []
        rows = 0
        while self._queue and rows < self.settings.flush_rows:
            entry = self._queue.popleft()
            entries.append(entry)
            rows += entry.rows.num_rows
        self._flush_now = self._flush_now and bool(self._queue)
        return _Batch(entries)

    def _write(self, batch: _Batch) -> None:
        """Commit the batch, however often it takes; at stop, until the deadline."""
        wait_s = self.settings.retry_wait.total_seconds()
        failure: BaseException | None = None
        while True:
            began = time.monotonic()
            try:
                self._commit(batch)
            except Exception as error:  # noqa: BLE001  whatever it is: the rows are kept, and it is reported
                failure, batch.failed = error, True
            else:
                self._settle(batch, (time.monotonic() - began) * 1000)
                return
            self._report(failure)
            with self._changed:
                if self._give_up_at is None:
                    self._changed.wait(wait_s)
                if self._give_up_at is not None:
                    left_s = self._give_up_at - time.monotonic()
                    if left_s <= 0:
                        break
                    self._changed.wait(min(wait_s, left_s))
            wait_s = min(wait_s * 2, self.settings.retry_wait_max.total_seconds())
        self._settle(batch, 0.0, failure)

    def _commit(self, batch: _Batch) -> None:
        if not batch.tables:
            return
        with self._committing:
            if self._catalog is None:
                self._catalog = self._open()
            recorded_at = self.commit_time()
            try:
                self._catalog.commit(batch.batch_id, batch.tables, recorded_at, again=batch.failed)
            except (duckdb.FatalException, duckdb.InternalException, duckdb.ConnectionException):
                broken, self._catalog = self._catalog, None  # DuckDB refuses all further work on it
                broken.close()
                raise

    def _report(self, error: BaseException) -> None:
        with self._changed:
            self._errors += 1
            first = self._last_error != str(error)
            self._last_error = str(error)
        if first:
            _log.warning("store_flush_failed", error=str(error), path=str(self.paths.root))

    def _settle(self, batch: _Batch, flush_ms: float, failure: BaseException | None = None) -> None:
        with self._changed:
            self._queued_rows -= sum(entry.rows.num_rows for entry in batch.entries)
            self._queued_bytes -= sum(entry.rows.nbytes for entry in batch.entries)
            total = self._stored if failure is None else self._lost
            for table, rows in batch.tables.items():
                total[table] = total.get(table, 0) + rows.num_rows
            if failure is None and batch.tables:
                self._batches += 1
                self._flush_ms = flush_ms
                self._last_commit_at = self._recorded_at
                self._last_error = None
        for entry in batch.entries:
            if entry.done is None:
                continue
            if failure is None:
                entry.done.set_result(None)
            else:
                entry.done.set_exception(StoreError(f"given up at stop: {failure}"))
