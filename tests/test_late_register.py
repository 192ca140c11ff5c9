"""The rule of ghost calls, sentence by sentence: who was called, and how the call ended."""

from __future__ import annotations

from dataclasses import replace

import pytest
from story import (
    DESK_PHONE,
    IPAD,
    IPHONE,
    Call,
    Phone,
    Story,
    findings,
    lost_call,
    owed,
)

ALL = ["canceled", "answered", "declined", "busy", "rejected", "no_answer"]
OTHER_TENANT = replace(IPAD, account="bob@other.test")


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
