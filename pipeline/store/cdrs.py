"""The store's side of importing CDRs: what is known already, and rows stored before the state after them."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Sequence
from concurrent.futures import Future
from datetime import datetime, timedelta
from typing import Any

import duckdb
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store.writer import Writer

Row = dict[str, Any]

_ANY_ZONE = timedelta(hours=27)  # a row stored with another time zone is the same row
_WAIT_S = 0.5


class CdrStore:
    """Rows and states through the one writer; reads beside its flushes. Raises StoreError."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._closing = threading.Event()

    def close(self) -> None:
        """From now on nobody waits for a commit any more."""
        self._closing.set()

    def known(
        self, table: str, source: str, keys: Collection[str], first: datetime, last: datetime
    ) -> set[str]:
        """Those of `keys` that `table` holds of `source`, among rows that start between `first` and `last`."""
        asked = pa.table({"source_row": pa.array(list(keys), pa.string())})
        try:
            with self._writer.cursor() as cursor:
                cursor.execute("USE lake")  # a cursor begins in the main database
                cursor.register("asked", asked)
                found = cursor.execute(
                    f"SELECT source_row FROM {table} SEMI JOIN asked USING (source_row)"
                    " WHERE source = ? AND ts BETWEEN ? AND ?",
                    [source, first - _ANY_ZONE, last + _ANY_ZONE],
                ).fetchall()
        except duckdb.Error as error:
            raise StoreError(f"cannot look for known CDRs: {_line(error)}") from error
        return {row[0] for row in found}

    def store(self, table: str, rows: Sequence[Row], state: Row) -> None:
        """Commit `rows` and `state`. The state is queued after the rows, so it is never on disk before them."""
        futures = [self._writer.append(table, rows)] if rows else []
        futures.append(self._writer.append("cdr_source_state", [state]))
        for future in futures:
            self._wait(future)

    def last_state(self, source: str) -> Row | None:
        """The state of `source` that this node stored last; `position` as a mapping."""
        try:
            with self._writer.cursor() as cursor:
                cursor.execute("USE lake")
                found = cursor.execute(
                    "SELECT state, error, warning, position, imported, refused FROM cdr_source"
                    " WHERE source = ? AND node = ?",
                    [source, self._writer.node],
                )
                names = [column[0] for column in found.description or []]
                row = found.fetchone()
        except duckdb.Error as error:
            raise StoreError(f"cannot read the state of CDR source {source}: {_line(error)}") from error
        if row is None:
            return None
        state = dict(zip(names, row, strict=True))
        state["position"] = json.loads(state["position"]) if state["position"] else None
        return state

    def _wait(self, future: Future[None]) -> None:
        """The writer tries again for as long as it runs, and so long we wait."""
        while True:
            try:
                return future.result(_WAIT_S)
            except TimeoutError:
                if self._closing.is_set():
                    raise StoreError("stopped before the rows were committed") from None


def _line(error: duckdb.Error) -> str:
    return str(error).partition("\n")[0]
