"""Packets of pcap and pcapng files, in file order, with the time and the link type of the interface each came by.

dpkt reads the files. It was preferred to python-pcapng (five times slower), to scapy (its licence,
the GPL, and it takes the interfaces of a file's second section for those of the first) and to libpcap's bindings
(one link type a file). Of dpkt's pcapng only the classes of blocks are used: its reader believes that all packets
came by the first interface (kbandla/dpkt#681), and gives times as floats.
"""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from typing import Final, Literal, NamedTuple

import dpkt
from dpkt import pcapng as ng

from pipeline.errors import CaptureError
from pipeline.ingest.unpack import Source

PCAPNG_MAGIC: Final = b"\x0a\x0d\x0d\x0a"
PCAP_MAGICS: Final = frozenset(
    number.to_bytes(4, order)
    for number in (dpkt.pcap.TCPDUMP_MAGIC, dpkt.pcap.TCPDUMP_MAGIC_NANO, dpkt.pcap.MODPCAP_MAGIC)
    for order in ("big", "little")
)
MOST_BYTES: Final = 1 << 24  # of one block; Wireshark takes no larger one either
_BYTE_ORDER_MAGIC: Final = ng.BYTE_ORDER_MAGIC.to_bytes(4)


class Packet(NamedTuple):
    """One packet as captured; `ts_us` is None where the file tells no time (pcapng's Simple Packet Block)."""

    ts_us: int | None
    link_type: int
    data: bytes


class CutShort(CaptureError):
    """The file ends inside a packet: what a killed tcpdump leaves, and no reason to doubt the rest."""


def read_packets(source: Source) -> Iterator[Packet]:
    """The packets from the start of a pcap or pcapng file. Raises CutShort, or CaptureError for a broken one."""
    magic = source.read(4)
    if magic == PCAPNG_MAGIC:
        return _Pcapng(source).packets()
    if magic in PCAP_MAGICS:
        return _pcap(_Again(magic, source), source)
    raise CaptureError(f"{source.path} is no capture: it starts with {magic!r}")


class _Again:
    """A source with its first bytes once more in front."""

    def __init__(self, first: bytes, source: Source) -> None:
        self._first = first
        self._source = source

    def read(self, size: int) -> bytes:
        first, self._first = self._first, b""
        return first + self._source.read(size - len(first))


def _pcap(file: _Again, source: Source) -> Iterator[Packet]:
    place = 0
    try:
        reader = dpkt.pcap.Reader(file)
        link_type = reader.datalink() & 0xFFFF  # above are the length of the frame check and its flags
        place = source.at
        for time_s, data in reader:
            if source.lacking:
                break
            # A float for microseconds, which rounding mends; a Decimal for nanoseconds.
            ts_us = round(time_s * 1e6) if isinstance(time_s, float) else int(time_s * 1_000_000)
            yield Packet(ts_us, link_type, data)
            place = source.at
    except dpkt.Error:  # fewer bytes than a header has
        pass
    if place != source.at or not place:
        raise CutShort(f"{source.path}: the packet at byte {place} is cut short")


class _Interface(NamedTuple):
    link_type: int
    ticks_per_s: int
    offset_us: int


