"""The requests of one compensating call, and the reading of what comes back.

Messages are built, written out and parsed by the sipmessage package. Header values are given to it as
text that `headers` has checked, so that the bytes of a Call-ID, a tag or a route stay as they came.
"""

from __future__ import annotations

import re
import secrets
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version

from sipmessage import URI, CSeq, Message, Parameters, Request, Response, Via

from pipeline.engine.actions import OWN_TAG_PREFIX

BRANCH_COOKIE = "z9hG4bK"  # RFC 3261 section 8.1.1.7

try:
    USER_AGENT = f"hepduck/{version('hepduck')}"
except PackageNotFoundError:  # run from a source tree that is not installed
    USER_AGENT = "hepduck"

_FOLD = re.compile(rb"\r\n[ \t]+")
_ADDRESSES = re.compile(r'(?:"(?:[^"\\]|\\.)*"|[^,"<])*<[^<>]*>[^,]*')
_BRANCH = re.compile(r";\s*branch\s*=\s*([^;,\s]+)", re.IGNORECASE)
_TAG = re.compile(r";\s*tag\s*=\s*([^;,\s]+)", re.IGNORECASE)
_URI = re.compile(r"sips?:[\x21-\x7e]+", re.IGNORECASE)
_URI_IN_ADDRESS = re.compile(r"<([^<>]*)>")


@dataclass(frozen=True)
class WrittenUri(URI):
    """A URI that is written out as it was given; URI itself would undo and redo the escapes of its user."""

    text: str = ""

    def __str__(self) -> str:
        return self.text


def written_uri(text: str) -> WrittenUri:
    return WrittenUri(scheme="sip", host="", text=text)


def new_branch() -> str:
    return BRANCH_COOKIE + secrets.token_hex(10)


def new_tag() -> str:
    return OWN_TAG_PREFIX + secrets.token_hex(8)


@dataclass(frozen=True, slots=True)
class Party:
    """Where our messages leave from: transport of the hop, and its sent-by (IPv6 in brackets)."""

    transport: str  # UDP, TCP
    host: str
    port: int

    def via(self, branch: str) -> str:
        parameters = Parameters(rport=None, branch=branch)  # rport: RFC 3581
        return str(Via(self.transport, self.host, self.port, parameters))

    @property
    def contact(self) -> str:
        suffix = "" if self.transport == "UDP" else f";transport={self.transport.lower()}"
        return f"<sip:hepduck@{self.host}:{self.port}{suffix}>"


@dataclass(frozen=True, slots=True)
class Script:
    """All that one call says. Every text in it is checked (see `headers`)."""

    call_id: str
    aor: str  # "sip:bob@sip.test": Request-URI and To
    caller: str  # name-addr of the original caller
    target: tuple[str, str]  # header and value: the phone's address, for the proxy
    secret: tuple[str, str] | None = field(
        default=None, repr=False
    )  # header and value: what the proxy admits the INVITE by
    reason: str | None = None  # value of the CANCEL's Reason header (RFC 3326)
    user_agent: str = USER_AGENT
    offer_sdp: bool = True
    tag: str = field(default_factory=new_tag)
    branch: str = field(default_factory=new_branch)

    def invite(self, party: Party) -> Request:
        """The INVITE, CSeq 1, outside any dialog (RFC 3261 section 8.1.1)."""
        body = sdp_offer(party.host) if self.offer_sdp else b""
        request = self._request("INVITE", self.aor, party, self.branch, cseq=1)
        request.headers.set("Contact", party.contact)
        request.headers.set("Allow", "INVITE, ACK, CANCEL, BYE, OPTIONS")
        if self.secret is not None:
            request.headers.set(*self.secret)
        request.headers.set(*self.target)
        if body:
            request.headers.set("Content-Type", "application/sdp")
        return _with_body(request, body)

    def cancel(self, party: Party) -> Request:
        """The CANCEL of that INVITE: same branch, same CSeq number (RFC 3261 section 9.1)."""
        request = self._request("CANCEL", self.aor, party, self.branch, cseq=1)
        if self.reason is not None:
            request.headers.set("Reason", self.reason)
        return _with_body(request)

    def ack_refusal(self, party: Party, reply: Response) -> Request:
        """The ACK to a 3xx-6xx, part of the INVITE's transaction (RFC 3261 section 17.1.1.3)."""
        request = self._request("ACK", self.aor, party, self.branch, cseq=1)
        request.headers.set("To", reply.headers["To"])
        return _with_body(request)

    def ack_answer(self, party: Party, reply: Response) -> Request:
        """The ACK to a 2xx, a transaction of its own (RFC 3261 section 13.2.2.4)."""
        return _with_body(self._within_dialog("ACK", party, reply, cseq=1))

    def bye(self, party: Party, reply: Response) -> Request:
        """The BYE that ends what a 2xx began (RFC 3261 section 15.1.1)."""
        return _with_body(self._within_dialog("BYE", party, reply, cseq=2))

    def _request(self, method: str, uri: str, party: Party, branch: str, *, cseq: int) -> Request:
        request = Request(method, written_uri(uri))
        for name, value in (
            ("Via", party.via(branch)),
            ("Max-Forwards", "70"),
            ("From", f"{self.caller};tag={self.tag}"),
            ("To", f"<{self.aor}>"),
            ("Call-ID", self.call_id),
            ("CSeq", str(CSeq(cseq, method))),
            ("User-Agent", self.user_agent),
        ):
            request.headers.set(name, value)
        return request

    def _within_dialog(self, method: str, party: Party, reply: Response, *, cseq: int) -> Request:
        """A request in the dialog of a 2xx: remote target and route set (RFC 3261 section 12.2.1.1)."""
        uri = address_uri(reply.headers.get("Contact") or "") or self.aor
        routes = split_addresses(reply.headers.getlist("Record-Route"))[::-1]
        if routes and ";lr" not in (address_uri(routes[0]) or "").lower():  # a strict router
            routes, uri = [*routes[1:], f"<{uri}>"], address_uri(routes[0]) or uri
        request = self._request(method, uri, party, new_branch(), cseq=cseq)
        request.headers.set("To", reply.headers["To"])
        if routes:
            request.headers.setlist("Route", routes)
        return request


