"""A tolerant view of SIP messages for analytics: whatever a mirror brings, as columns.

This is no SIP stack. It reads what is there (RFC 3261 syntax, compact and odd-cased names, folding, bare
LF, missing headers), says in `defects` what was wrong with it, and refuses only what has no start line.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from pipeline.errors import SipError
from pipeline.protocols import sdp, sip_head
from pipeline.protocols.sip_head import PADDING

MAX_MESSAGES = 64
"""Messages read of one payload; the rest is left out (defect `extra_octets`)."""

_SDP_PART = re.compile(rb"\ncontent-type[ \t]*:[ \t]*application/sdp", re.IGNORECASE)
_BLANK_LINE = re.compile(rb"\n\r?\n")


@dataclass(slots=True, eq=False)
class SipMessage:
    """One SIP message. What is absent is None, never "". No text holds CR, LF or NUL; all is valid Unicode.

    Users are percent-decoded (see `uri`), hosts lower-case and IPv6 hosts without brackets. Of headers that
    may stand only once the first one counts. `defects` are stable words; a clean message has none:
    `bad_` start_line, version, ruri, status, from, to, via, branch, cseq, expires, content_length, header, utf8;
    `missing_` via, from, to, call_id, cseq; `duplicate_` and a header; cseq_method_mismatch; lf_only, bare_cr,
    nul; no_end_of_headers, too_many_headers; truncated_body, extra_octets.
    """

    is_request: bool
    method: str | None  # the request's; of a reply, CSeq's
    status: int | None
    reason: str | None  # the reason phrase
    ruri: str | None
    ruri_user: str | None
    ruri_host: str | None
    call_id: str | None
    cseq: int | None
    cseq_method: str | None
    from_user: str | None
    from_host: str | None
    from_display: str | None
    from_tag: str | None
    to_user: str | None
    to_host: str | None
    to_display: str | None
    to_tag: str | None
    via_branch: str | None  # of the topmost Via
    via_count: int
    via_top: str | None  # topmost value, as written
    via_last: str | None  # bottommost value, as written: of the one who made the request
    via_transport: str | None  # of the topmost Via, lower-case
    contact: str | None  # all values, joined with ", "
    expires: int | None  # of the header, in seconds
    user_agent: str | None  # User-Agent, else Server
    reason_header: str | None
    x_cid: str | None
    path: str | None  # all values, topmost first, joined with ", "
    content_type: str | None
    body: bytes
    sdp_ip: str | None
    sdp_port: int | None
    sdp_codecs: str | None
    payload: bytes  # this message's own bytes
    defects: tuple[str, ...]


def parse(payload: bytes, *, datagram: bool | None = None) -> list[SipMessage]:
    """The SIP messages in `payload`: usually one; several where pieces of a stream were mirrored.

    In a stream Content-Length says where the next message begins; in a datagram whatever follows the body
    is no message but noise (RFC 3261 18.3). Whether it was a datagram the caller may know; else the topmost
    Via tells. Raises `SipError`: `sip_empty`, `sip_keepalive` (CRLFs or NULs only), `sip_start_line`.
    """
    message, rest = _parse_one(payload)
    messages = [message]
    while rest := rest.lstrip(PADDING):
        if datagram is None:
            datagram = message.via_transport == "udp"
        following = None if datagram or len(messages) == MAX_MESSAGES else _following(rest)
        if following is None:
            message.defects += ("extra_octets",)
            break
        message.payload = message.payload[: len(message.payload) - len(rest)]
        message, rest = following
        messages.append(message)
    return messages


def _following(rest: bytes) -> tuple[SipMessage, bytes] | None:
    try:
        return _parse_one(rest)
    except SipError:
        return None


def _parse_one(payload: bytes) -> tuple[SipMessage, bytes]:
    """The first message of `payload`, and the bytes after its body."""
    defects: list[str] = []
    lines, body_start = sip_head.split_head(payload, defects)
    start = sip_head.start_line(lines[0])
    found, repeated = sip_head.headers(lines, defects)
    get = found.get

    cseq = sip_head.cseq(get("cseq", ""))
    sender, from_tag = sip_head.party(get("from", ""))
    recipient, to_tag = sip_head.party(get("to", ""))
    via = get("via")
    via_count, via_top, via_last = sip_head.vias(via, repeated, defects) if via else (0, None, None)
    via_branch = sip_head.branch(via_top) if via_top else None
    content_type, expires = get("content-type"), get("expires")
    body, rest = _body(payload, body_start, get("content-length"), defects)
    media = _media(content_type, body) if body and content_type else _NO_MEDIA

    if start.defects or not (
        via_top
        and sender.well_formed
        and recipient.well_formed
        and cseq.valid
        and "call-id" in found
        and via_branch != "z9hG4bK"
        and (start.method is None or start.method == cseq.method)
    ):
        defects += sip_head.header_defects(start, found, cseq, via_branch)

    # By position, in the order of the fields: by name it would take twice as long.
    message = SipMessage(
        start.is_request,
        start.method or cseq.method,
        start.status,
        start.reason,
        start.ruri,
        start.user,
        start.host,
        get("call-id"),
        cseq.number,
        cseq.method,
        sender.user,
        sender.host,
        sender.display,
        from_tag,
        recipient.user,
        recipient.host,
        recipient.display,
        to_tag,
        via_branch,
        via_count,
        via_top,
        via_last,
        sip_head.via_transport(via_top) if via_top else None,
        get("contact"),
        sip_head.seconds(expires, defects) if expires else None,
        get("user-agent") or get("server"),
        get("reason"),
        get("x-cid"),
        get("path"),
        content_type,
        body,
        media.ip,
        media.port,
        media.codecs,
        payload,
        tuple(dict.fromkeys(defects)) if defects else (),
    )
    return message, rest


def _body(payload: bytes, start: int, content_length: str | None, defects: list[str]) -> tuple[bytes, bytes]:
    """The body, and the bytes after it (RFC 3261 18.3); without Content-Length all is body."""
    rest = payload[start:]
    if content_length is None:
        return rest, b""
    if not (len(content_length) <= 10 and content_length.isascii() and content_length.isdigit()):
        defects.append("bad_content_length")
        return rest, b""
    length = int(content_length)
    if length > len(rest):
        defects.append("truncated_body")
    return rest[:length], rest[length:]


def _media(content_type: str, body: bytes) -> sdp.Sdp:
    """The SDP of the body, or of the SDP part of a multipart body (RFC 5621)."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == "application/sdp":
        return _sdp(body) if len(body) <= 4096 else sdp.parse(body)
    part = _SDP_PART.search(body) if kind.startswith("multipart/") else None
    blank = _BLANK_LINE.search(body, part.end()) if part else None
    if blank is None:
        return _NO_MEDIA
    return sdp.parse(body[blank.end() :].partition(b"\n--")[0])


_sdp = lru_cache(maxsize=1024)(sdp.parse)  # every hop mirrors the same body
_NO_MEDIA = sdp.Sdp()
