"""Every labelled recording of a real Kamailio gives exactly what its label says is owed, in whatever order it came."""

from __future__ import annotations

from functools import lru_cache

import pytest
from recordings import ALIASES, ALL_OUTCOMES, PATHS, Recording, disagreement, load, run

from detectors.late_register import LateRegister, LateRegisterSettings
from pipeline.ingest.recordings import read_recording
from pipeline.replay import flat, replay

# The event time of HEP version 1 is its arrival: moving that by half a second moves the facts themselves.
WITHOUT_TIME = {"b_hep1"}
recorded = lru_cache(maxsize=1)(load)  # pytest runs the tests of one recording after each other


@pytest.fixture(params=PATHS, scope="module")
def recording(request: pytest.FixtureRequest) -> Recording:
    return recorded(request.param)


def test_exactly_what_is_owed_is_found_in_order_of_time(recording: Recording) -> None:
    findings = run(recording.arrived)
    assert not disagreement(recording, findings)
    assert [finding.ts_us for finding in findings] == sorted(finding.ts_us for finding in findings)


def test_with_all_outcomes_the_others_are_found_too(recording: Recording) -> None:
    findings = run(recording.arrived, outcomes=ALL_OUTCOMES)
    assert not disagreement(recording, findings, extended=True)


def test_any_order_within_20_ms(recording: Recording) -> None:
    for seed in range(200 if len(recording.arrived) < 1_000 else 20):  # a busy minute has many orders in each
        assert not disagreement(recording, run(recording.shuffled(20, seed))), f"seed {seed}"


@pytest.mark.parametrize("name", [name for name in PATHS if name not in WITHOUT_TIME])
def test_any_order_within_the_hold(name: str) -> None:
    recording = recorded(name)
    for seed in range(50 if len(recording.arrived) < 1_000 else 10):
        findings = run(recording.shuffled(500, seed), reorder="500ms")
        assert not disagreement(recording, findings), f"seed {seed}"


@pytest.mark.parametrize("name", PATHS)
def test_speed_of_a_replay_changes_nothing(name: str) -> None:
    def replayed(speed: float | None) -> list[dict[str, object]]:
        detector = LateRegister(LateRegisterSettings(aliases=ALIASES))
        return [flat(finding) for finding in replay(read_recording(PATHS[name]), [detector], speed=speed)]

    assert replayed(None) == replayed(50.0)


@pytest.mark.parametrize("name", [name for name in PATHS if name.startswith("edge")])
@pytest.mark.parametrize("agent", ["2001", "2002"])
@pytest.mark.parametrize("skew_s", [-20, -2, -0.3, 0.3, 2, 20])
def test_capture_points_that_disagree_about_the_time(name: str, agent: str, skew_s: float) -> None:
    recording = load(name)
    for _, event in recording.arrived:
        if event.agent.endswith(agent):
            event.ts_us += int(skew_s * 1_000_000)
    assert not disagreement(recording, run(recording.arrived))
