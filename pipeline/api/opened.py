"""A store opened for reading: `open` one, and every function of this package asks it."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.durations import parse_duration
from pipeline.store.lake import Reader

if TYPE_CHECKING:
    import duckdb
    import pandas as pd
    import pyarrow as pa

Moment = datetime | str | None
"""A time: aware datetime, ISO 8601 text, `"1h"` (that long ago), or None for no bound."""


class Store:
    """A store open for reading, live while a tap writes to it. Several threads may ask at once."""

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        self.path = Path(path)
        self.reader = Reader(path, **options)

    def frame(self, sql: str, parameters: dict[str, Any] | None = None) -> pd.DataFrame:
        """The whole result of a query of ours: times in UTC; whole numbers stay whole where some are missing."""
        return to_frame(self.reader.query(sql, parameters))

    def relation(self, sql: str, parameters: dict[str, Any] | None = None) -> duckdb.DuckDBPyRelation:
        """The same as a DuckDB relation, computed when it is asked; it stays with the tap of the moment."""
        cursor = self.reader.connection.cursor()
        cursor.execute("USE lake")
        return cursor.sql(sql, params=parameters)

    def close(self) -> None:
        """Close it."""
        self.reader.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def to_frame(table: pa.Table) -> pd.DataFrame:
    """An Arrow table as pandas has it, with `Int64` and `boolean` for whole numbers and truths."""
    import pandas as pd  # noqa: PLC0415  0.3 s that commands without a table do without
    import pyarrow as pa  # noqa: PLC0415

    def nullable(arrow_type: pa.DataType) -> Any:
        if pa.types.is_boolean(arrow_type):
            return pd.BooleanDtype()
        return pd.Int64Dtype() if pa.types.is_integer(arrow_type) else None

    frame: pd.DataFrame = table.to_pandas(types_mapper=nullable)
    return frame


_current: list[Store] = []
_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


def open(path: str | os.PathLike[str] | None = None, **options: Any) -> Store:
    """Open the store at `path` (the configured one without it) and make it the one that functions ask.

    `options` are those of `store.lake.open_reader`: timeout_s, memory_limit, threads. Raises StoreError.
    """
    if path is None:
        from pipeline.settings import load  # noqa: PLC0415  pydantic is not needed when a path is given

        path = load()[0].store.path
    _current[:] = [Store(path, **options)]
    return _current[0]


def current(store: Store | None = None) -> Store:
    """`store`, else the one opened last, else the configured one."""
    return store or (_current[0] if _current else open())


def moment(value: Moment, zone: tzinfo = UTC) -> datetime | None:
    """The aware time that `value` means; a text without a zone is in `zone`. Raises ValueError when it means none."""
    if value is None:
        return None
    told = value if isinstance(value, datetime) else _read(value)
    if told.tzinfo is None and value is told:
        raise ValueError(f"{value} has no time zone")
    # Nothing is older or newer, and a day more or less can be reckoned with.
    return min(max(told if told.tzinfo else told.replace(tzinfo=zone), _FIRST), _LAST)


def _read(text: str) -> datetime:
    try:
        length = parse_duration(text)
        assert isinstance(length, timedelta)
        return datetime.now(UTC) - length
    except OverflowError:
        return _FIRST
    except ValueError:
        pass
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f'{text!r}: write "1h", "30m" (ago), or an ISO time') from None
