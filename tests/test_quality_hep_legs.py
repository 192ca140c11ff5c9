"""Reports of one leg: which way they look, what they add up to, and what is said where little is known."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pipeline.protocols.leg import Direction
from pipeline.quality.hep_legs import Homes, LegReports, Packet

SWITCH, PHONE = "10.0.0.1", "10.0.0.2"
PHONE_SSRC, OWN_SSRC = 0x1111, 0x2222
SECOND_US = 1_000_000


def packet(at_s: float, body: dict[str, Any] | bytes, *, sent: bool, name: str = "call@phone.test") -> Packet:
    """A report that the switch sent or received."""
    ends = (SWITCH, 5001, PHONE, 4001) if sent else (PHONE, 4001, SWITCH, 5001)
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Packet(name, "agent/1", "192.0.2.9", "n1", round(at_s * SECOND_US), *ends, payload)


def report(
    ssrc: int, about: int, highest: int, lost: int = 0, jitter: int = 8, packets: int | None = None
) -> dict[str, Any]:
    """An SR or RR as Asterisk's res_hep_rtcp writes it."""
    sender = {"ntp_timestamp_sec": "1795374114", "ntp_timestamp_usec": "0", "packets": packets, "octets": 1}
    block = {"source_ssrc": about, "fraction_lost": 0, "packets_lost": lost, "highest_seq_no": highest}
    return {
        "ssrc": ssrc,
        "type": 200 if packets else 201,
        "report_count": 1,
        "sender_information": sender if packets else None,
        "report_blocks": [{**block, "ia_jitter": jitter, "lsr": "0", "dlsr": 0}],
    }


def fed(*packets: Packet, codec: str | None = "PCMA/8000") -> LegReports:
    leg = LegReports(packets[0], SWITCH, codec)
    for each in packets:
        leg.feed(each)
    return leg


def directions(leg: LegReports) -> tuple[Direction, Direction]:
    found = leg.leg()
    assert found is not None
    return found.incoming, found.outgoing


def test_what_the_switch_sends_is_about_the_phone_and_the_other_way_round() -> None:
    leg = fed(
        packet(5, report(OWN_SSRC, PHONE_SSRC, 1000, lost=5, jitter=16, packets=250), sent=True),
        packet(6, report(PHONE_SSRC, OWN_SSRC, 7000, lost=1, jitter=80, packets=300), sent=False),
        packet(10, report(OWN_SSRC, PHONE_SSRC, 1250, lost=15, jitter=24, packets=500), sent=True),
        packet(11, report(PHONE_SSRC, OWN_SSRC, 7250, lost=1, jitter=80, packets=550), sent=False),
    )
    incoming, outgoing = directions(leg)
    assert (incoming.lost, outgoing.lost) == (15, 1)
    assert incoming.loss_pct == pytest.approx(100 * 15 / 500), (
        "250 were due by the first report, 250 more since"
    )
    assert incoming.packets == 485
    assert outgoing.loss_pct == pytest.approx(100 * 1 / 550, rel=0.02)
    assert (incoming.jitter_ms, incoming.jitter_max_ms) == (2.5, 3)
    assert outgoing.jitter_ms == 10
    found = leg.leg()
    assert found is not None
    assert (found.ssrc, found.remote_ssrc, leg.peer_ip) == (OWN_SSRC, PHONE_SSRC, PHONE)
    assert found.flags == frozenset()


def test_totals_are_not_added_up() -> None:
    """Each report repeats all that was lost since the beginning."""
    leg = fed(
        *[
            packet(5 * n, report(OWN_SSRC, PHONE_SSRC, 250 * n, lost=10, packets=250 * n), sent=True)
            for n in range(1, 6)
        ]
    )
    incoming, _ = directions(leg)
    assert incoming.lost == 10


def test_duplicates_make_a_loss_negative() -> None:
    leg = fed(
        packet(5, report(PHONE_SSRC, OWN_SSRC, 250, lost=0, packets=250), sent=False),
        packet(10, report(PHONE_SSRC, OWN_SSRC, 500, lost=0xFFFFFB, packets=500), sent=False),
    )
    _, outgoing = directions(leg)
    assert (outgoing.lost, outgoing.loss_pct) == (-5, 0)
    assert leg.leg().flags == {"negative_lost"}  # type: ignore[union-attr]


def test_a_leg_that_only_the_switch_reports_on() -> None:
    incoming, outgoing = directions(
        leg := fed(packet(5, report(OWN_SSRC, PHONE_SSRC, 250, packets=250), sent=True))
    )
    assert (incoming.lost, incoming.packets) == (0, None), "how many were sent the phone did not say"
    assert outgoing == Direction(packets=250)
    assert leg.leg().flags == {"no_rtcp"}  # type: ignore[union-attr]


def test_a_phone_that_sends_nothing_is_one_way() -> None:
    alone = {"ssrc": OWN_SSRC, "type": 200, "report_count": 0, "report_blocks": []}
    alone["sender_information"] = {
        "packets": 250,
        "octets": 1,
        "ntp_timestamp_sec": "1",
        "ntp_timestamp_usec": "0",
    }
    leg = fed(packet(5, alone, sent=True), packet(11, alone, sent=True))
    assert leg.leg().flags == {"no_rtcp", "one_way"}  # type: ignore[union-attr]


