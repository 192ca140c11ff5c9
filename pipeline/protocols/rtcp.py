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
from typing import Any, Final

from pipeline.errors import RtcpError
from pipeline.protocols.rtcp_report import RR, SR, XR, Block, Media, Report, Sender, VoipMetrics
from pipeline.protocols.rtcp_values import MAX_U32, finite, lost, short_text, storable, u32, within

MAX_PAYLOAD_BYTES: Final = 65_535
MAX_BRACKETS: Final = 256  # bounds depth and number of blocks alike; 31 blocks fit into a packet
_NTP_EPOCH_S: Final = 2_208_988_800  # 1970 in the NTP era that began in 1900

_RTCP_KEYS: Final = frozenset({"report_blocks", "sender_information", "report_count", "sdes_ssrc"})

Pairs = list[tuple[str, Any]]


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
        return [Report(within(known.get("type"), SR, XR) or RR, u32(known.get("ssrc")) or None)]
    if not reports:
        names = ", ".join(storable(name[:20]) for name, _ in pairs.pairs[:5])
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
    ssrc = u32(part.get("ssrc")) or None
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


def _fields(value: Any) -> dict[str, Any] | None:
    return value.last() if isinstance(value, _Object) else None


# -- parts of RTCP ---------------------------------------------------------------------------------------


def _sender(value: Any) -> Sender | None:
    """None also where all is zero: heplify writes that into every RR."""
    fields = _fields(value)
    if fields is None:
        return None
    seconds, fraction = u32(fields.get("ntp_timestamp_sec")), u32(fields.get("ntp_timestamp_usec"))
    ntp_us, lsr = _ntp(seconds, fraction or 0) if seconds else (None, None)
    numbers = [u32(fields.get(name)) for name in ("rtp_timestamp", "packets", "octets")]
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
    source_ssrc = u32(fields.get("source_ssrc")) if fields else None
    if fields is None or not source_ssrc:
        return None
    return Block(
        source_ssrc,
        within(fields.get("fraction_lost"), 0, 255),
        lost(fields.get("packets_lost")),
        u32(fields.get("highest_seq_no")),
        u32(fields.get("ia_jitter")),
        u32(fields.get("lsr")) or None,
        u32(fields.get("dlsr")),
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
        share = within(first(*names), 0, 255)
        return None if share is None else share * 100 / 256

    def time_ms(*names: str) -> int | None:
        return within(first(*names), 0, 0xFFFF)

    if not any(finite(value) for name, value in fields.items() if name != "type"):
        return None
    return VoipMetrics(
        u32(first("ssrc", "identifier", "id")) or None,
        share_pct("loss_rate", "fraction_lost"),
        share_pct("discard_rate", "fraction_discard"),
        share_pct("burst_density", "burst_rate"),
        share_pct("gap_density", "gap_rate"),
        time_ms("burst_duration"),
        time_ms("gap_duration"),
        time_ms("round_trip_delay") or None,
        time_ms("end_system_delay", "end_sys_delay") or None,
        within(first("r_factor", "R_fact"), 0, 100),
        _mos(first("mos_lq", "MOS_LQ")),
        _mos(first("mos_cq", "MOS_CQ")),
        time_ms("jb_nominal", "JB_nom"),
        time_ms("jb_maximum", "JB_max"),
    )


def _mos(value: Any) -> float | None:
    """A MOS, or ten times that (RFC 3611 section 4.7.5)."""
    number = finite(value)
    if number is None:
        return None
    if number > 5:
        number /= 10
    return number if 1 <= number <= 5 else None


def _media(part: dict[str, Any]) -> Media:
    def count(name: str) -> int | None:
        return within(part.get(name), 0, MAX_U32)

    def ms(*names: str) -> float | None:
        number = next((n for name in names if (n := finite(part.get(name))) is not None), None)
        return number if number is not None and number >= 0 else None

    def address(side: str) -> tuple[str, int] | None:
        ip, port = short_text(part.get(f"{side}_IP")), within(part.get(f"{side}_PORT"), 0, 65535)
        return (ip, port) if ip and port is not None else None

    r = finite(part.get("MEAN_RFACTOR", part.get("RFACTOR")))
    return Media(
        short_text(part.get("RTP_SIP_CALL_ID")) or short_text(part.get("CORRELATION_ID")),
        address("SRC"),
        address("DST"),
        count("TOTAL_PK"),
        count("EXPECTED_PK"),
        lost(part.get("PACKET_LOSS")),
        ms("MEAN_JITTER", "JITTER"),
        ms("MAX_JITTER"),
        r if r is not None and 0 < r <= 100 else None,
        _mos(part.get("MEAN_MOS", part.get("MOS"))),
        short_text(part.get("CODEC_NAME")),
        within(part.get("CODEC_PT"), 0, 127),
        within(part.get("CLOCK"), 1, 192_000),
        short_text(part.get("TYPE")),
    )
