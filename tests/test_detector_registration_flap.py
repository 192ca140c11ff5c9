"""Registrations that flap, and those that only look like it: refreshes, several phones, an office that starts."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from story import DESK_PHONE, IPAD, IPHONE, Story
from watching import held_bytes, told

from detectors.registration_flap import RegistrationFlap, RegistrationFlapSettings


def flap(**settings: Any) -> RegistrationFlap:
    return RegistrationFlap(RegistrationFlapSettings(**{"changes": 10, **settings}))


def test_a_phone_that_comes_and_goes() -> None:
    story = Story()
    for number in range(6):
        story.register(2000 * number)
        story.register(2000 * number + 1000, contact="*", expires=0)
    (found,) = told(story, flap())
    assert (found.kind, found.identifier, found.aor) == (
        "registration_flap",
        "bob@sip.test",
        "sip:bob@sip.test",
    )
    assert found.evidence["changes"] == 10


def test_a_phone_that_takes_itself_out_each_time() -> None:
    story = Story()
    for number in range(6):
        story.register(2000 * number)
        story.register(2000 * number + 1000, expires=0)
    assert len(told(story, flap())) == 1


def test_a_phone_with_a_new_port_each_time() -> None:
    story = Story()
    for number in range(12):
        story.register(1000 * number, replace(IPHONE, port=20_000 + number))
    (found,) = told(story, flap())
    assert found.evidence["target"] == "203.0.113.21:20009;transport=udp"


def test_two_phones_that_fight_for_one_binding() -> None:
    """The same instance at two addresses, in turn."""
    story = Story()
    for number in range(12):
        story.register(1000 * number, replace(IPHONE, ip=f"203.0.113.{21 + number % 2}"))
    assert len(told(story, flap())) == 1


def test_refreshes() -> None:
    story = Story()
    for number in range(100):
        for phone in (IPHONE, IPAD, DESK_PHONE):
            story.register(1000 * number, phone)
    assert told(story, flap()) == []


def test_an_office_that_starts() -> None:
    story = Story()
    for number in range(100):
        story.register(number, replace(IPHONE, account=f"u{number}@sip.test", instance=f"urn:uuid:{number}"))
    assert told(story, flap()) == []


def test_questions_and_refusals_change_nothing() -> None:
    story = Story()
    for number in range(30):
        story.register(1000 * number, contact="")
        story.register(1000 * number + 500, replace(IPHONE, port=number + 1), status=403)
    assert told(story, flap()) == []


def test_changes_over_a_day() -> None:
    story = Story()
    for number in range(12):
        story.register(7_200_000 * number, replace(IPHONE, port=20_000 + number))
    assert told(story, flap()) == []


def test_strangers_cost_little() -> None:
    story = Story()
    for number in range(400):
        name = f"{number}" + 2000 * "x"
        story.register(number, replace(IPHONE, account=f"{name}@sip.test", instance=name))
        story.register(number, replace(IPHONE, instance=name, port=number + 1))
    detector = flap(max_accounts=50)
    told(story, detector)
    assert held_bytes(detector) < 100_000
