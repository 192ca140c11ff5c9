"""The compensating call by our own UAC, against a proxy and phone on real sockets (`sip_peer`)."""

from __future__ import annotations

import asyncio
import re
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from late_findings import late_finding
from sip_peer import Peer, Phone, Request, reply_to
from world.ports import free_port

from detectors.actions.fake_call import FakeCall, FakeCallSettings
from pipeline.engine.actions import ActionResult, Attempt
from pipeline.engine.commands import Finding

ATTEMPT = Attempt("attempt-1", "rule", 0)
SECRET = "tr0ub4dor"
ELSEWHERE = 'SIP;cause=200;text="Call completed elsewhere"'
# Short, so that a whole timeout takes a second or two; RFC 3261's ratios stay.
QUICK = {"t1": "20ms", "t2": "80ms", "t4": "50ms", "timer_d": "500ms", "ring_wait": "200ms"}


def action(peer: Peer, **settings: Any) -> FakeCall:
    return FakeCall(FakeCallSettings(proxy=peer.uri, secret=SECRET, **{**QUICK, **settings}))


def play(
    handler: Callable[[Peer, Request], None],
    finding: Finding | None = None,
    *,
    tcp: bool = False,
    host: str = "127.0.0.1",
    then: Callable[[Peer], Awaitable[object]] | None = None,
    **settings: Any,
) -> tuple[ActionResult, Peer]:
    """One call against one peer; `then` is awaited before both are closed."""

    async def run() -> tuple[ActionResult, Peer]:
        async with Peer(handler, host=host, tcp=tcp) as peer:
            caller = action(peer, **settings)
            result = await caller.act(finding or late_finding(), ATTEMPT)
            if then is not None:
                await then(peer)
            await caller.stop()
        return result, peer

    return asyncio.run(run())


def methods(peer: Peer) -> list[str]:
    return [request.method for request in peer.requests]


def ack(peer: Peer) -> Awaitable[Request]:
    return peer.wait_for("ACK")


# -- what goes over the wire ---------------------------------------------------------------------------


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_phone_gets_invite_cancel_and_ack(tcp: bool, host: str) -> None:
    result, peer = play(Phone(), late_finding(outcome="answered"), tcp=tcp, host=host, then=ack)

    assert result.outcome == "cancelled"
    assert [status for status, _ in result.statuses] == [100, 180, 487]
    assert result.invite_sent_us is not None
    times = [at_us for _, at_us in result.statuses]
    assert [result.invite_sent_us, *times] == sorted([result.invite_sent_us, *times])

    assert methods(peer) == ["INVITE", "CANCEL", "ACK"]
    invite, cancel, acknowledge = peer.requests
    shown = f"[{host}]" if ":" in host else host
    assert invite.uri == "sip:bob@sip.test"
    assert invite.get("Call-ID") == "4f1d-lost@alice.example"
    assert re.fullmatch(r'"Alice" <sip:alice@sip\.test>;tag=late-[0-9a-f]{16}', invite.get("From"))
    assert invite.get("To") == "<sip:bob@sip.test>"
    assert invite.get("CSeq") == "1 INVITE"
    assert invite.get("Max-Forwards") == "70"
    assert invite.get("User-Agent").startswith("hepduck")
    assert invite.get("X-Late-Secret") == SECRET
    assert invite.get("X-Late-Target") == "sip:127.0.0.21:22142;transport=udp"
    port = peer.last_sender[1]
    transport = "TCP" if tcp else "UDP"
    assert re.fullmatch(
        rf"SIP/2\.0/{transport} {re.escape(shown)}:{port};rport;branch=z9hG4bK[0-9a-f]{{20}}",
        invite.get("Via"),
    )
    assert invite.get("Contact").startswith(f"<sip:hepduck@{shown}:{port}")
    assert invite.get("Content-Type") == "application/sdp"
    assert f"c=IN IP{6 if ':' in host else 4} {host}\r\n".encode() in invite.body
    assert b"m=audio 9 RTP/AVP " in invite.body

    # RFC 3261 section 9.1: a CANCEL is recognised by these
    for name in ("Via", "Call-ID", "From", "To"):
        assert cancel.get(name) == invite.get(name)
    assert cancel.uri == invite.uri
    assert cancel.get("CSeq") == "1 CANCEL"
    assert cancel.get("Reason") == ELSEWHERE
    assert not cancel.all("X-Late-Secret")

    # RFC 3261 section 17.1.1.3
    for name in ("Via", "Call-ID", "From"):
        assert acknowledge.get(name) == invite.get(name)
    assert acknowledge.uri == invite.uri
    assert acknowledge.get("To") == "<sip:bob@sip.test>;tag=phone"
    assert acknowledge.get("CSeq") == "1 ACK"


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        ("canceled", None),
        ("answered", ELSEWHERE),
        ("declined", 'SIP;cause=600;text="Busy Everywhere"'),
        ("busy", None),
        ("no_answer", None),
    ],
)
def test_reason_follows_the_lost_calls_outcome(outcome: str, reason: str | None) -> None:
    _, peer = play(Phone(), late_finding(outcome=outcome))
    assert peer.of("CANCEL")[0].all("Reason") == ([] if reason is None else [reason])


