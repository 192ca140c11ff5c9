"""Attacks on one running tap, one after the other: while each goes on, an honest sender's ghost call is found.

And the tap's memory stays where it was, though what comes would fill that of the machine if it were believed.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import math
import resource
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest
import trustme
from tap import RunningTap, Status, call_id_of, eventually, ghost_call, hep3, sip

from pipeline.ingest.send import TlsClient, send_recording
from pipeline.protocols import hep
from pipeline.protocols.hep import Chunk
from pipeline.protocols.hep.packet import COMPRESSED_PAYLOAD

MOST_GROWTH_BYTES = 1 << 30  # the queue may hold half of it; what comes inflates to hundreds of times that
MOST_CONNECTIONS = 3000  # at a time; fewer where the system allows fewer
DATAGRAM_BYTES = 65_000
ENOUGH = 10  # times that what an attack does is counted
BETWEEN_S = 0.002  # this is about what is sent, not about how fast

Attack = Callable[[], object]


@dataclass
class Scene:
    """A tap on UDP, TCP and TLS, and the authority that its certificate is of."""

    tap: RunningTap
    ca_file: Path
    quiet_bytes: int = 0

    def address(self, via: str) -> tuple[str, int]:
        _, host, port = self.tap.address(via).split(":")
        return host, int(port)

    @property
    def memory_bytes(self) -> int:
        return psutil.Process(self.tap.pid).memory_info().rss

    def finds(self, user: str, via: str) -> None:
        """A ghost call of `user`, sent over `via`, is found."""
        recording = ghost_call(self.tap.folder, user)
        send_recording(
            [recording], self.tap.address(via), speed=8.0, now=True, tls=TlsClient(ca=self.ca_file)
        )
        asked = f"SELECT 1 FROM finding WHERE call_id = '{call_id_of(user)}'"
        eventually(lambda: self.tap.rows(asked), f"the ghost call of {user}")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("attacks")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "tap.pem"))
    listen = [f"{via}:127.0.0.1:0" for via in ("udp", "tcp", "tls")]
    certificate = {"HEPDUCK_TAP__TLS_CERTIFICATE": str(folder / "tap.pem")}
    with RunningTap(folder, "-l", "error", listen=listen, variables=certificate) as tap:
        made = Scene(tap, folder / "ca.pem")
        made.finds("one", "tls")
        made.quiet_bytes = made.memory_bytes
        yield made


@contextlib.contextmanager
def going_on(attack: Iterator[object]) -> Iterator[None]:
    """The attack goes on in a thread until the end of the block; there it must be going on still."""
    over = threading.Event()
    failed: list[Exception] = []

    def run() -> None:
        try:
            for _ in attack:
                if over.wait(BETWEEN_S):
                    return
            failed.append(AssertionError("the attack came to an end"))
        except Exception as error:  # noqa: BLE001  it is told at the end
            failed.append(error)

    attacker = threading.Thread(target=run)
    attacker.start()
    try:
        yield
    finally:
        over.set()
        attacker.join()
    assert failed == []


def held_out(
    scene: Scene,
    attack: Iterator[object],
    user: str,
    via: str,
    felt: Callable[[Status], float] = lambda _status: math.inf,
) -> Status:
    """The tap finds a ghost call during the attack, and takes no more memory for it. The status after it.

    The attack goes on until it was `felt` more than ENOUGH.
    """
    with going_on(attack):
        scene.finds(user, via)
        scene.tap.wait_for(lambda status: felt(status) > ENOUGH, "that the attack was felt")
        grown_bytes = scene.memory_bytes - scene.quiet_bytes
    assert grown_bytes < MOST_GROWTH_BYTES
    return scene.tap.wait_for(lambda status: status["queued"] == 0, "that nothing waits")


def datagrams(scene: Scene, *bombs: bytes) -> Iterator[object]:
    """These, again and again, and now and then a rest: the tap's socket must have room for others, too."""
    with scene.tap.connected("udp") as sock:
        for number, bomb in enumerate(itertools.cycle(bombs)):
            if number % 16 == 0:
                time.sleep(BETWEEN_S * 8)
            yield sock.send(bomb)


def weird(status: Status, kind: str) -> int:
    """How many messages were counted as such."""
    return int(status["weird"].get(kind, 0))


