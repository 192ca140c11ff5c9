"""HEP packets: vectors from the specification and from Kamailio, tolerance, limits, round trips."""

from __future__ import annotations

import contextlib
import gzip
import json
import random
import struct
import zlib
from collections.abc import Callable
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest.recordings import Datagram, read_recording
from pipeline.protocols.hep import Chunk, HepError, HepPacket, decode, encode
from pipeline.protocols.hep.v3 import MAX_CHUNKS, decode_chunks, decode_kamailio

DATA = Path(__file__).parent / "data"
VECTORS = json.loads((DATA / "hep" / "vectors.json").read_text())
RECORDINGS = sorted((DATA / "kamailio").glob("*.hep"))
NOW_US = 1_795_374_443_000_000  # when the Kamailio vectors were made
YEAR_US = 365 * 86_400 * 1_000_000
CAP = 1 << 16


def chunk(kind: int, value: bytes, vendor: int = 0) -> bytes:
    return struct.pack("!HHH", vendor, kind, 6 + len(value)) + value


def hep3(*chunks: bytes, magic: bytes = b"HEP3", length: int | None = None) -> bytes:
    body = b"".join(chunks)
    return magic + struct.pack("!H", 6 + len(body) if length is None else length) + body


def u32(value: int) -> bytes:
    return struct.pack("!I", value)


SRC, DST = chunk(0x03, bytes([192, 0, 2, 1])), chunk(0x04, bytes([192, 0, 2, 2]))
SECONDS, MICROSECONDS = chunk(0x09, u32(1_795_374_442)), chunk(0x0A, u32(174_410))
PAYLOAD = chunk(0x0F, b"SIP")
MINIMAL = (SRC, DST, SECONDS, MICROSECONDS, PAYLOAD)


def one(datagram: bytes, **options: int) -> HepPacket:
    (packet,) = decode(datagram, **options)  # type: ignore[arg-type]
    return packet


def kind_of_error(datagram: bytes, **options: int) -> str:
    with pytest.raises(HepError) as caught:
        decode(datagram, **options)  # type: ignore[arg-type]
    return caught.value.kind


# -- vectors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VECTORS)
def test_vector(name: str) -> None:
    datagram, expected = bytes.fromhex(VECTORS[name]["hex"]), VECTORS[name]["expect"]
    packet = one(datagram, now_us=NOW_US)
    for field, value in expected.items():
        got = getattr(packet, field)
        assert (got.decode() if isinstance(got, bytes) else got) == value, field
    assert not packet.defects
    assert packet.transport == "udp"


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_recording_decodes_alike_on_both_ways_and_encodes_to_the_same_bytes(path: Path) -> None:
    for record in read_recording(path):
        packet = one(record.data, now_us=record.arrival_us)
        assert not packet.defects
        assert encode(packet, packet.version) == record.data
        if packet.version == 3:
            assert decode_chunks(record.data, CAP) == [packet]
            assert decode_kamailio(record.data) == packet, "the short cut must catch what Kamailio sends"


# -- version 3: what is tolerated ----------------------------------------------------------------------


@given(st.permutations(MINIMAL))
def test_chunks_come_in_any_order(chunks: list[bytes]) -> None:
    assert one(hep3(*chunks)) == one(hep3(*MINIMAL))


def test_eep3_is_hep3() -> None:
    assert one(hep3(*MINIMAL, magic=b"EEP3")) == one(hep3(*MINIMAL))


def test_the_address_chunks_decide_the_family() -> None:
    ipv6 = bytes.fromhex("20010db8000000000000000000000001")
    packet = one(hep3(chunk(0x01, b"\x1e"), chunk(0x05, ipv6), chunk(0x06, ipv6), PAYLOAD))  # macOS says 30
    assert (packet.src_ip, packet.dst_ip, packet.ip_family) == ("2001:db8::1", "2001:db8::1", 10)