def test_reasons_headers_and_offer_are_settings() -> None:
    _, peer = play(
        Phone(),
        late_finding(outcome="busy"),
        reasons={"busy": "SIP;cause=486"},
        secret_header="X-Key",
        target_header="X-To",
        user_agent="late/1",
        sdp="none",
        local="127.0.0.2",
    )
    invite = peer.requests[0]
    assert peer.of("CANCEL")[0].get("Reason") == "SIP;cause=486"
    assert invite.get("X-Key") == SECRET
    assert invite.get("X-To") == "sip:127.0.0.21:22142;transport=udp"
    assert invite.get("User-Agent") == "late/1"
    assert invite.body == b""
    assert not invite.all("Content-Type")
    assert peer.last_sender[0] == "127.0.0.2"
    assert "127.0.0.2:" in invite.get("Via")


def test_every_odd_legal_call_id_goes_out_unchanged() -> None:
    """RFC 3261 section 25.1, `word`: all of it, on both sides of the @."""
    word = "Az09-.!%*_+`'~()<>:\\\"/[]?{}"
    call_id = f"{word}@{word}%41%zz%"
    result, peer = play(Phone(), late_finding(call_id=call_id))
    assert result.outcome == "cancelled"
    assert {request.get("Call-ID") for request in peer.requests} == {call_id}


def test_display_name_in_any_language_is_a_quoted_string() -> None:
    _, peer = play(Phone(), late_finding(caller_display='Ålice "the\\boss" 王'))
    assert (
        peer.requests[0].get("From").startswith('"Ålice \\"the\\\\boss\\" 王" <sip:alice@sip.test>;tag=late-')
    )


def test_plan_shows_the_very_messages_with_the_secret_masked() -> None:
    async def run() -> tuple[str, Peer]:
        async with Peer(Phone()) as peer:
            caller = action(peer)
            plan = await caller.plan(late_finding(outcome="answered"))
            await asyncio.sleep(0.05)
            assert not peer.requests
            await caller.act(late_finding(outcome="answered"), ATTEMPT)
            await caller.stop()
        return plan, peer

    def without_the_random(text: str) -> str:
        return re.sub(r"z9hG4bK\w+|late-\w+|127\.0\.0\.1:\d+", "*", text)

    plan, peer = asyncio.run(run())
    assert SECRET not in plan
    for sent in (peer.of("INVITE")[0], peer.of("CANCEL")[0]):
        masked = sent.raw.decode().replace(SECRET, "********")
        assert without_the_random(masked) in without_the_random(plan)


# -- replies and timers --------------------------------------------------------------------------------


class Losing(Phone):
    """A phone behind a network that loses the first `lose[method]` requests of each method."""

    def __init__(self, **lose: int) -> None:
        super().__init__()
        self.lose = lose

    def __call__(self, peer: Peer, request: Request) -> None:
        if self.lose.get(request.method, 0) > 0:
            self.lose[request.method] -= 1
            return
        super().__call__(peer, request)


def test_lost_requests_are_repeated_byte_for_byte() -> None:
    result, peer = play(Losing(INVITE=2, CANCEL=2))
    assert result.outcome == "cancelled"
    assert len(peer.of("INVITE")) == 3
    assert len(peer.of("CANCEL")) == 3
    assert len({request.raw for request in peer.of("INVITE")}) == 1
    assert len({request.raw for request in peer.of("CANCEL")}) == 1


