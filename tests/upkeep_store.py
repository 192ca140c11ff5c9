"""Stores for tests of upkeep, quick to make: the tables of a new one are copied and not made again."""

from __future__ import annotations

import shutil
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from store_rows import QUIET

from pipeline.store.writer import Writer


@cache
def _empty() -> Path:
    path = Path(mkdtemp(prefix="hepduck-empty-")) / "store"
    Writer(path, "n1", QUIET).stop()
    return path


def empty_store(path: Path) -> Path:
    """A new store at `path`, with nothing in it but its tables."""
    shutil.copytree(_empty(), path)
    return path


def ask(writer: Writer, sql: str) -> list[tuple[Any, ...]]:
    """The rows of a query, as the writer sees its lake."""
    with writer.cursor() as cursor:
        cursor.execute("USE lake")
        return cursor.execute(sql).fetchall()
