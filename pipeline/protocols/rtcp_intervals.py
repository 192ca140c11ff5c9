"""From RTCP's running totals to what happened between one report and the next, of one stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from pipeline.protocols.rtcp_report import Block, Sender
from pipeline.protocols.rtcp_values import MAX_U32

_SR_REMEMBERED: Final = 8
_LSR_TOLERANCE: Final = (
    64  # 1/65536 s: 1 ms. Asterisk's microseconds do not give the NTP time back to the bit
)
_MAX_RTT_US: Final = 60_000_000
_MAX_JITTER_MS: Final = 5_000.0
_MAX_PACKETS_PER_S: Final = 500  # of 2 ms; faster means that sequence numbers jumped
_MAX_DROPOUT: Final = 3000  # RFC 3550 appendix A.1


@dataclass(frozen=True, slots=True)
class Interval:
    """What one report adds to the one before it.

    The first report stands alone: `expected` is unknown, `lost` is all that was lost before, `loss_pct` the
    report's own fraction. Behind a restart `lost` is unknown too.
    """

    at_us: int
    expected: int | None
    lost: int | None  # signed: packets that came late, or twice, are taken off again
    loss_pct: float | None
    jitter_ms: float | None  # as of the report; None without a clock rate
    rtt_ms: float | None
    restarted: bool = False  # sequence numbers began anew


def round_trip_us(arrival_ntp32: int, lsr: int, dlsr: int) -> int | None:
    """RTT of RFC 3550 section 6.4.1, in microseconds: arrival - LSR - DLSR, modulo 2^32, in 1/65536 s.

    The arrival is by the clock of the SR's sender. None for what came out negative or beyond a minute: some clock
    or delay was wrong.
    """
    rtt_us = (arrival_ntp32 - lsr - dlsr & MAX_U32) * 1_000_000 >> 16
    return rtt_us if rtt_us <= _MAX_RTT_US else None


def ntp32(at_us: int) -> int:
    """The middle 32 bits of the NTP time of `at_us`, microseconds since 1970."""
    seconds, microseconds = divmod(at_us, 1_000_000)
    return (seconds + 2_208_988_800 & 0xFFFF) << 16 | (microseconds << 16) // 1_000_000


class Intervals:
    """The reports on one stream: one call, one source SSRC, one direction.

    `clock_rate_hz` is the codec's RTP clock (`codecs.lookup`); None leaves the jitter unknown, as it must be for
    what Asterisk says of Opus. `own_clock` says that the HEP agent is the stream's sender itself, whose time may be
    compared with the LSR (Asterisk's res_hep_rtcp); without, SRs that were seen give a round trip, from the tap
    to the receiver and back. HEP times are taken late rather than early: by up to 10 ms on a busy Asterisk.
    """

    def __init__(self, clock_rate_hz: int | None = None, *, own_clock: bool = False) -> None:
        self.clock_rate_hz = clock_rate_hz
        self.own_clock = own_clock
        self._last: tuple[int, Block] | None = None
        self._sent: list[tuple[int, int]] = []  # (LSR, when seen) of the stream's own SRs, the newest last

    def sent(self, sender: Sender, at_us: int) -> None:
        """An SR of this stream's sender passed the tap at `at_us`: its receiver will refer to it."""
        if sender.lsr is not None:
            self._sent = [*self._sent[1 - _SR_REMEMBERED :], (sender.lsr, at_us)]

    def received(self, block: Block, at_us: int) -> Interval | None:
        """A report on this stream, seen at `at_us` (HEP time); None for a copy, and for one that comes too late:
        the report that overtook it told its part already."""
        if self._last is None:
            self._last = at_us, block
            return self._alone(block, at_us, block.lost)
        before_us, before = self._last
        if block == before or at_us < before_us:
            return None
        self._last = at_us, block
        expected = _advance(before.highest_seq, block.highest_seq)
        if expected is None or block.lost is None or before.lost is None:
            return self._alone(block, at_us, None)
        lost = block.lost - before.lost
        most = _MAX_DROPOUT + _MAX_PACKETS_PER_S * (at_us - before_us) // 1_000_000
        if expected > most or abs(lost) > max(expected, _MAX_DROPOUT):
            return self._alone(block, at_us, None, restarted=True)
        loss_pct = min(100.0, 100.0 * max(0, lost) / expected) if expected else None
        return Interval(at_us, expected, lost, loss_pct, self._jitter_ms(block), self._rtt_ms(block, at_us))

    def _alone(self, block: Block, at_us: int, lost: int | None, *, restarted: bool = False) -> Interval:
        jitter_ms, rtt_ms = self._jitter_ms(block), self._rtt_ms(block, at_us)
        return Interval(at_us, None, lost, block.fraction_lost_pct, jitter_ms, rtt_ms, restarted)

    def _jitter_ms(self, block: Block) -> float | None:
        if block.jitter is None or not self.clock_rate_hz:
            return None
        jitter_ms = block.jitter * 1000 / self.clock_rate_hz
        return jitter_ms if jitter_ms <= _MAX_JITTER_MS else None  # a wrapped or senseless one

    def _rtt_ms(self, block: Block, at_us: int) -> float | None:
        """By the sender's own clock, or by when the tap saw the SR that the report refers to; never by a tap's
        clock against a sender's."""
        if block.lsr is None or block.dlsr is None:
            return None
        rtt_us = None
        if self.own_clock:
            rtt_us = round_trip_us(ntp32(at_us), block.lsr, block.dlsr)
        else:
            for lsr, seen_us in reversed(self._sent):
                if (block.lsr - lsr + _LSR_TOLERANCE & MAX_U32) <= 2 * _LSR_TOLERANCE:
                    rtt_us = at_us - seen_us - (block.dlsr * 1_000_000 >> 16)
                    break
        return rtt_us / 1000 if rtt_us is not None and 0 <= rtt_us <= _MAX_RTT_US else None


def _advance(before: int | None, now: int | None) -> int | None:
    """Packets due between two highest sequence numbers; a step back is a huge one forward."""
    if before is None or now is None:
        return None
    if before <= 0xFFFF and now <= 0xFFFF and before > 0xC000 and now < 0x4000:
        return now - before & 0xFFFF  # an agent that leaves out the cycles
    return now - before & MAX_U32
