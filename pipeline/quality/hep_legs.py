"""RTCP reports over HEP to legs: which way each report looks, and what its intervals add up to. Pure.

A report names no call of its own and no direction: its correlation id (or its addresses) names the leg, and
whether the switch sent it or received it tells what it is about. What the switch sends is its own measurement of
what the phone sent (incoming); what it receives is the phone's measurement of what the switch sent (outgoing).
"""

from __future__ import annotations

import itertools
import json
import statistics
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from pipeline.errors import RtcpError
from pipeline.protocols.codecs import Codec, lookup
from pipeline.protocols.emodel import Quality
from pipeline.protocols.leg import Direction, Flag, Leg, share_pct
from pipeline.protocols.rtcp import parse
from pipeline.protocols.rtcp_intervals import Interval, Intervals
from pipeline.protocols.rtcp_report import Block, Media, Report, Sender, VoipMetrics

PAUSE_US: Final = 120_000_000  # a leg that was silent for longer is another one under the same name
_NO_SSRC: Final = 0
_PACKETS_PER_S: Final = 50.0  # of 20 ms, where no two reports tell the rate


class Packet(NamedTuple):
    """A row of table `rtcp`, as far as it is needed."""

    name: str  # correlation id, else the pair of addresses
    agent: str
    agent_addr: str
    node: str
    at_us: int
    src_ip: str
    src_port: int
    dst_ip: str
    dst_port: int
    payload: bytes


def pair_name(packet: Packet) -> str:
    """The name of a leg that no correlation id names: its two addresses, in order."""
    ends = sorted([f"{packet.src_ip}:{packet.src_port}", f"{packet.dst_ip}:{packet.dst_port}"])
    return " ".join(ends)


class Homes:
    """Where each capture agent's switch is: the address that the most legs have in common.

    Phones have few legs each, the switch has them all. `known` addresses come from the settings and win.
    """

    _MAX_LEGS = 10_000  # of an agent; by then it is decided

    def __init__(self, known: Collection[str] = ()) -> None:
        self._known = frozenset(known)
        self._legs: dict[str, set[str]] = {}
        self._counts: dict[str, Counter[str]] = {}

    def see(self, packet: Packet) -> None:
        """Learn from one packet."""
        legs = self._legs.setdefault(packet.agent, set())
        if packet.name in legs or len(legs) >= self._MAX_LEGS:
            return
        legs.add(packet.name)
        self._counts.setdefault(packet.agent, Counter()).update({packet.src_ip, packet.dst_ip})

    def of(self, packet: Packet) -> str | None:
        """The switch's address of the two; None where nothing tells them apart."""
        ends = (packet.src_ip, packet.dst_ip)
        if ends[0] == ends[1]:
            return None
        named = [ip for ip in ends if ip in self._known]
        if len(named) == 1:
            return named[0]
        counts = self._counts.get(packet.agent, Counter())
        first, second = (counts[ip] for ip in ends)
        if first != second:
            return ends[0] if first > second else ends[1]
        return packet.agent_addr if packet.agent_addr in ends else None


def _usual(rtts_ms: Sequence[float]) -> float:
    """Of last, mean and median the least: a report that was read late only ever adds."""
    return min(rtts_ms[-1], statistics.fmean(rtts_ms), statistics.median_low(rtts_ms))


