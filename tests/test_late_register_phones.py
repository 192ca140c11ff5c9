"""The rule of ghost calls, sentence by sentence: which phone it is, when it registered, what reached it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError
from story import (
    ANDROID,
    DESK_PHONE,
    IPAD,
    IPHONE,
    MOVED,
    T0_US,
    Phone,
    Story,
    engine_for,
    findings,
    lost_call,
    owed,
    play,
)

from detectors.late_register import LateRegisterSettings

# -- which phone ---------------------------------------------------------------------------------------


def test_a_phone_back_from_a_new_port_is_the_same_phone() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000)
    story.register(3000, MOVED)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


def test_without_an_instance_its_address_is_the_phone() -> None:
    story = Story()
    call_id = lost_call(story)
    nameless = replace(IPHONE, instance=None)
    story.register(2000, nameless)
    story.register(3000, nameless)
    story.register(4000, replace(MOVED, instance=None))
    assert owed(story) == [(call_id, IPHONE.target, "canceled"), (call_id, MOVED.target, "canceled")]


def test_an_instance_is_compared_without_case() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000)
    story.register(
        3000, replace(MOVED, instance=(IPHONE.instance or "").upper().replace("URN:UUID", "urn:uuid"))
    )
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


@pytest.mark.parametrize("transport", ["tcp", "tls", "wss"])
def test_the_target_is_the_way_back_that_the_mirror_saw(transport: str) -> None:
    story = Story()
    call_id = lost_call(story)
    phone = replace(IPHONE, transport=transport)
    story.register(2000, phone, contact="<sip:bob@10.1.2.3:5060;transport=tls>")
    assert owed(story) == [(call_id, phone.target, "canceled")]


def test_an_ipv6_target_has_brackets() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000, replace(IPHONE, ip="2001:db8::21"))
    assert owed(story) == [(call_id, "[2001:db8::21]:20001;transport=udp", "canceled")]


@pytest.mark.parametrize(
    "phone",
    [
        replace(
            IPHONE, user_agent="Softphone/1.0", params=";pn-provider=apns;pn-prid=ab;pn-param=T.org.x.voip"
        ),
        replace(IPHONE, user_agent="Softphone/1.0", header_params=";pn-provider=apns"),
        replace(IPHONE, user_agent="Softphone/1.0", params=";pn-type=apple;app-id=org.x.prod;pn-tok=ab"),
        replace(IPHONE, user_agent="Bria iOS 6.5.2"),
        replace(IPHONE, user_agent="Linphone/5.2 (iPad)"),
    ],
)
def test_phones_woken_by_a_push(phone: Phone) -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000, phone)
    assert owed(story) == [(call_id, phone.target, "canceled")]


@pytest.mark.parametrize(
    "phone",
    [
        DESK_PHONE,
        replace(IPHONE, user_agent=ANDROID),
        replace(IPHONE, user_agent=ANDROID, params=";pn-provider=fcm;pn-prid=ab"),
        replace(IPHONE, user_agent="Softphone/1.0", params=";pn-type=firebase"),
        replace(IPHONE, user_agent="Cisco IOS-XE"),
    ],
)
def test_other_phones(phone: Phone) -> None:
    story = Story()
    lost_call(story)
    story.register(2000, phone)
    assert owed(story) == []


def test_which_phones_is_a_setting() -> None:
    story = Story()
    call_id = lost_call(story)
    phone = replace(IPHONE, user_agent=ANDROID, params=";pn-provider=fcm")
    story.register(2000, phone)
    assert owed(story, devices={"user_agent": "Android"}) == [(call_id, phone.target, "canceled")]
    assert owed(story, devices={"push_providers": ["fcm"]}) == [(call_id, phone.target, "canceled")]


def test_a_pattern_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="no regular expression"):
        LateRegisterSettings(devices={"user_agent": "("})  # type: ignore[arg-type]


# -- its REGISTER --------------------------------------------------------------------------------------


def test_a_challenged_register_triggers_nothing_its_repeat_does() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000, status=401)
    assert owed(story) == []
    story.register(2900)
    (finding,) = findings(story)
    assert (finding.call_id, finding.ts_us) == (call_id, T0_US + 2_900_000)


def test_retransmissions_trigger_once() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000, copies=4)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


def test_copies_of_the_mirror_trigger_once() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000)
    for event in list(story.events):
        story.events.append(replace(event, ts_us=event.ts_us + 70))
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


@pytest.mark.parametrize(
    ("contact", "expires"),
    [
        (None, 0),
        ("*", 0),
        (f"{IPHONE.contact};expires=0", 600),
        ("", 600),  # no Contact: it only asks which bindings there are
    ],
)
def test_what_makes_no_binding_triggers_nothing(contact: str | None, expires: int) -> None:
    story = Story()
    lost_call(story)
    story.register(2000, contact=contact, expires=expires)
    assert owed(story) == []


@pytest.mark.parametrize(("contact", "expires"), [(f"{IPHONE.contact};expires=60", 0), (None, None)])
def test_what_makes_one_triggers(contact: str | None, expires: int | None) -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000, contact=contact, expires=expires)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


def test_a_contact_that_moves_makes_a_binding() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000, contact=f"<sip:bob@10.0.0.9>;expires=0, {IPHONE.contact}")
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


@pytest.mark.parametrize("contact", ["*", f"<{IPHONE.uri}>", None])
def test_a_register_taken_back_before_the_end_of_the_call_is_none(contact: str | None) -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.fork(200.5)
    story.register(600, contact=contact, expires=0)
    call.cancel(1000)
    assert owed(story) == []


def test_even_when_the_mirror_brings_that_first() -> None:
    story = Story()
    call = story.call()
    story.register(600, contact="*", expires=0)
    story.register(580)
    call.cancel(1000)
    assert play(story.events, engine_for()) == []


def test_leaving_after_the_late_register_changes_nothing() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000)
    story.register(2030, expires=0)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


def test_an_earlier_unregister_changes_nothing() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(1500, expires=0)
    story.register(2000)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


# -- in time, or late ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("late_us", "count"), [(15_000_000, 1), (15_000_001, 0), (1, 1)])
def test_the_window_counts_from_the_end_of_the_call(late_us: int, count: int) -> None:
    story = Story()
    lost_call(story)
    story.register(1000 + late_us / 1000)
    assert len(owed(story)) == count


def test_the_window_is_a_setting() -> None:
    story = Story()
    lost_call(story)
    story.register(4000)
    assert len(owed(story, window="3s")) == 1
    assert len(owed(story, window="2s")) == 0


def test_a_register_before_the_call_is_none() -> None:
    story = Story()
    story.register(0)
    lost_call(story, 100)
    assert owed(story) == []


def test_in_time_and_rung_it_may_register_freely() -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.ring(201)
    call.cancel(1000)
    story.register(2000)
    story.register(3000, MOVED)
    assert owed(story) == []


@pytest.mark.parametrize("status", [100, 180, 183, 486, 487])
def test_any_response_means_reached(status: int) -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.fork(200.5)
    call.phone_says(201, status)
    call.cancel(1000)
    story.register(2000)
    assert owed(story) == []


def test_an_invite_without_response_reached_nobody() -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.fork(200.5)
    call.cancel(1000)
    (finding,) = findings(story)
    assert finding.ts_us == T0_US + 1_500_000  # at the end of the grace
    assert finding.evidence["late_ms"] == -800


def test_the_grace_is_a_setting() -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.fork(200.5)
    call.cancel(1000)
    call.phone_says(1800, 180)
    assert len(owed(story)) == 1
    assert len(owed(story, grace="1s")) == 0


def test_a_phone_that_moved_while_it_rang_is_named_by_its_newest_place() -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.fork(200.5)
    story.register(600, MOVED)
    call.fork(600.5, MOVED)
    call.cancel(1000)
    assert owed(story) == [(call.call_id, MOVED.target, "canceled")]


def test_a_dead_binding_reached_nobody_even_at_the_same_address() -> None:
    story = Story()
    story.register(0)
    call = story.call(100)
    call.fork(101)
    call.cancel(1000)
    story.register(2000)
    assert owed(story) == [(call.call_id, IPHONE.target, "canceled")]


def test_a_phone_reached_where_it_no_longer_is() -> None:
    story = Story()
    story.register(0)
    call = story.call(100)
    call.ring(101)
    call.cancel(1000)
    story.register(2000, MOVED)
    assert owed(story) == []


def test_an_address_that_has_become_another_phones() -> None:
    story = Story()
    story.register(0)
    story.register(100, expires=0)
    heir = replace(DESK_PHONE, ip=IPHONE.ip, port=IPHONE.port)
    story.register(200, heir)
    call = story.call(300)
    call.answer(1000, heir)
    story.register(2000, MOVED)
    assert owed(story) == [(call.call_id, MOVED.target, "answered")]


def test_phones_behind_one_address_are_told_apart_by_contact() -> None:
    story = Story()
    first = replace(IPHONE, params=";line=1")
    second = replace(IPAD, ip=IPHONE.ip, port=IPHONE.port, params=";line=2")
    story.register(0, first)
    call = story.call(100)
    call.ring(101, first)
    call.cancel(1000)
    story.register(1900, first)
    story.register(2000, second)
    assert owed(story) == [(call.call_id, second.target, "canceled")]
    assert [f.evidence["instance"] for f in findings(story)] == [second.instance]


def test_the_answering_phone_is_owed_nothing() -> None:
    story = Story()
    call = story.call()
    story.register(200)
    call.answer(1000, IPHONE)
    story.register(2000)
    story.register(3000, MOVED)
    assert owed(story) == []


def test_two_late_phones_get_one_each_two_lost_calls_give_two() -> None:
    story = Story()
    first = lost_call(story)
    second = lost_call(story, 1500)
    story.register(3000)
    story.register(3500, IPAD)
    assert sorted(owed(story)) == sorted(
        (call_id, phone.target, "canceled") for call_id in (first, second) for phone in (IPHONE, IPAD)
    )


def test_one_for_each_call_and_phone() -> None:
    story = Story()
    call_id = lost_call(story)
    for ms in range(2000, 14_000, 1000):
        story.register(ms)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]
