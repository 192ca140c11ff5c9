"""RTCP and media reports as HEP agents write them in JSON: one payload to a list of reports. Pure, tolerant.

    for report in parse(packet.payload):
        report.block.lost, report.sender.packets, report.xr.mos_cq

Read are HEP type 5 of captagent, rtpengine, heplify and Asterisk's res_hep_rtcp, their XR shapes (type 99), and
the reports of RTP agents (types 34 and 35). They agree on the names of RFC 3550 and on little else: numbers come
as strings, null, negative, or wrapped at 24 or 32 bits; a compound packet comes as one object with its keys
twice; `type` is that of the last part. What a value cannot be becomes None.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Final

from pipeline.errors import RtcpError

SR, RR, XR = 200, 201, 207  # RFC 3550 section 12.1, RFC 3611 section 2

MAX_PAYLOAD_BYTES: Final = 65_535
MAX_BRACKETS: Final = 256  # bounds depth and number of blocks alike; 31 blocks fit into a packet
_NTP_EPOCH_S: Final = 2_208_988_800  # 1970 in the NTP era that began in 1900
_U32: Final = 0xFFFFFFFF

_RTCP_KEYS: Final = frozenset({"report_blocks", "sender_information", "report_count", "sdes_ssrc"})

Pairs = list[tuple[str, Any]]


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


def parse(payload: bytes) -> list[Report]:
    """The reports in one payload, in order; at least one.

    Raises RtcpError, and nothing else, with kind `rtcp_size` (too long, or too many brackets), `rtcp_json`
    (no JSON), or `rtcp_shape` (no report that is known here).
    """
    if len(payload) > MAX_PAYLOAD_BYTES:
        raise RtcpError("rtcp_size", f"{len(payload)} bytes, at most {MAX_PAYLOAD_BYTES} are read")
    brackets = payload.count(b"{") + payload.count(b"[")
    if brackets > MAX_BRACKETS:
        raise RtcpError("rtcp_size", f"{brackets} brackets, at most {MAX_BRACKETS} are read")
    text = payload.decode("utf-8", "replace").strip("\0 \t\r\n")
    try:
        pairs = json.loads(text, object_pairs_hook=_Object, parse_int=_short_int, strict=False)
    except (ValueError, RecursionError) as error:
        raise RtcpError("rtcp_json", str(error)[:200]) from None
    if not isinstance(pairs, _Object):
        raise RtcpError("rtcp_shape", f"{type(pairs).__name__} where an object was due")
    reports = [report for part in _parts(pairs.pairs) for report in _reports(part)]
    known = pairs.last()
    if not reports and not _RTCP_KEYS.isdisjoint(known):
        return [Report(_within(known.get("type"), SR, XR) or RR, _u32(known.get("ssrc")) or None)]
    if not reports:
        names = ", ".join(_storable(name[:20]) for name, _ in pairs.pairs[:5])
        raise RtcpError("rtcp_shape", f"no report in an object of {names or 'nothing'}")
    return reports


class _Object:
    """A JSON object with all its keys, also those that come twice."""

    __slots__ = ("pairs",)

    def __init__(self, pairs: Pairs) -> None:
        self.pairs = pairs

    def last(self) -> dict[str, Any]:
        return dict(self.pairs)


def _short_int(digits: str) -> int | None:
    """No field has more than 32 bits; a number of thousands of digits is not worth its arithmetic."""
    return int(digits) if len(digits) <= 20 else None


def _parts(pairs: Pairs) -> list[dict[str, Any]]:
    """The packets of a compound, which follow each other in one object: a key that comes again begins the next,
    and so does sender information behind report blocks."""
    parts: list[dict[str, Any]] = [{}]
    for name, value in pairs:
        part = parts[-1]
        if name in part or (name == "sender_information" and "report_blocks" in part):
            part = {}
            parts.append(part)
        part[name] = value
    return parts


def _reports(part: dict[str, Any]) -> list[Report]:
    if "MOS" in part or "EXPECTED_PK" in part or "PACKET_LOSS" in part:
        return [Report(0, media=_media(part))]
    ssrc = _u32(part.get("ssrc")) or None
    sender = _sender(part.get("sender_information"))
    listed = part.get("report_blocks")
    blocks = [block for each in listed if (block := _block(each))] if isinstance(listed, list) else []
    # Of what it received, Asterisk gives the word behind the reporter's SSRC instead (seen with 18.16.0, 22.10.1):
    # the seconds of the NTP time, or the source's SSRC.
    if sender is not None and sender.ntp_us is not None and ssrc == sender.ntp_us // 1_000_000 + _NTP_EPOCH_S:
        ssrc = None
    if sender is None and blocks and ssrc == blocks[0].source_ssrc:
        ssrc = None
    # `type` is no help: heplify gives that of the last part of a compound, captagent none without a block.
    kind = RR if sender is None else SR
    reports = [Report(kind, ssrc, sender if i == 0 else None, block) for i, block in enumerate(blocks)]
    if sender is not None and not reports:
        reports = [Report(SR, ssrc, sender)]
    xr = _xr(part)
    return reports if xr is None else [*reports, Report(XR, ssrc, xr=xr)]


# -- values ----------------------------------------------------------------------------------------------


def _int(value: Any) -> int | None:
    """An integer, however written: a number, a float without a fraction, or a string of either."""
    if isinstance(value, str):
        value = value.strip()
        if not (0 < len(value) <= 20 and value.isascii()):
            return None
        if value.removeprefix("-").isdigit():
            return int(value)
    number = _float(value)
    return int(number) if number is not None and number == math.floor(number) else None


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e15 else None  # neither NaN nor infinite


def _u32(value: Any) -> int | None:
    """A field of 32 bits; a negative one was printed as signed."""
    number = _int(value)
    return number & _U32 if number is not None and -0x80000000 <= number <= _U32 else None


def _within(value: Any, low: int, high: int) -> int | None:
    number = _int(value)
    return number if number is not None and low <= number <= high else None


def _lost(value: Any) -> int | None:
    """Cumulative loss has 24 bits and a sign; agents print it signed, or unsigned with 24 or 32 bits."""
    number = _int(value)
    if number is None:
        return None
    for bits in (24, 32):
        if 1 << (bits - 1) <= number < 1 << bits:
            number -= 1 << bits
    return number if -0x800000 <= number < 0x800000 else None


def _text(value: Any) -> str | None:
    return _storable(value[:256]) if isinstance(value, str) and value else None


def _storable(text: str) -> str:
    """Without what JSON can say and no column can hold: halves of surrogate pairs, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")


