"""The compensating call in its barest form, message by message, to try Kamailio's side without hepduck."""

from __future__ import annotations

from world.endpoint import Endpoint
from world.sip import DOMAIN, header, headers, new_token

SECRET = "correct horse battery staple"

# What a phone that rings until it is told otherwise sees of a compensating call.
COMPENSATED = [
    "received INVITE",
    "sent 100",
    "sent 180",
    "received CANCEL",
    "sent 200",
    "sent 487",
    "received ACK",
]


class LateCaller(Endpoint):
    """Makes one compensating call; each step is a method, so that a test may leave one out."""

    def __init__(self, proxy: tuple[str, int], call_id: str, user: str, address: str = "127.0.0.1") -> None:
        self.call_id, self.user = call_id, user
        self.branch = new_token("z9hG4bK")
        super().__init__(proxy, address)
        self.tag = f"late-{self.tag}"

    def invite(self, **extra: str | None) -> None:
        """The INVITE; `extra` headers by name, `_` for `-`, None for one that is left out."""
        lines = [f"{name.replace('_', '-')}: {value}" for name, value in extra.items() if value is not None]
        self._request("INVITE", f"Contact: <sip:late@{self.host_port}>", *lines, body=self.sdp())

    def cancel(self, reason: str | None = None) -> None:
        self._request("CANCEL", *([f"Reason: {reason}"] if reason else []))

    def ack(self) -> None:
        """The ACK to the negative final reply."""
        self._request("ACK", to=header(self._last_reply("INVITE"), "To"))

    def in_dialog(self, method: str) -> None:
        """For a phone that answered: ACK to its 200, then BYE (RFC 3261 13.2.2.4, 12.2.1.1)."""
        answer = [s.text for s in self.transcript.received("200") if "INVITE" in header(s.text, "CSeq")][-1]
        routes = [f"Route: {route}" for route in reversed(headers(answer, "Record-Route"))]
        self.branch = new_token("z9hG4bK")
        uri = header(answer, "Contact").strip("<>")
        self._request(method, *routes, uri=uri, to=header(answer, "To"), cseq=1 if method == "ACK" else 2)

    def wait_for(self, status: str, method: str = "INVITE", timeout_s: float = 8) -> bool:
        """Waits for the reply `status` to `method`."""
        return self.transcript.wait(lambda: status in self.statuses(method), timeout_s)

    def statuses(self, method: str = "INVITE") -> list[str]:
        """The status codes received so far in reply to `method`."""
        replies = (s.text for s in self.transcript.messages if not s.sent)
        return [r.split()[1] for r in replies if header(r, "CSeq").endswith(method)]

    def run(self, reason: str | None, **extra: str | None) -> list[str]:
        """The whole call: INVITE, CANCEL once it rings, ACK. The INVITE's status codes."""
        self.invite(**extra)
        enough = ("180", "4", "5", "6")
        assert self.transcript.wait(lambda: any(s.startswith(enough) for s in self.statuses()), 8)
        if "180" in self.statuses():
            self.cancel(reason)
            assert self.wait_for("487")
        self.ack()
        return self.statuses()

    def _last_reply(self, method: str) -> str:
        replies = [s.text for s in self.transcript.messages if not s.sent]
        return [r for r in replies if header(r, "CSeq").endswith(method)][-1]

    def _request(
        self, method: str, *extra: str, uri: str = "", to: str = "", cseq: int = 1, body: str = ""
    ) -> None:
        aor = f"sip:{self.user}@{DOMAIN}"
        self.send(
            f"{method} {uri or aor} SIP/2.0",
            self.via(self.branch),
            "Max-Forwards: 70",
            f"From: <sip:alice@{DOMAIN}>;tag={self.tag}",
            f"To: {to or f'<{aor}>'}",
            f"Call-ID: {self.call_id}",
            f"CSeq: {cseq} {method}",
            *extra,
            body=body,
        )
