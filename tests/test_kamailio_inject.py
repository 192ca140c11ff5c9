"""`deploy/kamailio/hepduck-inject.cfg` in a real Kamailio: who gets through to which phone, and who does not.

A bare caller of the tests' own drives it first, then hepduck's actions do.
"""

from __future__ import annotations

import re
import socket
import subprocess
import time

import pytest
from world.kamailio import HERE, Kamailio
from world.late_caller import COMPENSATED, SECRET, LateCaller
from world.parties import Parties
from world.phone import Phone
from world.sip import DOMAIN, REASON_ELSEWHERE, header, headers, new_call_id

pytestmark = pytest.mark.timeout(60)

UNREACHABLE = "10.11.12.13:5060"
REASONS = {"canceled": None, "answered": REASON_ELSEWHERE}


@pytest.fixture(scope="module")
def kamailio(start_kamailio, certificate) -> Kamailio:
    return start_kamailio(
        defines={
            "HEPDUCK_SECRET": SECRET,
            "HEPDUCK_SRC": "127.0.0.1, ::1",
            "HEPDUCK_RING_MS": 1500,
            "HEPDUCK_NO_REPLY_MS": 1000,
            "NO_MIRROR": None,
        },
        certificate=certificate,
        also=("::1", "127.0.0.2"),
    )


@pytest.fixture
def parties(kamailio, meet) -> Parties:
    return meet(kamailio)


def compensate(caller: LateCaller, target: str, reason: str | None = None, **extra: str | None) -> list[str]:
    """The whole compensating call to `target`: the status codes of its INVITE."""
    return caller.run(reason, **{"X_Late_Secret": SECRET, "X_Late_Target": f"sip:{target}", **extra})


def assert_compensated(phone: Phone, call_id: str, reason: str | None) -> None:
    """The phone got its call, and what it got shows nothing of how it was let in."""
    assert phone.wait_for("ACK", call_id)
    assert phone.transcript.flow_once(call_id) == COMPENSATED
    invite, cancel = (phone.transcript.received(what, call_id)[0].text for what in ("INVITE", "CANCEL"))
    assert invite.startswith(f"INVITE {phone.contact_uri} SIP/2.0\r\n")
    assert "X-Late" not in invite
    assert SECRET not in invite
    assert headers(cancel, "Reason") == ([reason] if reason else [])


@pytest.mark.parametrize("outcome", REASONS)
@pytest.mark.parametrize("contact", [None, UNREACHABLE], ids=["reachable", "behind NAT"])
@pytest.mark.parametrize("transport", ["udp", "tcp", "tls"])
def test_the_phone_gets_its_call(parties, transport, contact, outcome):
    phone = parties.registered("bob", transport, contact=contact)
    caller = parties.late_caller("bob")
    assert compensate(caller, phone.target, REASONS[outcome]) == ["100", "180", "487"]
    assert_compensated(phone, caller.call_id, REASONS[outcome])


@pytest.mark.parametrize("spelling", ["[::1]", "[0:0:0:0:0:0:0:1]"])
def test_ipv6(parties, spelling):
    phone = parties.registered("bob6", address="::1")
    caller = parties.late_caller("bob6", address="::1")
    assert compensate(caller, f"{spelling}:{phone.port};transport=udp") == ["100", "180", "487"]
    assert_compensated(phone, caller.call_id, None)


def test_only_the_socket_it_registered_with_reaches_a_phone(kamailio, parties):
    """As behind a NAT: the phone hears nobody but the address that it sent to."""
    phone = parties.registered("bob", proxy=kamailio.proxy(address="127.0.0.2"))
    caller = parties.late_caller("bob")
    assert compensate(caller, phone.target) == ["100", "180", "487"]
    assert_compensated(phone, caller.call_id, None)