def _fields(value: Any) -> dict[str, Any] | None:
    return value.last() if isinstance(value, _Object) else None


# -- parts of RTCP ---------------------------------------------------------------------------------------


def _sender(value: Any) -> Sender | None:
    """None also where all is zero: heplify writes that into every RR."""
    fields = _fields(value)
    if fields is None:
        return None
    seconds, fraction = _u32(fields.get("ntp_timestamp_sec")), _u32(fields.get("ntp_timestamp_usec"))
    ntp_us, lsr = _ntp(seconds, fraction or 0) if seconds else (None, None)
    numbers = [_u32(fields.get(name)) for name in ("rtp_timestamp", "packets", "octets")]
    return Sender(ntp_us, lsr, *numbers) if seconds or any(numbers) else None


def _ntp(seconds: int, fraction: int) -> tuple[int, int]:
    """Microseconds since 1970 and the middle 32 bits. Asterisk writes seconds since 1970 and microseconds, the
    others the two words of the NTP time."""
    if seconds >= _NTP_EPOCH_S:
        microseconds = fraction * 1_000_000 >> 32
        seconds -= _NTP_EPOCH_S
    else:
        microseconds = fraction if fraction < 1_000_000 else fraction * 1_000_000 >> 32
        fraction = (microseconds << 32) // 1_000_000
    return seconds * 1_000_000 + microseconds, (seconds + _NTP_EPOCH_S & 0xFFFF) << 16 | fraction >> 16


