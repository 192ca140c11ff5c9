"""The canonical record of voice quality: one leg of a call, both directions, as an Asterisk or any other
back-to-back agent stands in the middle.

Incoming is from the phone to it, measured by itself; outgoing is from it to the phone, as the phone's RTCP
reports tell. Unknown is None, never 0.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final, Literal

from pipeline.protocols.codecs import lookup

Flag = Literal[
    "no_rtcp", "short", "one_way", "opus_clock", "seq_restart", "negative_lost", "rtt_skew", "truncated_b",
    "passthrough", "clamped",
]  # fmt: skip
FLAGS: Final[dict[Flag, str]] = {
    "no_rtcp": "the phone's reports say nothing, or none came: lost and jitter outgoing and the RTT are unknown",
    "short": "ended before Asterisk's first report: lost incoming is unknown",
    "one_way": "packets went in one direction only",
    "opus_clock": "Asterisk read Opus timestamps at 8000 Hz: jitter incoming is unknown, outgoing is mended",
    "seq_restart": "sequence numbers began anew under one SSRC: the loss counted is not loss",
    "negative_lost": "the phone counted more packets than were due: duplicates, or a wrong report",
    "rtt_skew": "the last round trip came out negative: the phone's delay was wrong",
    "truncated_b": "leg B was written in part only: its hangup handler lost the race with leg A's",
    "passthrough": "the outgoing stream is the other leg's as it came in, with its gaps and its jitter",
    "clamped": "a value did not fit its column, or cannot be, and was given up",
}


@dataclass(frozen=True, slots=True)
class Direction:
    """One direction of one leg. Jitter is RFC 3550's, in ms."""

    packets: int | None = None
    lost: int | None = None  # signed; as of the last RTCP report, up to 5 s before the end
    loss_pct: float | None = None
    jitter_ms: float | None = None  # mean over the call; the last value where no mean is known
    jitter_max_ms: float | None = None
    jitter_last_ms: float | None = None
    jitter_stdev_ms: float | None = None
    mes: float | None = None  # Asterisk's own score, raw: no MOS, and not comparable between directions


@dataclass(frozen=True, slots=True)
class Leg:
    """Both directions of one leg, the round trip between Asterisk and the phone, and what is odd about them."""

    incoming: Direction
    outgoing: Direction
    rtt_ms: float | None = None  # the smaller of last and mean: a report that was read late only ever adds
    rtt_min_ms: float | None = None
    rtt_mean_ms: float | None = None
    rtt_max_ms: float | None = None
    ssrc: int | None = None  # Asterisk's
    remote_ssrc: int | None = None  # the phone's
    flags: frozenset[Flag] = frozenset()


def share_pct(lost: int | None, due: int | None) -> float | None:
    """Lost in percent of what was due; negative loss is none (RFC 3550 section 6.4.1)."""
    return min(100.0, 100.0 * max(0, lost) / due) if lost is not None and due else None


def tie(a: Leg, b: Leg, codec_a: str | None = None, codec_b: str | None = None) -> tuple[Leg, Leg]:
    """Both legs of a bridge, each knowing what the other one passed on to it.

    With the same codec on both legs Asterisk forwards RTP with its gaps and jitter (seen), so the loss of one
    leg shows again in what the other phone reports. Without the codecs that return of the loss tells.
    """
    first, second = lookup(codec_a), lookup(codec_b)
    if first and second:
        passed = first.name == second.name
    else:
        passed = _returns(a.incoming, b.outgoing) or _returns(b.incoming, a.outgoing)
    if not passed:
        return a, b
    return _passed_on(a, b.incoming), _passed_on(b, a.incoming)


def segment_lost(outgoing: Direction, other_incoming: Direction) -> int | None:
    """Packets lost between Asterisk and the phone alone, of a passed-on stream."""
    if outgoing.lost is None or other_incoming.lost is None:
        return None
    return max(0, outgoing.lost - other_incoming.lost)


def _returns(incoming: Direction, outgoing: Direction) -> bool:
    return (incoming.lost or 0) >= 5 and (outgoing.lost or 0) >= 0.5 * (incoming.lost or 0)


def _passed_on(leg: Leg, other_incoming: Direction) -> Leg:
    """The phone expects the gaps too, so they belong into what its loss is a share of."""
    out, gaps = leg.outgoing, max(0, other_incoming.lost or 0)
    due = None if out.packets is None else out.packets + gaps
    out = replace(out, loss_pct=share_pct(out.lost, due))
    return replace(leg, outgoing=out, flags=leg.flags | {"passthrough"})
