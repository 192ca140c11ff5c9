"""Floods of INVITEs: one account's, and those of a source that nobody lets in."""

from __future__ import annotations

from typing import Any

import pytest
from story import CALLER, IPHONE, STRANGER, Call, Story
from watching import held_bytes, told

from detectors.invite_flood import InviteFlood, InviteFloodSettings
from pipeline.engine.events import Address


def flood(**settings: Any) -> InviteFlood:
    return InviteFlood(InviteFloodSettings(**{"calls": 20, "refused": 10, **settings}))


def call_of(story: Story, ms: float, user: str = "alice", caller: Address = CALLER, **more: Any) -> Call:
    return story.call(ms, from_uri=f"sip:{user}@sip.test", caller=caller, **more)


def test_an_account_that_calls_too_much() -> None:
    story = Story()
    for number in range(25):
        call_of(story, 100 * number).ring(100 * number + 10)
    (found,) = told(story, flood())
    assert (found.kind, found.identifier, found.aor) == (
        "invite_flood",
        "account alice@sip.test",
        "sip:alice@sip.test",
    )
    assert (found.evidence["source_ip"], found.evidence["calls"]) == (CALLER[0], 20)


def test_the_same_calls_of_many_accounts() -> None:
    story = Story()
    for number in range(25):
        call_of(story, 100 * number, f"u{number}").ring(100 * number + 10)
    assert told(story, flood()) == []


def test_the_same_calls_over_an_hour() -> None:
    story = Story()
    for number in range(25):
        call_of(story, 100_000 * number).ring(100_000 * number + 10)
    assert told(story, flood()) == []
    assert len(told(story, flood(window="1h"))) == 1


def test_forks_and_credentials_make_no_calls() -> None:
    """Each call is challenged, comes again, and rings five phones."""
    story = Story()
    for number in range(15):
        call = call_of(story, 100 * number)
        call.challenged(100 * number + 5)
        for fork in range(5):
            call.ring(100 * number + 10 + fork, IPHONE)
    assert told(story, flood()) == []


def test_ignored_accounts() -> None:
    story = Story()
    for number in range(25):
        call_of(story, 100 * number)
    assert told(story, flood(ignore_accounts=["alice@sip.test"])) == []


@pytest.mark.parametrize("status", [403, 404, 407, 484])
def test_a_source_whose_calls_are_refused(status: int) -> None:
    story = Story()
    for number in range(12):
        call_of(story, 100 * number, f"{number}", STRANGER).reply(100 * number + 1, status)
    (found,) = told(story, flood())
    assert (found.identifier, found.evidence["refused"]) == (f"source {STRANGER[0]}", 10)


def test_a_trunk_with_some_wrong_numbers() -> None:
    """Many refusals, but most calls are good."""
    story = Story()
    for number in range(60):
        call = call_of(story, 10 * number, f"{number}", STRANGER)
        if number % 3:
            call.ring(10 * number + 5)
        else:
            call.reply(10 * number + 5, 404)
    assert told(story, flood()) == []


def test_challenges_that_are_answered() -> None:
    story = Story()
    for number in range(40):
        call_of(story, 100 * number, f"{number}", STRANGER).challenged(100 * number + 1)
    assert told(story, flood()) == []


def test_calls_that_are_busy_are_no_refusals() -> None:
    story = Story()
    for number in range(40):
        call_of(story, 100 * number, f"{number}", STRANGER).reply(100 * number + 1, 486)
    assert told(story, flood()) == []


def test_strangers_cost_little() -> None:
    story = Story()
    for number in range(400):
        call_of(story, number, f"{number}" + 2000 * "x", (f"10.{number >> 8}.{number & 255}.1", 5060))
    detector = flood(max_keys=50)
    assert told(story, detector) == []
    assert held_bytes(detector) < 60_000
