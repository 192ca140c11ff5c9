"""Captures: every link type, format, fragment and cut gives the messages that tshark sees, and every packet a fate."""

from __future__ import annotations

import gzip
import random
import struct
from collections import Counter
from collections.abc import Callable
from itertools import pairwise, permutations
from pathlib import Path

import pytest
import zstandard
from pcap_maker import (
    ACK,
    ALICE,
    ALICE6,
    ETHERNET,
    FIN,
    IPV4,
    IPV6,
    LOOP,
    NULL,
    PROXY,
    PROXY6,
    PSH,
    RAW,
    RST,
    SLL,
    SLL2,
    SYN,
    T0_US,
    Interface,
    Seen,
    Side,
    bare,
    block,
    datagram,
    ethernet,
    fragments,
    ip,
    loopback,
    piece,
    qinq,
    section,
    segment,
    sip,
    sll,
    sll2,
    timed,
    tshark_sip,
    udp,
    vlan,
    write_pcap,
)

from pipeline.errors import CaptureError
from pipeline.ingest.captures.capture import Capture
from pipeline.ingest.captures.counts import CaptureCounts, Weird
from pipeline.ingest.captures.files import open_capture
from pipeline.ingest.captures.fragments import MOST_DATAGRAMS, Fragments
from pipeline.ingest.captures.layers import ip_packet
from pipeline.ingest.captures.tcp import MOST_STREAMS
from pipeline.ingest.recordings import read_recording
from pipeline.ingest.unpack import content_of
from pipeline.protocols.hep import decode

KAMAILIO = Path(__file__).parent / "data" / "kamailio"
HOST, OTHER = ("192.0.2.11", 40_000), ("198.51.100.1", 40_002)


def ours(path: Path, weird: list[Weird] | None = None) -> tuple[list[Seen], Capture]:
    """The SIP messages that we find; all packets are accounted for."""
    capture = open_capture(path, None if weird is None else weird.append)
    assert isinstance(capture, Capture)
    found = []
    for one in capture:
        for packet in decode(one.data, now_us=one.arrival_us):
            src, dst = (packet.src_ip, packet.src_port), (packet.dst_ip, packet.dst_port)
            assert packet.ts_us == one.arrival_us
            assert not packet.defects
            found.append(Seen(packet.ts_us, src, dst, packet.payload))
    assert_adds_up(capture.counts)
    assert len(found) == capture.counts.messages
    return found, capture


def assert_adds_up(counts: CaptureCounts) -> None:
    assert counts.packets == counts.carriers + counts.ignored.total() + counts.weird.total(), counts


def assert_same_as_tshark(path: Path, expected: int, *options: str) -> Capture:
    found, capture = ours(path)
    assert found == tshark_sip(path, *options)
    assert len(found) == expected
    return capture


def one_of_each(wrap: Callable[[bytes], bytes], port: int = 5_062) -> list[bytes]:
    """A message over UDP and one over TCP, of IPv4 and IPv6, in frames."""
    frames = []
    for name, host, proxy in (("v4", ALICE[0], PROXY), ("v6", ALICE6[0], PROXY6)):
        src = (host, port)
        frames += [datagram(src, proxy, sip(f"u{name}{port}")), segment(src, proxy, 7, sip(f"t{name}{port}"))]
    return [wrap(frame) for frame in frames]


# -- files -----------------------------------------------------------------------------------------------

LINKS = [
    (ETHERNET, ethernet),
    (ETHERNET, vlan),
    (ETHERNET, qinq),
    (SLL, sll),
    (SLL2, sll2),
    (NULL, loopback("<")),
    (NULL, loopback(">")),
    (LOOP, loopback(">")),
    (RAW, bare),
]


