"""How much the tap takes in: real UDP HEP at rising rates from another process, beside a bare socket sink.

    python -m benchmarks.ingest [--rates 5000,10000,20000] [--seconds 8]

Each rate gets a fresh tap with a fresh store, and a reading process that polls for the newest rows all the while
(freshness = now - arrival of the newest message it can see). `CPU` is user + system time of the tap's process.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import psutil

from benchmarks import machine
from benchmarks.tap import TapProcess, begin, result, sender

READER = """
import sys, time
from pipeline.store.lake import Reader
with Reader(sys.argv[1]) as reader:
    print("ready", flush=True)
    end_s = time.monotonic() + float(sys.argv[2])
    while time.monotonic() < end_s:
        newest = reader.query("SELECT epoch_us(max(received_at)) AS newest FROM sip").to_pylist()[0]["newest"]
        if newest:
            print(time.time() - newest / 1e6, flush=True)
        time.sleep(0.5)
"""


def sink(rate: float, seconds: float) -> float:
    """Share of the same traffic that a process receives which only counts."""
    received = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32 << 20)
        sock.bind(("127.0.0.1", 0))
        sock.settimeout(1.0)
        with sender(sock.getsockname()[1], rate, seconds) as sending:
            begin(sending)
            try:
                while True:
                    sock.recv(65535)
                    received += 1
            except TimeoutError:
                pass
            sent = result(sending)[0]
    return received / sent


def measure(rate: float, seconds: float) -> str:
    """One row of the table."""
    folder = Path(tempfile.mkdtemp(prefix="hepduck-bench-"))
    tap = TapProcess(folder / "store")
    try:
        process = psutil.Process(tap.process.pid)
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, str(tap.store), str(seconds + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout is not None
        reader.stdout.readline()
        peak_bytes = 0
        with sender(tap.port, rate, seconds) as sending:
            cpu_before = process.cpu_times()
            begin(sending)
            done = threading.Event()
            threading.Thread(target=lambda: (sending.wait(), done.set()), daemon=True).start()
            while not done.wait(0.2):
                peak_bytes = max(peak_bytes, process.memory_info().rss)
            sent, took_s = result(sending)
        status = tap.settle()
        cpu = process.cpu_times()
        cpu_us = (
            (cpu.user + cpu.system - cpu_before.user - cpu_before.system) * 1e6 / max(1, status["received"])
        )
        ages = sorted(float(line) for line in reader.communicate()[0].split())
    finally:
        tap.stop()
        shutil.rmtree(folder)
    lost = (
        ", ".join(f"{count} {why}" for why, count in status["dropped_by_reason"].items() if count) or "none"
    )
    fresh = f"{statistics.median(ages):5.2f} {ages[int(len(ages) * 0.95)]:5.2f}" if ages else "    -     -"
    weird = sum(status["weird"].values())
    if weird:
        lost += f"; {weird} weird: the traffic is broken"
    return (
        f"{rate:>7.0f} {sent / took_s:>8.0f} {int(sent):>8} {status['received']:>8} {status['stored']:>8}"
        f" {status['stored'] / sent:>7.2%} {cpu_us:>7.1f} {peak_bytes / 2**20:>7.0f}  {fresh}"
        f" {sink(rate, 3):>8.2%}  {lost}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rates", default="5000,10000,15000,20000,25000,30000")
    parser.add_argument("--seconds", type=float, default=8.0)
    arguments = parser.parse_args()
    print(machine.describe())
    print(
        "asked/s  sent/s     sent received   stored  stored  CPU us  RSS MB  fresh p50/95 s   sink  lost\n"
        "                                         of sent  /msg    peak",
        flush=True,
    )
    for rate in arguments.rates.split(","):
        print(measure(float(rate), arguments.seconds), flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