def test_v4_mapped_address_in_an_ipv4_chunk() -> None:
    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 9])
    packet = one(hep3(chunk(0x03, mapped), DST, PAYLOAD))
    assert (packet.src_ip, packet.ip_family) == ("192.0.2.9", 2)


@pytest.mark.parametrize(("number", "transport"), [(17, "udp"), (6, "tcp"), (132, "sctp"), (22, None)])
def test_transport(number: int, transport: str | None) -> None:
    packet = one(hep3(chunk(0x02, bytes([number])), *MINIMAL))
    assert (packet.ip_proto, packet.transport) == (number, transport)


def test_a_vendors_chunk_is_never_taken_for_a_generic_one() -> None:
    for chunks in (
        (chunk(0x0F, b"theirs", vendor=5), *MINIMAL),
        (*MINIMAL, chunk(0x0F, b"theirs", vendor=5)),
    ):
        packet = one(hep3(*chunks))
        assert packet.payload == b"SIP"
        assert packet.extra == (Chunk(5, 0x0F, b"theirs"),)
        assert packet.chunk(0x0F, vendor=5) == b"theirs"


def test_other_generic_chunks_are_kept() -> None:
    packet = one(hep3(*MINIMAL, chunk(0x20, b"\x01\xa4"), chunk(0x12, b"\0\x07"), chunk(0x13, b"edge")))
    assert (packet.chunk(0x20), packet.chunk(0x12), packet.node_name) == (b"\x01\xa4", b"\0\x07", "edge")
    assert packet.chunk(0x21) is None


def test_of_two_equal_chunks_the_first_counts() -> None:
    packet = one(hep3(*MINIMAL, chunk(0x0F, b"second")))
    assert (packet.payload, packet.defects) == (b"SIP", ("hep_duplicate",))


def test_several_packets_in_one_datagram() -> None:
    first, second = hep3(*MINIMAL), hep3(SRC, DST, SECONDS, chunk(0x0F, b"2nd"), magic=b"EEP3")
    assert [packet.payload for packet in decode(first + second + first)] == [b"SIP", b"2nd", b"SIP"]


@pytest.mark.parametrize("tail", [b"\0", b"\0" * 7, b"HEP3", b"HEP3\0\x0ajunk", b"SIP/2.0 200 OK"])
def test_trailing_bytes_are_a_defect_and_no_loss(tail: bytes) -> None:
    packets = decode(hep3(*MINIMAL) + hep3(*MINIMAL) + tail)
    assert [packet.defects for packet in packets] == [(), ("hep_trailing",)]
    assert all(packet.payload == b"SIP" for packet in packets)


@pytest.mark.parametrize("lie", [0, 5, 7, -1, 1, 300, 65535])
def test_a_header_length_that_lies(lie: int) -> None:
    size = len(hep3(*MINIMAL))
    packet = one(hep3(*MINIMAL, length=size + lie if abs(lie) in (1, 300) else lie))
    assert (packet.payload, packet.defects) == (b"SIP", ("hep_length",))


def test_time_that_is_missing_or_impossible() -> None:
    assert one(hep3(SRC, DST, PAYLOAD)).ts_us is None
    zero = one(hep3(SRC, DST, chunk(0x09, u32(0)), chunk(0x0A, u32(0)), PAYLOAD))
    assert (zero.ts_us, zero.defects) == (None, ("hep_time",))
    broken = one(
        hep3(SRC, DST, SECONDS, chunk(0x0A, u32(1_059_783_936)), PAYLOAD)
    )  # seen: sipcapture/homer 909
    assert (broken.ts_us, broken.defects) == (1_795_374_442_000_000, ("hep_usec",))


