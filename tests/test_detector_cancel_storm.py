"""Storms of CANCELs: a caller that gives up again and again; a proxy that cancels forks is none (RFC 3261 16.7)."""

from __future__ import annotations

from typing import Any

from story import DESK_PHONE, IPHONE, PROXY, STRANGER, Story
from watching import held_bytes, told

from detectors.cancel_storm import CancelStorm, CancelStormSettings


def storm(**settings: Any) -> CancelStorm:
    return CancelStorm(CancelStormSettings(**{"cancels": 10, **settings}))


def test_a_caller_that_gives_up_each_time() -> None:
    story = Story()
    for number in range(12):
        call = story.call(100 * number)
        call.ring(100 * number + 5)
        call.cancel(100 * number + 50)
    (found,) = told(story, storm())
    assert (found.kind, found.identifier) == ("cancel_storm", "alice@sip.test")
    assert (found.evidence["cancels"], found.evidence["last_callee"]) == (10, "bob@sip.test")


def test_over_an_hour_it_is_none() -> None:
    story = Story()
    for number in range(12):
        story.call(300_000 * number).cancel(300_000 * number + 50)
    assert told(story, storm()) == []


def test_a_proxy_that_cancels_the_forks_that_lost() -> None:
    """Two phones ring, one answers: the other is canceled. No caller gave up."""
    story = Story()
    for number in range(30):
        call = story.call(100 * number)
        call.ring(100 * number + 5, IPHONE)
        call.answer(100 * number + 300, DESK_PHONE)
        text = call._text(f"CANCEL {IPHONE.uri} SIP/2.0", [(call.branch_to(IPHONE), PROXY)], "CANCEL")
        story.message(100 * number + 301, PROXY, IPHONE.address, text)
    assert told(story, storm()) == []


def test_repeated_cancels_of_one_call_are_one() -> None:
    story = Story()
    call = story.call()
    for number in range(30):
        call.request(100 + number, "CANCEL")
    assert told(story, storm()) == []


def test_cancels_of_calls_that_never_were() -> None:
    story = Story()
    for number in range(12):
        text = (
            f"CANCEL sip:bob@sip.test SIP/2.0\nVia: SIP/2.0/UDP 203.0.113.66;branch=z9hG4bK{number}\n"
            f"From: <sip:x@sip.test>;tag=1\nTo: <sip:bob@sip.test>\nCall-ID: {number}\nCSeq: 1 CANCEL\n"
        )
        story.message(10 * number, STRANGER, PROXY, text)
    (found,) = told(story, storm())
    assert (found.identifier, found.evidence["source_ip"]) == ("x@sip.test", STRANGER[0])


def test_ignored_accounts() -> None:
    story = Story()
    for number in range(12):
        story.call(100 * number).cancel(100 * number + 50)
    assert told(story, storm(ignore_accounts=["alice@sip.test"])) == []


def test_strangers_cost_little() -> None:
    story = Story()
    for number in range(400):
        story.call(number, from_uri=f"sip:{2000 * 'x'}{number}@sip.test").request(number + 0.5, "CANCEL")
    detector = storm(max_accounts=50)
    assert told(story, detector)  # cut to what is kept, they are all one
    assert held_bytes(detector) < 50_000
