"""kill -9 under load, again and again on one store, each time in the middle of one ghost call and about when the phone
of another is called, with an armed fake call.

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
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

if __name__ != "__main__":
    from tap import RunningTap, call_id_of, eventually, ghost_call
    from world.ports import free_port
    from world.sip import header, headers, kind

    from pipeline.ingest import Datagram
    from pipeline.ingest.recordings import read_recording
    from pipeline.ingest.restamp import restamp
    from pipeline.protocols.hep import decode

RATE = 2000  # messages a second
PAUSE_S = 0.2  # between the questions of the reading process: two cores have more to do
COUNTS = "SELECT count(*) AS rows, count(DISTINCT msg_id) AS ids, count(DISTINCT call_id) AS calls FROM sip{}"
LOADED = COUNTS.format(" WHERE call_id LIKE '%@load'")
USERS = map("".join, itertools.product(string.ascii_lowercase, repeat=3))
OPTIONS = (
    "store.writer.flush_interval=100ms",
    "store.merge_interval=1s",  # most kills hit a commit or upkeep
    "store.prune_interval=1s",
    "store.count_interval=1s",
    "store.rate_interval=1s",
    'tap.allowed_networks=["127.0.0.0/8"]',
    "actions.fake_call.enabled=true",
    "actions.fake_call.dry_run=false",
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


class Phones:
    """The proxy and all phones behind it: they ring, obey a CANCEL, and note every INVITE."""

    def __init__(self) -> None:
        self.invites: dict[str, set[str]] = {}  # Call-ID -> branches: a repeated INVITE is no second call
        self._invite_of: dict[str, str] = {}
        self._sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._sock.bind(("127.0.0.1", 0))
        self.uri = f"sip:127.0.0.1:{self._sock.getsockname()[1]}"
        threading.Thread(target=self._answer, daemon=True).start()

    def _answer(self) -> None:
        while True:
            data, caller = self._sock.recvfrom(65_535)
            request = data.decode()
            call_id = header(request, "Call-ID")
            match kind(request):
                case "INVITE":
                    self.invites.setdefault(call_id, set()).add(header(request, "Via"))
                    self._invite_of[call_id] = request
                    self._reply("180 Ringing", request, caller)
                case "CANCEL":
                    self._reply("200 OK", request, caller)
                    self._reply("487 Request Terminated", self._invite_of[call_id], caller)

    def _reply(self, status: str, request: str, caller: tuple[str, int]) -> None:
        """RFC 3261 section 8.2.6.2."""
        vias = [f"Via: {via}" for via in headers(request, "Via")]
        rest = [f"{name}: {header(request, name)}" for name in ("From", "To", "Call-ID", "CSeq")]
        rest[1] += ";tag=phone"
        lines = [f"SIP/2.0 {status}", *vias, *rest, "Content-Length: 0", "", ""]
        self._sock.sendto("\r\n".join(lines).encode(), caller)


class GhostCall:
    """A lost call, and its late phone."""

    def __init__(self, folder: Path) -> None:
        user = next(USERS)
        self.call_id = call_id_of(user)
        records = list(read_recording(ghost_call(folder, user)))
        late = next(i for i, record in enumerate(records) if b"REGISTER sip" in record.data)
        self.lost, self.late = records[:late], records[late:]

    def happen(self, tap: RunningTap) -> None:
        """The caller calls and gives up."""
        stored = f"SELECT DISTINCT payload FROM sip WHERE call_id = '{self.call_id}'"
        whole = len({decode(record.data)[0].payload for record in self.lost})
        self._repeat(tap, self.lost, lambda: len(tap.rows(stored)) == whole, "in the store")

    def register(self, tap: RunningTap) -> None:
        """The phone registers."""
        _send(tap, self.late)

    def be_found(self, tap: RunningTap) -> None:
        """The phone registers, and again; it is found, if not in an earlier life of the tap."""
        found = f"SELECT call_id FROM finding WHERE call_id = '{self.call_id}'"
        self._repeat(tap, self.late, lambda: tap.rows(found), "found")

    def be_called(self, tap: RunningTap) -> None:
        """The phone registers; it is found, and called."""
        done = f"SELECT call_id FROM action_attempt WHERE call_id = '{self.call_id}' AND action = 'fake_call'"
        self._repeat(tap, self.late, lambda: tap.rows(done), "acted on")

    def _repeat(
        self, tap: RunningTap, records: list[Datagram], look: Callable[[], object], what: str
    ) -> None:
        """Send them until it is seen: a datagram may be lost while the tap starts, and phones repeat theirs."""
        again_s = 0.0

        def seen() -> object:
            nonlocal again_s
            if time.monotonic() > again_s:
                _send(tap, records)
                again_s = time.monotonic() + 5
            return look()

        eventually(seen, f"{self.call_id} {what}")


def _send(tap: RunningTap, records: list[Datagram]) -> None:
    """All at once; their times end now."""
    length_us = records[-1].arrival_us - records[0].arrival_us
    with tap.connected() as sock:
        for record in restamp(records, time.time_ns() // 1000 - length_us):
            sock.send(record.data)


def kill_often(folder: Path, rounds: int) -> str:
    """Kill a tap `rounds` times; asserts that nothing called stored is missing, nothing is there twice, a reader goes
    on, each race that a kill cut in two is found and its phone called once, and no phone is called twice, whenever the
    kill came. What was seen, in a line."""
    port = free_port()
    rng = random.Random(20)
    phones = Phones()
    options = [f"--set={option}" for option in (*OPTIONS, f"actions.fake_call.proxy={phones.uri}")]
    tap = RunningTap(folder, *options, listen=[f"udp:127.0.0.1:{port}"])
    stored_in_all, before = 0, 0
    pending: GhostCall | None = None
    cut_in_two, at_the_kill, before_it = [], [], 0
    try:
        tap.start()
        with helper("load", port), helper("read", tap.store) as reader:
            for number in range(rounds):
                if number:
                    tap.start()
                tap.wait_for(lambda status: status["stored"] > 0, "something stored")
                if pending:
                    pending.be_called(tap)
                    cut_in_two.append(pending.call_id)
                    at_the_kill[-1].be_found(tap)
                pending = GhostCall(folder)
                pending.happen(tap)
                at_the_kill.append(GhostCall(folder))
                at_the_kill[-1].happen(tap)
                at_the_kill[-1].register(tap)
                time.sleep(rng.uniform(0, 0.12))  # any moment may be the last: the INVITE leaves after 55 ms
                tap.kill()
                before_it += at_the_kill[-1].call_id in phones.invites
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
        assert {row["call_id"] for row in found} >= {
            *cut_in_two,
            *(call.call_id for call in at_the_kill[:-1]),
        }
        assert all(row["times"] == 1 for row in found), found
        assert phones.invites.keys() >= set(cut_in_two)
        assert phones.invites.keys() <= {*cut_in_two, *(call.call_id for call in at_the_kill)}
        assert all(len(branches) == 1 for branches in phones.invites.values()), phones.invites
    finally:
        if tap.alive:
            tap.kill()
    with tap:  # and the store is as good as ever
        assert tap.stop() == 0
    assert tap.rows(COUNTS.format(""))[0]["rows"] >= before
    return (
        f"{rounds} kills: {stored_in_all} messages called stored, {before} there, none twice; {len(cut_in_two)} races "
        f"that a kill cut in two, each found and its phone called once; {rounds} phones about to be called at a kill, "
        f"{before_it} just before it, none twice; a reader asked {told['queries']} times"
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
