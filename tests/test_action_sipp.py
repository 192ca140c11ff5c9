"""The compensating call against the real sipp as phone, and by the real sipp as caller."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from late_findings import late_finding
from sip_peer import Peer, Phone, Request
from sipp_phone import SippPhone

from detectors.actions.fake_call import FakeCall, FakeCallSettings
from detectors.actions.sipp import Sipp, SippSettings
from pipeline.engine.actions import Action, ActionResult, Attempt
from pipeline.engine.commands import Finding
from pipeline.errors import ActionError

ATTEMPT = Attempt("attempt-1", "rule", 0)
ELSEWHERE = 'SIP;cause=200;text="Call completed elsewhere"'
WORD = "Az09-.!%*_+`'~()<>:\\\"/[]?{}"  # RFC 3261 section 25.1


def act(action: Action, finding: Finding) -> ActionResult:
    async def run() -> ActionResult:
        try:
            return await action.act(finding, ATTEMPT)
        finally:
            await action.stop()

    return asyncio.run(run())


def play(
    handler: Callable[[Peer, Request], None],
    finding: Finding | None = None,
    *,
    tcp: bool = False,
    host: str = "127.0.0.1",
    **settings: Any,
) -> tuple[ActionResult, Peer]:
    async def run() -> tuple[ActionResult, Peer]:
        async with Peer(handler, host=host, tcp=tcp) as peer:
            action = Sipp(SippSettings(proxy=peer.uri, secret="s3cret", ring_wait="300ms", **settings))
            return await action.act(finding or late_finding(), ATTEMPT), peer

    return asyncio.run(run())


def methods(peer: Peer) -> list[str]:
    return [request.method for request in peer.requests]


# -- sipp is the phone ---------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    ("scenario", "statuses", "outcome"),
    [("phone_rings", [100, 180, 487], "cancelled"), ("phone_answers", [200], "answered")],
)
def test_our_uac_and_the_phone_sipp_agree(
    scenario: str, statuses: list[int], outcome: str, tcp: bool, host: str
) -> None:
    with SippPhone(scenario, host=host, tcp=tcp) as phone:
        result = act(FakeCall(FakeCallSettings(proxy=phone.uri)), late_finding(outcome="answered"))
        assert phone.finished()
    assert result.outcome == outcome
    assert [status for status, _ in result.statuses] == statuses


@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(
    ("scenario", "outcome"), [("phone_rings", "cancelled"), ("phone_answers", "answered")]
)
def test_caller_sipp_and_phone_sipp_agree(scenario: str, outcome: str, tcp: bool) -> None:
    with SippPhone(scenario, tcp=tcp) as phone:
        result = act(Sipp(SippSettings(proxy=phone.uri)), late_finding(outcome="answered"))
        assert phone.finished()
    assert result.outcome == outcome


# -- sipp is the caller --------------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
@pytest.mark.parametrize(("lost", "reason"), [("answered", [ELSEWHERE]), ("canceled", [])])
def test_sipp_says_what_our_uac_says(lost: str, reason: list[str], tcp: bool, host: str) -> None:
    result, peer = play(Phone(), late_finding(outcome=lost), tcp=tcp, host=host)
    assert result.outcome == "cancelled"
    assert [status for status, _ in result.statuses] == [100, 180, 487]
    assert result.invite_sent_us is not None
    assert result.invite_sent_us <= result.statuses[0][1]
    assert methods(peer) == ["INVITE", "CANCEL", "ACK"]
    invite, cancel, acknowledge = peer.requests
    assert invite.uri == "sip:bob@sip.test"
    assert invite.get("Call-ID") == "4f1d-lost@alice.example"
    assert invite.get("From").startswith('"Alice" <sip:alice@sip.test>;tag=late-')
    assert invite.get("To") == "<sip:bob@sip.test>"
    assert invite.get("X-Late-Secret") == "s3cret"
    assert invite.get("X-Late-Target") == "sip:127.0.0.21:22142;transport=udp"
    assert f"c=IN IP{6 if ':' in host else 4} {host}\r\n".encode() in invite.body
    for name in ("Via", "Call-ID", "From", "To"):
        assert cancel.get(name) == invite.get(name)
    assert cancel.all("Reason") == reason
    for name in ("Via", "Call-ID", "From"):
        assert acknowledge.get(name) == invite.get(name)
    assert acknowledge.get("To") == "<sip:bob@sip.test>;tag=phone"


@pytest.mark.parametrize(
    "call_id",
    [f"{WORD}@{WORD}", "abc%20def@host", "p%ut%sq@host", "100%@h", "%", "a///b@h", "-sf", "[pid]@[call_id]"],
)
def test_sipps_own_codes_in_a_call_id_stay_as_they_are(call_id: str) -> None:
    result, peer = play(Phone(), late_finding(call_id=call_id))
    assert result.outcome == "cancelled"
    assert {request.get("Call-ID") for request in peer.requests} == {call_id}


def test_sipps_keywords_and_breaks_in_values_mean_nothing() -> None:
    finding = late_finding(
        aor="sip:bob%20;x=[pid]@sip.test".replace("[", "%5B").replace("]", "%5D"),
        caller_display='[call_id] [file name=/etc/passwd] "x" \\ 50% ; é\r\nEvil: yes',
        caller_user="$(id)`id`;|&",
    )
    _, peer = play(Phone(), finding)
    invite = peer.requests[0]
    assert invite.uri == "sip:bob%20;x=%5Bpid%5D@sip.test"
    assert invite.get("From").startswith(
        '"[call_id] [file name=/etc/passwd] \\"x\\" \\\\ 50% ; é Evil: yes" <sip:$(id)%60id%60;%7C&@sip.test>;tag=late-'
    )
    assert not invite.all("Evil")


@pytest.mark.parametrize(
    ("status", "outcome"), [(403, "refused"), (404, "refused"), (486, "rejected"), (408, "not_delivered")]
)
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_a_refusal_is_acknowledged(status: int, outcome: str, tcp: bool) -> None:
    result, peer = play(Phone(ringing=None, final=status), tcp=tcp)
    assert result.outcome == outcome
    assert methods(peer) == ["INVITE", "ACK"]


def test_a_final_in_one_breath_with_the_ringing_is_seen() -> None:
    result, peer = play(Phone(final=486), tcp=True)
    assert result.outcome == "rejected"
    assert methods(peer) == ["INVITE", "ACK"]


def test_an_answer_that_crosses_the_cancel_is_ended_by_bye() -> None:
    phone = Phone()

    def handler(peer: Peer, request: Request) -> None:
        if request.method == "CANCEL":
            peer.reply(request, 200)
            peer.reply(peer.requests[0], 200, extra="Contact: <sip:bob@10.11.12.13:5060>")
        else:
            phone(peer, request)

    result, peer = play(handler)
    assert result.outcome == "answered"
    assert methods(peer) == ["INVITE", "CANCEL", "ACK", "BYE"]
    assert peer.requests[3].uri == "sip:bob@10.11.12.13:5060"


def test_no_ringing_is_not_delivered() -> None:
    result, peer = play(Phone(ringing=None))
    assert result.outcome == "not_delivered"
    assert methods(peer) == ["INVITE", "CANCEL", "ACK"]


def test_no_reply_is_a_timeout_without_a_cancel() -> None:
    result, peer = play(lambda peer, request: None)
    assert result.outcome == "timeout"
    assert set(methods(peer)) == {"INVITE"}


def test_sipp_that_never_ends_is_killed_by_its_id(tmp_path: Path) -> None:
    """A stand-in that ignores its arguments, as a sipp that hangs would."""
    stuck = tmp_path / "sipp"
    stuck.write_text(f"#!/bin/sh\necho $$ > {tmp_path}/pid\nexec sleep 600\n")
    stuck.chmod(0o755)

    async def run() -> None:
        action = Sipp(SippSettings(program=str(stuck)))
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1):
                await action.act(late_finding(), ATTEMPT)

    asyncio.run(run())
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_sipp_that_is_not_there_is_named() -> None:
    with pytest.raises(ActionError, match="no-sipp: no such program"):
        act(Sipp(SippSettings(program="no-sipp")), late_finding())


def test_a_sipp_that_fails_says_why(tmp_path: Path) -> None:
    broken = tmp_path / "sipp"
    broken.write_text("#!/bin/sh\necho 'Unable to bind main socket' >&2\nexit 254\n")
    broken.chmod(0o755)
    with pytest.raises(
        ActionError, match=r"sipp sent nothing \(exit status 254\): Unable to bind main socket"
    ):
        act(Sipp(SippSettings(program=str(broken))), late_finding())


def test_neither_plan_nor_arguments_show_the_secret(tmp_path: Path) -> None:
    seen = tmp_path / "arguments"
    spy = tmp_path / "sipp"
    spy.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {seen}\ncat secret >> {seen}.secret\n')
    spy.chmod(0o755)
    action = Sipp(SippSettings(program=str(spy), secret="tr0ub4dor"))
    assert "tr0ub4dor" not in asyncio.run(action.plan(late_finding()))
    with pytest.raises(ActionError):
        act(action, late_finding())
    assert "tr0ub4dor" not in seen.read_text()
    assert seen.with_suffix(".secret").read_text() == "X-Late-Secret: tr0ub4dor"
    assert "late-" in seen.read_text()
