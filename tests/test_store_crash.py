"""kill -9 in mid-write and mid-merge: what was called stored is there, once."""

from __future__ import annotations

import random
import time
from pathlib import Path

from store_rows import PATIENCE_S, QUIET, process

from pipeline.store.lake import open_reader
from pipeline.store.writer import Writer

ROUNDS = 10


def test_what_was_called_stored_is_there_once_after_kill_9(tmp_path: Path) -> None:
    store = tmp_path / "store"
    rolls = random.Random(1)
    there = 0
    for _ in range(ROUNDS):
        with process("write", store) as tap:
            assert tap.stdout
            reported = int(tap.stdout.readline())
            kill_at = time.monotonic() + rolls.uniform(0, 0.4)
            while time.monotonic() < kill_at:
                reported = int(tap.stdout.readline())
            tap.kill()
            reported = int(([str(reported), *tap.stdout.read().split()])[-1])
            assert tap.wait(PATIENCE_S) == -9
        with open_reader(store) as reader:
            rows, ids, read = reader.execute(
                "SELECT count(*), count(DISTINCT msg_id), count(payload) FROM sip"
            ).fetchone() or (0, 0, 0)
        assert rows == ids == read
        assert rows >= there + reported
        there = rows
    with Writer(store, "n1", QUIET) as writer, writer.cursor() as cursor:
        registered = cursor.execute(
            "SELECT (SELECT count(*) FROM catalog.ducklake_data_file)"
            " + (SELECT count(*) FROM catalog.ducklake_files_scheduled_for_deletion)"
        ).fetchone()
        on_disk = len(list((store / "files").rglob("*.parquet")))
        assert registered == (on_disk,), "nothing is left of batches that were never committed"
        assert cursor.execute("SELECT count(*) FROM lake.sip").fetchone() == (there,)
