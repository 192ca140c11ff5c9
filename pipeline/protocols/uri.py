"""SIP and tel URIs, name-addrs and the header parameters that detectors ask for.

Everything here takes decoded header text and never raises: what cannot be read is None (or left out).
Users are percent-decoded wherever they appear (RFC 3261 19.1.2); an escape that stands for a control
character or for broken UTF-8 stays as it was written, so no value ever gains a CR, LF or NUL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import quote, unquote_to_bytes

from pipeline.protocols.memo import remember

Source = tuple[str, int, str]
"""Where a phone is reached: ip without brackets, port, transport in lower case."""

_USER_AT_HOST = frozenset({"sip", "sips", "im", "pres"})  # RFC 3261 19.1, RFC 3860, RFC 3859
_SCHEME = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.\-]*)\s*:\s*(.*)", re.DOTALL)
_HOST = re.compile(r"\[([0-9A-Fa-f:.]+)\]|([^\s:;?<>\[\]@]+)")
_PORT = re.compile(r"\s*:\s*([0-9]{1,5})(?![0-9])")
_QUOTED = re.compile(r'"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_QUOTED_PAIR = re.compile(r"\\(.)", re.DOTALL)
# A quoted string and a <URI> hide separators; both may lack their end.
_AT_COMMA = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|<[^>]*>?|,', re.DOTALL)
_AT_SEMICOLON = re.compile(r'"[^"\\]*(?:\\.[^"\\]*)*"?|<[^>]*>?|;', re.DOTALL)
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_VISUAL_SEPARATORS = str.maketrans("", "", "-.()")  # RFC 3966 section 3
_SENT_PROTOCOL = re.compile(r"\s*SIP\s*/\s*[0-9.]+\s*/\s*([^\s;]+)\s+(.*)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class SipUri:
    """A URI taken apart. `host` is lower-case, IPv6 without brackets; a password is never kept.

    For `tel` the number stands in `user` without visual separators (RFC 3966 section 3) and `host` is
    None. For schemes that are not about users and hosts both are None.
    """

    scheme: str
    user: str | None = None
    user_raw: str | None = None
    host: str | None = None
    port: int | None = None
    params: Mapping[str, str] = field(default_factory=dict)
    headers: str = ""  # what follows `?`, as written
    odd: str = (
        ""  # what stands behind host and port where nothing may: an IPv6 address without brackets, a bad port
    )

    @property
    def transport(self) -> str:
        """The transport it asks for, lower-case; udp, or tls for sips, where it says nothing."""
        return self.params.get("transport", "").lower() or ("tls" if self.scheme == "sips" else "udp")


@dataclass(frozen=True, slots=True)
class NameAddr:
    """One value of From, To, Contact, Path or Route: `display <uri>;params` (RFC 3261 20.10)."""

    display: str | None
    uri: str
    params: dict[str, str]


@dataclass(frozen=True, slots=True)
class Contact:
    """One Contact of a REGISTER or of the answer to it. `star` is the wildcard `*` (RFC 3261 10.2.2)."""

    uri: str
    address: SipUri | None
    display: str | None
    params: dict[str, str]
    star: bool = False

    @property
    def expires(self) -> int | None:
        """Seconds, from the Contact's own parameter; None where it has none or no number."""
        return _number(self.params.get("expires"))

    @property
    def q(self) -> float | None:
        """Preference from 0 to 1 (RFC 3261 20.10)."""
        value = self.params.get("q", "")
        return float(value) if re.fullmatch(r"(0(\.[0-9]{0,3})?|1(\.0{0,3})?)", value) else None

    @property
    def instance(self) -> str | None:
        """The device's `+sip.instance` without quotes and brackets (RFC 5626 4.1); UUIDs in lower case."""
        value = self.params.get("+sip.instance", "").strip().removeprefix("<").removesuffix(">").strip()
        return (value.lower() if value[:9].lower() == "urn:uuid:" else value) or None

    @property
    def received(self) -> str | None:
        """The URI that Kamailio saw the REGISTER come from, where it says so."""
        return self.params.get("received") or None


def unescape(text: str) -> str:
    """Percent-decode; leave `text` alone where that would make a control character or broken UTF-8."""
    if "%" not in text:
        return text
    try:
        plain = unquote_to_bytes(text).decode()
    except UnicodeDecodeError:
        return text
    return text if _CONTROL.search(plain) else plain


def escape_user(user: str) -> str:
    """The user as it may stand in a URI: RFC 3261 25.1 `user`, everything else percent-encoded."""
    return quote(user, safe="-_.!~*'()&=+$,;?/")


@remember
def parse_uri(text: str) -> SipUri | None:
    """Take a URI apart; None when it has no scheme, or a sip URI no host."""
    match = _SCHEME.match(text)
    if match is None:
        return None
    scheme, rest = match[1].lower(), match[2].strip()
    if scheme == "tel":
        number, _, params = rest.partition(";")
        digits = unescape(number).translate(_VISUAL_SEPARATORS).strip()
        return SipUri(scheme, digits or None, number or None, params=parse_params(params, decode=True))
    if scheme not in _USER_AT_HOST:
        return SipUri(scheme)
    user_raw, address = _split_user(rest)
    host = _HOST.match(address)
    if host is None:
        return None
    port = _PORT.match(address, host.end())
    number_of_port = int(port[1]) if port else None
    rest, _, headers = address[(port or host).end() :].partition("?")
    odd, _, params = rest.partition(";")
    return SipUri(
        scheme,
        unescape(user_raw) if user_raw else None,
        user_raw,
        (host[1] or host[2]).lower(),
        number_of_port if number_of_port is not None and number_of_port <= 65535 else None,
        parse_params(params, decode=True),
        headers,
        odd.strip(),
    )


