"""Rows for tests of the store, and `python store_rows.py ROLE PATH` to play a part in another process.

ROLE is `write` (puts batches and merges for good, prints the rows stored after each commit) or `hold` (opens
the store, prints `ready`, and ends with its standard input).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa

from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

PATIENCE_S = 60.0
T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
QUIET = WriterSettings(serve_readers=False)


def sip_rows(
    rows: int, first_id: int = 1, at: datetime = T0, received_at: datetime | None = None
) -> pa.Table:
    """`rows` messages, six to a call, one millisecond apart, with ids from `first_id`."""
    moments = [at + timedelta(milliseconds=n) for n in range(rows)]
    utc = pa.timestamp("us", "UTC")
    return pa.table(
        {
            "ts": pa.array(moments, utc),
            "received_at": pa.array([received_at] * rows if received_at else moments, utc),
            "call_id": [f"call-{(first_id + n) // 6}@sip.test" for n in range(rows)],
            "method": ["INVITE"] * rows,
            "status": pa.array([None if n % 2 else 180 for n in range(rows)], pa.int32()),
            "payload": [b"INVITE sip:bob@sip.test SIP/2.0\r\n\xff\x00"] * rows,
            "msg_id": list(range(first_id, first_id + rows)),
        }
    )


@contextmanager
def process(role: str, path: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that plays `role`; killed at the end if it still runs."""
    arguments = [sys.executable, __file__, role, str(path)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        try:
            yield child
        finally:
            child.kill()


def _write(path: Path) -> None:
    with Writer(path, "n1", WriterSettings(flush_interval="10ms", flush_rows=2000)) as writer:
        threading.Thread(target=_merge, args=[writer], daemon=True).start()
        next_id, reported = writer.last_msg_id + 1, 0
        while True:
            next_id += 500 if writer.put("sip", sip_rows(500, next_id, datetime.now(UTC))) else 0
            stored = writer.status().stored.get("sip", 0)
            if stored > reported:
                reported = stored
                print(stored, flush=True)
            time.sleep(0.002)


def _merge(writer: Writer) -> None:
    while True:
        time.sleep(0.05)
        writer.merge()


def _hold(path: Path) -> None:
    with Writer(path, "n1"):
        print("ready", flush=True)
        sys.stdin.read()


def _flush_and_die(path: Path) -> None:
    writer = Writer(path, "n1")
    writer.put("sip", sip_rows(60))
    writer.flush()
    os._exit(0)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    {"write": _write, "hold": _hold, "flush_and_die": _flush_and_die}[sys.argv[1]](Path(sys.argv[2]))
