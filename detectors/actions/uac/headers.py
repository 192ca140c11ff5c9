"""Checked header text: what came out of a SIP message goes into ours only through here.

Every function returns text that is safe inside one header line or raises ActionError.
"""

from __future__ import annotations

import ipaddress
import re
import string
from urllib.parse import quote

from pipeline.engine.actions import Target, parse_target
from pipeline.errors import ActionError

MAX_CALL_ID_CHARS = 512
MAX_USER_CHARS = 256
MAX_HOST_CHARS = 255
MAX_DISPLAY_CHARS = 128

# Wider than RFC 3261's `callid` on purpose: the phone waits for this very Call-ID, however odd.
# One printable word cannot leave its header.
_CALL_ID = re.compile(r"[\x21-\x7e]+")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_BARE_IPV6 = re.compile(r"[0-9A-Fa-f:.]+")
_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>\d{1,5}))?", re.ASCII)
_AOR = re.compile(r"sips?:([^@]+)@([^@;?]+)", re.IGNORECASE)
_LOCAL = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9.]+):(?P<port>\d{1,5})", re.ASCII)
# RFC 3261 section 25.1: unreserved and user-unreserved; '%' is dealt with apart.
_USER_CHARS = string.ascii_letters + string.digits + "-_.!~*'()" + "&=+$,;?/"
# C0, DEL, C1, and the Unicode line and paragraph separators.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]+")
_HEADER_TEXT = re.compile(r"[\x20-\x7e]*")
_TOKEN = re.compile(r"[A-Za-z0-9.!%*_+`'~-]+")


def call_id(value: object) -> str:
    """The Call-ID unchanged: printable ASCII without spaces."""
    if not isinstance(value, str) or len(value) > MAX_CALL_ID_CHARS or not _CALL_ID.fullmatch(value):
        raise ActionError(f"Call-ID cannot be sent: {value!r:.80}")
    return value


def user(value: object) -> str:
    """A URI's user part: its %HH stay (RFC 3261 section 19.1.4: %3B is not ';'), the illegal is escaped."""
    if not isinstance(value, str) or not value:
        raise ActionError(f"user part cannot be sent: {value!r:.80}")
    parts: list[str] = []
    end = 0
    for escape in _ESCAPE.finditer(value):
        parts += quote(value[end : escape.start()], safe=_USER_CHARS, errors="replace"), escape[0]
        end = escape.end()
    parts.append(quote(value[end:], safe=_USER_CHARS, errors="replace"))
    text = "".join(parts)
    if len(text) > MAX_USER_CHARS:
        raise ActionError(f"user part is longer than {MAX_USER_CHARS} characters: {value!r:.80}")
    return text


def host(value: object) -> str:
    """A URI's host, with its port if it has one; IPv6 in brackets (added where they are missing)."""
    if isinstance(value, str) and len(value) <= MAX_HOST_CHARS:
        if _BARE_IPV6.fullmatch(value) and value.count(":") > 1:
            value = f"[{value}]"
        found = _HOST_PORT.fullmatch(value)
        if found is not None and (found["port"] is None or 0 < int(found["port"]) < 65536):
            if not found["host"].startswith("["):
                return value
            try:
                address = ipaddress.IPv6Address(found["host"].strip("[]"))
            except ValueError:
                pass
            else:
                return f"[{address}]" if found["port"] is None else f"[{address}]:{found['port']}"
    raise ActionError(f"host cannot be sent: {value!r:.80}")


def aor(value: object) -> tuple[str, str]:
    """An address of record ("sip:bob@sip.test") as checked (user, host)."""
    found = _AOR.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise ActionError(f"address of record cannot be called: {value!r:.80}")
    return user(found[1]), host(found[2])


def target(value: object) -> Target:
    """The device's contact from the evidence."""
    found = parse_target(value)
    if found is None:
        raise ActionError(f"target is no contact: {value!r:.80}")
    return found


def display(value: object) -> str:
    """A display name as a quoted string in UTF-8 (RFC 3261 section 25.1); "" when nothing is left of it."""
    if not isinstance(value, str):
        return ""
    text = _CONTROL.sub(" ", value).strip()[:MAX_DISPLAY_CHARS]
    if not text:
        return ""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def caller(user_part: object, host_part: object, display_name: object) -> str:
    """The original caller as name-addr. One that cannot be repeated is anonymous (RFC 3261 section 8.1.1.3):
    the phone matches the call by its Call-ID, so a strange caller is no reason to let it ring."""
    try:
        address = host(host_part)
        if user_part:
            address = f"{user(user_part)}@{address}"
        name = display(display_name)
    except ActionError:
        return '"Anonymous" <sip:anonymous@anonymous.invalid>'
    return f"{name} <sip:{address}>" if name else f"<sip:{address}>"


def configured(value: str) -> str:
    """Text from the configuration that becomes a header value: one line of ASCII. Raises ValueError."""
    if len(value) > 1024 or not _HEADER_TEXT.fullmatch(value) or value != value.strip():
        raise ValueError("must be printable ASCII on one line, without spaces at its ends")
    return value


def configured_secret(value: str) -> str:
    """As `configured`, and not empty."""
    if not value:
        raise ValueError("is empty")
    return configured(value)


def header_name(value: str) -> str:
    """A header's name from the configuration: an RFC 3261 token. Raises ValueError."""
    if len(value) > 64 or not _TOKEN.fullmatch(value):
        raise ValueError("is no header name (letters, digits and -.!%*_+`'~)")
    return value


def local_address(value: str) -> tuple[str, int]:
    """ "IP", "IPv4:PORT" or "[IPv6]:PORT" as (ip without brackets, port; 0 for any). Raises ValueError."""
    with_port = _LOCAL.fullmatch(value)
    text, port = (with_port["host"].strip("[]"), int(with_port["port"])) if with_port else (value, 0)
    if port >= 65536:
        raise ValueError("port is above 65535")
    return str(ipaddress.ip_address(text)), port
