"""What detectors that count have in common: a base, and memories of many senders.

Everything here is bounded, in keys and in what is kept of a key: what is counted comes from strangers.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from pipeline.engine.commands import Command
from pipeline.engine.events import TimerFired
from pipeline.engine.state import State

MAX_TEXT = 100
"""Characters kept of a name that a stranger chose."""

V = TypeVar("V")


class Watcher:
    """A detector that wants nothing but its events: no calls of the past, no timers."""

    memory_us = 0

    def attach(self, state: State) -> None:
        """What the events bring along is enough."""

    def on_timer(self, timer: TimerFired) -> Iterable[Command]:  # noqa: ARG002 - it sets none
        """No timer is ever set."""
        return ()


class Latest(Generic[V]):
    """A value for each of the keys seen last, at most `most`; the one not seen for longest goes."""

    def __init__(self, most: int, make: Callable[[], V]) -> None:
        self._values: dict[str, V] = {}
        self._most = most
        self._make = make

    def get(self, key: str) -> V | None:
        """The value of `key` if there is one; it does not count as seen."""
        return self._values.get(key)

    def see(self, key: str) -> V:
        """The value of `key`, made when there is none."""
        value = self._values.pop(key, None)
        if value is None:
            value = self._make()
            if len(self._values) >= self._most:
                del self._values[next(iter(self._values))]
        self._values[key] = value
        return value

    def __len__(self) -> int:
        return len(self._values)


class Burst:
    """Whether `limit` things happened within `window_us` of event time. Told of each, it says so once a burst."""

    __slots__ = ("_times_us",)

    def __init__(self) -> None:
        self._times_us: deque[int] = deque()

    def add(self, ts_us: int, limit: int, window_us: int) -> bool:
        times_us = self._times_us
        if times_us and not -window_us < ts_us - times_us[-1] <= window_us:
            times_us.clear()  # long ago, or the clock was set back
        times_us.append(ts_us)
        while times_us[0] < ts_us - window_us:
            times_us.popleft()
        if len(times_us) < limit:
            return False
        times_us.clear()
        return True


def name_of(user: str | None, host: str | None) -> str:
    """`user@host` as a key, cut to what may be kept."""
    return f"{user or ''}@{host or ''}"[:MAX_TEXT]
