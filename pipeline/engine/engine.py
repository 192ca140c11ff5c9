"""The loop: events in event time to detectors, their commands out. No I/O, no clock of its own.

`handle` takes events in arrival order, `tick` says that wall time went by, `finish` that the input ended;
all three return the findings raised. A replay that calls them with a recording's own arrival times gives the
same findings as the live run did.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import ClassVar, Protocol

import structlog
from pydantic import BaseModel

from pipeline.engine.actions import OWN_TAG_PREFIX
from pipeline.engine.clock import Clocks, Due
from pipeline.engine.commands import CancelTimer, Command, Finding, StartTimer
from pipeline.engine.events import Event, LegRated, SipEvent, TimerFired
from pipeline.engine.state import State, StateSettings
from pipeline.errors import ConfigError

FAILURES_ALLOWED = 5  # of a detector, before it is switched off
CALL_METHODS = frozenset({"INVITE", "CANCEL", "BYE", "REGISTER"})
_STATE = "state"

log = structlog.get_logger(__name__)


class Detector(Protocol):
    """What a detector is: a name, an interest, settings; events in, commands out.

    `interest` holds methods (for replies the method of CSeq), or narrower `INVITE request`, `REGISTER 4xx`:
    what is not named costs nothing. A detector with a true `copies` is told of every such message, not only of
    those that say something new: retransmissions, refusals, what another agent mirrored of the same hop. One with
    `on_leg` is told of legs, too, once they are rated (`LegRated`).
    """

    name: ClassVar[str]
    Settings: ClassVar[type[BaseModel]]
    interest: ClassVar[frozenset[str]]

    @property
    def memory_us(self) -> int:
        """How long after its end a call can still matter to this detector, microseconds of event time."""

    def attach(self, state: State) -> None:
        """Called once, before the first event: the calls and devices to ask about."""

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        """One message of interest that told something new about its call or registration."""

    def on_timer(self, timer: TimerFired) -> Iterable[Command]:
        """A timer that this detector started is due."""


Told = dict[tuple[str, int], list[Detector]]
"""Who is told of a method and class of reply; class 0 is the request."""


def _tell(told: Told, detector: Detector) -> None:
    for name in detector.interest:
        method, _, kind = name.partition(" ")
        classes = range(7) if not kind else [0 if kind == "request" else int(kind.removesuffix("xx"))]
        for number in classes:
            told.setdefault((method, number), []).append(detector)


def _commands(detector: Detector, event: Event) -> Iterable[Command]:
    if isinstance(event, SipEvent):
        return detector.on_event(event)
    if isinstance(event, TimerFired):
        return detector.on_timer(event)
    on_leg: Callable[[LegRated], Iterable[Command]] = detector.on_leg  # type: ignore[attr-defined]  # has it
    return on_leg(event)


def _settings_of(detector: Detector) -> BaseModel | None:
    settings = getattr(detector, "settings", None)
    return settings if isinstance(settings, BaseModel) else None


def finding_id(finding: Finding) -> str:
    """The same finding in a replay gets the same id."""
    text = f"{finding.kind}|{finding.identifier}|{finding.ts_us}"
    return hashlib.blake2b(text.encode(), digest_size=10).hexdigest()


class Engine:
    """Feeds detectors and keeps what they share: clocks, timers, calls, devices, suppression."""

    def __init__(self, detectors: Sequence[Detector], settings: StateSettings | None = None) -> None:
        self.clocks = Clocks()
        memory_us = max([120_000_000, *(d.memory_us for d in detectors)])
        self.state = State(
            settings or StateSettings(),
            lambda name, at_us, agent: self.clocks.start(_STATE, name, at_us, agent),
            lambda name: self.clocks.cancel(_STATE, name),
            memory_us,
        )
        self._memory_us = memory_us
        self._detectors: dict[str, Detector] = {}
        self._failures: dict[str, int] = {}
        self.replace(detectors)
        self.interest = CALL_METHODS | {method for method, _ in self._interested}
        self._raised: dict[tuple[str, str], int] = {}
        self.own_messages = 0
        self.suppressed = 0

    def check(self, detectors: Iterable[Detector]) -> None:
        """Raises ConfigError for a detector that this engine, as it was built, cannot serve."""
        for detector in detectors:
            if detector.memory_us > self._memory_us:
                raise ConfigError(f"detectors.{detector.name}: to look back for longer needs a restart")
            if not {name.partition(" ")[0] for name in detector.interest} <= self.interest:
                raise ConfigError(f"detectors.{detector.name}: other messages than before need a restart")

    def replace(self, detectors: Iterable[Detector]) -> list[str]:
        """Ask these from now on; the names of those that begin anew. One with unchanged settings goes on."""
        before, self._detectors = self._detectors, {}
        self._interested: Told = {}
        self._onlookers: Told = {}
        for detector in detectors:
            known = before.get(detector.name)
            if known is None or _settings_of(known) is None or _settings_of(known) != _settings_of(detector):
                detector.attach(self.state)
                self._failures.pop(detector.name, None)
            else:
                detector = known  # noqa: PLW2901 - with all that it remembers
            self._detectors[detector.name] = detector
            _tell(self._interested, detector)
            if getattr(detector, "copies", False):
                _tell(self._onlookers, detector)
        return [name for name, detector in self._detectors.items() if detector is not before.get(name)]

    def remember_raised(self, kind: str, identifier: str, ts_us: int) -> None:
        """A finding of before our time: it is not raised again as long as it suppresses itself."""
        self._raised[kind, identifier] = max(ts_us, self._raised.get((kind, identifier), ts_us))

    def handle(self, events: Iterable[SipEvent], arrival_us: int) -> list[Finding]:
        """Events in the order of their arrival, all arrived by `arrival_us`."""
        findings: list[Finding] = []
        for event in events:
            for due in self.clocks.advance(event.agent, event.ts_us, arrival_us):
                findings += self._fire(due)
            if (event.sip.from_tag or "").startswith(OWN_TAG_PREFIX):
                self.own_messages += 1
                continue
            sip = event.sip
            told = self._interested if self.state.take(event) else self._onlookers
            for detector in told.get((sip.method or "", (sip.status or 0) // 100), ()):
                findings += self._ask(detector, event, event.agent)
        return findings

    @property
    def hears_legs(self) -> bool:
        """Whether any detector wants to know how legs went."""
        return any(hasattr(detector, "on_leg") for detector in self._detectors.values())

    def hear_legs(self, legs: Iterable[LegRated]) -> list[Finding]:
        """Legs that quality has rated, for detectors with `on_leg`; long after their messages, in any order."""
        told = [detector for detector in self._detectors.values() if hasattr(detector, "on_leg")]
        return [finding for leg in legs for detector in told for finding in self._ask(detector, leg, "")]

    def tick(self, arrival_us: int) -> list[Finding]:
        """Nothing came until `arrival_us`: silent agents' timers fire."""
        return [finding for due in self.clocks.tick(arrival_us) for finding in self._fire(due)]

    def finish(self) -> list[Finding]:
        """The input has ended: all pending timers of detectors fire."""
        pending = (due for due in self.clocks.finish() if due.owner != _STATE)
        return [finding for due in pending for finding in self._fire(due)]

    @property
    def switched_off(self) -> list[str]:
        """Detectors that failed too often."""
        return [name for name, count in self._failures.items() if count >= FAILURES_ALLOWED]

    @property
    def holding(self) -> int:
        """Timers of detectors that are set: facts not yet decided."""
        return self.clocks.pending_of(self._detectors)

    def _fire(self, due: Due) -> list[Finding]:
        if due.owner == _STATE:
            self.state.timer(due.name, due.at_us, due.agent)
            return []
        detector = self._detectors.get(due.owner)  # it may be gone since
        return self._ask(detector, TimerFired(due.name, due.at_us), due.agent) if detector else []

    def _ask(self, detector: Detector, event: Event, agent: str) -> list[Finding]:
        name = detector.name
        if self._failures.get(name, 0) >= FAILURES_ALLOWED:
            return []
        findings = []
        try:
            for command in _commands(detector, event):
                if isinstance(command, StartTimer):
                    self.clocks.start(name, command.name, command.at_us, command.agent or agent)
                elif isinstance(command, CancelTimer):
                    self.clocks.cancel(name, command.name)
                elif self._is_new(command):
                    findings.append(replace(command, finding_id=finding_id(command)))
        except Exception:
            self._failures[name] = self._failures.get(name, 0) + 1
            log.exception("detector failed", detector=name, failures=self._failures[name])
        return findings

    def _is_new(self, finding: Finding) -> bool:
        key = (finding.kind, finding.identifier)
        last_us = self._raised.get(key)
        if last_us is not None and finding.ts_us - last_us < finding.suppress_for_us:
            self.suppressed += 1
            return False
        self._raised.pop(key, None)
        self._raised[key] = finding.ts_us
        while len(self._raised) > 100_000:
            del self._raised[next(iter(self._raised))]
        return True
