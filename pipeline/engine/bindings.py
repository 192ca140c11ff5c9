"""Who is registered from where: REGISTER transactions, and the devices they make (RFC 3261 10, RFC 5626).

A REGISTER passes one hop per proxy and is mirrored on each; all copies belong to one `Registration`, whose
device address is the phone's own: the source of the copy that the phone itself sent, else what the edge
proxy noted in Path or Via.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple

from pipeline.engine.calls import LegKey, Mark, leg_key, mark_of
from pipeline.engine.events import Address, SipEvent
from pipeline.protocols.uri import Contact, aor, parse_contacts, path_received, via_source

SECOND_US = 1_000_000
ACCEPTED_REMEMBERED = 16  # accepted REGISTERs of one device that a call in progress may look back on
NEVER = Mark(-1, -1, "")
MAX_HOPS = 16  # of one REGISTER; anybody can send more under the same Call-ID
MAX_STRAYS = 16  # its replies that answer no copy of it yet
MAX_AGENTS = 16  # that mirror one hop
PLACES_REMEMBERED = 8  # addresses of one device: a call may have rung it where it no longer is


class Source(NamedTuple):
    """Where a device is reached: address and transport (`udp`, `tcp`, `tls`, `ws`, `wss`)."""

    address: Address
    transport: str

    def __str__(self) -> str:
        """As in a SIP URI's host part: `127.0.0.21:5060;transport=udp`, `[::1]:5061;transport=tls`."""
        ip, port = self.address
        return f"{f'[{ip}]' if ':' in ip else ip}:{port};transport={self.transport}"


@dataclass(frozen=True, eq=False)
class Asked:
    """What a REGISTER asks for, told from one copy of it. Without the message, which would stay in memory with it.

    Most is read only once the REGISTER is accepted: anybody can send headers that take long to read.
    """

    via_count: int  # the copy with the fewest is the nearest to the phone
    account: str | None  # from To (RFC 3261 10.2)
    contact: str | None  # as written
    expires: int | None  # of the header
    user_agent: str | None
    path: str | None
    via_last: str | None
    sender: Source

    @classmethod
    def by(cls, event: SipEvent) -> Asked:
        """As this copy says it."""
        sip = event.sip
        return cls(
            sip.via_count,
            aor(sip.to_user, sip.to_host),
            sip.contact,
            sip.expires,
            sip.user_agent,
            sip.path,
            sip.via_last,
            Source(event.src, event.transport),
        )

    @cached_property
    def contacts(self) -> list[Contact]:
        """The bindings to be made or taken away."""
        return parse_contacts(self.contact)

    @cached_property
    def source(self) -> Source:
        """Where the phone sends from: who sent this copy, or of one that came by an edge proxy what that noted."""
        if self.via_count > 1:
            noted = path_received(self.path) if self.path else None
            if noted is None and self.via_last:
                noted = via_source(self.via_last)
            if noted is not None:
                ip, port, transport = noted
                return Source((ip, port), transport)
        return self.sender


@dataclass(slots=True, eq=False)
class Registration:
    """One REGISTER request of a device, all its copies, and what the registrar said to it."""

    call_id: str
    cseq: int | None
    agent: str
    first: Mark
    trusted: bool
    nearest: Asked | None = None  # the copy of the request nearest the phone
    edge_ips: set[str] = field(default_factory=set)
    requests: dict[LegKey, Mark] = field(default_factory=dict)
    replies: dict[LegKey, dict[str, tuple[int, Mark]]] = field(default_factory=dict)  # finals, by agent
    crowded: bool = False  # more was sent under its Call-ID and CSeq than is followed
    status: int | None = None
    accepted: Mark | None = None  # the 2xx, once it is known to answer this request
    accepted_by: dict[str, Mark] = field(default_factory=dict)  # the same as each agent saw it

    def add(self, event: SipEvent) -> bool:
        """Take one copy or reply in; True when with it the REGISTER is known to be accepted, or when."""
        sip, key = event.sip, leg_key(event)
        self.trusted = self.trusted and event.trusted
        if sip.is_request:
            if key not in self.requests and len(self.requests) >= MAX_HOPS:
                self.crowded = True
                return False
            self.requests.setdefault(key, mark_of(event))
            if sip.via_count > 1:
                self.edge_ips.add(event.src[0])
            if self.nearest is None or sip.via_count < self.nearest.via_count:
                self.nearest = Asked.by(event)
            known = self.replies.get(key, {}).items()
            return True in [self._settle(agent, *reply) for agent, reply in known]
        if sip.status is None or sip.status < 200:
            return False
        answers = key in self.requests
        if not answers and key not in self.replies and len(self.replies) >= MAX_HOPS + MAX_STRAYS:
            self.crowded = True
            return False
        replies = self.replies.setdefault(key, {})
        if event.agent in replies or len(replies) >= MAX_AGENTS:
            return False
        reply = replies[event.agent] = sip.status, mark_of(event)
        return answers and self._settle(event.agent, *reply)

    def _settle(self, agent: str, status: int, mark: Mark) -> bool:
        # Only the registrar's own 2xx makes a binding: on the hop, and under the branch, of a request.
        if not 200 <= status < 300:
            if self.accepted is None:
                self.status = status
            return False
        self.status = status
        if self.accepted is None or mark.ts_us < self.accepted.ts_us:
            self.accepted = mark
        known = self.accepted_by.get(agent)
        if known is not None and known.ts_us <= mark.ts_us:
            return False
        self.accepted_by[agent] = mark
        return True

    def accepted_us(self, agent: str) -> int:
        """When it was accepted, told by the clock of `agent` if that saw it; only of an accepted one."""
        assert self.accepted is not None
        return self.accepted_by.get(agent, self.accepted).ts_us

    @property
    def asked(self) -> Asked:
        """The request as the phone sent it (as near as the mirror sees)."""
        assert self.nearest is not None
        return self.nearest

    @property
    def aor(self) -> str | None:
        """The account; None when it names none."""
        return self.asked.account

    @property
    def source(self) -> Source:
        """Where the phone sends from."""
        return self.asked.source

    @property
    def contacts(self) -> Sequence[Contact]:
        """The bindings that it asks for or takes away."""
        return self.asked.contacts

    @property
    def contact(self) -> Contact | None:
        """The binding it asks for: the first contact that it does not remove."""
        return next((c for c in self.contacts if not self._removes(c)), None)

    def _removes(self, contact: Contact) -> bool:
        expires = contact.expires if contact.expires is not None else self.asked.expires
        return contact.star or expires == 0

    @property
    def binds(self) -> bool:
        """It makes a binding. It may instead remove some (`Contact: *`, expires 0) or only ask which there
        are (no Contact; RFC 3261 10.2.2, 10.2.3)."""
        return self.contact is not None

    @property
    def removes(self) -> bool:
        """It takes bindings away and makes none."""
        return bool(self.contacts) and not self.binds

    @property
    def expires_s(self) -> int:
        """The lifetime asked for; `expires=` of the Contact overrides the header (RFC 3261 10.2.1.1)."""
        contact = self.contact
        if contact is not None and contact.expires is not None:
            return contact.expires
        return self.asked.expires if self.asked.expires is not None else 3600

    @property
    def identity(self) -> str:
        """The device: its +sip.instance (RFC 5626 4.1), else where it sends from."""
        return self.instance or str(self.source)

    @property
    def instance(self) -> str | None:
        """The +sip.instance of its contacts."""
        return next((c.instance for c in self.contacts if c.instance), None)


