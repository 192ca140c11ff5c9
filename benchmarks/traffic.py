"""HEP traffic to measure with: recorded calls and registrations of a real Kamailio, made distinct, sent at a
given rate from a process of its own.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import decode, encode
from pipeline.protocols.sip import parse

MIX = Path(__file__).parent.parent / "tests" / "data" / "kamailio" / "mix.hep"
_BURST_S = 0.005
_STAMP = struct.Struct("!I6sI")
_STAMP_AT = 62  # the values of chunks 9 and 10 of a HEP3 packet over IPv4, in Kamailio's order
_CHUNK_10 = bytes.fromhex("0000000a000a")


def distinct(passes: int, prefix: bytes = b"%d") -> list[bytearray]:
    """The mixed recording `passes` times over, each pass with Call-IDs of its own, that begin with `prefix`."""
    templates = []
    for datagram in read_recording(MIX):
        (packet,) = decode(datagram.data)
        call_id = parse(packet.payload)[0].call_id
        if call_id:
            templates.append((packet, call_id.encode()))
    return [
        bytearray(
            encode(packet._replace(payload=packet.payload.replace(call_id, b"%b-%b" % (before, call_id))))
        )
        for before in (prefix.replace(b"%d", b"%d" % number) for number in range(passes))
        for packet, call_id in templates
    ]


def stamp(datagrams: Iterable[bytearray]) -> None:
    """Write the time of now into packets that are laid out as Kamailio does, each a microsecond after the other."""
    for now_us, datagram in enumerate(datagrams, time.time_ns() // 1000):
        second, us = divmod(now_us, 1_000_000)
        _STAMP.pack_into(datagram, _STAMP_AT, second, _CHUNK_10, us)


def send(
    address: tuple[str, int], rate: float, seconds: float, datagrams: list[bytearray]
) -> tuple[int, float]:
    """Send `datagrams` over and over at `rate` a second, stamped with the time; what was sent in how long."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 << 20)
        sock.connect(address)
        began_s = time.monotonic()
        sent = 0
        while (elapsed_s := time.monotonic() - began_s) < seconds:
            due = int(elapsed_s * rate)
            batch = [datagrams[index % len(datagrams)] for index in range(sent, due)]
            stamp(batch)
            for datagram in batch:
                sock.send(datagram)
            sent = max(sent, due)
            time.sleep(_BURST_S)
        return sent, time.monotonic() - began_s


def main() -> None:
    """`python -m benchmarks.traffic PORT RATE SECONDS`: prints `sent seconds`. Waits for a line on stdin first."""
    port, rate, seconds = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
    datagrams = distinct(max(1, min(10, int(rate * seconds / 10_000))))
    print("ready", flush=True)
    sys.stdin.readline()
    sent, took_s = send(("127.0.0.1", port), rate, seconds, datagrams)
    print(sent, took_s, flush=True)


if __name__ == "__main__":
    main()
