"""kill -9 while a store is written, pruned, merged and cleaned up at once: what was committed is there once, what was
replaced or too old goes in the end, and the store is whole.
"""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import upkeep_store
from store_rows import PATIENCE_S, QUIET
from upkeep_store import CALLS, ROUND_ROWS, ask, empty_store, store_round, tend

from pipeline.store.check import check_store
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

ROUNDS = 3


def rows_of_round(n: int) -> set[int]:
    first = 1 + (n - 1) * 2 * ROUND_ROWS
    return set(range(first, first + ROUND_ROWS))


def test_upkeep_that_is_killed_loses_nothing_and_is_made_up_for(tmp_path: Path) -> None:
    store = empty_store(tmp_path / "store")
    draw = random.Random(3)
    reached = 0
    for _ in range(ROUNDS):
        command = [sys.executable, upkeep_store.__file__, str(store)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as tap:
            assert tap.stdout
            committed = int(tap.stdout.readline())
            kill_at = time.monotonic() + draw.uniform(0.1, 0.6)
            while time.monotonic() < kill_at:
                committed = int(tap.stdout.readline())
            tap.kill()
            committed = int(([str(committed), *tap.stdout.read().split()])[-1])
            assert tap.wait(PATIENCE_S) == -9
        assert committed > reached
        with Writer(store, "n1", QUIET) as writer:
            ids = [row[0] for row in ask(writer, "SELECT msg_id FROM sip")]
            newest = ask(writer, "SELECT call_id, outcome::INTEGER FROM call ORDER BY 1")
        reached = max(newest[0][1], committed)
        young = {n for n in ids if n in rows_of_round(1 + (n - 1) // (2 * ROUND_ROWS))}
        assert len(ids) == len(set(ids)), "nothing is there twice"
        assert young == set().union(*(rows_of_round(n) for n in range(1, reached + 1))), "nor lost"
        assert newest == [(f"call-{call}", reached) for call in range(CALLS)]
        # Orphans of the crash are gone with the start above.
        assert [each.what for each in check_store(store) if not each.ok] == []
    with Writer(store, "n1", QUIET) as writer:
        tend(writer)
        assert ask(writer, "SELECT count(*) FROM sip") == [(reached * ROUND_ROWS,)]
        assert ask(writer, "SELECT count(*) FROM call_state") == [(CALLS,)]


def test_upkeep_beside_the_commits_gets_into_nobodys_way(tmp_path: Path) -> None:
    settings = WriterSettings(serve_readers=False, flush_interval="1ms")
    with Writer(empty_store(tmp_path / "store"), "n1", settings) as writer:
        done = threading.Event()

        def write() -> None:
            n = 0
            while not done.is_set():
                n += 1
                store_round(writer, n)

        thread = threading.Thread(target=write)
        thread.start()
        for _ in range(4):
            tend(writer)
        done.set()
        thread.join(PATIENCE_S)
        status = writer.status()
        assert (status.errors, status.lost) == (0, {})
        tend(writer)
        rounds = status.stored["sip"] // (2 * ROUND_ROWS)
        assert rounds > 4
        assert ask(writer, "SELECT count(*), count(DISTINCT msg_id) FROM sip") == [(rounds * ROUND_ROWS,) * 2]
        assert ask(writer, "SELECT DISTINCT outcome FROM call") == [(str(rounds),)]
