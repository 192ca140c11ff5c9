"""How the tap stands a million hostile datagrams, and streams of them: it lives, and every message has its number.

    python -m benchmarks.fuzz tap [--datagrams 1000000] [--streams 5000] [--seed 1]

Random bytes and recorded packets with damage, as in `tests/test_hostile.py`. Exit code 1 when the tap ends, when
its numbers do not add up, or when it does not find the ghost call that comes last.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))
from mutations import Mutator  # noqa: E402
from tap import RunningTap, Status, call_id_of, ghost_call  # noqa: E402

from benchmarks import machine  # noqa: E402

_BURST = 10_000
_RESET = struct.pack("ii", 1, 0)


def heard(status: Status, via: str) -> int:
    """Datagrams or frames that reached the tap, or its socket."""
    return sum(
        listener["received"] + listener["kernel_dropped"]
        for address, listener in status["listeners"].items()
        if address.startswith(via)
    )


def send_datagrams(tap: RunningTap, mutator: Mutator, count: int) -> None:
    """All of them, never far ahead of the tap: this is about what is sent, not about how fast."""
    datagrams, sent = mutator.datagrams(count), 0
    with tap.connected() as sock:
        while burst := list(islice(datagrams, _BURST)):
            for datagram in burst:
                sock.send(datagram)
            before, sent = sent, sent + len(burst)
            tap.wait_for(
                lambda status, before=before: heard(status, "udp") >= before and status["queued"] < _BURST,
                f"{before} datagrams",
            )
    tap.wait_for(lambda status: heard(status, "udp") == sent, f"{sent} datagrams")


def send_streams(tap: RunningTap, mutator: Mutator, count: int) -> None:
    """One connection each; every third ends with a reset."""
    port = int(tap.address("tcp").rpartition(":")[2])
    for number in range(count):
        with socket.create_connection(("127.0.0.1", port)) as sock:
            if number % 3 == 0:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            with contextlib.suppress(ConnectionError):
                sock.sendall(mutator.stream())


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--datagrams", type=int, default=1_000_000)
    parser.add_argument("--streams", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    wanted = parser.parse_args(arguments)
    print(machine.describe())
    mutator = Mutator(wanted.seed)
    with tempfile.TemporaryDirectory(prefix="hepduck-fuzz-") as name:
        folder = Path(name)
        with RunningTap(folder, "-l", "error", listen=["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]) as tap:
            began_s = time.monotonic()
            send_datagrams(tap, mutator, wanted.datagrams)
            send_streams(tap, mutator, wanted.streams)
            tap.send(ghost_call(folder, "ann"), options=["--speed", "8x", "--now"])
            tap.wait_for(lambda status: status["queued"] == 0, "that nothing waits")
            process = psutil.Process(tap.pid)
            cpu_s, rss_bytes = sum(process.cpu_times()[:2]), process.memory_info().rss
            assert tap.stop() == 0, tap.log()
        took_s = time.monotonic() - began_s
        last = tap.status()
        assert last is not None
        ((found,),) = [
            tuple(row.values())
            for row in tap.rows(f"SELECT count(*) FROM finding WHERE call_id = '{call_id_of('ann')}'")
        ]
        stored = sum(
            tap.rows(f"SELECT count(*) AS n FROM {t}")[0]["n"] for t in ("sip", "rtcp", "log", "weird")
        )
    streams = last["listeners"][tap_address(last, "tcp")]
    print(
        f"{wanted.datagrams} datagrams and {wanted.streams} streams in {took_s:.0f} s: alive to the end, "
        f"{cpu_s:.0f} s CPU, {rss_bytes / 2**20:.0f} MiB"
    )
    fates = " + ".join(
        f"{last[fate]} {fate}" for fate in ("stored", "rejected", "shed", "kernel_dropped", "queued")
    )
    print(f"{last['received']} messages received = {fates}; {stored} in the store")
    print(
        f"streams: {streams['received']} frames, {streams['resyncs']} resyncs, {streams['skipped_bytes']} bytes"
    )
    for what in ("dropped_by_reason", "weird", "defects"):
        print(f"{what}:")
        for kind, count in sorted(last[what].items(), key=lambda item: -item[1]):
            print(f"  {count:>9}  {kind}")
    sound = found == 1 and stored == last["stored"] and "bug" not in last["weird"]
    print("the ghost call that came last was found" if found else "THE LAST GHOST CALL WAS NOT FOUND")
    sys.exit(0 if sound else 1)


def tap_address(status: Status, via: str) -> str:
    """The address of the listener for a transport."""
    return next(address for address in status["listeners"] if address.startswith(via))


if __name__ == "__main__":
    main()
