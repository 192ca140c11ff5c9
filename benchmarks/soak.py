"""Half an hour at the highest rate that loses nothing, with upkeep every minute: does anything grow?

    python -m benchmarks.soak [--minutes 30] [--rate MESSAGES_A_SECOND] [--path DIR]

Without `--rate` the highest one is looked for first: probes of `PROBE_S` on fresh stores, each faster than the last,
until one loses a message or falls behind. Calls are those of a real Kamailio, every pass with Call-IDs of its own.
Messages are kept for ten minutes, so that files are joined and removed all the while; a reader asks for the newest row,
for a count and for one call twice a second. Printed are thirds of the time side by side, and the last over the first.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from benchmarks import machine, traffic
from benchmarks.tap import TapProcess, begin, result

RATES = (4_000, 6_000, 8_000, 10_000, 12_500, 15_000, 20_000)
PROBE_S = 30.0
SAMPLE_S = 5.0
BEHIND_S = 5.0  # a reader that sees nothing younger than that looks at a tap that cannot keep up
UPKEEP = {
    **{f"store.{name}_interval": "1m" for name in ("merge", "prune", "count", "rate")},
    "store.retention.sip": "10m",
    "store.retention.rtcp": "10m",
}
READER = """
import json, sys, time
from pipeline.store.lake import Reader
asked = {
    "newest": "SELECT epoch_us(max(received_at)) AS us, any_value(call_id) AS call_id FROM sip "
              "WHERE received_at > now() - INTERVAL 1 MINUTE",
    "count": "SELECT count(*) AS n FROM sip WHERE ts > now() - INTERVAL 5 MINUTE",
    "call": "SELECT count(*) AS n FROM sip WHERE call_id = $call_id AND ts > now() - INTERVAL 2 MINUTE",
}
with Reader(sys.argv[1]) as reader:
    print("{}", flush=True)
    call_id, end_s = None, time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end_s:
        took = {}
        for name, sql in asked.items():
            began_s = time.monotonic()
            row = reader.query(sql, {"call_id": call_id} if name == "call" else None).to_pylist()[0]
            took[name] = time.monotonic() - began_s
            if name == "newest" and row["us"]:
                call_id, took["fresh"] = row["call_id"], time.time() - row["us"] / 1e6
        print(json.dumps({"at": time.monotonic(), **took}), flush=True)
        time.sleep(0.5)