def test_two_phones_are_called_at_once_with_the_same_call_id(parties):
    phones = [parties.registered("bob2", transport) for transport in ("udp", "tls")]
    call_id = new_call_id()
    callers = [parties.late_caller("bob2", call_id=call_id) for _ in phones]
    for caller, phone in zip(callers, phones, strict=True):
        caller.invite(X_Late_Secret=SECRET, X_Late_Target=f"sip:{phone.target}")
    for caller in callers:
        assert caller.wait_for("180")
        caller.cancel()
    for caller in callers:
        assert caller.wait_for("487")
        caller.ack()
    for phone in phones:
        assert_compensated(phone, call_id, None)


def test_a_call_id_of_odd_characters_arrives_unchanged(parties):
    call_id = "a%20b`'()<>/?{}[]:\"\\~*!.-_+@x"
    phone = parties.registered("bob")
    compensate(parties.late_caller("bob", call_id=call_id), phone.target)
    assert_compensated(phone, call_id, None)


def test_the_newest_contact_at_an_address_counts(parties):
    """A phone whose Contact changed on the same connection: the old one is known there no more."""
    phone = parties.registered("bob7", "tcp", contact="10.1.1.1:5060")
    time.sleep(1)  # the location table counts in seconds
    phone.given_contact = UNREACHABLE
    assert phone.register() == "200"
    caller = parties.late_caller("bob7")
    compensate(caller, phone.target)
    assert_compensated(phone, caller.call_id, None)


def test_a_contact_with_an_alias(parties):
    """What nathelper's add_contact_alias() leaves in the location table, in place of "received"."""
    phone = parties.phone("bob8", "tcp")
    # no private address and the right port: the proxy's NAT detection sees nothing to note
    phone.given_contact = f"192.0.2.10:{phone.port};alias={phone.address}~{phone.port}~2"
    caller = parties.late_caller("bob8")
    assert phone.register() == "200"
    assert compensate(caller, phone.target) == ["100", "180", "487"]
    assert phone.wait_for("ACK", caller.call_id)
    assert phone.transcript.flow_once(caller.call_id) == COMPENSATED


@pytest.mark.parametrize("contact", [None, UNREACHABLE], ids=["reachable", "behind NAT"])
@pytest.mark.parametrize("transport", ["udp", "tls"])
def test_a_phone_that_answers_first_can_be_hung_up_on(parties, transport, contact):
    phone = parties.registered("bob", transport, behaviour="answer", contact=contact)
    caller = parties.late_caller("bob")
    caller.invite(X_Late_Secret=SECRET, X_Late_Target=f"sip:{phone.target}")
    assert caller.wait_for("200")
    caller.in_dialog("ACK")
    assert phone.wait_for("ACK", caller.call_id)
    caller.in_dialog("BYE")
    assert caller.wait_for("200", "BYE")
    answered = ["received INVITE", "sent 100", "sent 180", "sent 200"]
    assert phone.transcript.flow(caller.call_id) == [*answered, "received ACK", "received BYE", "sent 200"]


def test_a_busy_phone(parties):
    phone = parties.registered("bob", behaviour="busy")
    caller = parties.late_caller("bob")
    caller.invite(X_Late_Secret=SECRET, X_Late_Target=f"sip:{phone.target}")
    assert caller.wait_for("486")
    caller.ack()
    assert phone.wait_for("ACK", caller.call_id)


def test_a_phone_does_not_ring_on_when_hepduck_dies(parties):
    """INVITE, and never a CANCEL: Kamailio ends the call by itself."""
    phone = parties.registered("bob")
    caller = parties.late_caller("bob")
    caller.invite(X_Late_Secret=SECRET, X_Late_Target=f"sip:{phone.target}")
    assert phone.wait_for("CANCEL", caller.call_id)
    assert caller.wait_for("408")


def test_a_phone_that_says_nothing_is_given_up(parties):
    phone = parties.registered("bob", behaviour="silent")
    caller = parties.late_caller("bob")
    caller.invite(X_Late_Secret=SECRET, X_Late_Target=f"sip:{phone.target}")
    assert caller.wait_for("408")
    assert caller.statuses()[0] == "100"


