"""The rule of ghost calls, sentence by sentence: what a mirror can be trusted with; time, order, memory."""

from __future__ import annotations

from dataclasses import replace

import pytest
from story import (
    CALLER,
    IPAD,
    IPHONE,
    MOVED,
    PROXY,
    STRANGER,
    T0_US,
    Phone,
    Story,
    engine_for,
    findings,
    lost_call,
    owed,
    play,
)

from pipeline.engine.state import StateSettings

# -- our own calls, and strangers ----------------------------------------------------------------------


def test_our_own_call_is_no_call_and_overwrites_no_outcome() -> None:
    story = Story()
    call = story.call()
    call.answer(1000)
    story.register(2000)
    own = replace(call, from_tag="late-77", cseq=7, caller=("192.0.2.9", 5060))
    own.invite(2100)
    own.ring(2101)
    own.cancel(2300)
    story.register(3000)
    story.register(3500, IPAD)
    assert owed(story) == [(call.call_id, IPHONE.target, "answered"), (call.call_id, IPAD.target, "answered")]


def test_a_strangers_cancel_is_no_end() -> None:
    story = Story()
    call = story.call()
    call.request(500, "CANCEL", src=STRANGER)
    story.register(1000)
    assert owed(story) == []


def test_nor_is_one_with_no_call() -> None:
    story = Story()
    call = replace(story.call(), call_id="unknown@caller.test")
    call.request(500, "CANCEL", src=STRANGER)
    call.reply(501, 200, "CANCEL", src=STRANGER)
    story.register(1000)
    assert owed(story) == []


def test_a_strangers_200_is_no_answer() -> None:
    story = Story()
    call = story.call()
    call.phone_says(500, 200, src=STRANGER)
    call.reply(501, 200, src=STRANGER)
    call.cancel(1000)
    story.register(2000)
    assert owed(story) == [(call.call_id, IPHONE.target, "canceled")]


def test_a_strangers_180_reaches_nobody() -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.fork(200.5)
    call.phone_says(300, 180, src=STRANGER)
    call.cancel(1000)
    assert owed(story) == [(call.call_id, IPHONE.target, "canceled")]


def test_only_the_registrars_own_200_makes_a_binding() -> None:
    story = Story()
    lost_call(story)
    story.register(2000, answered_by=STRANGER)
    story.register(2500, reply_branch="another")
    assert owed(story) == []


@pytest.mark.parametrize("untrusted", ["INVITE", "CANCEL", "REGISTER", None])
def test_a_fact_from_an_untrusted_agent_makes_the_finding_untrusted(untrusted: str | None) -> None:
    story = Story()
    lost_call(story)
    story.register(2000)
    for event in story.events:
        event.trusted = event.sip.method != untrusted
    (finding,) = findings(story)
    assert finding.trusted is (untrusted is None)


# -- behind an edge proxy ------------------------------------------------------------------------------

EDGE = ("192.0.2.7", 5060)


def to_edge(phone: Phone) -> Phone:
    return replace(phone, ip=EDGE[0], port=EDGE[1])


def test_behind_an_edge_the_target_is_the_phones_own_address() -> None:
    story = Story()
    call_id = lost_call(story)
    phone = replace(IPHONE, transport="tcp")
    story.register(2000, phone, edge=EDGE)
    assert owed(story) == [(call_id, phone.target, "canceled")]


@pytest.mark.parametrize(("status", "count"), [(180, 0), (486, 0), (100, 1), (408, 1), (477, 1), (503, 1)])
def test_what_the_edge_may_have_said_itself_is_no_sign_of_the_phone(status: int, count: int) -> None:
    story = Story()
    story.register(0, IPHONE, edge=EDGE)
    call = story.call(100)
    call.fork(101, to_edge(IPHONE), ruri=IPHONE.uri)
    call.phone_says(102, status, to_edge(IPHONE))
    call.cancel(1000)
    story.register(2000, MOVED, edge=EDGE)
    assert len(owed(story)) == count


def test_a_phone_that_rang_behind_an_edge_is_not_its_neighbour() -> None:
    story = Story()
    story.register(0, IPHONE, edge=EDGE)
    call = story.call(100)
    call.fork(101, to_edge(IPHONE), ruri=IPHONE.uri)
    call.phone_says(102, 180, to_edge(IPHONE))
    call.cancel(1000)
    story.register(2000, IPAD, edge=EDGE)
    assert owed(story) == [(call.call_id, IPAD.target, "canceled")]


# -- time and order ------------------------------------------------------------------------------------


def test_a_message_mirrored_late_may_spare_the_phone_a_call() -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.fork(201)
    call.cancel(1000)
    decided_ms = 1500
    call.phone_says(202, 180)
    late = story.events.pop()
    in_order = [*sorted(story.events, key=lambda event: event.ts_us)]
    engine = engine_for(reorder="300ms")
    for event in in_order:
        assert engine.handle([event], event.ts_us) == []
    assert engine.tick(T0_US + (decided_ms + 299) * 1000) == []
    assert engine.handle([late], T0_US + (decided_ms + 299) * 1000) == []
    assert engine.tick(T0_US + 60_000_000) == []


def test_a_finding_is_raised_when_the_hold_is_over_and_not_before() -> None:
    story = Story()
    lost_call(story)
    story.register(2000)
    engine = engine_for()
    for event in sorted(story.events, key=lambda event: event.ts_us):
        assert engine.handle([event], event.ts_us) == []
    assert engine.tick(T0_US + 2_049_999) == []
    (finding,) = engine.tick(T0_US + 2_050_000)
    assert finding.ts_us == T0_US + 2_000_000


