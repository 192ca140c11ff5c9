"""REGISTERs by hand, as a proxy's mirror would bring them: phones that behave, phones that flap, scanners, storms.

The messages are written as text here (RFC 3261 10), none is taken from our own code. Each exchange is a list of HEP3
packets in order of time; times are seconds since the epoch.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from cdr_recordings import AT_ONCE
from tap import hep3

from pipeline.decode import Decoder
from pipeline.engine.engine import Engine
from pipeline.engine.rows import registration_row
from pipeline.ingest import Datagram
from pipeline.store.writer import Writer

PROXY = ("192.0.2.1", 5060)
PHRASES = {
    200: "OK",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not Found",
    423: "Interval Too Brief",
    503: "Service Unavailable",
}
_serial = itertools.count(1)


@dataclass
class Phone:
    """A phone of an account. It keeps its Call-ID and counts CSeq up, as RFC 3261 10.2.4 wants."""

    user: str
    ip: str = "198.51.100.10"
    port: int = 5060
    instance: str | None = None
    user_agent: str = "Phone/1.0"
    expires: int = 600
    call_id: str = field(default_factory=lambda: f"phone-{next(_serial)}@registers")
    cseq: int = 0

    def register(self, at: float, *, expires: int | None = None, contact: str | None = None) -> list[bytes]:
        """A REGISTER that is challenged, and then accepted."""
        return [*self.send(at, 401), *self.send(at + 0.05, 200, expires=expires, contact=contact)]

    def send(
        self, at: float, status: int | None, *, expires: int | None = None, contact: str | None = None
    ) -> list[bytes]:
        """One REGISTER and its final reply; none without a status."""
        self.cseq += 1
        packets = [self._packet(at, "REGISTER sip:sip.test SIP/2.0", self._own(expires, contact), sent=True)]
        if status is not None:
            packets.append(self._packet(at + 0.01, f"SIP/2.0 {status} {PHRASES[status]}", [], sent=False))
        return packets

    def _own(self, expires: int | None, contact: str | None) -> list[str]:
        parameter = f';+sip.instance="<urn:uuid:{self.instance}>"' if self.instance else ""
        return [
            f"Contact: {contact or f'<sip:{self.user}@{self.ip}:{self.port}>{parameter}'}",
            f"Expires: {self.expires if expires is None else expires}",
            f"User-Agent: {self.user_agent}",
        ]

    def _packet(self, at: float, start_line: str, more: list[str], *, sent: bool) -> bytes:
        lines = [
            start_line,
            f"Via: SIP/2.0/UDP {self.ip}:{self.port};branch=z9hG4bK-{self.call_id}-{self.cseq}",
            f"From: <sip:{self.user}@sip.test>;tag=t1",
            f"To: <sip:{self.user}@sip.test>" + ("" if sent else ";tag=r1"),
            f"Call-ID: {self.call_id}",
            f"CSeq: {self.cseq} REGISTER",
            *more,
            "Content-Length: 0",
        ]
        payload = ("\r\n".join(lines) + "\r\n\r\n").encode()
        src, dst = ((self.ip, self.port), PROXY) if sent else (PROXY, (self.ip, self.port))
        return hep3(payload, src=src, dst=dst, ts_us=round(at * 1_000_000))


def scan(at: float, ip: str, accounts: int, *, every_s: float = 0.2, status: int = 403) -> Iterator[bytes]:
    """A scanner: one account after the other, each challenged, and refused when it answers with a guess."""
    for number in range(accounts):
        phone = Phone(f"{1000 + number}", ip=ip, user_agent="friendly-scanner")
        yield from phone.send(at + number * every_s, 401)
        yield from phone.send(at + number * every_s + 0.05, status)


def storm(at: float, user: str, ip: str, times: int, *, every_s: float = 0.25) -> Iterator[bytes]:
    """A phone with a wrong password that tries again at once, for ever: a 401 each time."""
    phone = Phone(user, ip=ip, user_agent="Stubborn/2.0")
    for number in range(times):
        yield from phone.send(at + number * every_s, 401)


def flapping(at: float, phone: Phone, rounds: int, *, every_s: float = 30) -> Iterator[bytes]:
    """A phone that registers and un-registers, again and again."""
    for number in range(rounds):
        yield from phone.register(at + number * every_s)
        yield from phone.register(at + number * every_s + every_s / 2, expires=0)


def fill(store: Path, packets: Iterable[bytes]) -> None:
    """A store with what a tap makes of the packets, which all arrive now."""
    engine = Engine([])
    decoder = Decoder("tap", engine.interest)
    now_us = time.time_ns() // 1000
    for packet in packets:
        engine.handle(decoder.decode([Datagram(now_us, "127.0.0.1", 9060, "udp", True, packet)]), now_us)
    with Writer(store, "tap", AT_ONCE) as writer:
        for table, rows in decoder.take().items():
            assert writer.put(table, rows)
        made = [
            registration_row(registration, event, "tap") for registration, event in engine.state.registered
        ]
        writer.append("registration", made).result(60)
