"""From the REGISTER's 200 on the mirror to our INVITE on the wire, beyond the configured hold.

    python -m benchmarks.latency [--calls 200] [--load 10000]

A real tap, armed, with a UDP socket as its proxy. Recorded ghost calls, each with an account and Call-ID of its
own, are mirrored to it one after the other: first on a quiet network, then beside other traffic at `--load`
messages a second. The time runs from just before the 200 is sent to the arrival of the INVITE at the proxy.
"""

from __future__ import annotations

import argparse
import shutil
import socket
import tempfile
import time
from pathlib import Path

from benchmarks import machine
from benchmarks.tap import TapProcess, begin, result, sender
from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import HepPacket, decode, encode

_GHOST = Path(__file__).parent.parent / "tests" / "data" / "kamailio" / "b.hep"
_HOLD_MS = 50.0
_CALL_ID = b"call-ae44999ea7ec4425b453"
_PACE_S = 0.02


def ghost_call(packets: list[HepPacket], number: int, now_us: int) -> list[bytes]:
    """The recorded call with an account and Call-ID of its own, its messages 1 ms apart and ending now."""
    renamed = []
    for index, packet in enumerate(packets):
        payload = packet.payload.replace(b"bob", b"b%06d" % number).replace(_CALL_ID, b"call-%020d" % number)
        payload = payload.replace(b"reg-7e3a", b"reg-%04d" % number)
        ts_us = now_us - 1000 * (len(packets) - 1 - index)
        renamed.append(encode(packet._replace(payload=payload, ts_us=ts_us, agent_id=7000), 3))
    return renamed


def run(tap: TapProcess, proxy: socket.socket, calls: int, first: int) -> list[float]:
    """Milliseconds beyond the hold, one for each call."""
    packets = [packet for datagram in read_recording(_GHOST) for packet in decode(datagram.data)]
    beyond_ms = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mirror:
        mirror.connect(("127.0.0.1", tap.port))
        for number in range(first, first + calls):
            *before, accepted = ghost_call(packets, number, time.time_ns() // 1000)
            for message in before:
                mirror.send(message)
            time.sleep(_PACE_S)
            began_s = time.perf_counter()
            mirror.send(accepted)
            beyond_ms.append(_invite(proxy, number, began_s) - _HOLD_MS)
    return sorted(beyond_ms)


def _invite(proxy: socket.socket, number: int, began_s: float) -> float:
    while True:
        request, phone = proxy.recvfrom(65535)
        took_ms = (time.perf_counter() - began_s) * 1000
        if request.startswith(b"INVITE") and b"call-%020d" % number in request:
            # Refuse, so that the call is over: Via, From, To, Call-ID and CSeq of the request are all it takes.
            wanted = (b"Via", b"From", b"To", b"Call-ID", b"CSeq")
            headers = [line for line in request.split(b"\r\n") if line.partition(b":")[0] in wanted]
            proxy.sendto(
                b"\r\n".join([b"SIP/2.0 403 Forbidden", *headers, b"Content-Length: 0", b"", b""]), phone
            )
            return took_ms


def row(name: str, beyond_ms: list[float]) -> str:
    """One row of the table."""
    pick = [beyond_ms[min(len(beyond_ms) - 1, int(len(beyond_ms) * share))] for share in (0.5, 0.95, 0.99)]
    return f"{name:<28} {len(beyond_ms):>5} " + " ".join(f"{value:>8.2f}" for value in (*pick, beyond_ms[-1]))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=200)
    parser.add_argument("--load", type=int, default=10_000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="hepduck-bench-"))
    print(machine.describe())
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.settimeout(20)
        settings = {
            "actions.fake_call.enabled": "true",
            "actions.fake_call.dry_run": "false",
            "actions.fake_call.secret": '"bench"',
            "actions.fake_call.proxy": f"sip:127.0.0.1:{proxy.getsockname()[1]}",
            "rules.max_per_minute": "100000",
            "detectors.late_register.reorder": f"{_HOLD_MS:.0f}ms",
        }
        options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        tap = TapProcess(folder / "store", *options)
        try:
            title = f"ms beyond the {_HOLD_MS:.0f} ms hold"
            print(f"{title:<28} calls      p50      p95      p99    worst")
            print(row("quiet", run(tap, proxy, arguments.calls, 0)), flush=True)
            with sender(tap.port, arguments.load, arguments.calls * 0.12 + 3) as load:
                begin(load)
                time.sleep(2)
                print(
                    row(f"beside {arguments.load} messages/s", run(tap, proxy, arguments.calls, 5000)),
                    flush=True,
                )
                result(load)
        finally:
            tap.stop()
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
