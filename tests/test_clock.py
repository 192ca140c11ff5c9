"""Event time: a clock for each capture agent, and the timers on it."""

from __future__ import annotations

import pytest

from pipeline.engine.clock import STEP_BACK_US, Clocks, Due

S = 1_000_000
A, B = "10.0.0.1/1", "10.0.0.2/2"
OWNER = "detector"


@pytest.fixture
def clocks() -> Clocks:
    """Agent A says it is 100 s, agent B 500 s, when the wall clock says 1000 s."""
    clocks = Clocks()
    assert list(clocks.advance(A, 100 * S, 1000 * S)) == []
    assert list(clocks.advance(B, 500 * S, 1000 * S)) == []
    return clocks


def test_a_timer_fires_when_its_agents_time_has_passed_it(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 102 * S, A)
    assert list(clocks.advance(A, 102 * S, 1001 * S)) == []  # another message of that instant may follow
    assert list(clocks.advance(A, 102 * S + 1, 1001 * S)) == [Due(OWNER, "x", 102 * S, A)]
    assert list(clocks.advance(A, 103 * S, 1001 * S)) == []
    assert clocks.pending == 0


def test_another_agents_time_does_not_count(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 102 * S, A)
    assert list(clocks.advance(B, 900 * S, 1001 * S)) == []


def test_wall_time_carries_a_silent_agents_clock_on(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 102 * S, A)
    clocks.start(OWNER, "y", 501 * S, B)
    assert list(clocks.tick(1000 * S)) == []
    assert clocks.next_due_us() == 1001 * S
    assert list(clocks.tick(1001 * S)) == [Due(OWNER, "y", 501 * S, B)]
    assert clocks.next_due_us() == 1002 * S
    assert list(clocks.tick(1002 * S)) == [Due(OWNER, "x", 102 * S, A)]
    assert clocks.next_due_us() is None


def test_wall_time_that_falls_back_fires_nothing(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 100 * S + 1, A)
    assert list(clocks.tick(10 * S)) == []


def test_starting_again_moves_a_timer(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 102 * S, A)
    clocks.start(OWNER, "x", 104 * S, A)
    assert list(clocks.advance(A, 103 * S, 1003 * S)) == []
    assert list(clocks.advance(A, 105 * S, 1003 * S)) == [Due(OWNER, "x", 104 * S, A)]
    clocks.start(OWNER, "x", 120 * S, A)
    clocks.start(OWNER, "x", 110 * S, A)
    assert list(clocks.advance(A, 130 * S, 1003 * S)) == [Due(OWNER, "x", 110 * S, A)]


def test_a_timer_may_move_to_another_agents_clock(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 102 * S, A)
    clocks.start(OWNER, "x", 502 * S, B)
    assert list(clocks.advance(A, 103 * S, 1003 * S)) == []
    assert list(clocks.advance(B, 503 * S, 1003 * S)) == [Due(OWNER, "x", 502 * S, B)]


def test_names_belong_to_their_owners(clocks: Clocks) -> None:
    clocks.start("one", "x", 102 * S, A)
    clocks.start("two", "x", 102 * S, A)
    clocks.cancel("one", "x")
    clocks.cancel("one", "never started")
    assert list(clocks.advance(A, 103 * S, 1003 * S)) == [Due("two", "x", 102 * S, A)]


def test_timers_fire_in_order_of_time_then_of_starting(clocks: Clocks) -> None:
    for name, at_s in (("c", 103), ("a", 101), ("b", 101)):
        clocks.start(OWNER, name, at_s * S, A)
    assert [due.name for due in clocks.advance(A, 200 * S, 1003 * S)] == ["a", "b", "c"]


def test_a_timer_in_the_past_fires_at_once(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 50 * S, A)
    assert list(clocks.tick(1000 * S)) == [Due(OWNER, "x", 50 * S, A)]


def test_a_timer_started_while_others_fire_is_not_lost(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 101 * S, A)
    fired = []
    for due in clocks.advance(A, 110 * S, 1003 * S):
        fired.append(due.name)
        if due.name == "x":
            clocks.start(OWNER, "y", 102 * S, A)
    assert fired == ["x", "y"]


def test_a_little_disorder_turns_no_clock_back(clocks: Clocks) -> None:
    clocks.start(OWNER, "x", 101 * S, A)
    assert list(clocks.advance(A, 100 * S - STEP_BACK_US, 1000 * S)) == []
    assert clocks.steps_back == 0
    assert list(clocks.tick(1001 * S)) == [Due(OWNER, "x", 101 * S, A)]


def test_a_clock_set_back_leaves_timers_the_time_they_had_left(clocks: Clocks) -> None:
    list(clocks.advance(A, 10_000 * S, 1000 * S))
    clocks.start(OWNER, "x", 10_005 * S, A)
    assert list(clocks.advance(A, 200 * S, 1001 * S)) == []
    assert clocks.steps_back == 1
    assert list(clocks.advance(A, 204 * S, 1001 * S)) == []
    assert [due.name for due in clocks.advance(A, 206 * S, 1001 * S)] == ["x"]


def test_two_clocks_under_one_name_leave_timers_their_time(clocks: Clocks) -> None:
    """A recording is played under the name of a live agent, or two agents have one name and disagree."""
    clocks.start(OWNER, "of the first", 130 * S, A)
    fired = []
    for second in range(1, 60):
        wall = (1000 + second) * S
        for at_s in (100 + second, 100 + second - 90_000):
            fired += [(due.name, second) for due in clocks.advance(A, at_s * S, wall)]
            if second == 3 and at_s < 0:
                clocks.start(OWNER, "of the other", (at_s + 10) * S, A)
        fired += [(due.name, second) for due in clocks.tick(wall)]
    assert fired == [("of the other", 13), ("of the first", 30)]


def test_steps_back_cost_the_same_however_many_timers_are_set(clocks: Clocks) -> None:
    for number in range(1000):
        clocks.start(OWNER, str(number), 130 * S, A)
    heap = clocks._clocks[A].heap
    for turn in range(1000):
        list(clocks.advance(A, (100 - 90_000 * (turn % 2)) * S, 1000 * S))
    assert clocks.steps_back == 500
    assert clocks._clocks[A].heap is heap
    assert len(heap) == 1000


def test_the_end_of_input_fires_all_in_order(clocks: Clocks) -> None:
    clocks.start(OWNER, "b", 9000 * S, A)
    clocks.start(OWNER, "a", 200 * S, A)
    clocks.start(OWNER, "gone", 300 * S, A)
    clocks.cancel(OWNER, "gone")
    assert [due.name for due in clocks.finish()] == ["a", "b"]
    assert clocks.pending == 0


def test_timers_moved_over_and_over_take_no_more_room(clocks: Clocks) -> None:
    for step in range(10_000):
        clocks.start(OWNER, "x", (200 + step) * S, A)
        clocks.start(OWNER, f"cancelled {step}", (200 + step) * S, A)
        clocks.cancel(OWNER, f"cancelled {step}")
    assert clocks.pending == 1
    assert sum(len(clock.heap) for clock in clocks._clocks.values()) <= 66
    assert list(clocks.finish()) == [Due(OWNER, "x", 10_199 * S, A)]
