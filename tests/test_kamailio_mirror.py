"""`deploy/kamailio/hepduck-mirror.cfg` in a real Kamailio: what users install sends what hepduck needs.

The truth is what the phones and callers themselves sent and received; sipp keeps its own log of that.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable

import pytest
from world.collector import Collector, Mirrored
from world.late_caller import SECRET
from world.phone import Phone
from world.sip import Transcript, header

pytestmark = pytest.mark.timeout(60)

Hop = tuple[tuple[str, int], tuple[str, int], str]


def same(text: str) -> str:
    """A message as it can be compared: sipp's log does not keep the kind of line ends."""
    return text.replace("\r\n", "\n").strip()


def hops(transcript: Transcript, own: tuple[str, int], proxy: tuple[str, int]) -> list[Hop]:
    """What an endpoint saw, as the hops that the mirror should hold."""
    return [
        (own, proxy, same(seen.text)) if seen.sent else (proxy, own, same(seen.text))
        for seen in transcript.messages
    ]


def mirrored_hops(mirrored: Iterable[Mirrored]) -> list[Hop]:
    return [(m.source, m.destination, same(m.text)) for m in mirrored]


def assert_mirrored(collector: Collector, *seen: list[Hop]) -> None:
    """Each message is in the mirror once, and nothing else is."""
    expected = Counter(hop for part in seen for hop in part)
    collector.wait(lambda mirrored: len(mirrored) >= expected.total())
    assert Counter(mirrored_hops(collector.mirrored())) == expected


def lost_call(start_kamailio, meet, collector, certificate=None, **defines) -> tuple[list[Hop], list[Hop]]:
    """A call given up before its phone registers: what the caller and the phone saw."""
    kamailio = start_kamailio(
        defines={"HEPDUCK_URI": collector.uri, "NO_INJECT": None, **defines}, certificate=certificate
    )
    parties = meet(kamailio)
    caller = parties.sipp("uac_cancel", user="alice", callee="bob")
    assert caller.wait() == 0, caller.explain()
    phone = parties.registered("bob")
    return (
        hops(caller.transcript, (caller.address, caller.port), kamailio.proxy()),
        hops(phone.transcript, (phone.address, phone.port), kamailio.proxy()),
    )