def test_repeated_final_is_acknowledged_each_time() -> None:
    """RFC 3261 section 17.1.1.2, Completed: timer D."""

    class Deaf(Phone):
        def __call__(self, peer: Peer, request: Request) -> None:
            super().__call__(peer, request)
            if request.method == "ACK" and len(peer.of("ACK")) < 3:
                peer.reply(self.invite[request.param("Via", "branch")], 487)

    result, peer = play(Deaf(), then=lambda peer: peer.wait_for("ACK", 3))
    assert result.outcome == "cancelled"
    assert [status for status, _ in result.statuses] == [100, 180, 487]
    assert len({request.raw for request in peer.of("ACK")}) == 1


def test_no_reply_at_all_is_a_timeout_and_never_a_cancel() -> None:
    result, peer = play(lambda peer, request: None)
    assert result.outcome == "timeout"
    assert set(methods(peer)) == {"INVITE"}  # RFC 3261 section 9.1
    assert len(peer.requests) in (6, 7)  # timer A doubles from T1 until 64 T1: 7 sends, the last just in time
    assert result.statuses == ()


def test_over_tcp_nothing_is_repeated() -> None:
    result, peer = play(lambda peer, request: None, tcp=True)
    assert result.outcome == "timeout"
    assert methods(peer) == ["INVITE"]


def test_no_ringing_within_ring_wait_is_not_delivered() -> None:
    result, peer = play(Phone(ringing=None), then=ack)
    assert result.outcome == "not_delivered"
    assert methods(peer) == ["INVITE", "CANCEL", "ACK"]


@pytest.mark.parametrize(
    ("late_reply", "outcome"), [(100, "not_delivered"), (180, "cancelled"), (183, "cancelled")]
)
def test_a_first_provisional_after_ring_wait_is_cancelled_at_once(late_reply: int, outcome: str) -> None:
    phone = Phone(trying=False, ringing=None)

    def handler(peer: Peer, request: Request) -> None:
        phone(peer, request)
        if request.method == "INVITE" and len(peer.of("INVITE")) == 1:
            peer.later(0.4, request, late_reply)

    result, peer = play(handler)
    assert result.outcome == outcome
    assert len(peer.of("CANCEL")) == 1


@pytest.mark.parametrize(("ringing", "outcome"), [(180, "timeout"), (None, "not_delivered")])
def test_an_unanswered_cancel_is_given_up(ringing: int | None, outcome: str) -> None:
    phone = Phone(ringing=ringing)

    def handler(peer: Peer, request: Request) -> None:
        if request.method == "INVITE":
            phone(peer, request)

    result, peer = play(handler)
    assert result.outcome == outcome
    assert len(peer.of("CANCEL")) > 3
    assert "CANCEL unanswered" in result.detail


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        *((status, "refused") for status in (403, 404, 407, 477, 503)),
        *((status, "rejected") for status in (302, 480, 486, 488, 603)),
        (408, "not_delivered"),
    ],
)
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_a_refusal_is_acknowledged_and_not_cancelled(status: int, outcome: str, tcp: bool) -> None:
    result, peer = play(Phone(ringing=None, final=status), tcp=tcp, then=ack)
    assert result.outcome == outcome
    assert str(status) in result.detail
    assert methods(peer) == ["INVITE", "ACK"]
    assert peer.requests[1].param("Via", "branch") == peer.requests[0].param("Via", "branch")


def test_a_refusal_after_ringing_is_the_phones() -> None:
    result, peer = play(Phone(final=404), cancel_after="100ms", then=ack)
    assert result.outcome == "rejected"
    assert methods(peer) == ["INVITE", "ACK"]


ROUTES = "Record-Route: <sip:127.0.0.1;r2=on;lr>, <sip:10.0.0.1;transport=tcp;lr>\nRecord-Route: <sip:10.0.0.2:5080;lr>"


class Answering(Phone):
    """Takes the call, at once or only when the CANCEL comes, and says so `times` times."""

    def __init__(self, *, when: str, times: int = 1) -> None:
        super().__init__()
        self.when, self.times = when, times

    def __call__(self, peer: Peer, request: Request) -> None:
        if request.method == "INVITE":
            super().__call__(peer, request)
        elif request.method in ("CANCEL", "BYE"):
            peer.reply(request, 200)
        if request.method == self.when:
            for _ in range(self.times):
                invite = peer.of("INVITE")[0]
                peer.reply(invite, 200, extra=f"{ROUTES}\nContact: <sip:bob@10.11.12.13:5060;ob>;expires=60")