@dataclass(slots=True)
class _Stream:
    """One direction: the reports on it, and what its sender counted."""

    clock_rate_hz: int | None
    own_clock: bool = False
    intervals: dict[int, Intervals] = field(default_factory=dict)
    got: list[Interval] = field(default_factory=list)
    first: dict[int, Interval] = field(default_factory=dict)
    sent: dict[int, list[tuple[int, int]]] = field(default_factory=dict)  # SSRC -> (when, packets so far)
    xr: VoipMetrics | None = None
    media: list[Media] = field(default_factory=list)

    def of(self, ssrc: int) -> Intervals:
        if ssrc not in self.intervals:
            self.intervals[ssrc] = Intervals(self.clock_rate_hz, own_clock=self.own_clock)
        return self.intervals[ssrc]

    def sender(self, ssrc: int, sender: Sender, at_us: int) -> None:
        self.of(ssrc).sent(sender, at_us)
        if sender.packets:
            counts = self.sent.setdefault(ssrc, [])
            counts[1:] = [(at_us, sender.packets)]  # the first and the last do

    def block(self, block: Block, at_us: int) -> None:
        interval = self.of(block.source_ssrc).received(block, at_us)
        if interval is not None:
            self.first.setdefault(block.source_ssrc, interval)
            self.got.append(interval)

    @property
    def packets_sent(self) -> int | None:
        return sum(counts[-1][1] for counts in self.sent.values()) or None

    def _due_before(self, ssrc: int, first: Interval) -> float:
        """Packets due before the first report on a stream: its sequence numbers do not tell where they began. The
        sender's own count does, moved to the time of that report by the stream's rate."""
        counts = self.sent.get(ssrc) or self.sent.get(_NO_SSRC)
        if not counts:
            return 0.0
        (at_us, packets), (last_us, last) = counts[0], counts[-1]
        rate = (last - packets) / (last_us - at_us) * 1e6 if last_us > at_us else _PACKETS_PER_S
        return max(0.0, packets + max(0.0, rate) * (first.at_us - at_us) / 1e6)

    def _due(self) -> list[float]:
        """For each interval the packets that it is about; 0 where nobody can tell."""
        before = {id(first): self._due_before(ssrc, first) for ssrc, first in self.first.items()}
        return [before.get(id(one), 0.0) if one.expected is None else one.expected for one in self.got]

    def loss(self) -> tuple[int | None, int | None, float | None]:
        """Lost, due, and the share in percent, of the intervals whose packets are known; where none are, the
        first report's own share. `due` is None where it is not known of all. Nothing is said of a stream whose
        sequence numbers began anew: the jumps on either side of that look like loss."""
        if not self.got or any(interval.restarted for interval in self.got):
            return None, None, None
        told = [interval.lost for interval in self.got if interval.lost is not None]
        lost = sum(told) if told else None
        due = self._due()
        total = round(sum(due))
        if not total:
            return lost, None, self.got[0].loss_pct
        counted = sum(one.lost or 0 for one, packets in zip(self.got, due, strict=True) if packets)
        whole = all(packets for one, packets in zip(self.got, due, strict=True) if one.expected is None)
        return lost, total if whole else None, share_pct(counted, total)

    def direction(self, packets: int | None, lost: int | None, loss_pct: float | None) -> Direction:
        """The jitter's mean is by packets: many phones report a moment after the start, and at the very end."""
        known = [
            (one.jitter_ms, due)
            for one, due in zip(self.got, self._due(), strict=True)
            if one.jitter_ms is not None
        ]
        jitters, total = [ms for ms, _ in known], sum(due for _, due in known)
        mean_ms = None
        if jitters:
            mean_ms = sum(ms * due for ms, due in known) / total if total else sum(jitters) / len(jitters)
        return Direction(
            packets=packets,
            lost=lost,
            loss_pct=loss_pct,
            jitter_ms=mean_ms,
            jitter_max_ms=max(jitters, default=None),
            jitter_last_ms=jitters[-1] if jitters else None,
        )

    def watched(self) -> Direction | None:
        """What an agent that watched the RTP itself says; its counts are totals where they only grow."""
        if not self.media:
            return None
        packets = [media.packets or 0 for media in self.media]
        totals = all(a < b for a, b in itertools.pairwise(packets))
        counted = self.media[-1:] if totals else self.media
        expected = sum(media.expected or 0 for media in counted)
        lost = sum(media.lost or 0 for media in counted)
        jitters = [media.jitter_ms for media in self.media if media.jitter_ms is not None]
        highest = [media.jitter_max_ms for media in self.media if media.jitter_max_ms is not None]
        return Direction(
            packets=sum(media.packets or 0 for media in counted),
            lost=lost,
            loss_pct=share_pct(lost, expected),
            jitter_ms=sum(jitters) / len(jitters) if jitters else None,
            jitter_max_ms=max([*highest, *jitters], default=None),
        )

    def rated(self) -> Quality | None:
        """The phone's own word (XR), or the agent's, for want of anything to rate by ourselves."""
        if self.xr is not None and self.xr.r_factor is not None:
            lq = self.xr.mos_lq or self.xr.mos_cq
            if lq is not None:
                return Quality(float(self.xr.r_factor), self.xr.mos_cq, lq, "xr", grounded=False)
        media = self.media[-1] if self.media else Media()
        if media.r_factor is not None and media.mos is not None:
            return Quality(media.r_factor, None, media.mos, "agent", grounded=False)
        return None


