"""Which Parquet files the lake is made of, as its catalog says; and taking rows out of them.

DuckLake deletes by file: a file that loses all its rows leaves the catalog whole, any other gets a list of deleted
rows beside it. Either way older snapshots keep the file until they are expired, so no reader is disturbed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from pipeline.store.duck import quoted
from pipeline.store.paths import StorePaths, fsync
from pipeline.store.schema import layout, tables

WRITER_CATALOG = "catalog.main"
READER_CATALOG = "__ducklake_metadata_lake.main"  # DuckLake's own name for it, where nobody gave it one

_ROWS_AT_ONCE = 500_000  # DuckLake keeps the number of every row that it deletes: 0.4 us and 50 bytes each


@dataclass(frozen=True, slots=True)
class DataFile:
    """One file of the newest snapshot. `first` and `last` are of the column by which its rows grow old."""

    table: str
    path: Path
    rows: int  # in the file
    deleted_rows: int  # of these
    bytes: int  # with the list of deleted rows
    first: datetime | None
    last: datetime | None

    @property
    def live_rows(self) -> int:
        """Rows that a reader sees."""
        return self.rows - self.deleted_rows


def live_files(
    cursor: duckdb.DuckDBPyConnection, paths: StorePaths, table: str | None = None
) -> list[DataFile]:
    """The files of one table or of all, those in front whose newest row is oldest."""
    ages = ", ".join(f"({quoted(name)}, {quoted(layout(name).age_column)})" for name in tables())
    found = cursor.execute(
        f"""
        SELECT t.table_name, concat('main/', t.path, f.path) AS path, f.record_count AS rows,
            coalesce(d.delete_count, 0) AS deleted_rows,
            f.file_size_bytes + coalesce(d.file_size_bytes, 0) AS bytes,
            s.min_value::TIMESTAMPTZ AS first, s.max_value::TIMESTAMPTZ AS last
        FROM {WRITER_CATALOG}.ducklake_data_file f
        JOIN {WRITER_CATALOG}.ducklake_table t ON t.table_id = f.table_id AND t.end_snapshot IS NULL
        JOIN (VALUES {ages}) age(table_name, column_name) ON age.table_name = t.table_name
        LEFT JOIN {WRITER_CATALOG}.ducklake_delete_file d
            ON d.data_file_id = f.data_file_id AND d.end_snapshot IS NULL
        LEFT JOIN {WRITER_CATALOG}.ducklake_column c
            ON c.table_id = f.table_id AND c.column_name = age.column_name AND c.end_snapshot IS NULL
        LEFT JOIN {WRITER_CATALOG}.ducklake_file_column_stats s
            ON s.data_file_id = f.data_file_id AND s.column_id = c.column_id
        WHERE f.end_snapshot IS NULL AND ($table IS NULL OR t.table_name = $table)
        ORDER BY last NULLS LAST, f.data_file_id""",
        {"table": table},
    ).to_arrow_table()
    return [
        DataFile(table=row.pop("table_name"), path=paths.files / row.pop("path"), **row)
        for row in found.to_pylist()
    ]


def in_bites(files: Iterable[DataFile]) -> Iterator[list[DataFile]]:
    """The files of each table in groups small enough that deleting from one group holds nobody up for long."""
    bite: list[DataFile] = []
    for file in sorted(files, key=lambda each: each.table):
        if bite and (
            file.table != bite[0].table or sum(each.rows for each in bite) + file.rows > _ROWS_AT_ONCE
        ):
            yield bite
            bite = []
        bite.append(file)
    if bite:
        yield bite


def delete_rows(
    cursor: duckdb.DuckDBPyConnection, paths: StorePaths, files: list[DataFile], condition: str = "true"
) -> int:
    """Delete the rows of these files, all of one table, that meet `condition`; returns how many.

    In a transaction of its own, durable when it returns. DuckLake refuses it (duckdb.TransactionException) when
    rows were added to the table meanwhile: keep the writer from committing. Current database is the lake.
    """
    table = files[0].table
    folder = paths.table_folder(table)
    lists_before = _deletion_lists(folder)
    names = ", ".join(quoted(file.path) for file in files)
    cursor.execute("BEGIN")
    try:
        done = cursor.execute(f"DELETE FROM {table} WHERE filename IN ({names}) AND ({condition})").fetchone()
        if fresh := _deletion_lists(folder) - lists_before:  # DuckDB does not fsync what it writes
            for file in fresh:
                fsync(file)
            fsync(folder)
        cursor.execute("COMMIT")
    except BaseException:
        _roll_back(cursor)
        raise
    return int(done[0]) if done else 0


def _deletion_lists(folder: Path) -> set[Path]:
    return set(folder.glob("ducklake-*-delete.parquet"))


def _roll_back(cursor: duckdb.DuckDBPyConnection) -> None:
    try:
        cursor.execute("ROLLBACK")
    except duckdb.Error:  # the failed COMMIT has done so
        return
