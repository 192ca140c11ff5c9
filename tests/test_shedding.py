"""What a datagram is, told from its outside, against what decoding it whole tells; and the order of shedding."""

from __future__ import annotations

import json
import struct
import zlib
from collections import Counter

import pytest
from asterisk_recordings import unpacked
from hypothesis import example, given
from hypothesis import strategies as st
from recordings import DATA, PATHS
from tap import hep3, sip

from pipeline.errors import DecodeError
from pipeline.ingest import Datagram
from pipeline.ingest.queue import BatchQueue
from pipeline.ingest.recordings import read_recording
from pipeline.ingest.shedding import FILL, REASONS, Precedence, precedence
from pipeline.protocols.hep import decode
from pipeline.protocols.sip import parse

OPTIONS, PRESENCE, RTCP, DIALOG, CALL = Precedence
# Issue and RFCs: 3261 (OPTIONS ... REGISTER), 6665, 3903, 3428, 6086, 3262, 3311, 3515.
ORDER = {
    OPTIONS: "OPTIONS",
    PRESENCE: "SUBSCRIBE NOTIFY PUBLISH MESSAGE INFO",
    DIALOG: "ACK BYE PRACK UPDATE REFER",
    CALL: "INVITE CANCEL REGISTER",
}
CLASS_OF = {method: rank for rank, methods in ORDER.items() for method in methods.split()}
REPORTS = {5: RTCP, 100: PRESENCE}  # of the protocol types of HEP
VECTORS = json.loads((DATA / "hep" / "vectors.json").read_text())


def decoded(data: bytes) -> Precedence:
    """The class by what the message turns out to be, with nothing left to guess."""
    (packet,) = decode(data, now_us=1_795_374_443_000_000)
    if packet.protocol_type == 1:
        (message,) = parse(packet.payload)
        return CLASS_OF[message.method or ""]
    return REPORTS[packet.protocol_type]


@pytest.mark.parametrize("name", PATHS)
def test_recorded_messages_are_what_decoding_says(name: str) -> None:
    """HEP 1, 2 and 3 of Kamailio over UDP and TCP."""
    for record in read_recording(PATHS[name]):
        assert precedence(record.data) == decoded(record.data), record.data


@pytest.mark.parametrize("session", ["r18", "r22-main", "r22-custom-legacy"])
def test_recorded_messages_of_asterisk(session: str) -> None:
    """SIP and RTCP of `res_hep`: u32 length, packet, and so on."""
    data, at, found = unpacked(session, "hep.bin"), 0, Counter[Precedence]()
    while at < len(data):
        (size,) = struct.unpack_from("!I", data, at)
        packet, at = data[at + 4 : at + 4 + size], at + 4 + size
        assert precedence(packet) == decoded(packet), packet
        found[precedence(packet)] += 1
    assert min(found[RTCP], found[CALL]) > 10


@pytest.mark.parametrize("name", VECTORS)
def test_vectors_of_other_agents(name: str) -> None:
    data = bytes.fromhex(VECTORS[name]["hex"])
    (packet,) = decode(data)
    word = packet.payload.split()[0].decode()
    assert precedence(data) == (
        CLASS_OF[word] if packet.protocol_type == 1 else REPORTS[packet.protocol_type]
    )


@pytest.mark.parametrize(("method", "rank"), CLASS_OF.items())
def test_every_method_and_its_replies(method: str, rank: Precedence) -> None:
    request = sip(f"{method} sip:bob@sip.test SIP/2.0", "a@sip.test", "Allow: INVITE, CANCEL, REGISTER")
    reply = sip("SIP/2.0 200 OK", "a@sip.test", "Allow: INVITE, CANCEL, REGISTER", cseq=f"1 {method}")
    for message in (request, reply):
        hep1 = struct.pack("!BBBBHH", 1, 16, 2, 17, 5060, 5060) + bytes(8) + message
        datagrams = (
            hep3(message),
            hep3(message, auth_key=b"key", correlation_id=b"x"),
            backwards(message),
            hep1,
        )
        assert [precedence(data) for data in datagrams] == [rank] * len(datagrams)
        padded = hep3(b"\r\n\r\n" + message)  # RFC 3261 7.5
        assert precedence(padded) == rank


