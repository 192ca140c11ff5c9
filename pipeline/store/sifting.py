"""A batch that the store refuses for what is in it: all other rows are stored, those are set aside.

The parts of a batch always come out the same, and each has an id made of the batch's: whatever is interrupted goes
on later, in another run if need be, and stores nothing twice.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import structlog

from pipeline.errors import StoreError
from pipeline.store.spool import write_batch

ATTEMPTS_BEFORE: Final = 3  # of the whole batch
_SMALLEST_AFTER: Final = 200  # attempts: from then on parts are set aside as they are
_MOST_FILES: Final = 1_000
_OF_THE_STORE: Final = (
    OSError,
    MemoryError,
    StoreError,
    duckdb.IOException,
    duckdb.TransactionException,
    duckdb.ConnectionException,
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.InterruptException,
    duckdb.OutOfMemoryException,
)

_log = structlog.get_logger(__name__)

Tables = Mapping[str, pa.Table]


def may_be_the_rows(error: BaseException) -> bool:
    """False for failures of disk, memory or catalog: those pass, and the rows have nothing to do with them."""
    return not isinstance(error, _OF_THE_STORE)


class Sifter:
    """Stores a batch in parts. `commit` stores a part under an id, once; `prove` raises what fails of the store."""

    def __init__(
        self, commit: Callable[[str, Tables], object], prove: Callable[[int], None], folder: Path
    ) -> None:
        self._commit = commit
        self._prove = prove
        self._folder = folder

    def sift(self, batch_id: str, tables: Tables, done: set[str]) -> Counter[str]:
        """Store what can be stored, and set the rest aside: rows set aside by table.

        `done` are the parts that are stored already. Raises what the store fails with; to be done again then.
        """
        refused: Counter[str] = Counter()
        attempts = 0
        waiting = [(name, 0, rows.num_rows) for name, rows in reversed(list(tables.items()))]
        while waiting:
            name, first, count = waiting.pop()
            part_id = f"{batch_id}.{name}.{first}-{count}"
            if part_id in done:
                continue
            if any(_within(name, first, count, other) for other in done) and count > 1:
                waiting += _halves(name, first, count)
                continue
            part = {name: tables[name].slice(first, count)}
            attempts += 1
            try:
                self._commit(part_id, part)
                done.add(part_id)
            except Exception as error:
                if not may_be_the_rows(error):
                    raise
                if count > 1 and attempts < _SMALLEST_AFTER:
                    waiting += _halves(name, first, count)
                    continue
                self._prove(part[name].nbytes)
                self._set_aside(part_id, part, error)
                refused[name] += count
        return refused

    def _set_aside(self, part_id: str, part: Tables, error: Exception) -> None:
        self._folder.mkdir(mode=0o700, exist_ok=True)
        if sum(1 for _ in self._folder.iterdir()) >= _MOST_FILES:
            raise StoreError(
                f"{self._folder} holds {_MOST_FILES} files of rows that cannot be stored: look at them"
            )
        file = self._folder / f"{0:010}-{part_id}.arrow"
        write_batch(file, part)
        ((table, rows),) = part.items()
        _log.error(
            "rows that cannot be stored were set aside",
            table=table,
            rows=rows.num_rows,
            error=str(error).partition("\n")[0],
            file=str(file),
            to_do="report it; with a version that mends it, move the file into the spool and restart the tap",
        )


def refused_files(folder: Path) -> Iterator[Path]:
    """The files that were set aside."""
    return folder.glob("*.arrow")


def _halves(name: str, first: int, count: int) -> list[tuple[str, int, int]]:
    half = count // 2
    return [(name, first + half, count - half), (name, first, half)]


def _within(name: str, first: int, count: int, part_id: str) -> bool:
    """Whether that part is a smaller one of this one: then this one is not stored in one."""
    _, table, place = part_id.rsplit(".", 2)
    began, _, length = place.partition("-")
    return table == name and first <= int(began) and int(began) + int(length) <= first + count
