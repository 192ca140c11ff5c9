"""IP fragments put together again (RFC 791 3.2, RFC 8200 4.5), in bounded memory."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from pipeline.ingest.captures.layers import IpPacket

TIMEOUT_US: Final = 30_000_000  # of file time; RFC 8200 says 60 s, Linux waits 30
MOST_DATAGRAMS: Final = 4_096
MOST_BYTES: Final = 1 << 24
_LONGEST: Final = 65_535

Key = tuple[bytes, bytes, int, int]


class Lost(NamedTuple):
    """A datagram that was given up: why, as a word to count by, and its captured pieces."""

    ts_us: int
    kind: str  # ip_fragment_incomplete, ip_fragment_overlap, ip_fragment_cut
    detail: str
    packets: int
    head: bytes  # what there is of its beginning


@dataclass(slots=True)
class _Datagram:
    began_us: int
    protocol: int
    pieces: dict[int, bytes] = field(default_factory=dict)  # offset -> bytes
    offsets: list[int] = field(default_factory=list)  # the same, in order
    packets: int = 0
    have: int = 0
    size: int | None = None  # known once the last piece came
    trouble: str | None = None

    def add(self, packet: IpPacket) -> None:
        """Take a piece. Pieces that overlap spoil all of them, as RFC 5722 has it: nobody can tell what the
        receiver made of it. The very same piece twice does no harm."""
        assert packet.fragment is not None
        offset, data = packet.fragment.offset, packet.payload
        end = offset + len(data)
        if self.pieces.get(offset) == data or self.trouble:
            return
        if packet.cut:
            self.trouble = "ip_fragment_cut"
        elif end > _LONGEST or (self.size is not None and (end > self.size or not packet.fragment.more)):
            self.trouble = "ip_fragment_overlap"
        else:
            place = bisect(self.offsets, offset)
            before = self.offsets[place - 1] if place else None
            if (before is not None and before + len(self.pieces[before]) > offset) or (
                place < len(self.offsets) and (self.offsets[place] < end or not packet.fragment.more)
            ):
                self.trouble = "ip_fragment_overlap"
                return
            self.offsets.insert(place, offset)
            self.pieces[offset] = data
            self.have += len(data)
            if offset == 0:
                self.protocol = packet.protocol  # IPv6: the first piece's counts
            if not packet.fragment.more:
                self.size = end

    @property
    def whole(self) -> bytes | None:
        if self.trouble or self.have != self.size:
            return None
        return b"".join(self.pieces[offset] for offset in self.offsets)


class Fragments:
    """Takes pieces, gives whole packets; `lost` says what came to nothing."""

    def __init__(self) -> None:
        self._waiting: dict[Key, _Datagram] = {}  # in order of their first piece
        self._bytes = 0

    def add(self, packet: IpPacket, ts_us: int) -> tuple[IpPacket, int] | None:
        """The whole packet that this piece completes, and of how many pieces."""
        assert packet.fragment is not None
        # RFC 791 counts the protocol as part of the identity; in IPv6 only the first piece is sure to know it.
        protocol = packet.protocol if len(packet.src) == 4 else 0
        key = (packet.src, packet.dst, protocol, packet.fragment.ident)
        datagram = self._waiting.setdefault(key, _Datagram(ts_us, packet.protocol))
        before = datagram.have
        datagram.packets += 1
        datagram.add(packet)
        self._bytes += datagram.have - before
        payload = datagram.whole
        if payload is None:
            return None
        self._forget(key)
        return packet._replace(protocol=datagram.protocol, payload=payload, fragment=None), datagram.packets

    def lost(self, now_us: int | None = None) -> Iterator[Lost]:
        """What waited too long by `now_us`, or is too much to keep; all that still waits when None."""
        while self._waiting:
            key, datagram = next(iter(self._waiting.items()))
            if (
                now_us is not None
                and now_us - datagram.began_us <= TIMEOUT_US
                and len(self._waiting) <= MOST_DATAGRAMS
                and self._bytes <= MOST_BYTES
            ):
                return
            self._forget(key)
            size = "an unknown number of" if datagram.size is None else datagram.size
            yield Lost(
                datagram.began_us,
                datagram.trouble or "ip_fragment_incomplete",
                f"{datagram.have} of {size} bytes in {datagram.packets} fragments",
                datagram.packets,
                datagram.pieces.get(0, b""),
            )

    def _forget(self, key: Key) -> None:
        self._bytes -= self._waiting.pop(key).have
