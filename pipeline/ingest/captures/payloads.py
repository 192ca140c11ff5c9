"""What a payload is, by its first bytes: SIP, HEP, or a word for what it is instead. Ports count only where the
bytes say nothing, so SIP is found on any port.
"""

from __future__ import annotations

import re
from typing import Final

from pipeline.protocols.hep import HEP3_MAGICS
from pipeline.protocols.sip_head import PADDING

SIP, HEP = "sip", "hep"
UNDECIDED = ""
_SIP_PORTS: Final = frozenset({5060, 5080})
_HEP_PORTS: Final = frozenset({9060})
_NAMED_PORTS: Final = {53: "dns", 67: "dhcp", 68: "dhcp", 123: "ntp", 161: "snmp", 514: "syslog", 5353: "dns"}
_STUN_COOKIE: Final = b"\x21\x12\xa4\x42"  # RFC 8489 5
LONGEST_LINE: Final = 8_192

_TOKEN: Final = rb"[A-Za-z0-9\-.!%*_+`'~]{1,64}"  # RFC 3261 25.1
_starts_sip = re.compile(rb"[\r\n\0]*(?:SIP/[0-9]|" + _TOKEN + rb"[ \t][^\r\n]*[ \t]SIP/[0-9])", re.I).match
_may_start_sip = re.compile(rb"(?:" + _TOKEN + rb"(?:[ \t/][^\r\n]*)?)?\Z").match
# Version, header length, address family, protocol: HEP 1 and 2 have no magic.
_starts_old_hep = re.compile(
    rb"[\x01\x02][\x10\x28][\x02\x0a\x18\x1c\x1e][\x06\x11\x16\x84]", re.DOTALL
).match
_HTTP: Final = re.compile(rb"(?:GET|POST|PUT|HEAD|OPTIONS|CONNECT) [^\r\n]* HTTP/|HTTP/1")


def in_datagram(data: bytes, src_port: int, dst_port: int) -> str:  # noqa: PLR0911 - a line for each kind
    """What a UDP datagram holds: `sip`, `hep`, else what to count it as: `rtp`, `rtcp`, `stun` ..."""
    if not data:
        return "udp_empty"
    ports = {src_port, dst_port}
    if data[0] >> 6 == 2 and len(data) >= 8:  # RTP's version; no letter is that high
        return "rtcp" if 192 <= data[1] <= 223 else "rtp"  # RFC 5761 4
    if data[:4] in HEP3_MAGICS and not _starts_sip(data):
        return HEP
    if _starts_sip(data):
        return SIP
    if data[4:8] == _STUN_COOKIE:
        return "stun"
    if _starts_old_hep(data) or ports & _HEP_PORTS:
        return HEP
    if not data.strip(PADDING):
        return "keepalive"  # RFC 5626 3.5.1, and what phones invented before
    if ports & _SIP_PORTS:
        return SIP
    return next((_NAMED_PORTS[port] for port in ports if port in _NAMED_PORTS), "udp_other")


def at_stream_start(data: bytes) -> str:
    """What a TCP stream holds that begins so; UNDECIDED while it may still become SIP or HEP."""
    start = data.lstrip(PADDING)
    if start[:4] in HEP3_MAGICS and not _starts_sip(start):
        return HEP
    if _starts_sip(start):
        return SIP
    if (
        len(start) < LONGEST_LINE
        and (_may_start_sip(start) or (len(start) < 4 and any(m.startswith(start) for m in HEP3_MAGICS)))
        and len(data) < 2 * LONGEST_LINE
    ):
        return UNDECIDED
    if start[:2] == b"\x16\x03" or start[:3] == b"\x17\x03\x03":
        return "tls"
    return "http" if _HTTP.match(start) else "tcp_other"
