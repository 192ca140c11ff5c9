"""Labelled recordings of a real Kamailio: their events, decoded once, in any order of arrival, and their truth.

`NAME.json` beside `NAME.hep` says what is owed, decided by how the scene was set up: `expected` with the
default outcomes, `expected_extended` when all outcomes are switched on (`final` is the status that the call
ended with), `tolerated` may be found or not, `must_not` says why a phone is owed nothing.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, get_args

from detectors.late_register import LateRegister, LateRegisterSettings
from pipeline.decode import Decoder
from pipeline.engine.calls import Outcome
from pipeline.engine.commands import Finding
from pipeline.engine.engine import CALL_METHODS, Engine
from pipeline.engine.events import SipEvent
from pipeline.ingest.recordings import read_recording

DATA = Path(__file__).parent / "data"
PATHS = {path.stem: path for path in sorted(DATA.glob("kamailio*/*.hep"))}
# What the Kamailio of the recordings makes of the numbers 15551234 and 700 before it looks for a phone.
ALIASES = {"15551234@sip.test": "bob@sip.test", "700@sip.test": "carol@sip.test"}
ALL_OUTCOMES = list(get_args(Outcome))
OUTCOME_OF_STATUS = {486: "busy", 603: "declined", 480: "no_answer", 408: "no_answer"}


class Owed(NamedTuple):
    """One compensating call, as a label or a finding names it."""

    call_id: str
    aor: str
    target: str
    outcome: str


class Arrived(NamedTuple):
    """An event and when it came to the collector, microseconds since the epoch."""

    at_us: int
    event: SipEvent


@dataclass
class Recording:
    """One scene: its events in order of arrival, and its label."""

    name: str
    arrived: list[Arrived]
    label: dict[str, Any]

    @cached_property
    def stamped(self) -> bool:
        """False for HEP version 1, which brings no time: an event is as old as its arrival."""
        return any(at_us != event.ts_us for at_us, event in self.arrived)

    @property
    def expected(self) -> list[Owed]:
        """What must be found with default outcomes."""
        return [_owed(entry) for entry in self.label["expected"]]

    @property
    def expected_extended(self) -> list[Owed]:
        """What must be found besides when all outcomes are on."""
        return [
            _owed(entry)._replace(outcome=OUTCOME_OF_STATUS[entry["final"]])
            for entry in self.label["expected_extended"]
        ]

    @property
    def tolerated(self) -> list[Owed]:
        """What may be found."""
        return [_owed(entry) for entry in self.label["tolerated"]]

    def shuffled(self, within_ms: float, seed: int) -> list[Arrived]:
        """The same events, each arriving up to `within_ms` later than it did."""
        rng = random.Random(seed)
        late = [(at_us + int(rng.uniform(0, within_ms * 1000)), event) for at_us, event in self.arrived]
        late.sort(key=lambda arrival: arrival[0])
        if not self.stamped:
            for at_us, event in late:
                event.ts_us = at_us
        return [Arrived(*arrival) for arrival in late]


def load(name: str) -> Recording:
    """A recording by name, read and decoded as the service would."""
    path = PATHS[name]
    decoder = Decoder("test", CALL_METHODS)
    arrived = [
        Arrived(datagram.arrival_us, event)
        for datagram in read_recording(path)
        for event in decoder.decode([datagram])
    ]
    return Recording(name, arrived, json.loads(path.with_suffix(".json").read_text()))


def run(arrived: Sequence[Arrived], **settings: Any) -> list[Finding]:
    """The findings of `late_register` in these events, with the aliases of the recorded Kamailio."""
    engine = Engine([LateRegister(LateRegisterSettings(aliases=ALIASES, **settings))])
    findings = []
    for at_us, event in arrived:
        event.call = event.registration = None  # of the run before
        findings += engine.tick(at_us)
        findings += engine.handle([event], at_us)
    return findings + engine.finish()


def found(findings: Iterable[Finding]) -> list[Owed]:
    """What the findings name, in their order."""
    return [
        Owed(
            finding.call_id or "", finding.aor or "", finding.evidence["target"], finding.evidence["outcome"]
        )
        for finding in findings
    ]


def disagreement(recording: Recording, findings: Iterable[Finding], *, extended: bool = False) -> str:
    """How findings and label differ; "" when they agree."""
    got = Counter(found(findings))
    due = Counter(recording.expected + (recording.expected_extended if extended else []))
    missing = due - got
    extra = got - due - Counter(recording.tolerated)
    return " ".join(
        [f"missing: {list(missing)}"] * bool(missing) + [f"not owed: {list(extra)}"] * bool(extra)
    )


def _owed(entry: dict[str, Any]) -> Owed:
    return Owed(entry["call_id"], entry["aor"], entry["contact"], entry["reason"])
