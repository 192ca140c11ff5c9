"""What came since: rows told by the time of their commit, which rises strictly and stays with a row for good.

Neither DuckLake's row ids (a merge that sorts deals them out anew) nor its snapshot ids (a file that is written again
gets a new one) would do.
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import Any, NamedTuple

import duckdb

from pipeline.instants import EPOCH
from pipeline.store.files import WRITER_CATALOG


class Span(NamedTuple):
    """Rows of one table that were committed after `after` (None: from the first on), up to `to`."""

    after: datetime | None
    to: datetime

    @property
    def condition(self) -> str:
        """The condition for them, with the parameters of `parameters`."""
        if self.after is None:
            return "(recorded_at <= $committed_to OR recorded_at IS NULL)"
        return "(recorded_at > $committed_after AND recorded_at <= $committed_to)"

    @property
    def parameters(self) -> dict[str, Any]:
        """What `condition` binds."""
        return {"committed_to": self.to} | ({} if self.after is None else {"committed_after": self.after})

    @property
    def is_empty(self) -> bool:
        """True when nothing came."""
        return self.after is not None and self.after >= self.to


def newest(cursor: duckdb.DuckDBPyConnection, tables: Collection[str]) -> dict[str, datetime]:
    """For each table when its newest row was committed, by what the catalog knows of each file. (Of a column that was
    added to a table with rows it knows no more.) The epoch stands for rows of before commits were noted."""
    found = cursor.execute(
        f"""
        SELECT t.table_name, max(s.max_value::TIMESTAMPTZ) AS at
        FROM {WRITER_CATALOG}.ducklake_table t
        JOIN {WRITER_CATALOG}.ducklake_column c
            ON c.table_id = t.table_id AND c.column_name = 'recorded_at' AND c.end_snapshot IS NULL
        JOIN {WRITER_CATALOG}.ducklake_data_file f ON f.table_id = t.table_id AND f.end_snapshot IS NULL
        JOIN {WRITER_CATALOG}.ducklake_file_column_stats s
            ON s.data_file_id = f.data_file_id AND s.column_id = c.column_id AND s.max_value IS NOT NULL
        WHERE t.end_snapshot IS NULL AND list_contains($tables, t.table_name)
        GROUP BY ALL""",
        {"tables": list(tables)},
    ).to_arrow_table()
    return dict.fromkeys(tables, EPOCH) | {row["table_name"]: row["at"] for row in found.to_pylist()}


def parts(cursor: duckdb.DuckDBPyConnection, table: str, span: Span, rows: int) -> list[Span]:
    """`span` of `table` in parts of about that many rows, whole commits each."""
    if span.is_empty:
        return []
    counted = cursor.execute(
        f"""
        SELECT coalesce(recorded_at, $epoch) AS committed_at, count(*) AS row_count FROM {table} WHERE {span.condition}
        GROUP BY ALL ORDER BY committed_at""",
        {"epoch": EPOCH, **span.parameters},
    ).to_arrow_table()
    cut: list[Span] = []
    after, held = span.after, 0
    for commit in counted.to_pylist():
        held += commit["row_count"]
        if held >= rows:
            cut.append(Span(after, commit["committed_at"]))
            after, held = commit["committed_at"], 0
    if held:
        cut.append(Span(after, span.to))
    return cut
