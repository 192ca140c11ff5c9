"""Asterisk's QoS strings: the grammar, each mend, and whole recordings against what the relay counted."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest
from asterisk_recordings import (
    ASTERISK,
    LEGS,
    SESSIONS,
    Call,
    LegName,
    call,
    calls,
    columns,
    rows,
    rtcp_packets,
)
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocols.asterisk import SCALARS, STRINGS, parse_leg, parse_pairs
from pipeline.protocols.leg import FLAGS, Direction, Leg, segment_lost, tie
from pipeline.protocols.rtcp import parse
from pipeline.protocols.rtcp_report import Block

MES_ALL = (
    "ssrc=1759683583;themssrc=1153229647;lp=42;rxjitter=0.012375;rxcount=1066;txjitter=0.007625;"
    "txcount=1062;rlp=71;rtt=0.161499;rxmes=36.715453;txmes=69.117917"
)
OLD_ALL = (
    "ssrc=1016392728;themssrc=1930125194;lp=0;rxjitter=0.000000;rxcount=814;txjitter=0.001286;"
    "txcount=814;rlp=0;rtt=0.001724"
)
OLD_JITTER = (
    "minrxjitter=0.000012;maxrxjitter=0.007328;avgrxjitter=0.000848;stdevrxjitter=0.031256;"
    "reported_minjitter=2.000000;reported_maxjitter=13.000000;reported_avgjitter=5.125000;"
    "reported_stdevjitter=2.249571;"
)


def leg_of(text: str = MES_ALL, how: dict[str, Any] | None = None, **more: Any) -> Leg:
    leg = parse_leg({"all": text, **more}, **(how or {}))
    assert leg is not None
    return leg


def changed(text: str, **values: object) -> str:
    """`text` with other values."""
    pairs = dict(pair.split("=") for pair in text.split(";"))
    return ";".join(f"{key}={value}" for key, value in (pairs | values).items())


# -- strings -----------------------------------------------------------------------------------------------

RECORDED = sorted(
    {
        text
        for session in SESSIONS
        for row in rows(session)
        for name in LEGS
        for key in STRINGS
        if (text := row[f"rtcp_{name}_{key}"])
    }
)


def test_every_recorded_string_is_read_whole() -> None:
    assert len(RECORDED) > 800
    for text in RECORDED:
        values, was_cut = parse_pairs(text)
        expected = {
            key.strip(): float(value)
            for key, value in (pair.split("=") for pair in text.split(";") if pair.strip())
        }
        assert values == expected
        assert not was_cut


@given(st.data())
def test_a_cut_string_never_gives_a_value_that_the_whole_does_not(data: st.DataObject) -> None:
    text = data.draw(st.sampled_from(RECORDED))
    at = data.draw(st.integers(0, len(text) - 1))
    values, was_cut = parse_pairs(text[:at])
    assert values.items() <= parse_pairs(text)[0].items()
    kept = text[:at].rstrip()
    if kept and not kept.endswith(";") and "=" in kept and kept[-7:-6] != ".":
        assert was_cut


@given(st.text(max_size=300))
def test_any_text_is_read_without_an_error(text: str) -> None:
    parse_pairs(text)


values = st.none() | st.text(max_size=30) | st.floats() | st.integers() | st.sampled_from(RECORDED)


@given(
    st.dictionaries(st.sampled_from([*STRINGS, *SCALARS]), values),
    st.sampled_from(LEGS),
    st.none() | st.sampled_from(["PCMU", "opus", "x"]),
    st.none() | st.floats(),
)
def test_any_columns_are_read_without_an_error(
    given_columns: dict[str, Any], name: LegName, codec: str | None, duration_s: float | None
) -> None:
    leg = parse_leg(given_columns, leg=name, codec=codec, duration_s=duration_s)
    if leg is None:
        return
    assert leg.flags <= FLAGS.keys()
    for direction in (leg.incoming, leg.outgoing):
        assert direction.loss_pct is None or 0 <= direction.loss_pct <= 100
        assert direction.jitter_ms is None or 0 <= direction.jitter_ms <= 5000
        assert direction.packets is None or direction.packets >= 0
    assert leg.rtt_ms is None or leg.rtt_ms >= 0


def test_what_is_no_number_is_left_out() -> None:
    assert parse_pairs("avgrtt=nan;maxrtt=-nan;minrtt=-1.000000;stdevrtt=0.000001;") == (
        {"stdevrtt": 1e-6},
        False,
    )


# -- each mend ---------------------------------------------------------------------------------------------


def test_jitter_and_score_are_named_the_wrong_way_round_and_loss_is_not() -> None:
    leg = leg_of()
    incoming, outgoing = leg.incoming, leg.outgoing
    assert (incoming.packets, incoming.lost, incoming.jitter_last_ms, incoming.mes) == (
        1066,
        42,
        7.625,
        69.117917,
    )
    assert (outgoing.packets, outgoing.lost, outgoing.jitter_last_ms, outgoing.mes) == (
        1062,
        71,
        12.375,
        36.715453,
    )
    assert incoming.loss_pct == pytest.approx(100 * 42 / (42 + 1066))
    assert outgoing.loss_pct == pytest.approx(100 * 71 / 1062)
    assert leg.rtt_ms == pytest.approx(161.499)
    assert (leg.ssrc, leg.remote_ssrc) == (1759683583, 1153229647)
    assert leg.flags == frozenset()


def test_before_mes_the_phones_jitter_is_in_timestamp_units_and_its_last_value_always_zero() -> None:
    outgoing = leg_of(OLD_ALL, all_jitter=OLD_JITTER).outgoing
    assert outgoing.jitter_last_ms is None
    assert outgoing.jitter_ms == pytest.approx(5.125 / 8)
    assert outgoing.jitter_max_ms == pytest.approx(13 / 8)


@pytest.mark.parametrize(
    ("codec", "clock_rate_hz"), [("G722", 8000), ("speex/16000", 16000), ("L16/44100", 44100)]
)
def test_timestamp_units_are_the_codecs(codec: str, clock_rate_hz: int) -> None:
    outgoing = leg_of(OLD_ALL, {"codec": codec}, all_jitter=OLD_JITTER).outgoing
    assert outgoing.jitter_ms == pytest.approx(5125 / clock_rate_hz)


def test_deviations_before_mes_are_square_roots() -> None:
    leg = leg_of(OLD_ALL, all_jitter=OLD_JITTER)
    assert leg.incoming.jitter_stdev_ms == pytest.approx(0.031256**2 * 1000)
    assert leg.outgoing.jitter_stdev_ms == pytest.approx(2.249571**2 / 8)


def test_deviations_before_16_18_are_no_deviations() -> None:
    broken = OLD_JITTER.replace("stdevrxjitter=0.031256", "stdevrxjitter=4.071000")
    assert leg_of(OLD_ALL, all_jitter=broken).incoming.jitter_stdev_ms is None


def test_negative_loss_is_24_bits_wide() -> None:
    leg = leg_of(changed(MES_ALL, rlp=16777211))
    assert (leg.outgoing.lost, leg.outgoing.loss_pct) == (-5, 0)
    assert leg.flags == {"negative_lost"}


@pytest.mark.parametrize("lost", [65311, 65536 * 2 - 225, 1066 * 20 + 1])
def test_a_sequence_restart_is_no_loss(lost: int) -> None:
    jitter = "minrxjitter=000.000000;maxrxjitter=000.500750;avgrxjitter=000.018886;stdevrxjitter=000.090000;"
    leg = leg_of(changed(MES_ALL, lp=lost), all_jitter=jitter)
    assert (leg.incoming.lost, leg.incoming.loss_pct) == (None, None)
    assert (leg.incoming.jitter_ms, leg.incoming.jitter_max_ms) == (7.625, None), "the jump counts as jitter"
    assert leg.flags == {"seq_restart"}


def test_heavy_loss_of_a_long_call_is_loss() -> None:
    leg = leg_of(changed(MES_ALL, lp=36_000, rxcount=144_000))
    assert (leg.incoming.lost, leg.incoming.loss_pct) == (36_000, 20)


def test_an_underflown_round_trip_is_none() -> None:
    leg = leg_of(changed(MES_ALL, rtt="65533.001358"))
    assert (leg.rtt_ms, leg.flags) == (None, {"rtt_skew"})


def test_a_rejected_round_trip_is_none_though_it_looks_well() -> None:
    zeros = "     minrtt=000.000000;     maxrtt=000.000000;     avgrtt=000.000000;     stdevrtt=000.000000;"
    leg = leg_of(all_rtt=zeros)
    assert (leg.rtt_ms, leg.flags) == (None, {"rtt_skew"})


def test_the_round_trip_is_the_smaller_of_last_and_mean() -> None:
    late = "     minrtt=000.160000;     maxrtt=000.300000;     avgrtt=000.210000;     stdevrtt=000.060000;"
    leg = leg_of(all_rtt=late)
    assert leg.rtt_ms == pytest.approx(161.499)
    assert (leg.rtt_min_ms, leg.rtt_mean_ms, leg.rtt_max_ms) == (160, 210, 300)
    assert leg_of(changed(MES_ALL, rtt="0.300000"), all_rtt=late).rtt_ms == 210


def test_the_maximum_of_decimal_10_6_is_no_round_trip() -> None:
    leg = leg_of(changed(MES_ALL, rtt="65533.001358"), rtt=Decimal("9999.999999"))
    assert (leg.rtt_ms, leg.flags) == (None, {"rtt_skew", "clamped"})


def test_zeros_from_a_phone_without_rtcp_are_none() -> None:
    leg = leg_of(changed(MES_ALL, rlp=0, rxjitter="0.000000", rtt="0.000000", rxmes="0.000000"))
    assert leg.outgoing == Direction(packets=1062)
    assert leg.rtt_ms is None
    assert leg.incoming.lost == 42
    assert leg.flags == {"no_rtcp"}


def test_reports_of_all_zeros_say_nothing_though_they_score_best() -> None:
    leg = leg_of(changed(MES_ALL, rlp=0, rxjitter="0.000000", rtt="0.000000", rxmes="88.087887"))
    assert leg.outgoing.lost is None
    assert "no_rtcp" in leg.flags


def test_nothing_received_is_not_one_packet_lost() -> None:
    leg = leg_of(changed(MES_ALL, rxcount=0, lp=1, txjitter="0.000000", themssrc=0))
    assert leg.incoming == Direction(packets=0)
    assert leg.remote_ssrc is None
    assert leg.flags == {"one_way"}


def test_short_before_the_first_report_loss_is_unknown() -> None:
    leg = leg_of(changed(MES_ALL, lp=0, txmes="0.000000"))
    assert (leg.incoming.lost, leg.incoming.loss_pct, leg.flags) == (None, None, {"short"})


@pytest.mark.parametrize(
    ("duration_s", "packets", "short"), [(4.9, 814, True), (7, 164, False), (None, 164, True)]
)
def test_short_before_mes(duration_s: float | None, packets: int, short: bool) -> None:
    text = changed(OLD_ALL, rxcount=packets, txcount=packets)
    leg = leg_of(text, {"duration_s": duration_s})
    assert ("short" in leg.flags) == short
    assert leg.incoming.lost == (None if short else 0)


def test_opus_read_at_8000_hz() -> None:
    text = changed(MES_ALL, txjitter="0.100000", rxjitter="0.012000")
    leg = leg_of(text, {"codec": "opus/48000/2"})
    assert (leg.incoming.jitter_ms, leg.incoming.jitter_last_ms) == (None, None)
    assert leg.outgoing.jitter_last_ms == pytest.approx(2)
    assert leg.flags == {"opus_clock"}


def test_opus_read_at_its_own_clock() -> None:
    leg = leg_of(changed(MES_ALL, txjitter="0.007000"), {"codec": "opus"})
    assert (leg.incoming.jitter_ms, leg.outgoing.jitter_ms, leg.flags) == (7, 12.375, frozenset())


def test_opus_before_mes_has_its_clock_once() -> None:
    text = changed(OLD_ALL, txjitter="0.100000")
    jitter = OLD_JITTER.replace("avgrxjitter=0.000848", "avgrxjitter=0.098252")
    leg = leg_of(text, {"codec": "opus"}, all_jitter=jitter)
    assert leg.outgoing.jitter_ms == pytest.approx(5125 / 48000)
    nameless = leg_of(text, all_jitter=jitter)
    assert nameless.outgoing.jitter_ms == pytest.approx(5125 / 48000)
    assert leg.flags == nameless.flags == {"opus_clock"}


def test_senseless_jitter_is_given_up() -> None:
    leg = leg_of(changed(MES_ALL, rxjitter="112.500000"))
    assert (leg.outgoing.jitter_ms, leg.outgoing.lost, leg.flags) == (None, 71, {"clamped"})


def test_a_string_cut_by_its_column() -> None:
    cut = MES_ALL[: MES_ALL.index("066;txjitter")]
    assert cut.endswith(";rxcount=1")
    leg = leg_of(cut)
    assert (leg.incoming.packets, leg.incoming.lost, leg.flags & {"clamped"}) == (None, 42, {"clamped"})


@pytest.mark.parametrize("text", ["p2p", "", "   ", None, "NULL", "ssrc"])
def test_what_is_no_string_of_asterisk_is_nothing(text: str | None) -> None:
    assert parse_leg({"all": text, "all_jitter": text}) is None


def test_all_mes_of_a_version_without_it_is_all_again() -> None:
    assert leg_of(OLD_ALL, all_mes=OLD_ALL, all_jitter=OLD_JITTER) == leg_of(OLD_ALL, all_jitter=OLD_JITTER)


def test_scalar_columns_alone() -> None:
    scalars = {"txjitter": "0.007625", "rxjitter": 0.012375, "txploss": "71", "rxploss": 42}
    leg = parse_leg({**scalars, "rtt": Decimal("0.161499")})
    assert leg is not None
    assert (leg.incoming.lost, leg.incoming.jitter_ms, leg.incoming.loss_pct) == (42, 7.625, None)
    assert (leg.outgoing.lost, leg.rtt_ms) == (71, pytest.approx(161.499))


def test_scalar_columns_that_nobody_wrote_are_nothing() -> None:
    nothing = {"txjitter": None, "rxjitter": None, "txploss": 0, "rxploss": 0, "rtt": None}
    assert parse_leg(nothing) is None
    some = parse_leg({**nothing, "txjitter": "0.007625"})
    assert some is not None
    assert (some.incoming.jitter_ms, some.incoming.lost, some.outgoing.lost) == (7.625, None, None)


def test_leg_b_written_in_part() -> None:
    part = {"all": MES_ALL, "all_jitter": "", "rtt": None}
    b, a = parse_leg(part, leg="b"), parse_leg(part, leg="a")
    assert b is not None and a is not None
    assert ("truncated_b" in b.flags, "truncated_b" in a.flags) == (True, False)
    narrow = parse_leg({"all": MES_ALL}, leg="b")
    assert narrow is not None
    assert narrow.flags == frozenset(), "columns that the table has not are not missing"


class TestTie:
    lossy = leg_of(changed(MES_ALL, lp=100, rxcount=900, rlp=0))
    clean = leg_of(changed(MES_ALL, lp=0, rxcount=1000, rlp=110, txcount=900))

    def test_same_codec_passes_gaps_on(self) -> None:
        a, b = tie(self.lossy, self.clean, "PCMU", "PCMU/8000")
        assert a.flags == b.flags == {"passthrough"}
        assert b.outgoing.loss_pct == 11, "of the 900 that were sent and the 100 gaps among them"
        assert a.outgoing.loss_pct == 0
        assert segment_lost(b.outgoing, a.incoming) == 10

    def test_other_codec_does_not(self) -> None:
        assert tie(self.lossy, self.clean, "PCMU", "PCMA") == (self.lossy, self.clean)

    def test_without_codecs_the_loss_that_returns_tells(self) -> None:
        assert tie(self.lossy, self.clean) == tie(self.lossy, self.clean, "0", "0")
        heard = leg_of(changed(MES_ALL, lp=0, rlp=3))
        assert tie(self.lossy, heard) == (self.lossy, heard)

    def test_unknown_stays_unknown(self) -> None:
        silent = leg_of(changed(MES_ALL, rlp=0, rxjitter="0.000000", rtt="0.000000"))
        _, b = tie(self.lossy, silent, "0", "0")
        assert (b.outgoing.lost, b.outgoing.loss_pct) == (None, None)
        assert segment_lost(b.outgoing, self.lossy.incoming) is None


# -- recordings --------------------------------------------------------------------------------------------

EVERY_CALL = [each for session in SESSIONS for each in calls(session)]
EVERY_LEG = [(each, name) for each in EVERY_CALL for name in each.legs]
every_session = pytest.mark.parametrize("session", SESSIONS)

# Rows that do not fit the truth, and why.
LOST_IN: dict[tuple[str, int, str], str] = {}
LOST_OUT = {
    ("r22-main", 11, "b"): "the phone counted a packet that came very late as lost",
    ("r22-main", 28, "a"): "the relay wrote -5 into the reports",
    ("r18", 28, "a"): "the relay wrote -5 into the reports",
    ("r22-main", 44, "b"): "hold: the phone counts anew when it is retrieved",
}
JITTER_IN = {
    ("r22-main", 11, "a"): "since MES Asterisk leaves out packets that are not in order",
    ("r22-main", 23, "a"): "since MES Asterisk leaves out packets that are not in order",
    ("r18", 39, "a"): "after a sequence restart only the last value is told: 0.4 ms, as at the relay",
}
RTT = {
    ("r22-main", 37, "b"): "the relay's delay towards Asterisk did not apply",
    ("r22-main", 38, "a"): "the relay's delay towards Asterisk did not apply",
    ("r22-main", 87, "b"): "the phone answered late: HEP shows the same",
    ("r18", 12, "b"): "the phone answered late: HEP shows the same",
}


def key(each: Call, name: LegName) -> tuple[str, int, str]:
    return each.session, each.number, name


def other(name: LegName) -> LegName:
    return "b" if name == "a" else "a"


def lost_after_the_last_report(lost: int, seen: int) -> float:
    """The most that random loss takes from the last interval: 5.5 s of packets of 20 ms, three deviations."""
    share, packets = lost / seen, min(seen, 275)
    return packets * share + 3 * math.sqrt(packets * share * (1 - share))


def test_the_recordings_are_all_there() -> None:
    assert {session: len(calls(session)) for session in SESSIONS} == {
        "r22-main": 73,
        "r18": 31,
        "r22-custom-legacy": 10,
    }
    assert sum(len(each.legs) for each in EVERY_CALL) > 200


def test_packets_and_loss_incoming() -> None:
    misfits = set()
    for each, name in EVERY_LEG:
        incoming, flow = each.legs[name].incoming, each.flow(name, "up")
        if (
            flow.seen is None or flow.dropped is None or each.number == 58
        ):  # 58: direct media, not by Asterisk
            continue
        arrived = flow.seen - flow.dropped + round(flow.seen * flow.profile.get("dup", 0) / 100)
        assert incoming.packets is not None
        if each.truth[f"{name}_up_ssrc"] != "3390111744":  # sipp goes on sending after the hangup
            assert abs(incoming.packets - arrived) <= 15, key(each, name)
        if incoming.lost is None:
            assert incoming.packets == 0 or each.legs[name].flags & {"short", "seq_restart"}
            continue
        missing = flow.dropped - incoming.lost
        if not 0 <= missing <= lost_after_the_last_report(flow.dropped, flow.seen):
            misfits.add(key(each, name))
    assert misfits == LOST_IN.keys()


def test_loss_outgoing() -> None:
    misfits = set()
    for each, name in EVERY_LEG:
        leg, flow = each.tied[name], each.flow(name, "down")
        if leg.outgoing.lost is None or flow.seen is None or flow.dropped is None:
            continue
        gaps = 0
        if "passthrough" in leg.flags:
            gaps = each.flow(other(name), "up").dropped or 0
        elif each.truth["desc"].startswith("single leg: Echo()"):
            gaps = each.flow(name, "up").dropped or 0
        lost = flow.dropped + gaps
        if not 0 <= lost - leg.outgoing.lost <= lost_after_the_last_report(lost, flow.seen + gaps):
            misfits.add(key(each, name))
    assert misfits == LOST_OUT.keys()


@every_session
def test_nine_tenths_of_the_loss_is_in_the_last_report(session: str) -> None:
    found = dropped = 0
    for each in calls(session):
        for name, leg in each.legs.items():
            lost = each.flow(name, "up").dropped
            if leg.incoming.lost is not None and lost:
                found, dropped = found + leg.incoming.lost, dropped + lost
    assert dropped > 50
    assert 0.85 < found / dropped <= 1


def test_jitter_incoming_is_within_a_millisecond() -> None:
    misfits, compared = set(), 0
    for each, name in EVERY_LEG:
        truth_ms, incoming = each.flow(name, "up").jitter_mean_ms, each.legs[name].incoming
        if truth_ms is None or not incoming.packets:  # not measured for Opus
            continue
        compared += 1
        assert incoming.jitter_ms is not None
        if abs(incoming.jitter_ms - truth_ms) > 1:
            misfits.add(key(each, name))
    assert misfits == JITTER_IN.keys()
    assert compared > 180


def last_reports(each: Call, name: LegName, *, by_asterisk: bool) -> list[Block]:
    """The reports on one direction of a leg that Asterisk sent over HEP, as they came."""
    call_id = each.truth[f"callid_{name}"][:127]
    found = []
    for packet in rtcp_packets(each.session):
        if packet.correlation_id == call_id and (packet.src_ip == ASTERISK) == by_asterisk:
            found += [report.block for report in parse(packet.payload) if report.block]
    return found


# Two calls that share a Call-ID.
NOT_BY_CALL_ID = {76, 77}


def test_incoming_loss_is_what_asterisks_last_report_said_over_hep() -> None:
    compared = 0
    for each, name in EVERY_LEG:
        incoming = each.legs[name].incoming
        reports = last_reports(each, name, by_asterisk=True)
        if incoming.lost is None or not reports or each.number in NOT_BY_CALL_ID:
            continue
        compared += 1
        assert incoming.lost == reports[-1].lost, key(each, name)
        assert reports[-1].source_ssrc == each.legs[name].remote_ssrc
    assert compared > 180


def test_what_the_phone_said_is_what_came_over_hep() -> None:
    compared = 0
    for each, name in EVERY_LEG:
        outgoing = each.legs[name].outgoing
        reports = last_reports(each, name, by_asterisk=False)
        if outgoing.lost is None or not reports or each.number in NOT_BY_CALL_ID:
            continue
        compared += 1
        assert outgoing.lost == reports[-1].lost, key(each, name)
        units_ms = 48 if each.codec(name) == "opus" else 8
        jitters_ms = [block.jitter / units_ms for block in reports if block.jitter is not None]
        if "clamped" in each.legs[name].flags:
            assert max(jitters_ms) > 100_000
            continue
        if outgoing.jitter_last_ms is not None:
            assert outgoing.jitter_last_ms == pytest.approx(jitters_ms[-1], abs=0.001)
        if outgoing.jitter_max_ms is not None:
            assert outgoing.jitter_max_ms == pytest.approx(max(jitters_ms), abs=0.001)
    assert compared > 170


def test_the_mean_of_the_phones_jitter_leaves_empty_reports_out() -> None:
    errors_ms = []
    for each, name in EVERY_LEG:
        outgoing = each.legs[name].outgoing
        said = [block.jitter / 8 for block in last_reports(each, name, by_asterisk=False) if block.jitter]
        if outgoing.jitter_ms is None or not said or each.codec(name) == "opus":
            continue
        if each.number not in {
            39,
            *NOT_BY_CALL_ID,
        }:  # 39: one spike of a sequence restart among three reports
            errors_ms.append(abs(outgoing.jitter_ms - sum(said) / len(said)))
    errors_ms.sort()
    assert len(errors_ms) > 160
    assert errors_ms[int(0.95 * len(errors_ms))] < 1
    assert errors_ms[-1] < 1.5


def test_round_trips_are_within_five_milliseconds() -> None:
    misfits, compared = set(), 0
    for each, name in EVERY_LEG:
        rtt_ms = each.legs[name].rtt_ms
        if rtt_ms is None:
            continue
        compared += 1
        truth_ms = sum(each.flow(name, way).profile.get("delay", 0) for way in ("up", "down"))  # type: ignore[arg-type]
        if abs(rtt_ms - truth_ms) > 5:
            misfits.add(key(each, name))
    assert misfits == RTT.keys()
    assert compared > 170


class TestFlags:
    """Each flag where the truth has its cause, and nowhere else."""

    def legs_with(self, flag: str) -> set[tuple[str, int, str]]:
        return {key(each, name) for each, name in EVERY_LEG if flag in each.tied[name].flags}

    def test_no_rtcp(self) -> None:
        due, may = set(), set()
        for each, name in EVERY_LEG:
            up, leg = each.flow(name, "up"), each.legs[name]
            arrived = (up.rtcp_seen or 0) - (up.rtcp_dropped or 0)
            if (
                up.seen is None
                and up.rtcp_seen is None
                and each.truth["caller" if name == "a" else "callee"] == "bare"
            ):
                continue  # not measured
            if arrived == 0 and leg.outgoing.packets:
                due.add(key(each, name))
            if each.number in {42, 58, 73}:
                may.add(key(each, name))  # empty reports only: short call, direct media, early media
        found = self.legs_with("no_rtcp")
        assert due <= found
        assert found <= due | may

    def test_short(self) -> None:
        assert self.legs_with("short") == {
            key(each, name)
            for each, name in EVERY_LEG
            if float(each.row["billsec"]) < 5 and each.legs[name].incoming.packets
        }

    def test_one_way(self) -> None:
        assert self.legs_with("one_way") == {
            ("r22-main", number, name) for number in (29, 30, 78, 90, 91) for name in LEGS
        }

    def test_opus_clock(self) -> None:
        opus = {key(each, name) for each, name in EVERY_LEG if each.codec(name) == "opus"}
        assert len(opus) > 8
        assert self.legs_with("opus_clock") == opus

    def test_opus_clock_without_the_codecs_name(self) -> None:
        found = set()
        for each, name in EVERY_LEG:
            leg = parse_leg(columns(each.row, name), leg=name)
            assert leg is not None
            if "opus_clock" in leg.flags:
                found.add(key(each, name))
        opus = self.legs_with("opus_clock")
        assert found <= opus
        assert opus - found <= {(session, 186, name) for session in SESSIONS for name in LEGS}, (
            "lossy: no clean 100 ms"
        )

    @pytest.mark.parametrize(
        ("flag", "legs"),
        [
            ("seq_restart", {("r22-main", 39, "a"), ("r18", 39, "a")}),
            ("negative_lost", {("r22-main", 28, "a"), ("r18", 28, "a")}),
            ("rtt_skew", {("r22-main", 27, "a"), ("r18", 27, "a")}),
            ("clamped", {("r22-main", 81, "b")}),
        ],
    )
    def test_caused_on_purpose(self, flag: str, legs: set[tuple[str, int, str]]) -> None:
        assert self.legs_with(flag) == legs

    def test_passthrough(self) -> None:
        assert self.legs_with("passthrough") == {
            key(each, name)
            for each, name in EVERY_LEG
            if len(each.legs) == 2 and each.codec("a") is not None and each.codec("a") == each.codec("b")
        }

    def test_truncated_b(self) -> None:
        due = set()
        for each, name in EVERY_LEG:
            written = STRINGS if each.session != "r18" else STRINGS[:-1]  # no MES before MES
            if name == "b" and not all(each.row[f"rtcp_b_{column}"] for column in (*written, *SCALARS)):
                due.add(key(each, name))
        assert self.legs_with("truncated_b") == due
        assert len(self.legs_with("truncated_b")) > 10


def test_the_recipes_table_reads_like_the_full_one() -> None:
    """`cdr_extra` has no `all_mes`, and loss columns that are 0 where nobody wrote them."""
    same = ("channel", "dstchannel", "lastapp", "lastdata")
    full = {tuple(row[column] for column in same): row for row in rows("r22-main")}
    compared = 0
    for row in rows("r22-main", "cdr_extra"):
        for name in LEGS:
            leg = parse_leg(columns(row, name), leg=name)
            whole = parse_leg(columns(full[tuple(row[column] for column in same)], name), leg=name)
            if leg is None or whole is None:
                assert leg is whole
                continue
            compared += 1
            if "truncated_b" not in whole.flags:
                assert leg == whole
            assert (leg.incoming, leg.rtt_ms) == (whole.incoming, whole.rtt_ms)
    assert compared > 130


def test_scalar_columns_say_what_the_strings_say() -> None:
    compared = 0
    for each, name in EVERY_LEG:
        if each.session == "r18" or each.legs[name].flags & {"truncated_b", "short", "no_rtcp", "one_way"}:
            continue
        scalars = {column: each.row[f"rtcp_{name}_{column}"] for column in SCALARS}
        leg, whole = parse_leg(scalars, leg=name, codec=each.codec(name)), each.legs[name]
        assert leg is not None
        compared += 1
        assert leg.incoming.lost == whole.incoming.lost
        assert leg.outgoing.lost == whole.outgoing.lost
        assert leg.incoming.jitter_last_ms == pytest.approx(whole.incoming.jitter_last_ms, abs=1e-6)
    assert compared > 80


def test_a_call_whose_row_a_strict_database_refuses_is_in_the_full_table() -> None:
    assert call("r22-main", 27).legs["a"].flags == {"rtt_skew"}
    assert not [
        row
        for row in rows("r22-main", "cdr_extra")
        if row["sip_callid"] == call("r22-main", 27).row["sip_callid"]
    ]
