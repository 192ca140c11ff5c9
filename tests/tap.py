"""hepduck as its users run it: every command a process of its own, a tap in the background; and HEP made by hand.

HEP and SIP are put together without the product's code; status.json is read as it lies there.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pipeline.store.lake import Reader

COMMAND = [sys.executable, "-m", "pipeline"]
PATIENCE_S = 60.0
_POLL_S = 0.02

Status = dict[str, Any]
Found = TypeVar("Found")


def environment(**variables: str) -> dict[str, str]:
    """Our own environment without anybody's hepduck settings, wide enough that no help text wraps."""
    ours = {name: value for name, value in os.environ.items() if not name.startswith("HEPDUCK_")}
    return {**ours, "COLUMNS": "250", **variables}


def hepduck(
    *arguments: object, cwd: Path, timeout_s: float = PATIENCE_S, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, in a folder that holds no configuration unless the test put one there."""
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        cwd=cwd,
        env=environment(**variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def eventually(look: Callable[[], Found], what: str, timeout_s: float = PATIENCE_S) -> Found:
    """The first true value that `look` gives; fails when there is none in time."""
    give_up_s = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < give_up_s, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(_POLL_S)
    return found


def assert_adds_up(status: Status) -> None:
    """Nothing is lost without a number."""
    fates = ("stored", "rejected", "shed", "kernel_dropped", "queued")
    assert status["received"] == sum(status[fate] for fate in fates), status
    assert status["shed"] == sum(status["shed_by_reason"].values()), status
    assert status["dropped_by_reason"] == {"kernel": status["kernel_dropped"], **status["shed_by_reason"]}
    assert status["dropped"] == sum(status["dropped_by_reason"].values()), status
    assert status["rejected"] == sum(status["rejected_by_reason"].values()), status
    assert status["unexplained"] == 0, status
    assert min(status["received"], status["stored"], status["queued"]) >= 0, status


class RunningTap:
    """`hepduck run` with a store of its own in `folder`; every status that is read must add up."""

    def __init__(
        self,
        folder: Path,
        *options: str,
        listen: Sequence[str] = ("udp:127.0.0.1:0",),
        variables: dict[str, str] | None = None,
        configuration: Path | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.store = folder / "store"
        self.log_file = folder / "tap.log"
        listeners = [word for spec in listen for word in ("-L", spec)]
        read = ["-f", str(configuration)] if configuration else ["--no-config"]
        self._argv = [*COMMAND, "run", *read, "--store", str(self.store), *listeners, *options]
        self._environment = environment(**(variables or {}))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> RunningTap:
        """Start it and wait until it says that it runs. May be called again after `stop` or `kill`."""
        with self.log_file.open("ab") as log:
            self.process = subprocess.Popen(
                self._argv,
                cwd=self.folder,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        self.wait_for(lambda status: status["state"] == "running", "that it runs")
        return self

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def status(self) -> Status | None:
        """What this run last said of itself; None before it said anything."""
        try:
            status: Status = json.loads((self.store / "status.json").read_text("utf-8"))
        except FileNotFoundError:
            return None
        if status["pid"] != self.pid:
            return None  # of the run before
        assert_adds_up(status)
        return status

    def wait_for(self, condition: Callable[[Status], object], what: str) -> Status:
        """The first status that fits."""
        give_up_s = time.monotonic() + PATIENCE_S
        while True:
            ended = not self.alive
            status = self.status()
            if status is not None and condition(status):
                return status
            assert not ended, f"the tap ended before {what}:\n{self.log()[-3000:]}"
            assert time.monotonic() < give_up_s, f"waited in vain: {what}; {status}"
            time.sleep(_POLL_S)

    def settled(self, received: int) -> Status:
        """The first status that accounts for `received` messages, none of them under way any more."""
        return self.wait_for(
            lambda status: status["received"] >= received and status["queued"] == 0,
            f"that {received} messages are accounted for",
        )

    @property
    def addresses(self) -> list[str]:
        """Where it listens: `udp:127.0.0.1:40123`."""
        status = self.wait_for(lambda _status: True, "a status")
        return list(status["listeners"])

    def address(self, via: str = "udp") -> str:
        """Its address for a transport."""
        return next(address for address in self.addresses if address.startswith(f"{via}:"))

    def send(self, *recordings: Path, via: str = "udp", options: Iterable[str] = ("--speed", "max")) -> None:
        """`hepduck send` them to it."""
        done = hepduck("send", *recordings, "--to", self.address(via), *options, cwd=self.folder)
        assert done.returncode == 0, done.stderr

    @contextmanager
    def connected(self, via: str = "udp") -> Iterator[socket.socket]:
        """A plain socket to it."""
        kind = socket.SOCK_DGRAM if via == "udp" else socket.SOCK_STREAM
        _, host, port = self.address(via).split(":")
        with socket.socket(socket.AF_INET, kind) as sock:
            sock.connect((host, int(port)))
            yield sock

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query on its store, in any state of the tap."""
        with Reader(self.store) as reader:
            found: list[dict[str, Any]] = reader.query(query).to_pylist()
        return found

    def log(self) -> str:
        """All that it wrote to stdout and stderr, of all its runs."""
        return self.log_file.read_text(errors="replace")

    def stop(self) -> int:
        """SIGTERM, as a service manager does; the exit code."""
        assert self.process is not None
        if self.alive:
            self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.process is not None
        self.process.kill()
        self.process.wait(PATIENCE_S)

    def __enter__(self) -> RunningTap:
        return self.start()

    def __exit__(self, *_: object) -> None:
        if self.alive:
            self.kill()


# -- HEP and SIP by hand ---------------------------------------------------------------------------------


def hep3(
    payload: bytes,
    *,
    protocol_type: int = 1,
    ip_proto: int = 17,
    src: tuple[str, int] = ("127.0.0.21", 5062),
    dst: tuple[str, int] = ("127.0.0.1", 5060),
    ts_us: int | None = None,
    agent_id: int = 2001,
    auth_key: bytes | None = None,
    correlation_id: bytes | None = None,
) -> bytes:
    """A HEP3 packet over IPv4, chunk by chunk as the specification lists them; `ts_us` is now by default."""
    seconds, microseconds = divmod(time.time_ns() // 1000 if ts_us is None else ts_us, 1_000_000)
    chunks = [
        (0x01, struct.pack("!B", 2)),
        (0x02, struct.pack("!B", ip_proto)),
        (0x03, socket.inet_aton(src[0])),
        (0x04, socket.inet_aton(dst[0])),
        (0x07, struct.pack("!H", src[1])),
        (0x08, struct.pack("!H", dst[1])),
        (0x09, struct.pack("!I", seconds)),
        (0x0A, struct.pack("!I", microseconds)),
        (0x0B, struct.pack("!B", protocol_type)),
        (0x0C, struct.pack("!I", agent_id)),
    ]
    chunks += [(0x0E, auth_key)] if auth_key is not None else []
    chunks += [(0x11, correlation_id)] if correlation_id is not None else []
    body = b"".join(
        struct.pack("!HHH", 0, kind, 6 + len(value)) + value for kind, value in [*chunks, (0x0F, payload)]
    )
    return b"HEP3" + struct.pack("!H", 6 + len(body)) + body


def sip(start_line: str, call_id: str, *more: str, cseq: str | None = None, to_tag: str = "") -> bytes:
    """A small SIP message from alice to bob; `more` are whole header lines."""
    method = cseq or f"1 {start_line.partition(' ')[0]}"
    lines = [
        start_line,
        "Via: SIP/2.0/UDP 127.0.0.21:5062;branch=z9hG4bK-" + call_id.replace("@", "-"),
        "From: <sip:alice@sip.test>;tag=a1",
        "To: <sip:bob@sip.test>" + (f";tag={to_tag}" if to_tag else ""),
        f"Call-ID: {call_id}",
        f"CSeq: {method}",
        *more,
        "Content-Length: 0",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


def call_id_of(user: str) -> str:
    """The Call-ID in `ghost_call(..., user)`."""
    return f"call-{(user * 7)[:20]}@sip.test"


def ghost_call(folder: Path, user: str) -> Path:
    """A recording like `b` (a lost call, and its late phone) of another account: three letters, never used before.

    Written into `folder`. No length changes, so it is a recording of real HEP still.
    """
    assert len(user) == 3
    data = (Path(__file__).parent / "data" / "kamailio" / "b.hep").read_bytes()
    for old, new in (
        (b"bob", user.encode()),
        (b"ae44999ea7ec4425b453", (user * 7)[:20].encode()),  # the Call-ID
        (b"7e3a3a4e186c4635bca3", (user * 7)[:20].encode()),  # the REGISTER's
        (b"6c1e9f7a-0d3c", user.encode().hex().encode() + b"7a-0d3c"),  # the phone's instance
    ):
        assert old in data
        data = data.replace(old, new)
    path = folder / f"{user}.hep"
    path.write_bytes(data)
    return path
