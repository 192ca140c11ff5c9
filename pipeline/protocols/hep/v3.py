"""HEP3: `HEP3`, u16 total length, then chunks of (u16 vendor, u16 type, u16 length, value) in any order.

Kamailio writes the same chunks in the same order every time, so that order has a short cut. It gives
what the long way gives, or stands aside.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable
from struct import Struct
from typing import Any, Final

from pipeline.errors import HepError
from pipeline.protocols.hep import packet as hep
from pipeline.protocols.hep.packet import HEP3_MAGICS, Chunk, HepPacket, address_text

MAX_CHUNKS: Final = 256  # the specification numbers 41 generic ones
_HEADER: Final = Struct("!4sH")
_CHUNK: Final = Struct("!HHH")
_GENERIC_CHUNK: Final = Struct("!IH")  # vendor 0 and type in one number: the type
_HEADER_BYTES: Final = 6
# The magic is a good method name too (RFC 3261 25.1), and a proxy relays requests wherever they ask to go.
_is_sip_request: Final = re.compile(rb"[HE]EP3[^\0-\x20]* [^\0-\x1f]* SIP/2\.0\r?\n", re.IGNORECASE).match
_IN_FIELDS: Final = frozenset(
    (*range(hep.IP_FAMILY, hep.AGENT_ID + 1), hep.AUTH_KEY, hep.PAYLOAD, hep.CORRELATION_ID, hep.NODE_NAME)
)


def decode_v3(data: bytes, max_inflated_bytes: int) -> list[HepPacket]:
    """The HEP3 packets of one datagram. Bytes behind the last good one are a defect of it, not an error."""
    packet = decode_kamailio(data)
    return [packet] if packet is not None else decode_chunks(data, max_inflated_bytes)


class _Layout:
    """Kamailio's fixed beginning (`siptrace_hep.c`), recognised by one masked comparison of integers."""

    __slots__ = ("expected", "mask", "size", "unpack")

    def __init__(self, src: int, dst: int, address_bytes: int) -> None:
        fields = (
            (hep.IP_FAMILY, "B"),
            (hep.IP_PROTOCOL, "B"),
            (src, f"{address_bytes}s"),
            (dst, f"{address_bytes}s"),
            (hep.SRC_PORT, "H"),
            (hep.DST_PORT, "H"),
            (hep.TIME_S, "I"),
            (hep.TIME_US, "I"),
            (hep.PROTOCOL_TYPE, "B"),
            (hep.AGENT_ID, "I"),
        )
        expected, mask, codes = b"HEP3\0\0", b"\xff\xff\xff\xff\0\0", "!4xH"
        for kind, code in fields:
            size = Struct("!" + code).size
            expected += _CHUNK.pack(hep.GENERIC_VENDOR, kind, _CHUNK.size + size) + bytes(size)
            mask += b"\xff" * _CHUNK.size + bytes(size)
            codes += f"{_CHUNK.size}x{code}"
        self.expected = int.from_bytes(expected)
        self.mask = int.from_bytes(mask)
        self.size = len(expected)
        self.unpack: Callable[[bytes], tuple[Any, ...]] = Struct(codes).unpack_from


_IPV4: Final = _Layout(hep.SRC_IPV4, hep.DST_IPV4, 4)
_IPV6: Final = _Layout(hep.SRC_IPV6, hep.DST_IPV6, 16)
_SRC_TYPE_AT: Final = 23  # low byte of the third chunk's type: 3 or 5 tells the family


