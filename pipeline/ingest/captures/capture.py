"""A capture as what a mirror would have sent: HEP, one datagram for each message in it, at the packet's time.

SIP becomes HEP version 3 with the packet's own addresses; HEP in the capture stays as it is. SIP over WebSocket,
TLS and SCTP, and RTP and RTCP themselves, are counted and left out.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

from pipeline.errors import CaptureError, HepError
from pipeline.ingest import Datagram
from pipeline.ingest.captures import layers
from pipeline.ingest.captures.counts import CaptureCounts, OnWeird, Weird
from pipeline.ingest.captures.fragments import Fragments, Lost
from pipeline.ingest.captures.layers import BadPacket, Ignored, IpPacket
from pipeline.ingest.captures.packets import MOST_BYTES, CutShort, Packet, read_packets
from pipeline.ingest.captures.payloads import HEP, SIP, in_datagram
from pipeline.ingest.captures.tcp import Flow, TcpStreams
from pipeline.ingest.unpack import Source
from pipeline.protocols.hep import Chunk, HepPacket, encode
from pipeline.protocols.hep.packet import COMPRESSED_PAYLOAD, GENERIC_VENDOR, address_text

_UDP_HEADER_BYTES = 8
_NOBODY = "127.0.0.1"  # as in a recording: no agent sent it


class Capture(Iterator[Datagram]):
    """An iterator over the messages of a pcap or pcapng file, plain, gzip or zstd. Raises CaptureError for others.

    `counts` tells the fate of every packet, `damage` says after the last message what is wrong with the rest of the
    file, `cut_short` whether it merely ends too soon.
    """

    def __init__(self, path: Path, on_weird: OnWeird | None = None) -> None:
        self.path = path
        self.counts = CaptureCounts()
        self.damage: str | None = None
        self.cut_short = False
        self._on_weird = on_weird or (lambda _weird: None)
        self._source = Source(path, MOST_BYTES)
        self._packets = read_packets(self._source)
        self._fragments = Fragments()
        self._tcp = TcpStreams(self.counts, self._stream_message, self._stream_lost)
        self._found: list[Datagram] = []
        self._now_us = 0
        self._messages = self._read()

    def __next__(self) -> Datagram:
        return next(self._messages)

    @property
    def place(self) -> int:
        """How many bytes of the unpacked file have been read."""
        return self._source.at

    def first_packet_us(self) -> int:
        """The time of the first packet, 0 where there is none; takes it out of the capture."""
        try:
            return next((packet.ts_us for packet in self._packets if packet.ts_us is not None), 0)
        except CaptureError:
            return 0

    def _read(self) -> Iterator[Datagram]:
        found = self._found
        try:
            for packet in self._packets:
                self.counts.packets += 1
                self._packet(packet)
                if found:
                    yield from found
                    found.clear()
        except CaptureError as error:
            self.damage, self.cut_short = str(error), isinstance(error, CutShort)
        self._tcp.close(self._now_us)
        for lost in self._fragments.lost():
            self._lost(lost)
        yield from found

    # -- packets ---------------------------------------------------------------------------------------

    def _packet(self, packet: Packet) -> None:
        try:
            if packet.ts_us is None:
                raise BadPacket("pcapng_no_time", "a Simple Packet Block")
            self._now_us = packet.ts_us
            self._ip(layers.ip_packet(packet.link_type, packet.data), packet.ts_us)
        except Ignored as ignored:
            self.counts.ignored[ignored.args[0]] += 1
        except BadPacket as bad:
            kind, detail = bad.args
            self.counts.weird[kind] += 1
            self._on_weird(Weird(self._now_us, kind, detail, packet.data))

    def _ip(self, packet: IpPacket, ts_us: int) -> None:
        pieces = 1
        if packet.fragment is not None:
            for lost in self._fragments.lost(ts_us):
                self._lost(lost)
            completed = self._fragments.add(packet, ts_us)
            if completed is None:
                return  # counted when its fate is known
            packet, pieces = completed
        if packet.protocol == layers.UDP:
            self._udp(packet, pieces, ts_us)
        elif packet.protocol == layers.TCP:
            self.counts.carriers += pieces - 1
            self._tcp.segment(packet.src, packet.dst, packet.payload, ts_us)
        else:
            self.counts.ignored[layers.protocol_word(packet.protocol)] += pieces

    def _udp(self, packet: IpPacket, pieces: int, ts_us: int) -> None:
        head, counts = packet.payload, self.counts
        if len(head) < _UDP_HEADER_BYTES:
            counts.weird["udp_short"] += pieces
            self._on_weird(Weird(ts_us, "udp_short", f"{len(head)} bytes where UDP has 8", head))
            return
        src_port, dst_port = head[0] << 8 | head[1], head[2] << 8 | head[3]
        length = head[4] << 8 | head[5]
        data = head[_UDP_HEADER_BYTES:length] if length >= _UDP_HEADER_BYTES else head[_UDP_HEADER_BYTES:]
        kind = in_datagram(data, src_port, dst_port)
        if kind not in (SIP, HEP):
            counts.ignored[kind] += pieces
            return
        counts.carriers += pieces
        counts.cut += packet.cut
        flow = Flow(packet.src, src_port, packet.dst, dst_port)
        self._message(kind, flow, layers.UDP, ts_us, data)

    def _lost(self, lost: Lost) -> None:
        self.counts.weird[lost.kind] += lost.packets
        self._on_weird(Weird(lost.ts_us, lost.kind, lost.detail, lost.head))

    # -- messages --------------------------------------------------------------------------------------

    def _stream_message(self, kind: str, flow: Flow, ts_us: int, data: bytes) -> None:
        self._message(kind, flow, layers.TCP, ts_us, data)

    def _stream_lost(self, kind: str, flow: Flow, ts_us: int, detail: str, data: bytes) -> None:
        self.counts.lost[kind] += 1
        src, dst = address_text(flow.src), address_text(flow.dst)
        where = f"{src} port {flow.src_port} to {dst} port {flow.dst_port}"
        self._on_weird(Weird(ts_us, kind, f"{detail}, from {where}", data))

    def _message(self, kind: str, flow: Flow, protocol: int, ts_us: int, data: bytes) -> None:
        src = address_text(flow.src)
        if kind == HEP:
            self._give(Datagram(ts_us, src, flow.src_port, "file", True, data))
            return
        dst = address_text(flow.dst)
        sip = HepPacket(3, protocol, src, flow.src_port, dst, flow.dst_port, ts_us, payload=data)
        try:
            self._give(Datagram(ts_us, _NOBODY, 0, "file", True, _encoded(sip)))
        except HepError as error:
            self.counts.lost[error.kind] += 1
            self._on_weird(Weird(ts_us, error.kind, error.detail, data))

    def _give(self, datagram: Datagram) -> None:
        self.counts.messages += 1
        self._found.append(datagram)


def _encoded(packet: HepPacket) -> bytes:
    """HEP of it; what is too long for HEP's 16 bits goes compressed."""
    try:
        return encode(packet)
    except HepError:
        small = Chunk(GENERIC_VENDOR, COMPRESSED_PAYLOAD, zlib.compress(packet.payload))
        return encode(packet._replace(payload=b"", extra=(small,)))
