"""Short stories of phones and calls, told as the SIP messages that a proxy's mirror would bring (RFC 3261).

One proxy at 192.0.2.1 mirrors what it receives and what it sends on. All times are milliseconds after `T0_US`.
Messages are written out as text here and read like any other traffic; nothing is taken from our own code.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace
from typing import Any

from detectors.late_register import LateRegister, LateRegisterSettings
from pipeline.engine.commands import Finding
from pipeline.engine.engine import Engine
from pipeline.engine.events import Address, SipEvent
from pipeline.engine.state import StateSettings
from pipeline.protocols.sip import parse

T0_US = 1_800_000_000_000_000
PROXY: Address = ("192.0.2.1", 5060)
CALLER: Address = ("198.51.100.1", 5060)
STRANGER: Address = ("203.0.113.66", 5060)
AGENT = "192.0.2.1/2001"
IOS = "LinphoneiOS/5.2.3 (iPhone) LinphoneSDK/5.3.20"
ANDROID = "LinphoneAndroid/5.2.4 (Pixel 7) LinphoneSDK/5.3.20"
DESK = "Yealink SIP-T46S 66.86.0.15"
REASONS = {100: "Trying", 180: "Ringing", 200: "OK", 401: "Unauthorized", 487: "Request Terminated"}


@dataclass
class Phone:
    """A phone of an account at one address. `params` go into its Contact URI, `header_params` after it."""

    port: int = 20001
    account: str = "bob@sip.test"
    ip: str = "203.0.113.21"
    instance: str | None = "urn:uuid:00000000-0000-4000-8000-000000000001"
    user_agent: str = IOS
    transport: str = "udp"
    params: str = ""
    header_params: str = ""

    @property
    def address(self) -> Address:
        return self.ip, self.port

    @property
    def target(self) -> str:
        host = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{host}:{self.port};transport={self.transport}"

    @property
    def uri(self) -> str:
        return f"sip:{self.account.partition('@')[0]}@{self.target}{self.params}"

    @property
    def contact(self) -> str:
        instance = f';+sip.instance="<{self.instance}>"' if self.instance else ""
        return f"<{self.uri}>{instance}{self.header_params}"


IPHONE = Phone()
IPAD = Phone(20002, ip="203.0.113.22", instance="urn:uuid:00000000-0000-4000-8000-000000000002")
DESK_PHONE = Phone(
    20003, ip="203.0.113.23", instance="urn:uuid:00000000-0000-4000-8000-000000000003", user_agent=DESK
)
MOVED = replace(IPHONE, port=20009)  # the same phone, come back from a new port


@dataclass
class Story:
    """What the mirror saw, in the order of telling."""

    events: list[SipEvent] = field(default_factory=list)
    agent: str = AGENT
    trusted: bool = True
    serial: int = 0

    def message(self, ms: float, src: Address, dst: Address, text: str, transport: str = "udp") -> None:
        """One mirrored message; `text` has its header lines one per line."""
        payload = "\r\n".join([*text.strip().splitlines(), "Content-Length: 0", "", ""]).encode()
        ts_us = T0_US + round(ms * 1000)
        (sip,) = parse(payload)
        self.serial += 1
        self.events.append(SipEvent(ts_us, self.serial, self.agent, self.trusted, transport, src, dst, sip))

    def register(
        self,
        ms: float,
        phone: Phone = IPHONE,
        *,
        status: int = 200,
        contact: str | None = None,
        expires: int | None = 600,
        answered_by: Address = PROXY,
        reply_branch: str | None = None,
        copies: int = 1,
        edge: Address | None = None,
    ) -> None:
        """A REGISTER and, 0.1 ms later, what the registrar said; `copies` retransmissions of both.

        `edge` is a proxy between the two: it adds its Via and a Path that says where it saw the phone (RFC 3327).
        """
        self.serial += 1
        via = f"SIP/2.0/{phone.transport.upper()} {phone.ip}:{phone.port};rport;branch=z9hG4bK"
        phones_via, path, sender, transport = "", "", phone.address, phone.transport
        if edge is not None:
            received = f"sip:{phone.ip}:{phone.port}%3Btransport%3D{phone.transport}"
            path = f"Path: <sip:{edge[0]}:{edge[1]};lr;received={received}>\n"
            phones_via = f"Via: {via}phone{self.serial};received={phone.ip}\n"
            via = f"SIP/2.0/UDP {edge[0]}:{edge[1]};branch=z9hG4bK"
            sender, transport = edge, "udp"
        common = (
            f"From: <sip:{phone.account}>;tag=r1\nCall-ID: reg-{self.serial}\nCSeq: {self.serial} REGISTER\n"
        )
        expiry = "" if expires is None else f"Expires: {expires}\n"
        contacts = f"Contact: {phone.contact if contact is None else contact}\n" if contact != "" else ""
        branch = f"r{self.serial}"
        request = (
            f"REGISTER sip:{phone.account.partition('@')[2]} SIP/2.0\nVia: {via}{branch}\n{phones_via}{path}{common}"
            f"To: <sip:{phone.account}>\n{contacts}{expiry}User-Agent: {phone.user_agent}\n"
        )
        reply = (
            f"SIP/2.0 {status} {REASONS.get(status, 'No')}\nVia: {via}{reply_branch or branch}\n{phones_via}{common}"
            f"To: <sip:{phone.account}>;tag=registrar\n"
        )
        for copy in range(copies):
            at_ms = ms + 500 * copy
            self.message(at_ms - 0.1, sender, PROXY, request, transport)
            self.message(at_ms, answered_by, sender, reply, transport)

    def call(self, ms: float = 0, to: str = "sip:bob@sip.test", **more: Any) -> Call:
        """An INVITE that comes in, and the proxy's 100."""
        call = Call(self, f"call-{len(self.events)}@caller.test", to, **more)
        call.invite(ms)
        return call