def test_thousands_of_connections_that_trickle(scene: Scene) -> None:
    """Slow loris: each promises a frame of 65535 bytes and brings one after another; who is honest gets a place."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(MOST_CONNECTIONS, hard - 200)
    before = scene.tap.wait_for(lambda _status: True, "a status")["listeners"][scene.tap.address("tcp")]
    try:
        with contextlib.ExitStack() as opened:
            clients = []
            for _ in range(count):
                client = opened.enter_context(socket.create_connection(scene.address("tcp"), timeout=20))
                client.setblocking(False)
                client.send(b"HEP3\xff\xff")
                clients.append(client)

            def trickle() -> Iterator[object]:
                for client in itertools.cycle(clients):
                    with contextlib.suppress(OSError):  # it was closed to make room
                        client.send(b"x")
                    yield

            status = held_out(scene, trickle(), "two", "tcp")
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    listener = status["listeners"][scene.tap.address("tcp")]
    assert listener["connections_total"] - before["connections_total"] >= count
    assert listener["connections"] <= 256
    assert listener["idle_closed"] - before["idle_closed"] >= count - 256


def test_tls_garbage(scene: Scene) -> None:
    """Plain text, half a handshake, records of random length, and a handshake that breaks off."""
    hello = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    handshake = context.wrap_bio(ssl.MemoryBIO(), hello, server_hostname="127.0.0.1")
    with contextlib.suppress(ssl.SSLWantReadError):
        handshake.do_handshake()
    real = hello.read()
    waiting: list[socket.socket] = []

    def garbage() -> Iterator[object]:
        openings = (
            b"HEP3\0\x10",
            real[:40],
            b"\x16\x03\x01\xff\xff" + bytes(9000),
            real + b"\x17\x03\x03\0\x04junk",
            b"",
        )
        for opening in itertools.cycle(openings):
            with contextlib.suppress(OSError):
                client = socket.create_connection(scene.address("tls"), timeout=20)
                waiting.append(client)
                client.sendall(opening)
            if len(waiting) > 100:
                waiting.pop(0).close()
            yield

    def rejected(status: Status) -> int:
        return int(status["listeners"][scene.tap.address("tls")]["rejected"].get("tls", 0))

    try:
        held_out(scene, garbage(), "thr", "tls", rejected)
    finally:
        for client in waiting:
            client.close()


def bomb(payload: bytes) -> bytes:
    """A packet with that compressed payload."""
    (packet,) = hep.decode(hep3(b""))
    chunk = Chunk(0, COMPRESSED_PAYLOAD, payload)
    whole = hep.encode(packet._replace(extra=(chunk,)))
    return whole[:4] + (len(whole) - 6).to_bytes(2) + whole[6:-6]  # without the empty plain payload behind it


def test_zip_bombs(scene: Scene) -> None:
    """A thousandfold each: 60 MB in 60 kB, deflate inside of deflate, and as many small ones as fit a datagram."""
    zeros = zlib.compress(bytes(60_000_000), 9)[:DATAGRAM_BYTES]
    twice = zlib.compress(zlib.compress(bytes(50_000_000), 9), 9)
    many = bomb(zlib.compress(bytes(DATAGRAM_BYTES), 9))
    held_out(
        scene,
        datagrams(scene, bomb(zeros), bomb(twice), many * (DATAGRAM_BYTES // len(many))),
        "fou",
        "udp",
        lambda status: weird(status, "hep_inflate"),
    )


def test_chunk_bombs(scene: Scene) -> None:
    """Thousands of empty chunks, chunks that overrun, and as many packets as fit a datagram."""
    empty = b"\0\0\0\x20\0\6" * (DATAGRAM_BYTES // 6)
    head = hep3(b"")
    many = head + empty[: DATAGRAM_BYTES - len(head)]
    bombs = (
        b"HEP3" + len(many).to_bytes(2) + many[6:],
        b"HEP3\xff\xff" + empty,
        head * (DATAGRAM_BYTES // len(head)),
    )
    held_out(scene, datagrams(scene, *bombs), "fiv", "udp", lambda status: weird(status, "hep_chunk_count"))


def test_headers_of_65_kb(scene: Scene) -> None:
    """Each of them is dear to some way of reading: words of secrets, quotes, brackets, folds, lists, parameters."""

    def packet(*more: str, start: str = "REGISTER sip:sip.test SIP/2.0") -> bytes:
        return hep3(sip(start, "large@sip.test", *more))

    room = DATAGRAM_BYTES - 1000
    headers = (
        "secret" * (room // 6),
        "Authorization: Digest " + "response" * (room // 8),
        "Authorization: Digest " + "response=" * (room // 9),
        "authorization" * (room // 13),
        'Contact: "' + "\\" * room,
        "Contact: " + "<" * room,
        "Contact: " + "<sip:a@b>," * (room // 10),
        "Contact: <sip:a@b>" + ";a=b" * (room // 4),
        "Path: " + ",;" * (room // 2),
        "X: a" + "\r\n b" * (room // 4),
        "Via: " + "SIP/2.0/UDP a," * (room // 14),
        "\r\n".join(["a:"] * (room // 4)),
        "User-Agent: " + "\t " * (room // 2) + "x",
    )
    bombs = [packet(header) for header in headers] + [
        packet(start=f"INVITE sip:{'%41' * (room // 3)}@x SIP/2.0")
    ]
    status = held_out(scene, datagrams(scene, *bombs), "six", "udp")
    assert "bug" not in status["weird"]


def test_deep_json(scene: Scene) -> None:
    """RTCP reports that are brackets in brackets, numbers of sixty thousand digits, and a million reports."""
    block = {"source_ssrc": 1, "ia_jitter": 2}
    payloads = (
        b"[" * DATAGRAM_BYTES,
        b'{"a":' * (DATAGRAM_BYTES // 5),
        b'{"report_blocks":' + b"[" * 250 + b"]" * 250 + b"}",
        b'{"report_blocks":[{"source_ssrc":1,"lsr":' + b"9" * (DATAGRAM_BYTES - 100) + b"}]}",
        json.dumps({"ssrc": 1, "report_blocks": [block] * 1500}).encode(),
        b'{"MOS":4,"CODEC_NAME":"\\ud800","RTP_SIP_CALL_ID":"' + b"\\ud800" * 10_000 + b'"}',
    )
    bombs = [hep3(payload, protocol_type=kind) for payload in payloads for kind in (5, 34, 35, 99)]
    held_out(scene, datagrams(scene, *bombs), "sev", "udp")


def test_it_is_still_the_same_tap(scene: Scene) -> None:
    """Nothing was lost without a number, nothing was a bug, and it ends when asked to."""
    scene.finds("eig", "tcp")
    status = scene.tap.wait_for(lambda status: status["queued"] == 0, "that nothing waits")
    assert "bug" not in status["weird"]
    assert status["detectors_off"] == []
    assert not [job for job in status["jobs"] if job["error"]]
    assert scene.tap.stop() == 0
    assert "Traceback" not in scene.tap.log()