def decode_kamailio(data: bytes) -> HepPacket | None:
    """The one packet of `data` when it is flawless and laid out as Kamailio does, else None."""
    total = len(data)
    if total < _IPV4.size:
        return None
    layout = _IPV6 if data[_SRC_TYPE_AT] == hep.SRC_IPV6 else _IPV4
    at = layout.size
    if int.from_bytes(data[:at]) & layout.mask != layout.expected or total < at:
        return None
    stated, _, ip_proto, src, dst, src_port, dst_port, time_s, time_us, kind, agent_id = layout.unpack(data)
    if stated != total or not time_s or time_us > 999_999:
        return None
    correlation_id = auth_key = None
    while at + 6 <= total:
        chunk, length = _GENERIC_CHUNK.unpack_from(data, at)
        value_at, at = at + 6, at + length
        if length < 6 or at > total:
            break
        if chunk == hep.PAYLOAD and at == total:
            return HepPacket(
                3, ip_proto, address_text(src), src_port, address_text(dst), dst_port,
                time_s * 1_000_000 + time_us, kind, agent_id, auth_key, correlation_id, None, data[value_at:],
            )  # fmt: skip
        if chunk == hep.CORRELATION_ID and correlation_id is None:
            correlation_id = data[value_at:at].decode("utf-8", "replace")
        elif chunk == hep.AUTH_KEY and auth_key is None:
            auth_key = data[value_at:at]
        else:
            break
    return None


def decode_chunks(data: bytes, max_inflated_bytes: int) -> list[HepPacket]:
    """The long way: any order, any emitter, several packets, lengths that lie."""
    if _is_sip_request(data):
        raise HepError("hep_magic", "a SIP request whose method begins as HEP3 does")
    packets: list[HepPacket] = []
    at = 0
    while at < len(data):
        try:
            packet, at = _packet(data, at, max_inflated_bytes)
            max_inflated_bytes = max(max_inflated_bytes - len(packet.payload), 0)  # one cap for all
        except HepError:
            if not packets:
                raise
            last = packets[-1]
            packets[-1] = last._replace(defects=(*last.defects, "hep_trailing"))
            break
        packets.append(packet)
    return packets


def _packet(data: bytes, at: int, max_inflated_bytes: int) -> tuple[HepPacket, int]:
    """The packet that starts at `at`, and where it ends."""
    total = len(data)
    if total - at < _HEADER_BYTES:
        raise HepError("hep_short", f"{total - at} bytes where the header has {_HEADER_BYTES}")
    magic, stated = _HEADER.unpack_from(data, at)
    if magic not in HEP3_MAGICS:
        raise HepError("hep_magic", f"{magic!r} at byte {at} where HEP3 was due")
    start, end = at + _HEADER_BYTES, at + stated
    if end == total:
        return _Chunks(data, start, end).packet(max_inflated_bytes), end
    if not start <= end < total:  # a length that cannot be true: only the datagram's end is sure
        return _Chunks(data, start, total).packet(max_inflated_bytes, "hep_length"), total
    try:
        packet = _Chunks(data, start, end).packet(max_inflated_bytes)
    except HepError:
        try:
            return _Chunks(data, start, total).packet(max_inflated_bytes, "hep_length"), total
        except HepError:
            pass
        raise
    return packet, end


