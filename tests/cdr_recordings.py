"""The CDRs of the recorded calls in every shape, and a store to read them into.

`tests/data/asterisk/cdr/SESSION` holds what MariaDB, PostgreSQL and Asterisk itself wrote of the calls of
`tests/data/asterisk/SESSION`; Asterisk ran in Europe/Kyiv, two hours ahead of UTC.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.source import CdrSource
from pipeline.store.cdrs import CdrStore
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

DATA = Path(__file__).parent / "data" / "asterisk"
SESSIONS = ("r22-main", "r22-custom-legacy", "r18")
ZONE = "Europe/Kyiv"
# Rows of cdr_full (= of every file Asterisk wrote), and of cdr_extra: the README of the recordings.
FULL_ROWS = {"r22-main": 103, "r22-custom-legacy": 16, "r18": 37}
EXTRA_ROWS = {"r22-main": 102, "r22-custom-legacy": 16, "r18": 36}
AT_ONCE = WriterSettings(flush_interval="0s", serve_readers=False)


def path(session: str, name: str) -> Path:
    """A file of a session."""
    found = DATA / "cdr" / session / name
    return found if found.exists() else DATA / session / name


def header(session: str, name: str) -> str:
    """The line of column names of an export."""
    return path(session, name).read_text().partition("\n")[0]


def mapping(session: str, name: str) -> str:
    """The line of cdr_custom.conf that describes a file, or its `fields`."""
    text = path(session, "cdr_custom.conf").read_text()
    legacy = re.search(rf"^{re.escape(name)} => (.*)$", text, re.MULTILINE)
    if legacy:
        return legacy[1]
    fields = re.search(rf"^\[{re.escape(name)}\]\n(?:.*\n)*?fields = (.*)$", text, re.MULTILINE)
    assert fields, name
    return fields[1]


class Importer:
    """A store, and sources that are read into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer = Writer(folder, "n1", AT_ONCE)
        self.store = CdrStore(self.writer)

    def source(self, source: object, *, once: bool = False, **settings: Any) -> CdrSource:
        how = CdrSourceSettings.model_validate({"source": str(source), **settings})
        return CdrSource(how, self.store, once=once)

    def sql(self, query: str, *parameters: object) -> list[tuple[Any, ...]]:
        with self.writer.cursor() as cursor:
            cursor.execute("USE lake")
            return cursor.execute(query, parameters).fetchall()

    def count(self, table: str = "cdr") -> int:
        return int(self.sql(f"SELECT count(*) FROM {table}")[0][0])

    def assert_once(self, rows: int, table: str = "cdr") -> None:
        """Exactly `rows` rows, no two of them the same."""
        distinct = f"SELECT count(DISTINCT (source, source_row)) FROM {table}"
        assert (self.count(table), self.sql(distinct)[0][0]) == (rows, rows)

    def again(self) -> Importer:
        """The same store after a restart."""
        self.writer.stop()
        return Importer(self.folder)


@contextmanager
def importer(folder: Path) -> Iterator[Importer]:
    made = Importer(folder / "store")
    try:
        yield made
    finally:
        made.writer.stop()