class LegReports:
    """All reports of one leg, fed in order of time. `home` is the switch's address."""

    def __init__(self, first: Packet, home: str, codec: str | None) -> None:
        self.name, self.agent, self.node, self.home = first.name, first.agent, first.node, home
        self.first_us = self.last_us = first.at_us
        self.codec = codec
        self.peer_ip = first.dst_ip if first.src_ip == home else first.src_ip
        self.sdp_call_id: str | None = None  # of the call whose SDP named its addresses, if that was asked
        self.unreadable = 0
        known: Codec | None = lookup(codec)
        clock_hz = known.clock_rate_hz if known else None
        self._opus = known is not None and known.name == "OPUS"
        # Asterisk reads Opus timestamps at 8000 Hz: its own jitter is nonsense, whatever it is divided by.
        self._incoming = _Stream(None if self._opus else clock_hz)
        self._outgoing = _Stream(clock_hz, own_clock=home == first.agent_addr)
        self._ssrcs: dict[bool, int] = {}  # the switch's own under True, the phone's under False
        self._last: dict[str, Any] = {}

    @property
    def unit(self) -> str:
        """The name under which this leg is written."""
        return f"hep/{self.name}/{self.first_us // 1_000_000}"

    def feed(self, packet: Packet) -> None:
        """Take one packet in; what cannot be read is counted."""
        self.first_us = min(self.first_us, packet.at_us)
        self.last_us = max(self.last_us, packet.at_us)
        try:
            reports = parse(packet.payload)
        except RtcpError:
            self.unreadable += 1
            return
        sent = packet.src_ip == self.home
        for report in reports:
            self._take(report, sent, packet.at_us)
        self._last["sent" if sent else "received"] = packet.payload.decode("utf-8", "replace")

    def _take(self, report: Report, sent: bool, at_us: int) -> None:
        about, own = (self._incoming, self._outgoing) if sent else (self._outgoing, self._incoming)
        if report.ssrc is not None:
            self._ssrcs[sent] = report.ssrc
        if report.sender is not None:  # Asterisk leaves out whose SR it received
            own.sender(report.ssrc or _NO_SSRC, report.sender, at_us)
        if report.block is not None:
            self._ssrcs[not sent] = report.block.source_ssrc
            about.block(report.block, at_us)
        if report.xr is not None:
            about.xr = report.xr
        if report.media is not None:
            incoming = report.media.dst[0] == self.home if report.media.dst else not sent
            (self._incoming if incoming else self._outgoing).media.append(report.media)

    def leg(self) -> Leg | None:
        """What is known so far; None where no report said anything."""
        lost_in, due_in, loss_in_pct = self._incoming.loss()
        lost_out, _, loss_out_pct = self._outgoing.loss()
        received = None if due_in is None or lost_in is None else max(0, due_in - lost_in)
        incoming = self._incoming.watched() or self._incoming.direction(received, lost_in, loss_in_pct)
        outgoing = self._outgoing.watched() or self._outgoing.direction(
            self._outgoing.packets_sent, lost_out, loss_out_pct
        )
        if incoming == Direction() and outgoing == Direction() and not self._rated_any():
            return None
        rtts = [interval.rtt_ms for interval in self._outgoing.got if interval.rtt_ms is not None]
        return Leg(
            incoming,
            outgoing,
            rtt_ms=_usual(rtts) if rtts else None,
            rtt_max_ms=max(rtts, default=None),
            rtt_min_ms=min(rtts, default=None),
            ssrc=self._ssrcs.get(True),
            remote_ssrc=self._ssrcs.get(False),
            flags=self._flags(lost_in, lost_out),
        )

    def rated(self) -> tuple[Quality | None, Quality | None]:
        """What the phone, or an agent, said of each direction itself."""
        return self._incoming.rated(), self._outgoing.rated()

    def _rated_any(self) -> bool:
        return any(quality is not None for quality in self.rated())

    def _flags(self, lost_in: int | None, lost_out: int | None) -> frozenset[Flag]:
        flags: set[Flag] = set()
        if not self._outgoing.got and not self._outgoing.media:
            flags.add("no_rtcp")
        if "sent" in self._last and not self._incoming.got and not self._incoming.media:
            flags.add("short" if self.last_us - self.first_us < 5_000_000 else "one_way")
        if any(interval.restarted for interval in (*self._incoming.got, *self._outgoing.got)):
            flags.add("seq_restart")
        if (lost_in or 0) < 0 or (lost_out or 0) < 0:
            flags.add("negative_lost")
        if self._opus and self._incoming.got:
            flags.add("opus_clock")
        return frozenset(flags)

    @property
    def reports(self) -> tuple[int, int]:
        """Reports that count, on what came in and on what went out."""
        return (
            len(self._incoming.got) + len(self._incoming.media),
            len(self._outgoing.got) + len(self._outgoing.media),
        )

    def raw(self) -> str:
        """The last report each way, as it came."""
        return json.dumps(self._last, separators=(",", ":"))
