"""What goes: rows that are old enough, the oldest messages of a store that is too large, states that were replaced.

Rows go by whole files where that can be, a few files at a time, and no batch is committed meanwhile: that is as long
as ingest ever waits, some tenths of a second. Each step is a transaction, so a prune that is cut off is simply gone
on with by the next one. On the disk the files stay until no snapshot needs them (`upkeep.expire`, `clean_up`).
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import duckdb

from pipeline.errors import StoreError
from pipeline.store import upkeep
from pipeline.store.duck import quoted
from pipeline.store.files import DataFile, delete_rows, in_bites, live_files
from pipeline.store.schema import Layout, layout, tables
from pipeline.store.settings import RetentionSettings, to_bytes
from pipeline.store.writer import Writer

MESSAGES: Final = ("sip", "rtcp", "log", "weird")

_FRESH: Final = timedelta(hours=1)  # messages that young stay, however large the store: calls still need them
_PART: Final = timedelta(days=1)  # a file that is not old as a whole loses its old rows that often
_WORTH: Final = 0.2  # a file is written again when that share of its rows is gone, or can go
_REPLACED_WITHIN: Final = timedelta(
    days=2
)  # states change while a call lasts, and when facts about it come late


@dataclass(slots=True)
class Dropped:
    """What a prune took out of a table, or would. `bytes` are those of whole files."""

    table: str
    reason: str  # age, size, replaced
    rows: int = 0
    files: int = 0
    bytes: int = 0


def prune(
    writer: Writer, settings: RetentionSettings, *, now: datetime | None = None, dry_run: bool = False
) -> list[Dropped]:
    """Take out what is too old or too much, and states that were replaced.

    `dry_run` says what would go by age and size. Raises StoreError when the writer stops meanwhile, or duckdb.Error.
    """
    now = now or datetime.now(UTC)
    with writer.tending() as cursor:
        files = live_files(cursor, writer.paths)
        old = _old(files, settings, now)
        going = set(old)
        surplus = _surplus([file for file in files if file not in going], _most_bytes(writer, settings), now)
        going |= set(surplus)
        dropped = [*_counted(old, "age"), *_counted(surplus, "size")]
        if dry_run:
            return dropped
        for bite in in_bites(going):
            _delete(writer, cursor, bite)
        staying = [file for file in files if file not in going]
        dropped += _drop_old_rows(writer, cursor, staying, settings, now)
        dropped += drop_replaced(writer, cursor, now - _REPLACED_WITHIN)
    return dropped


def is_too_large(writer: Writer, settings: RetentionSettings) -> str | None:
    """In words, when the store is larger than it may be although nothing more can go."""
    most = _most_bytes(writer, settings)
    with writer.cursor() as cursor:
        size = sum(file.bytes for file in live_files(cursor, writer.paths))
    return f"the store has {size} bytes, {most} are allowed" if size > most else None


def _most_bytes(writer: Writer, settings: RetentionSettings) -> int:
    return to_bytes(settings.max_size, shutil.disk_usage(writer.paths.root).total)


# -- by age and size -------------------------------------------------------------------------------------


def _old(files: Iterable[DataFile], settings: RetentionSettings, now: datetime) -> list[DataFile]:
    kept = settings.by_table()
    return [file for file in files if file.table in kept and file.last and file.last < now - kept[file.table]]


def _surplus(files: list[DataFile], most_bytes: int, now: datetime) -> list[DataFile]:
    """The oldest files of messages, until the rest is small enough."""
    excess = sum(file.bytes for file in files) - most_bytes
    chosen = []
    for file in files:  # they come in order of age
        if excess <= 0:
            break
        if file.table in MESSAGES and file.last and file.last < now - _FRESH:
            chosen.append(file)
            excess -= file.bytes
    return chosen


def _counted(files: Iterable[DataFile], reason: str) -> list[Dropped]:
    by_table: dict[str, Dropped] = {}
    for file in files:
        found = by_table.setdefault(file.table, Dropped(file.table, reason))
        found.rows += file.live_rows
        found.files += 1
        found.bytes += file.bytes
    return list(by_table.values())


def _drop_old_rows(
    writer: Writer,
    cursor: duckdb.DuckDBPyConnection,
    files: Iterable[DataFile],
    settings: RetentionSettings,
    now: datetime,
) -> list[Dropped]:
    """Tables that are not cut by day have files which are old in part."""
    kept = settings.by_table()
    dropped: dict[str, Dropped] = {}
    for file in files:
        how = layout(file.table)
        if how.partition_column or file.table not in kept or file.first is None:
            continue
        limit = now - kept[file.table]
        if file.first < limit - _PART:
            rows = _delete(writer, cursor, [file], f"{how.age_column} < {quoted(limit.isoformat())}")
            if rows:
                dropped.setdefault(file.table, Dropped(file.table, "age")).rows += rows
    for table in dropped:
        upkeep.rewrite(cursor, writer.paths, table, _WORTH)
    return list(dropped.values())


# -- states that were replaced ---------------------------------------------------------------------------


def drop_replaced(
    writer: Writer, cursor: duckdb.DuckDBPyConnection, since: datetime | None = None
) -> list[Dropped]:
    """Of tables of states the rows that a newer one replaced, among those that came after `since` (None: all).

    Files of which little would go are left alone. Readers miss nothing: their views take the newest row of each key.
    """
    dropped = []
    for table in tables():
        how = layout(table)
        if how.state_key and (rows := _drop_replaced(writer, cursor, table, how, since)):
            dropped.append(Dropped(table, "replaced", rows))
            upkeep.rewrite(cursor, writer.paths, table)
    return dropped


def _drop_replaced(
    writer: Writer, cursor: duckdb.DuckDBPyConnection, table: str, how: Layout, since: datetime | None
) -> int:
    files = [
        file
        for file in live_files(cursor, writer.paths, table)
        if since is None or (file.last and file.last >= since)
    ]
    if not files:
        return 0
    key, version = ", ".join(how.state_key), how.state_version
    names = ", ".join(quoted(file.path) for file in files)
    # What is replaced stays replaced, so this may be looked up while rows come in.
    cursor.execute(f"""
        CREATE OR REPLACE TEMP TABLE replaced AS
        WITH state AS NOT MATERIALIZED (
            SELECT filename, rowid AS row_id, {key}, {version} FROM {table} WHERE filename IN ({names})
        )
        SELECT filename, row_id FROM state JOIN (
            SELECT {key}, max({version}) AS newest FROM state GROUP BY ALL HAVING min({version}) < max({version})
        ) again USING ({key})
        WHERE {version} < newest""")
    counted = dict(cursor.execute("SELECT filename, count(*) FROM replaced GROUP BY filename").fetchall())
    worth = [file for file in files if counted.get(str(file.path), 0) >= _WORTH * file.live_rows]
    rows = 0
    for bite in in_bites(worth):
        listed = ", ".join(quoted(file.path) for file in bite)
        condition = f"rowid IN (SELECT row_id FROM replaced WHERE filename IN ({listed}))"
        rows += _delete(writer, cursor, bite, condition)
    cursor.execute("DROP TABLE temp.replaced")
    return rows


def _delete(
    writer: Writer, cursor: duckdb.DuckDBPyConnection, bite: list[DataFile], condition: str = "true"
) -> int:
    if writer.stopping:
        raise StoreError("the writer is stopped")
    with writer.between_commits():
        return delete_rows(cursor, writer.paths, bite, condition)