def backwards(payload: bytes) -> bytes:
    """HEP3 whose payload comes first and whose protocol type last: any order is allowed."""
    chunks = [(0x0F, payload), (0x04, bytes(4)), (0x03, bytes(4)), (0x09, bytes([1, 2, 3, 4])), (0x0B, b"\1")]
    body = b"".join(struct.pack("!HHH", 0, kind, 6 + len(value)) + value for kind, value in chunks)
    return b"HEP3" + struct.pack("!H", 6 + len(body)) + body


def sip_of(method: str, *more: str) -> bytes:
    return sip(f"{method} sip:bob@sip.test SIP/2.0", f"{method}@sip.test", *more)


ODD = {
    "keep-alive of RFC 5626": (hep3(b"\r\n\r\n"), OPTIONS),
    "empty": (hep3(b""), OPTIONS),
    "RTCP": (hep3(b'{"sender_information":{}}', protocol_type=5), RTCP),
    "MOS report of an agent": (hep3(b"{}", protocol_type=34), RTCP),
    "log line": (hep3(b"INVITE was refused", protocol_type=100), PRESENCE),
    "unknown protocol": (hep3(b"INVITE", protocol_type=77), OPTIONS),
    "method of no RFC": (hep3(sip_of("WAKEUP")), PRESENCE),
    "encrypted": (hep3(bytes(range(128, 256))), OPTIONS),
    "no HEP at all": (b"GET / HTTP/1.1\r\n\r\n", OPTIONS),
    "bare SIP that asks for an INVITE": (sip_of("INVITE"), CALL),
    "a blank before the method": (hep3(b" " + sip_of("INVITE")), CALL),
    "CSeq written oddly": (
        hep3(sip("SIP/2.0 200 OK", "a", cseq="1  CANCEL").replace(b"CSeq:", b"CSEQ :")),
        CALL,
    ),
    "two messages in one": (hep3(sip_of("OPTIONS") + sip_of("INVITE"), ip_proto=6), CALL),
    "two packets in one": (hep3(sip_of("OPTIONS")) + hep3(sip_of("REGISTER")), CALL),
    "two packets of OPTIONS": (hep3(sip_of("OPTIONS")) * 2, PRESENCE),
    "a length that lies": (b"HEP3\xff\xff" + hep3(sip_of("CANCEL"))[6:], CALL),
    "cut in the payload": (hep3(sip_of("INVITE"))[:-20], CALL),
    "nothing": (b"", OPTIONS),
}


@pytest.mark.parametrize("name", ODD)
def test_what_is_odd(name: str) -> None:
    data, rank = ODD[name]
    assert precedence(data) == rank


def test_a_compressed_payload_is_not_inflated() -> None:
    """It might hold an INVITE, or a bomb: nobody looks. RTCP it cannot hold where the agent says that it is SIP."""
    packed = hep3(zlib.compress(sip_of("OPTIONS"))).replace(b"\0\0\0\x0f", b"\0\0\0\x10")
    assert precedence(packed) == CALL
    report = hep3(zlib.compress(b"{}"), protocol_type=5).replace(b"\0\0\0\x0f", b"\0\0\0\x10")
    assert precedence(report) == RTCP


FRAMES = [hep3(sip_of(method)) for method in CLASS_OF] + [hep3(sip("SIP/2.0 200 OK", "a", cseq="1 INVITE"))]
cuts = st.tuples(st.sampled_from(FRAMES), st.integers(0, 600), st.integers(0, 600), st.binary(max_size=12))


@given(st.binary() | cuts.map(lambda cut: cut[0][: cut[1]] + cut[3] + cut[0][cut[2] :]))
@example(b"HEP3")
@example(b"HEP3\0\x0c\0\0\0\x0f\0\x00")
def test_nothing_that_may_be_of_the_last_class_is_taken_for_less(data: bytes) -> None:
    """Whatever decodes to an INVITE, CANCEL or REGISTER, however mangled, is told as one; and nothing raises."""
    rank = precedence(data)
    try:
        methods = {
            message.method
            for packet in decode(data)
            if packet.protocol_type == 1
            for message in parse(packet.payload)
        }
    except DecodeError:
        return
    if methods & set(ORDER[CALL].split()):
        assert rank == CALL


# -- the queue -------------------------------------------------------------------------------------------

