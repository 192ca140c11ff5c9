"""What a store holds while another program keeps its catalog to itself: read from a copy, which a lock does not bar."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from pipeline.errors import StoreError
from pipeline.store.duck import connect, quoted
from pipeline.store.paths import StorePaths, copy_catalog

_COPIES = 5  # until the file stood still meanwhile


class Glimpse:
    """A store as it was a moment ago; `cursor` as the writer's own."""

    def __init__(self, node: str, connection: duckdb.DuckDBPyConnection) -> None:
        self.node = node
        self._connection = connection

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """A connection to read what was committed; the lake is its database `lake`."""
        return self._connection.cursor()

    def last_msg_id(self) -> int:
        """The highest `msg_id` in the store, 0 when there is none."""
        with self.cursor() as cursor:
            tables = ("sip", "rtcp", "log")
            found = cursor.execute(
                " UNION ALL ".join(f"SELECT coalesce(max(msg_id), 0) FROM lake.{table}" for table in tables)
            ).fetchall()
        return max(int(msg_id) for (msg_id,) in found)


@contextmanager
def glimpse(paths: StorePaths, node: str) -> Iterator[Glimpse]:
    """Raises StoreError when even a copy cannot be read."""
    with tempfile.TemporaryDirectory(prefix="hepduck-glimpse-") as folder:
        copy = Path(folder) / paths.catalog.name
        try:
            copy_catalog(paths, copy, attempts=_COPIES)
            with connect(
                ":memory:", memory_limit="512MB", threads=1, temp_directory=Path(folder) / "spill"
            ) as made:
                options = f"READ_ONLY, DATA_PATH {quoted(f'{paths.files}/')}, OVERRIDE_DATA_PATH true"
                made.execute(f"ATTACH {quoted(f'ducklake:{copy}')} AS lake ({options})")
                yield Glimpse(node, made)
        except (OSError, duckdb.Error) as error:
            raise StoreError(f"{paths.catalog} cannot be read at the moment: {error}") from error
