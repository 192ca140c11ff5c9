"""What a tap does that is offered more than it can take in: what it sheds, what it still finds, how fresh it is.

    python -m benchmarks.overload [--times 1,3,10] [--seconds 8] [--via udp]

First the sustainable rate is measured: a long burst that fits the queue, divided by the time until the last row is
committed. Then a fresh tap for each multiple of it. One message in twenty belongs to a ghost call, each of an account
of its own; the others are OPTIONS (70 of 100), NOTIFY (15), RTCP (5) and BYE (10). Shares are those of what was sent;
a ghost call is `whole` when all of its INVITE, CANCEL and REGISTER messages are in the store, and those must be found.
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
from itertools import islice, product
from pathlib import Path
from string import ascii_lowercase

import psutil

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from tap import call_id_of, ghost_call, sip

from benchmarks import machine, traffic
from benchmarks.ingest import READER
from benchmarks.tap import TapProcess, begin, result
from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import HepPacket, encode
from pipeline.store.lake import open_reader

BURST = 120_000  # datagrams; fits the queue that the measuring tap gets
ONE_IN = 20
AT_ONCE = 100  # ghost calls under way at a time
SHARES = {"OPTIONS": 70, "NOTIFY": 15, "RTCP": 5, "BYE": 10}
SCENE_CALL, SCENE_DIALOG = 11, 3  # messages of `ghost_call`, by class
_TICK_S = 0.005


def noise() -> list[bytearray]:
    """A hundred datagrams of what a proxy says beside calls."""
    head = (3, 17, "127.0.0.21", 5062, "127.0.0.1", 5060, 1)
    made = []
    for method, count in SHARES.items():
        for number in range(count):
            start = f"{method} sip:bob@sip.test SIP/2.0" if number % 2 else "SIP/2.0 200 OK"
            message = sip(start, f"noise-{number}@sip.test", "User-Agent: phone", cseq=f"{number} {method}")
            packet = HepPacket(*head, agent_id=2002, payload=message)
            if method == "RTCP":
                packet = packet._replace(protocol_type=5, payload=b'{"ssrc":1,"type":200,"report_blocks":[]}')
            made.append(bytearray(encode(packet)))
    return [made[index * 37 % len(made)] for index in range(len(made))]


def users() -> list[str]:
    """Accounts of three letters."""
    return ["".join(letters) for letters in product(ascii_lowercase, repeat=3) if "".join(letters) != "bob"]


def scenes(count: int) -> list[bytearray]:
    """The messages of `count` ghost calls, `AT_ONCE` of them in turn."""
    with tempfile.TemporaryDirectory() as folder:
        found = [
            [bytearray(record.data) for record in read_recording(ghost_call(Path(folder), user))]
            for user in users()[:count]
        ]
    return [
        message
        for first in range(0, count, AT_ONCE)
        for turn in zip(*found[first : first + AT_ONCE], strict=True)
        for message in turn
    ]


def send(via: str, port: int, rate: float, seconds: float) -> None:
    """As a process of its own: prints how much noise and how many ghost calls it sent, and in what time."""
    others = noise()
    whole_s = max(1, int(rate * seconds / ONE_IN / (SCENE_CALL + SCENE_DIALOG) / AT_ONCE)) * AT_ONCE
    calls = scenes(min(whole_s, 17_000))
    kind = socket.SOCK_DGRAM if via == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as sock:
        sock.connect(("127.0.0.1", port))
        print("ready", flush=True)
        sys.stdin.readline()
        began_s, sent, called = time.monotonic(), 0, 0
        while called < len(calls):
            due = int(min(time.monotonic() - began_s, seconds) * rate)
            batch = []
            for index in range(sent, due):
                if index % ONE_IN == 0 and called < len(calls):
                    batch.append(calls[called])
                    called += 1
                else:
                    batch.append(others[(index - called) % len(others)])
            if due >= int(seconds * rate):  # what is begun is ended
                batch += calls[called:]
                called = len(calls)
            traffic.stamp(batch)
            if via == "udp":
                for datagram in batch:
                    sock.send(datagram)
            else:
                sock.sendall(b"".join(batch))
            sent = max(sent, due)
            time.sleep(_TICK_S)
        print(
            sent - called, len(calls) // (SCENE_CALL + SCENE_DIALOG), time.monotonic() - began_s, flush=True
        )


def sustainable(folder: Path) -> float:
    """Messages a second that a tap decodes, judges and stores."""
    tap = TapProcess(folder / "store", "--set", "engine.queue_datagrams=1000000", via="tcp")
    try:
        with socket.create_connection(("127.0.0.1", tap.port)) as sock:
            everything = [*scenes(BURST // ONE_IN // (SCENE_CALL + SCENE_DIALOG)), *noise() * (BURST // 100)]
            traffic.stamp(everything)
            began_us = time.time_ns() // 1000
            sock.sendall(b"".join(islice(everything, BURST)))
        status = tap.wait(lambda status: status["stored"] == BURST)
    finally:
        tap.stop()
    return BURST / (status["last_commit_us"] - began_us) * 1e6


def measure(times: float, rate: float, seconds: float, via: str) -> str:
    """One row of the table."""
    folder = Path(tempfile.mkdtemp(prefix="hepduck-bench-"))
    tap = TapProcess(folder / "store", via=via)
    try:
        process = psutil.Process(tap.process.pid)
        reader = subprocess.Popen(
            [sys.executable, "-c", READER, str(tap.store), str(seconds + 1)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert reader.stdout is not None
        reader.stdout.readline()
        sending = subprocess.Popen(
            [
                *(sys.executable, "-m", "benchmarks.overload", "--send", via),
                *map(str, (tap.port, times * rate, seconds)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert sending.stdout is not None
        sending.stdout.readline()
        begin(sending)
        done = threading.Event()
        threading.Thread(target=lambda: (sending.wait(), done.set()), daemon=True).start()
        peak_bytes, looks = 0, [True]
        while not done.wait(0.2):
            peak_bytes = max(peak_bytes, process.memory_info().rss)
            looks.append(tap.status()["unexplained"] == 0)
        others, ghosts, took_s = result(sending)
        status = tap.settle()
        looks[0] = status["unexplained"] == 0
        ages = sorted(float(line) for line in reader.communicate()[0].split())
    finally:
        tap.stop()
    row = told(tap.store, others, int(ghosts))
    shutil.rmtree(folder)
    sent = others + ghosts * (SCENE_CALL + SCENE_DIALOG)
    fresh = f"{statistics.median(ages):5.2f} {ages[int(len(ages) * 0.95)]:5.2f}" if ages else "    -     -"
    return (
        f"{times:>4g}x {sent / took_s:>8.0f} {sent / took_s / rate:>5.1f}x {status['received'] / sent:>8.1%}"
        f" {status['kernel_dropped'] / sent:>7.1%} {row}  {fresh} {peak_bytes / 2**20:>6.0f}"
        f"  {sum(looks)} of {len(looks)} looks"
    )


def told(store: Path, others: float, ghosts: int) -> str:
    """Shares stored by class, and ghost calls sent, whole, found, and found without being one."""
    with open_reader(store) as reader:

        def numbers(sql: str) -> dict[str, int]:
            return dict(reader.execute(sql).fetchall())

        stored = numbers("SELECT method, count(*) FROM sip GROUP BY ALL")
        stored["RTCP"] = numbers("SELECT 'RTCP', count(*) FROM rtcp")["RTCP"]
        heard = numbers(
            "SELECT regexp_replace(call_id, '^(call|reg)-', 'call-'), count(*) FROM sip "
            "WHERE method IN ('INVITE', 'CANCEL', 'REGISTER') GROUP BY ALL"
        )
        found = set(numbers("SELECT call_id, 1 FROM finding WHERE kind = 'late_register'"))
    sent_calls = {call_id_of(user) for user in users()[:ghosts]}
    whole = {call_id for call_id, count in heard.items() if count == SCENE_CALL} & sent_calls
    noise_sent = {method: others * share / 100 for method, share in SHARES.items()}
    shares = [stored.get(method, 0) / noise_sent[method] for method in ("OPTIONS", "NOTIFY", "RTCP", "BYE")]
    shares.append(sum(stored.get(m, 0) for m in ("INVITE", "CANCEL", "REGISTER")) / (ghosts * SCENE_CALL))
    return (
        " ".join(f"{share:>7.1%}" for share in shares)
        + f"  {ghosts:>6} {len(whole):>6} {len(found & whole):>6} {len(whole - found):>6} {len(found - sent_calls):>5}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", default="1,3,10")
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--via", choices=("udp", "tcp"), default="udp")
    parser.add_argument("--send", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.send:
        via, port, rate, seconds = arguments.send
        send(via, int(port), float(rate), float(seconds))
        return
    print(machine.describe())
    folder = Path(tempfile.mkdtemp(prefix="hepduck-bench-"))
    rate = sustainable(folder)
    shutil.rmtree(folder)
    print(
        f"sustainable: {rate:.0f} messages/s; over {arguments.via}\n"
        "                      received  kernel  ---- share stored of what was sent ---   ---- ghost calls -----"
        "--------   fresh s      RSS MB\n"
        "offered sent/s  ratio  of sent dropped OPTIONS  NOTIFY    RTCP     BYE    CALL    sent  whole  found missed"
        " false  p50   p95   peak   adds up",
        flush=True,
    )
    for times in arguments.times.split(","):
        print(measure(float(times), rate, arguments.seconds, arguments.via), flush=True)
        time.sleep(1)


if __name__ == "__main__":
    main()
