"""The rule of ghost calls, sentence by sentence: who is owed a compensating call, and who is not."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError
from story import (
    ANDROID,
    CALLER,
    DESK_PHONE,
    IPAD,
    IPHONE,
    PROXY,
    STRANGER,
    T0_US,
    Call,
    Phone,
    Story,
    engine_for,
    findings,
    owed,
    play,
)

from detectors.late_register import LateRegisterSettings
from pipeline.engine.state import StateSettings

ALL = ["canceled", "answered", "declined", "busy", "rejected", "no_answer"]
MOVED = replace(IPHONE, port=20009)  # the same phone, come back from a new port
OTHER_TENANT = replace(IPAD, account="bob@other.test")


def lost_call(story: Story, ms: float = 0, to: str = "sip:bob@sip.test", **more: str) -> str:
    """A call that waits for a phone; the caller gives up after a second."""
    call = story.call(ms, to, **more)
    call.cancel(ms + 1000)
    return call.call_id


# -- who was called ------------------------------------------------------------------------------------


def test_a_late_phone_is_owed_a_call() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


@pytest.mark.parametrize(
    "to",
    ["sip:bob@sip.test:5070;user=phone", "sips:bob@SIP.TEST.", "sip:b%6Fb@sip.test", "sip:bob:pw@sip.test"],
)
def test_the_request_uri_names_the_callee_whatever_its_dress(to: str) -> None:
    story = Story()
    call_id = lost_call(story, to=to)
    story.register(2000)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


def test_so_does_the_to_header() -> None:
    story = Story()
    call_id = lost_call(story, to="sip:7001@10.0.0.1", to_header="sip:bob@sip.test")
    story.register(2000)
    assert owed(story) == [(call_id, IPHONE.target, "canceled")]


def test_so_does_every_copy_sent_on() -> None:
    story = Story()
    call = story.call(to="sip:7001@sip.test")
    call.fork(1, Phone(5060, ip="192.0.2.2"), ruri="sip:bob@sip.test")
    call.cancel(1000)
    story.register(2000)
    assert owed(story) == [(call.call_id, IPHONE.target, "canceled")]


def test_a_copy_sent_to_a_registered_phone_names_its_account() -> None:
    story = Story()
    story.register(0, DESK_PHONE)
    call = story.call(10, "sip:7001@sip.test")
    call.answer(1000)
    story.register(2000)
    assert owed(story) == [(call.call_id, IPHONE.target, "answered")]


@pytest.mark.parametrize("number", ["15551234", "+15551234"])
@pytest.mark.parametrize("alias", ["15551234@sip.test", "sip:15551234@sip.test"])
def test_aliases_name_accounts(number: str, alias: str) -> None:
    story = Story()
    call_id = lost_call(story, to=f"sip:{number}@sip.test")
    story.register(2000)
    assert owed(story, aliases={alias: "bob@sip.test"}) == [(call_id, IPHONE.target, "canceled")]
    assert owed(story) == []


def test_an_alias_is_known_from_the_calls_side_too() -> None:
    story = Story()
    call = story.call(0, "sip:+15551234@sip.test")
    story.register(200)  # and nothing more of the phone: the end of the call decides
    call.cancel(1000)
    aliases = {"15551234@sip.test": "bob@sip.test"}
    assert owed(story, aliases=aliases) == [(call.call_id, IPHONE.target, "canceled")]


def test_a_tel_number_can_be_an_alias() -> None:
    story = Story()
    call_id = lost_call(story, to="tel:+1-555-1234")
    story.register(2000)
    assert owed(story, aliases={"+15551234": "bob@sip.test"}) == [(call_id, IPHONE.target, "canceled")]


def test_two_tenants_with_the_same_user_never_meet() -> None:
    story = Story()
    lost_call(story)
    story.register(2000, OTHER_TENANT)
    assert owed(story) == []


def test_by_user_only_they_do() -> None:
    story = Story()
    call_id = lost_call(story)
    story.register(2000, OTHER_TENANT)
    assert owed(story, match="user") == [(call_id, OTHER_TENANT.target, "canceled")]


def test_somebody_elses_phone_is_owed_nothing() -> None:
    story = Story()
    lost_call(story)
    story.register(2000, replace(IPHONE, account="carol@sip.test"))
    story.register(2100, replace(IPAD, account="alice@sip.test"))
    assert owed(story) == []


def test_two_accounts_on_one_phone_are_told_apart() -> None:
    story = Story()
    story.register(0)
    story.register(10, replace(IPHONE, account="carol@sip.test"))
    call = story.call(100, "sip:7001@sip.test")
    call.fork(101)  # to bob, at the address that is carol's too; it says nothing
    call.cancel(1000)
    story.register(2000)
    story.register(2100, replace(IPHONE, account="carol@sip.test"))
    assert [(f.aor, f.evidence["target"]) for f in findings(story)] == [("sip:bob@sip.test", IPHONE.target)]


# -- how the call ended --------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "status"), [("CANCEL", 200), ("INVITE", 487)])
def test_canceled_is_a_cancel_that_the_proxy_accepted(method: str, status: int) -> None:
    story = Story()
    call = story.call()
    call.request(1000, "CANCEL")
    call.reply(1001, status, method)
    story.register(2000)
    assert owed(story) == [(call.call_id, IPHONE.target, "canceled")]


def test_a_487_alone_is_enough() -> None:
    story = Story()
    call = story.call()
    call.reply(1001, 487)
    story.register(2000)
    assert owed(story) == [(call.call_id, IPHONE.target, "canceled")]


def test_a_cancel_alone_is_not() -> None:
    story = Story()
    story.call().request(1000, "CANCEL")
    story.register(2000)
    assert owed(story) == []


def test_answered_elsewhere() -> None:
    story = Story()
    call = story.call()
    call.answer(1000)
    story.register(2000)
    (finding,) = findings(story)
    assert finding.evidence["outcome"] == "answered"
    assert finding.evidence["answered_by"] == f"{DESK_PHONE.ip}:{DESK_PHONE.port}"


def test_a_cancel_that_crosses_the_200_changes_nothing() -> None:
    story = Story()
    call = story.call()
    call.answer(1000)
    call.request(1000.5, "CANCEL")
    call.reply(1000.7, 200, "CANCEL")
    story.register(2000)
    assert owed(story) == [(call.call_id, IPHONE.target, "answered")]


@pytest.mark.parametrize(
    ("status", "outcome"),
    [(486, "busy"), (603, "declined"), (600, "declined"), (480, "rejected"), (404, "rejected")],
)
def test_rejected_by_a_phone(status: int, outcome: str) -> None:
    story = Story()
    call = story.call()
    call.reject(1000, status)
    story.register(2000)
    assert owed(story, outcomes=ALL) == [(call.call_id, IPHONE.target, outcome)]
    assert owed(story, outcomes=[outcome]) == [(call.call_id, IPHONE.target, outcome)]
    assert owed(story) == []


@pytest.mark.parametrize("status", [408, 480])
def test_given_up_by_the_proxy(status: int) -> None:
    story = Story()
    call = story.call()
    call.reply(1000, status)
    story.register(2000)
    assert owed(story, outcomes=["no_answer"]) == [(call.call_id, IPHONE.target, "no_answer")]
    assert owed(story) == []


@pytest.mark.parametrize("status", [302, 404, 484, 500])
def test_what_the_proxy_says_otherwise_is_no_end_for_a_phone(status: int) -> None:
    story = Story()
    story.call().reply(1000, status)
    story.register(2000)
    assert owed(story, outcomes=ALL) == []


def test_a_challenge_is_no_end() -> None:
    story = Story()
    call = story.call()
    call.reply(0.5, 407)
    story.register(1000)
    assert owed(story, outcomes=ALL) == []


@pytest.mark.parametrize("status", [401, 407, 422, 494])
def test_nor_is_what_makes_the_caller_try_again_when_it_comes_from_a_phone(status: int) -> None:
    story = Story()
    story.call().reject(1000, status)
    story.register(2000)
    assert owed(story, outcomes=ALL) == []


def test_a_call_let_in_after_a_challenge() -> None:
    story = Story()
    call = story.call()
    call.challenged(0.5)
    call.cancel(1000)
    story.register(2000)
    assert owed(story) == [(call.call_id, IPHONE.target, "canceled")]


def test_outcomes_can_be_switched_off() -> None:
    story = Story()
    lost_call(story)
    story.register(2000)
    assert owed(story, outcomes=["answered"]) == []


def test_a_change_inside_the_call_is_no_new_call() -> None:
    story = Story()
    call = story.call()
    call.answer(1000)
    call.cseq = 2
    call.request(17_000, "INVITE", to_tag=";tag=b1")
    call.reply(17_001, 200)
    story.register(17_500)
    assert owed(story) == []


def test_nor_is_one_in_a_call_from_before_our_time() -> None:
    story = Story()
    call = Call(story, "old@caller.test", "sip:bob@sip.test")
    call.request(0, "INVITE", to_tag=";tag=b1")
    call.reply(1, 200)
    story.register(1000)
    assert owed(story) == []


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
    assert state.evicted == {"call": 40, "device": 43, "registration": 45}


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
