"""kill -9 under load, again and again on one store: what was called stored is there, once, and readers live on.

`python test_crash.py load PORT` sends distinct messages, `python test_crash.py read STORE` asks for them all the while.
"""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

if __name__ != "__main__":
    from tap import RunningTap
    from world.ports import free_port

ROUNDS = 20
RATE = 2000  # messages a second
PAUSE_S = 0.2  # between the questions of the reading process: two cores have more to do
COUNTS = "SELECT count(*) AS rows, count(DISTINCT msg_id) AS ids, count(DISTINCT call_id) AS calls FROM sip"


@contextmanager
def helper(role: str, argument: object) -> Iterator[subprocess.Popen[str]]:
    """One of the two processes beside the tap; killed at the end if it still runs."""
    argv = [sys.executable, __file__, role, str(argument)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.timeout(180)
def test_twenty_kills(tmp_path: Path) -> None:
    port = free_port()
    rng = random.Random(20)
    tap = RunningTap(
        tmp_path,
        "--set=store.writer.flush_interval=100ms",  # so that most kills hit a commit
        listen=[f"udp:127.0.0.1:{port}"],
    )
    stored_in_all, before = 0, 0
    tap.start()
    with helper("load", port), helper("read", tap.store) as reader:
        for number in range(ROUNDS):
            if number:
                tap.start()
            tap.wait_for(lambda status: status["stored"] > 0, "something stored")
            time.sleep(rng.uniform(0, 0.3))  # any moment may be the last
            tap.kill()
            last = tap.status()
            assert last is not None
            (counted,) = tap.rows(COUNTS)
            assert counted["rows"] == counted["ids"] == counted["calls"], f"round {number}"
            assert counted["rows"] >= before + last["stored"], f"round {number}"
            stored_in_all += last["stored"]
            before = counted["rows"]
            assert reader.poll() is None, f"the reader ended in round {number}"
        out, _ = reader.communicate("enough\n", timeout=60)
    assert reader.returncode == 0, out
    told = json.loads(out.splitlines()[-1])
    print(f"{stored_in_all} called stored, {before} there; the reader asked {told['queries']} times")
    assert told["rows"] == before
    assert told["queries"] > ROUNDS
    with tap:  # and the store is as good as ever
        assert tap.stop() == 0
    assert tap.rows(COUNTS)[0]["rows"] >= before


# -- the other processes ---------------------------------------------------------------------------------


def load(port: int) -> None:
    """Send INVITEs, each with a Call-ID and a number of its own, whether anybody listens or not."""
    sys.path.insert(0, str(Path(__file__).parent))
    from tap import hep3, sip  # noqa: PLC0415

    template = hep3(sip("INVITE sip:bob@sip.test SIP/2.0", "0000000000@load"))
    at = template.index(b"0000000000@load")
    datagram = bytearray(template)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        began_s, sent = time.monotonic(), 0
        while True:
            due = int((time.monotonic() - began_s) * RATE)
            for number in range(sent, due):
                datagram[at : at + 10] = b"%010d" % number
                sock.sendto(datagram, ("127.0.0.1", port))
            sent = max(sent, due)
            time.sleep(0.005)


def read(store: str) -> None:
    """Ask until a line comes on stdin; any error ends it. What was seen once must stay, and be there once."""
    import select  # noqa: PLC0415

    from pipeline.store.lake import Reader  # noqa: PLC0415

    queries = rows = 0
    with Reader(store) as reader:
        enough = False
        while not enough:
            enough = bool(select.select([sys.stdin], [], [], 0)[0])
            (counted,) = reader.query(COUNTS).to_pylist()
            assert counted["rows"] == counted["ids"] == counted["calls"], counted
            assert counted["rows"] >= rows, (counted, rows)
            rows = counted["rows"]
            queries += 1
            time.sleep(PAUSE_S)
    print(json.dumps({"queries": queries, "rows": rows}))


if __name__ == "__main__":
    if sys.argv[1] == "load":
        load(int(sys.argv[2]))
    else:
        read(sys.argv[2])