"""
_DIGITS = 9


def send(port: int, rate: float, seconds: float) -> None:
    """As a process of its own: no Call-ID comes twice. Prints how many were sent, and in what time."""
    templates = []
    for datagram in traffic.distinct(1, prefix=b"0" * _DIGITS):
        data = bytes(datagram)
        places = [at for at in range(len(data)) if data.startswith(b"0" * _DIGITS + b"-", at)]
        templates.append((datagram, places))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        sock.connect(("127.0.0.1", port))
        print("ready", flush=True)
        sys.stdin.readline()
        began_s, sent = time.monotonic(), 0
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            for index in range(sent, due := int(elapsed_s * rate)):
                turn, which = divmod(index, len(templates))
                datagram, places = templates[which]
                for place in places:
                    datagram[place : place + _DIGITS] = b"%09d" % turn
                traffic.stamp([datagram])
                sock.send(datagram)
            sent = due
            time.sleep(0.002)
        print(sent, time.monotonic() - began_s, flush=True)


def run(
    folder: Path, rate: float, seconds: float, *, show: bool = False
) -> dict[str, list[dict[str, float]]]:
    """What was seen of a tap under that load: `tap` (a sample each `SAMPLE_S`), `reader`, `end` (one row)."""
    settings = itertools.chain.from_iterable(("--set", f"{name}={value}") for name, value in UPKEEP.items())
    tap = TapProcess(folder / "store", *settings)
    samples = []
    failed: set[str] = set()
    try:
        process = psutil.Process(tap.process.pid)
        answered = folder / "reader.jsonl"
        with answered.open("w") as told:  # a pipe would be full after some minutes
            reader = subprocess.Popen(
                [sys.executable, "-c", READER, str(tap.store), str(seconds)], stdout=told, text=True
            )
        while not answered.stat().st_size and reader.poll() is None:
            time.sleep(0.1)
        sending = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.soak", "--send", str(tap.port), str(rate), str(seconds)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert sending.stdout is not None
        sending.stdout.readline()
        begin(sending)
        while sending.poll() is None:
            time.sleep(SAMPLE_S)
            status = tap.status()
            sample = {
                "at": time.monotonic(),
                "rss_mb": process.memory_info().rss / 2**20,
                "latency_ms": status["latency_us"] / 1000,
                "queued": status["queued"],
                "unexplained": abs(status["unexplained"]),
                "disk_mb": sum(each.stat().st_size for each in tap.store.rglob("*") if each.is_file())
                / 2**20,
            }
            samples.append(sample)
            failing = {f"{job['job']}: {job['error']}" for job in status["jobs"] if job["error"]}
            for trouble in sorted(failing - failed):
                print(f"  {trouble}", flush=True)
            failed |= failing
            if show and len(samples) % round(60 / SAMPLE_S) == 0:
                told = ", ".join(f"{name} {value:,.0f}" for name, value in list(sample.items())[1:])
                print(f"  minute {len(samples) * SAMPLE_S / 60:.0f}: {told}", flush=True)
        sent, took_s = result(sending)
        status = tap.settle()
        if reader.wait(60):
            print("  the reader ended with an error", flush=True)
        answers = [json.loads(line) for line in answered.read_text().splitlines()[1:]]
        end = {
            "sent": sent,
            "rate": sent / took_s,
            "lost": sent - status["stored"],
            "failed_jobs": sum(job["failures"] for job in status["jobs"]),
            "runs": sum(job["runs"] for job in status["jobs"]),
            "calls": status["calls"],
            "idle_rss_mb": process.memory_info().rss / 2**20,
        }
    finally:
        tap.stop()
    return {"tap": samples, "reader": answers, "end": [end]}


def highest() -> float:
    """The fastest of `RATES` at which nothing is lost and a reader sees what is new."""
    best = 0.0
    for rate in RATES:
        folder = Path(tempfile.mkdtemp(prefix="hepduck-soak-"))
        try:
            seen = run(folder, rate, PROBE_S)
        finally:
            shutil.rmtree(folder)
        (end,) = seen["end"]
        fresh_s = _percentile([row["fresh"] for row in seen["reader"] if "fresh" in row], 95)
        print(f"  {rate:>6}/s: {end['lost']:.0f} lost, a reader sees what is {fresh_s:.1f} s old", flush=True)
        if end["lost"] or end["rate"] < 0.98 * rate or fresh_s > BEHIND_S:
            break
        best = rate
    if not best:
        raise SystemExit("none of the rates is without loss on this machine")
    return best


def _percentile(values: Sequence[float], percent: int) -> float:
    return statistics.quantiles(values, n=100)[percent - 1] if len(values) > 1 else float("nan")


def _thirds(rows: list[dict[str, float]], name: str) -> list[list[float]]:
    begin_s, end_s = rows[0]["at"], rows[-1]["at"]
    third_s = (end_s - begin_s) / 3 or 1.0
    thirds: list[list[float]] = [[], [], []]
    for row in rows:
        if name in row:
            thirds[min(int((row["at"] - begin_s) / third_s), 2)].append(row[name])
    return thirds


def report(seen: dict[str, list[dict[str, float]]]) -> None:
    """The thirds side by side."""
    print("\n| | first third | second | last | last / first |\n|---|---|---|---|---|")
    for label, rows, name, percent, factor in (
        ("memory of the tap, p50, MB", "tap", "rss_mb", 50, 1),
        ("memory of the tap, p95, MB", "tap", "rss_mb", 95, 1),
        ("arrival to detection, p50, ms", "tap", "latency_ms", 50, 1),
        ("arrival to detection, p95, ms", "tap", "latency_ms", 95, 1),
        ("queued, p95", "tap", "queued", 95, 1),
        ("fresh for a reader, p50, s", "reader", "fresh", 50, 1),
        ("fresh for a reader, p95, s", "reader", "fresh", 95, 1),
        ("a count of five minutes, p50, ms", "reader", "count", 50, 1000),
        ("a count of five minutes, p95, ms", "reader", "count", 95, 1000),
        ("one call, p50, ms", "reader", "call", 50, 1000),
        ("one call, p95, ms", "reader", "call", 95, 1000),
        ("on disk, p50, MB", "tap", "disk_mb", 50, 1),
    ):
        first, second, last = (factor * _percentile(third, percent) for third in _thirds(seen[rows], name))
        print(f"| {label} | {first:,.1f} | {second:,.1f} | {last:,.1f} | {last / (first or 1):.2f} |")
    (end,) = seen["end"]
    print(
        f"\n{end['sent']:,.0f} sent at {end['rate']:,.0f}/s, {end['lost']:,.0f} lost; the books were off by at most "
        f"{max(sample['unexplained'] for sample in seen['tap']):.0f}; {end['runs']:.0f} runs of jobs, "
        f"{end['failed_jobs']:.0f} failed; {len(seen['reader'])} answers to the reader; "
        f"{end['idle_rss_mb']:,.0f} MB once all was stored, {end['calls']:,.0f} calls in mind."
    )


def main() -> None:
    """Read the command line."""
    if sys.argv[1:2] == ["--send"]:
        port, rate, seconds = sys.argv[2:]
        send(int(port), float(rate), float(seconds))
        return
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--rate", type=float)
    parser.add_argument("--path", type=Path, help="folder on the disk to be used")
    given = parser.parse_args()
    print(machine.describe(), flush=True)
    rate = given.rate or highest()
    with tempfile.TemporaryDirectory(dir=given.path, prefix="hepduck-soak-") as folder:
        report(run(Path(folder), rate, given.minutes * 60, show=True))


if __name__ == "__main__":
    main()