@pytest.mark.parametrize("when", ["INVITE", "CANCEL"], ids=["before the CANCEL", "crossing the CANCEL"])
@pytest.mark.parametrize("tcp", [False, True], ids=["udp", "tcp"])
def test_an_answered_call_is_acknowledged_and_ended(when: str, tcp: bool) -> None:
    result, peer = play(Answering(when=when), tcp=tcp, cancel_after="50ms" if when == "INVITE" else "0ms")
    assert result.outcome == "answered"
    sent = [name for name in methods(peer) if name != "CANCEL"]
    assert sent == ["INVITE", "ACK", "BYE"]
    invite, acknowledge, bye = peer.of("INVITE")[0], peer.of("ACK")[0], peer.of("BYE")[0]
    # RFC 3261 sections 12.1.2, 12.2.1.1, 13.2.2.4: in the dialog, along its route, each a transaction of its own
    for request in (acknowledge, bye):
        assert request.uri == "sip:bob@10.11.12.13:5060;ob"
        assert request.all("Route") == [
            "<sip:10.0.0.2:5080;lr>",
            "<sip:10.0.0.1;transport=tcp;lr>",
            "<sip:127.0.0.1;r2=on;lr>",
        ]
        assert request.get("To") == "<sip:bob@sip.test>;tag=phone"
        assert request.get("From") == invite.get("From")
        assert request.get("Call-ID") == invite.get("Call-ID")
        assert request.param("Via", "branch") != invite.param("Via", "branch")
    assert acknowledge.get("CSeq") == "1 ACK"
    assert bye.get("CSeq") == "2 BYE"


def test_a_repeated_answer_gets_its_ack_again_and_one_bye() -> None:
    result, peer = play(Answering(when="CANCEL", times=3), then=lambda peer: peer.wait_for("ACK", 3))
    assert result.outcome == "answered"
    assert len({request.raw for request in peer.of("ACK")}) == 1
    assert len(peer.of("BYE")) == 1


def test_odd_but_readable_replies_count() -> None:
    """Folded and compact headers, a reason phrase in Latin-1, none at all."""

    def handler(peer: Peer, request: Request) -> None:
        if request.method == "INVITE":
            odd = reply_to(request, 180, "X").replace(b"SIP/2.0 180 X", b"SIP/2.0 180 sonn\xe9")
            peer.send(request, odd.replace(b"\r\nFrom: ", b"\r\nf:\r\n ").replace(b"\r\nVia: ", b"\r\nv: "))
        elif request.method == "CANCEL":
            peer.send(request, b"no SIP at all")
            peer.send(request, b"\x00\xff" * 50)
            peer.reply(request, 200)
            peer.send(peer.requests[0], reply_to(peer.requests[0], 487, "X").replace(b"487 X", b"487"))

    result, _ = play(handler, then=ack)
    assert result.outcome == "cancelled"
    assert [status for status, _ in result.statuses] == [180, 487]


def test_a_reply_to_another_branch_changes_nothing() -> None:
    phone = Phone()

    def handler(peer: Peer, request: Request) -> None:
        if request.method == "INVITE":
            peer.send(request, reply_to(request, 603).replace(b"branch=z9hG4bK", b"branch=z9hG4bKx"))
        phone(peer, request)

    result, _ = play(handler)
    assert result.outcome == "cancelled"


@pytest.mark.parametrize(("method", "status"), [("BYE", 200), ("OPTIONS", 200), ("UPDATE", 481)])
def test_requests_to_us_are_answered(method: str, status: int) -> None:
    answers: list[bytes] = []

    async def run() -> None:
        loop = asyncio.get_running_loop()
        async with Peer(Phone()) as peer:
            caller = action(peer)
            await caller.act(late_finding(), ATTEMPT)
            await peer.wait_for("ACK")
            loop.remove_reader(peer._socket)
            request = peer.requests[0].raw.replace(b"INVITE", method.encode())
            peer._socket.sendto(request, peer.last_sender)
            answers.append(await asyncio.wait_for(loop.sock_recv(peer._socket, 65535), 5))
            loop.add_reader(peer._socket, peer._readable)
            await caller.stop()

    asyncio.run(run())
    assert answers[0].startswith(f"SIP/2.0 {status} ".encode())