# -- version 3: what is an error -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("datagram", "kind"),
    [
        (b"", "hep_short"),
        (b"\x01", "hep_short"),
        (bytes.fromhex("0210021100000000"), "hep_short"),
        (b"HEP3", "hep_short"),
        (b"HEP2\0\x06", "hep_magic"),
        (b"INVITE sip:bob@sip.test SIP/2.0", "hep_magic"),
        (b"\x01\x10\x09\x11" + bytes(40), "hep_family"),
        (hep3(), "hep_address"),
        (hep3(DST, PAYLOAD), "hep_address"),
        (hep3(SRC, PAYLOAD), "hep_address"),
        (hep3(chunk(0x03, b"abc"), DST), "hep_chunk_size"),
        (hep3(chunk(0x05, b"abcd"), DST), "hep_chunk_size"),
        (hep3(SRC, DST, chunk(0x07, b"")), "hep_chunk_size"),
        (hep3(SRC, DST, chunk(0x07, b"abc")), "hep_chunk_size"),
        (hep3(SRC, DST, struct.pack("!HHH", 0, 0x0F, 0)), "hep_chunk_length"),
        (hep3(SRC, DST, struct.pack("!HHH", 0, 0x0F, 5)), "hep_chunk_length"),
        (hep3(SRC, DST, struct.pack("!HHH", 0, 0x0F, 8) + b"x"), "hep_chunk_overrun"),
        (hep3(SRC, DST, b"\0\0\0\x0f"), "hep_chunk_truncated"),
        (hep3(SRC, DST, *[chunk(0x24, b"")] * (MAX_CHUNKS - 1)), "hep_chunk_count"),
    ],
)
def test_error_kinds(datagram: bytes, kind: str) -> None:
    assert kind_of_error(datagram) == kind


@pytest.mark.parametrize("ends", ["SIP/2.0\r\n", "sip/2.0\n"])
def test_a_sip_request_that_is_hep_too_is_none(ends: str) -> None:
    """`HEP300aabb//` is a method by RFC 3261 25.1; whoever gets a proxy to relay it to us must not be an agent.

    Read as HEP3, its letters are a length and the head of a chunk that reaches to the binary body.
    """
    line = b"HEP300aabb// sip:x@127.0.0.1:9060 " + ends.encode()
    headers = b"Via: SIP/2.0/UDP 192.0.2.1;branch=z9hG4bK1\r\nCall-ID: 1\r\nX: "
    chunk_bytes = int.from_bytes(b"//")
    padding = b"x" * (6 + chunk_bytes - len(line) - len(headers) - 4)
    forged = line + headers + padding + b"\r\n\r\n" + b"".join(MINIMAL)
    assert forged[6 + chunk_bytes :] == b"".join(MINIMAL)
    assert kind_of_error(forged) == "hep_magic"


def test_a_request_as_the_first_chunk_is_no_sip_request() -> None:
    request = b"INVITE sip:bob@192.0.2.2 SIP/2.0\r\n\r\n"
    assert one(hep3(chunk(0x0F, request), SRC, DST)).payload == request


def test_as_many_chunks_as_allowed() -> None:
    assert len(one(hep3(SRC, DST, *[chunk(0x24, b"")] * (MAX_CHUNKS - 2))).extra) == MAX_CHUNKS - 2


# -- compressed payload --------------------------------------------------------------------------------


def raw_deflate(data: bytes) -> bytes:
    deflater = zlib.compressobj(wbits=-15)
    return deflater.compress(data) + deflater.flush()


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, raw_deflate])
def test_compressed_payload(compress: Callable[[bytes], bytes]) -> None:
    message = b"OPTIONS sip:a@192.0.2.1 SIP/2.0\r\n" * 20
    assert one(hep3(SRC, DST, chunk(0x10, compress(message)))).payload == message


@pytest.mark.parametrize("compress", [zlib.compress, gzip.compress, raw_deflate])
def test_inflating_is_capped(compress: Callable[[bytes], bytes]) -> None:
    bomb = hep3(SRC, DST, chunk(0x10, compress(bytes(CAP + 1))))
    assert kind_of_error(bomb) == "hep_inflate"
    assert len(one(bomb, max_inflated_bytes=CAP + 1).payload) == CAP + 1


