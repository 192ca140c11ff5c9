"""Trunks against their own history: RFC 6076's ratio of answered calls and delay until ringing."""

from __future__ import annotations

from typing import Any

import pytest
from story import Phone, Story
from watching import held_bytes, told

from detectors.trunk_drop import TrunkDrop, TrunkDropSettings

TRUNK = Phone(5060, account="trunk@carrier.test", ip="198.51.100.99", instance=None)
OTHER = Phone(5060, account="trunk@other.test", ip="198.51.100.77", instance=None)
QUARTER_MS = 900_000


def drop(**settings: Any) -> TrunkDrop:
    return TrunkDrop(TrunkDropSettings(**{"min_calls": 20, "min_history": 40, **settings}))


def quarter(
    story: Story,
    number: int,
    *,
    answered: int = 18,
    calls: int = 30,
    delay_ms: float = 2000,
    status: int = 503,
    trunk: Phone = TRUNK,
) -> None:
    """A quarter of an hour of calls through a trunk; those not answered end with `status` (0: silence)."""
    for index in range(calls):
        ms = number * QUARTER_MS + index * 20_000
        call = story.call(ms)
        call.fork(ms + 1, trunk)
        if index % 5 < answered * 5 // calls:
            call.phone_says(ms + 1 + delay_ms, 180, trunk)
            call.phone_says(ms + 9000, 200, trunk)
            call.reply(ms + 9001, 200)
        elif status:
            call.phone_says(ms + 500, status, trunk)
            call.reply(ms + 501, status)
        else:
            call.reply(ms + 8000, 408)


def test_calls_that_fail() -> None:
    story = Story()
    for number in range(4):
        quarter(story, number)
    quarter(story, 4, answered=6)
    (found,) = told(story, drop())
    assert (found.kind, found.identifier) == ("answered_drop", TRUNK.ip)
    assert found.evidence["before_pct"] == pytest.approx(60, abs=2)
    assert found.evidence["answered_pct"] == pytest.approx(20, abs=2)
    assert found.evidence["history_calls"] == 120


def test_a_trunk_that_says_nothing_any_more() -> None:
    story = Story()
    for number in range(4):
        quarter(story, number)
    quarter(story, 4, answered=0, status=0)
    (found,) = told(story, drop())
    assert (found.kind, found.evidence["answered_pct"]) == ("answered_drop", 0.0)


def test_rings_later() -> None:
    story = Story()
    for number in range(4):
        quarter(story, number)
    quarter(story, 4, delay_ms=5000)
    (found,) = told(story, drop())
    assert (found.kind, found.evidence["before_ms"], found.evidence["delay_ms"]) == ("delay_rise", 2000, 5000)


def test_bad_as_ever() -> None:
    story = Story()
    for number in range(6):
        quarter(story, number, answered=6, delay_ms=7000)
    assert told(story, drop()) == []


def test_better_than_ever() -> None:
    story = Story()
    for number in range(4):
        quarter(story, number, answered=6, delay_ms=7000)
    quarter(story, 4, answered=30, delay_ms=500)
    assert told(story, drop()) == []


def test_another_trunk_is_judged_by_itself() -> None:
    story = Story()
    for number in range(4):
        quarter(story, number)
        quarter(story, number, answered=6, trunk=OTHER)
    quarter(story, 4)
    quarter(story, 4, answered=6, trunk=OTHER)
    assert told(story, drop()) == []


@pytest.mark.parametrize("status", [302, 407])
def test_what_counts_nothing(status: int) -> None:
    """RFC 6076 4.6: neither redirections nor challenges."""
    story = Story()
    for number in range(4):
        quarter(story, number)
    quarter(story, 4, answered=6, status=status)
    assert told(story, drop()) == []


def test_too_few_calls_say_nothing() -> None:
    story = Story()
    for number in range(4):
        quarter(story, number)
    quarter(story, 4, calls=15, answered=0)
    assert told(story, drop()) == []
    fresh = Story()
    quarter(fresh, 0)
    quarter(fresh, 1, answered=0)
    assert told(fresh, drop()) == []


def test_strangers_cost_little() -> None:
    story = Story()
    for number in range(400):
        trunk = Phone(5060, ip=f"10.{number >> 8}.{number & 255}.1", instance=None)
        call = story.call(number)
        call.fork(number + 0.1, trunk)
        call.phone_says(number + 0.2, 503, trunk)
    detector = drop(max_trunks=50)
    assert told(story, detector) == []
    assert held_bytes(detector) < 50_000