# -- the link ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_a_proxy_that_is_not_there_is_a_transport_error(transport: str) -> None:
    async def run() -> str:
        proxy = f"sip:127.0.0.1:{free_port()};transport={transport}"
        caller = FakeCall(FakeCallSettings(proxy=proxy, **QUICK))
        try:
            return (await caller.act(late_finding(), ATTEMPT)).outcome
        finally:
            await caller.stop()

    assert asyncio.run(run()) == "transport_error"


def test_a_proxy_that_comes_back_is_used_again() -> None:
    async def run(tcp: bool) -> list[str]:
        port = free_port()
        host = f"sip:127.0.0.1:{port}" + (";transport=tcp" if tcp else "")
        caller = FakeCall(FakeCallSettings(proxy=host, **QUICK))
        outcomes = [(await caller.act(late_finding(), ATTEMPT)).outcome]
        for _ in range(2):
            async with Peer(Phone(), tcp=tcp, port=port):
                outcomes.append((await caller.act(late_finding(), ATTEMPT)).outcome)
        await caller.stop()
        return outcomes

    for tcp in (False, True):
        assert asyncio.run(run(tcp)) == ["transport_error", "cancelled", "cancelled"]


def test_tcp_connection_is_kept_and_made_anew_when_lost() -> None:
    async def run() -> tuple[list[str], int]:
        async with Peer(Phone(), tcp=True) as peer:
            caller = action(peer)
            outcomes = [(await caller.act(late_finding(), ATTEMPT)).outcome for _ in range(2)]
            assert peer.connections == 1
            peer.drop_connections()
            outcomes.append((await caller.act(late_finding(), ATTEMPT)).outcome)
            await caller.stop()
        return outcomes, peer.connections

    assert asyncio.run(run()) == (["cancelled"] * 3, 2)


def test_an_invite_that_a_dying_connection_swallowed_is_sent_again_once() -> None:
    phone = Phone()

    def handler(peer: Peer, request: Request) -> None:
        if peer.connections == 1:
            peer.drop_connections()
        else:
            phone(peer, request)

    result, peer = play(handler, tcp=True)
    assert result.outcome == "cancelled"
    assert len({request.raw for request in peer.of("INVITE")}) == 1
    assert len(peer.of("INVITE")) == 2

    result, peer = play(lambda peer, request: peer.drop_connections(), tcp=True)
    assert result.outcome == "transport_error"
    assert len(peer.of("INVITE")) == 2


def test_calls_at_the_same_time_share_the_link_and_stay_apart() -> None:
    async def run(tcp: bool) -> None:
        async with Peer(Phone(), tcp=tcp) as peer:
            senders = set()
            handle = peer.handler
            peer.handler = lambda peer, request: (senders.add(peer.last_sender), handle(peer, request))[1]
            caller = action(peer)
            results = await asyncio.gather(*(caller.act(late_finding(), ATTEMPT) for _ in range(20)))
            await peer.wait_for("ACK", 20)
            await caller.stop()
        assert {result.outcome for result in results} == {"cancelled"}
        assert len({request.param("Via", "branch") for request in peer.of("INVITE")}) == 20
        assert len({request.param("From", "tag") for request in peer.of("INVITE")}) == 20
        assert {request.get("Call-ID") for request in peer.requests} == {"4f1d-lost@alice.example"}
        assert len(senders) == 1

    for tcp in (False, True):
        asyncio.run(run(tcp))


@pytest.mark.parametrize("trying", [True, False], ids=["after 100", "before any reply"])
def test_an_interrupted_call_still_cancels(trying: bool) -> None:
    phone = Phone(trying=trying, ringing=None)

    def handler(peer: Peer, request: Request) -> None:
        phone(peer, request)
        if request.method == "INVITE" and not trying:
            peer.later(0.1, request, 180)

    async def run() -> Peer:
        async with Peer(handler) as peer:
            caller = action(peer, ring_wait="30s")
            task = asyncio.create_task(caller.act(late_finding(), ATTEMPT))
            await peer.wait_for("INVITE")
            await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            await peer.wait_for("ACK")
            await caller.stop()
        return peer

    assert asyncio.run(run()).of("CANCEL")


def test_nothing_lingers_after_stop() -> None:
    async def run() -> None:
        async with Peer(Phone()) as peer:
            caller = action(peer)
            await caller.act(late_finding(), ATTEMPT)
            await caller.stop()
            assert len(asyncio.all_tasks()) == 1
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
                probe.bind(peer.last_sender)  # the port is free again

    asyncio.run(run())
