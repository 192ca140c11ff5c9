"""Cursors that are counted: who must have the catalog for himself waits until none is open."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import duckdb

from pipeline.errors import StoreError


class Cursors:
    """Gives out cursors of a connection, and bars them for a while. Safe to use from several threads."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0
        self._barred = False

    def open(self, connection: Callable[[], duckdb.DuckDBPyConnection]) -> duckdb.DuckDBPyConnection:
        """A cursor of what `connection` gives at the moment; the caller closes it."""
        with self._changed:
            while self._barred:
                self._changed.wait()
            cursor = connection().cursor()
            self._open += 1
        return cast(duckdb.DuckDBPyConnection, _Counted(cursor, self._closed))

    @contextmanager
    def nobody_else(self, patience_s: float) -> Iterator[None]:
        """None is open, and none is given out. Raises StoreError when some stay open for longer than that."""
        give_up_s = time.monotonic() + patience_s
        with self._changed:
            self._barred = True
            try:
                while self._open:
                    left_s = give_up_s - time.monotonic()
                    if left_s <= 0 or not self._changed.wait(left_s):
                        raise StoreError("the store is in use by a long question or job: try again later")
            except BaseException:
                self._unbar()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._unbar()

    def _unbar(self) -> None:
        self._barred = False
        self._changed.notify_all()

    def _closed(self) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()


class _Counted:
    """A DuckDB cursor that says when it is closed."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, closed: Callable[[], None]) -> None:
        self._cursor = cursor
        self._closed: Callable[[], None] | None = closed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)

    def close(self) -> None:
        self._cursor.close()
        closed, self._closed = self._closed, None
        if closed is not None:
            closed()

    def __enter__(self) -> _Counted:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