# -- who is not let through ----------------------------------------------------------------------------


@pytest.mark.parametrize("secret", ["guess", "", SECRET.upper(), SECRET + "x"])
def test_a_wrong_secret_is_forbidden(parties, secret):
    phone = parties.registered("bob")
    assert compensate(parties.late_caller("bob"), phone.target, X_Late_Secret=secret) == ["403"]
    assert phone.calls() == []


@pytest.mark.parametrize("given", [{"X_Late_Secret": None}, {}], ids=["no secret", "another address"])
def test_a_stranger_is_a_caller_like_any_other(parties, given):
    """Told to authenticate, as any caller is."""
    phone = parties.registered("bob")
    caller = parties.late_caller("bob", address="127.0.0.1" if given else "127.0.0.99")
    assert compensate(caller, phone.target, **given) == ["407"]
    assert phone.calls() == []


def test_only_a_binding_of_the_account_is_a_target(parties):
    bob, carol = parties.registered("bob"), parties.registered("carol")
    targets = {
        "somebody else's phone": carol.target,
        "another port": f"{bob.address}:{bob.port + 1};transport=udp",
        "another address": f"127.0.0.22:{bob.port};transport=udp",
        "a name": f"{DOMAIN}:{bob.port};transport=udp",
    }
    for why, target in targets.items():
        assert compensate(parties.late_caller("bob"), target) == ["404"], why
    assert bob.calls() == carol.calls() == []


def test_an_account_without_a_phone(parties):
    assert compensate(parties.late_caller("nobody"), "127.0.0.21:5060;transport=udp") == ["404"]


def test_a_binding_that_was_removed_or_ran_out(parties):
    phone = parties.registered("bob9")
    assert phone.register(expires_s=0) == "200"
    assert compensate(parties.late_caller("bob9"), phone.target) == ["404"]
    assert phone.register(expires_s=1) == "200"
    time.sleep(2)  # Kamailio's own clean-up comes round once a minute
    assert compensate(parties.late_caller("bob9"), phone.target) == ["404"]
    assert phone.calls() == []


@pytest.mark.parametrize(
    "target",
    [
        None,
        "",
        "127.0.0.21:5060;transport=udp",
        "sip:127.0.0.21;transport=udp",
        "sip:127.0.0.21:5060",
        "sip:127.0.0.21:5060;transport=smoke",
        "sip:bob@127.0.0.21:5060;transport=udp",
        "sip:127.0.0.21:5060;transport=udp;lr",
        "sip:127.0.0.21:5060;transport=udp, sip:127.0.0.22:5060;transport=udp",
        "<sip:127.0.0.21:5060;transport=udp>",
        "sips:127.0.0.21:5060;transport=tls",
    ],
)
def test_a_target_that_is_none(parties, target):
    caller = parties.late_caller("bob")
    assert caller.run(None, X_Late_Secret=SECRET, X_Late_Target=target) == ["400"]


def test_a_route_of_the_senders_choice_is_not_followed(parties):
    phone, elsewhere = parties.registered("bob"), parties.registered("carol")
    caller = parties.late_caller("bob")
    compensate(caller, phone.target, Route=f"<sip:{elsewhere.host_port};lr>")
    assert_compensated(phone, caller.call_id, None)
    assert headers(phone.transcript.received("INVITE")[0].text, "Route") == []
    assert elsewhere.calls() == []


def test_a_cancel_of_nothing(parties):
    caller = parties.late_caller("bob")
    caller.cancel()
    assert caller.wait_for("481", "CANCEL")


