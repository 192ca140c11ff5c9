"""Captures by hand, byte by byte as the RFCs, pcap and pcapng have it; and what tshark reads in them.

Nothing here is the product's code. Checksums are right, so that a reader that looks at them is content.
"""

from __future__ import annotations

import json
import socket
import struct
import subprocess
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

T0_US = 1_795_374_442_174_410
ETHERNET, RAW, NULL, LOOP, SLL, SLL2, IPV4, IPV6 = 1, 101, 0, 108, 113, 276, 228, 229
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
Side = tuple[str, int]
ALICE, PROXY = ("192.0.2.11", 5062), ("198.51.100.1", 5060)
ALICE6, PROXY6 = ("2001:db8::11", 5062), ("2001:db8::1", 5060)


class Seen(NamedTuple):
    """A SIP message as a capture shows it."""

    ts_us: int
    src: Side
    dst: Side
    payload: bytes


def sip(call: str, method: str = "INVITE", body: bytes = b"", *more: str, length: bool = True) -> bytes:
    """A request; `more` are whole header lines."""
    lines = [
        f"{method} sip:bob@example.com SIP/2.0",
        f"Via: SIP/2.0/TCP 192.0.2.11:5062;branch=z9hG4bK{call}",
        "Max-Forwards: 70",
        f"From: Alice <sip:alice@example.com>;tag={call}",
        "To: Bob <sip:bob@example.com>",
        f"Call-ID: {call}",
        f"CSeq: 1 {method}",
        *more,
        *([f"Content-Length: {len(body)}"] if length else []),
    ]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


# -- network and transport -------------------------------------------------------------------------------


def checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def packed(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def pseudo(src: str, dst: str, protocol: int, size: int) -> bytes:
    return packed(src) + packed(dst) + struct.pack("!HI", protocol, size)


def udp(src: Side, dst: Side, data: bytes) -> bytes:
    """A UDP datagram."""
    head = struct.pack("!HHHH", src[1], dst[1], 8 + len(data), 0)
    found = checksum(pseudo(src[0], dst[0], 17, len(head) + len(data)) + head + data) or 0xFFFF
    return head[:6] + struct.pack("!H", found) + data


def tcp(src: Side, dst: Side, seq: int, data: bytes = b"", flags: int = ACK | PSH, ack: int = 1) -> bytes:
    """A TCP segment with an option (three NOPs and an end), as real ones have some."""
    head = struct.pack("!HHIIBBHHH", src[1], dst[1], seq % 2**32, ack, 6 << 4, flags, 0xFFFF, 0, 0)
    head += b"\x01\x01\x01\x00"
    found = checksum(pseudo(src[0], dst[0], 6, len(head) + len(data)) + head + data)
    return head[:16] + struct.pack("!H", found) + head[18:] + data


def ip(src: str, dst: str, protocol: int, data: bytes, *, ident: int = 0, where: int = 0) -> bytes:
    """An IP packet; `where` are IPv4's flags and fragment offset."""
    if ":" in src:
        return struct.pack("!IHBB", 6 << 28, len(data), protocol, 64) + packed(src) + packed(dst) + data
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), ident, where, 64, protocol, 0)
    head += packed(src) + packed(dst)
    return head[:10] + struct.pack("!H", checksum(head)) + head[12:] + data


def datagram(src: Side, dst: Side, data: bytes) -> bytes:
    """UDP in IP."""
    return ip(src[0], dst[0], 17, udp(src, dst, data))


def segment(src: Side, dst: Side, seq: int, data: bytes = b"", flags: int = ACK | PSH) -> bytes:
    """TCP in IP."""
    return ip(src[0], dst[0], 6, tcp(src, dst, seq, data, flags))