@dataclass
class Call:
    """One call: `to` is the Request-URI as the caller wrote it, `to_header` the URI in To."""

    story: Story
    call_id: str
    to: str
    to_header: str | None = None
    from_uri: str = "sip:alice@sip.test"
    from_tag: str = "a1"
    caller: Address = CALLER
    cseq: int = 1

    @property
    def branch(self) -> str:
        return f"z9hG4bKin{self.cseq}{self.call_id}"

    def _text(self, start: str, branches: list[tuple[str, Address]], method: str, to_tag: str = "") -> str:
        vias = "".join(f"Via: SIP/2.0/UDP {ip}:{port};branch={branch}\n" for branch, (ip, port) in branches)
        return (
            f'{start}\n{vias}From: "Alice" <{self.from_uri}>;tag={self.from_tag}\n'
            f"To: <{self.to_header or self.to}>{to_tag}\nCall-ID: {self.call_id}\nCSeq: {self.cseq} {method}\n"
        )

    def request(self, ms: float, method: str, *, src: Address | None = None, to_tag: str = "") -> None:
        """A request on the caller's hop."""
        text = self._text(f"{method} {self.to} SIP/2.0", [(self.branch, self.caller)], method, to_tag)
        self.story.message(ms, src or self.caller, PROXY, text)

    def reply(self, ms: float, status: int, method: str = "INVITE", *, src: Address = PROXY) -> None:
        """A reply on the caller's hop."""
        start = f"SIP/2.0 {status} {REASONS.get(status, 'Other')}"
        text = self._text(start, [(self.branch, self.caller)], method, ";tag=b1" if status > 100 else "")
        self.story.message(ms, src, self.caller, text)

    def invite(self, ms: float) -> None:
        """The INVITE and the proxy's 100."""
        self.request(ms, "INVITE")
        self.reply(ms + 0.1, 100)

    def challenged(self, ms: float) -> None:
        """The proxy asks for credentials; the caller comes again."""
        self.reply(ms, 407)
        self.request(ms + 1, "ACK")
        self.cseq += 1
        self.invite(ms + 2)

    def branch_to(self, phone: Phone) -> str:
        return f"z9hG4bKout{self.cseq}{phone.port}{self.call_id}"

    def fork(self, ms: float, phone: Phone = IPHONE, ruri: str | None = None) -> None:
        """The proxy sends the INVITE on to a phone."""
        vias = [(self.branch_to(phone), PROXY), (self.branch, self.caller)]
        text = self._text(f"INVITE {ruri or phone.uri} SIP/2.0", vias, "INVITE")
        self.story.message(ms, PROXY, phone.address, text, phone.transport)

    def phone_says(
        self, ms: float, status: int, phone: Phone = IPHONE, *, src: Address | None = None
    ) -> None:
        """A phone answers that INVITE."""
        vias = [(self.branch_to(phone), PROXY), (self.branch, self.caller)]
        text = self._text(f"SIP/2.0 {status} {REASONS.get(status, 'Other')}", vias, "INVITE", ";tag=b1")
        self.story.message(ms, src or phone.address, PROXY, text, phone.transport)

    def ring(self, ms: float, phone: Phone = IPHONE) -> None:
        """A phone gets the INVITE and rings."""
        self.fork(ms, phone)
        self.phone_says(ms + 1, 180, phone)
        self.reply(ms + 1.2, 180)

    def cancel(self, ms: float) -> None:
        """The caller gives up, the proxy agrees."""
        self.request(ms, "CANCEL")
        self.reply(ms + 0.2, 200, "CANCEL")
        self.reply(ms + 0.3, 487)
        self.request(ms + 1, "ACK", to_tag=";tag=b1")

    def answer(self, ms: float, phone: Phone = DESK_PHONE) -> None:
        """A phone gets the INVITE, and answers at `ms`."""
        self.fork(ms - 200, phone)
        self.phone_says(ms - 0.2, 200, phone)
        self.reply(ms, 200)

    def reject(self, ms: float, status: int, phone: Phone = DESK_PHONE) -> None:
        """A phone gets the INVITE and rejects it; the proxy hands that on."""
        self.fork(ms - 200, phone)
        self.phone_says(ms - 0.2, status, phone)
        self.reply(ms, status)