@pytest.mark.parametrize("version", [1, 2, 3])
def test_a_lost_call_is_mirrored_whole_and_once(version, start_kamailio, meet):
    before_us = time.time_ns() // 1000
    with Collector() as collector:
        seen = lost_call(start_kamailio, meet, collector, HEPDUCK_HEP_VERSION=version, HEPDUCK_CAPTURE_ID=77)
        assert_mirrored(collector, *seen)
        packets = collector.packets()
        flow = [(m.what, header(m.text, "CSeq").split()[1]) for m in collector.mirrored()]

    assert len(packets) == 13
    assert {packet.version for packet in packets} == {version}
    assert {packet.ip_proto for packet in packets} == {17}
    if version == 1:
        assert {(packet.ts_us, packet.agent_id) for packet in packets} == {(None, None)}
    else:
        assert {packet.agent_id for packet in packets} == {77}
        assert all(before_us <= packet.ts_us <= time.time_ns() // 1000 for packet in packets)
    # What the detector builds upon: the proxy's own final words. Those that are far enough apart for the
    # mirror, whose copies may overtake each other by a few milliseconds, come in the order they were said.
    final = [("407", "INVITE"), ("487", "INVITE"), ("200", "REGISTER")]
    assert [step for step in flow if step in final] == final


@pytest.mark.parametrize("transport", ["tcp", "tls"])
def test_the_mirror_over_a_stream(transport, start_kamailio, meet, certificate):
    with Collector(transport, certificate) as collector:
        given = certificate if transport == "tls" else None
        seen = lost_call(start_kamailio, meet, collector, certificate=given)
        assert_mirrored(collector, *seen)
        assert collector.connections == 1


def test_the_key_is_in_every_packet(start_kamailio, meet):
    with Collector() as collector:
        seen = lost_call(start_kamailio, meet, collector, HEPDUCK_AUTH_KEY="s3cret")
        assert_mirrored(collector, *seen)
        assert {packet.auth_key for packet in collector.packets()} == {b"s3cret"}


def test_the_secret_of_the_compensating_call_is_not_mirrored(start_kamailio, meet):
    """Nor can anybody who does not know it keep a call out of the mirror with that header."""
    with Collector() as collector:
        kamailio = start_kamailio(defines={"HEPDUCK_URI": collector.uri, "HEPDUCK_SECRET": SECRET})
        parties = meet(kamailio)
        phone = parties.registered("bob")
        caller = parties.late_caller("bob")
        assert caller.run(None, X_Late_Secret=SECRET, X_Late_Target=f"sip:{phone.target}")[-1] == "487"
        guess = parties.late_caller("bob")
        assert guess.run(None, X_Late_Secret="guess", X_Late_Target=f"sip:{phone.target}") == ["403"]
        collector.wait(lambda mirrored: any(m.what == "403" for m in mirrored))
        invites = [m for m in collector.mirrored() if m.what == "INVITE"]
        assert [m.destination for m in invites] == [(phone.address, phone.port), kamailio.proxy()]
        assert not any(SECRET in m.text for m in collector.mirrored())
        assert "guess" in invites[-1].text


def test_without_a_key_none_is_sent(start_kamailio, meet):
    with Collector() as collector:
        seen = lost_call(start_kamailio, meet, collector)
        assert_mirrored(collector, *seen)
        assert {packet.auth_key for packet in collector.packets()} == {None}


def options(phone: Phone, call_id: str) -> None:
    """A keepalive, and its answer."""
    phone.send(
        "OPTIONS sip:sip.test SIP/2.0",
        phone.via("z9hG4bK-keepalive"),
        "Max-Forwards: 70",
        f"From: <{phone.aor}>;tag={phone.tag}",
        "To: <sip:sip.test>",
        f"Call-ID: {call_id}",
        "CSeq: 1 OPTIONS",
    )
    assert phone.transcript.wait(lambda: phone.transcript.received("200", call_id), 5)


def test_keepalives_can_be_left_out(start_kamailio, meet):
    with Collector() as collector:
        kamailio = start_kamailio(
            defines={"HEPDUCK_URI": collector.uri, "HEPDUCK_SKIP": "OPTIONS|NOTIFY", "NO_INJECT": None}
        )
        phone = meet(kamailio).phone("bob")
        options(phone, "keepalive@sip.test")
        phone.register()
        before = Transcript([s for s in phone.transcript.messages if "OPTIONS" not in header(s.text, "CSeq")])
        assert_mirrored(collector, hops(before, (phone.address, phone.port), kamailio.proxy()))


def test_a_phone_that_rings_in_time_is_seen_to_be_reached(start_kamailio, meet):
    """The forwarded INVITE is a message of its own, towards the phone, and so is the CANCEL."""
    with Collector() as collector:
        kamailio = start_kamailio(defines={"HEPDUCK_URI": collector.uri, "NO_INJECT": None})
        parties = meet(kamailio)
        caller = parties.sipp("uac_cancel", user="alice", callee="bob", wait_ms=500)
        assert collector.wait(lambda mirrored: "100" in [m.what for m in mirrored])
        phone = parties.registered("bob", "tcp")
        assert caller.wait() == 0, caller.explain()
        assert phone.wait_for("ACK", caller.call_id)
        own = (phone.address, phone.port)
        assert_mirrored(
            collector,
            hops(caller.transcript, (caller.address, caller.port), kamailio.proxy()),
            hops(phone.transcript, own, kamailio.proxy("tcp")),
        )
        to_phone = [m for m in collector.mirrored(caller.call_id) if m.destination == own]
        assert [m.what for m in to_phone] == ["INVITE", "CANCEL", "ACK"]
        assert {m.packet.ip_proto for m in to_phone} == {6}
        assert to_phone[0].text.startswith(f"INVITE {phone.contact_uri} SIP/2.0\r\n")


def test_the_switch(start_kamailio, meet):
    """`kamcmd siptrace.status`, which the README tells users to try first."""
    with Collector() as collector:
        kamailio = start_kamailio(defines={"HEPDUCK_URI": collector.uri, "NO_INJECT": None})
        assert kamailio.command("siptrace.status", "check").strip() == "Enabled"
        kamailio.command("siptrace.status", "off")
        parties = meet(kamailio)
        parties.registered("bob")
        kamailio.command("siptrace.status", "on")
        carol = parties.registered("carol")
        assert_mirrored(collector, hops(carol.transcript, (carol.address, carol.port), kamailio.proxy()))


@pytest.mark.parametrize("transport", ["udp", "tcp"])
def test_calls_do_not_need_hepduck(transport, start_kamailio, meet):
    """Nobody listens where the mirror goes."""
    with Collector(transport) as collector:
        uri = collector.uri
    parties = meet(start_kamailio(defines={"HEPDUCK_URI": uri, "NO_INJECT": None}))
    phone = parties.registered("bob")
    call_id = parties.given_up_call("bob")
    assert phone.wait_for("ACK", call_id)
