"""Registrations that flap: an account whose phones come, go and move all the time.

A phone on a bad network, two phones that fight for one binding, an application layer gateway that gives each
REGISTER a new port: calls to such an account go astray. A refresh from where the phone already is counts nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from detectors.watcher import MAX_TEXT, Burst, Latest, Watcher
from pipeline.durations import Duration, to_us
from pipeline.engine.bindings import Registration
from pipeline.engine.commands import Command, Finding
from pipeline.engine.events import SipEvent

_PLACES = 8  # of one account: where its phones are


class RegistrationFlapSettings(BaseModel):
    """Settings of the detector `registration_flap`."""

    model_config = ConfigDict(extra="forbid")

    changes: int = Field(20, ge=2, description="times that phones of one account came, went or moved")
    window: Duration = Field(timedelta(minutes=10), description="what is counted together")
    max_accounts: int = Field(20_000, ge=1, description="accounts remembered at once")


@dataclass(slots=True)
class _Account:
    places: dict[str, str] = field(default_factory=dict)  # device -> where it is, oldest first
    burst: Burst = field(default_factory=Burst)


class RegistrationFlap(Watcher):
    """Finds accounts whose registrations come and go (kind `registration_flap`)."""

    name: ClassVar[str] = "registration_flap"
    Settings: ClassVar[type[BaseModel]] = RegistrationFlapSettings
    interest: ClassVar[frozenset[str]] = frozenset({"REGISTER 2xx"})

    def __init__(self, settings: RegistrationFlapSettings | None = None) -> None:
        self.settings = settings or RegistrationFlapSettings()
        self._window_us = to_us(self.settings.window)
        self._accounts: Latest[_Account] = Latest(self.settings.max_accounts, _Account)

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        """A REGISTER was accepted."""
        registration = event.registration
        if registration is None or registration.aor is None or registration.accepted is None:
            return ()
        account = registration.aor[:MAX_TEXT]
        known = self._accounts.see(account)
        if not _changes(known.places, registration):
            return ()
        if not known.burst.add(event.ts_us, self.settings.changes, self._window_us):
            return ()
        return (
            Finding(
                kind=self.name,
                identifier=account,
                ts_us=event.ts_us,
                aor=f"sip:{account}",
                evidence={
                    "account": account,
                    "changes": self.settings.changes,
                    "window_s": self.settings.window.total_seconds(),
                    "devices": len(known.places),
                    "target": str(registration.source),
                    "user_agent": (registration.asked.user_agent or "")[:MAX_TEXT],
                },
                msg_ids=(event.msg_id,),
                trusted=registration.trusted,
            ),
        )


def _changes(places: dict[str, str], registration: Registration) -> bool:
    """Take in what the REGISTER did; whether a phone came, went or moved."""
    device, place = registration.identity[:MAX_TEXT], str(registration.source)[:MAX_TEXT]
    if registration.binds:
        before = places.pop(device, None)
        places[device] = place
        if len(places) > _PLACES:
            del places[next(iter(places))]
        return before != place
    if not registration.removes:
        return False  # only asks which bindings there are
    if any(contact.star for contact in registration.contacts):
        gone = bool(places)
        places.clear()
        return gone
    return places.pop(device, None) is not None
