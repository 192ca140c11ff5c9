"""Toll fraud: destinations that an account never called."""

from __future__ import annotations

from typing import Any

import pytest
from story import Story
from watching import held_bytes, told

from detectors.toll_fraud import TollFraud, TollFraudSettings

DAY_MS = 86_400_000
# Of the ITU's list of country codes: the Maldives, Cuba, Somalia, Latvia.
ABROAD = ["+9607751234", "+5371234567", "+252611234567", "+37122123456"]


def fraud(**settings: Any) -> TollFraud:
    return TollFraud(TollFraudSettings(**settings))


def calls(story: Story, ms: float, numbers: list[str], user: str = "alice") -> None:
    for index, number in enumerate(numbers):
        story.call(ms + 1000 * index, f"sip:{number}@sip.test", from_uri=f"sip:{user}@sip.test")


def habits(story: Story, numbers: list[str]) -> None:
    """A day of ordinary calls."""
    calls(story, 0, numbers)
    calls(story, DAY_MS, ["7001"])


@pytest.mark.parametrize("dialled", ["+", "00", "011"])
def test_a_stolen_account(dialled: str) -> None:
    story = Story()
    habits(story, ["+380441234567", "7001"])
    calls(story, DAY_MS + 60_000, [number.replace("+", dialled) for number in ABROAD])
    (found,) = told(story, fraud())
    assert (found.kind, found.identifier, found.severity) == ("toll_fraud", "alice@sip.test", "critical")
    assert found.evidence["destinations"] == ["+9607", "+5371", "+2526"]
    assert found.evidence["habits_known"] is True


def test_what_it_always_calls() -> None:
    story = Story()
    habits(story, ABROAD)
    calls(story, DAY_MS + 60_000, ABROAD * 5)
    assert told(story, fraud()) == []


def test_one_number_again_and_again() -> None:
    """May be a new friend; a flood of them is another detector's business."""
    story = Story()
    habits(story, [])
    calls(story, DAY_MS + 60_000, [ABROAD[0]] * 50)
    assert told(story, fraud()) == []


def test_new_places_over_days() -> None:
    story = Story()
    habits(story, [])
    for day, number in enumerate(ABROAD):
        calls(story, (day + 1) * DAY_MS + 60_000, [number])
    assert told(story, fraud()) == []


def test_at_home_and_inside() -> None:
    story = Story()
    habits(story, [])
    calls(
        story, DAY_MS + 60_000, [f"+38{n}0441234567" for n in range(10)] + [f"{n}001" for n in range(1, 10)]
    )
    assert told(story, fraud(home=["+38"])) == []


def test_while_habits_are_not_known() -> None:
    """Three new places are anybody's morning then; ten are not."""
    story = Story()
    calls(story, 0, ABROAD)
    assert told(story, fraud()) == []
    calls(story, 60_000, [f"+{code}1234567" for code in (2201, 2311, 2321, 2471, 6741, 6761)])
    (found,) = told(story, fraud())
    assert found.evidence["habits_known"] is False


def test_each_account_for_itself() -> None:
    story = Story()
    habits(story, [])
    for index, number in enumerate(ABROAD):
        calls(story, DAY_MS + 60_000, [number], user=f"u{index}")
    assert told(story, fraud()) == []


def test_how_a_number_is_written() -> None:
    story = Story()
    habits(story, [])
    calls(story, DAY_MS + 60_000, ["+960-775-1234", "+9607(75)1234;npdi", "+%39607751234", "+960.775.9999"])
    assert told(story, fraud(new_prefixes=2)) == []


def test_strangers_cost_little() -> None:
    story = Story()
    for number in range(400):
        calls(story, number, [f"+{100_000 + number}{'1' * 500}"], user=f"u{number}" + "x" * 2000)
        calls(story, number, [f"+{100_000 + number * 10}"], user="one")
    detector = fraud(max_accounts=50)
    told(story, detector)
    assert held_bytes(detector) < 100_000
