"""The head of a SIP message, tolerantly: lines, the headers that become columns, and their values.

Strings that repeat from message to message (start lines, From, To, CSeq) are taken apart once and remembered.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pipeline.errors import SipError
from pipeline.protocols.memo import remember
from pipeline.protocols.uri import parse_name_addr, parse_uri, split_list

MAX_HEADER_LINES = 1024
"""Header lines read of one message; the rest is left out (defect `too_many_headers`)."""
MAX_NUMBER = 2**32 - 1
"""CSeq and Expires are 32-bit numbers (RFC 3261 8.1.1.5, 20.19)."""
PADDING = b"\r\n\0"
"""Keepalives, and what receivers skip before a start line (RFC 3261 7.5)."""

# The headers that become columns, with their compact names (RFC 3261 7.3.3).
_COLUMNS = {
    "Via": "v",
    "From": "f",
    "To": "t",
    "Call-ID": "i",
    "CSeq": None,
    "Contact": "m",
    "Expires": None,
    "User-Agent": None,
    "Server": None,
    "Reason": None,
    "X-CID": None,
    "Path": None,
    "Content-Type": "c",
    "Content-Length": "l",
}
# The usual others, known so that skipping them costs one look-up.
_OTHERS = (
    "Max-Forwards",
    "Supported",
    "Allow",
    "Record-Route",
    "Route",
    "Authorization",
    "Proxy-Authorization",
    "WWW-Authenticate",
    "Proxy-Authenticate",
)
_SKIP = ""
_KEYS = {
    spelling: key
    for long, short, key in [
        *((long, short, long.lower()) for long, short in _COLUMNS.items()),
        *((long, None, _SKIP) for long in _OTHERS),
    ]
    for name in (long, short)
    if name
    for spelling in (name, name.lower(), name.upper())
}
_REQUIRED = ("via", "from", "to", "call-id", "cseq")  # RFC 3261 8.1.1
_LISTS = frozenset({"via", "contact", "path", "reason"})  # may stand several times

_BLANK_LINE = re.compile(rb"\n\r?\n")
_VERSION = re.compile(r"SIP/[0-9]+\.[0-9]+", re.IGNORECASE)
_TOKEN = re.compile(r"[A-Za-z0-9\-.!%*_+`'~]+")  # RFC 3261 25.1
# name-addr or addr-spec, then parameters (RFC 3261 25.1, 20.10).
_ADDRESS_FORM = re.compile(
    r"""(?:[A-Za-z0-9\-.!%*_+`'~\s]*|"[^"\\]*(?:\\.[^"\\]*)*"\s*)<[^<>\s"]+>\s*(?:;.*)?"""
    r"""|[^<>\s",;?]+\s*(?:;.*)?""",
    re.DOTALL,
)
_CSEQ = re.compile(r"([0-9]+)(?:\s+(\S+))?\Z")
_BRANCH = re.compile(r";\s*branch\s*=\s*([^\s;,]+)", re.IGNORECASE)
_TRANSPORTS = {f"SIP/2.0/{name.upper()} ": name for name in ("udp", "tcp", "tls", "wss")}
_TRANSPORT = re.compile(r"SIP\s*/\s*[0-9.]+\s*/\s*([^\s;/]+)", re.IGNORECASE)


class StartLine(NamedTuple):
    is_request: bool
    method: str | None
    status: int | None
    reason: str | None
    ruri: str | None
    user: str | None
    host: str | None
    defects: tuple[str, ...]


class Party(NamedTuple):
    """Who From or To names, without the tag."""

    user: str | None
    host: str | None
    display: str | None
    well_formed: bool


class CSeq(NamedTuple):
    number: int | None
    method: str | None
    valid: bool


def split_head(payload: bytes, defects: list[str]) -> tuple[list[str], int]:
    """The start line and the header lines, and where the body begins."""
    start = 0
    if payload[:1] in PADDING:  # true of an empty payload, too
        start = len(payload) - len(payload.lstrip(PADDING))
        if start == len(payload):
            raise SipError("sip_keepalive" if payload else "sip_empty", f"{len(payload)} bytes")
    end = payload.find(b"\r\n\r\n", start)
    head = _decode(payload[start:end], defects) if end >= 0 else ""
    lines = head.split("\r\n")
    ends = len(lines) - 1
    if end < 0 or head.count("\n") != ends or head.count("\r") != ends:
        lines, body_start = _split_odd_head(payload, start, defects)
    else:
        body_start = end + 4
    if len(lines) > MAX_HEADER_LINES:
        del lines[MAX_HEADER_LINES:]
        defects.append("too_many_headers")
    return lines, body_start


def _split_odd_head(payload: bytes, start: int, defects: list[str]) -> tuple[list[str], int]:
    """As `split_head`, for lines that end in a bare LF, hold a bare CR, or lack the empty line at the end.

    A bare CR inside is taken for a blank: it must not open a header that other receivers do not see.
    """
    blank = _BLANK_LINE.search(payload, start)
    end, body_start = blank.span() if blank else (len(payload), len(payload))
    if blank is None:
        defects.append("no_end_of_headers")
    head = _decode(payload[start:end], defects)
    lines = head.replace("\r\n", "\n").removesuffix("\r")
    if head.count("\n") != head.count("\r\n"):
        defects.append("lf_only")
    if "\r" in lines:
        defects.append("bare_cr")
        lines = lines.replace("\r", " ")
    return lines.rstrip("\n").split("\n"), body_start


def _decode(head: bytes, defects: list[str]) -> str:
    try:
        text = head.decode()
    except UnicodeDecodeError:
        defects.append("bad_utf8")
        text = head.decode("utf-8", "replace")
    if "\0" in text:
        defects.append("nul")
        text = text.replace("\0", "\ufffd")
    return text


def headers(lines: list[str], defects: list[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The headers that become columns, by long lower-case name; and all values of the repeated ones."""
    found: dict[str, str] = {}
    repeated: dict[str, list[str]] = {}
    for line in lines[1:]:
        name, colon, value = line.partition(":")
        key = _KEYS.get(name)
        if key is None:
            if line.startswith((" ", "\t")):
                return headers(_unfold(lines), defects)
            if not colon:
                defects.append("bad_header")
            key = _KEYS.get(name.strip().lower(), _SKIP)
        if not key or not (value := value.strip()):
            continue
        if key not in found:
            found[key] = value
        elif key in _LISTS:
            repeated.setdefault(key, [found[key]]).append(value)
        else:
            defects.append("duplicate_" + key.replace("-", "_"))
    for key, values in repeated.items():
        found[key] = ", ".join(values)
    return found, repeated


def _unfold(lines: list[str]) -> list[str]:
    """Continuation lines joined to theirs with one blank (RFC 3261 7.3.1)."""
    whole: list[list[str]] = []
    for line in lines:
        if whole and line.startswith((" ", "\t")):
            whole[-1].append(line.strip(" \t"))
        else:
            whole.append([line.rstrip(" \t")])
    return [" ".join(filter(None, parts)) for parts in whole]


@remember
def start_line(line: str) -> StartLine:
    """Request-Line or Status-Line (RFC 3261 7.1, 7.2), blanks at wrong places tolerated."""
    first, _, rest = line.strip().partition(" ")
    if _VERSION.fullmatch(first):
        return _status_line(first, rest)
    ruri, _, version = rest.rpartition(" ")
    if not _TOKEN.fullmatch(first) or not _VERSION.fullmatch(version) or not ruri.strip():
        raise SipError("sip_start_line", repr(line[:80]))
    defects = [] if version.upper() == "SIP/2.0" else ["bad_version"]
    if line != f"{first} {ruri.strip()} {version}":
        defects.append("bad_start_line")
    ruri = ruri.strip()
    bare = ruri.removeprefix("<").removesuffix(">")
    uri = parse_uri(bare)
    if uri is None or uri.headers or uri.odd or bare != ruri or " " in ruri:  # RFC 3261 19.1.1, 25.1
        defects.append("bad_ruri")
    user, host = (uri.user, uri.host) if uri else (None, None)
    return StartLine(True, first, None, None, ruri, user, host, tuple(defects))


def _status_line(version: str, rest: str) -> StartLine:
    code, _, phrase = rest.strip().partition(" ")
    if not (code.isascii() and code.isdigit()):
        raise SipError("sip_start_line", repr(f"{version} {rest}"[:80]))
    valid = len(code) == 3 and code[0] in "123456"
    defects: tuple[str, ...] = () if version.upper() == "SIP/2.0" else ("bad_version",)
    if not valid:
        defects += ("bad_status",)
    status = int(code) if valid else None
    return StartLine(False, None, status, phrase.strip() or None, None, None, None, defects)


def party(value: str) -> tuple[Party, str | None]:
    """From or To: the party, and the tag. People repeat, tags do not: only the people are remembered."""
    address, mark, tag = value.partition(">;tag=")
    if mark and _TOKEN.fullmatch(tag):
        found = _address(address + ">")
        if found.well_formed:
            return found, tag
    params = parse_name_addr(value).params
    return _address(value), params.get("tag") or None


@remember
def _address(value: str) -> Party:
    address = parse_name_addr(value)
    uri = parse_uri(address.uri)
    user, host = (uri.user, uri.host) if uri else (None, None)
    well_formed = uri is not None and not uri.odd and _ADDRESS_FORM.fullmatch(value) is not None
    return Party(user, host, address.display, well_formed)


@remember
def cseq(value: str) -> CSeq:
    match = _CSEQ.match(value)
    if match is None:
        return CSeq(None, None, False)
    number = int(match[1]) if len(match[1]) <= 19 else MAX_NUMBER + 1
    # RFC 3261 8.1.1.5: less than 2**31
    return CSeq(number if number <= MAX_NUMBER else None, match[2], number < 2**31 and match[2] is not None)


def header_defects(start: StartLine, found: dict[str, str], cseq: CSeq, via_branch: str | None) -> list[str]:
    """What is wrong with the start line and the headers that every message must have (RFC 3261 8.1.1)."""
    defects = [*start.defects]
    defects += [f"missing_{key.replace('-', '_')}" for key in _REQUIRED if key not in found]
    defects += [
        f"bad_{key}" for key in ("from", "to") if key in found and not party(found[key])[0].well_formed
    ]
    if "cseq" in found and not cseq.valid:
        defects.append("bad_cseq")
    if start.is_request and cseq.method and cseq.method != start.method:
        defects.append("cseq_method_mismatch")
    if via_branch == "z9hG4bK":  # the magic cookie alone (RFC 3261 8.1.1.7)
        defects.append("bad_branch")
    return defects


def vias(via: str, repeated: dict[str, list[str]], defects: list[str]) -> tuple[int, str | None, str | None]:
    """How many Via values, the topmost and the bottommost; what names no protocol is no value."""
    if "," not in via and via_transport(via):
        return 1, via, via
    values = [value for line in repeated.get("via", [via]) for value in split_list(line)]
    good = [value for value in values if via_transport(value)]
    if len(good) < len(values):
        defects.append("bad_via")
    return (len(good), good[0], good[-1]) if good else (0, None, None)


def branch(via: str) -> str | None:
    match = _BRANCH.search(via)
    return match[1] if match else None


def via_transport(via: str) -> str | None:
    known = _TRANSPORTS.get(via[:12])
    if known:
        return known
    match = _TRANSPORT.match(via)
    return match[1].lower() if match else None


def seconds(expires: str, defects: list[str]) -> int | None:
    """Expires in seconds; None where it is no 32-bit number, as if it were not there (RFC 3261 20.19)."""
    if len(expires) <= 10 and expires.isascii() and expires.isdigit() and int(expires) <= MAX_NUMBER:
        return int(expires)
    defects.append("bad_expires")
    return None