@pytest.mark.parametrize("codec", [None, "opus/48000"])
def test_jitter_without_a_clock_is_unknown(codec: str | None) -> None:
    """Without a codec nobody knows what it counts in; and of Opus Asterisk measures nonsense."""
    leg = fed(
        packet(5, report(OWN_SSRC, PHONE_SSRC, 250, jitter=800, packets=250), sent=True),
        packet(6, report(PHONE_SSRC, OWN_SSRC, 250, jitter=96, packets=250), sent=False),
        codec=codec,
    )
    incoming, outgoing = directions(leg)
    assert incoming.jitter_ms is None
    assert outgoing.jitter_ms == (None if codec is None else 2)
    assert leg.leg().flags == (frozenset() if codec is None else {"opus_clock"})  # type: ignore[union-attr]


def test_reports_at_the_very_start_and_end_weigh_what_they_are_about() -> None:
    leg = fed(
        packet(0.2, report(PHONE_SSRC, OWN_SSRC, 10, jitter=0, packets=10), sent=False),
        packet(0.3, report(OWN_SSRC, PHONE_SSRC, 10, packets=15), sent=True),
        packet(5.2, report(PHONE_SSRC, OWN_SSRC, 260, jitter=80, packets=260), sent=False),
        packet(5.3, report(PHONE_SSRC, OWN_SSRC, 260, jitter=8, packets=260), sent=False),
        packet(5.4, report(OWN_SSRC, PHONE_SSRC, 260, packets=270), sent=True),
    )
    _, outgoing = directions(leg)
    assert outgoing.jitter_ms == pytest.approx(10, rel=0.05)


def test_what_cannot_be_read_is_counted_and_passed_over() -> None:
    good = packet(5, report(OWN_SSRC, PHONE_SSRC, 250, packets=250), sent=True)
    leg = fed(packet(4, b"{", sent=True), good, packet(6, b"[]", sent=False))
    assert leg.unreadable == 2
    assert leg.leg() is not None
    assert fed(packet(4, b"{", sent=True)).leg() is None


def test_the_phones_own_word_counts_where_there_is_no_other() -> None:
    """VoIP metrics of an XR (RFC 3611), as captagent writes them."""
    xr = {"Extended_report_information": {"identifier": OWN_SSRC, "R_fact": 80, "MOS_LQ": 40, "MOS_CQ": 38}}
    leg = fed(packet(5, {"type": 207, "ssrc": PHONE_SSRC, **xr}, sent=False))
    incoming, outgoing = leg.rated()
    assert incoming is None
    assert outgoing is not None
    assert (outgoing.r_factor, outgoing.mos_lq, outgoing.mos_cq, outgoing.mos_method) == (80, 4.0, 3.8, "xr")
    assert not outgoing.grounded


def watched(at_s: float, packets: int, lost: int) -> Packet:
    stream = {"SRC_IP": PHONE, "SRC_PORT": 4000, "DST_IP": SWITCH, "DST_PORT": 5000, "TYPE": "PERIODIC"}
    counts = {"TOTAL_PK": packets, "EXPECTED_PK": packets + lost, "PACKET_LOSS": lost, "MEAN_JITTER": 3.5}
    return packet(at_s, {**stream, **counts, "MAX_JITTER": 9.0}, sent=True)


@pytest.mark.parametrize(
    ("counts", "packets", "lost"),
    [([(240, 10), (250, 0), (245, 5)], 735, 15), ([(240, 10), (490, 10), (735, 15)], 735, 15)],
    ids=["of each period", "totals"],
)
def test_an_agent_that_watched_the_stream_itself(
    counts: list[tuple[int, int]], packets: int, lost: int
) -> None:
    incoming, outgoing = directions(fed(*[watched(5 * n, *each) for n, each in enumerate(counts, 1)]))
    assert (incoming.packets, incoming.lost, incoming.jitter_ms, incoming.jitter_max_ms) == (
        packets,
        lost,
        3.5,
        9,
    )
    assert incoming.loss_pct == pytest.approx(2)
    assert outgoing == Direction()


class TestHomes:
    """Where the switch is."""

    def seen(self, *pairs: tuple[str, str], known: tuple[str, ...] = ()) -> Homes:
        homes = Homes(known)
        for number, (src, dst) in enumerate(pairs):
            homes.see(self.of(src, dst, f"call-{number}"))
        return homes

    def of(self, src: str, dst: str, name: str = "x") -> Packet:
        return Packet(name, "agent/1", SWITCH, "n1", 0, src, 1, dst, 2, b"")

    def test_it_is_what_the_legs_have_in_common(self) -> None:
        homes = self.seen(("10.0.0.7", "10.0.0.8"), ("10.0.0.9", "10.0.0.7"), ("10.0.0.7", "10.0.0.6"))
        assert homes.of(self.of("10.0.0.9", "10.0.0.7")) == "10.0.0.7"

    def test_one_leg_alone_is_told_by_the_agents_own_address(self) -> None:
        assert self.seen((SWITCH, PHONE)).of(self.of(PHONE, SWITCH)) == SWITCH

    def test_the_settings_win(self) -> None:
        homes = self.seen(("10.0.0.7", "10.0.0.8"), ("10.0.0.7", "10.0.0.9"), known=("10.0.0.8",))
        assert homes.of(self.of("10.0.0.8", "10.0.0.7")) == "10.0.0.8"

    def test_two_ends_with_one_address_are_told_by_nothing(self) -> None:
        assert self.seen((SWITCH, SWITCH)).of(self.of(SWITCH, SWITCH)) is None
        assert self.seen(("10.0.0.7", "10.0.0.8")).of(self.of("10.0.0.7", "10.0.0.8")) is None
