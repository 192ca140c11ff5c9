"""Packets made up around a message: its true addresses and ports, IP and UDP or TCP headers that fit, checksums.

Datagrams become UDP. What came over a stream becomes TCP, in plain text also where it was TLS: without handshakes,
with sequence numbers that run on from message to message of the same direction, acknowledging the other.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from struct import Struct
from typing import Final

from pipeline.ingest.captures.layers import TCP, UDP
from pipeline.ingest.captures.sip_stream import SipStream
from pipeline.protocols.hep.packet import address_bytes

_DATAGRAMS: Final = frozenset({"udp", "sctp", None})
_LONGEST_IP: Final = 65_535
_IPV4: Final = Struct("!BBHHHBBH4s4s")
_IPV6: Final = Struct("!IHBB16s16s")
_UDP: Final = Struct("!HHHH")
_TCP: Final = Struct("!HHIIBBHHH")
_HOPS: Final = 64
_PSH_ACK: Final = 0x18
_MODULUS: Final = 1 << 32
_MOST_STREAMS: Final = 1 << 18  # remembered; a stream that is forgotten begins again

_Side = tuple[bytes, int]


class PacketMaker:
    """Makes IP packets of messages, in the order given."""

    def __init__(self) -> None:
        self._next_seq: dict[tuple[_Side, _Side], int] = {}
        self._ident = 0

    def packets(
        self, transport: str | None, src_ip: str, src_port: int, dst_ip: str, dst_port: int, payload: bytes
    ) -> Iterator[bytes]:
        """The IP packets that carry `payload`: one, or two TCP segments where it fills more than a packet."""
        src, dst = _addresses(src_ip, dst_ip)
        room = _LONGEST_IP - (_IPV4.size if len(src) == 4 else 0) - _UDP.size
        if len(payload) > room or (transport not in _DATAGRAMS and _is_framed(payload)):
            yield from self._segments((src, src_port), (dst, dst_port), payload)
        else:
            length = _UDP.size + len(payload)
            head = _UDP.pack(src_port, dst_port, length, 0)
            checksum = _checksum(_pseudo_header(src, dst, UDP, length), head, payload) or 0xFFFF
            udp = _UDP.pack(src_port, dst_port, length, checksum) + payload
            yield self._ip(src, dst, UDP, udp)

    def _segments(self, src: _Side, dst: _Side, payload: bytes) -> Iterator[bytes]:
        room = _LONGEST_IP - _IPV4.size - _TCP.size
        for at in range(0, len(payload), room):
            data = payload[at : at + room]
            seq = self._next_seq.pop((src, dst), 1)
            if len(self._next_seq) >= _MOST_STREAMS:
                del self._next_seq[next(iter(self._next_seq))]
            self._next_seq[src, dst] = (seq + len(data)) % _MODULUS
            fields = [src[1], dst[1], seq, self._next_seq.get((dst, src), 1), 5 << 4, _PSH_ACK, 0xFFFF]
            length = _TCP.size + len(data)
            pseudo = _pseudo_header(src[0], dst[0], TCP, length)
            checksum = _checksum(pseudo, _TCP.pack(*fields, 0, 0), data)
            yield self._ip(src[0], dst[0], TCP, _TCP.pack(*fields, checksum, 0) + data)

    def _ip(self, src: bytes, dst: bytes, protocol: int, payload: bytes) -> bytes:
        if len(src) == 16:
            return _IPV6.pack(6 << 28, len(payload), protocol, _HOPS, src, dst) + payload
        self._ident = (self._ident + 1) % 65_536
        fields = [0x45, 0, _IPV4.size + len(payload), self._ident, 0, _HOPS, protocol]
        checksum = _checksum(_IPV4.pack(*fields, 0, src, dst))
        return _IPV4.pack(*fields, checksum, src, dst) + payload


def _addresses(src: str, dst: str) -> tuple[bytes, bytes]:
    """Both of one family: beside an IPv6 address an IPv4 address goes as IPv6 writes it (RFC 4291 2.5.5.2)."""
    if (":" in src) == (":" in dst):
        return address_bytes(src), address_bytes(dst)
    mapped = [text if ":" in text else f"::ffff:{text}" for text in (src, dst)]
    return socket.inet_pton(socket.AF_INET6, mapped[0]), socket.inet_pton(socket.AF_INET6, mapped[1])


def _is_framed(payload: bytes) -> bool:
    """Whether a stream of such messages can be taken apart again; else it would swallow its neighbours."""
    return SipStream().feed(payload) == [payload]


def _pseudo_header(src: bytes, dst: bytes, protocol: int, length: int) -> bytes:
    """RFC 9293 3.1, RFC 8200 8.1; the fields that make them differ in form add up to the same."""
    return src + dst + protocol.to_bytes(2) + length.to_bytes(4)


def _checksum(*parts: bytes) -> int:
    """RFC 1071. All parts but the last are of even length."""
    data = b"".join(parts)
    total = int.from_bytes(data + bytes(len(data) % 2))
    # A number of any length is, modulo 0xFFFF, the sum of its 16-bit words in ones' complement.
    return 0xFFFF - (total % 0xFFFF or 0xFFFF) if total else 0xFFFF
