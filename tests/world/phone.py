"""A small SIP phone over UDP, TCP or TLS (Debian's sipp has no TLS) that keeps all it sees."""

from __future__ import annotations

from typing import Literal

from world.endpoint import Endpoint, Transport
from world.sip import DOMAIN, digest, header, headers, kind, new_call_id, new_token

IPHONE = "LinphoneiOS/5.2.3 (iPhone) LinphoneSDK/5.3.20"
ANDROID = "LinphoneAndroid/5.2.4 (Pixel 7) LinphoneSDK/5.3.20"
DESK = "Yealink SIP-T46S 66.86.0.15"

Behaviour = Literal["ring", "answer", "busy", "silent"]


class Phone(Endpoint):
    """Registers with digest and answers calls as `behaviour` says; always obeys a CANCEL.

    `contact` overrides host and port in its Contact: behind a NAT a phone names one that nobody can reach.
    """

    def __init__(
        self,
        user: str,
        proxy: tuple[str, int],
        address: str,
        transport: Transport = "udp",
        *,
        behaviour: Behaviour = "ring",
        user_agent: str = IPHONE,
        contact: str | None = None,
        instance: str | None = None,
        preface: bytes = b"",
    ) -> None:
        self.user, self.user_agent, self.behaviour = user, user_agent, behaviour
        self.instance = instance
        self.given_contact = contact
        self.register_call_id = new_call_id("reg-")
        self._cseq = 0
        self._invites: dict[str, str] = {}
        super().__init__(proxy, address, transport, preface=preface)

    @property
    def aor(self) -> str:
        return f"sip:{self.user}@{DOMAIN}"

    @property
    def contact_uri(self) -> str:
        return f"sip:{self.user}@{self.given_contact or self.host_port};transport={self.transport}"

    def register(self, expires_s: int = 600, *, timeout_s: float = 5) -> str:
        """REGISTERs, answers the challenge, and returns the last status code."""
        status = self._register_once(expires_s, None, timeout_s)
        if status == "401":
            challenge = header(
                self.transcript.received("401", self.register_call_id)[-1].text, "WWW-Authenticate"
            )
            answer = digest(challenge, self.user, f"pw-{self.user}", "REGISTER", f"sip:{DOMAIN}")
            status = self._register_once(expires_s, answer, timeout_s)
        return status

    def wait_for(self, what: str, call_id: str, timeout_s: float = 8) -> bool:
        """Waits until a request `what` of that call was received."""
        return self.transcript.wait(lambda: self.transcript.received(what, call_id), timeout_s)

    def calls(self) -> list[str]:
        """The Call-IDs of the received INVITEs, one for each, repeats included."""
        return [header(seen.text, "Call-ID") for seen in self.transcript.received("INVITE")]

    def on_message(self, text: str) -> None:
        call_id = header(text, "Call-ID")
        match kind(text):
            case "INVITE" if call_id not in self._invites and self.behaviour != "silent":
                self._invites[call_id] = text
                self._answer_invite(text)
            case "CANCEL" if call_id in self._invites:
                self._reply(text, "200 OK")
                self._reply(self._invites[call_id], "487 Request Terminated")
            case "BYE" | "OPTIONS":
                self._reply(text, "200 OK")

    def _answer_invite(self, invite: str) -> None:
        self._reply(invite, "100 Trying")
        self._reply(invite, "180 Ringing")
        if self.behaviour == "busy":
            self._reply(invite, "486 Busy Here")
        elif self.behaviour == "answer":
            self._reply(invite, "200 OK", body=self.sdp())

    def _reply(self, request: str, status: str, body: str = "") -> None:
        to = header(request, "To")
        if ";tag=" not in to and not status.startswith("100"):
            to += f";tag={self.tag}"
        self.send(
            f"SIP/2.0 {status}",
            *(f"Via: {via}" for via in headers(request, "Via")),
            *(f"Record-Route: {route}" for route in headers(request, "Record-Route")),
            f"From: {header(request, 'From')}",
            f"To: {to}",
            f"Call-ID: {header(request, 'Call-ID')}",
            f"CSeq: {header(request, 'CSeq')}",
            f"Contact: <{self.contact_uri}>",
            f"User-Agent: {self.user_agent}",
            body=body,
        )

    def _register_once(self, expires_s: int, authorization: str | None, timeout_s: float) -> str:
        self._cseq += 1
        cseq = f"{self._cseq} REGISTER"
        instance = f';+sip.instance="<urn:uuid:{self.instance}>"' if self.instance else ""
        self.send(
            f"REGISTER sip:{DOMAIN} SIP/2.0",
            self.via(new_token("z9hG4bK")),
            "Max-Forwards: 70",
            f"From: <{self.aor}>;tag={self.tag}",
            f"To: <{self.aor}>",
            f"Call-ID: {self.register_call_id}",
            f"CSeq: {cseq}",
            f"Contact: <{self.contact_uri}>{instance}",
            f"Expires: {expires_s}",
            f"User-Agent: {self.user_agent}",
            "Supported: outbound, path",
            *([f"Authorization: {authorization}"] if authorization else []),
        )

        def finals() -> list[str]:
            replies = (s.text for s in self.transcript.call(self.register_call_id) if not s.sent)
            return [kind(reply) for reply in replies if header(reply, "CSeq") == cseq]

        if not self.transcript.wait(finals, timeout_s):
            raise TimeoutError(f"no answer to REGISTER of {self.aor} from {self.target}")
        return finals()[0]
