"""Clocks that disagree, told from the copies of one request that two agents mirrored."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from recordings import load
from story import Story
from watching import held_bytes, told, watch

from detectors.clock_skew import ClockSkew, ClockSkewSettings
from pipeline.engine.events import SipEvent

EDGE, CORE = "192.0.2.7/2001", "192.0.2.1/2002"


def skew(**settings: Any) -> ClockSkew:
    return ClockSkew(ClockSkewSettings(**settings))


def mirrored_twice(calls: int, ahead_ms: float, jitter_ms: float = 3) -> list[SipEvent]:
    """Calls whose INVITE both proxies mirror, as it arrives; the core's clock is ahead, the way takes a little."""
    story = Story(agent=EDGE)
    for number in range(calls):
        story.call(1000 * number)
    arrived = []
    for index, event in enumerate(story.events):
        late_us = round((ahead_ms + 1 + index % 3 * jitter_ms / 3) * 1000)
        arrived += [event, replace(event, agent=CORE, ts_us=event.ts_us + late_us, msg_id=10_000 + index)]
    return arrived


@pytest.mark.parametrize(("ahead_ms", "agent"), [(400, CORE), (-400, EDGE), (7_200_000, CORE)])
def test_a_clock_that_is_off(ahead_ms: float, agent: str) -> None:
    (found,) = watch(skew(), mirrored_twice(20, ahead_ms))
    assert (found.kind, found.evidence["agent"]) == ("clock_skew", agent)
    assert found.evidence["skew_ms"] == pytest.approx(abs(ahead_ms), abs=5)


def test_clocks_that_agree() -> None:
    assert watch(skew(), mirrored_twice(50, 0)) == []
    assert watch(skew(), mirrored_twice(50, 100)) == []


def test_a_limit_of_ones_own() -> None:
    assert len(watch(skew(max_skew="50ms"), mirrored_twice(20, 100))) == 1


def test_a_way_that_is_slow_at_times_is_no_skew() -> None:
    assert watch(skew(), mirrored_twice(50, 0, jitter_ms=2000)) == []


def test_one_agent_alone() -> None:
    story = Story()
    for number in range(50):
        story.call(1000 * number)
    detector = skew()
    assert told(story, detector) == []
    assert held_bytes(detector) < 5_000


@pytest.mark.parametrize("ahead_s", [-20, 2])
def test_two_real_proxies(ahead_s: int) -> None:
    """The edge and the core of a recording, one of them with its clock set off."""
    events = [event for name in ("edge", "edge_udp") for _, event in load(name).arrived]
    agents = sorted({event.agent for event in events})
    assert len(agents) == 2
    for event in events:
        event.ts_us += ahead_s * 1_000_000 * (event.agent == agents[1])
    (found,) = watch(skew(samples=4), events)
    assert (found.evidence["agent"] == agents[1]) is (ahead_s > 0)
    assert found.evidence["skew_ms"] == pytest.approx(abs(ahead_s) * 1000, abs=20)


def test_strangers_cost_little() -> None:
    story = Story()
    for number in range(600):
        story.agent = f"10.0.{number % 250}.1/1"
        call = story.call(10_000 + number)
        call.cseq = number
        call.invite(10_000 + number)
    detector = skew()
    assert told(story, detector) == []
    assert held_bytes(detector) < 400_000
