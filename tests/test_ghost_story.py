"""The story of a call says what its label says: `yes` and how late, or `no` and why not."""

from __future__ import annotations

import pytest
from recordings import PATHS, load

import pipeline as hd

RACE = "the phone registered after the call had ended (race)"
ELSEWHERE = "another device answered"
REACHED = ("d", "d2")  # the phone rang in time
OUTCOMES = {"b": "canceled", "c": "answered"}


@pytest.mark.parametrize("name", ["b", "c", *REACHED])
def test_the_story_is_that_of_the_label(name: str) -> None:
    owed = load(name).expected
    with hd.open_files(PATHS[name]) as store:
        (call_id,) = hd.calls(store=store)["call_id"]
        story = hd.ghost_story(call_id, store=store)
        tested = story.hypotheses().set_index("hypothesis")
        timeline = story.timeline()
    assert bool(tested.loc[RACE, "holds"]) == bool(owed)
    assert story.verdict.startswith("Yes: " if owed else "No: the INVITE reached ")
    for each in owed:
        assert each.call_id == call_id
        assert each.target in story.verdict
        assert f"was {OUTCOMES[name]} at" in story.verdict
    assert bool(tested.loc[ELSEWHERE, "holds"]) == (name in {"c", "d2"}), "as the scenes were set up"
    assert timeline["ts"].is_monotonic_increasing
    assert str(timeline["ts"].dt.tz) == "UTC"
    assert not any(tested["holds"].drop([RACE, ELSEWHERE])), "nothing else was wrong in these scenes"
