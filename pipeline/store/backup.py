"""A copy of a store, of one moment, taken while the tap runs: the catalog, every file that it names, the ledger.

Files are linked where that can be (they never change, and a link keeps what upkeep deletes), else copied. The copy is
a store like any other: read it in place with `--store`, or put it back.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.store.paths import StorePaths, fsync
from pipeline.store.writer import Writer


@dataclass(slots=True)
class BackedUp:
    """What was copied. `linked` are those files that take no room of their own."""

    path: str
    files: int = 0
    linked: int = 0
    bytes: int = 0


def back_up(writer: Writer, target: Path) -> BackedUp:
    """Copy the store of `writer` to the new folder `target`, which appears when all is there.

    Raises StoreError when it is there already, or cannot be written.
    """
    target = target.resolve()
    if target.exists():
        raise StoreError(f"{target} is there already: name a new folder")
    if target.is_relative_to(writer.paths.root):
        raise StoreError(f"{target} is inside of the store itself")
    made = StorePaths(target.with_name(f".{target.name}.unfinished"))
    try:
        shutil.rmtree(made.root, ignore_errors=True)
        made.root.mkdir(mode=0o700, parents=True)
        made.files.mkdir(mode=0o700)
        done = _copy(writer, made)
        made.root.rename(target)
        fsync(target.parent)
    except OSError as error:
        shutil.rmtree(made.root, ignore_errors=True)
        raise StoreError(f"cannot back up to {target}: {error}") from error
    done.path = str(target)
    return done


def _copy(writer: Writer, made: StorePaths) -> BackedUp:
    done = BackedUp(str(made.root))
    with writer.tending():  # meanwhile no file is deleted
        for name in writer.copy_catalog(made.catalog):
            source, copy = writer.paths.files / name, made.files / name
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            done.linked += _link_or_copy(source, copy)
            done.files += 1
            done.bytes += copy.stat().st_size
    _copy_ledger(writer.paths, made)
    for folder, _, _ in os.walk(made.root):
        fsync(Path(folder))
    return done


def _link_or_copy(source: Path, copy: Path) -> bool:
    try:
        copy.hardlink_to(source)
    except OSError:  # on another disk
        shutil.copyfile(source, copy)
        fsync(copy)
        return False
    return True


def _copy_ledger(paths: StorePaths, made: StorePaths) -> None:
    if not paths.ledger.exists():
        return
    with closing(sqlite3.connect(paths.ledger)) as ledger, closing(sqlite3.connect(made.ledger)) as copy:
        ledger.backup(copy)
    made.ledger.chmod(0o600)
    fsync(made.ledger)
