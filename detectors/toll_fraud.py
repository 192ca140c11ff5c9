"""Toll fraud: an account that begins to call places it never called, as stolen accounts do.

Whoever gets hold of an account calls expensive numbers abroad through it, within minutes and at night. What an
account calls otherwise is learnt: a finding names an account that calls `new_prefixes` destinations within `window`
that it never called before. A tap that has just been started knows nobody's habits, so for `learn` only
`many_prefixes` are suspicious.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from detectors.watcher import Latest, Watcher, name_of
from pipeline.durations import Duration, to_us
from pipeline.engine.commands import Command, Finding
from pipeline.engine.events import SipEvent

_KNOWN = 64  # destinations remembered of an account; whoever calls more is no ordinary customer
_SEPARATORS = str.maketrans("", "", "-.() ")  # RFC 3966 5.1.1


class TollFraudSettings(BaseModel):
    """Settings of the detector `toll_fraud`."""

    model_config = ConfigDict(extra="forbid")

    international: list[str] = Field(
        ["+", "00", "011"], description="what numbers abroad begin with, as they are dialled"
    )
    home: list[str] = Field([], description='numbers that are not abroad, in full: "+380", "00380"')
    prefix_digits: int = Field(
        4, ge=1, le=10, description="digits after that which make a destination: country and network"
    )
    new_prefixes: int = Field(3, ge=1, description="never called destinations within `window`")
    many_prefixes: int = Field(10, ge=2, description="the same while habits are not known yet")
    window: Duration = Field(timedelta(hours=1), description="what is counted together")
    learn: Duration = Field(timedelta(days=1), description="time from the start until habits are known")
    max_accounts: int = Field(20_000, ge=1, description="accounts remembered at once")


@dataclass(slots=True)
class _Account:
    known: dict[str, None] = field(default_factory=dict)  # destinations, oldest first
    fresh: dict[str, int] = field(default_factory=dict)  # the new ones of this window, and when


class TollFraud(Watcher):
    """Finds accounts that call destinations they never called (kind `toll_fraud`)."""

    name: ClassVar[str] = "toll_fraud"
    Settings: ClassVar[type[BaseModel]] = TollFraudSettings
    interest: ClassVar[frozenset[str]] = frozenset({"INVITE request"})

    def __init__(self, settings: TollFraudSettings | None = None) -> None:
        self.settings = settings or TollFraudSettings()
        self._abroad = tuple(self.settings.international)
        self._home = tuple(self.settings.home)
        self._window_us = to_us(self.settings.window)
        self._learn_us = to_us(self.settings.learn)
        self._accounts: Latest[_Account] = Latest(self.settings.max_accounts, _Account)
        self._began_us: int | None = None

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        """A call begins."""
        if self._began_us is None:
            self._began_us = event.ts_us
        destination = self._destination(event.sip.ruri_user)
        if destination is None or event.call is None or len(event.call.legs) != 1:
            return ()
        name = name_of(event.sip.from_user, event.sip.from_host)
        account = self._accounts.see(name)
        if destination in account.known:
            return ()
        account.known[destination] = None
        if len(account.known) > _KNOWN:
            del account.known[next(iter(account.known))]
        fresh = account.fresh
        fresh[destination] = event.ts_us
        for old in [d for d, ts_us in fresh.items() if abs(event.ts_us - ts_us) > self._window_us]:
            del fresh[old]
        learning = event.ts_us - self._began_us < self._learn_us
        if len(fresh) < (self.settings.many_prefixes if learning else self.settings.new_prefixes):
            return ()
        destinations = list(fresh)
        fresh.clear()
        return (
            Finding(
                kind=self.name,
                identifier=name,
                ts_us=event.ts_us,
                severity="critical",
                call_id=event.sip.call_id,
                aor=f"sip:{name}",
                evidence={
                    "account": name,
                    "source_ip": event.src[0],
                    "destinations": destinations,
                    "window_s": self.settings.window.total_seconds(),
                    "habits_known": not learning,
                },
                msg_ids=(event.msg_id,),
                trusted=event.trusted,
            ),
        )

    def _destination(self, number: str | None) -> str | None:
        """`+44 20 7946 0000` -> `+4420`; None for what is no number abroad."""
        if not number:
            return None
        digits = number.partition(";")[0].translate(_SEPARATORS)
        if not digits.startswith(self._abroad) or digits.startswith(self._home):
            return None
        how = max((len(start) for start in self._abroad if digits.startswith(start)), default=0)
        subscriber = digits[how : how + self.settings.prefix_digits]
        return f"+{subscriber}" if subscriber.isascii() and subscriber.isdigit() else None
