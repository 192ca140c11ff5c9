"""What anybody may send to a proxy's port is mirrored: it must cost neither memory nor time, nor ring a phone."""

from __future__ import annotations

import gc
from dataclasses import replace

import pytest
from story import IPHONE, PROXY, STRANGER, T0_US, Phone, Story, engine_for, findings, lost_call, owed, play

from pipeline.agents_seen import MAX_AGENTS
from pipeline.assemble import detectors_of
from pipeline.decode import Decoder
from pipeline.engine.bindings import Registration
from pipeline.engine.calls import MAX_LEGS, MAX_STRAYS
from pipeline.engine.engine import Engine
from pipeline.engine.events import SipEvent
from pipeline.engine.state import StateSettings
from pipeline.ingest import Datagram
from pipeline.protocols.hep import HepPacket, encode
from pipeline.protocols.sip import SipMessage
from pipeline.settings import Settings

MANY = 3000


@pytest.mark.parametrize(
    "start", ["SIP/2.0 200 OK", "SIP/2.0 180 Ringing", "CANCEL sip:bob@sip.test SIP/2.0"]
)
def test_strays_under_a_calls_own_id_are_few(start: str) -> None:
    story = Story()
    call = story.call()
    method = "CANCEL" if start.startswith("CANCEL") else "INVITE"
    for number in range(MANY):
        text = call._text(start, [(f"z9hG4bKstray{number}", STRANGER)], method)
        story.message(1 + number / 100, STRANGER, PROXY, text)
    engine = engine_for()
    play(story.events, engine)
    known = engine.state.calls[call.call_id]
    assert len(known.replies) <= MAX_LEGS + MAX_STRAYS
    assert len(known.cancels) <= MAX_LEGS + MAX_STRAYS
    assert engine.state.evicted["hop"] == 1


def test_a_call_with_more_legs_than_are_followed_rings_nobody() -> None:
    """The phone rang in time, but its leg came after too many others to be known."""
    story = Story()
    call = story.call()
    for number in range(MAX_LEGS):
        call.fork(1 + number, Phone(30_000 + number, ip="203.0.113.99"))
    story.register(500)
    call.ring(501)
    call.cancel(2000)
    story.register(2500)
    assert findings(story) == []


def test_many_legs_that_all_ended_cost_little() -> None:
    """Refused by the proxy without any authentication, Max-Forwards 0 for one: 483 each."""
    story = Story()
    call = story.call()
    for number in range(MAX_LEGS):
        call.cseq = number + 2
        call.invite(number)
        call.reply(number + 0.2, 483)
    engine = engine_for()
    play(story.events, engine)
    known = engine.state.calls[call.call_id]
    assert len(known.caller_legs()) == MAX_LEGS
    assert known.caller_legs() is known.caller_legs()  # told apart once, not at each question


def test_a_register_has_few_hops() -> None:
    """One Call-ID and CSeq, a new branch each time: none of them is a retransmission."""
    story = Story()
    story.register(0)
    first = story.events[0].sip
    for number in range(MANY):
        request = (
            f"REGISTER sip:sip.test SIP/2.0\nVia: SIP/2.0/UDP 203.0.113.66:5060;branch=z9hG4bKx{number}\n"
            f"From: <sip:bob@sip.test>;tag=r1\nTo: <sip:bob@sip.test>\nCall-ID: {first.call_id}\n"
            f"CSeq: {first.cseq} REGISTER\nContact: <sip:bob@203.0.113.66>\n"
        )
        story.message(1 + number / 100, STRANGER, PROXY, request)
        reply = request.replace("REGISTER sip:sip.test SIP/2.0", "SIP/2.0 401 Unauthorized")
        story.message(1.005 + number / 100, PROXY, STRANGER, reply)
    engine = engine_for()
    play(story.events[:-1], engine)
    (registration,) = engine.state.registrations.values()
    assert len(registration.requests) <= 16
    assert len(registration.replies) <= 32
    assert registration.status == 200
    assert engine.state.evicted["hop"] == 1


