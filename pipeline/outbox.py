"""What leaves the loop for the store: batches of columns, and small rows that wait for company."""

from __future__ import annotations

import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import structlog

from pipeline.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

    from pipeline.store.writer import Writer

log = structlog.get_logger(__name__)


class Outbox:
    """Hands rows to the writer and counts what it had no room for; nothing is dropped without a number."""

    def __init__(self, writer: Writer) -> None:
        self._writer = writer
        self._small: dict[str, list[dict[str, Any]]] = {}
        self._lock = threading.Lock()
        self.handed_over = 0  # messages that the writer took
        self.refused_messages = 0
        self.refused: Counter[str] = Counter()  # rows by table

    def put(self, tables: dict[str, pa.Table]) -> None:
        """Hand over the decoder's rows."""
        for table, rows in tables.items():
            if self._take(table, rows):
                self.handed_over += rows.num_rows
            else:
                self.refused_messages += rows.num_rows
                self.refused[table] += rows.num_rows

    def add(self, table: str, rows: list[dict[str, Any]]) -> None:
        """Keep small rows until the next `flush`; may be called from any thread."""
        if not rows:
            return
        with self._lock:
            self._small.setdefault(table, []).extend(rows)

    def flush(self) -> None:
        """Hand over the small rows."""
        with self._lock:
            small, self._small = self._small, {}
        for table, rows in small.items():
            if not self._take(table, rows):
                self.refused[table] += len(rows)
                log.error("rows not stored, the store's queue is full", table=table, rows=len(rows))

    def _take(self, table: str, rows: pa.Table | list[dict[str, Any]]) -> bool:
        try:
            return self._writer.put(table, rows)
        except StoreError as error:
            log.error("rows that do not fit the store", table=table, rows=len(rows), error=str(error))
            return False
