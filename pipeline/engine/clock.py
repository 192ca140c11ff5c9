"""Event time: one clock per capture agent, and the timers that run on it.

Agents disagree about the time, so each has a clock of its own: the greatest HEP timestamp it sent, carried on by wall
time since that came (a timer is due on a quiet network too, and while none but older messages come). A timer runs
on the clock of the agent whose message started it. An agent whose timestamps fall back by more than `STEP_BACK_US` has
had its clock set, or an older recording is being played: its timers keep the time that they had left. When they come
to where they would be without that (two clocks under one name, in turn), the step is taken back.
"""

from __future__ import annotations

import heapq
from collections.abc import Container, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

STEP_BACK_US = 60_000_000


class Due(NamedTuple):
    """A timer that is due: whose it is, its name, the time it was set for, and on which agent's clock."""

    owner: str
    name: str
    at_us: int
    agent: str


@dataclass(slots=True)
class _AgentClock:
    now_us: int
    seen_us: int  # arrival time of the message that told it
    shift_us: int = (
        0  # from this clock to the time that its timers are kept in, which goes on when this steps back
    )
    before: tuple[int, int, int] | None = None  # the three above as they were when it stepped back
    # due, serial, key, the time it was set for on this clock
    heap: list[tuple[int, int, tuple[str, str], int]] = field(default_factory=list)

    def step_back(self, ts_us: int, arrival_us: int) -> None:
        self.before = (self.now_us, self.seen_us, self.shift_us)
        self.shift_us += _carried_us(self.now_us, self.seen_us, arrival_us) - ts_us

    def take_back(self, ts_us: int, arrival_us: int) -> None:
        """Undo the step back if this is the time that it would be without it."""
        if self.before is not None:
            now_us, seen_us, shift_us = self.before
            if abs(ts_us - _carried_us(now_us, seen_us, arrival_us)) <= STEP_BACK_US:
                self.shift_us, self.before = shift_us, None


class Clocks:
    """The clocks of all agents and the timers set on them. Arrival times must come from one wall clock."""

    def __init__(self) -> None:
        self._clocks: dict[str, _AgentClock] = {}
        self._timers: dict[tuple[str, str], tuple[int, str]] = {}  # key -> serial, agent
        self._serial = 0
        self.steps_back = 0

    def advance(self, agent: str, ts_us: int, arrival_us: int) -> Iterator[Due]:
        """A message of `agent` stamped `ts_us` is about to be handled: what was due before it."""
        clock = self._clocks.get(agent)
        if clock is None:
            self._clocks[agent] = _AgentClock(ts_us, arrival_us)
            return
        if ts_us > clock.now_us:
            if ts_us > clock.now_us + STEP_BACK_US:
                clock.take_back(ts_us, arrival_us)
            clock.now_us, clock.seen_us = ts_us, arrival_us
            if clock.heap and clock.heap[0][0] < ts_us + clock.shift_us:
                yield from self._pop(agent, clock, ts_us - 1)
        elif ts_us < clock.now_us - STEP_BACK_US:
            self.steps_back += 1
            clock.step_back(ts_us, arrival_us)
            clock.now_us, clock.seen_us = ts_us, arrival_us

    def tick(self, arrival_us: int) -> Iterator[Due]:
        """Wall time went by: what is due on the clocks of silent agents."""
        for agent, clock in list(self._clocks.items()):
            if clock.heap:
                yield from self._pop(agent, clock, _carried_us(clock.now_us, clock.seen_us, arrival_us))

    def finish(self) -> Iterator[Due]:
        """The input has ended: all pending timers, in order."""
        for agent, clock in list(self._clocks.items()):
            yield from self._pop(agent, clock, None)

    def start(self, owner: str, name: str, at_us: int, agent: str) -> None:
        """Set (or move) the timer `name` of `owner` on the clock of `agent`."""
        self._serial += 1
        key = (owner, name)
        self._timers[key] = (self._serial, agent)
        clock = self._clocks.get(agent)
        if clock is None:
            clock = self._clocks[agent] = _AgentClock(at_us, 0)
        heapq.heappush(clock.heap, (at_us + clock.shift_us, self._serial, key, at_us))
        if len(clock.heap) > 2 * len(self._timers) + 64:  # most were moved or cancelled
            clock.heap = [entry for entry in clock.heap if self._is_set(entry[2], entry[1])]
            heapq.heapify(clock.heap)

    def cancel(self, owner: str, name: str) -> None:
        """Forget a timer; nothing happens when there is none."""
        self._timers.pop((owner, name), None)

    def next_due_us(self) -> int | None:
        """The arrival (wall) time at which the next timer is due if all agents stay silent."""
        due = [c.seen_us + c.heap[0][0] - c.shift_us - c.now_us for c in self._clocks.values() if c.heap]
        return min(due, default=None)

    @property
    def pending(self) -> int:
        """How many timers are set."""
        return len(self._timers)

    def _is_set(self, key: tuple[str, str], serial: int) -> bool:
        return self._timers.get(key, (0,))[0] == serial  # neither cancelled nor moved since

    def pending_of(self, owners: Container[str]) -> int:
        """How many of them belong to one of `owners`."""
        return sum(owner in owners for owner, _ in self._timers)

    def _pop(self, agent: str, clock: _AgentClock, until_us: int | None) -> Iterator[Due]:
        heap = clock.heap
        while heap and (until_us is None or heap[0][0] <= until_us + clock.shift_us):
            _, serial, key, at_us = heapq.heappop(heap)
            if self._is_set(key, serial):
                del self._timers[key]
                yield Due(key[0], key[1], at_us, agent)


def _carried_us(now_us: int, seen_us: int, arrival_us: int) -> int:
    """A clock that was seen to say `now_us`, carried on by wall time."""
    return now_us + max(0, arrival_us - seen_us)
