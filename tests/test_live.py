"""The whole chain, live: real Kamailio, real calls, `hepduck run`, and what the late phone gets in the end.

Kamailio mirrors to a running hepduck and lets its calls in, by the two files of `deploy/kamailio`. sipp calls
and gives up, or is answered elsewhere; then a phone registers, too late. Each test has accounts of its own.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from world.kamailio import HERE, Kamailio
from world.late_caller import COMPENSATED, SECRET
from world.parties import Parties
from world.phone import ANDROID, DESK, IPHONE, Phone
from world.ports import free_port
from world.product import Hepduck
from world.sip import REASON_ELSEWHERE, header, headers, new_token
from world.sipp import Sipp

pytestmark = pytest.mark.timeout(90)

KEY = "mirror key"
TRANSPORTS = ("udp", "tcp", "tls")

CONFIGURATION = """
node = "test"

[tap]
listen = ["{listen}"]
auth_key = "{key}"

[detectors.late_register]
aliases = {{ "15551234@sip.test" = "number-bob@sip.test" }}

[actions.{action}]
enabled = true
dry_run = {dry_run}
proxy = "sip:127.0.0.1:{sip_port}"
secret = "{secret}"

[[rules.rule]]
finding = "late_register"
actions = ["log", "{action}"]
"""

_serial = itertools.count(1)


@dataclass
class Live:
    """A Kamailio and the hepduck that listens to it, with the parties of one test."""

    kamailio: Kamailio
    hepduck: Hepduck
    parties: Parties

    def account(self) -> str:
        """A user that nobody has called yet."""
        return f"bob{next(_serial)}-{new_token()[:4]}"

    def lost_call(self, user: str) -> str:
        """A call that its caller gives up while nobody is registered. Its Call-ID."""
        return self.parties.given_up_call(user)

    def answered_call(self, user: str) -> tuple[Sipp, Phone]:
        """A call that a desk phone of the account answers; it is still up."""
        desk = self.parties.registered(user, address="127.0.0.31", behaviour="answer", user_agent=DESK)
        caller = self.parties.sipp("uac_answer", user="alice", callee=user, wait_ms=800)
        assert desk.wait_for("ACK", caller.call_id)
        return caller, desk

    def let_time_pass(self) -> None:
        """Returns when everything that is due by now was done: a later ghost call was found and stopped."""
        user = self.account()
        call_id = self.lost_call(user)
        phone = self.parties.registered(user)
        assert phone.wait_for("ACK", call_id)


StartPair = Callable[..., tuple[Kamailio, Hepduck]]


@pytest.fixture(scope="module")
def start_pair(start_kamailio, certificate, tmp_path_factory) -> Iterator[StartPair]:
    """Starts a Kamailio and a hepduck that know each other."""
    with ExitStack() as stack:

        def start(*, action: str, mirror: str = "udp", dry_run: bool = False, **defines):
            hep_port = free_port()
            suffix = "" if mirror == "udp" else f";transport={mirror}"
            kamailio = start_kamailio(
                defines={
                    "HEPDUCK_URI": f"sip:127.0.0.1:{hep_port}{suffix}",
                    "HEPDUCK_AUTH_KEY": KEY,
                    "HEPDUCK_SECRET": SECRET,
                    **defines,
                },
                certificate=certificate,
            )
            kamailio.command("htable.sets", "number", "15551234", "number-bob")
            configuration = CONFIGURATION.format(
                listen=f"{mirror}:127.0.0.1:{hep_port}",
                key=KEY,
                action=action,
                dry_run=str(dry_run).lower(),
                sip_port=kamailio.port,
                secret=SECRET,
            )
            hepduck = Hepduck(tmp_path_factory.mktemp("hepduck"), configuration)
            return kamailio, stack.enter_context(hepduck)

        yield start


# Each action once, and the two ways of the mirror with them.
@pytest.fixture(scope="module", params=[("fake_call", "udp"), ("sipp", "tcp")], ids=lambda pair: pair[0])
def pair(request, start_pair) -> tuple[Kamailio, Hepduck]:
    action, mirror = request.param
    return start_pair(action=action, mirror=mirror)


@pytest.fixture
def live(pair, meet) -> Live:
    kamailio, hepduck = pair
    print(f"hepduck's log: {hepduck.log_file}")
    return Live(kamailio, hepduck, meet(kamailio))


def assert_told(phone: Phone, call_id: str, *reason: str) -> None:
    """The phone got the call it waits for, once, and was told how it ended."""
    assert phone.wait_for("ACK", call_id)
    assert phone.transcript.flow_once(call_id) == COMPENSATED
    invite, cancel = (phone.transcript.received(what, call_id)[0].text for what in ("INVITE", "CANCEL"))
    assert header(invite, "From").startswith("<sip:alice@sip.test>")
    assert headers(cancel, "Reason") == list(reason)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_caller_gave_up(live, transport):
    user = live.account()
    call_id = live.lost_call(user)
    phone = live.parties.registered(user, transport, contact="10.11.12.13:5060")
    assert_told(phone, call_id)


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_another_phone_answered(live, transport):
    user = live.account()
    caller, desk = live.answered_call(user)
    phone = live.parties.registered(user, transport)
    assert_told(phone, caller.call_id, REASON_ELSEWHERE)
    assert caller.wait() == 0, caller.explain()
    assert desk.calls() == [caller.call_id]


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_the_late_phone_is_sipp(live, transport):
    """A phone that is none of ours."""
    user = live.account()
    call_id = live.lost_call(user)
    phone = live.parties.sipp(
        "register",
        user=user,
        transport=transport,
        address="127.0.0.22",
        wait_ms=800,
        out_of_call="phone_ring",
        keys={"ua": IPHONE},
    )
    assert phone.wait() == 0, phone.explain()
    assert phone.transcript.flow_once(call_id) == COMPENSATED


def test_two_late_phones_are_told_once_each(live):
    """The second comes when the first was told: that must change nothing about how the call ended."""
    user = live.account()
    caller, _ = live.answered_call(user)
    first = live.parties.registered(user, "udp")
    assert_told(first, caller.call_id, REASON_ELSEWHERE)
    second = live.parties.registered(user, "tls", address="127.0.0.23")
    assert_told(second, caller.call_id, REASON_ELSEWHERE)
    live.let_time_pass()
    assert first.calls() == second.calls() == [caller.call_id]


def test_two_late_phones_at_once(live):
    user = live.account()
    call_id = live.lost_call(user)
    phones = [live.parties.phone(user, transport) for transport in ("tcp", "tls")]
    for phone in phones:
        phone.register()
    for phone in phones:
        assert_told(phone, call_id)


def test_two_lost_calls_are_both_told(live):
    user = live.account()
    call_ids = [live.lost_call(user) for _ in range(2)]
    phone = live.parties.registered(user)
    for call_id in call_ids:
        assert_told(phone, call_id)


def test_refreshes_do_not_call_again(live):
    user = live.account()
    call_id = live.lost_call(user)
    phone = live.parties.registered(user, "tcp")
    assert_told(phone, call_id)
    for _ in range(3):
        assert phone.register() == "200"
    live.let_time_pass()
    assert phone.calls() == [call_id]


def test_a_phone_that_rang_in_time_is_left_alone(live):
    user = live.account()
    caller = live.parties.sipp("uac_cancel", user="alice", callee=user, wait_ms=700)
    parked = f"{user}:count"
    while parked not in live.kamailio.command("htable.dump", "parked"):
        time.sleep(0.02)
    phone = live.parties.registered(user)
    assert caller.wait() == 0, caller.explain()
    assert phone.register() == "200"
    live.let_time_pass()
    assert phone.transcript.flow_once(caller.call_id) == COMPENSATED
    assert headers(phone.transcript.received("INVITE")[0].text, "User-Agent") == ["test caller"]


def test_the_phone_that_answered_is_left_alone(live):
    user = live.account()
    caller = live.parties.sipp("uac_answer", user="alice", callee=user, wait_ms=1000)
    phone = live.parties.registered(user, "tls", behaviour="answer")
    assert phone.wait_for("ACK", caller.call_id)
    assert phone.register() == "200"
    assert caller.wait() == 0, caller.explain()
    assert phone.register() == "200"
    live.let_time_pass()
    assert phone.calls() == [caller.call_id]


def test_who_is_owed_nothing(live):
    """No push device, gone again, refused, or somebody else."""
    user = live.account()
    android = live.parties.phone(user, address="127.0.0.24", user_agent=ANDROID)
    leaving = live.parties.phone(user, address="127.0.0.25")
    other = live.parties.phone(live.account(), address="127.0.0.26")
    live.lost_call(user)
    assert android.register() == "200"
    assert leaving.register(expires_s=0) == "200"
    assert other.register() == "200"
    live.let_time_pass()
    assert android.calls() == leaving.calls() == other.calls() == []


def test_a_call_to_a_number(live):
    """Kamailio knows whose number it is, hepduck by its configuration."""
    call_id = live.lost_call("15551234")
    phone = live.parties.registered("number-bob")
    assert_told(phone, call_id)
    phone.register(expires_s=0)


def test_every_attempt_is_on_record(live):
    user = live.account()
    call_id = live.lost_call(user)
    phone = live.parties.registered(user, "tls")
    assert_told(phone, call_id)
    rows = live.hepduck.wait_for_rows(
        f"SELECT * FROM action_attempt WHERE call_id = '{call_id}' AND action != 'log'"
    )
    assert [(row["outcome"], row["dry_run"], row["target"]) for row in rows] == [
        ("cancelled", False, phone.target)
    ]
    assert rows[0]["register_to_invite_ms"] > 0
    findings = live.hepduck.rows(f"SELECT aor, call_id FROM finding WHERE call_id = '{call_id}'")
    assert findings == [{"aor": phone.aor, "call_id": call_id}]


def test_a_dry_run_sends_nothing(start_pair, meet):
    kamailio, hepduck = start_pair(action="fake_call", dry_run=True)
    live = Live(kamailio, hepduck, meet(kamailio))
    user = live.account()
    call_id = live.lost_call(user)
    phone = live.parties.registered(user)
    rows = hepduck.wait_for_rows("SELECT * FROM action_attempt WHERE action = 'fake_call'")
    assert [(row["call_id"], row["outcome"], row["dry_run"]) for row in rows] == [(call_id, "dry_run", True)]
    assert hepduck.stop() == 0, hepduck.log()  # it finishes what it began before it ends
    assert phone.calls() == []


def test_a_mirror_without_the_key_calls_nobody(start_pair, meet):
    """Else whoever reaches the port could make phones ring."""
    kamailio, hepduck = start_pair(action="fake_call", HEPDUCK_AUTH_KEY="another key")
    live = Live(kamailio, hepduck, meet(kamailio))
    user = live.account()
    live.lost_call(user)
    phone = live.parties.registered(user)
    while hepduck.status()["rejected"] < 13:
        pass  # the test's own time limit ends a vain wait
    assert hepduck.stop() == 0, hepduck.log()
    assert hepduck.status()["rejected_by_reason"] == {"bad_key": 13}
    assert phone.calls() == []


def test_a_phone_behind_an_edge_proxy(start_pair, start_kamailio, meet):
    """Both proxies mirror; the phone's registration carries the edge's Path."""
    core, hepduck = start_pair(action="fake_call")
    uri = core.defines["HEPDUCK_URI"]
    edge = start_kamailio(
        config=HERE / "edge.cfg",
        defines={
            "CORE": f"sip:127.0.0.1:{core.port}",
            "HEPDUCK_URI": uri,
            "HEPDUCK_AUTH_KEY": KEY,
            "HEPDUCK_CAPTURE_ID": 2002,
        },
    )
    live = Live(core, hepduck, meet(core))
    user = live.account()
    call_id = live.lost_call(user)
    phone = live.parties.registered(user, "tcp", proxy=edge.proxy("tcp"), contact="10.11.12.13:5060")
    assert_told(phone, call_id)
    live.let_time_pass()
    assert phone.calls() == [call_id]