def test_several_packets_share_the_cap() -> None:
    half = hep3(SRC, DST, chunk(0x10, zlib.compress(bytes(CAP // 2))))
    assert [len(packet.payload) for packet in decode(half * 2)] == [CAP // 2] * 2
    packets = decode(half * 60)
    assert [len(packet.payload) for packet in packets] == [CAP // 2] * 2
    assert packets[-1].defects == ("hep_time", "hep_trailing")


@pytest.mark.parametrize(
    "damaged", [zlib.compress(b"x" * 99)[:-5], b"\x78\x9cjunk", b"\x1f\x8b", b"", b"\xff"]
)
def test_damaged_compressed_payload(damaged: bytes) -> None:
    assert kind_of_error(hep3(SRC, DST, chunk(0x10, damaged))) == "hep_inflate"


# -- version 2 time ------------------------------------------------------------------------------------


def hep2(seconds: int, microseconds: int, order: str, header_length: int = 16) -> bytes:
    head = struct.pack("!BBBBHH", 2, header_length, 2, 17, 5060, 5060) + bytes([192, 0, 2, 1, 192, 0, 2, 2])
    return head + struct.pack(order + "IIHxx", seconds, microseconds, 2001) + b"SIP"


@pytest.mark.parametrize("now_us", [NOW_US, NOW_US + 9 * YEAR_US, NOW_US - 86_000_000_000])
@pytest.mark.parametrize("microseconds", [174_410, 0])
@pytest.mark.parametrize("order", ["<", ">"])
def test_version_2_byte_order_is_told_by_date_and_microseconds(
    order: str, microseconds: int, now_us: int
) -> None:
    seconds = 1_795_374_516  # 2026-11-22, or 2065 read the wrong way round
    packet = one(hep2(seconds, microseconds, order), now_us=now_us)
    assert (packet.ts_us, packet.agent_id) == (seconds * 1_000_000 + microseconds, 2001)
    assert (packet.payload, packet.defects) == (b"SIP", ())


def test_version_2_microseconds_tell_where_both_dates_are_credible() -> None:
    packet = one(hep2(1_795_374_442, 174_410, ">"), now_us=NOW_US)  # the wrong way round: 2026-06-25
    assert packet.ts_us == 1_795_374_442_174_410


def test_version_2_is_little_endian_where_nothing_tells() -> None:
    assert one(hep2(1_795_374_442, 174_410, "<")).ts_us == 1_795_374_442_174_410


def test_version_2_time_that_is_not_credible() -> None:
    packet = one(hep2(1_795_374_442, 174_410, "<"), now_us=NOW_US + 30 * YEAR_US)
    assert (packet.ts_us, packet.defects) == (None, ("hep_time",))
    packet = one(hep2(1_795_374_442, 1_000_000, "<"), now_us=NOW_US)
    assert (packet.ts_us, packet.defects) == (1_795_374_442_000_000, ("hep_usec",))


def test_the_header_length_of_versions_1_and_2_is_not_believed() -> None:
    assert one(hep2(1_795_374_442, 174_410, "<", header_length=0)).payload == b"SIP"  # as sngrep writes it


# -- properties ----------------------------------------------------------------------------------------

texts = st.none() | st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
extras = st.builds(Chunk, st.integers(1, 0xFFFF), st.integers(0, 0xFFFF), st.binary(max_size=30))
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).filter(lambda address: not address.ipv4_mapped)
packets = st.builds(
    HepPacket,
    version=st.just(3),
    ip_proto=st.integers(0, 255),
    src_ip=ipv4 | ipv6.map(str),
    src_port=st.integers(0, 0xFFFF),
    dst_ip=ipv4 | ipv6.map(str),
    dst_port=st.integers(0, 0xFFFF),
    ts_us=st.none() | st.integers(1_000_000, 0xFFFFFFFF * 1_000_000),
    protocol_type=st.integers(0, 255),
    agent_id=st.none() | st.integers(0, 0xFFFFFFFF),
    auth_key=st.none() | st.binary(max_size=40),
    correlation_id=texts,
    node_name=texts,
    payload=st.binary(max_size=300),
    extra=st.lists(extras, max_size=3).map(tuple),
    defects=st.just(()),
)


def same_spelling(packet: HepPacket) -> HepPacket:
    """IPv6 addresses have several: that of the ipaddress module."""
    return packet._replace(src_ip=str(ip_address(packet.src_ip)), dst_ip=str(ip_address(packet.dst_ip)))


@given(packets)
@settings(deadline=None)
def test_version_3_round_trip_and_both_ways_agree(packet: HepPacket) -> None:
    datagram = encode(packet)
    decoded = one(datagram)
    defects = () if packet.ts_us is not None else ("hep_time",)
    assert same_spelling(decoded) == packet._replace(defects=defects)
    assert decode_chunks(datagram, CAP) == [decoded]
    short_cut = decode_kamailio(datagram)
    assert short_cut in (None, decoded)
    as_kamailio = packet.ts_us is not None and packet.agent_id is not None and not packet.extra
    same_family = (":" in packet.src_ip) == (":" in packet.dst_ip)
    assert (short_cut is not None) == (as_kamailio and same_family and packet.node_name is None)


@given(packets, st.sampled_from([1, 2]))
@settings(deadline=None)
def test_version_1_and_2_round_trip(packet: HepPacket, version: int) -> None:
    if (":" in packet.src_ip) != (":" in packet.dst_ip):
        packet = packet._replace(dst_ip=packet.src_ip)
    packet = packet._replace(
        version=version, protocol_type=1, auth_key=None, correlation_id=None, node_name=None, extra=()
    )
    if version == 1:
        packet = packet._replace(ts_us=None, agent_id=None)
    else:
        packet = packet._replace(ts_us=packet.ts_us or NOW_US, agent_id=(packet.agent_id or 0) & 0xFFFF)
    assert same_spelling(one(encode(packet, version))) == packet


@pytest.mark.parametrize(
    ("change", "version"),
    [
        ({"src_port": 65536}, 3),
        ({"src_ip": "sip.test"}, 3),
        ({"payload": bytes(65536)}, 3),
        ({"agent_id": 65536}, 2),
        ({"dst_ip": "2001:db8::1"}, 1),
        ({}, 4),
    ],
)
def test_what_cannot_be_encoded(change: dict[str, object], version: int) -> None:
    packet = HepPacket(3, 17, "192.0.2.1", 5060, "192.0.2.2", 5060, NOW_US, payload=b"x")
    with pytest.raises(HepError, match="hep_encode"):
        encode(packet._replace(**change), version)


@given(st.binary(max_size=200), st.sampled_from([b"", b"\x01", b"\x02", b"HEP3", b"EEP3\0\x40"]))
@settings(deadline=None, max_examples=500)
def test_any_bytes_raise_nothing_but_hep_error(noise: bytes, start: bytes) -> None:
    with contextlib.suppress(HepError):
        assert decode(start + noise, now_us=NOW_US)


def test_mutated_packets_raise_nothing_but_hep_error_and_both_ways_agree() -> None:
    rng = random.Random(4475)
    originals = [record.data for name in ("b", "b_hep1", "b_hep2", "edge") for record in read_kamailio(name)]
    for _ in range(10_000):
        datagram = bytearray(rng.choice(originals))
        for _ in range(rng.randint(1, 4)):
            datagram[rng.randrange(min(len(datagram), 120))] = rng.randrange(256)
        mutated = bytes(datagram[: rng.choice((len(datagram), rng.randrange(len(datagram))))])
        short_cut = decode_kamailio(mutated)
        if short_cut is not None:
            assert decode_chunks(mutated, CAP) == [short_cut]
        with contextlib.suppress(HepError):
            assert decode(mutated, now_us=NOW_US)


def read_kamailio(name: str) -> list[Datagram]:
    return list(read_recording(DATA / "kamailio" / f"{name}.hep"))