def test_what_is_thrown_away_takes_its_timer_along() -> None:
    engine = engine_for(StateSettings(max_calls=10, max_devices=10, max_registrations=10))
    story = Story()
    for number in range(200):
        story.call(number)
        story.register(number, replace(IPHONE, instance=f"urn:uuid:{number}"))
    for event in story.events:
        engine.handle([event], event.ts_us)
    assert engine.clocks.pending == 30


def test_no_message_stays_in_memory_until_a_collection() -> None:
    """A running tap looks for cycles hardly ever: what is in one would stay for hours."""
    engine = Engine(detectors_of(Settings()))
    gc.collect()
    gc.disable()
    try:
        before = {id(thing) for thing in gc.get_objects()}
        story = Story()
        for second in range(0, 100, 10):
            story.register(1000 * second)
            lost_call(story, 1000 * second)
        assert play(sorted(story.events, key=lambda event: event.ts_us), engine)
        del story
        kept = [thing for thing in gc.get_objects() if id(thing) not in before]
    finally:
        gc.enable()
    assert any(isinstance(thing, Registration) for thing in kept)
    assert not [thing for thing in kept if isinstance(thing, (SipEvent, SipMessage))]


def test_any_user_of_a_phone_is_forgotten_in_the_end() -> None:
    story = Story()
    story.register(0, replace(IPHONE, account="a|b@sip.test"))
    engine = engine_for()
    for event in story.events:
        engine.handle([event], event.ts_us)
    assert len(engine.state.devices) == 1
    engine.tick(T0_US + 3600_000_000)
    assert engine.state.devices == {}


def test_phones_behind_one_address_are_told_apart_by_user() -> None:
    """A session border controller in front of the proxy: every REGISTER comes from it, every INVITE goes there."""
    story = Story()
    phones = [
        replace(IPHONE, port=5060, account=f"{user}@sip.test", instance=f"urn:uuid:{user}")
        for user in ("bob", "carol", "dave")
    ]
    for phone in phones:
        story.register(0, phone)
    call = story.call(100)
    call.ring(110, phones[0])  # bob's rings in time, carol's and dave's are not called
    call.cancel(1000)
    for phone in phones:
        story.register(1500, phone)
    late = story.call(2000, "sip:carol@sip.test")
    late.cancel(3000)
    story.register(3500, phones[1])
    assert owed(story) == [(late.call_id, phones[1].target, "canceled")]


def test_a_phone_that_takes_another_contact_at_its_address_is_found_by_the_new_one() -> None:
    story = Story()
    story.register(0, contact=f'<sip:old@{IPHONE.target}>;+sip.instance="<{IPHONE.instance}>"')
    story.register(100)
    call = story.call(200, "sip:700@sip.test")  # an alias nobody told us: only the forwarded copy names bob
    call.fork(210, ruri=IPHONE.uri)
    call.cancel(1000)
    story.register(1500)
    assert owed(story) == [(call.call_id, IPHONE.target, "canceled")]


def test_an_untrusted_copy_cannot_move_the_end_of_a_trusted_call() -> None:
    """The same 487, with an earlier time on it, by somebody who passed no check."""
    story = Story()
    call = story.call()
    story.register(500)
    call.reply(2000, 487)
    forger = Story(story.events, agent="203.0.113.66/1", trusted=False, serial=1000)
    replace(call, story=forger).reply(100, 487, src=PROXY)
    assert [finding.trusted for finding in play(story.events, engine_for())] == [False]


def test_agents_that_anybody_can_make_up_are_few() -> None:
    """UDP senders can be forged, agent ids are theirs to choose, and each agent has a clock that is looked at."""
    engine = engine_for()
    decoder = Decoder("node", engine.interest)
    message = b"INVITE sip:b@h SIP/2.0\r\nCall-ID: %d\r\nCSeq: 1 INVITE\r\n\r\n"
    for number in range(MANY):
        packet = HepPacket(3, 17, "192.0.2.1", 5060, "192.0.2.2", 5060, T0_US, payload=message % number)
        ip = f"10.0.{number >> 8}.{number & 255}"
        events = decoder.decode([Datagram(T0_US, ip, 9060, "udp", False, encode(packet))])
        assert len(events) == 1
        engine.handle(events, T0_US)
    assert len(engine.clocks._clocks) <= MAX_AGENTS + 1
    assert len(decoder.agents()) <= MAX_AGENTS + 1
