"""Much at once into the store, all of it or nothing: for files that are imported while no tap runs.

Rows are written to Parquet files as they come, so memory is bounded; no reader sees any of them before all are
registered with the catalog in one transaction. What a crash leaves of them, the next start clears away.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store.catalog import Catalog
from pipeline.store.parquet import conform, latest, remove_files, write_files
from pipeline.store.paths import StorePaths, WriterLock
from pipeline.store.schema import base_table, read_migrations
from pipeline.store.settings import WriterSettings

_HOUR_US = 3_600_000_000
_MINUTE_US = 60_000_000


class BulkStore:
    """The store at `path`, held for loads. Raises StoreError when a tap, or anything else, writes to it."""

    def __init__(
        self, path: str | os.PathLike[str], node: str, settings: WriterSettings | None = None
    ) -> None:
        self.paths = StorePaths.of(path)
        self.node = node
        try:
            self.paths.root.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = WriterLock(self.paths)
        except OSError as error:
            raise StoreError(f"cannot write to the store at {self.paths.root}: {error}") from error
        try:
            self._catalog = Catalog(self.paths, node, settings or WriterSettings(), read_migrations())
        except BaseException:
            self._lock.release()
            raise

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection to read what is committed; the caller closes it."""
        return self._catalog.connection.cursor()

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a query on what is committed."""
        with self.cursor() as cursor:
            cursor.execute("USE lake")
            return cursor.execute(sql, parameters).fetchall()

    def load(self, load_id: str) -> Load:
        """Begin a load; `load_id` begins the `batch_id` of its rows, and no other load may have had it."""
        return Load(self._catalog, self.paths, self.node, load_id)

    def close(self) -> None:
        """Let others write."""
        self._catalog.close()
        self._lock.release()

    def __enter__(self) -> BulkStore:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Load:
    """Rows that are to be stored together; without `commit` nothing of them stays."""

    def __init__(self, catalog: Catalog, paths: StorePaths, node: str, load_id: str) -> None:
        self._catalog = catalog
        self._paths = paths
        self._node = node
        self._load_id = load_id
        self._files: dict[str, list[Path]] = {}
        self._parts = 0
        self._recorded_at = datetime.now(UTC)

    def add(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        """Write some rows. Raises StoreError for rows that the table cannot hold, OSError when there is no room."""
        name = base_table(table)
        conformed = latest(name, conform(name, rows, self._node))
        if not conformed.num_rows:
            return
        self._parts += 1
        # Strictly rising, so that the latest of several states is always known.
        self._recorded_at = max(datetime.now(UTC), self._recorded_at + timedelta(microseconds=1))
        batch_id = f"{self._load_id}-{self._parts}"
        written = write_files(self._paths, name, conformed, batch_id, self._recorded_at)
        self._files.setdefault(name, []).extend(written)

    def commit(self) -> None:
        """Store everything. Raises StoreError when that fails; then nothing is stored."""
        files, self._files = self._files, {}
        try:
            self._catalog.register(self._load_id, files)
        except duckdb.Error as error:
            if not self._catalog.has_committed(self._load_id):
                _remove(files)
                raise StoreError(f"cannot store what was read: {error}") from error

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        _remove(self._files)


class TakenIds:
    """The `msg_id`s in use, looked up by the hour: messages of the past get ids of their own time, as they would
    have got then, but none that another message has."""

    def __init__(self, store: BulkStore) -> None:
        self._store = store
        self._hour = -1
        self._ids: frozenset[int] = frozenset()

    def __call__(self, msg_id: int) -> bool:
        hour = msg_id // _HOUR_US
        if hour != self._hour:
            self._hour, self._ids = hour, self._of_hour(hour)
        return msg_id in self._ids

    def _of_hour(self, hour: int) -> frozenset[int]:
        # By the time of arrival, which the files are cut by; an id may run ahead of it by a little.
        bounds = [_at(hour * _HOUR_US - _MINUTE_US), _at((hour + 1) * _HOUR_US)]
        found = self._store.rows(
            " UNION ALL ".join(
                f"SELECT msg_id FROM {table} WHERE received_at >= ? AND received_at < ?"
                for table in ("sip", "rtcp", "log")
            ),
            bounds * 3,
        )
        return frozenset(msg_id for (msg_id,) in found)


def _at(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def _remove(files: Mapping[str, Sequence[Path]]) -> None:
    for written in files.values():
        remove_files(written)
