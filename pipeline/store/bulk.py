"""Much at once into the store, all of it or nothing: for files that are imported while no tap runs.

Rows are written to Parquet files as they come, so memory is bounded; no reader sees any of them before all are
registered with the catalog in one transaction. What a crash leaves of them, the next start clears away.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from pipeline.store.parquet import conform, latest, remove_files, write_files
from pipeline.store.schema import base_table
from pipeline.store.writer import Writer

_HOUR_US = 3_600_000_000
_MINUTE_US = 60_000_000


class Load:
    """Rows that are to be stored together; without `commit` nothing of them stays.

    `load_id` begins the `batch_id` of its rows, and no other load may have had it; `node` is on all of them.
    """

    def __init__(self, writer: Writer, node: str, load_id: str) -> None:
        self._writer = writer
        self._node = node
        self._load_id = load_id
        self._files: dict[str, list[Path]] = {}
        self._parts = 0

    def add(self, table: str, rows: pa.Table | Sequence[Mapping[str, Any]]) -> None:
        """Write some rows. Raises StoreError for rows that the table cannot hold, OSError when there is no room."""
        name = base_table(table)
        conformed = latest(name, conform(name, rows, self._node))
        if not conformed.num_rows:
            return
        self._parts += 1
        batch_id = f"{self._load_id}-{self._parts}"
        written = write_files(self._writer.paths, name, conformed, batch_id, self._writer.commit_time())
        self._files.setdefault(name, []).extend(written)

    def commit(self) -> None:
        """Store everything. Raises StoreError when that fails; then nothing is stored."""
        self._writer.register(self._load_id, self._files)
        self._files = {}

    def __enter__(self) -> Load:
        return self

    def __exit__(self, *_: object) -> None:
        for written in self._files.values():
            remove_files(written)


class TakenIds:
    """The `msg_id`s in use, looked up by the hour: messages of the past get ids of their own time, as they would
    have got then, but none that another message has."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
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
        found = stored_rows(
            self._writer,
            " UNION ALL ".join(
                f"SELECT msg_id FROM {table} WHERE received_at >= ? AND received_at < ?"
                for table in ("sip", "rtcp", "log")
            ),
            bounds * 3,
        )
        return frozenset(msg_id for (msg_id,) in found)


def _at(us: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)


def stored_rows(writer: Writer, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
    """The rows of a query on what is committed."""
    with writer.cursor() as cursor:
        cursor.execute("USE lake")
        return cursor.execute(sql, parameters).fetchall()
