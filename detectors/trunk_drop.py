"""Trunks that get worse: fewer calls answered, or longer until it rings, than the same trunk's own history.

A trunk is whatever address the proxy sends calls on to: carriers, gateways, other proxies. Phones get too few
calls to be judged. A trunk that says nothing has failed once the proxy gives up for it. Figures are RFC 6076's:
session establishment ratio (4.6; redirections and challenges count nothing) and session request delay until the
first sign of ringing (4.3.1, here from 101 on).
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from detectors.watcher import Latest, Watcher
from pipeline.durations import Duration, to_us
from pipeline.engine.calls import RETRIED, Leg, Mark, leg_key
from pipeline.engine.commands import Command, Finding
from pipeline.engine.events import SipEvent

MADE_BY_PROXY = frozenset({408, 480, 500, 503, 504})  # when a leg times out (RFC 3261 16.7, 16.9)
_DELAYS = 500  # of one window: enough for a median
_HISTORY = 96  # windows: a day of quarters of an hour


class TrunkDropSettings(BaseModel):
    """Settings of the detector `trunk_drop`."""

    model_config = ConfigDict(extra="forbid")

    window: Duration = Field(timedelta(minutes=15), description="what is compared with the windows before")
    min_calls: int = Field(50, ge=5, description="calls in the window, below which nothing is said")
    min_history: int = Field(200, ge=5, description="calls in the windows before, likewise")
    answered_drop_pct: float = Field(
        25.0, gt=0, le=100, description="points of percent that the answered share must have lost"
    )
    delay_factor: float = Field(2.0, gt=1, description="times that the median delay must have grown")
    delay_rise: Duration = Field(timedelta(seconds=1), description="and by at least so much")
    max_trunks: int = Field(1000, ge=1, description="addresses remembered at once")


class _Window(NamedTuple):
    calls: int
    answered: int
    delay_ms: float | None  # median


@dataclass(slots=True)
class _Trunk:
    began_us: int = 0
    calls: int = 0
    answered: int = 0
    delays_ms: list[float] = field(default_factory=list)
    history: deque[_Window] = field(default_factory=lambda: deque(maxlen=_HISTORY))


class TrunkDrop(Watcher):
    """Finds trunks whose calls fail or ring later than they used to (kinds `answered_drop`, `delay_rise`)."""

    name: ClassVar[str] = "trunk_drop"
    Settings: ClassVar[type[BaseModel]] = TrunkDropSettings
    interest: ClassVar[frozenset[str]] = frozenset(f"INVITE {number}xx" for number in (2, 4, 5, 6))

    def __init__(self, settings: TrunkDropSettings | None = None) -> None:
        self.settings = settings or TrunkDropSettings()
        self._window_us = to_us(self.settings.window)
        self._rise_ms = to_us(self.settings.delay_rise) / 1000
        self._trunks: Latest[_Trunk] = Latest(self.settings.max_trunks, _Trunk)

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        """A call through a trunk was answered, or failed."""
        call, status = event.call, event.sip.status or 0
        if call is None or status in RETRIED:
            return ()
        key, legs = leg_key(event), call.device_legs()
        if key in legs:
            marks = call.replies[key]
            if any(other >= 200 and other != status for other in marks):
                return ()  # a second final reply: the first one counts
            return self._count(event, legs[key], marks, answered=status < 300)
        if status < 400 or key not in call.caller_legs():
            return ()
        silent = [leg for other, leg in legs.items() if _gave_up(status, call.replies.get(other, {}))]
        return [command for leg in silent for command in self._count(event, leg, {}, answered=False)]

    def _count(
        self, event: SipEvent, leg: Leg, marks: dict[int, Mark], *, answered: bool
    ) -> Iterable[Command]:
        trunk = self._trunks.see(leg.dst[0])
        if abs(event.ts_us - trunk.began_us) >= self._window_us:
            _begin(trunk, event.ts_us)
        trunk.calls += 1
        trunk.answered += answered
        delay_ms = _delay_ms(leg, marks)
        if delay_ms is not None and len(trunk.delays_ms) < _DELAYS:
            trunk.delays_ms.append(delay_ms)
        if trunk.calls < self.settings.min_calls or trunk.calls % 10:
            return ()
        return self._judge(event, leg.dst[0], trunk)

    def _judge(self, event: SipEvent, address: str, trunk: _Trunk) -> Iterator[Command]:
        calls = sum(window.calls for window in trunk.history)
        if calls < self.settings.min_history:
            return
        before_pct = 100 * sum(window.answered for window in trunk.history) / calls
        now_pct = 100 * trunk.answered / trunk.calls
        facts: dict[str, object] = {
            "trunk_ip": address,
            "calls": trunk.calls,
            "window_s": self.settings.window.total_seconds(),
            "history_calls": calls,
        }
        if before_pct - now_pct >= self.settings.answered_drop_pct:
            shares = {"answered_pct": round(now_pct, 1), "before_pct": round(before_pct, 1)}
            yield _finding(event, "answered_drop", address, {**facts, **shares})
        medians = [window.delay_ms for window in trunk.history if window.delay_ms is not None]
        if not medians or len(trunk.delays_ms) < self.settings.min_calls // 2:
            return
        before_ms, now_ms = statistics.median(medians), statistics.median(trunk.delays_ms)
        if now_ms >= self.settings.delay_factor * before_ms and now_ms >= before_ms + self._rise_ms:
            delays = {"delay_ms": round(now_ms, 1), "before_ms": round(before_ms, 1)}
            yield _finding(event, "delay_rise", address, {**facts, **delays})


def _gave_up(status: int, marks: dict[int, Mark]) -> bool:
    """The proxy's final reply to the caller is all that will be heard of a leg with these replies."""
    return not marks or (status in MADE_BY_PROXY and max(marks) < 200)


def _begin(trunk: _Trunk, ts_us: int) -> None:
    if trunk.calls:
        delay_ms = statistics.median(trunk.delays_ms) if trunk.delays_ms else None
        trunk.history.append(_Window(trunk.calls, trunk.answered, delay_ms))
    trunk.began_us, trunk.calls, trunk.answered = ts_us, 0, 0
    trunk.delays_ms.clear()


def _delay_ms(leg: Leg, marks: dict[int, Mark]) -> float | None:
    """From the INVITE to the first sign of ringing, by one and the same clock."""
    signs = [
        mark.ts_us
        for status, mark in marks.items()
        if 100 < status < 300 and mark.agent == leg.first.agent and mark.ts_us >= leg.first.ts_us
    ]
    return (min(signs) - leg.first.ts_us) / 1000 if signs else None


def _finding(event: SipEvent, kind: str, address: str, facts: dict[str, object]) -> Finding:
    return Finding(
        kind=kind,
        identifier=address,
        ts_us=event.ts_us,
        call_id=event.sip.call_id,
        evidence=facts,
        msg_ids=(event.msg_id,),
        trusted=event.trusted,
    )
