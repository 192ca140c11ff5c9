"""kill -9 under load, again and again on one store, each time in the middle of a ghost call.

`python kills.py load PORT` sends distinct messages, `python kills.py read STORE` asks for them all the while.
"""

from __future__ import annotations

import itertools
import json
import random
import socket
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ != "__main__":
    from tap import RunningTap, call_id_of, eventually, ghost_call
    from world.ports import free_port

    from pipeline.ingest import Datagram
    from pipeline.ingest.recordings import read_recording
    from pipeline.ingest.restamp import restamp
    from pipeline.store.lake import Reader

RATE = 2000  # messages a second
PAUSE_S = 0.2  # between the questions of the reading process: two cores have more to do
COUNTS = "SELECT count(*) AS rows, count(DISTINCT msg_id) AS ids, count(DISTINCT call_id) AS calls FROM sip{}"
LOADED = COUNTS.format(" WHERE call_id LIKE '%@load'")
USERS = map("".join, itertools.product(string.ascii_lowercase, repeat=3))
OPTIONS = (
    "store.writer.flush_interval=100ms",
    "store.merge_interval=1s",  # most kills hit a commit or a merge
    "detectors.late_register.window=2m",  # the phone comes when the tap is up again, on a busy machine after 15 s
)


@contextmanager
def helper(role: str, argument: object) -> Iterator[subprocess.Popen[str]]:
    """One of the two processes beside the tap; killed at the end if it still runs."""
    argv = [sys.executable, __file__, role, str(argument)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


class GhostCall:
    """A lost call whose first half comes before a kill and whose second half, the late phone, comes after it."""

    def __init__(self, folder: Path) -> None:
        user = next(USERS)
        self.call_id = call_id_of(user)
        records = list(read_recording(ghost_call(folder, user)))
        late = next(i for i, record in enumerate(records) if b"REGISTER sip" in record.data)
        self.lost, self.late = records[:late], records[late:]

    def happen(self, tap: RunningTap) -> None:
        """The caller calls and gives up."""
        _send(tap, self.lost)
        stored = f"SELECT call_id FROM sip WHERE call_id = '{self.call_id}'"
        with Reader(tap.store) as reader:
            whole = len(self.lost)
            eventually(lambda: reader.query(stored).num_rows == whole, f"{self.call_id} in the store")

    def be_found(self, tap: RunningTap) -> None:
        """The phone registers; it is found, and acted on (a dry run)."""
        acted = f"SELECT * FROM action_attempt WHERE call_id = '{self.call_id}' AND action = 'fake_call'"
        with Reader(tap.store) as reader:
            again_s = 0.0

            def look() -> int:
                nonlocal again_s
                if (
                    time.monotonic() > again_s
                ):  # a datagram may be lost while the tap starts: phones repeat it
                    _send(tap, self.late)
                    again_s = time.monotonic() + 5
                return int(reader.query(acted).num_rows)

            eventually(look, f"what was done about {self.call_id}")


def _send(tap: RunningTap, records: list[Datagram]) -> None:
    with tap.connected() as sock:
        for record in restamp(records, time.time_ns() // 1000):
            sock.send(record.data)


def kill_often(folder: Path, rounds: int) -> str:
    """Kill a tap `rounds` times; asserts that nothing called stored is missing, nothing is there twice, a reader goes
    on, and each race that a kill cut in two is found and acted on once. What was seen, in a line."""
    port = free_port()
    rng = random.Random(20)
    tap = RunningTap(folder, *(f"--set={option}" for option in OPTIONS), listen=[f"udp:127.0.0.1:{port}"])
    stored_in_all, before = 0, 0
    pending: GhostCall | None = None
    try:
        tap.start()
        with helper("load", port), helper("read", tap.store) as reader:
            for number in range(rounds):
                if number:
                    tap.start()
                tap.wait_for(lambda status: status["stored"] > 0, "something stored")
                if pending:
                    pending.be_found(tap)
                pending = GhostCall(folder)
                pending.happen(tap)
                time.sleep(rng.uniform(0, 0.3))  # any moment may be the last
                tap.kill()
                last = tap.status()
                assert last is not None
                (counted,) = tap.rows(COUNTS.format(""))
                (loaded,) = tap.rows(LOADED)
                assert counted["rows"] == counted["ids"], f"round {number}"
                assert loaded["rows"] == loaded["calls"], f"round {number}"
                assert counted["rows"] >= before + last["stored"], f"round {number}"
                stored_in_all += last["stored"]
                before = counted["rows"]
                assert reader.poll() is None, f"the reader ended in round {number}"
            out, _ = reader.communicate("enough\n", timeout=60)
        assert reader.returncode == 0, out
        told = json.loads(out.splitlines()[-1])
        assert told["rows"] == before
        assert told["queries"] > rounds
        found = tap.rows("SELECT call_id, count(*) AS times FROM finding GROUP BY call_id")
        assert len(found) == rounds - 1
        assert all(row["times"] == 1 for row in found), found
        acted = tap.rows(
            "SELECT call_id FROM action_attempt WHERE action = 'fake_call' AND outcome <> 'duplicate'"
        )
        assert len(acted) == len({row["call_id"] for row in acted}) == rounds - 1
    finally:
        if tap.alive:
            tap.kill()
    with tap:  # and the store is as good as ever
        assert tap.stop() == 0
    assert tap.rows(COUNTS.format(""))[0]["rows"] >= before
    return (
        f"{rounds} kills: {stored_in_all} messages called stored, {before} there, none twice; {len(found)} races "
        f"that a kill cut in two, each found and acted on once; a reader asked {told['queries']} times"
    )


# -- the other processes ---------------------------------------------------------------------------------


def load(port: int) -> None:
    """Send OPTIONS, each with a Call-ID and a number of its own, whether anybody listens or not."""
    sys.path.insert(0, str(Path(__file__).parent))
    from tap import hep3, sip  # noqa: PLC0415

    template = hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", "0000000000@load"), agent_id=2002)
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
            (counted,) = reader.query(COUNTS.format("")).to_pylist()
            assert counted["rows"] == counted["ids"], counted
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
