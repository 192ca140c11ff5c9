"""hepduck's own compensating calls through `deploy/kamailio/hepduck-inject.cfg` in a real Kamailio."""

from __future__ import annotations

import asyncio
import time

import pytest
from world.kamailio import Kamailio
from world.late_caller import COMPENSATED, SECRET
from world.parties import Parties
from world.phone import Phone
from world.sip import DOMAIN, REASON_ELSEWHERE, header, headers, new_call_id

from detectors.actions.fake_call import FakeCall
from detectors.actions.sipp import Sipp
from pipeline.engine.actions import Action, ActionResult, Attempt
from pipeline.engine.commands import Finding

pytestmark = pytest.mark.timeout(60)

ACTIONS: list[type[Action]] = [FakeCall, Sipp]
REASONS = {"canceled": [], "answered": [REASON_ELSEWHERE]}

either_action = pytest.mark.parametrize("action", ACTIONS, ids=lambda action: action.name)


@pytest.fixture(scope="module")
def kamailio(start_kamailio, certificate) -> Kamailio:
    return start_kamailio(
        defines={
            "HEPDUCK_SECRET": SECRET,
            "HEPDUCK_SRC": "127.0.0.1,::1",
            "HEPDUCK_NO_REPLY_MS": 1000,
            "NO_MIRROR": None,
        },
        certificate=certificate,
        also=("::1",),
    )


@pytest.fixture
def parties(kamailio, meet) -> Parties:
    return meet(kamailio)


def finding(phone: Phone, call_id: str, outcome: str, target: str | None = None) -> Finding:
    evidence = {"target": target or phone.target, "outcome": outcome}
    caller = {"caller_user": "alice", "caller_host": DOMAIN, "caller_display": "Alice"}
    return Finding(
        "late_register", call_id, 0, call_id=call_id, aor=phone.aor, evidence={**evidence, **caller}
    )


def act(action: type[Action], kamailio: Kamailio, for_: Finding, **settings: str) -> ActionResult:
    """Lets an action act once through that Kamailio."""
    host, port = kamailio.proxy()
    table = {"proxy": f"sip:{host}:{port}", "secret": SECRET, **settings}

    async def once() -> ActionResult:
        one = action(action.Settings.model_validate(table))
        await one.start()
        try:
            return await one.act(for_, Attempt("1", "test", time.time_ns() // 1000))
        finally:
            await one.stop()

    return asyncio.run(once())


@either_action
@pytest.mark.parametrize("outcome", REASONS)
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_the_phone_gets_its_call(kamailio, parties, action, transport, outcome):
    phone = parties.registered("bob", transport, contact="10.11.12.13:5060")
    call_id = new_call_id()
    result = act(action, kamailio, finding(phone, call_id, outcome))
    assert result.outcome == "cancelled", result
    assert phone.wait_for("ACK", call_id)
    assert phone.transcript.flow_once(call_id) == COMPENSATED
    invite, cancel = (phone.transcript.received(what, call_id)[0].text for what in ("INVITE", "CANCEL"))
    assert header(invite, "From").startswith('"Alice" <sip:alice@sip.test>;tag=late-')
    assert SECRET not in invite
    assert headers(cancel, "Reason") == REASONS[outcome]
    assert [status for status, _ in result.statuses if status > 100] == [180, 487]


@either_action
def test_over_tcp_to_the_proxy(kamailio, parties, action):
    phone = parties.registered("bob", "tls")
    call_id = new_call_id()
    host, port = kamailio.proxy()
    result = act(
        action, kamailio, finding(phone, call_id, "canceled"), proxy=f"sip:{host}:{port};transport=tcp"
    )
    assert result.outcome == "cancelled", result
    assert phone.wait_for("ACK", call_id)
    assert phone.transcript.flow_once(call_id) == COMPENSATED


@either_action
def test_over_ipv6(kamailio, parties, action):
    phone = parties.registered("bob6", address="::1")
    call_id = new_call_id()
    result = act(action, kamailio, finding(phone, call_id, "canceled"), proxy=f"sip:[::1]:{kamailio.port}")
    assert result.outcome == "cancelled", result
    assert phone.wait_for("ACK", call_id)
    assert phone.transcript.flow_once(call_id) == COMPENSATED


@either_action
def test_an_odd_call_id(kamailio, parties, action):
    phone = parties.registered("bob")
    call_id = "a%20b`'()<>/?{}[]:\"\\~*!.-_+@x"
    result = act(action, kamailio, finding(phone, call_id, "canceled"))
    assert result.outcome == "cancelled", result
    assert phone.calls() == [call_id]


@either_action
def test_a_phone_that_answers_first_is_hung_up_on(kamailio, parties, action):
    phone = parties.registered("bob", "tcp", behaviour="answer", contact="10.11.12.13:5060")
    call_id = new_call_id()
    result = act(action, kamailio, finding(phone, call_id, "canceled"))
    assert result.outcome == "answered", result
    assert phone.wait_for("BYE", call_id)


@either_action
def test_a_busy_phone(kamailio, parties, action):
    phone = parties.registered("bob", behaviour="busy")
    call_id = new_call_id()
    assert act(action, kamailio, finding(phone, call_id, "canceled")).outcome == "rejected"
    assert phone.wait_for("ACK", call_id)


@either_action
def test_a_phone_that_says_nothing(kamailio, parties, action):
    phone = parties.registered("bob", behaviour="silent")
    result = act(action, kamailio, finding(phone, new_call_id(), "canceled"), ring_wait="3s")
    assert result.outcome == "not_delivered", result


@either_action
def test_a_wrong_secret(kamailio, parties, action):
    phone = parties.registered("bob")
    result = act(action, kamailio, finding(phone, new_call_id(), "canceled"), secret="guess")
    assert (result.outcome, result.statuses[-1][0]) == ("refused", 403)
    assert phone.calls() == []


@either_action
def test_a_target_that_is_no_binding(kamailio, parties, action):
    phone, other = parties.registered("bob"), parties.registered("carol")
    result = act(action, kamailio, finding(phone, new_call_id(), "canceled", target=other.target))
    assert (result.outcome, result.statuses[-1][0]) == ("refused", 404)
    assert other.calls() == []
