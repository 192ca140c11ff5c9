"""All detectors that come along, as the tap runs them: over real traffic they find what is owed and nothing else."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest
from recordings import ALIASES, PATHS, disagreement, load

from pipeline.assemble import build_detectors
from pipeline.engine.engine import Engine
from pipeline.engine.events import SipEvent, TimerFired
from pipeline.engine.plugins import DETECTORS, find

ROOT = Path(__file__).parents[1]
TABLES = {"late_register": {"aliases": ALIASES}}
SHIPPED = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][DETECTORS]


def test_all_are_found() -> None:
    assert set(find(DETECTORS)) == set(SHIPPED)


@pytest.mark.parametrize("name", SHIPPED)
def test_each_has_a_test_and_says_what_can_be_set(name: str) -> None:
    assert list((ROOT / "tests").glob(f"test_*{name}.py"))
    settings = find(DETECTORS)[name].cls.Settings
    assert all(field.description for field in settings.model_fields.values())


def test_no_false_alarm_in_real_traffic() -> None:
    """Phones, calls, attacks on hepduck itself, ten thousand messages of load: each recording by itself."""
    for name in PATHS:
        recording = load(name)
        engine = Engine(build_detectors(TABLES))
        findings = []
        for at_us, event in recording.arrived:
            findings += engine.tick(at_us)
            findings += engine.handle([event], at_us)
        findings += engine.finish()
        assert {finding.kind for finding in findings} <= {"late_register"}, name
        assert not disagreement(recording, findings), name
        assert engine._failures == {}, name


class Noting:
    """Notes what it is told."""

    Settings = build_detectors({})[0].Settings
    memory_us = 0

    def __init__(self, name: str, interest: set[str], copies: bool) -> None:
        self.name, self.interest, self.copies = name, frozenset(interest), copies
        self.told: list[tuple[str | None, int | None]] = []

    def attach(self, state: object) -> None: ...

    def on_event(self, event: SipEvent) -> tuple[()]:
        self.told.append((event.sip.method, event.sip.status))
        return ()

    def on_timer(self, timer: TimerFired) -> tuple[()]:
        return ()


def test_who_is_told_of_what() -> None:
    """A method is all of it; narrower, requests or a class of replies; news only, or copies too."""
    detectors = [
        Noting("all", {"REGISTER"}, False),
        Noting("requests", {"INVITE request"}, True),
        Noting("accepted", {"REGISTER 2xx"}, False),
        Noting("refused", {"REGISTER 4xx"}, True),
        Noting("news of refusals", {"REGISTER 4xx"}, False),
    ]
    engine = Engine(detectors)  # type: ignore[arg-type]
    for at_us, event in load("a").arrived:
        engine.handle([event], at_us)
    every, requests, accepted, refused, news = (set(detector.told) for detector in detectors)
    assert every == accepted == {("REGISTER", 200)}
    assert requests == {("INVITE", None)}
    assert refused == {("REGISTER", 401)}
    assert news == set()