def _block(value: Any) -> Block | None:
    fields = _fields(value)
    source_ssrc = _u32(fields.get("source_ssrc")) if fields else None
    if fields is None or not source_ssrc:
        return None
    return Block(
        source_ssrc,
        _within(fields.get("fraction_lost"), 0, 255),
        _lost(fields.get("packets_lost")),
        _u32(fields.get("highest_seq_no")),
        _u32(fields.get("ia_jitter")),
        _u32(fields.get("lsr")) or None,
        _u32(fields.get("dlsr")),
    )


def _xr(part: dict[str, Any]) -> VoipMetrics | None:
    """Of captagent's, heplify 1's or heplify 2's shape; None where nothing was measured.

    heplify 2 takes the two MOS bytes in the wrong order (`src/decoder/rtcp.go`; RFC 3611 has MOS-LQ first).
    """
    fields: dict[str, Any] = {}
    for name in ("report_blocks_xr", "extended_report_information", "Extended_report_information"):
        fields |= _fields(part.get(name)) or {}
    heplify = _fields(part.get("voip_metrics"))
    if heplify:
        fields |= heplify | {"mos_lq": heplify.get("mos_cq"), "mos_cq": heplify.get("mos_lq")}

    def first(*names: str) -> Any:
        return next((fields[name] for name in names if fields.get(name) is not None), None)

    def share_pct(*names: str) -> float | None:
        share = _within(first(*names), 0, 255)
        return None if share is None else share * 100 / 256

    def time_ms(*names: str) -> int | None:
        return _within(first(*names), 0, 0xFFFF)

    if not any(_float(value) for name, value in fields.items() if name != "type"):
        return None
    return VoipMetrics(
        _u32(first("ssrc", "identifier", "id")) or None,
        share_pct("loss_rate", "fraction_lost"),
        share_pct("discard_rate", "fraction_discard"),
        share_pct("burst_density", "burst_rate"),
        share_pct("gap_density", "gap_rate"),
        time_ms("burst_duration"),
        time_ms("gap_duration"),
        time_ms("round_trip_delay") or None,
        time_ms("end_system_delay", "end_sys_delay") or None,
        _within(first("r_factor", "R_fact"), 0, 100),
        _mos(first("mos_lq", "MOS_LQ")),
        _mos(first("mos_cq", "MOS_CQ")),
        time_ms("jb_nominal", "JB_nom"),
        time_ms("jb_maximum", "JB_max"),
    )


def _mos(value: Any) -> float | None:
    """A MOS, or ten times that (RFC 3611 section 4.7.5)."""
    number = _float(value)
    if number is None:
        return None
    if number > 5:
        number /= 10
    return number if 1 <= number <= 5 else None


def _media(part: dict[str, Any]) -> Media:
    def count(name: str) -> int | None:
        return _within(part.get(name), 0, _U32)

    def ms(*names: str) -> float | None:
        number = next((n for name in names if (n := _float(part.get(name))) is not None), None)
        return number if number is not None and number >= 0 else None

    def address(side: str) -> tuple[str, int] | None:
        ip, port = _text(part.get(f"{side}_IP")), _within(part.get(f"{side}_PORT"), 0, 65535)
        return (ip, port) if ip and port is not None else None

    r = _float(part.get("MEAN_RFACTOR", part.get("RFACTOR")))
    return Media(
        _text(part.get("RTP_SIP_CALL_ID")) or _text(part.get("CORRELATION_ID")),
        address("SRC"),
        address("DST"),
        count("TOTAL_PK"),
        count("EXPECTED_PK"),
        _lost(part.get("PACKET_LOSS")),
        ms("MEAN_JITTER", "JITTER"),
        ms("MAX_JITTER"),
        r if r is not None and 0 < r <= 100 else None,
        _mos(part.get("MEAN_MOS", part.get("MOS"))),
        _text(part.get("CODEC_NAME")),
        _within(part.get("CODEC_PT"), 0, 127),
        _within(part.get("CLOCK"), 1, 192_000),
        _text(part.get("TYPE")),
    )