class _Pcapng:
    """The blocks of a pcapng file, section by section: byte order and interfaces are the section's own."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._place = 0  # of the block in hand
        self._order: Literal["<", ">"] = "<"
        self._interfaces: list[_Interface] = []

    def packets(self) -> Iterator[Packet]:
        kind = PCAPNG_MAGIC
        while kind:
            if kind == PCAPNG_MAGIC:
                self._section()
            else:
                number = self._u32.unpack(kind)[0]
                block = self._rest_of(kind + self._exactly(4))
                if number == ng.PCAPNG_BT_EPB:
                    yield self._packet(block, *self._head(self._enhanced, block))
                elif number == ng.PCAPNG_BT_PB:
                    interface, _drops, *rest = self._head(self._obsolete, block)
                    yield self._packet(block, interface, *rest)
                elif number == ng.PCAPNG_BT_SPB:
                    yield Packet(None, self._interface(0).link_type, block[12:-4])
                elif number == ng.PCAPNG_BT_IDB:
                    self._interfaces.append(self._described(block))
            self._place = self._source.at
            kind = self._source.read(4)
            if kind:
                self._check_whole()

    # -- blocks ----------------------------------------------------------------------------------------

    def _section(self) -> None:
        begun = PCAPNG_MAGIC + self._exactly(8)
        if begun[8:] == _BYTE_ORDER_MAGIC:
            self._order = ">"
        elif begun[8:] == _BYTE_ORDER_MAGIC[::-1]:
            self._order = "<"
        else:
            raise self._broken(f"a section with byte order {begun[8:].hex()}")
        self._u32 = Struct(self._order + "I")
        self._enhanced = Struct(self._order + "8x5I")
        self._obsolete = Struct(self._order + "8x2H4I")
        self._interfaces = []
        (version,) = self._head(Struct(self._order + "12xH"), self._rest_of(begun))
        if version != ng.PCAPNG_VERSION_MAJOR:
            raise self._broken(f"version {version} of pcapng")

    def _rest_of(self, begun: bytes) -> bytes:
        """The whole block that began with these bytes."""
        length = self._u32.unpack_from(begun, 4)[0]
        if length < len(begun) + 4 or length % 4:
            raise self._broken(f"a block of {length} bytes")
        block = begun + self._exactly(length - len(begun))
        if self._u32.unpack(block[-4:])[0] != length:
            raise self._broken("a block that ends with another length than it began with")
        return block

    def _exactly(self, size: int) -> bytes:
        data = self._source.read(size)
        self._check_whole()
        return data

    def _check_whole(self) -> None:
        if self._source.lacking:
            raise CutShort(f"{self._source.path}: the block at byte {self._place} is cut short")

    def _head(self, head: Struct, block: bytes) -> tuple[int, ...]:
        if len(block) < head.size + 4:
            raise self._broken(f"a block of {len(block)} bytes")
        return head.unpack_from(block)

    def _broken(self, what: str) -> CaptureError:
        return CaptureError(f"{self._source.path}: broken at byte {self._place}: {what}")

    # -- what they hold --------------------------------------------------------------------------------

    def _packet(self, block: bytes, interface: int, high: int, low: int, captured: int, *_: int) -> Packet:
        start, end = self._enhanced.size, self._enhanced.size + captured
        if end > len(block) - 4:
            raise self._broken(f"a packet of {captured} bytes in a block of {len(block)}")
        link_type, ticks_per_s, offset_us = self._interface(interface)
        ts_us = (high << 32 | low) * 1_000_000 // ticks_per_s + offset_us
        return Packet(ts_us, link_type, block[start:end])

    def _interface(self, number: int) -> _Interface:
        if number >= len(self._interfaces):
            raise self._broken(f"a packet of interface {number}, which nothing describes")
        return self._interfaces[number]

    def _described(self, block: bytes) -> _Interface:
        little = self._order == "<"
        try:
            described = (ng.InterfaceDescriptionBlockLE if little else ng.InterfaceDescriptionBlock)(block)
        except (dpkt.Error, UnicodeError) as error:
            raise self._broken(f"an interface: {error}") from error
        options = {option.code: option.data for option in reversed(described.opts)}  # the first one counts
        resolution = int.from_bytes(options.get(ng.PCAPNG_OPT_IF_TSRESOL, b"\x06")[:1])
        base = 2 if resolution & 0x80 else 10
        offset = options.get(ng.PCAPNG_OPT_IF_TSOFFSET, b"")[:8]
        offset_s = int.from_bytes(offset, "little" if little else "big", signed=True)
        return _Interface(described.linktype, base ** (resolution & 0x7F), offset_s * 1_000_000)
