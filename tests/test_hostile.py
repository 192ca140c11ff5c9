"""Whatever is sent at it, the tap lives, counts every message, and still finds the next ghost call."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mutations import Mutator, recorded
from tap import RunningTap, Status, call_id_of, eventually, ghost_call, hep3, hepduck, sip

from pipeline.decode import Decoder
from pipeline.engine.engine import CALL_METHODS
from pipeline.ingest import Datagram
from pipeline.ingest.send import send_recording
from pipeline.store.schema import arrow_schema

DATAGRAMS = 50_000  # `python -m benchmarks.fuzz tap` sends a million
BURST = 10_000  # never far ahead of the tap: this is about what is sent, not about how fast
STREAMS = 200


@pytest.fixture(scope="module")
def tap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTap]:
    """One tap for all that comes; the last test asks it for its books."""
    folder = tmp_path_factory.mktemp("hostile")
    with RunningTap(folder, "-l", "error", listen=["udp:127.0.0.1:0", "tcp:127.0.0.1:0"]) as running:
        yield running


def listener(status: Status, tap: RunningTap, via: str) -> dict[str, Any]:
    """The counters of its listener for a transport."""
    found: dict[str, Any] = status["listeners"][tap.address(via)]
    return found


def test_datagrams(tap: RunningTap) -> None:
    """Random bytes and recorded packets with damage: each is heard, or counted by the socket as lost."""

    def heard(status: Status) -> int:
        counters = listener(status, tap, "udp")
        return int(counters["received"] + counters["kernel_dropped"])

    sent = 0
    datagrams = Mutator(seed=5060).datagrams(DATAGRAMS)
    with tap.connected() as sock:
        while burst := list(islice(datagrams, BURST)):
            for datagram in burst:
                sock.send(datagram)
            before, sent = sent, sent + len(burst)
            tap.wait_for(
                lambda status, before=before: heard(status) >= before and status["queued"] < BURST,
                f"{before} datagrams",
            )
    assert sent == DATAGRAMS
    last = tap.wait_for(lambda status: heard(status) == sent and status["queued"] == 0, "all datagrams")
    assert len(last["weird"]) >= 8  # damage of every kind got there


def test_streams(tap: RunningTap) -> None:
    """Noise, damaged frames and resets on some connections; what comes on the others all arrives."""
    mutator, rng = Mutator(seed=5061), random.Random(5061)
    _, host, port = tap.address("tcp").split(":")
    for number in range(STREAMS):
        with socket.create_connection((host, int(port))) as sock:
            if number % 4 == 0:
                sock.sendall(hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", f"{number}@sound")))
                continue
            if rng.random() < 0.3:  # close with a reset
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            with contextlib.suppress(ConnectionError):
                sock.sendall(mutator.stream())

    def is_over(status: Status) -> bool:
        counters = listener(status, tap, "tcp")
        return (counters["connections"], counters["connections_total"]) == (0, STREAMS)

    counters = listener(tap.wait_for(is_over, "the end of all connections"), tap, "tcp")
    assert counters["skipped_bytes"] > 0
    assert counters["resyncs"] > 0
    assert counters["incomplete_frames"] > 0
    asked = "SELECT count(*) AS sound, count(DISTINCT call_id) AS calls FROM sip WHERE call_id LIKE '%@sound'"
    eventually(
        lambda: tap.rows(asked) == [{"sound": STREAMS // 4, "calls": STREAMS // 4}], "what came between them"
    )


@pytest.mark.parametrize("via", ["udp", "tcp"])
def test_it_still_finds_the_next_ghost_call(tap: RunningTap, via: str) -> None:
    user = {"udp": "ann", "tcp": "bea"}[via]
    send_recording([ghost_call(tap.folder, user)], tap.address(via), speed=8.0, now=True)
    found = f"SELECT 1 FROM finding WHERE call_id = '{call_id_of(user)}'"
    eventually(lambda: tap.rows(found), f"the ghost call over {via}")


def test_every_message_has_its_number(tap: RunningTap) -> None:
    """In the status, which `hepduck status` finds to add up, and in the store after the end."""
    assert tap.alive
    done = hepduck("status", "--store", tap.store, cwd=tap.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "(adds up)" in done.stdout
    assert tap.stop() == 0
    last = tap.status()
    assert last is not None
    for table in ("sip", "rtcp", "log", "weird"):
        last["stored"] -= tap.rows(f"SELECT count(*) AS stored FROM {table}")[0]["stored"]
    assert last["stored"] == 0
    weird = tap.rows("SELECT kind, count(*) AS count FROM weird GROUP BY 1")
    assert {row["kind"]: row["count"] for row in weird} == last["weird"]
    assert last["shed"] == 0
    assert last["detectors_off"] == []
    assert "bug" not in last["weird"]
    assert "Traceback" not in tap.log()


# -- the decoder by itself -------------------------------------------------------------------------------

ARRIVAL_US = 1_800_000_000_000_000

packets = st.builds(
    hep3,
    st.binary(max_size=200) | st.sampled_from(recorded()).map(lambda data: data[99:]),
    protocol_type=st.integers(0, 255),
    ip_proto=st.integers(0, 255),
    src=st.tuples(st.just("255.255.255.255"), st.integers(0, 65535)),
    ts_us=st.integers(0, 2**32 * 1_000_000 - 1),
    agent_id=st.integers(0, 2**32 - 1),
    auth_key=st.none() | st.binary(max_size=20),
    correlation_id=st.none() | st.binary(max_size=20),
)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300) | packets | st.lists(packets, min_size=2, max_size=4).map(b"".join))
@example(b"")
@example(b"\x01")
@example(b"\x02" * 28)
@example(b"HEP3\0\6")
def test_any_bytes_make_rows(data: bytes) -> None:
    """Each datagram makes a row at least, in columns as the store has them; nothing raises, nor is a bug."""
    decoder = Decoder("test", CALL_METHODS)
    events = decoder.decode([Datagram(ARRIVAL_US, "127.0.0.1", 9060, "udp", True, data)])
    rows = decoder.pending
    assert rows == 1 + decoder.counts.unpacked >= 1
    assert "bug" not in decoder.counts.weird
    assert len(events) <= rows
    tables = decoder.take()
    assert sum(table.num_rows for table in tables.values()) == rows
    for name, table in tables.items():
        table.validate(full=True)
        assert table.schema.equals(arrow_schema(name))
