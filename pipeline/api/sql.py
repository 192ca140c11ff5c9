"""The user's own SQL, read-only."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.api.opened import Store, current, to_frame
from pipeline.store import queries

if TYPE_CHECKING:
    import pandas as pd


def sql(query: str, *, store: Store | None = None) -> pd.DataFrame:
    """The result of one SELECT (also WITH, FROM, DESCRIBE, SUMMARIZE, SHOW, EXPLAIN) on the store.

    Raises StoreError for anything that would change something, and for what DuckDB makes of the query.
    """
    return to_frame(queries.read_sql(current(store).reader, query))
