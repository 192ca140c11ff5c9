"""Registration scans: somebody tries passwords, or tries which accounts there are.

A refused REGISTER is the rule, not the exception: a registrar challenges each phone first (401 or 407, RFC 3261
22), and the phone comes back with its credentials. So a refusal counts against its sender only when the account
has not been let in from there by `grace` later, or before: a mirror may bring the 200 ahead of the 401. Behind one
address may sit an office of honest phones: those that get in are forgiven one by one, and what is left counts.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, field_validator

from detectors.watcher import MAX_TEXT, Latest, Watcher, name_of
from pipeline.durations import Duration, to_us
from pipeline.engine.commands import Command, Finding, StartTimer
from pipeline.engine.events import SipEvent, TimerFired
from pipeline.engine.state import State
from pipeline.protocols.uri import via_source

REFUSED = frozenset({401, 403, 404, 407, 604})
_SHOWN = 5  # accounts and messages that a finding names


class RegisterScanSettings(BaseModel):
    """Settings of the detector `register_scan`."""

    model_config = ConfigDict(extra="forbid")

    failures: int = Field(30, ge=2, description="refused REGISTERs of one source within `window`")
    accounts: int = Field(10, ge=2, description="or refused accounts of one source within `window`")
    window: Duration = Field(timedelta(seconds=60), description="how long a refusal counts")
    grace: Duration = Field(
        timedelta(seconds=5), description="a phone let in by then only answered its challenge"
    )
    ignore: list[str] = Field([], description='networks that are never reported: "10.0.0.0/8"')
    max_sources: int = Field(2000, ge=1, description="sources remembered at once")

    @field_validator("ignore")
    @classmethod
    def _are_networks(cls, networks: list[str]) -> list[str]:
        return [str(ip_network(network)) for network in networks]


class _Refusal(NamedTuple):
    ts_us: int
    account: str
    status: int
    msg_id: int
    trusted: bool


@dataclass(slots=True)
class _Source:
    refusals: deque[_Refusal] = field(default_factory=deque)
    judged: bool = False  # a timer runs


class RegisterScan(Watcher):
    """Finds sources that try passwords or accounts (kind `register_scan`)."""

    name: ClassVar[str] = "register_scan"
    Settings: ClassVar[type[BaseModel]] = RegisterScanSettings
    interest: ClassVar[frozenset[str]] = frozenset({"REGISTER 2xx", "REGISTER 4xx", "REGISTER 6xx"})
    copies: ClassVar[bool] = True  # a refusal changes nothing of what is known of phones

    def __init__(self, settings: RegisterScanSettings | None = None) -> None:
        self.settings = settings or RegisterScanSettings()
        self._window_us = to_us(self.settings.window)
        self._grace_us = to_us(self.settings.grace)
        self._few = min(self.settings.failures, self.settings.accounts)
        self._room = 2 * max(self.settings.failures, self.settings.accounts)
        self._ignored: list[IPv4Network | IPv6Network] = [ip_network(n) for n in self.settings.ignore]
        self._sources: Latest[_Source] = Latest(self.settings.max_sources, _Source)

    def attach(self, state: State) -> None:
        """Remember whom to ask about REGISTERs that came ahead."""
        self._state = state

    def on_event(self, event: SipEvent) -> Iterator[Command]:
        """A registrar let somebody in, or did not."""
        sip = event.sip
        status = sip.status or 0
        if status < 300:
            source = self._sources.get(_asker(event))
            if source is not None and source.refusals:
                account = name_of(sip.to_user, sip.to_host)
                source.refusals = deque(r for r in source.refusals if r.account != account)
            return
        if status not in REFUSED or not _is_first(event):
            return
        retried = self._state.registrations.get((sip.call_id or "", (sip.cseq or 0) + 1))
        if retried is not None and retried.accepted is not None:
            return
        address = _asker(event)
        source = self._sources.see(address)
        refusals = source.refusals
        while refusals and abs(event.ts_us - refusals[0].ts_us) > self._window_us + self._grace_us:
            refusals.popleft()
        if len(refusals) < self._room:  # those that came first are old enough to be judged first
            account = name_of(sip.to_user, sip.to_host)
            refusals.append(_Refusal(event.ts_us, account, status, event.msg_id, event.trusted))
        if not source.judged and len(refusals) >= self._few:
            source.judged = True
            yield StartTimer(address, event.ts_us + self._grace_us)

    def on_timer(self, timer: TimerFired) -> Iterator[Command]:
        """Those who were to get in have got in: judge what is left."""
        source = self._sources.get(timer.name)
        if source is None:
            return
        source.judged = False
        until_us = timer.ts_us - self._grace_us
        held = [r for r in source.refusals if until_us - self._window_us <= r.ts_us <= until_us]
        accounts = Counter(refusal.account for refusal in held)
        if len(held) >= self.settings.failures or len(accounts) >= self.settings.accounts:
            source.refusals.clear()
            if not self._is_ignored(timer.name):
                yield self._finding(timer, held, accounts)
        elif len(source.refusals) >= self._few:
            source.judged = True
            next_us = next((r.ts_us for r in source.refusals if r.ts_us > until_us), timer.ts_us)
            yield StartTimer(timer.name, next_us + self._grace_us)

    def _is_ignored(self, address: str) -> bool:
        try:
            ip = ip_address(address)
        except ValueError:  # a name in a Via
            return False
        return any(ip.version == network.version and ip in network for network in self._ignored)

    def _finding(self, timer: TimerFired, held: list[_Refusal], accounts: Counter[str]) -> Finding:
        statuses = Counter(str(refusal.status) for refusal in held)
        return Finding(
            kind=self.name,
            identifier=timer.name,
            ts_us=timer.ts_us,
            evidence={
                "source_ip": timer.name,
                "failures": len(held),
                "accounts": len(accounts),
                "most_tried": [account for account, _ in accounts.most_common(_SHOWN)],
                "statuses": dict(statuses),
                "first_us": held[0].ts_us,
                "last_us": held[-1].ts_us,
                "window_s": self.settings.window.total_seconds(),
            },
            msg_ids=tuple(sorted(refusal.msg_id for refusal in held[:_SHOWN])),
            trusted=all(refusal.trusted for refusal in held),
        )


def _asker(event: SipEvent) -> str:
    """Who asked: the receiver of the reply; behind edge proxies, whom the bottommost Via names."""
    if event.sip.via_count > 1 and event.sip.via_last:
        noted = via_source(event.sip.via_last)
        if noted is not None:
            return noted[0][:MAX_TEXT]
    return event.dst[0]


def _is_first(event: SipEvent) -> bool:
    """The first word on its REGISTER: no copy of another hop or agent, no repetition."""
    if event.registration is None or len(event.registration.replies) != 1:
        return False
    told = [mark.msg_id for by_agent in event.registration.replies.values() for _, mark in by_agent.values()]
    return told == [event.msg_id]
