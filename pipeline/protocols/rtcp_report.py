"""What RTCP says: of a sender, of what was received of one source, of a stream. RFC 3550 and RFC 3611."""

from __future__ import annotations

from dataclasses import dataclass

SR, RR, XR = 200, 201, 207  # RFC 3550 section 12.1, RFC 3611 section 2


@dataclass(frozen=True, slots=True)
class Sender:
    """The sender information of an SR (RFC 3550 section 6.4.1)."""

    ntp_us: int | None = None  # microseconds since 1970
    lsr: int | None = None  # the middle 32 bits of the NTP time: what reports give back as LSR
    rtp_timestamp: int | None = None
    packets: int | None = None
    octets: int | None = None


@dataclass(frozen=True, slots=True)
class Block:
    """A report block (RFC 3550 section 6.4.1): what the reporter received of one source."""

    source_ssrc: int
    fraction_lost: int | None = None  # 1/256 since the report before
    lost: int | None = None  # cumulative, signed
    highest_seq: int | None = None  # extended by the cycles
    jitter: int | None = None  # RTP timestamp units
    lsr: int | None = None  # None: the reporter has seen no SR
    dlsr: int | None = None  # 1/65536 s

    @property
    def fraction_lost_pct(self) -> float | None:
        """Since the report before, 0 to 99.6; lost packets only, never negative."""
        return None if self.fraction_lost is None else self.fraction_lost * 100 / 256


@dataclass(frozen=True, slots=True)
class VoipMetrics:
    """VoIP metrics of an XR (RFC 3611 section 4.7); unavailable (127) is None."""

    source_ssrc: int | None = None
    loss_pct: float | None = None
    discard_pct: float | None = None
    burst_density_pct: float | None = None
    gap_density_pct: float | None = None
    burst_ms: int | None = None
    gap_ms: int | None = None
    round_trip_ms: int | None = None
    end_system_ms: int | None = None
    r_factor: int | None = None
    mos_lq: float | None = None
    mos_cq: float | None = None
    buffer_nominal_ms: int | None = None
    buffer_max_ms: int | None = None


@dataclass(frozen=True, slots=True)
class Media:
    """What an agent that watched the RTP itself says of a stream (HEP types 34 and 35)."""

    call_id: str | None = None
    src: tuple[str, int] | None = None
    dst: tuple[str, int] | None = None
    packets: int | None = None
    expected: int | None = None
    lost: int | None = None
    jitter_ms: float | None = None
    jitter_max_ms: float | None = None
    r_factor: float | None = None
    mos: float | None = None
    codec: str | None = None
    payload_type: int | None = None
    clock_rate_hz: int | None = None
    report_type: str | None = None  # "PERIODIC" ...


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that was said: of a source (`block`, `xr`), of a stream (`media`), or only of itself (`sender`).

    `sender` is with the first report of its packet alone. A report without any of the four was empty: an RR
    before anything was received, as many phones open with (reporter and source have SSRC 0 then).
    """

    packet_type: int  # 200 SR, 201 RR, 207 XR; 0 for media reports
    ssrc: int | None = None  # the reporter's; None: not told
    sender: Sender | None = None
    block: Block | None = None
    xr: VoipMetrics | None = None
    media: Media | None = None
