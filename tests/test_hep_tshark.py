"""Our HEP decoder against tshark with a dissector of its own, packet by packet."""

from __future__ import annotations

import socket
import struct
import subprocess
from collections.abc import Iterable
from pathlib import Path

import pytest

from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import Chunk, HepPacket, decode, encode

DATA = Path(__file__).parent / "data"
RECORDINGS = sorted((DATA / "kamailio").glob("*.hep"))
HEAD = ("version", "ip_proto", "src", "src_port", "dst", "dst_port")
FIELDS = (*HEAD, "seconds", "microseconds", "kind", "agent", "key", "correlation", "payload")
Row = tuple[str, ...]


def write_pcap(path: Path, datagrams: Iterable[bytes]) -> None:
    """A pcap of raw IPv4 packets to UDP port 9060."""
    with path.open("wb") as file:
        file.write(struct.pack("!IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 101))  # LINKTYPE_RAW
        for data in datagrams:
            udp = struct.pack("!HHHH", 5060, 9060, 8 + len(data), 0) + data
            addresses = socket.inet_aton("127.0.0.1") * 2
            ip = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0) + addresses + udp
            file.write(struct.pack("!IIII", 0, 0, len(ip), len(ip)) + ip)


def tshark_rows(pcap: Path) -> list[Row]:
    command = ["tshark", "-n", "-X", f"lua_script:{DATA / 'hep' / 'hep.lua'}", "-r", str(pcap), "-Y", "hep"]
    command += ["-T", "fields", *(part for name in FIELDS for part in ("-e", f"hep.{name}"))]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [tuple(line.split("\t")) for line in run.stdout.splitlines()]


def our_row(packet: HepPacket) -> Row:
    seconds, microseconds = ("", "") if packet.ts_us is None else divmod(packet.ts_us, 1_000_000)
    kind = packet.protocol_type if packet.version == 3 else ""
    agent = "" if packet.agent_id is None else packet.agent_id
    key = (packet.auth_key or b"").hex()
    correlation = (packet.correlation_id or "").encode().hex()
    head = (packet.version, packet.ip_proto, packet.src_ip, packet.src_port, packet.dst_ip, packet.dst_port)
    rest = (seconds, microseconds, kind, agent, key, correlation, packet.payload.hex())
    return tuple(str(value) for value in head + rest)


def assert_same(datagrams: list[bytes], pcap: Path) -> None:
    write_pcap(pcap, datagrams)
    theirs = tshark_rows(pcap)
    assert len(theirs) == len(datagrams)
    for datagram, row in zip(datagrams, theirs, strict=True):
        (packet,) = decode(datagram)
        assert our_row(packet) == row
        assert not packet.defects


@pytest.mark.parametrize("path", RECORDINGS, ids=lambda path: path.stem)
def test_every_packet_of_a_recording_reads_the_same(path: Path, tmp_path: Path) -> None:
    assert_same([datagram.data for datagram in read_recording(path)], tmp_path / "recording.pcap")


def test_what_we_encode_reads_the_same(tmp_path: Path) -> None:
    plain = HepPacket(
        3, 17, "192.0.2.1", 5060, "198.51.100.2", 5080, 1_795_374_442_174_410, payload=b"OPTIONS"
    )
    ipv6 = plain._replace(src_ip="2001:db8::1", dst_ip="fe80::17", ip_proto=6)
    packets = [
        plain,
        ipv6,
        plain._replace(agent_id=2001, auth_key=b"s3cret", correlation_id="äbc@x", node_name="edge-1"),
        plain._replace(protocol_type=100, src_port=0, dst_port=0, payload=b"\0\xff\x01"),
        plain._replace(ip_proto=22, agent_id=0xFFFFFFFF, extra=(Chunk(5, 0x0F, b"not the payload"),)),
    ]
    datagrams = [encode(packet) for packet in packets]
    datagrams += [
        encode(packet._replace(agent_id=7), version) for packet in (plain, ipv6) for version in (1, 2)
    ]
    assert_same(datagrams, tmp_path / "encoded.pcap")
