"""INVITE floods: an account that calls more than people do, and a source whose calls nobody accepts.

An account's calls are counted as such. A source (a trunk, a session border controller) may make any number of
good calls: it is reported when most of its calls within `window` are refused outright, as those of a scanner are
that looks for an extension or a route to the telephone network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from detectors.watcher import MAX_TEXT, Burst, Latest, Watcher, name_of
from pipeline.durations import Duration, to_us
from pipeline.engine.calls import Call, leg_key
from pipeline.engine.commands import Command, Finding
from pipeline.engine.events import SipEvent

CHALLENGED = frozenset({401, 407})
# What a proxy says to those that have no business here: RFC 3261 21.4, 21.6.
REFUSED = CHALLENGED | {403, 404, 405, 416, 484, 485, 604}


class InviteFloodSettings(BaseModel):
    """Settings of the detector `invite_flood`."""

    model_config = ConfigDict(extra="forbid")

    calls: int = Field(300, ge=2, description="calls of one account within `window`")
    refused: int = Field(40, ge=2, description="refused calls of one source within `window`, and its most")
    window: Duration = Field(timedelta(seconds=60), description="what is counted together")
    ignore_accounts: list[str] = Field([], description='accounts that may: "dialer@sip.test"')
    max_keys: int = Field(10_000, ge=1, description="accounts and sources remembered at once")


@dataclass(slots=True)
class _Source:
    began_us: int = 0
    calls: int = 0
    refused: int = 0


class InviteFlood(Watcher):
    """Finds accounts that call too much and sources that are refused (kind `invite_flood`)."""

    name: ClassVar[str] = "invite_flood"
    Settings: ClassVar[type[BaseModel]] = InviteFloodSettings
    interest: ClassVar[frozenset[str]] = frozenset({"INVITE request", "INVITE 4xx", "INVITE 6xx"})

    def __init__(self, settings: InviteFloodSettings | None = None) -> None:
        self.settings = settings or InviteFloodSettings()
        self._window_us = to_us(self.settings.window)
        self._ignored = frozenset(self.settings.ignore_accounts)
        self._accounts: Latest[Burst] = Latest(self.settings.max_keys, Burst)
        self._sources: Latest[_Source] = Latest(self.settings.max_keys, _Source)

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        """A call begins, or is refused."""
        call = event.call
        if call is None:
            return ()
        if not event.sip.is_request:
            return self._refused(event, call) if event.sip.status in REFUSED else ()
        if len(call.legs) == 1:
            return self._begins(event)
        if len(call.replies) and event.sip.via_count <= call.hops_before and _was_challenged(call):
            source = self._sources.get(event.src[0])
            if source is not None:  # it knows the answer
                source.refused = max(0, source.refused - 1)
        return ()

    def _begins(self, event: SipEvent) -> Iterable[Command]:
        self._now(event.src[0], event.ts_us).calls += 1
        account = name_of(event.sip.from_user, event.sip.from_host)
        if account in self._ignored:
            return ()
        if self._accounts.see(account).add(event.ts_us, self.settings.calls, self._window_us):
            facts = {"account": account, "source_ip": event.src[0], "calls": self.settings.calls}
            return (self._finding(event, f"account {account}", facts, aor=f"sip:{account}"),)
        return ()

    def _refused(self, event: SipEvent, call: Call) -> Iterable[Command]:
        leg = call.caller_legs().get(leg_key(event))
        if leg is None:
            return ()
        source = self._now(leg.src[0], event.ts_us)
        source.refused += 1
        if source.refused < self.settings.refused or 2 * source.refused < source.calls:
            return ()
        facts = {"source_ip": leg.src[0], "calls": source.calls, "refused": source.refused}
        source.began_us, source.calls, source.refused = event.ts_us, 0, 0
        return (self._finding(event, f"source {leg.src[0]}", facts),)

    def _now(self, address: str, ts_us: int) -> _Source:
        source = self._sources.see(address[:MAX_TEXT])
        if abs(ts_us - source.began_us) > self._window_us:
            source.began_us, source.calls, source.refused = ts_us, 0, 0
        return source

    def _finding(
        self, event: SipEvent, identifier: str, facts: dict[str, object], aor: str | None = None
    ) -> Finding:
        return Finding(
            kind=self.name,
            identifier=identifier,
            ts_us=event.ts_us,
            call_id=event.sip.call_id,
            aor=aor,
            evidence={**facts, "window_s": self.settings.window.total_seconds()},
            msg_ids=(event.msg_id,),
            trusted=event.trusted,
        )


def _was_challenged(call: Call) -> bool:
    return any(not CHALLENGED.isdisjoint(statuses) for statuses in call.replies.values())