SAMPLE = {rank: hep3(sip_of(methods.split()[0])) for rank, methods in ORDER.items()} | {
    RTCP: hep3(b"{}", protocol_type=5)
}
SIZE = max(map(len, SAMPLE.values()))
ranks = st.sampled_from(list(Precedence))
batches = st.lists(ranks, max_size=12)


def batch_of(ranks_of: list[Precedence]) -> list[Datagram]:
    """Datagrams of those classes and of one size: the rest of a HEP packet's last chunk may be anything."""
    return [
        Datagram(number, "127.0.0.1", 1, "udp", True, sized(rank)) for number, rank in enumerate(ranks_of)
    ]


def sized(rank: Precedence) -> bytes:
    """The sample of a class, as long as all others: with a vendor's chunk at the end."""
    data, lacking = SAMPLE[rank], SIZE + 6 - len(SAMPLE[rank])
    data += struct.pack("!HHH", 0x7777, 1, lacking) + bytes(lacking - 6)
    return data[:4] + struct.pack("!H", len(data)) + data[6:]


def test_samples_are_what_they_should_be() -> None:
    assert {rank: precedence(sized(rank)) for rank in Precedence} == {rank: rank for rank in Precedence}
    assert len({len(sized(rank)) for rank in Precedence}) == 1


@given(st.lists(batches | st.just("get"), max_size=30), st.integers(1, 60), st.integers(1, 60))
def test_whatever_happens_all_is_counted_and_a_lower_class_never_gets_what_a_higher_one_lacks(
    steps: list[list[Precedence] | str], room: int, room_of: int
) -> None:
    def played() -> BatchQueue:
        given_, taken = Counter(), 0
        queue = BatchQueue(room, max_bytes=room_of * (SIZE + 6))
        for step in steps:
            if isinstance(step, str):
                taken += len(queue.get(0, max_datagrams=8))
                continue
            accepted = queue.put_batch(batch_of(step))
            given_.update(step)
            counters = queue.counters()
            assert counters.accepted + sum(counters.shed.values()) == given_.total()
            assert counters.depth == queue.depth == counters.accepted - taken
            assert 0 <= accepted <= len(step) and counters.depth <= min(room, room_of)
        for rank, reason in zip(Precedence, REASONS, strict=True):
            assert queue.counters().shed[reason] <= given_[rank]
        return queue

    let_in = [played().put_batch(batch_of([rank])) for rank in Precedence]  # all at the same level
    assert let_in == sorted(let_in)


@given(st.lists(ranks, max_size=60), st.integers(1, 40))
def test_within_a_batch_what_is_shed_makes_no_room_for_less(mixed: list[Precedence], room: int) -> None:
    queue = BatchQueue(room)
    queue.put_batch(batch_of(mixed))
    kept = {datagram.arrival_us for datagram in queue.get(0)}
    shed = [-1]
    for number, rank in enumerate(mixed):
        if number not in kept:
            shed.append(rank)
        else:
            assert rank > max(shed)


def test_the_order_under_pressure() -> None:
    """As much of everything as fills the queue, again and again: each class ends at its own mark."""
    room = 1000
    queue = BatchQueue(room)
    everything = batch_of(list(Precedence))
    for _ in range(room):
        queue.put_batch(everything)
    held = Counter(precedence(datagram.data) for datagram in queue.get(0, max_datagrams=room))
    # Up to the first mark all five come in turn, then four, three, two, and INVITE alone.
    steps = [after - before for before, after in zip((0, *FILL), FILL, strict=False)]
    gained = [step * room / (5 - number) for number, step in enumerate(steps)]
    for rank in Precedence:
        assert held[rank] == pytest.approx(sum(gained[: rank + 1]), abs=3)
    counters = queue.counters()
    assert counters.shed == {
        reason: room - held[rank] for rank, reason in zip(Precedence, REASONS, strict=True)
    }


def test_it_recovers() -> None:
    """With the queue drained nothing is shed any more."""
    queue = BatchQueue(100)
    for _ in range(100):
        queue.put_batch(batch_of([OPTIONS, CALL]))
    before = queue.counters().shed
    assert before["shed_options"] > before["queue_full"] > 0
    while queue.get(0):
        pass
    assert queue.put_batch(batch_of([OPTIONS] * 20)) == 20
    assert queue.counters().shed == before