class _Chunks:
    """The chunks of one packet, sorted: those that have a field, the others, and what was odd."""

    def __init__(self, data: bytes, at: int, end: int) -> None:
        self.generic: dict[int, bytes] = {}
        self.extra: list[Chunk] = []
        self.defects: list[str] = []
        for _ in range(MAX_CHUNKS):
            if at == end:
                return
            if end - at < _CHUNK.size:
                raise HepError("hep_chunk_truncated", f"{end - at} bytes at byte {at} where a chunk was due")
            vendor, kind, length = _CHUNK.unpack_from(data, at)
            if length < _CHUNK.size:
                raise HepError("hep_chunk_length", f"chunk {kind:#x} at byte {at} has length {length}")
            if at + length > end:
                raise HepError("hep_chunk_overrun", f"chunk {kind:#x} at byte {at} ends at {at + length}")
            self._add(vendor, kind, data[at + _CHUNK.size : at + length])
            at += length
        if at != end:
            raise HepError("hep_chunk_count", f"more than {MAX_CHUNKS} chunks")

    def _add(self, vendor: int, kind: int, value: bytes) -> None:
        if vendor != hep.GENERIC_VENDOR or (kind not in _IN_FIELDS and kind != hep.COMPRESSED_PAYLOAD):
            self.extra.append(Chunk(vendor, kind, value))
        elif kind in self.generic:
            self.defects.append("hep_duplicate")  # the first one counts
        else:
            self.generic[kind] = value

    def packet(self, max_inflated_bytes: int, *defects: str) -> HepPacket:
        return HepPacket(
            version=3,
            ip_proto=self._number(hep.IP_PROTOCOL, 1) or 0,
            src_ip=self._address("source", hep.SRC_IPV4, hep.SRC_IPV6),
            src_port=self._number(hep.SRC_PORT, 2) or 0,
            dst_ip=self._address("destination", hep.DST_IPV4, hep.DST_IPV6),
            dst_port=self._number(hep.DST_PORT, 2) or 0,
            ts_us=self._time_us(),
            protocol_type=self._number(hep.PROTOCOL_TYPE, 1) or 0,
            agent_id=self._number(hep.AGENT_ID, 4),
            auth_key=self.generic.get(hep.AUTH_KEY),
            correlation_id=self._text(hep.CORRELATION_ID),
            node_name=self._text(hep.NODE_NAME),
            payload=self._payload(max_inflated_bytes),
            extra=tuple(self.extra),
            defects=(*defects, *self.defects),
        )

    def _number(self, kind: int, size: int) -> int | None:
        value = self.generic.get(kind)
        if value is None:
            return None
        if len(value) != size:
            raise HepError("hep_chunk_size", f"chunk {kind:#x} holds {len(value)} bytes, not {size}")
        return int.from_bytes(value)

    def _text(self, kind: int) -> str | None:
        value = self.generic.get(kind)
        return None if value is None else value.decode("utf-8", "replace")

    def _address(self, what: str, ipv4: int, ipv6: int) -> str:
        """By the chunk that is there, whatever family is claimed; some write 16 bytes into the IPv4 one."""
        value = self.generic.get(ipv4)
        sizes: tuple[int, ...] = (4, 16)
        if value is None:
            value, sizes = self.generic.get(ipv6), (16,)
        if value is None:
            raise HepError("hep_address", f"no {what} address")
        if len(value) not in sizes:
            raise HepError("hep_chunk_size", f"the {what} address has {len(value)} bytes")
        return address_text(value)

    def _time_us(self) -> int | None:
        seconds, microseconds = self._number(hep.TIME_S, 4), self._number(hep.TIME_US, 4) or 0
        if not seconds:
            self.defects.append("hep_time")
            return None
        if microseconds > 999_999:
            self.defects.append("hep_usec")
            microseconds = 0
        return seconds * 1_000_000 + microseconds

    def _payload(self, max_inflated_bytes: int) -> bytes:
        payload = self.generic.get(hep.PAYLOAD)
        compressed = self.generic.get(hep.COMPRESSED_PAYLOAD)
        if payload is None and compressed is not None:
            return _inflate(compressed, max_inflated_bytes)
        return payload or b""


def _inflate(data: bytes, max_bytes: int) -> bytes:
    """Chunk 0x10 is zlib from captagent, gzip from heplify, raw deflate by the specification."""
    if data[:2] == b"\x1f\x8b":
        window_bits = 16 + zlib.MAX_WBITS
    elif len(data) > 1 and data[0] & 0x0F == 8 and int.from_bytes(data[:2]) % 31 == 0:  # RFC 1950 section 2.2
        window_bits = zlib.MAX_WBITS
    else:
        window_bits = -zlib.MAX_WBITS
    inflater = zlib.decompressobj(window_bits)
    try:
        inflated = inflater.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise HepError("hep_inflate", f"compressed payload: {error}") from None
    if len(inflated) > max_bytes:
        raise HepError("hep_inflate", f"compressed payload inflates to more than {max_bytes} bytes")
    if not inflater.eof:
        raise HepError("hep_inflate", "compressed payload ends early")
    return inflated
