"""Ghost calls: a woken phone that registers after its call has ended, and is told nothing.

A push puts the call screen up before the app runs. If the caller gives up, or another device answers, before
the app REGISTERs, no INVITE ever follows and the phone rings a ghost. A device D of account A is owed one
compensating call for call C when

1. C has one of A's keys as callee and ended in one of `outcomes`;
2. D is a push device, and a REGISTER of D was accepted after C began, at most `window` after C's end;
3. C did not reach D: no INVITE of C to D's address brought anything back from there;
4. no compensating call for (C, D) was asked for before.

A REGISTER before the end counts when by `grace` after the end no INVITE reached D. A finding is held for
`reorder` after the fact that decides it, and raised only if all of this still holds then: messages mirrored
a little out of order may yet spare the phone a call.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import timedelta
from typing import Any, ClassVar, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.durations import Duration, to_us
from pipeline.engine.bindings import Accepted, Device, Registration
from pipeline.engine.calls import Call, Ending, Outcome
from pipeline.engine.commands import Command, Finding, StartTimer
from pipeline.engine.events import SipEvent, TimerFired
from pipeline.engine.state import State
from pipeline.protocols.uri import Contact, aor, push_provider

OUTCOMES = get_args(Outcome)


class Devices(BaseModel):
    """Which devices are woken by a push that puts a call screen up at once."""

    model_config = ConfigDict(extra="forbid")

    user_agent: str = Field(
        r"iOS\b|iOS/|iPhone|iPad|iPod",
        description="regular expression; a device whose User-Agent matches is a push device",
    )
    push_providers: list[str] = Field(
        ["apns"], description="RFC 8599 pn-provider that makes a push device; legacy pn-type=apple is apns"
    )

    @field_validator("user_agent")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"no regular expression: {error}") from error
        return value


class LateRegisterSettings(BaseModel):
    """Settings of the detector `late_register`."""

    model_config = ConfigDict(extra="forbid")

    outcomes: list[Outcome] = Field(
        ["canceled", "answered"], description=f"ends of a call that count; known: {', '.join(OUTCOMES)}"
    )
    window: Duration = Field(timedelta(seconds=15), description="latest REGISTER after the end of the call")
    grace: Duration = Field(
        timedelta(milliseconds=500), description="time a call that just ended has to reach a phone"
    )
    reorder: Duration = Field(
        timedelta(milliseconds=50), description="hold that lets late mirrored messages speak"
    )
    match: Literal["aor", "user"] = Field(
        "aor", description="callee and account are compared as user@domain, or by user only (one domain!)"
    )
    aliases: dict[str, str] = Field(
        default_factory=dict, description='numbers of accounts: "15551234@sip.test" = "bob@sip.test"'
    )
    devices: Devices = Field(default_factory=Devices, description="which devices are woken by a push")


class LateRegister:
    """Finds phones that registered too late for their call (kind `late_register`)."""

    name: ClassVar[str] = "late_register"
    Settings: ClassVar[type[BaseModel]] = LateRegisterSettings
    interest: ClassVar[frozenset[str]] = frozenset({"INVITE", "CANCEL", "REGISTER"})

    def __init__(self, settings: LateRegisterSettings | None = None) -> None:
        self.settings = settings or LateRegisterSettings()
        self._window_us = to_us(self.settings.window)
        self._grace_us = to_us(self.settings.grace)
        self._reorder_us = to_us(self.settings.reorder)
        self._user_agent = re.compile(self.settings.devices.user_agent)
        self._aliases: dict[str, str] = {}
        self._numbers_of: dict[str, list[str]] = {}
        for number, account in self.settings.aliases.items():
            key, target = self._key(number), self._key(account)
            self._aliases[key] = target
            self._numbers_of.setdefault(target, []).append(key)

    @property
    def memory_us(self) -> int:
        """A call matters until the window, the grace and the hold are over."""
        return self._window_us + self._grace_us + 2 * self._reorder_us

    def attach(self, state: State) -> None:
        """Remember whom to ask about calls and devices."""
        self._state = state

    def on_event(self, event: SipEvent) -> Iterator[Command]:
        """Something new about a call or a registration: hold what it may have decided."""
        if event.registration is not None:
            registration = event.registration
            if not registration.binds or not self._is_push(registration):
                return
            device = self._state.device_of(registration)
            if device is not None:
                for call in self._state.calls_to(self._numbers(device.aor)):
                    yield from self._hold(call, device)
        elif event.call is not None:
            for device in self._late_candidates(event.call):
                yield from self._hold(event.call, device)

    def on_timer(self, timer: TimerFired) -> Iterator[Command]:
        """The hold is over: raise the finding if the rule still holds."""
        call_id, _, rest = timer.name.partition("\n")
        account, _, identity = rest.partition("\n")
        call = self._state.calls.get(call_id)
        device = self._state.devices.get((account, identity))
        if call is None or device is None:
            return
        owed = self._owed(call, device)
        if owed is not None:
            yield self._finding(call, device, *owed)

    # -- the rule --------------------------------------------------------------------------------------

    def _owed(self, call: Call, device: Device) -> tuple[Ending, Accepted, int] | None:
        """The facts that make D owed a call for C and when they were complete, or None."""
        ending = call.ending()
        if ending is None or ending.outcome not in self.settings.outcomes:
            return None
        after = device.accepted_between(ending.ts_us, ending.ts_us + self._window_us, ending.agent)
        before = device.accepted_between(call.began_us(ending.agent), ending.ts_us, ending.agent)
        if after:
            accepted = after[0]
            decided_us = accepted.ts_us
        elif before:
            accepted = before[-1]  # where it is now
            decided_us = ending.ts_us + self._grace_us
            if accepted.ts_us < device.removed_us <= decided_us:
                return None  # it has gone again
        else:
            return None
        if not self._is_push(accepted.registration) or self._state.reached(call, device):
            return None
        return ending, accepted, decided_us

    def _hold(self, call: Call, device: Device) -> Iterator[Command]:
        owed = self._owed(call, device)
        if owed is not None:
            name = f"{call.call_id}\n{device.aor}\n{device.identity}"
            ending, _, decided_us = owed
            yield StartTimer(name, decided_us + self._reorder_us, ending.agent)

    def _late_candidates(self, call: Call) -> Iterable[Device]:
        if call.ending() is None:
            return ()  # most calls, most of the time
        keys = (self._account(key) for key in call.callee_keys())
        return self._state.devices_of(call, keys)

    def is_push_device(self, user_agent: str | None, contacts: Iterable[Contact]) -> bool:
        """Whether a device is woken by a push that puts a call screen up at once."""
        if user_agent and self._user_agent.search(user_agent):
            return True
        return any(push_provider(c) in self.settings.devices.push_providers for c in contacts)

    def _is_push(self, registration: Registration) -> bool:
        return self.is_push_device(registration.asked.user_agent, registration.contacts)

    # -- names -----------------------------------------------------------------------------------------

    def _key(self, account: str) -> str:
        """`sip:Bob@Sip.Test`, `bob@sip.test` -> the key under which accounts are compared."""
        user, _, host = account.removeprefix("sips:").removeprefix("sip:").rpartition("@")
        key = aor(user, host) or account  # a tel: number has no host
        return key if self.settings.match == "aor" else key.partition("@")[0] + "@"

    def _account(self, key: str) -> str:
        """The account that a callee key stands for; numbers are looked up with and without their +."""
        key = self._key(key)
        return self._aliases.get(key) or self._aliases.get(key.removeprefix("+")) or key

    def _numbers(self, account: str) -> Iterator[str]:
        key = self._key(account)
        yield key
        for number in self._numbers_of.get(key, ()):
            yield number
            yield f"+{number}"

    # -- the evidence ----------------------------------------------------------------------------------

    def _finding(
        self, call: Call, device: Device, ending: Ending, accepted: Accepted, decided_us: int
    ) -> Finding:
        registration = accepted.registration
        contact = registration.contact
        invite = min((leg.first for leg in call.caller_legs().values()), default=None)
        messages = {
            "invite": invite.msg_id if invite else None,
            "outcome": ending.msg_id,
            "register": registration.first.msg_id,
            "register_accepted": registration.accepted.msg_id if registration.accepted else None,
        }
        answered_by = call.answered_by() if ending.outcome == "answered" else None
        evidence: dict[str, Any] = {
            "call_id": call.call_id,
            "aor": f"sip:{device.aor}",
            "caller_user": call.from_user,
            "caller_host": call.from_host,
            "caller_display": call.from_display,
            "contact": contact.uri if contact else None,
            "target": str(registration.source),
            "device": device.identity,
            "instance": registration.instance,
            "user_agent": registration.asked.user_agent,
            "outcome": ending.outcome,
            "outcome_status": ending.status,
            "answered_by": f"{answered_by[0]}:{answered_by[1]}" if answered_by else None,
            "invite_us": invite.ts_us if invite else None,
            "outcome_us": ending.ts_us,
            "register_us": accepted.ts_us,
            "late_ms": (accepted.ts_us - ending.ts_us) / 1000,
            "messages": messages,
        }
        return Finding(
            kind=self.name,
            identifier=f"{call.call_id}|{device.aor}|{device.identity}",
            ts_us=decided_us,
            call_id=call.call_id,
            aor=f"sip:{device.aor}",
            evidence=evidence,
            msg_ids=tuple(sorted(m for m in messages.values() if m is not None)),
            trusted=call.trusted and registration.trusted,
        )