def _split_user(rest: str) -> tuple[str | None, str]:
    """`user:password@address` into the user and the address.

    The user ends at the first `@`; where a sloppy sender left a raw `@` in the user, at the last one
    before the URI's parameters or headers.
    """
    at = rest.find("@")
    if at < 0:
        return None, rest
    if rest.find("@", at + 1) > 0:
        end = min((i for i in (rest.find(";", at), rest.find("?", at)) if i >= 0), default=len(rest))
        at = rest.rfind("@", at, end)
    return rest[:at].partition(":")[0].strip() or None, rest[at + 1 :].strip()


def split_list(text: str) -> list[str]:
    """The comma-separated values of a header, minding quotes and angle brackets; empty ones left out."""
    return _split(text, _AT_COMMA, ",")


def _split(text: str, tokens: re.Pattern[str], separator: str) -> list[str]:
    if separator not in text:
        parts = [text]
    else:
        parts, start = [], 0
        for token in tokens.finditer(text):
            if token[0] == separator:
                parts.append(text[start : token.start()])
                start = token.end()
        parts.append(text[start:])
    return [part for part in map(str.strip, parts) if part]


def parse_params(text: str, *, decode: bool = False) -> dict[str, str]:
    """`;name=value;flag` as a dict: names lower-case, quotes taken off, a flag is "". The first one wins."""
    params: dict[str, str] = {}
    if not text:
        return params
    for part in _split(text, _AT_SEMICOLON, ";"):
        name, _, value = part.partition("=")
        name, value = name.strip(), value.strip()
        if decode:
            name, value = unescape(name), unescape(value)
        if value.startswith('"'):
            value = unquote_string(value)
        params.setdefault(name.lower(), value)
    return params


def unquote_string(text: str) -> str:
    """The content of a quoted-string (RFC 3261 25.1), tolerating a missing end quote."""
    inner = text[1:-1] if len(text) > 1 and text.endswith('"') else text[1:]
    return _QUOTED_PAIR.sub(r"\1", inner) if "\\" in inner else inner


def parse_name_addr(text: str) -> NameAddr:
    """One `display <uri>;params` or `uri;params`; without angle brackets the parameters are the header's."""
    text = text.strip()
    quoted = _QUOTED.match(text)
    display = unquote_string(quoted[0]) if quoted else None
    rest = text[quoted.end() :] if quoted else text
    before, bracket, after = rest.partition("<")
    if not bracket:
        uri, _, params = rest.partition(";")
    else:
        uri, _, params = after.partition(">")
        if display is None:
            display = before.strip().strip('"')
    return NameAddr(display or None, uri.strip(), parse_params(params))


def parse_name_addrs(text: str) -> list[NameAddr]:
    """All values of a list header (Path, Route, Record-Route, Contact), topmost first."""
    return [parse_name_addr(value) for value in split_list(text)]


def parse_contacts(text: str | None) -> list[Contact]:
    """The Contacts of a message, in order; [] when it has none."""
    if not text:
        return []
    if text.strip() == "*":
        return [Contact("*", None, None, {}, star=True)]
    return [
        Contact(value.uri, parse_uri(value.uri), value.display, value.params)
        for value in parse_name_addrs(text)
    ]


def aor(user: str | None, host: str | None) -> str | None:
    """The key of an account, `bob@sip.test`; None without user or host (RFC 3261 10.3 step 5).

    `user` is percent-decoded already and keeps its case, `host` is compared without case and final dot.
    """
    if not user or not host:
        return None
    return f"{user}@{host.lower().rstrip('.')}"


def push_provider(contact: Contact) -> str | None:
    """Who wakes this device: `apns`, `fcm`, ... (RFC 8599 `pn-provider`; before it, Linphone's `pn-type`)."""
    params = {**contact.params, **(contact.address.params if contact.address else {})}
    provider = params.get("pn-provider", "").lower()
    if provider:
        return provider
    legacy = params.get("pn-type", "").lower()
    return {"apple": "apns", "firebase": "fcm", "google": "fcm"}.get(legacy, legacy) or None


def path_received(path: str | None) -> Source | None:
    """Where the edge proxy nearest the phone saw it: the last Path element's `received` (RFC 3327 5.2).

    Kamailio's path module writes it as an escaped URI: `received=sip:192.0.2.1:5060%3Btransport%3Dtcp`.
    """
    elements = parse_name_addrs(path) if path else []
    if not elements:
        return None
    last = parse_uri(elements[-1].uri)
    received = last.params.get("received") if last else None
    origin = parse_uri(received or elements[-1].params.get("received", ""))
    if origin is None or origin.host is None:
        return None
    return origin.host, origin.port or _default_port(origin.transport), origin.transport


def via_source(via: str | None) -> Source | None:
    """Where the sender of a Via really is: `received`, `rport`, then sent-by (RFC 3261 18.2.1, RFC 3581)."""
    match = _SENT_PROTOCOL.match(via) if via else None
    if match is None:
        return None
    transport = match[1].lower()
    host = _HOST.match(match[2])
    if host is None:
        return None
    port = _PORT.match(match[2], host.end())
    params = parse_params(match[2][(port or host).end() :])
    ip = params.get("received", "").strip("[]") or host[1] or host[2]
    sent_by_port = int(port[1]) if port else _default_port(transport)
    return ip.lower(), _number(params.get("rport")) or sent_by_port, transport


def _default_port(transport: str) -> int:
    """RFC 3261 19.1.2, RFC 7118 section 8."""
    return {"tls": 5061, "ws": 80, "wss": 443}.get(transport, 5060)


def _number(text: str | None) -> int | None:
    return int(text) if text and len(text) <= 10 and text.isascii() and text.isdigit() else None
