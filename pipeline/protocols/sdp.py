"""The little that analytics need of an SDP body (RFC 4566): where the first audio stream goes, and how."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from pipeline.protocols.codecs import STATIC_PAYLOAD_TYPES

_DIRECTIONS = frozenset({"sendrecv", "sendonly", "recvonly", "inactive"})

_STATIC_CODECS = {
    str(number): f"{name}/{clock_rate_hz}" for number, (name, clock_rate_hz) in STATIC_PAYLOAD_TYPES.items()
}


@dataclass(slots=True)
class Sdp:
    """The first audio stream: its address, its codecs in order of preference ("opus/48000,PCMA/8000"),
    its direction, and whether keys for SRTP travel in the clear (`a=crypto`, RFC 4568)."""

    ip: str | None = None
    port: int | None = None
    codecs: str | None = None
    direction: str | None = None
    crypto: bool = False


def parse(body: bytes) -> Sdp:
    """Read an SDP body; what is missing or malformed stays None. Never raises."""
    text = body.decode("utf-8", "replace").replace("\0", "\ufffd").replace("\r", "\n")
    session, audio = _sections(text.split("\n"))
    sdp = Sdp(ip=_connection(session))
    if not audio:
        return sdp
    port, payload_types = _media(audio[0])
    sdp.port = port
    sdp.ip = _connection(audio) or sdp.ip
    names = _rtpmaps(audio)
    sdp.codecs = ",".join(names.get(pt) or _STATIC_CODECS.get(pt, pt) for pt in payload_types) or None
    sdp.direction = _direction(audio) or _direction(session) or "sendrecv"  # RFC 4566 section 6
    sdp.crypto = any(line.startswith("a=crypto:") for line in audio)
    return sdp


def _sections(lines: list[str]) -> tuple[list[str], list[str]]:
    """The session's lines, and those of the first audio stream, its m= line first."""
    starts = [i for i, line in enumerate(lines) if line.startswith("m=")]
    session = lines[: starts[0]] if starts else lines
    for start, end in itertools.pairwise([*starts, len(lines)]):
        if lines[start].startswith("m=audio"):
            return session, lines[start:end]
    return session, []


def _connection(lines: list[str]) -> str | None:
    """`c=IN IP4 224.2.1.1/127` without the multicast scope."""
    for line in lines:
        parts = line.split()
        if line.startswith("c=") and len(parts) >= 3:
            return parts[2].partition("/")[0] or None
    return None


def _media(line: str) -> tuple[int | None, list[str]]:
    """Port and payload types of `m=audio 49170/2 RTP/AVP 0 8`."""
    parts = line.split()
    port = parts[1].partition("/")[0] if len(parts) > 1 else ""
    valid = port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65535
    return int(port) if valid else None, parts[3:]


def _rtpmaps(lines: list[str]) -> dict[str, str]:
    """`a=rtpmap:96 opus/48000/2` as {"96": "opus/48000"}: without the channels."""
    maps: dict[str, str] = {}
    for line in lines:
        if line.startswith("a=rtpmap:"):
            payload_type, _, encoding = line[9:].strip().partition(" ")
            maps[payload_type] = "/".join(encoding.strip().split("/")[:2])
    return maps


def _direction(lines: list[str]) -> str | None:
    for line in lines:
        if line.startswith("a=") and line[2:].strip() in _DIRECTIONS:
            return line[2:].strip()
    return None
