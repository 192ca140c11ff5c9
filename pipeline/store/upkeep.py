"""Keeping the lake quick and small: merging small files, writing again what lost rows, forgetting old snapshots,
deleting their files.

Each function takes a cursor of the writer's connection and runs beside the flushes. When to run them is
not decided here.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import duckdb

from pipeline.store.duck import quoted
from pipeline.store.paths import StorePaths, fsync

READER_GRACE = timedelta(minutes=10)  # how long a reader may still use what was merged or expired


@dataclass(frozen=True, slots=True)
class Merged:
    """What a merge did: files taken and made, over all tables."""

    files_before: int
    files_after: int


def merge(cursor: duckdb.DuckDBPyConnection, paths: StorePaths, max_file_bytes: int | None = None) -> Merged:
    """Merge adjacent files of each table into larger ones, up to 256 MB, sorted as the table says.

    Only files below `max_file_bytes` are taken. Often with a small limit and seldom without one is much
    cheaper than always without: a large file is not written again for each small one that joins it.
    The old files stay until `clean_up`.
    """
    limit = "" if max_file_bytes is None else f", max_file_size => {max_file_bytes}"
    return _compacted(cursor, paths, f"CALL ducklake_merge_adjacent_files('lake'{limit})")


def rewrite(
    cursor: duckdb.DuckDBPyConnection, paths: StorePaths, table: str, deleted_share: float = 0.0
) -> Merged:
    """Write files of `table` again without their deleted rows, where these are at least `deleted_share` of all.

    Those of one partition become one file. The old files stay until no snapshot needs them.
    """
    call = f"CALL ducklake_rewrite_data_files('lake', {quoted(table)}, delete_threshold => {deleted_share})"
    return _compacted(cursor, paths, call)


def expire(cursor: duckdb.DuckDBPyConnection, older_than: timedelta = READER_GRACE) -> int:
    """Forget snapshots older than `older_than`; their files are then due for `clean_up`. Returns how many."""
    done = cursor.execute(
        f"CALL ducklake_expire_snapshots('lake', older_than => now() - {_interval(older_than)})"
    ).fetchall()
    return len(done)


def clean_up(cursor: duckdb.DuckDBPyConnection, older_than: timedelta = READER_GRACE) -> int:
    """Delete files that no snapshot needs since `older_than`. Returns how many."""
    done = cursor.execute(
        f"CALL ducklake_cleanup_old_files('lake', older_than => now() - {_interval(older_than)})"
    ).fetchall()
    return len(done)


def clear_orphans(cursor: duckdb.DuckDBPyConnection, older_than: timedelta) -> int:
    """Delete files that no snapshot ever knew, as a merge leaves that failed; younger ones may be of a batch that is
    being committed. Returns how many."""
    done = cursor.execute(
        f"CALL ducklake_delete_orphaned_files('lake', older_than => now() - {_interval(older_than)})"
    ).fetchall()
    return len(done)


def clear_folders(paths: StorePaths, unchanged_for: timedelta) -> int:
    """Remove folders of days whose files are all gone since then; rows of such a day would make them again."""
    since = time.time() - unchanged_for.total_seconds()
    removed = 0
    for depth in ("day", "month", "year"):
        for folder in paths.files.rglob(f"{depth}=*"):
            if folder.stat().st_mtime < since and not any(folder.iterdir()):
                with suppress(OSError):  # a file came just now
                    folder.rmdir()
                    removed += 1
    return removed


def _compacted(cursor: duckdb.DuckDBPyConnection, paths: StorePaths, call: str) -> Merged:
    before = _live_files(cursor)
    done = cursor.execute(call).fetchall()
    for file in _live_files(cursor) - before:  # DuckDB does not fsync the Parquet files that it writes
        fsync(paths.files / file)
    return Merged(files_before=sum(int(row[2]) for row in done), files_after=sum(int(row[3]) for row in done))


def _interval(span: timedelta) -> str:
    return f"INTERVAL '{int(span.total_seconds() * 1000)} milliseconds'"


def _live_files(cursor: duckdb.DuckDBPyConnection) -> set[str]:
    rows = cursor.execute("""
        SELECT concat('main/', t.path, f.path)
        FROM catalog.ducklake_data_file f JOIN catalog.ducklake_table t USING (table_id)
        WHERE f.end_snapshot IS NULL AND f.path_is_relative AND t.path_is_relative AND t.end_snapshot IS NULL
    """).fetchall()
    return {str(path) for (path,) in rows}
