"""Whether a store is whole: the catalog's files are there and hold what it says, messages are there once, the ledger
can be read. Nothing is changed, and a running tap is not disturbed: everything is read as any reader reads it.
"""

from __future__ import annotations

import random
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq

from pipeline.store.files import READER_CATALOG
from pipeline.store.lake import Reader
from pipeline.store.paths import StorePaths

_FRESH_S: Final = 600  # a file that young may be of a batch that is being committed, or of a merge
_SHOWN: Final = 5
_GOING: Final = "to be deleted"
_IDS: Final = 1_000_000  # messages whose ids are compared: of more, one in so many


@dataclass(frozen=True, slots=True)
class Checked:
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str


@dataclass(frozen=True, slots=True)
class _Listed:
    """A file as the catalog lists it."""

    path: Path
    rows: int
    bytes: int
    kind: str  # data, deletions, or to be deleted


def check_store(path: str | Path, *, sample: int | None = None) -> Iterator[Checked]:
    """Look at everything, or read the footers of `sample` files only. Raises StoreError when it cannot be opened."""
    paths = StorePaths.of(path)
    with Reader(paths.root) as reader:
        listed = _listed(reader, paths)
        missing = [file for file in listed if not file.path.exists() and file.kind != _GOING]
        if missing:  # a merge or a prune may have taken them meanwhile
            listed = _listed(reader, paths)
            missing = [file for file in listed if not file.path.exists() and file.kind != _GOING]
        there = [file for file in listed if file not in missing and file.kind != _GOING]
        yield _of_names(
            "files of the catalog", len(listed), "missing", [file.path for file in missing], paths
        )
        yield _of_names("files on the disk", len(there), "orphaned", _orphans(listed, paths), paths)
        data = [file for file in there if file.kind == "data"]
        chosen = data if sample is None else random.sample(data, min(sample, len(data)))
        yield _of_names("rows and bytes of files", len(chosen), "wrong", _wrong(chosen), paths)
        yield _ids(reader)
    yield _ledger(paths)


def _of_names(what: str, looked_at: int, trouble: str, files: list[Path], paths: StorePaths) -> Checked:
    if not files:
        return Checked(what, True, f"{looked_at} files")
    shown = ", ".join(str(file.relative_to(paths.root)) for file in files[:_SHOWN])
    more = f" and {len(files) - _SHOWN} more" if len(files) > _SHOWN else ""
    return Checked(what, False, f"{len(files)} {trouble}: {shown}{more}")


def _listed(reader: Reader, paths: StorePaths) -> list[_Listed]:
    """Every file that the catalog knows, of old snapshots too.

    One question a table, in the order in which files go from one to the next: over a tap's catalog server there is
    no join of such.
    """

    def rows(columns: str, table: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = reader.query(
            f"SELECT {columns} FROM {READER_CATALOG}.{table}"
        ).to_pylist()
        return found

    folders = {
        row["table_id"]: paths.files / "main" / row["path"]
        for row in rows("table_id, path", "ducklake_table")
    }
    listed = []
    for kind, table, count in (
        ("data", "ducklake_data_file", "record_count"),
        ("deletions", "ducklake_delete_file", "delete_count"),
    ):
        for row in rows(f"table_id, path, {count} AS row_count, file_size_bytes AS size", table):
            listed.append(
                _Listed(folders[row["table_id"]] / row["path"], row["row_count"], row["size"], kind)
            )
    for row in rows("path", "ducklake_files_scheduled_for_deletion"):
        listed.append(_Listed(paths.files / row["path"], 0, 0, _GOING))
    return listed


def _orphans(listed: list[_Listed], paths: StorePaths) -> list[Path]:
    """Files that nobody knows and that are too old to be under way: a merge that was cut off leaves such."""
    known = {file.path for file in listed}
    young = time.time() - _FRESH_S
    found = []
    for file in paths.files.rglob("*.parquet"):
        try:
            if file not in known and file.stat().st_mtime < young:
                found.append(file)
        except FileNotFoundError:
            continue
    return sorted(found)


def _wrong(files: list[_Listed]) -> list[Path]:
    """Files whose size or footer is not what the catalog says, or that cannot be read."""
    found = []
    for file in files:
        try:
            same = (file.path.stat().st_size, pq.read_metadata(file.path).num_rows) == (file.bytes, file.rows)
        except FileNotFoundError:
            continue  # taken away meanwhile; what is missing for good has been told
        except (OSError, pa.ArrowException):
            same = False
        if not same:
            found.append(file.path)
    return found


def _ids(reader: Reader) -> Checked:
    """Every SIP message is there once: by its id, which no other has. Of many messages some are looked at."""
    what = "ids of SIP messages"
    try:
        (counted,) = reader.query("SELECT count(*) AS messages FROM sip").to_pylist()
        one_in = max(1, counted["messages"] // _IDS)
        (row,) = reader.query(
            """
            SELECT count(*) AS messages, count(DISTINCT (node, msg_id)) AS ids FROM sip
            WHERE msg_id IS NOT NULL AND msg_id % $one_in = $rest""",
            {"one_in": one_in, "rest": random.randrange(one_in)},  # noqa: S311 - any sample will do
        ).to_pylist()
    except duckdb.Error as error:
        return Checked(what, False, str(error).partition("\n")[0])
    double = row["messages"] - row["ids"]
    return Checked(what, not double, f"{row['messages']} messages" + (f", {double} double" if double else ""))


def _ledger(paths: StorePaths) -> Checked:
    what = "action ledger"
    if not paths.ledger.exists():
        return Checked(what, True, "none: nothing was ever acted on")
    try:
        with closing(sqlite3.connect(f"file:{paths.ledger}?mode=ro", uri=True)) as ledger:
            (state,) = ledger.execute("PRAGMA quick_check").fetchone()
            (attempts,) = ledger.execute("SELECT count(*) FROM attempt").fetchone()
    except sqlite3.Error as error:
        return Checked(what, False, str(error))
    return Checked(what, state == "ok", f"{attempts} attempts" if state == "ok" else str(state))
