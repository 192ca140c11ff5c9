"""Whatever is sent at it, the tap lives, counts every message, and still finds the next ghost call."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from mutations import Mutator, recorded
from tap import RunningTap, Status, call_id_of, ghost_call, hep3, hepduck, sip

from pipeline.decode import Decoder
from pipeline.engine.engine import CALL_METHODS
from pipeline.ingest import Datagram
from pipeline.store.schema import arrow_schema

DATAGRAMS = 200_000
BURST = 20_000  # datagrams under way: this is about what is sent, not about how fast
STREAMS = 200


def heard(status: Status) -> int:
    """Datagrams and frames that reached the tap, or its socket."""
    return sum(listener["received"] + listener["kernel_dropped"] for listener in status["listeners"].values())


def assert_still_at_work(tap: RunningTap, via: str) -> Status:
    """It answers, finds a ghost call, and its store holds what it says. The last status."""
    tap.send(ghost_call(tap.folder, "ann"), via=via, options=["--speed", "8x", "--now"])
    assert tap.alive
    done = hepduck("status", "--store", tap.store, cwd=tap.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert "(adds up)" in done.stdout
    assert tap.stop() == 0
    found = f"SELECT count(*) AS found FROM finding WHERE call_id = '{call_id_of('ann')}'"
    assert tap.rows(found) == [{"found": 1}]
    last = tap.status()
    assert last is not None
    for table in ("sip", "rtcp", "log", "weird"):
        last["stored"] -= tap.rows(f"SELECT count(*) AS stored FROM {table}")[0]["stored"]
    assert last["stored"] == 0
    weird = tap.rows("SELECT kind, count(*) AS count FROM weird GROUP BY 1")
    assert {row["kind"]: row["count"] for row in weird} == last["weird"]
    assert last["detectors_off"] == []
    assert "bug" not in last["weird"]
    assert "Traceback" not in tap.log()
    return last


@pytest.mark.timeout(170)
def test_datagrams(tmp_path: Path) -> None:
    with RunningTap(tmp_path, "-l", "error") as tap:
        sent = 0
        datagrams = Mutator(seed=5060).datagrams(DATAGRAMS)
        with tap.connected() as sock:
            while burst := list(islice(datagrams, BURST)):
                for datagram in burst:
                    sock.send(datagram)
                before, sent = sent, sent + len(burst)
                tap.wait_for(
                    lambda status, before=before: heard(status) >= before and status["queued"] < 3 * BURST,
                    f"{before} datagrams",
                )
        assert sent == DATAGRAMS
        tap.wait_for(lambda status: heard(status) == sent and status["queued"] == 0, "all datagrams")
        last = assert_still_at_work(tap, "udp")
        assert heard(last) == sent + 14
        assert last["dropped"] == last["dropped_by_reason"]["kernel"]
        assert len(last["weird"]) >= 8  # damage of every kind got there


def test_streams(tmp_path: Path) -> None:
    """Noise, damaged frames and resets on some connections; what comes on the others all arrives."""
    mutator, rng = Mutator(seed=5061), random.Random(5061)
    with RunningTap(tmp_path, "-l", "error", listen=["tcp:127.0.0.1:0"]) as tap:
        address = tap.address("tcp").rpartition(":")[2]
        for number in range(STREAMS):
            with socket.create_connection(("127.0.0.1", int(address))) as sock:
                if number % 4 == 0:
                    sock.sendall(hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", f"{number}@sound")))
                    continue
                if rng.random() < 0.3:  # close with a reset
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                with contextlib.suppress(ConnectionError):
                    sock.sendall(mutator.stream())
        tap.wait_for(
            lambda status: (
                sum(one["connections"] for one in status["listeners"].values()) == 0
                and sum(one["connections_total"] for one in status["listeners"].values()) == STREAMS
            ),
            "the end of all connections",
        )
        last = assert_still_at_work(tap, "tcp")
        (listener,) = last["listeners"].values()
        assert listener["skipped_bytes"] > 0
        assert listener["resyncs"] > 0
        assert listener["incomplete_frames"] > 0
        assert last["dropped"] == 0
        sound = tap.rows("SELECT call_id FROM sip WHERE call_id LIKE '%@sound'")
        assert len(sound) == len({row["call_id"] for row in sound}) == STREAMS // 4


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


@settings(max_examples=300)
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
