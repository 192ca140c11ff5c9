"""What is put into the store, and what one commit takes of it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass

import pyarrow as pa

from pipeline.store.parquet import latest
from pipeline.store.spool import SpoolFile


@dataclass(slots=True)
class Entry:
    """Rows of one table. Somebody waits for the commit of those with `done`, and has them still if it fails."""

    table: str
    rows: pa.Table
    done: Future[None] | None = None
    number: int = 0  # in the order in which entries came
    came_s: float = 0.0


class Batch:
    """What one commit takes, in the order it came. In memory, on disk, or both.

    Rows that somebody waits for never go to the spool: the next run would store them from there when whoever waited
    has long put them in again. So a batch that has such rows as well is parted when it fails.
    """

    def __init__(self, entries: list[Entry], place: int = 0, file: SpoolFile | None = None) -> None:
        self.entries = entries
        self.place = place
        self.file = file
        self.batch_id = file.batch_id if file else uuid.uuid4().hex
        self.attempts = 0
        self.saving = False  # the spooler writes it at this moment
        self.settled = False
        self.fault: Exception | None = None  # of the last attempt
        self.done: set[str] = set()  # parts that are stored already (see `store.sifting`)
        self._tables: dict[str, pa.Table] | None = None if file else _grouped(entries)

    @classmethod
    def of_file(cls, file: SpoolFile) -> Batch:
        """A batch on disk; its rows are read when they are asked for."""
        return cls([], file.place, file)

    @property
    def tables(self) -> dict[str, pa.Table] | None:
        """Rows by table; None while they are on disk only."""
        return self._tables

    def load(self, tables: dict[str, pa.Table]) -> None:
        """Hold the rows that were read from disk."""
        self._tables = tables

    @property
    def rows(self) -> Mapping[str, int]:
        """How many, by table."""
        if self._tables is not None:
            return {name: table.num_rows for name, table in self._tables.items()}
        return self.file.rows if self.file else {}

    @property
    def left_behind(self) -> bool:
        """True for rows of a run before this one, which this one's numbers know nothing of."""
        return self.file is not None and self.file.left_behind

    @property
    def is_mixed(self) -> bool:
        """True when somebody waits for a part of it."""
        return len({entry.done is None for entry in self.entries}) > 1

    @property
    def may_be_spooled(self) -> bool:
        """True when it has rows, is in memory only, and nobody waits for it."""
        return (
            bool(self._tables)
            and not (self.file or self.saving)
            and all(e.done is None for e in self.entries)
        )


def _grouped(entries: list[Entry]) -> dict[str, pa.Table]:
    grouped: dict[str, list[pa.Table]] = {}
    for entry in entries:
        if entry.rows.num_rows:
            grouped.setdefault(entry.table, []).append(entry.rows)
    return {name: latest(name, pa.concat_tables(parts)) for name, parts in grouped.items()}