def test_register_and_end_in_either_order_give_the_same() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(1400)
    backwards = sorted(story.events, key=lambda event: -event.ts_us)
    (finding,) = play(backwards, engine_for(reorder="2s"))
    assert (finding.call_id, finding.ts_us) == (call_id, T0_US + 1_400_000)


def test_the_first_late_register_decides() -> None:
    story = Story()
    lost_call(story)
    story.register(2000)
    story.register(3000, MOVED)
    (finding,) = play(story.events, engine_for(reorder="2s"))
    assert (finding.ts_us, finding.evidence["target"]) == (T0_US + 2_000_000, IPHONE.target)


def test_an_answer_mirrored_late_moves_the_end_and_the_hold() -> None:
    story = Story()
    call = story.call()
    call.cancel(1000)
    story.register(1010)
    call.answer(1020)
    assert [(f.evidence["outcome"], f.ts_us) for f in findings(story)] == [("answered", T0_US + 1_520_000)]


def test_capture_points_with_clocks_apart() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000)
    copies = [replace(e, agent="192.0.2.7/2002", ts_us=e.ts_us - 30_000_000) for e in story.events[-2:]]
    story.events = [*copies, *story.events]  # an edge whose clock is half a minute slow
    assert [f.call_id for f in play(story.events, engine_for())] == [call_id]


# -- the evidence --------------------------------------------------------------------------------------


def test_the_evidence_says_why() -> None:
    story = Story()
    call = story.call(1, from_uri="sip:alice@caller.test")
    call.cancel(1000)
    story.register(2628.399)
    (finding,) = findings(story)
    ids = {event.msg_id: event.sip for event in story.events}
    evidence = dict(finding.evidence)
    messages = evidence.pop("messages")
    assert evidence == {
        "call_id": call.call_id,
        "aor": "sip:bob@sip.test",
        "caller_user": "alice",
        "caller_host": "caller.test",
        "caller_display": "Alice",
        "contact": IPHONE.uri,
        "target": IPHONE.target,
        "device": IPHONE.instance,
        "instance": IPHONE.instance,
        "user_agent": IPHONE.user_agent,
        "outcome": "canceled",
        "outcome_status": 487,
        "answered_by": None,
        "invite_us": T0_US + 1000,
        "outcome_us": T0_US + 1_000_000,
        "register_us": T0_US + 2_628_399,
        "late_ms": 1628.399,
    }
    assert [(name, ids[msg_id].method, ids[msg_id].status) for name, msg_id in messages.items()] == [
        ("invite", "INVITE", None),
        ("outcome", "CANCEL", None),
        ("register", "REGISTER", None),
        ("register_accepted", "REGISTER", 200),
    ]
    assert set(finding.msg_ids) == set(messages.values())
    assert (finding.kind, finding.severity, finding.trusted) == ("late_register", "warning", True)


# -- bounded memory ------------------------------------------------------------------------------------


def test_hard_caps_count_what_they_throw_away() -> None:
    story = Story()
    for number in range(50):
        ms = number * 20.0
        story.call(ms).cancel(ms + 5)
        story.register(ms + 6, replace(IPHONE, instance=f"urn:uuid:{number}", port=30_000 + number))
    engine = engine_for(StateSettings(max_calls=10, max_devices=7, max_registrations=5))
    for event in sorted(story.events, key=lambda event: event.ts_us):
        engine.handle([event], event.ts_us)
        state = engine.state
        assert len(state.calls) <= 10
        assert len(state.devices) <= 7
        assert len(state.registrations) <= 5
    assert state.evicted == {"call": 40, "device": 43, "registration": 45, "hop": 0}


def test_what_is_over_is_forgotten() -> None:
    story = Story()
    for number in range(5):
        lost_call(story, number * 10)
        call = story.call(number * 10 + 5)
        call.answer(1000)
        call.request(3000, "BYE", to_tag=";tag=b1")
    story.register(2000)
    story.register(2100, contact="*", expires=0)
    engine = engine_for()
    for event in sorted(story.events, key=lambda event: event.ts_us):
        engine.handle([event], event.ts_us)
    assert len(engine.state.calls) == 10
    engine.tick(T0_US + 3600_000_000)  # binding and calls are over, and so is their memory
    state = engine.state
    assert (state.calls, state.devices, state.registrations, state.evicted["call"]) == ({}, {}, {}, 0)
    assert (state._calls_by_key, state._calls_by_target, state._devices_by_key) == ({}, {}, {})
    assert (state._devices_by_address, state._removals) == ({}, {})
    assert engine.clocks.pending == 0


def test_a_phone_that_keeps_changing_its_port_stays_small() -> None:
    engine = engine_for()
    story = Story()
    for number in range(200):
        story.register(number * 60_000, replace(IPHONE, port=1024 + number))
    play(story.events, engine)
    ((_, device),) = engine.state.devices.items()
    assert len(device.places) <= 8
    assert len(device.accepted) <= 16
    assert len(engine.state._devices_by_address) == len(device.places)


def test_the_callers_and_proxys_addresses_are_as_told() -> None:
    story = Story()
    call = story.call()
    call.ring(1)
    engine = engine_for()
    play(story.events, engine)
    facts = engine.state.calls[call.call_id].facts()
    assert (facts.caller, facts.proxy, facts.legs) == (CALLER, PROXY, 1)