@pytest.mark.parametrize(("transport", "lost_tcp"), [("tcp", 0), ("tcp", 1), ("tls", 0), ("tls", 1)])
def test_a_lost_connection_is_never_dialled(start_kamailio, meet, certificate, transport, lost_tcp):
    """Whether usrloc keeps the binding without its connection, or forgets both."""
    defines = {"HEPDUCK_SECRET": SECRET, "LOST_TCP": lost_tcp, "NO_MIRROR": None}
    kamailio = start_kamailio(defines=defines, certificate=certificate)
    parties = meet(kamailio)
    phone = parties.registered("bob", transport)
    phone.close()
    while str(phone.port) in kamailio.command("core.tcp_list"):
        time.sleep(0.02)
    with socket.create_server((phone.address, phone.port)) as listener:
        listener.settimeout(0.5)
        assert compensate(parties.late_caller("bob"), phone.target)[-1] == ("404" if lost_tcp else "477")
        with pytest.raises(TimeoutError):
            listener.accept()


# -- configuration ---------------------------------------------------------------------------------------


def test_no_secret_no_start(tmp_path):
    """Kamailio refuses the file and names it, rather than letting everybody in."""
    config = HERE / "kamailio.cfg"
    argv = ["kamailio", "-c", "-f", config, "-A", 'CONTROL="unix:x"', "-l", "udp:127.0.0.1:5060"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, cwd=tmp_path, check=False)
    assert done.returncode != 0
    assert "hepduck-inject.cfg" in done.stderr
    argv += ["-A", 'HEPDUCK_SECRET="x"']
    assert subprocess.run(argv, capture_output=True, timeout=30, cwd=tmp_path, check=False).returncode == 0


def test_an_empty_secret_admits_nobody(start_kamailio, meet):
    parties = meet(start_kamailio(defines={"HEPDUCK_SECRET": "", "NO_MIRROR": None}))
    phone = parties.registered("bob")
    assert compensate(parties.late_caller("bob"), phone.target, X_Late_Secret="") == ["403"]


def test_another_form_of_the_aor(start_kamailio, meet):
    """Where the location table knows a user by another name than the R-URI says."""
    kamailio = start_kamailio(
        defines={
            "HEPDUCK_SECRET": SECRET,
            "HEPDUCK_AOR": "sip:$(rU{s.substr,2,0})@sip.test",
            "HEPDUCK_SRC": "10.0.0.0/8,127.0.0.0/29",
            "NO_MIRROR": None,
        }
    )
    parties = meet(kamailio)
    phone = parties.registered("bob")
    caller = parties.late_caller("49bob", address="127.0.0.5")
    assert compensate(caller, phone.target) == ["100", "180", "487"]
    assert_compensated(phone, caller.call_id, None)


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_phone_behind_an_edge_proxy(start_kamailio, meet, transport):
    core = start_kamailio(defines={"HEPDUCK_SECRET": SECRET, "NO_MIRROR": None})
    host, port = core.proxy()
    edge = start_kamailio(config=HERE / "edge.cfg", defines={"CORE": f"sip:{host}:{port}", "NO_MIRROR": None})
    parties = meet(core)
    phone = parties.registered("bob", transport, proxy=edge.proxy(transport), contact=UNREACHABLE)
    caller = parties.late_caller("bob")
    assert compensate(caller, phone.target, REASON_ELSEWHERE) == ["100", "180", "487"]
    assert_compensated(phone, caller.call_id, REASON_ELSEWHERE)
    via_edge = f"{edge.address}:{edge.port};transport={transport}"
    assert compensate(parties.late_caller("bob"), via_edge) == ["404"]
    assert header(phone.transcript.received("INVITE")[0].text, "Call-ID") == caller.call_id


@pytest.mark.parametrize("file", ["hepduck-mirror.cfg", "hepduck-inject.cfg"])
def test_the_readme_knows_every_name(file):
    folder = HERE.parents[1] / "deploy" / "kamailio"
    names = set(re.findall(r"#!(?:trydef|ifdef) (HEPDUCK_\w+)", (folder / file).read_text()))
    assert names
    assert names <= set(re.findall(r"^\| `(HEPDUCK_\w+)`", (folder / "README.md").read_text(), re.MULTILINE))
