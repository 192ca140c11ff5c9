"""Clocks that disagree: two capture agents that see the same message at different times.

Both ends of a hop between two mirrored proxies mirror the same request. What lies between the two times is the
way, some milliseconds at most, and how far their clocks are apart. Event time, and with it each rule that compares
what two agents saw, is only as good as that.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable
from datetime import timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from detectors.watcher import Latest, Watcher
from pipeline.durations import Duration, to_us
from pipeline.engine.commands import Command, Finding
from pipeline.engine.events import SipEvent

_MESSAGES = 4096  # whose second copy may yet come


class ClockSkewSettings(BaseModel):
    """Settings of the detector `clock_skew`."""

    model_config = ConfigDict(extra="forbid")

    max_skew: Duration = Field(timedelta(milliseconds=250), description="difference that is reported")
    samples: int = Field(10, ge=3, description="messages in a row that must show it")
    max_pairs: int = Field(256, ge=1, description="pairs of agents compared at once")


class ClockSkew(Watcher):
    """Finds capture agents whose clocks disagree (kind `clock_skew`)."""

    name: ClassVar[str] = "clock_skew"
    Settings: ClassVar[type[BaseModel]] = ClockSkewSettings
    interest: ClassVar[frozenset[str]] = frozenset({"INVITE request", "REGISTER request"})
    copies: ClassVar[bool] = True  # the second copy is what it is about

    def __init__(self, settings: ClockSkewSettings | None = None) -> None:
        self.settings = settings or ClockSkewSettings()
        self._max_skew_us = to_us(self.settings.max_skew)
        self._first: dict[tuple[object, ...], tuple[str, int]] = {}
        self._pairs: Latest[deque[int]] = Latest(
            self.settings.max_pairs, lambda: deque(maxlen=self.settings.samples)
        )
        self._first_agent: str | None = None
        self._several = False

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        """A request, perhaps one that another agent has mirrored before."""
        if not self._several:
            self._first_agent = self._first_agent or event.agent
            self._several = event.agent != self._first_agent
            return ()  # most taps have one agent
        sip = event.sip
        message = (hash(sip.call_id), sip.cseq, hash(sip.via_branch), event.src, event.dst)
        agent, ts_us = self._first.setdefault(message, (event.agent, event.ts_us))
        if len(self._first) > _MESSAGES:
            del self._first[next(iter(self._first))]
        if agent == event.agent:
            return ()
        del self._first[message]
        (one, one_us), (two, two_us) = sorted([(agent, ts_us), (event.agent, event.ts_us)])
        return self._compare(event, one, two, two_us - one_us)

    def _compare(self, event: SipEvent, one: str, two: str, ahead_us: int) -> Iterable[Command]:
        skews = self._pairs.see(f"{one} {two}")
        skews.append(ahead_us)
        if len(skews) < self.settings.samples or not (
            min(skews) > self._max_skew_us or max(skews) < -self._max_skew_us
        ):
            return ()
        ahead_ms = statistics.median(skews) / 1000
        skews.clear()
        return (
            Finding(
                kind=self.name,
                identifier=f"{one} {two}",
                ts_us=event.ts_us,
                evidence={
                    "agent": two if ahead_ms > 0 else one,
                    "ahead_of": one if ahead_ms > 0 else two,
                    "skew_ms": abs(ahead_ms),
                    "samples": self.settings.samples,
                },
                msg_ids=(event.msg_id,),
                trusted=event.trusted,
            ),
        )
