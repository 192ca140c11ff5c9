"""The loop that feeds detectors: interest, timers, failures, suppression, and replay as live."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import pytest
import structlog
from pydantic import BaseModel
from recordings import PATHS, Recording, load, run
from story import AGENT, IPHONE, T0_US, Story, engine_for, play

from pipeline.engine.commands import CancelTimer, Command, Finding, StartTimer
from pipeline.engine.engine import FAILURES_ALLOWED, Engine
from pipeline.engine.events import SipEvent, TimerFired
from pipeline.engine.state import State


class Recorder:
    """A detector that notes what it is told, and asks for what it was told to."""

    name: ClassVar[str] = "recorder"
    Settings: ClassVar[type[BaseModel]] = BaseModel
    interest: ClassVar[frozenset[str]] = frozenset({"INVITE"})
    memory_us = 0

    def __init__(self, *commands: Command) -> None:
        self.seen: list[str | None] = []
        self.fired: list[TimerFired] = []
        self.commands = list(commands)

    def attach(self, state: State) -> None:
        self.state = state

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        self.seen.append(event.sip.call_id)
        commands, self.commands = self.commands, []
        return commands

    def on_timer(self, timer: TimerFired) -> Iterable[Command]:
        self.fired.append(timer)
        return [Finding("fired", timer.name, timer.ts_us)]


class Failing(Recorder):
    """A detector that raises whatever happens."""

    name: ClassVar[str] = "failing"

    def on_event(self, event: SipEvent) -> Iterable[Command]:
        self.seen.append(event.sip.call_id)
        yield Finding("before", f"{len(self.seen)}", event.ts_us)
        raise RuntimeError("a bug in a detector")

    def on_timer(self, timer: TimerFired) -> Iterable[Command]:
        raise RuntimeError("another")


def calls(count: int) -> list[SipEvent]:
    """That many calls, a second apart; each is an INVITE and its 100."""
    story = Story()
    for number in range(count):
        story.call(number * 1000)
    return story.events


def test_a_detector_hears_what_it_asked_for() -> None:
    story = Story()
    call = story.call(0)
    story.register(10)
    call.cancel(100)
    detector = Recorder()
    play(story.events, Engine([detector]))
    assert len(detector.seen) == 3  # INVITE, 100, 487: no ACK, no CANCEL, no REGISTER


def test_what_says_nothing_new_is_not_told_again() -> None:
    story = Story()
    call = story.call(0)
    for ms in (500, 1500, 3500):
        call.invite(ms)
    detector = Recorder()
    play(story.events, Engine([detector]))
    assert len(detector.seen) == 2


def test_our_own_calls_are_counted_and_told_to_nobody() -> None:
    story = Story()
    story.call(0, from_tag="late-1")
    detector = Recorder()
    engine = Engine([detector])
    play(story.events, engine)
    assert (detector.seen, engine.own_messages, engine.state.calls) == ([], 2, {})


def test_timers_come_back_in_event_time() -> None:
    detector = Recorder(
        StartTimer("late", T0_US + 1_500_000),
        StartTimer("moved", T0_US + 100),
        StartTimer("moved", T0_US + 700_000),
        StartTimer("cancelled", T0_US + 10),
        CancelTimer("cancelled"),
        CancelTimer("unknown"),
    )
    found = play(calls(3), Engine([detector]))
    assert detector.fired == [TimerFired("moved", T0_US + 700_000), TimerFired("late", T0_US + 1_500_000)]
    assert [(f.kind, f.identifier) for f in found] == [("fired", "moved"), ("fired", "late")]


def test_a_quiet_network_stops_no_timer() -> None:
    detector = Recorder(StartTimer("x", T0_US + 50_000))
    engine = Engine([detector])
    wall_us = 42_000_000  # a wall clock that agrees with no agent
    engine.handle(calls(1), wall_us)
    assert engine.tick(wall_us + 49_000) == []
    assert [f.identifier for f in engine.tick(wall_us + 50_000)] == ["x"]


def test_messages_with_an_older_time_hold_no_timer_back() -> None:
    """Anybody's packets may bear the agent's name and one time for ever."""
    detector = Recorder(StartTimer("x", T0_US + 50_000))
    engine = Engine([detector])
    wall_us = 42_000_000
    engine.handle(calls(1), wall_us)
    detector.commands = []
    story = Story()
    story.call(-10)
    for later_us in range(1_000, 50_000, 1_000):
        assert engine.handle(story.events, wall_us + later_us) == []
        assert engine.tick(wall_us + later_us) == []
    assert [f.identifier for f in engine.tick(wall_us + 50_000)] == ["x"]


def test_a_timer_can_be_set_on_another_agents_clock() -> None:
    story = Story(agent="other")
    story.call(-90_000)
    story.agent = AGENT
    story.call(0)
    detector = Recorder()
    engine = Engine([detector])
    engine.handle(story.events[:2], 0)
    detector.commands = [StartTimer("x", T0_US - 89_000_000, "other")]
    engine.handle(story.events[2:], 0)
    assert engine.tick(999_000) == []
    assert [f.ts_us for f in engine.tick(1_000_000)] == [T0_US - 89_000_000]


def test_the_end_of_input_fires_what_is_pending() -> None:
    detector = Recorder(StartTimer("x", T0_US + 3600_000_000))
    engine = Engine([detector])
    assert engine.handle(calls(1), T0_US) == []
    assert [f.identifier for f in engine.finish()] == ["x"]


def test_a_detector_that_keeps_failing_is_switched_off_and_the_others_go_on() -> None:
    failing, other = Failing(), Recorder(StartTimer("x", T0_US + 500_000))
    engine = Engine([failing, other])
    with structlog.testing.capture_logs() as logs:
        found = play(calls(20), engine)
    assert len(failing.seen) == FAILURES_ALLOWED
    assert engine.switched_off == ["failing"]
    assert len(other.seen) == 40
    assert [f.kind for f in found].count("before") == FAILURES_ALLOWED  # what it had found stands
    assert [f.identifier for f in found if f.kind == "fired"] == ["x"]
    assert [entry["failures"] for entry in logs] == list(range(1, FAILURES_ALLOWED + 1))


def test_a_timer_that_fails_counts_too() -> None:
    engine = Engine([Failing()])
    with structlog.testing.capture_logs():
        for number in range(FAILURES_ALLOWED):
            engine.clocks.start("failing", f"{number}", T0_US, AGENT)
        engine.finish()
    assert engine.switched_off == ["failing"]


def test_a_finding_is_raised_once_within_its_time() -> None:
    def finding(identifier: str, ms: int) -> Finding:
        return Finding("k", identifier, T0_US + ms * 1000, suppress_for_us=1_000_000)

    detector = Recorder(
        finding("a", 0), finding("a", 999), finding("b", 5), finding("a", 1000), finding("a", 0)
    )
    engine = Engine([detector])
    found = engine.handle(calls(1), T0_US)
    assert [(f.identifier, f.ts_us - T0_US) for f in found] == [("a", 0), ("b", 5000), ("a", 1_000_000)]
    assert engine.suppressed == 2


def test_finding_ids_are_unique_and_the_same_again() -> None:
    def ids() -> list[str]:
        detector = Recorder(Finding("k", "a", T0_US), Finding("k", "b", T0_US), Finding("l", "a", T0_US))
        return [finding.finding_id for finding in Engine([detector]).handle(calls(1), T0_US)]

    assert len(set(ids())) == 3
    assert ids() == ids()


def test_an_older_recording_played_into_a_live_run_is_judged_by_its_own_time() -> None:
    story = Story()
    story.call(0).cancel(1000)
    story.call(7200_000)
    old = Story(serial=1000)
    call = old.call(3000)
    call.call_id = "old@caller.test"
    call.invite(3000)
    call.cancel(4000)
    old.register(5000)
    engine = engine_for()
    wall_us = 0
    for event in story.events:
        engine.handle([event], wall_us)
    for event in sorted(old.events, key=lambda event: event.ts_us):
        assert engine.handle([event], wall_us) == []
    assert engine.clocks.steps_back == 1
    found = engine.tick(wall_us + 50_000)
    assert {"old@caller.test"} <= {f.call_id for f in found}
    assert {f.evidence["target"] for f in found} == {IPHONE.target}


@pytest.fixture(scope="module", params=["life", "edge_two_core", "edge_udp", "fork3", "p", "r4", "b_hep1"])
def recording(request: pytest.FixtureRequest) -> Recording:
    assert request.param in PATHS
    return load(request.param)


@pytest.mark.parametrize("batch", [2, 7, 50])
def test_batches_change_nothing(recording: Recording, batch: int) -> None:
    one_by_one = run(recording.arrived)
    engine = engine_for(aliases={"15551234@sip.test": "bob@sip.test", "700@sip.test": "carol@sip.test"})
    found = []
    for start in range(0, len(recording.arrived), batch):
        chunk = recording.arrived[start : start + batch]
        for _, event in chunk:
            event.call = event.registration = None
        found += engine.handle([event for _, event in chunk], chunk[-1].at_us)
    found += engine.finish()
    by_id = {f.finding_id: f.evidence["target"] for f in one_by_one}
    assert {f.finding_id: f.evidence["target"] for f in found} == by_id
