"""TCP streams put together again (RFC 9293), each direction for itself, and the messages cut out of them.

Segments may come out of order, twice, overlapping, or never. What is missing for longer than `HOLE_US` of file
time, or while more waits behind it than is worth keeping, is given up: the message it belongs to is lost, and the
next start line begins the next one. What a stream is, its first bytes say; a stream that the capture begins in the
middle of is looked through until a message begins.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from struct import Struct
from typing import Final, NamedTuple

from pipeline.ingest.captures.counts import CaptureCounts
from pipeline.ingest.captures.layers import BadPacket
from pipeline.ingest.captures.payloads import HEP, SIP, UNDECIDED, at_stream_start
from pipeline.ingest.captures.sip_stream import SipStream, holds_start
from pipeline.protocols.hep import HepStream
from pipeline.protocols.sip_head import PADDING

HOLE_US: Final = 5_000_000
MOST_WAITING_BYTES: Final = 1 << 18  # behind one hole
MOST_STREAMS: Final = 16_384
_HEADER: Final = Struct("!HHIIH")
_HEADER_BYTES: Final = 20
_SYN, _RST = 0x02, 0x04
_MODULUS: Final = 1 << 32


class Flow(NamedTuple):
    """One direction of a connection."""

    src: bytes
    src_port: int
    dst: bytes
    dst_port: int


OnMessage = Callable[[str, Flow, int, bytes], object]
"""Told of each message: `sip` or `hep`, its flow, when it was complete, its bytes."""
OnLost = Callable[[str, Flow, int, str, bytes], object]
"""Told of what came to nothing: a word to count by, the flow, when, what was found, what there is of it."""


@dataclass(slots=True)
class _Stream:
    next_seq: int | None = None
    from_start: bool = False  # its SYN was seen
    kind: str = UNDECIDED  # sip, hep, or what it is instead
    reader: SipStream | HepStream | None = None
    head: bytes = b""  # too little to tell what it is
    head_packets: int = 0
    waiting: dict[int, tuple[bytes, int]] = field(default_factory=dict)  # seq -> data and time
    waiting_bytes: int = 0
    after_gap: bool = False

    def ahead(self, seq: int) -> int:
        """How far `seq` lies beyond what is due; negative when it was there before."""
        assert self.next_seq is not None
        distance = (seq - self.next_seq) % _MODULUS
        return distance if distance < _MODULUS // 2 else distance - _MODULUS


class TcpStreams:
    """Takes TCP segments in file order; each packet's fate goes to `counts`, at once or when it is known."""

    def __init__(self, counts: CaptureCounts, on_message: OnMessage, on_lost: OnLost) -> None:
        self._counts = counts
        self._on_message = on_message
        self._on_lost = on_lost
        self._streams: dict[Flow, _Stream] = {}  # the one heard longest ago first
        self._holes: dict[Flow, int] = {}  # since when something is missing, oldest first

    def segment(self, src: bytes, dst: bytes, packet: bytes, ts_us: int) -> None:
        """Take one, as its IP packet holds it. Raises BadPacket."""
        while len(self._streams) > MOST_STREAMS:
            self._end(next(iter(self._streams)), ts_us)
        if len(packet) < _HEADER_BYTES:
            raise BadPacket("tcp_short", f"{len(packet)} bytes where TCP has {_HEADER_BYTES}")
        src_port, dst_port, seq, _, offset_flags = _HEADER.unpack_from(packet)
        header = (offset_flags >> 12) * 4
        if not _HEADER_BYTES <= header <= len(packet):
            raise BadPacket("tcp_header", f"a header of {header} bytes in {len(packet)}")
        data = packet[header:]
        if data or offset_flags & (_SYN | _RST):
            self._give_up_old_holes(ts_us)
        flow = Flow(src, src_port, dst, dst_port)
        if offset_flags & _SYN:
            self._begin(flow, (seq + 1) % _MODULUS, ts_us)
            seq += 1
        if offset_flags & _RST:
            self._end(flow, ts_us)
        elif data:
            self._take(flow, self._stream(flow), seq, data, ts_us)
            return
        self._counts.ignored["tcp_empty"] += 1

    def close(self, ts_us: int) -> None:
        """The file has ended: nothing that is missing will come any more."""
        for flow in list(self._streams):
            self._end(flow, ts_us)

    # -- streams ---------------------------------------------------------------------------------------

    def _stream(self, flow: Flow) -> _Stream:
        stream = self._streams.pop(flow, None)
        self._streams[flow] = stream = stream or _Stream()
        return stream

    def _begin(self, flow: Flow, first: int, ts_us: int) -> None:
        """A connection begins; the port may have served another one before."""
        stream = self._streams.get(flow)
        if stream is not None and stream.from_start and stream.next_seq == first:
            return  # the SYN once more
        self._end(flow, ts_us)
        self._streams[flow] = _Stream(next_seq=first, from_start=True)

    def _end(self, flow: Flow, ts_us: int) -> None:
        stream = self._streams.get(flow)
        if stream is None:
            return
        while stream.waiting:
            self._give_up(flow, stream)
        self._drop_head(stream)
        size, rest = _pending(stream)
        if size:
            self._on_lost("tcp_unfinished", flow, ts_us, f"{size} bytes of a message", rest)
        self._streams.pop(flow)

    def _drop_head(self, stream: _Stream) -> None:
        """What begins the stream will never tell what it is."""
        if stream.head_packets:
            word = "tcp_other" if stream.head.strip(PADDING) else "keepalive"
            self._counts.ignored[word] += stream.head_packets
            stream.head, stream.head_packets = b"", 0

    # -- segments --------------------------------------------------------------------------------------

    def _take(self, flow: Flow, stream: _Stream, seq: int, data: bytes, ts_us: int) -> None:
        if stream.kind not in (SIP, HEP, UNDECIDED):
            self._look_through(flow, stream, seq, data, ts_us)
            return
        if stream.next_seq is None:
            stream.next_seq = seq
        ahead = stream.ahead(seq)
        if ahead > 0:
            self._wait(flow, stream, seq, data, ts_us)
        elif -ahead >= len(data):
            self._counts.ignored["tcp_retransmission"] += 1
        else:
            self._deliver(flow, stream, data[-ahead:], ts_us)
            self._deliver_waiting(flow, stream, ts_us)

    def _wait(self, flow: Flow, stream: _Stream, seq: int, data: bytes, ts_us: int) -> None:
        known = stream.waiting.get(seq)
        if known is not None:
            self._counts.ignored["tcp_retransmission"] += 1
            if len(known[0]) >= len(data):
                return
            stream.waiting_bytes -= len(known[0])
        stream.waiting[seq] = data, ts_us
        stream.waiting_bytes += len(data)
        self._holes.setdefault(flow, ts_us)
        if stream.waiting_bytes > MOST_WAITING_BYTES:
            self._give_up(flow, stream)

    def _deliver_waiting(self, flow: Flow, stream: _Stream, ts_us: int | None) -> None:
        """What has become due; complete only now, or (None) in its own time."""
        while stream.waiting:
            seq = min(stream.waiting, key=stream.ahead)
            ahead = stream.ahead(seq)
            if ahead > 0:
                return
            data, own_us = stream.waiting.pop(seq)
            stream.waiting_bytes -= len(data)
            if -ahead >= len(data):
                self._counts.ignored["tcp_retransmission"] += 1
            else:
                self._deliver(flow, stream, data[-ahead:], own_us if ts_us is None else ts_us)
        self._holes.pop(flow, None)

    def _give_up_old_holes(self, now_us: int) -> None:
        while self._holes:
            flow, since_us = next(iter(self._holes.items()))
            if now_us - since_us <= HOLE_US:
                return
            self._give_up(flow, self._streams[flow])

    def _give_up(self, flow: Flow, stream: _Stream) -> None:
        """Go on behind the hole."""
        self._holes.pop(flow, None)
        seq = min(stream.waiting, key=stream.ahead)
        missing, (size, rest) = stream.ahead(seq), _pending(stream)
        stream.next_seq = seq
        self._drop_head(stream)
        if stream.reader is not None:
            ts_us = stream.waiting[seq][1]
            self._on_lost("tcp_gap", flow, ts_us, f"{missing} bytes are missing behind {size}", rest)
            stream.reader = SipStream() if stream.kind == SIP else HepStream()
        stream.after_gap = True
        stream.from_start = False
        self._deliver_waiting(flow, stream, None)
        if stream.waiting:
            self._holes[flow] = min(ts_us for _, ts_us in stream.waiting.values())

    # -- messages --------------------------------------------------------------------------------------

    def _deliver(self, flow: Flow, stream: _Stream, data: bytes, ts_us: int) -> None:
        """The next bytes of the stream."""
        assert stream.next_seq is not None
        stream.next_seq = (stream.next_seq + len(data)) % _MODULUS
        if stream.reader is None:
            stream.head += data
            stream.head_packets += 1
            stream.kind = at_stream_start(stream.head)
            if stream.kind == UNDECIDED:
                return
            data, packets = stream.head, stream.head_packets
            stream.head, stream.head_packets = b"", 0
            if stream.kind in (SIP, HEP):
                stream.reader = SipStream() if stream.kind == SIP else HepStream()
                self._counts.carriers += packets
                self._read(flow, stream, data, ts_us)
            else:
                self._counts.ignored[stream.kind] += packets - 1
                self._look_through(flow, stream, stream.next_seq - len(data), data, ts_us)
            return
        self._counts.carriers += 1
        self._read(flow, stream, data, ts_us)

    def _look_through(self, flow: Flow, stream: _Stream, seq: int, data: bytes, ts_us: int) -> None:
        """Something else, or the middle of something: a message may begin in it unless its start was seen."""
        kind = UNDECIDED if stream.from_start else at_stream_start(data)
        at = None if stream.from_start or kind == HEP else holds_start(data)
        if kind != HEP and at is None:
            self._counts.ignored[stream.kind] += 1
            return
        stream.kind = HEP if kind == HEP else SIP
        stream.reader = HepStream() if kind == HEP else SipStream()
        stream.next_seq = (seq + len(data)) % _MODULUS
        self._counts.carriers += 1
        self._read(flow, stream, data[at or 0 :], ts_us)

    def _read(self, flow: Flow, stream: _Stream, data: bytes, ts_us: int) -> None:
        reader = stream.reader
        assert reader is not None
        resyncs, skipped_bytes = reader.resyncs, reader.skipped_bytes
        messages = reader.feed(data)
        if reader.resyncs > resyncs and not stream.after_gap:  # a gap was reported as such
            skipped = reader.skipped_bytes - skipped_bytes
            self._on_lost("tcp_resync", flow, ts_us, f"{skipped} bytes that begin no message", data)
        for message in messages:
            stream.after_gap = False
            self._on_message(stream.kind, flow, ts_us, message)


def _pending(stream: _Stream) -> tuple[int, bytes]:
    """How many bytes of an unfinished message there are, and which; of HEP only how many."""
    if isinstance(stream.reader, HepStream):
        return stream.reader.pending_bytes, b""
    rest = b"" if stream.reader is None else stream.reader.pending
    return len(rest), rest