@pytest.mark.parametrize("order", ["<", ">"])
def test_pcapng_with_all_link_types_in_two_sections(order: str, tmp_path: Path) -> None:
    """Each interface has its own link type and resolution; the sections differ in byte order and in interfaces."""
    resolutions = [None, 6, 9, 3, 0x80 | 20, 9, 6, 9, 0x80 | 30]
    interfaces = [Interface(link, how) for (link, _), how in zip(LINKS, resolutions, strict=True)]
    interfaces += [Interface(IPV4, 6, 1_000), Interface(IPV6, 9, -5)]
    packets = [
        (number, T0_US // 1000 * 1000 + number * 4_000 + 1_000 * at, frame)
        for number, (_, wrap) in enumerate(LINKS)
        for at, frame in enumerate(one_of_each(wrap, 6_000 + number))
    ]
    four, six = one_of_each(bare, 7_000)[:2], one_of_each(bare, 7_000)[2:]
    packets += [(9, T0_US + 50_000, frame) for frame in four] + [(10, T0_US + 60_000, frame) for frame in six]
    second = [(0, T0_US + 70_000 + at, frame) for at, frame in enumerate(one_of_each(bare, 8_000))]
    other = ">" if order == "<" else "<"
    path = tmp_path / "links.pcapng"
    path.write_bytes(section(interfaces, packets, order) + section([Interface(RAW, 6)], second, other))
    capture = assert_same_as_tshark(path, 4 * len(LINKS) + 4 + 4)
    assert not capture.damage


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("nano", [False, True])
def test_pcap(order: str, nano: bool, tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "x.pcap", timed(one_of_each(ethernet)), order=order, nano=nano)
    assert_same_as_tshark(path, 4)


def test_obsolete_and_simple_blocks(tmp_path: Path) -> None:
    """pcapng's Packet Block is read; its Simple Packet Block tells no time, so nobody knows where it belongs."""
    first, second = one_of_each(bare)[:2]
    ticks = struct.pack("<II", T0_US >> 32, T0_US & 0xFFFFFFFF)
    sizes = struct.pack("<II", len(first), len(first))
    old = block("<", 2, struct.pack("<HH", 0, 0) + ticks + sizes + first)
    simple = block("<", 3, struct.pack("<I", len(second)) + second)
    path = tmp_path / "x.pcapng"
    path.write_bytes(section([Interface(RAW)], []) + old + simple)
    weird: list[Weird] = []
    found, capture = ours(path, weird)
    assert [(seen.ts_us, seen.src, seen.dst) for seen in found] == [(T0_US, ALICE, PROXY)]
    assert capture.counts.weird == {"pcapng_no_time": 1}
    assert [one.kind for one in weird] == ["pcapng_no_time"]


def test_packed_files(tmp_path: Path) -> None:
    """gzip (several members, as logrotate and `cat` make them) and zstd, whatever the name; one content."""
    plain = write_pcap(tmp_path / "x.pcap", timed(one_of_each(ethernet)))
    data = plain.read_bytes()
    (tmp_path / "gzip").write_bytes(gzip.compress(data[:100]) + gzip.compress(data[100:]) + bytes(7))
    (tmp_path / "zstd").write_bytes(zstandard.compress(data[:300]) + zstandard.compress(data[300:]))
    for name in ("gzip", "zstd"):
        assert ours(tmp_path / name)[0] == ours(plain)[0] != []
        assert content_of(tmp_path / name) == content_of(plain)


@pytest.mark.parametrize("kind", ["pcap", "pcapng", "gzip"])
def test_a_file_cut_anywhere_gives_its_whole_packets(kind: str, tmp_path: Path) -> None:
    packets = timed(one_of_each(bare))
    path = tmp_path / "x"
    if kind == "pcapng":
        path.write_bytes(section([Interface(RAW)], [(0, *packet) for packet in packets]))
    else:
        write_pcap(path, packets, RAW)
    if kind == "gzip":
        path.write_bytes(gzip.compress(path.read_bytes()))
    whole, data = ours(path)[0], path.read_bytes()
    longest = 0
    for size in range(24 if kind == "pcap" else 40, len(data)):
        path.write_bytes(data[:size])
        found, capture = ours(path)
        assert found == whole[: len(found)]
        assert len(found) >= longest
        assert capture.damage is None or (capture.cut_short and "is cut short" in capture.damage)
        longest = len(found)
    assert longest >= len(whole) - (kind != "pcapng")


def test_what_is_no_capture_is_refused_by_name(tmp_path: Path) -> None:
    for content in (b"", b"\n", b"HEPREC00 x", b"%PDF-1.7", gzip.compress(b"text"), b"\x1f\x8bbroken"):
        path = tmp_path / "other.bin"
        path.write_bytes(content)
        with pytest.raises(CaptureError, match=r"other\.bin"):
            open_capture(path)
    with pytest.raises(CaptureError, match=r"nowhere\.pcap cannot be read: No such file"):
        open_capture(tmp_path / "nowhere.pcap")


def test_a_broken_file_says_where(tmp_path: Path) -> None:
    """What comes before is given."""
    path = write_pcap(tmp_path / "x.pcap", timed(one_of_each(bare)), RAW)
    good = path.read_bytes()
    path.write_bytes(good + struct.pack("<IIII", 1, 1, 1 << 31, 1 << 31) + bytes(50))
    found, capture = ours(path)
    assert len(found) == 4
    assert capture.damage == f"{path}: broken at byte {len(good) + 16}: it claims {1 << 31} bytes there"
    assert not capture.cut_short

    first = section([Interface(RAW)], [(0, T0_US, one_of_each(bare)[0])])
    for bad, why in (
        (block("<", 6, struct.pack("<IIIII", 7, 0, 0, 4, 4) + b"abcd"), "interface 7, which nothing"),
        (block("<", 6, struct.pack("<IIIII", 0, 0, 0, 400, 400) + b"abcd"), "a packet of 400 bytes in"),
        (block("<", 6, b"abcd"), "a block of 16 bytes"),
        (struct.pack("<II", 6, 13), "a block of 13 bytes"),
        (struct.pack("<III", 6, 12, 16), "ends with another length"),
        (block("<", 0x0A0D0D0A, b"abcdefgh"), "byte order"),
        (block("<", 0x0A0D0D0A, struct.pack("<IHHq", 0x1A2B3C4D, 2, 0, -1)), "version 2 of pcapng"),
    ):
        path.write_bytes(first + bad)
        found, capture = ours(path)
        assert len(found) == 1
        assert capture.damage is not None
        assert f"broken at byte {len(first)}" in capture.damage
        assert why in capture.damage
        assert not capture.cut_short


def test_any_bytes_are_read_without_a_crash(tmp_path: Path) -> None:
    """Whatever is changed in a capture: CaptureError at most, and what was read adds up."""
    rng = random.Random(5)
    frames = [*one_of_each(qinq), *map(ethernet, fragments(ALICE, PROXY, sip("f", body=b"x" * 900), 512, 9))]
    write_pcap(tmp_path / "a", timed(frames))
    (tmp_path / "b").write_bytes(
        section([Interface(ETHERNET, 9)], [(0, *packet) for packet in timed(frames)])
    )
    outcomes: Counter[bool] = Counter()
    for name in ("a", "b"):
        data = (tmp_path / name).read_bytes()
        for _ in range(400):
            changed = bytearray(data)
            for _ in range(rng.randint(1, 8)):
                changed[rng.randrange(len(data))] = rng.choice((0, 0xFF, rng.randrange(256)))
            (tmp_path / "x").write_bytes(changed)
            try:
                capture = open_capture(tmp_path / "x")
            except CaptureError:
                continue
            list(capture)
            assert_adds_up(capture.counts)
            outcomes[capture.damage is None] += 1
    assert min(outcomes[True], outcomes[False]) > 50


# -- what else is in captures ----------------------------------------------------------------------------

RTP = bytes.fromhex("80001234 00000010 cafebabe") + bytes(160)
RTCP = bytes.fromhex("81c90007 cafebabe 00000000") + bytes(20)
STUN = bytes.fromhex("00010000 2112a442") + bytes(12)


def test_each_other_packet_is_counted_by_kind(tmp_path: Path) -> None:
    hello = b"\x16\x03\x01\x00\x05hello"
    frames = {
        "rtp": datagram(HOST, OTHER, RTP),
        "rtcp": datagram(HOST, OTHER, RTCP),
        "stun": datagram(HOST, OTHER, STUN),
        "dns": datagram(HOST, ("198.51.100.1", 53), b"\x12\x34\x01\0\0\x01\0\0\0\0\0\0"),
        "keepalive": datagram(ALICE, PROXY, b"\r\n\r\n"),
        "udp_empty": datagram(ALICE, PROXY, b""),
        "udp_other": datagram(HOST, OTHER, b"hello"),
        "icmp": ip("192.0.2.11", "198.51.100.1", 1, b"\x08\0\0\0"),
        "icmpv6": ip("2001:db8::11", "2001:db8::1", 58, b"\x80\0\0\0"),
        "sctp": ip("192.0.2.11", "198.51.100.1", 132, bytes(12)),
        "ip_proto_99": ip("192.0.2.11", "198.51.100.1", 99, b"x"),
        "tls": segment(HOST, ("198.51.100.1", 5061), 1, hello),
        "http": segment(HOST, ("198.51.100.1", 80), 1, b"GET /ws HTTP/1.1\r\nHost: x\r\n\r\n"),
        "tcp_other": segment(HOST, ("198.51.100.1", 22), 1, b"SSH-2.0-x\r\n"),
        "tcp_empty": segment(ALICE, PROXY, 1, flags=ACK),
    }
    raw = {
        "arp": b"\xff" * 12 + b"\x08\x06" + bytes(46),
        "llc": b"\xff" * 12 + b"\x00\x26" + bytes(46),
        "ethertype_88f7": b"\xff" * 12 + b"\x88\xf7" + bytes(46),
    }
    path = write_pcap(
        tmp_path / "x.pcap",
        timed([*map(ethernet, frames.values()), *raw.values(), ethernet(datagram(ALICE, PROXY, sip("a")))]),
    )
    found, capture = ours(path)
    assert len(found) == capture.counts.carriers == 1
    assert capture.counts.ignored == dict.fromkeys([*frames, *raw], 1)
    other = write_pcap(tmp_path / "usb.pcap", timed([b"abcd"]), 220)
    assert ours(other)[1].counts.ignored == {"link_type_220": 1}


def test_packets_that_hold_less_than_they_promise(tmp_path: Path) -> None:
    good = datagram(ALICE, PROXY, sip("a"))
    frames = {
        "link_short": b"\x02\0\0\0",
        "ip_short": ethernet(good)[:20],
        "ip_header": ethernet(b"\x42" + good[1:]),
        "udp_short": ethernet(ip("192.0.2.11", "198.51.100.1", 17, b"abc")),
        "tcp_short": ethernet(ip("192.0.2.11", "198.51.100.1", 6, b"abc")),
        "tcp_header": ethernet(ip("192.0.2.11", "198.51.100.1", 6, bytes(12) + b"\xf0" + bytes(7))),
    }
    path = write_pcap(tmp_path / "x.pcap", timed(frames.values()))
    weird: list[Weird] = []
    _, capture = ours(path, weird)
    assert capture.counts.weird == dict.fromkeys(frames, 1)
    assert [one.kind for one in weird] == list(frames)
    assert [one.ts_us for one in weird] == [ts_us for ts_us, _ in timed(frames.values())]


def test_packets_cut_by_the_snap_length(tmp_path: Path) -> None:
    """What there is of a message is better than nothing; it is said, too."""
    message = sip("a", body=b"v=0\r\n" * 40)
    path = write_pcap(tmp_path / "x.pcap", timed([ethernet(datagram(ALICE, PROXY, message))]), snap=300)
    found, capture = ours(path)
    assert [seen.payload for seen in found] == [message[: 300 - 14 - 20 - 8]]
    assert capture.counts.cut == 1


def test_sip_on_any_port_and_in_tunnels(tmp_path: Path) -> None:
    """Requests and replies, with padding in front; IP in IP, IPv6 in IP (RFC 2003, RFC 4213)."""
    reply = (
        b"\r\n\r\nSIP/2.0 200 OK\r\nVia: SIP/2.0/UDP h;branch=z9hG4bKx\r\nCall-ID: r\r\nCSeq: 1 BYE\r\n\r\n"
    )
    inner, inner6 = datagram(ALICE, PROXY, sip("in")), datagram(ALICE6, PROXY6, sip("in6"))
    frames = [
        datagram(HOST, OTHER, sip("q", "NEWMETHOD")),
        datagram(OTHER, HOST, reply),
        ip("203.0.113.1", "203.0.113.2", 4, inner),
        ip("203.0.113.1", "203.0.113.2", 41, inner6),
        ip("2001:db8::a", "2001:db8::b", 41, inner6),
    ]
    path = write_pcap(tmp_path / "x.pcap", timed(frames), RAW)
    found, _ = ours(path)
    assert [(seen.src, seen.payload) for seen in found] == [
        (HOST, sip("q", "NEWMETHOD")),
        (OTHER, reply),
        (ALICE, sip("in")),
        (ALICE6, sip("in6")),
        (ALICE6, sip("in6")),
    ]


def test_ipv6_extension_headers(tmp_path: Path) -> None:
    """Hop-by-hop and destination options in front of UDP, and an atomic fragment (RFC 6946)."""
    data = udp(ALICE6, PROXY6, sip("x"))
    options = b"\x01\x04\0\0\0\0"
    hop_by_hop = ip(ALICE6[0], PROXY6[0], 0, b"\x3c\x00" + options + b"\x11\x00" + options + data)
    atomic = piece(ALICE6[0], PROXY6[0], 17, data, 0, False, 5)
    path = write_pcap(tmp_path / "x.pcap", timed([hop_by_hop, atomic]), RAW)
    assert_same_as_tshark(path, 2)


# -- HEP in captures -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b", "b_hep1", "b_hep2"])
def test_hep_in_udp(name: str, tmp_path: Path) -> None:
    """Byte for byte, from any port to any, its sender as the agent."""
    sent = [record.data for record in read_recording(KAMAILIO / f"{name}.hep")]
    frames = [ethernet(datagram(("192.0.2.7", 15_099), ("192.0.2.8", 31_000), data)) for data in sent]
    capture = open_capture(write_pcap(tmp_path / "x.pcap", timed(frames)))
    found = list(capture)
    assert [one.data for one in found] == sent
    assert {(one.agent_addr, one.agent_port, one.via) for one in found} == {("192.0.2.7", 15_099, "file")}
    assert [one.arrival_us for one in found] == [ts_us for ts_us, _ in timed(frames)]


def test_hep_in_tcp(tmp_path: Path) -> None:
    """In segments of 700 bytes that know nothing of its frames, two of them swapped."""
    sent = [record.data for record in read_recording(KAMAILIO / "b.hep")]
    stream = b"".join(sent)
    agent, collector = ("192.0.2.7", 15_099), ("192.0.2.8", 9_060)
    frames = [segment(agent, collector, 99, flags=SYN)]
    frames += [
        segment(agent, collector, 100 + at, stream[at : at + 700]) for at in range(0, len(stream), 700)
    ]
    frames[3], frames[4] = frames[4], frames[3]
    capture = open_capture(write_pcap(tmp_path / "x.pcap", timed(frames), RAW))
    assert [one.data for one in capture] == sent
    assert isinstance(capture, Capture)
    assert not capture.counts.lost


# -- fragments -------------------------------------------------------------------------------------------


def test_fragments(tmp_path: Path) -> None:
    """In order, reversed, interleaved, repeated; IPv4 and IPv6, in VLANs; of the last piece's time."""
    long = [sip(f"f{number}", body=b"v=0\r\n" * 400) for number in range(6)]
    four = [fragments(ALICE, PROXY, message, 512, number) for number, message in enumerate(long)]
    six = [fragments(ALICE6, PROXY6, message, 1024, number) for number, message in enumerate(long)]
    mixed = [part for pair in zip(four[1], four[2], six[1], strict=False) for part in pair]
    mixed += four[1][len(six[1]) :] + four[2][len(six[1]) :]
    frames = [*four[0], *reversed(four[3]), *six[0], *reversed(six[3]), *mixed, *four[4][:2], *four[4][1:]]
    path = write_pcap(tmp_path / "x.pcap", timed(map(vlan, frames)))
    capture = assert_same_as_tshark(path, 8)
    assert capture.counts.carriers == len(frames)


def test_fragments_that_never_come_together(tmp_path: Path) -> None:
    message = sip("f", body=b"v=0\r\n" * 400)
    whole = fragments(ALICE, PROXY, message, 512, 1)
    overlapping = fragments(ALICE, PROXY, message, 512, 2)
    overlapping.insert(1, piece(ALICE[0], PROXY[0], 17, b"evil" * 4, 504, True, 2))
    beyond = fragments(ALICE6, PROXY6, message, 512, 3)
    beyond.append(piece(ALICE6[0], PROXY6[0], 17, b"evil" * 4, 8_000, True, 3))
    beyond[0], beyond[1] = beyond[1], beyond[0]
    frames = [*whole[:-1], *overlapping, *beyond[2:], beyond[0]]
    path = write_pcap(tmp_path / "x.pcap", timed(frames), RAW)
    weird: list[Weird] = []
    found, capture = ours(path, weird)
    assert found == []
    assert capture.counts.weird == {
        "ip_fragment_incomplete": len(whole) - 1,
        "ip_fragment_overlap": len(overlapping) + len(beyond) - 1,
    }
    assert [one.kind for one in weird] == ["ip_fragment_incomplete", *["ip_fragment_overlap"] * 2]
    assert (
        weird[0].detail
        == f"{512 * (len(whole) - 1)} of an unknown number of bytes in {len(whole) - 1} fragments"
    )
    assert weird[0].data == whole[0][20:]


def test_fragments_do_not_wait_for_ever_or_without_bound(tmp_path: Path) -> None:
    """An id is used again after its time; and of many unfinished datagrams the oldest are given up."""
    first = fragments(ALICE, PROXY, sip("old", body=b"x" * 600), 512, 7)
    again = fragments(ALICE, PROXY, sip("new", body=b"y" * 600), 512, 7)
    packets = [(T0_US, first[0]), (T0_US + 31_000_000, again[0]), (T0_US + 31_000_001, again[1])]
    found, capture = ours(write_pcap(tmp_path / "x.pcap", packets, RAW))
    assert [seen.payload for seen in found] == [sip("new", body=b"y" * 600)]
    assert capture.counts.weird == {"ip_fragment_incomplete": 1}

    waiting = Fragments()
    for ident in range(MOST_DATAGRAMS + 50):
        frame = piece(ALICE[0], PROXY[0], 17, bytes(8), 0, True, ident)
        assert waiting.add(ip_packet(RAW, frame), T0_US) is None
    assert len(list(waiting.lost(T0_US))) == 50
    assert len(list(waiting.lost())) == MOST_DATAGRAMS


# -- TCP -------------------------------------------------------------------------------------------------


class Connection:
    """One direction of a TCP connection: makes its segments."""

    def __init__(self, port: int, seq: int = 1_000, dst: Side = PROXY) -> None:
        self.src, self.dst, self.seq = (ALICE[0], port), dst, seq

    def syn(self) -> bytes:
        self.seq += 1
        return segment(self.src, self.dst, self.seq - 1, flags=SYN)

    def send(self, data: bytes) -> bytes:
        self.seq += len(data)
        return segment(self.src, self.dst, self.seq - len(data), data)

    def pieces(self, data: bytes, *cuts: int) -> list[bytes]:
        edges = [0, *cuts, len(data)]
        return [self.send(data[start:end]) for start, end in pairwise(edges)]


TWO = sip("one", body=b"v=0\r\ns=-\r\n") + sip("two", "ACK")


def test_tcp_cut_at_every_byte(tmp_path: Path) -> None:
    """Two messages in two segments, for every place of the cut; and once in segments of one byte."""
    frames = []
    for cut in range(1, len(TWO)):
        connection = Connection(10_000 + cut)
        frames += [connection.syn(), *connection.pieces(TWO, cut)]
    connection = Connection(9_000)
    frames += [connection.syn(), *connection.pieces(TWO, *range(1, len(TWO)))]
    path = write_pcap(tmp_path / "x.pcap", timed(frames), RAW)
    capture = assert_same_as_tshark(path, 2 * len(TWO))
    assert not capture.counts.lost


def test_tcp_out_of_order_repeated_and_overlapping(tmp_path: Path) -> None:
    """With sequence numbers that wrap, in every order of four segments."""
    frames: list[bytes] = []
    for number, order in enumerate(permutations(range(4))):
        connection = Connection(20_000 + number, seq=2**32 - 200)
        syn, parts = connection.syn(), connection.pieces(TWO, 30, 200, 400)
        frames += [syn, *(parts[at] for at in order)]
    connection = Connection(30_000)
    syn, parts = connection.syn(), connection.pieces(TWO, 100, 200, 300)
    longer = segment(connection.src, PROXY, 1_001 + 50, TWO[50:250])
    frames += [syn, syn, parts[0], parts[0], longer, parts[1], parts[2], parts[3]]
    path = write_pcap(tmp_path / "x.pcap", timed(frames), RAW)
    found, capture = ours(path)
    expected = tshark_sip(path)
    assert Counter(found) == Counter(expected)
    assert len(found) == 2 * 25
    assert not capture.counts.lost
    assert capture.counts.ignored == {"tcp_empty": 26, "tcp_retransmission": 2}


def test_tcp_with_lost_segments_goes_on_at_the_next_start_line(tmp_path: Path) -> None:
    """The message with the hole is lost, and counted; the next ones are not."""
    connection = Connection(5_070)
    messages = [sip(f"m{number}", body=b"v=0\r\ns=-\r\n" * 30) for number in range(40)]
    frames = [connection.syn()]
    for number, message in enumerate(messages):
        parts = connection.pieces(message, 200, 400)
        frames += [parts[0], *parts[2:]] if number == 3 else parts
    path = write_pcap(tmp_path / "x.pcap", timed(frames, step_us=100_000), RAW)
    weird: list[Weird] = []
    found, capture = ours(path, weird)
    assert [seen.payload for seen in found] == messages[:3] + messages[4:]
    assert capture.counts.lost == {"tcp_gap": 1}
    (gap,) = weird
    assert (
        gap.detail == "200 bytes are missing behind 200, from 192.0.2.11 port 5070 to 198.51.100.1 port 5060"
    )
    assert gap.data == messages[3][:200]
    # Whole segments behind the hole keep their own times, as tshark has them.
    assert set(found) <= set(tshark_sip(path, "-o", "tcp.reassemble_out_of_order:FALSE"))


def test_a_capture_that_begins_in_the_middle_of_streams(tmp_path: Path) -> None:
    message, following = sip("first", body=b"v=0\r\n" * 60), sip("second")
    sip_trunk = Connection(5_070)
    sip_trunk.seq += 77
    frames = sip_trunk.pieces(message[-100:] + following[:60], 30)
    frames += [sip_trunk.send(following[60:] + sip("third"))]
    tls = Connection(5_071, dst=("198.51.100.1", 5061))
    frames += [tls.send(b"\x17\x03\x03\x00\x20" + bytes(range(128, 160))) for _ in range(3)]
    found, capture = ours(write_pcap(tmp_path / "x.pcap", timed(frames), RAW))
    assert [seen.payload for seen in found] == [following, sip("third")]
    assert capture.counts.ignored["tls"] == 3


def test_keepalives_garbage_and_the_ends_of_streams(tmp_path: Path) -> None:
    """CRLFs (RFC 5626 4.4.1) are nothing; garbage is skipped and counted; what is unfinished at the end, too."""
    connection = Connection(5_070)
    frames = [
        connection.syn(),
        connection.send(b"\r\n\r\n"),
        connection.send(sip("a") + b"\r\n\r\n" + sip("b")),
    ]
    frames += [connection.send(b"\r\n\r\n"), connection.send(b"garbage\r\nmore\r\n" + sip("c"))]
    frames += [connection.send(sip("d", body=b"12345", length=True)[:-2])]
    quiet = Connection(5_071)
    frames += [quiet.syn(), quiet.send(b"\r\n\r\n"), segment(quiet.src, PROXY, quiet.seq, flags=FIN | ACK)]
    found, capture = ours(write_pcap(tmp_path / "x.pcap", timed(frames), RAW))
    assert [seen.payload for seen in found] == [sip("a"), sip("b"), sip("c")]
    assert capture.counts.lost == {"tcp_resync": 1, "tcp_unfinished": 1}
    assert capture.counts.ignored == {"tcp_empty": 3, "keepalive": 1}


def test_a_port_that_is_used_again(tmp_path: Path) -> None:
    """A new SYN begins a new stream, whatever the old one left; so does what follows a reset."""
    old = Connection(5_070)
    frames = [old.syn(), old.send(sip("a")), old.send(sip("b")[:50])]
    new = Connection(5_070, seq=777_000)
    frames += [new.syn(), new.send(sip("c")), segment(new.src, PROXY, new.seq, flags=RST)]
    third = Connection(5_070, seq=5)
    frames += [third.syn(), third.send(sip("d"))]
    found, capture = ours(write_pcap(tmp_path / "x.pcap", timed(frames), RAW))
    assert [seen.payload for seen in found] == [sip("a"), sip("c"), sip("d")]
    assert capture.counts.lost == {"tcp_unfinished": 1}


def test_messages_without_content_length_have_no_body_on_streams(tmp_path: Path) -> None:
    """RFC 3261 18.3; compact and odd-cased names of the header count."""
    connection = Connection(5_070)
    compact = sip("b", "INVITE", b"", "l: 4", length=False) + b"body"
    odd = sip("c", "INVITE", b"", "CONTENT-length : 4", length=False) + b"body"
    stream = sip("a", length=False) + compact + odd + sip("d")
    frames = [connection.syn(), *connection.pieces(stream, 100)]
    found, _ = ours(write_pcap(tmp_path / "x.pcap", timed(frames), RAW))
    assert [seen.payload for seen in found] == [sip("a", length=False), compact, odd, sip("d")]


def test_long_messages(tmp_path: Path) -> None:
    """HEP has 16 bits for its length: what is longer goes compressed, what is longer than that is counted."""
    fits, long, too_long = (sip(f"m{size}", body=b"v=0\r\n" * size) for size in (12_000, 13_000, 14_000))
    connection = Connection(5_070)
    stream = fits + long + too_long + sip("z")
    frames = [connection.syn(), *connection.pieces(stream, *range(60_000, len(stream), 60_000))]
    found, capture = ours(write_pcap(tmp_path / "x.pcap", timed(frames), RAW))
    assert 65_300 > len(fits) < len(long) < 65_536 < len(too_long)
    assert [seen.payload for seen in found] == [fits, long, sip("z")]
    assert capture.counts.lost == {"tcp_resync": 1}


def test_many_streams_are_bounded(tmp_path: Path) -> None:
    """A port scan must not be remembered for ever; what is forgotten is counted all the same."""
    frames = [
        segment((f"10.{n >> 16}.{n >> 8 & 255}.{n & 255}", 1_024), PROXY, 1, b"INV", PSH | ACK)
        for n in range(MOST_STREAMS + 100)
    ]
    capture = Capture(write_pcap(tmp_path / "x.pcap", timed(frames, step_us=1), RAW))
    assert list(capture) == []
    assert capture.counts.ignored == {"tcp_other": len(frames)}