def _with_body(request: Request, body: bytes = b"") -> Request:
    request.headers.set("Content-Length", str(len(body)))
    request.body = body
    return request


def sdp_offer(host: str) -> bytes:
    """A plain audio offer (RFC 3264), for phones that ring only for a call they could take.

    Nobody will listen: the port is 9 (discard).
    """
    address = host.strip("[]")
    family = "IP6" if ":" in address else "IP4"
    lines = (
        "v=0",
        f"o=hepduck 1 1 IN {family} {address}",
        "s=-",
        f"c=IN {family} {address}",
        "t=0 0",
        "m=audio 9 RTP/AVP 96 0 8 101",
        "a=rtpmap:96 opus/48000/2",
        "a=rtpmap:0 PCMU/8000",
        "a=rtpmap:8 PCMA/8000",
        "a=rtpmap:101 telephone-event/8000",
        "a=fmtp:101 0-15",
        "a=sendrecv",
    )
    return "".join(f"{line}\r\n" for line in lines).encode()


def split_addresses(values: list[str]) -> list[str]:
    """Single addresses out of header values that may hold several, each as it was written."""
    return [found.strip() for value in values for found in _ADDRESSES.findall(value)]


def address_uri(address: str) -> str | None:
    """The URI of the first address (without angle brackets its parameters end it, RFC 3261 section 20);
    None when there is none that could be called."""
    found = _URI_IN_ADDRESS.search(address)
    uri = found[1] if found else address.partition(";")[0].strip()
    return uri if _URI.fullmatch(uri) else None


def parse(data: bytes) -> Request | Response:
    """One whole message. Raises ValueError.

    The package is strict where replies are not: a folded header, a reason phrase in Latin-1 or none
    at all must not cost us the status of a call.
    """
    head, blank, body = data.partition(b"\r\n\r\n")
    head = _FOLD.sub(b" ", head)
    first, _, rest = head.partition(b"\r\n")
    if first.startswith(b"SIP/2.0 ") and first.count(b" ") == 1:
        first += b" "
    head = first + b"\r\n" + rest
    return Message.parse(head.decode("utf-8", "replace").encode() + blank + body)


def branch_and_method(reply: Response) -> tuple[str, str] | None:
    """What a reply is matched by: branch of its top Via, method of its CSeq (RFC 3261 section 17.1.3).

    The package's Via knows no `received=::1`, which RFC 3261 section 20.42 allows and Kamailio writes.
    """
    found = _BRANCH.search(reply.headers.get("Via") or "")
    try:
        return (found[1], reply.cseq.method) if found else None
    except (KeyError, ValueError):
        return None


def to_tag(reply: Response) -> str:
    """The To tag of a reply, "" when there is none."""
    found = _TAG.search(reply.headers["To"].rpartition(">")[2])
    return found[1] if found else ""


def refuse(request: Request, status: int, phrase: str) -> Response:
    """A stateless reply to a request that reached us (RFC 3261 section 8.2.6)."""
    reply = Response(status, phrase)
    for name in ("Via", "From", "To", "Call-ID", "CSeq"):
        reply.headers.setlist(name, list(request.headers.getlist(name)))
    reply.headers.set("Content-Length", "0")
    return reply
