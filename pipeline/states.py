"""Rows of what changes while it is watched: calls, registrations and capture agents, on their way to the store."""

from __future__ import annotations

import sys

import structlog

from pipeline.decode import Decoder
from pipeline.engine.calls import Call
from pipeline.engine.engine import Engine
from pipeline.engine.rows import call_row, registration_row
from pipeline.instants import now_us
from pipeline.outbox import Outbox

_AT_ONCE = 100  # a few milliseconds, for which a finding may have to wait
_SKEW_WARNED_US = 5_000_000

log = structlog.get_logger(__name__)


class States:
    """Gathers what changed, coalesced while it waits, and puts it into the outbox some at a time."""

    def __init__(self, engine: Engine, decoder: Decoder, outbox: Outbox, node: str) -> None:
        self._engine = engine
        self._decoder = decoder
        self._outbox = outbox
        self._node = node
        self._changed_calls: list[Call] = []
        self._skew_warned: set[str] = set()

    def note_calls(self) -> None:
        """Remember which calls changed: they are written as they are by then."""
        self._changed_calls += self._engine.state.changed_calls.values()
        self._engine.state.changed_calls.clear()

    def hand_over(self, at_once: int = _AT_ONCE) -> None:
        """Rows of some calls and some registrations."""
        if self._changed_calls:
            some = [self._changed_calls.pop() for _ in range(min(at_once, len(self._changed_calls)))]
            self._outbox.add("call", [call_row(call, self._node, now_us()) for call in some])
        state = self._engine.state
        if state.registered:
            registered, state.registered = state.registered[:at_once], state.registered[at_once:]
            self._outbox.add(
                "registration", [registration_row(r, event, self._node) for r, event in registered]
            )

    def hand_over_all(self) -> None:
        """Rows of all that changed."""
        self.note_calls()
        self.hand_over(sys.maxsize)

    def hand_over_agents(self) -> None:
        """A row of each capture agent; whose clock is off is said once."""
        heard = self._decoder.agents()
        for agent in heard:
            if abs(agent.skew_us) > _SKEW_WARNED_US and agent.name not in self._skew_warned:
                self._skew_warned.add(agent.name)
                log.warning("a capture agent's clock is off", agent=agent.name, behind_s=agent.skew_us / 1e6)
        if heard:
            self._outbox.add("agent", [agent.row(self._node, now_us()) for agent in heard])
