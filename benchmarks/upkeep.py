"""How long upkeep keeps ingest waiting: `python benchmarks/upkeep.py [--rate N] [--days N] [--rows N] [--path DIR]`.

A store holds `--days` of messages that are too old, `--rows` each, and calls with five states each. While `--rate`
messages a second come in, each piece of upkeep is done once. A row is put every 50 ms: what is printed is how long
such rows waited for their commit meanwhile, and whether any was refused.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import describe
from benchmarks.store import BATCH_ROWS, rows
from pipeline.store import upkeep
from pipeline.store.backup import back_up
from pipeline.store.forget import forget
from pipeline.store.retention import drop_replaced, prune
from pipeline.store.rollups import count_messages
from pipeline.store.settings import RetentionSettings
from pipeline.store.writer import Writer

STATES = 5
KEPT = RetentionSettings(max_size="100%")


class Load(threading.Thread):
    """Puts messages at a rate, and notes how long a small row waits for its commit."""

    def __init__(self, writer: Writer, rate: int) -> None:
        super().__init__(daemon=True)
        self.writer, self.rate = writer, rate
        self.waits_ms: list[float] = []
        self.refused = 0
        self.stop = threading.Event()

    def run(self) -> None:
        next_id, began = 10**12, time.monotonic()
        batch = rows(0).drop_columns(["msg_id"])
        put = 0
        while not self.stop.wait(0.05):
            while put < (time.monotonic() - began) * self.rate:
                now = pa.array([datetime.now(UTC)] * BATCH_ROWS, pa.timestamp("us", "UTC"))
                ids = pa.array(range(next_id, next_id + BATCH_ROWS))
                fresh = batch.set_column(1, "received_at", now).append_column("msg_id", ids)
                self.refused += not self.writer.put("sip", fresh)
                put, next_id = put + BATCH_ROWS, next_id + BATCH_ROWS
            at = time.monotonic()
            done = self.writer.append("weird", [{"kind": "bench"}])
            done.add_done_callback(lambda _, at=at: self.waits_ms.append((time.monotonic() - at) * 1000))


def fill(writer: Writer, days: int, rows_a_day: int) -> None:
    """Messages that are too old, a file a day; calls of which four states in five were replaced."""
    for day in range(days):
        arrived = datetime.now(UTC) - timedelta(days=20 + day)
        column = pa.array([arrived] * BATCH_ROWS, pa.timestamp("us", "UTC"))
        for first_id in range(day * rows_a_day, (day + 1) * rows_a_day, BATCH_ROWS):
            while not writer.put("sip", rows(first_id).set_column(1, "received_at", column)):
                writer.flush()
    for state in range(STATES):
        ids = [f"call-{n}" for n in range(rows_a_day // 5)]
        writer.put("call", pa.table({"call_id": ids, "outcome": [str(state)] * len(ids)}))
        writer.flush()
    writer.merge()


def main() -> None:
    """Read the command line, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=5_000, help="messages a second")
    parser.add_argument("--days", type=int, default=3, help="days of messages that are too old")
    parser.add_argument("--rows", type=int, default=1_000_000, help="messages a day")
    parser.add_argument("--path", type=Path, help="folder on the disk to be measured")
    given = parser.parse_args()
    print(describe())
    with (
        tempfile.TemporaryDirectory(dir=given.path) as folder,
        Writer(Path(folder) / "store", "bench") as writer,
    ):
        fill(writer, given.days, given.rows)
        load = Load(writer, given.rate)
        load.start()
        time.sleep(2)
        print("| while | took, s | waited for commit, ms: p50 | greatest | refused |\n|---|---|---|---|---|")

        def replaced() -> None:
            with writer.tending() as cursor:
                drop_replaced(writer, cursor)

        def cleaned_up() -> None:
            with writer.tending() as cursor:
                upkeep.expire(cursor, timedelta(0))
                upkeep.clean_up(cursor, timedelta(0))

        pieces: dict[str, Callable[[], object]] = {
            "nothing": lambda: time.sleep(5),
            f"{given.rows * (STATES - 1) // 5} states that were replaced go": replaced,
            f"{given.days * given.rows} old messages go": lambda: prune(writer, KEPT),
            "files of no snapshot are deleted": cleaned_up,
            "small files are merged": writer.merge,
            "messages are counted by minute": lambda: count_messages(writer),
            "a backup is made": lambda: back_up(writer, Path(folder) / "backup"),
            "a number is erased": lambda: forget(writer, "+4930777"),
        }
        for name, piece in pieces.items():
            load.waits_ms, load.refused = [], 0
            began = time.monotonic()
            piece()
            took_s = time.monotonic() - began
            time.sleep(1.5)  # for what waits still
            waits = load.waits_ms
            print(
                f"| {name} | {took_s:.1f} | {statistics.median(waits):.0f} | {max(waits):.0f} | {load.refused} |",
                flush=True,
            )
        load.stop.set()
        load.join()
        assert writer.status().errors == 0


if __name__ == "__main__":
    main()