class Accepted(NamedTuple):
    """An accepted REGISTER and when it was, by the clock that was asked for."""

    ts_us: int
    registration: Registration


class Place(NamedTuple):
    """Where a device is or was to be found, from its newest REGISTER from there."""

    source: Source
    contact: str  # the registrar makes it the Request-URI of calls to the device (RFC 3261 16.5)
    user: str | None  # of the contact: two accounts may share one address, calls to it are told apart by this
    edge_ips: set[str]  # the edge proxies that the REGISTER came through
    ts_us: int


@dataclass(slots=True, eq=False)
class Device:
    """A phone of one account, known from its accepted REGISTERs."""

    aor: str
    identity: str
    agent: str
    accepted: deque[Registration] = field(default_factory=lambda: deque(maxlen=ACCEPTED_REMEMBERED))
    places: dict[Address, Place] = field(default_factory=dict)  # oldest first
    removed_us: int = -1

    @property
    def latest(self) -> Registration:
        """The newest accepted REGISTER."""
        return max(self.accepted, key=lambda registration: registration.accepted or NEVER)

    def accepted_between(self, after_us: int, until_us: int, agent: str) -> list[Accepted]:
        """Its REGISTERs accepted in (`after_us`, `until_us`] by the clock of `agent`, in time order."""
        times = [Accepted(registration.accepted_us(agent), registration) for registration in self.accepted]
        return sorted((a for a in times if after_us < a.ts_us <= until_us), key=lambda a: a.ts_us)

    @property
    def expires_us(self) -> int:
        """When the newest binding runs out: each REGISTER sets its lifetime anew (RFC 3261 10.3)."""
        return _expires_us(self.latest)

    def is_bound_at(self, ts_us: int) -> bool:
        """Whether what a REGISTER before `ts_us` bound still stood then: neither removed nor run out."""
        earlier = [one for one in self.accepted if _accepted_us(one) < ts_us]
        last = max(earlier, key=_accepted_us, default=None)
        if last is None or _accepted_us(last) <= self.removed_us < ts_us:
            return False
        return ts_us <= _expires_us(last)

    def remember(self, registration: Registration, ts_us: int, memory_us: int) -> None:
        """Take in a REGISTER accepted at `ts_us`; of older ones those of the last `memory_us` are kept."""
        while self.accepted and _accepted_us(self.accepted[0]) < ts_us - memory_us:
            self.accepted.popleft()
        self.accepted.append(registration)
        contact = registration.contact
        user = contact.address.user if contact and contact.address else None
        place = Place(registration.source, contact.uri if contact else "", user, registration.edge_ips, ts_us)
        address = registration.source.address
        known = self.places.pop(address, place)
        self.places[address] = max(known, place, key=lambda p: p.ts_us)
        for old in list(self.places)[:-PLACES_REMEMBERED]:
            del self.places[old]

    def known_at(self) -> set[tuple[Address, str | None]]:
        """Its addresses, each with the user that calls to it name there."""
        return {(address, place.user) for address, place in self.places.items()}

    def is_removed_by(self, registration: Registration) -> bool:
        """Whether an un-REGISTER of the device's account takes this device's binding away (RFC 3261 10.2.2)."""
        named = {contact.uri for contact in registration.contacts}
        return (
            any(contact.star for contact in registration.contacts)
            or registration.identity == self.identity
            or not named.isdisjoint(place.contact for place in self.places.values())
        )


def _accepted_us(registration: Registration) -> int:
    return (registration.accepted or NEVER).ts_us


def _expires_us(registration: Registration) -> int:
    return _accepted_us(registration) + registration.expires_s * SECOND_US
