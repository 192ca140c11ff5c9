"""Who is registered from where: REGISTER transactions, and the devices they make (RFC 3261 10, RFC 5626).

A REGISTER passes one hop per proxy and is mirrored on each; all copies belong to one `Registration`, whose
device address is the phone's own: the source of the copy that the phone itself sent, else what the edge
proxy noted in Path or Via.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import NamedTuple

from pipeline.engine.calls import LegKey, Mark, leg_key
from pipeline.engine.events import Address, SipEvent
from pipeline.protocols.sip import SipMessage
from pipeline.protocols.uri import Contact, aor, parse_contacts, path_received, via_source

ACCEPTED_REMEMBERED = 16  # accepted REGISTERs of one device that a call in progress may look back on


class Source(NamedTuple):
    """Where a device is reached: address and transport (`udp`, `tcp`, `tls`, `ws`, `wss`)."""

    address: Address
    transport: str

    def __str__(self) -> str:
        """As in a SIP URI's host part: `127.0.0.21:5060;transport=udp`, `[::1]:5061;transport=tls`."""
        ip, port = self.address
        return f"{f'[{ip}]' if ':' in ip else ip}:{port};transport={self.transport}"


def source_of(event: SipEvent) -> Source:
    """The phone's own address, told from one copy of its REGISTER."""
    sip = event.sip
    if sip.via_count > 1:
        noted = path_received(sip.path) if sip.path else None
        if noted is None and sip.via_last:
            noted = via_source(sip.via_last)
        if noted is not None:
            ip, port, transport = noted
            return Source((ip, port), transport)
    return Source(event.src, event.transport)


@dataclass(slots=True, eq=False)
class Registration:
    """One REGISTER request of a device, all its copies, and what the registrar said to it."""

    call_id: str
    cseq: int | None
    aor: str
    agent: str
    sip: SipMessage  # the copy nearest the phone
    source: Source
    via_count: int
    first: Mark
    trusted: bool
    contacts: list[Contact]
    edge_ips: set[str] = field(default_factory=set)
    requests: dict[LegKey, Mark] = field(default_factory=dict)
    replies: dict[LegKey, tuple[int, Mark]] = field(default_factory=dict)
    status: int | None = None
    accepted: Mark | None = None  # the 2xx, once it is known to answer this request

    @property
    def contact(self) -> Contact | None:
        """The binding it asks for: the first contact that it does not remove."""
        return next((c for c in self.contacts if not self._removes(c)), None)

    def _removes(self, contact: Contact) -> bool:
        expires = contact.expires if contact.expires is not None else self.sip.expires
        return contact.star or expires == 0

    @property
    def removes(self) -> bool:
        """It takes bindings away and makes none (`Contact: *`, expires 0; RFC 3261 10.2.2)."""
        return bool(self.contacts) and self.contact is None

    @property
    def expires_s(self) -> int:
        """The lifetime asked for; `expires=` of the Contact overrides the header (RFC 3261 10.2.1.1)."""
        contact = self.contact
        if contact is not None and contact.expires is not None:
            return contact.expires
        return self.sip.expires if self.sip.expires is not None else 3600

    @property
    def identity(self) -> str:
        """The device: its +sip.instance (RFC 5626 4.1), else where it sends from."""
        instance = next((c.instance for c in self.contacts if c.instance), None)
        return instance or str(self.source)


def registration_of(event: SipEvent) -> Registration | None:
    """The registration that a REGISTER request begins; None when it names no address-of-record."""
    sip = event.sip
    account = aor(sip.to_user, sip.to_host)
    if account is None or sip.call_id is None:
        return None
    contacts = parse_contacts(sip.contact) if sip.contact else []
    return Registration(
        call_id=sip.call_id,
        cseq=sip.cseq,
        aor=account,
        agent=event.agent,
        sip=sip,
        source=source_of(event),
        via_count=sip.via_count,
        first=Mark(event.ts_us, event.msg_id),
        trusted=event.trusted,
        contacts=contacts,
    )


def add_request(registration: Registration, event: SipEvent) -> None:
    """Another copy, or a retransmission, of the same REGISTER."""
    registration.requests.setdefault(leg_key(event), Mark(event.ts_us, event.msg_id))
    registration.trusted = registration.trusted and event.trusted
    if event.sip.via_count > 1:
        registration.edge_ips.add(event.src[0])
    if event.sip.via_count < registration.via_count:
        registration.via_count = event.sip.via_count
        registration.sip = event.sip
        registration.source = source_of(event)


def settle(registration: Registration) -> bool:
    """Look whether a final reply answers the request on any hop; True when that is news.

    Only the registrar's own 2xx makes a binding: a reply counts on the hop, and under the branch, of a
    request that was mirrored.
    """
    for key, (status, mark) in registration.replies.items():
        if key not in registration.requests:
            continue
        known = registration.accepted
        if 200 <= status < 300:
            registration.status = status
            if known is None or mark.ts_us < known.ts_us:
                registration.accepted = mark
            if known is None:
                return True
        elif registration.status is None:
            registration.status = status
    return False


class Accepted(NamedTuple):
    """One accepted REGISTER in a device's memory."""

    ts_us: int
    registration: Registration


@dataclass(slots=True, eq=False)
class Device:
    """A phone of one account, known from its accepted REGISTERs."""

    aor: str
    identity: str
    agent: str
    accepted: deque[Accepted] = field(default_factory=lambda: deque(maxlen=ACCEPTED_REMEMBERED))
    sources: dict[Address, Source] = field(default_factory=dict)  # oldest first; where it was seen
    removed_us: int = -1
    expires_us: int = 0

    @property
    def latest(self) -> Registration:
        """The newest accepted REGISTER."""
        return max(self.accepted, key=lambda accepted: accepted.ts_us).registration

    def accepted_between(self, after_us: int, until_us: int) -> Accepted | None:
        """The first accepted REGISTER in (`after_us`, `until_us`] that was not taken back since."""
        inside = [a for a in self.accepted if after_us < a.ts_us <= until_us and a.ts_us > self.removed_us]
        return min(inside, key=lambda accepted: accepted.ts_us, default=None)
