"""The one writer: a bounded queue, a spool behind it, two threads, and the only write connection.

Batches of columns go in by `put`, small rows that somebody waits for by `append`; both are committed at most every
second. What `status().stored` counts is on disk and in the catalog, once. A flush that fails is tried again with the
same batch until it succeeds or the writer is stopped; what comes meanwhile goes to the spool, and is stored from
there in its order, by the next run if need be.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa
import structlog

from pipeline.errors import StoreError
from pipeline.store.backlog import Backlog
from pipeline.store.batch import Batch, Entry
from pipeline.store.books import WriterStatus
from pipeline.store.catalog import Catalog
from pipeline.store.duck import CatalogHeldError
from pipeline.store.glimpse import Glimpse, glimpse
from pipeline.store.keeper import Keeper
from pipeline.store.parquet import conform
from pipeline.store.paths import WriterLock
from pipeline.store.schema import base_table
from pipeline.store.settings import WriterSettings
from pipeline.store.sifting import ATTEMPTS_BEFORE, Sifter, may_be_the_rows
from pipeline.store.spool import BrokenFileError, spool_of
from pipeline.store.spooler import Spooler

_STUCK_S = 2.0  # a thread that does not come back in that time at stop is left alone
_SPOOL_ENDS_S = 10.0
_FAILING_ENDS_S = 5.0  # what goes to the spool need not be waited for
_READS = 20  # of a file of the spool, until it is given up

_log = structlog.get_logger(__name__)

__all__ = ["Writer", "WriterStatus"]


class Writer(Keeper):
    """The only writer of the store at `path`. Raises StoreError when another one runs, or it cannot open.

    A `patient` one waits for a catalog that another program has open, and spools meanwhile.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        node: str,
        settings: WriterSettings | None = None,
        *,
        patient: bool = False,
    ) -> None:
        super().__init__(path, node, settings or WriterSettings())
        try:
            self.paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = WriterLock(self.paths)
        except OSError as error:
            raise StoreError(f"cannot write to the store at {self.paths.root}: {error}") from error
        try:
            self._spool = spool_of(self.paths, self.settings, node)
            left_behind = list(self._spool.left_behind()) if self._spool else []
            self.last_msg_id = max((file.last_msg_id for file in left_behind), default=0)
            self._backlog = Backlog(self.settings, self._spool, left_behind)
            self._unsure = left_behind  # whether the store has them
            held = self._open_first(patient=patient)
        except BaseException:
            self._close()
            self._lock.release()
            raise
        self._sifter = Sifter(self._commit_part, self._prove, self.paths.refused)
        self._spooler = Spooler(self._backlog, self._spool) if self._spool else None
        if held is not None:
            self._report(held)
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    def put(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> bool:
        """Queue rows; False when there is no room for them: the caller counts the loss.

        Raises StoreError for rows that the table cannot hold.
        """
        return self._backlog.put(Entry(base_table(table), conform(table, rows, self.node)))

    def append(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> Future[None]:
        """Queue rows that never go to the spool; the future is done once they are committed, or fails with StoreError.

        All errors come by the future: the queue is full, the writer is stopped, the table cannot hold them.
        """
        done: Future[None] = Future()
        done.set_running_or_notify_cancel()  # what is queued cannot be taken back
        try:
            if not self._backlog.put(Entry(base_table(table), conform(table, rows, self.node), done)):
                raise StoreError("the store's queue is full, or the writer is stopped")
        except StoreError as error:
            done.set_exception(error)
        return done

    def flush(self, timeout_s: float | None = 60.0) -> None:
        """Wait until all that was queued before is committed. Raises TimeoutError."""
        done: Future[None] = Future()
        if not self._backlog.put(Entry("sip", conform("sip", [], self.node), done), hurry=True):
            raise StoreError("the writer is stopped")
        done.result(timeout_s)

    def status(self) -> WriterStatus:
        """The counters of this moment. Never waits for a disk."""
        return self._backlog.status()

    @contextmanager
    def as_it_was(self) -> Iterator[Writer | Glimpse]:
        """For reading what is stored already, also while another program has the catalog. Raises StoreError."""
        if self._catalog is not None:
            yield self
            return
        with glimpse(self.paths, self.node) as past:
            yield past

    def stop(self, timeout_s: float = 30.0) -> WriterStatus:
        """Commit what is queued, close, and return the last counters.

        What cannot be written for `timeout_s` goes to the spool, for the next run; what has no room there is given
        up and counted in `lost`.
        """
        self._ending.set()
        if self._spooler is not None and self.status().failing_since is not None:
            timeout_s = min(timeout_s, _FAILING_ENDS_S)
        self._backlog.end(timeout_s)
        self._thread.join(timeout_s + _STUCK_S)
        if self._spooler is not None:
            self._spooler.finish(_SPOOL_ENDS_S)
        self._backlog.give_up()
        if not self._thread.is_alive():  # else the disk is stuck, and closing would be, too
            self._close()
            self._lock.release()
        return self.status()

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    # -- the thread --------------------------------------------------------------------------------------

    def _open_first(self, *, patient: bool) -> CatalogHeldError | None:
        try:
            self._open()
        except CatalogHeldError as error:
            if not patient:
                raise
            with glimpse(self.paths, self.node) as past:
                self.last_msg_id = max(self.last_msg_id, past.last_msg_id())
            return error
        self.last_msg_id = max(self.last_msg_id, self._opened().last_msg_id())
        return None

    def _look_back(self, catalog: Catalog) -> None:
        """What the last run had stored but not yet taken out of the spool; before upkeep forgets the snapshots."""
        committed = catalog.committed([file.batch_id for file in self._unsure])
        for file in self._unsure:
            file.done |= {each for each in committed if each.split(".")[0] == file.batch_id.split(".")[0]}
        self._unsure = []

    def _run(self) -> None:
        if self._catalog is None:
            self._write(Batch([]))
        while (batch := self._backlog.next()) is not None:
            self._write(batch)

    def _write(self, batch: Batch) -> None:
        """Commit the batch, however often it takes; at stop, until the deadline."""
        wait_s = self.settings.retry_wait.total_seconds()
        while True:
            self._backlog.attempt(batch)
            try:
                self._store(batch)
            except BrokenFileError as error:
                self._drop(batch, error)
                return
            except Exception as error:  # noqa: BLE001  whatever it is: the rows are kept, and it is reported
                self._report(error)
                batch.fault = error
            else:
                return
            if batch.is_mixed and self._is_not_stored(batch):
                self._backlog.part(batch)
                return
            if not self._backlog.pause(wait_s):
                self._backlog.put_back(batch)
                return
            wait_s = min(wait_s * 2, self.settings.retry_wait_max.total_seconds())

    def _store(self, batch: Batch) -> None:
        tables = self._tables(batch)
        done = batch.file.done if batch.file else batch.done
        at: datetime | None = None
        refused: Mapping[str, int] = {}
        if batch.batch_id in done:
            self._make_ready()
        elif done or (batch.attempts > ATTEMPTS_BEFORE and batch.fault and may_be_the_rows(batch.fault)):
            self._make_ready()
            refused = self._sifter.sift(batch.batch_id, tables, done)
            at = self.commit_time()
        else:
            again = batch.attempts > 1 or batch.file is not None
            at = self._commit(batch.batch_id, tables, again=again)
        stored = {name: rows - refused.get(name, 0) for name, rows in batch.rows.items()}
        file = self._backlog.settle(batch, stored, at, refused)
        if file is not None and self._spool is not None:
            self._spool.remove(file)

    def _is_not_stored(self, batch: Batch) -> bool:
        """True when that is certain: nothing was written of it, or it was rolled back."""
        try:
            with self._committing:
                return not (batch.done or self._opened().has_committed(batch.batch_id))
        except (StoreError, duckdb.Error):
            return False

    def _commit_part(self, part_id: str, tables: Mapping[str, pa.Table]) -> None:
        self._commit(part_id, tables, again=True)

    def _tables(self, batch: Batch) -> dict[str, pa.Table]:
        if batch.tables is None and batch.file is not None and self._spool is not None:
            try:
                batch.load(self._spool.read(batch.file))
            except OSError as error:
                if batch.attempts >= _READS:
                    raise BrokenFileError(str(error)) from error
                raise
        return batch.tables or {}

    def _drop(self, batch: Batch, error: BrokenFileError) -> None:
        if batch.file is not None and self._spool is not None:
            self._spool.set_aside(batch.file.path, str(error))
        self._backlog.drop(batch)

    def _report(self, error: BaseException) -> None:
        if self._backlog.failed(error):
            _log.warning("store_flush_failed", error=self.status().last_error, path=str(self.paths.root))