def lost_call(story: Story, ms: float = 0, to: str = "sip:bob@sip.test", **more: str) -> str:
    """A call that waits for a phone; the caller gives up after a second. Returns its Call-ID."""
    call = story.call(ms, to, **more)
    call.cancel(ms + 1000)
    return call.call_id


def engine_for(state: StateSettings | None = None, **settings: Any) -> Engine:
    """An engine with the one detector."""
    return Engine([LateRegister(LateRegisterSettings(**settings))], state)


def play(events: list[SipEvent], engine: Engine) -> list[Finding]:
    """The findings in `events`, arriving at their own times in the order given."""
    findings: list[Finding] = []
    arrival_us = 0
    for event in events:
        event.call = event.registration = None
        arrival_us = max(arrival_us, event.ts_us)
        findings += engine.tick(arrival_us)
        findings += engine.handle([event], arrival_us)
    return findings + engine.finish()


def findings(story: Story, **settings: Any) -> list[Finding]:
    """The findings of a story, the same however its messages change places within 20 ms."""
    in_order = sorted(story.events, key=lambda event: event.ts_us)
    found = play(in_order, engine_for(**settings))
    rng = random.Random(1)
    for _ in range(20):
        late = {id(event): event.ts_us + rng.uniform(0, 20_000) for event in in_order}
        again = play(sorted(in_order, key=lambda event: late[id(event)]), engine_for(**settings))
        assert sorted(_named(again)) == sorted(_named(found))
    return found


def owed(story: Story, **settings: Any) -> list[tuple[str, str, str]]:
    """Who is owed what: call id, target, outcome."""
    return [(call_id, target, outcome) for call_id, _, target, outcome in _named(findings(story, **settings))]


def _named(found: list[Finding]) -> list[tuple[str, str, str, str]]:
    return [
        (f.call_id or "", f.aor or "", str(f.evidence["target"]), str(f.evidence["outcome"])) for f in found
    ]
