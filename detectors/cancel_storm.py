"""CANCEL storms: a caller that rings and gives up, again and again, or a machine gone wrong.

Only what the caller's side sends counts: a proxy that forks cancels the branches that lost, and that is as it
should be (RFC 3261 16.7).
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from detectors.watcher import Burst, Latest, Watcher, name_of
from pipeline.durations import Duration, to_us
from pipeline.engine.calls import leg_key
from pipeline.engine.commands import Command, Finding
from pipeline.engine.events import SipEvent


class CancelStormSettings(BaseModel):
    """Settings of the detector `cancel_storm`."""

    model_config = ConfigDict(extra="forbid")

    cancels: int = Field(100, ge=2, description="calls that one account gives up within `window`")
    window: Duration = Field(timedelta(seconds=60), description="what is counted together")
    ignore_accounts: list[str] = Field([], description='accounts that may: "dialer@sip.test"')
    max_accounts: int = Field(10_000, ge=1, description="accounts remembered at once")


class CancelStorm(Watcher):
    """Finds accounts that give up one call after the other (kind `cancel_storm`)."""

    name: ClassVar[str] = "cancel_storm"
    Settings: ClassVar[type[BaseModel]] = CancelStormSettings
    interest: ClassVar[frozenset[str]] = frozenset({"CANCEL request"})

    def __init__(self, settings: CancelStormSettings | None = None) -> None:
        self.settings = settings or CancelStormSettings()
        self._window_us = to_us(self.settings.window)
        self._ignored = frozenset(self.settings.ignore_accounts)
        self._accounts: Latest[Burst] = Latest(self.settings.max_accounts, Burst)

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        """A CANCEL that is new."""
        call, key = event.call, leg_key(event)
        if call is None or len(call.cancels) != 1 or key in call.device_legs():
            return ()
        if key not in call.cancels or call.cancels[key].msg_id != event.msg_id:
            return ()  # sent again
        account = name_of(event.sip.from_user, event.sip.from_host)
        burst = self._accounts.see(account)
        if account in self._ignored or not burst.add(event.ts_us, self.settings.cancels, self._window_us):
            return ()
        return (
            Finding(
                kind=self.name,
                identifier=account,
                ts_us=event.ts_us,
                call_id=event.sip.call_id,
                aor=f"sip:{account}",
                evidence={
                    "account": account,
                    "source_ip": event.src[0],
                    "cancels": self.settings.cancels,
                    "window_s": self.settings.window.total_seconds(),
                    "last_callee": name_of(event.sip.to_user, event.sip.to_host),
                },
                msg_ids=(event.msg_id,),
                trusted=event.trusted,
            ),
        )
