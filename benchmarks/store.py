"""What the store costs and how fresh it is: `python benchmarks/store.py [--rate 20000] [--seconds 20] [--path DIR]`.

One writer takes `--rate` rows a second with ~700-byte payloads and, with `--merge`, merges every ten seconds;
another process asks for the newest row and for single calls all the while. Prints one table.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))

from pipeline.store import queries
from pipeline.store.lake import Reader
from pipeline.store.ledger import Ledger
from pipeline.store.writer import Writer

BATCH_ROWS = 2_000
MESSAGES_PER_CALL = 12
CLAIMS = 500
MERGE_BELOW_BYTES = 8 * 1024 * 1024
UTC = pa.timestamp("us", "UTC")


def rows(first_id: int) -> pa.Table:
    """One batch of made-up traffic, stamped now. Random bytes stand for what differs between messages."""
    now_us = time.time_ns() // 1000
    moments = pa.array([now_us] * BATCH_ROWS, pa.int64()).cast(UTC)
    ids = range(first_id, first_id + BATCH_ROWS)
    filler = b"Via: SIP/2.0/UDP 192.0.2.1:5060;rport\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n" * 7
    return pa.table(
        {
            "ts": moments,
            "received_at": moments,
            "call_id": [call_id(n // MESSAGES_PER_CALL) for n in ids],
            "method": [("INVITE", "ACK", "BYE", "REGISTER")[n % 4] for n in ids],
            "from_user": [f"+4930{n % 99_991}" for n in ids],
            "src_ip": [f"192.0.2.{n % 200}" for n in ids],
            "payload": [random.randbytes(100) + filler for _ in ids],
            "payload_bytes": pa.array([100 + len(filler)] * BATCH_ROWS, pa.int32()),
            "msg_id": list(ids),
        }
    )


def call_id(n: int) -> str:
    """Like the Call-IDs of phones: no order in them."""
    return f"{random.Random(n).getrandbits(96):024x}@sip.test"


def read_along(path: Path, seconds: float) -> None:
    """In its own process: how old is the newest row, how long does one call take."""
    fresh_ms, lookup_ms = [], []
    deadline = time.monotonic() + seconds
    with Reader(path) as reader:
        while time.monotonic() < deadline:
            newest = reader.query("SELECT epoch_us(max(received_at)) AS us, max(msg_id) AS id FROM sip")
            (row,) = newest.to_pylist()
            if row["us"] is not None:
                fresh_ms.append(time.time() * 1000 - row["us"] / 1000)
                wanted = call_id(random.randrange(1, row["id"] // MESSAGES_PER_CALL))
                began = time.perf_counter()
                found = queries.call_messages(reader, wanted)
                lookup_ms.append((time.perf_counter() - began) * 1000)
                assert len(found) == MESSAGES_PER_CALL
            time.sleep(0.1)
    print(json.dumps({"fresh_ms": fresh_ms, "lookup_ms": lookup_ms}))


def percentile(values: list[float], share: float) -> float:
    """The value below which `share` of `values` lie."""
    return sorted(values)[min(int(len(values) * share), len(values) - 1)]


def claims_ms(path: Path) -> list[float]:
    """How long each claim in the ledger takes."""
    taken = []
    with Ledger(path / "ledger.sqlite") as ledger:
        for n in range(CLAIMS):
            began = time.perf_counter()
            ledger.claim("fake_call", f"c{n}", "d", finding_id="f", at_us=n, aor="sip:bob@sip.test")
            taken.append((time.perf_counter() - began) * 1000)
    return taken


def run(path: Path, rate: int, seconds: float, *, merging: bool) -> None:
    """Write for `seconds`, then print the table."""
    arguments = [sys.executable, __file__, "--read", "--path", str(path), "--seconds", str(seconds)]
    flush_ms, merge_s, refused, cpu_s = [], [], 0, 0.0
    with Writer(path, "bench") as writer:
        reader = subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)
        began, put, batches, next_merge_s = time.monotonic(), 0, 0, 10.0
        making_s = 0.0
        cpu_before = _cpu_s()
        while (elapsed := time.monotonic() - began) < seconds:
            if put >= elapsed * rate:
                time.sleep(0.002)
                continue
            made = time.thread_time()
            batch = rows(put + 1)
            making_s += time.thread_time() - made
            refused += 0 if writer.put("sip", batch) else BATCH_ROWS
            put += BATCH_ROWS
            if (status := writer.status()).batches > batches:
                batches = status.batches
                flush_ms.append(status.flush_ms)
            if merging and elapsed > next_merge_s:
                next_merge_s += 10.0
                started = time.monotonic()
                writer.merge(max_file_bytes=MERGE_BELOW_BYTES)
                merge_s.append(time.monotonic() - started)
        writer.flush()
        cpu_s = _cpu_s() - cpu_before - making_s
        stored = writer.status().stored["sip"]
        seen = json.loads(reader.communicate()[0])
    size = sum(
        file.stat().st_size for file in (path / "files").rglob("????????????????????????????????.parquet")
    )
    ledger_ms = claims_ms(path)
    for name, value in {
        "rows a second asked / put / stored": f"{rate} / {put / seconds:.0f} / {stored / seconds:.0f}",
        "rows refused (queue full)": refused,
        "CPU a row, hand-over to commit, us": f"{cpu_s / stored * 1e6:.1f}",
        "flush p50 / p99, ms": f"{percentile(flush_ms, 0.5):.0f} / {percentile(flush_ms, 0.99):.0f}",
        "merges, s": ", ".join(f"{value:.1f}" for value in merge_s) or "none",
        "freshness in another process p50 / p95, ms": _both(seen["fresh_ms"]),
        "one call's messages in another process p50 / p95, ms": _both(seen["lookup_ms"]),
        "ledger claim p50 / p99, ms": f"{percentile(ledger_ms, 0.5):.2f} / {percentile(ledger_ms, 0.99):.2f}",
        "bytes of Parquet a row, before merging": f"{size / stored:.0f}",
        "peak memory, MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }.items():
        print(f"{name:55} {value}")


def _both(values: list[float]) -> str:
    return f"{percentile(values, 0.5):.0f} / {percentile(values, 0.95):.0f}"


def _cpu_s() -> float:
    used = os.times()
    return used.user + used.system


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rate", type=int, default=20_000, help="rows a second")
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--path", type=Path, help="folder on the disk to be measured")
    parser.add_argument("--merge", action="store_true", help="merge small files every ten seconds")
    parser.add_argument("--read", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.read:
        read_along(given.path, given.seconds)
        return
    with tempfile.TemporaryDirectory(dir=given.path) as folder:
        run(Path(folder) / "store", given.rate, given.seconds, merging=given.merge)


if __name__ == "__main__":
    main()
