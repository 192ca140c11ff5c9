"""Who may use the one write connection, and when: the writer's flushes, cursors beside them, and upkeep."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pyarrow as pa
import structlog

from pipeline.errors import StoreError
from pipeline.store import upkeep
from pipeline.store.catalog import Catalog
from pipeline.store.commits import newest
from pipeline.store.cursors import Cursors
from pipeline.store.paths import StorePaths, fsync, wait_until_closed
from pipeline.store.presence import CatalogDeletedError, Presence
from pipeline.store.schema import read_migrations, tables
from pipeline.store.settings import WriterSettings

_TENDING_ENDS_S = 5.0
_ANEW_PATIENCE_S = 5.0
_PROBE_BYTES = 64 * 1024

_log = structlog.get_logger(__name__)


class Keeper:
    """The catalog of the store at `path`, opened, and opened again after it broke down."""

    def __init__(self, path: str | os.PathLike[str], node: str, settings: WriterSettings) -> None:
        self.paths = StorePaths.of(path)
        self.node = node
        self.settings = settings
        self._catalog: Catalog | None = None
        self._presence: Presence | None = None
        self._deleted: Presence | None = None  # the catalog that is to be replaced by the copy made of it
        self._ending = threading.Event()
        self._committing = threading.Lock()
        self._tending = threading.Lock()
        self._tender: duckdb.DuckDBPyConnection | None = None
        self._cursors = Cursors()
        self._clock = threading.Lock()
        self._recorded_at = datetime.now(UTC)

    @property
    def stopping(self) -> bool:
        """True once the writer is being stopped: upkeep ends soon then."""
        return self._ending.is_set()

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A second connection beside the flushes, for reading and upkeep; the caller closes it, soon.

        Raises StoreError while the store is not open.
        """
        return self._cursors.open(lambda: self._opened().connection)

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
        with self._clock:
            self._recorded_at = max(datetime.now(UTC), self._recorded_at + timedelta(microseconds=1))
            return self._recorded_at

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
            self._presence_of_catalog().check()
            self._write_anew(patience_s)

    def merge(self, max_file_bytes: int | None = None) -> upkeep.Merged:
        """Merge files, those below `max_file_bytes` only, beside the flushes (see `upkeep.merge`)."""
        with self.tending() as cursor:
            return upkeep.merge(cursor, self.paths, max_file_bytes)

    # -- for the writer ----------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._deleted is not None:
            self._put_in_place(self._deleted, 0.0)
        catalog = Catalog(self.paths, self.node, self.settings, read_migrations())
        try:
            with catalog.connection.cursor() as cursor:  # should the clock have been set back since
                last = newest(cursor, tables()).values()
            with self._clock:
                self._recorded_at = max(self._recorded_at, *last)
            self._look_back(catalog)
            self._presence = Presence(self.paths)
        except BaseException:
            catalog.close()
            raise
        self._catalog = catalog

    def _look_back(self, catalog: Catalog) -> None:
        """Called with a catalog that was just opened, before anybody else uses it."""

    def _opened(self) -> Catalog:
        if self._catalog is None:
            raise StoreError("the store is closed, or being opened again after an error")
        return self._catalog

    def _presence_of_catalog(self) -> Presence:
        if self._presence is None:
            raise StoreError("the store is closed, or being opened again after an error")
        return self._presence

    def _commit(self, batch_id: str, rows: Mapping[str, pa.Table], *, again: bool) -> datetime | None:
        """Commit the rows, and return when; None when there are none. Opens the catalog first where it is not."""
        self._make_ready()
        if not rows:
            return None
        with self._committing:
            recorded_at = self.commit_time()
            with self._breaking():
                self._opened().commit(batch_id, rows, recorded_at, again=again)
        return recorded_at

    def _prove(self, size_bytes: int) -> None:
        """Write something of that size beside the files, and into the catalog; raises what goes wrong."""
        with self._committing, self._breaking():
            self._opened().probe(max(size_bytes, _PROBE_BYTES))

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.FatalException, duckdb.InternalException, duckdb.ConnectionException):
            broken, self._catalog = self._catalog, None  # DuckDB refuses all further work on it
            if broken is not None:
                broken.close()
            raise

    def _make_ready(self) -> None:
        if self._catalog is None:
            with self._committing:
                self._open()
        try:
            self._presence_of_catalog().check()
        except CatalogDeletedError:
            self._restore()

    def _restore(self) -> None:
        """The catalog's file was deleted, and nothing else: write it again from the connection that is still open."""
        if not self._tending.acquire(timeout=_ANEW_PATIENCE_S):
            raise StoreError(
                f"{self.paths.catalog} was deleted; it is written again when upkeep lets go of it"
            )
        try:
            with self._cursors.nobody_else(_ANEW_PATIENCE_S), self._committing:
                self._write_anew(_ANEW_PATIENCE_S)
        finally:
            self._tending.release()
        _log.warning(
            "catalog_written_again", file=str(self.paths.catalog), why="it was deleted while the tap ran"
        )

    def _write_anew(self, patience_s: float) -> None:
        catalog, presence = self._opened(), self._presence_of_catalog()
        catalog.write_copy(self.paths.fresh_catalog)
        if not self.paths.catalog.exists():
            self._deleted = presence
        self._catalog = None
        catalog.close()
        try:
            self._put_in_place(presence, patience_s)
        finally:
            self._open()

    def _put_in_place(self, old: Presence, patience_s: float) -> None:
        """Give the fresh catalog its name. While anybody has the old file open, DuckDB would go on with that one."""
        wait_until_closed([self.paths.catalog, self.paths.catalog_log], patience_s)
        give_up_s = time.monotonic() + patience_s
        while old.is_held():
            if time.monotonic() > give_up_s:
                raise StoreError(
                    f"{self.paths.catalog} is still in use, perhaps by a reader: try again later"
                )
            time.sleep(0.02)
        if self._deleted is not None:
            self.paths.catalog_log.unlink(
                missing_ok=True
            )  # of the file that was deleted; the copy has it all
        self.paths.fresh_catalog.replace(self.paths.catalog)
        fsync(self.paths.root)
        self._deleted = None

    def _close(self) -> None:
        """Close the catalog, and cut off what upkeep is about before, so that nobody has it open any more."""
        if self._catalog is not None and self._presence is not None:
            try:
                self._presence.check()
            except CatalogDeletedError:
                with suppress(StoreError, duckdb.Error, OSError):
                    self._restore()
            except (StoreError, OSError) as error:
                _log.error("store_not_in_its_place", error=str(error))
        give_up_s = time.monotonic() + _TENDING_ENDS_S
        while not (tended := self._tending.acquire(timeout=0.05)) and time.monotonic() <= give_up_s:
            if (tender := self._tender) is not None:
                tender.interrupt()
        if self._catalog is not None:
            with suppress(duckdb.Error):
                self._catalog.close()
            self._catalog = None
        if tended:
            self._tending.release()