def piece(src: str, dst: str, protocol: int, data: bytes, at: int, more: bool, ident: int) -> bytes:
    """A fragment: `data` belongs at byte `at`."""
    if ":" in src:
        header = struct.pack("!BBHI", protocol, 0, at | more, ident)
        return ip(src, dst, 44, header + data)
    return ip(src, dst, protocol, data, ident=ident, where=more << 13 | at // 8)


def fragments(src: Side, dst: Side, data: bytes, size: int, ident: int) -> list[bytes]:
    """A UDP datagram in fragments of `size` bytes, a multiple of 8."""
    whole = udp(src, dst, data)
    return [
        piece(src[0], dst[0], 17, whole[at : at + size], at, at + size < len(whole), ident)
        for at in range(0, len(whole), size)
    ]


# -- link layers -----------------------------------------------------------------------------------------


def ethertype(packet: bytes) -> bytes:
    return b"\x86\xdd" if packet[0] >> 4 == 6 else b"\x08\x00"


def ethernet(packet: bytes, *vlans: int) -> bytes:
    """An Ethernet frame, padded to the 60 bytes that a card sends; `vlans` as 32-bit tags, outer first."""
    tags = b"".join(struct.pack("!I", tag) for tag in vlans)
    return (b"\x02\0\0\0\0\1" + b"\x02\0\0\0\0\2" + tags + ethertype(packet) + packet).ljust(60, b"\xee")


def qinq(packet: bytes) -> bytes:
    return ethernet(packet, 0x88A8_0064, 0x8100_0007)


def vlan(packet: bytes) -> bytes:
    return ethernet(packet, 0x8100_0007)


def sll(packet: bytes) -> bytes:
    return struct.pack("!HHH8s", 0, 1, 6, b"\x02\0\0\0\0\1") + ethertype(packet) + packet


def sll2(packet: bytes) -> bytes:
    return ethertype(packet) + struct.pack("!HIHBB8s", 0, 3, 1, 0, 6, b"\x02\0\0\0\0\1") + packet


def loopback(order: str) -> Callable[[bytes], bytes]:
    """BSD's loopback header; the family of IPv6 is macOS's."""
    return lambda packet: struct.pack(f"{order}I", 30 if packet[0] >> 4 == 6 else 2) + packet


def bare(packet: bytes) -> bytes:
    return packet


# -- files -----------------------------------------------------------------------------------------------


def write_pcap(
    path: Path,
    packets: Iterable[tuple[int, bytes]],
    link_type: int = ETHERNET,
    *,
    order: str = "<",
    nano: bool = False,
    snap: int = 1 << 18,
) -> Path:
    """A pcap file of (time in us, frame); with `nano` times are followed by 999 ns."""
    with path.open("wb") as file:
        magic = 0xA1B23C4D if nano else 0xA1B2C3D4
        file.write(struct.pack(order + "IHHiIII", magic, 2, 4, 0, 0, snap, link_type))
        for ts_us, frame in packets:
            seconds, fraction = divmod(ts_us, 1_000_000)
            fraction = fraction * 1000 + 999 if nano else fraction
            kept = frame[:snap]
            file.write(struct.pack(order + "IIII", seconds, fraction, len(kept), len(frame)) + kept)
    return path


def option(order: str, code: int, value: bytes) -> bytes:
    return struct.pack(order + "HH", code, len(value)) + value + bytes(-len(value) % 4)


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    return struct.pack(order + "II", kind, 12 + len(body)) + body + struct.pack(order + "I", 12 + len(body))


class Interface(NamedTuple):
    """An interface of a pcapng section; `resolution` as the option has it, `offset_s` is added to its times."""

    link_type: int
    resolution: int | None = None
    offset_s: int | None = None

    def ticks(self, ts_us: int) -> int:
        resolution = 6 if self.resolution is None else self.resolution
        per_s = 2 ** (resolution & 0x7F) if resolution & 0x80 else 10**resolution
        return -(-(ts_us - (self.offset_s or 0) * 1_000_000) * per_s // 1_000_000)


def section(
    interfaces: Sequence[Interface], packets: Iterable[tuple[int, int, bytes]], order: str = "<"
) -> bytes:
    """A pcapng section of (interface, time in us, frame), with blocks and options that a reader may skip."""
    parts = [
        block(
            order,
            0x0A0D0D0A,
            struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1) + option(order, 4, b"by hand"),
        )
    ]
    for interface in interfaces:
        options = option(order, 2, b"eth0") + option(order, 1, b"one comment") + option(order, 1, b"another")
        if interface.resolution is not None:
            options += option(order, 9, bytes([interface.resolution]))
        if interface.offset_s is not None:
            options += option(order, 14, struct.pack(order + "q", interface.offset_s))
        body = struct.pack(order + "HHI", interface.link_type, 0, 0) + options + option(order, 0, b"")
        parts.append(block(order, 1, body))
    parts.append(block(order, 4, struct.pack(order + "HH", 0, 0)))  # name resolution, with no names
    for number, ts_us, frame in packets:
        ticks = interfaces[number].ticks(ts_us)
        head = struct.pack(order + "IIIII", number, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame))
        options = option(order, 1, "ein Kommentar: ü".encode()) + option(order, 0, b"")
        parts.append(block(order, 6, head + frame + bytes(-len(frame) % 4) + options))
    parts.append(block(order, 5, struct.pack(order + "III", 0, 0, 0)))  # statistics
    return b"".join(parts)


def timed(frames: Iterable[bytes], start_us: int = T0_US, step_us: int = 1_000) -> list[tuple[int, bytes]]:
    """Frames a millisecond apart."""
    return [(start_us + number * step_us, frame) for number, frame in enumerate(frames)]


# -- tshark ----------------------------------------------------------------------------------------------


def tshark_sip(path: Path, *options: str) -> list[Seen]:
    """The SIP messages that tshark finds, in its order, each at the time of the frame that completes it."""
    command = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-Y",
        "sip",
        "-T",
        "json",
        "-x",
        "-j",
        "frame ip ipv6 udp tcp sip",
    ]
    command += ["-o", "tcp.reassemble_out_of_order:TRUE", *options]
    run = subprocess.run(command, capture_output=True, check=True)
    found: list[Seen] = []
    for frame in json.loads(run.stdout or b"[]", object_pairs_hook=_pairs):
        layers = dict(dict(frame)["_source"])["layers"]
        fields = dict(layers)
        time = dict(fields["frame"])["frame.time_epoch"]
        seconds, _, fraction = time.partition(".")
        ts_us = int(seconds) * 1_000_000 + int(fraction[:6])
        network, kind = (dict(fields["ipv6"]), "ipv6") if "ipv6" in fields else (dict(fields["ip"]), "ip")
        transport, name = (dict(fields["tcp"]), "tcp") if "tcp" in fields else (dict(fields["udp"]), "udp")
        src, dst = ((network[f"{kind}.{end}"], int(transport[f"{name}.{end}port"])) for end in ("src", "dst"))
        raw = [value for key, value in layers if key == "sip_raw"]
        found += [Seen(ts_us, src, dst, bytes.fromhex(value[0])) for value in raw]
    return found


class _Pairs(list[tuple[str, Any]]):
    """A JSON object that keeps repeated keys: tshark writes a layer once for each message."""


def _pairs(pairs: list[tuple[str, Any]]) -> _Pairs:
    return _Pairs(pairs)
