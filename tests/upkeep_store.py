"""Stores for tests of upkeep, quick to make: the tables of a new one are copied and not made again; and
`python upkeep_store.py PATH` to write and tend one in another process for good.

That process prints the number of each round once it is committed: 60 messages of now, 60 of long ago, and a state of
each of ten calls, whose outcome is that number.
"""

from __future__ import annotations

import shutil
import sys
import threading
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from store_rows import QUIET, sip_rows

from pipeline.store import upkeep
from pipeline.store.retention import prune
from pipeline.store.settings import RetentionSettings, WriterSettings
from pipeline.store.writer import Writer

ROUND_ROWS = 60
CALLS = 10
LONG_AGO = timedelta(days=20)


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


def store_round(writer: Writer, n: int) -> None:
    """Commit what belongs to round `n`, counted from 1."""
    now, first_id = datetime.now(UTC), 1 + (n - 1) * 2 * ROUND_ROWS
    assert writer.put("sip", sip_rows(ROUND_ROWS, first_id, now))
    assert writer.put("sip", sip_rows(ROUND_ROWS, first_id + ROUND_ROWS, now - LONG_AGO))
    writer.append("call", [{"call_id": f"call-{call}", "outcome": str(n)} for call in range(CALLS)])
    writer.flush()


def tend(writer: Writer) -> None:
    """All of upkeep once, without sparing any reader."""
    prune(writer, RetentionSettings(max_size="100%"))
    writer.merge()
    with writer.tending() as cursor:
        upkeep.expire(cursor, timedelta(0))
        upkeep.clean_up(cursor, timedelta(0))


def _tend_for_good(writer: Writer) -> None:
    while True:
        tend(writer)


def _write_for_good(path: Path) -> None:
    settings = WriterSettings(
        serve_readers=False, flush_interval="1h"
    )  # a round is one commit: that of its flush
    with Writer(path, "n1", settings) as writer:
        writer.flush()  # what is put first does not wait for the interval
        n = writer.last_msg_id // (2 * ROUND_ROWS)
        threading.Thread(target=_tend_for_good, args=[writer], daemon=True).start()
        while True:
            n += 1
            store_round(writer, n)
            assert writer.status().errors == 0
            print(n, flush=True)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    _write_for_good(Path(sys.argv[1]))
