"""RTCP JSON of every agent, intervals between reports, and tshark's view of the same packets."""

from __future__ import annotations

import contextlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
from asterisk_recordings import ASTERISK, SESSIONS, calls, rtcp_packets, unpacked
from hypothesis import given
from hypothesis import strategies as st
from world.programs import MissingProgram, find

from pipeline.errors import RtcpError
from pipeline.protocols.rtcp import parse
from pipeline.protocols.rtcp_intervals import Intervals, ntp32, round_trip_us
from pipeline.protocols.rtcp_report import SR, Block, Media, Report, Sender, VoipMetrics

BLOCK = {
    "source_ssrc": 1232557275,
    "fraction_lost": 5,
    "packets_lost": 7,
    "highest_seq_no": 28513,
    "ia_jitter": 80,
    "lsr": 3833903418,
    "dlsr": 212763,
}
SENDER = {
    "ntp_timestamp_sec": 1795374114,
    "ntp_timestamp_usec": 230542,
    "rtp_timestamp": 3966629892,
    "packets": 11,
    "octets": 1760,
}


def read(value: Any) -> list[Report]:
    return parse(json.dumps(value).encode())


def one(value: Any) -> Report:
    (report,) = read(value)
    return report


def block_with(**fields: Any) -> Block:
    block = one({"ssrc": 1, "type": 201, "report_blocks": [BLOCK | fields]}).block
    assert block is not None
    return block


def kind_of_error(payload: bytes) -> str:
    with pytest.raises(RtcpError) as caught:
        parse(payload)
    return caught.value.kind


# -- shapes ------------------------------------------------------------------------------------------------


def test_asterisk_writes_numbers_as_strings_and_unix_time() -> None:
    sender = {name: str(value) if name.startswith("ntp") else value for name, value in SENDER.items()}
    report = one(
        {
            "ssrc": 4004362914,  # the seconds of the NTP time, which follow the SSRC in the packet
            "type": 200,
            "report_count": 1,
            "sender_information": sender,
            "report_blocks": [BLOCK | {"lsr": "3833903418"}],
        }
    )
    assert report.sender is not None
    assert report.sender.ntp_us == 1795374114_230542
    assert (report.sender.packets, report.sender.octets) == (11, 1760)
    assert report.block == Block(1232557275, 5, 7, 28513, 80, 3833903418, 212763)
    assert (report.packet_type, report.ssrc) == (200, None)


def test_asterisks_empty_rr() -> None:
    empty = dict.fromkeys(BLOCK, 0) | {"lsr": "0"}
    report = {"ssrc": 0, "type": 201, "report_count": 1, "sender_information": None, "report_blocks": [empty]}
    assert one(report) == Report(201)


def test_asterisk_takes_the_source_of_an_rr_for_its_reporter() -> None:
    assert one({"ssrc": 1232557275, "type": 201, "report_blocks": [BLOCK]}).ssrc is None
    sr = {"ssrc": 1232557275, "type": 200, "sender_information": SENDER, "report_blocks": [BLOCK]}
    assert one(sr).ssrc == 1232557275, "two sipps of one SSRC"


def test_an_sr_without_blocks() -> None:
    report = one(
        {"sender_information": SENDER, "ssrc": 5, "type": 200, "report_count": 0, "report_blocks": []}
    )
    assert (report.packet_type, report.ssrc, report.block) == (200, 5, None)
    assert report.sender is not None


def test_ntp_time_in_two_words() -> None:
    words = {"ntp_timestamp_sec": 1795374114 + 2208988800, "ntp_timestamp_usec": 0x80000000}
    report = one({"sender_information": SENDER | words, "ssrc": 5, "type": 200})
    assert report.sender is not None
    assert report.sender.ntp_us == 1795374114_500000
    assert report.sender.lsr == (1795374114 + 2208988800 & 0xFFFF) << 16 | 0x8000


def test_heplify_writes_zeros_for_what_is_not_there_and_the_type_of_the_last_part() -> None:
    zeros = {"type": 0, "id": 0, "fraction_lost": 0, "round_trip_delay": 0}
    report = one(
        {
            "sender_information": dict.fromkeys(SENDER, 0),
            "ssrc": 99,
            "type": 202,
            "report_count": 1,
            "report_blocks": [BLOCK],
            "report_blocks_xr": zeros,
            "sdes_ssrc": 99,
        }
    )
    assert (report.packet_type, report.ssrc, report.sender, report.xr) == (201, 99, None, None)
    assert report.block is not None


def test_heplifys_sdes_alone_is_empty_and_no_error() -> None:
    payload = {"sender_information": dict.fromkeys(SENDER, 0), "ssrc": 0, "type": 202, "report_count": 1}
    assert one(payload | {"report_blocks": None, "sdes_ssrc": 99}) == Report(202)


def test_captagents_compound_repeats_its_keys() -> None:
    text = (
        '{ "sender_information":{"ntp_timestamp_sec":1,"ntp_timestamp_usec":2,"octets":3,"rtp_timestamp":4, '
        '"packets":5},'
        '"ssrc":10,"type":200, "report_blocks":[{"source_ssrc":20,"highest_seq_no":1,"fraction_lost":0,"ia_jitter":1,\n'
        '"packets_lost":-2,"lsr":0,"dlsr":0}],"report_count":1,'
        '"ssrc":11,"type":201, "report_blocks":[{"source_ssrc":21,"highest_seq_no":1,"fraction_lost":0,"ia_jitter":1,\n'
        '"packets_lost":3,"lsr":0,"dlsr":0}],"report_count":1,'
        '"sdes_ssrc":10,"sdes_chunk_ssrc":10,"sdes_information": [ {"type":1,"text":"a\tb"}],"sdes_report_count":1}'
    )
    first, second = parse(text.encode())
    assert (first.ssrc, first.packet_type, first.block and first.block.lost) == (10, 200, -2)
    assert (second.ssrc, second.packet_type, second.block and second.block.lost) == (11, 201, 3)
    assert first.sender is not None and second.sender is None


def test_sender_information_behind_blocks_begins_a_new_packet() -> None:
    text = json.dumps({"ssrc": 1, "report_blocks": [BLOCK], "sender_information": SENDER})
    first, second = parse(text.encode())
    assert (first.block is not None, first.sender) == (True, None)
    assert (second.block, second.sender is not None) == (None, True)


def test_rtpengines_several_blocks() -> None:
    blocks = [BLOCK, BLOCK | {"source_ssrc": 2, "packets_lost": 4294967295}]
    reports = read(
        {"sender_information": SENDER, "ssrc": 7, "type": 200, "report_count": 2, "report_blocks": blocks}
    )
    assert [report.ssrc for report in reports] == [7, 7]
    assert [report.block and report.block.lost for report in reports] == [7, -1]
    assert [report.sender is not None for report in reports] == [True, False], "the sender counts once"


@pytest.mark.parametrize(
    ("field", "written", "expected"),
    [
        ("packets_lost", 16777215, -1),  # RFC 3550: signed 24 bits
        ("packets_lost", 16777211, -5),
        ("packets_lost", 4294967295, -1),  # rtpengine's %u
        ("packets_lost", -3, -3),  # captagent's %d
        ("packets_lost", "7", 7),
        ("packets_lost", 0x800000, -0x800000),
        ("packets_lost", 0x1000000, None),
        ("packets_lost", None, None),
        ("fraction_lost", 256, None),
        ("fraction_lost", "255", 255),
        ("fraction_lost", 12.0, 12),
        ("fraction_lost", 12.5, None),
        ("fraction_lost", True, None),
        ("highest_seq_no", -1, 4294967295),
        ("ia_jitter", [1], None),
        ("ia_jitter", " 80 ", 80),
        ("lsr", "0", None),
        ("lsr", "x", None),
        ("dlsr", "²", None),
        ("dlsr", "9" * 30, None),
        ("dlsr", 10**30, None),
        ("source_ssrc", -1000, 4294966296),
    ],
)
def test_values(field: str, written: Any, expected: int | None) -> None:
    name = {"packets_lost": "lost", "highest_seq_no": "highest_seq", "ia_jitter": "jitter"}.get(field, field)
    assert getattr(block_with(**{field: written}), name) == expected


def test_the_report_block_of_rfc_3550() -> None:
    """`496e93bd 00ffffff 00005947 00000000 e48fb93a 00033f1b`"""
    block = block_with(
        source_ssrc=0x496E93BD, fraction_lost=0, packets_lost=0xFFFFFF, highest_seq_no=0x5947, ia_jitter=0,
        lsr=0xE48FB93A, dlsr=0x33F1B,
    )  # fmt: skip
    assert block == Block(0x496E93BD, 0, -1, 22855, 0, 0xE48FB93A, 212763)
    assert block_with(fraction_lost=5).fraction_lost_pct == 1.953125


def test_captagents_xr() -> None:
    metrics = {
        "identifier": 77, "loss_rate": 64, "discard_rate": 0, "burst_rate": 128, "gap_rate": 1, "burst_duration": 120,
        "gap_duration": 3000, "round_trip_delay": 80, "end_sys_delay": 60, "signal_lev": 127, "noise_lev": 127,
        "RERL": 127, "Gmin": 16, "R_fact": 88, "ext_R_fact": 127, "MOS_LQ": 41, "MOS_CQ": 127,
        "RX_conf": [{"PLC": 3, "JB_adapt": 3, "JB_rate": 1}], "JB_nom": 40, "JB_max": 80, "JB_abs_max": 200,
    }  # fmt: skip
    report = one({"Extended_report_information": metrics})
    assert report.packet_type == 207
    assert report.xr == VoipMetrics(77, 25, 0, 50, 100 / 256, 120, 3000, 80, 60, 88, 4.1, None, 40, 80)


def test_heplifys_xr() -> None:
    flat = {"type": 7, "id": 77, "fraction_lost": 64, "round_trip_delay": 80, "burst_density": 128}
    report = one({"ssrc": 5, "type": 207, "report_blocks": None, "report_blocks_xr": flat})
    assert (report.packet_type, report.ssrc) == (207, 5)
    assert report.xr == VoipMetrics(77, 25, burst_density_pct=50, round_trip_ms=80)


def test_heplify_2_takes_mos_lq_for_mos_cq() -> None:
    """RFC 3611 section 4.7 has MOS-LQ first; `parseVoIPMetricsBlockFull` reads that byte as CQ."""
    metrics = {"ssrc": 77, "loss_rate": 0, "r_factor": 127, "mos_cq": 4.2, "mos_lq": 3.9}
    xr = one({"ssrc": 5, "type": 207, "voip_metrics": metrics}).xr
    assert xr is not None
    assert (xr.mos_lq, xr.mos_cq, xr.r_factor) == (4.2, 3.9, None)


def test_an_rtp_agents_full_report() -> None:
    report = one(
        {
            "CORRELATION_ID": "a@b", "RTP_SIP_CALL_ID": "a@b", "DELTA": 19.983, "JITTER": 0.017, "REPORT_TS": 1.5,
            "TOTAL_PK": 1511, "EXPECTED_PK": 1512, "PACKET_LOSS": 1, "MAX_JITTER": 0.210, "MEAN_JITTER": 0.005,
            "MIN_MOS": 4.032, "MEAN_MOS": 4.032, "MOS": 4.032, "RFACTOR": 80.2, "MEAN_RFACTOR": 80.2,
            "SRC_IP": "192.0.2.1", "SRC_PORT": 26872, "DST_IP": "192.0.2.2", "DST_PORT": 51354, "CODEC_PT": 9,
            "CLOCK": 8000, "CODEC_NAME": "g722", "DIR": 0, "TYPE": "PERIODIC",
        }
    )  # fmt: skip
    assert report.packet_type == 0
    assert report.media == Media(
        "a@b", ("192.0.2.1", 26872), ("192.0.2.2", 51354), 1511, 1512, 1, 0.005, 0.210, 80.2, 4.032, "g722", 9, 8000,
        "PERIODIC",
    )  # fmt: skip


def test_an_rtp_agents_short_report() -> None:
    media = one({"CORRELATION_ID": "a", "MOS": 4.409, "RFACTOR": 93.2, "DIR": 0, "TYPE": "PERIODIC"}).media
    assert media == Media("a", mos=4.409, r_factor=93.2, report_type="PERIODIC")


# -- errors and bounds -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", "rtcp_json"),
        (b"{", "rtcp_json"),
        (b"\x81\xc9\x00\x07", "rtcp_json"),  # RTCP itself, not JSON
        (b'{"ssrc":1,}', "rtcp_json"),
        (b"[1]", "rtcp_shape"),
        (b"null", "rtcp_shape"),
        (b"{}", "rtcp_shape"),
        (b'{"hello":1}', "rtcp_shape"),
        (b"[" * 100 + b"]" * 100, "rtcp_shape"),
        (b"[" * 1000, "rtcp_size"),
        (b'{"a":' * 300, "rtcp_size"),
        (b" " * 65536, "rtcp_size"),
    ],
)
def test_errors(payload: bytes, kind: str) -> None:
    assert kind_of_error(payload) == kind


def test_a_trailing_nul_is_no_error() -> None:
    assert parse(json.dumps({"report_blocks": []}).encode() + b"\0\n") == [Report(201)]


def test_a_number_of_sixty_thousand_digits_is_none() -> None:
    payload = b'{"report_blocks":[{"source_ssrc":1,"ia_jitter":' + b"9" * 60_000 + b"}]}"
    assert parse(payload)[0].block == Block(1)


names = st.sampled_from(
    [
        *BLOCK, *SENDER, "report_blocks", "sender_information", "ssrc", "type", "report_count", "report_blocks_xr",
        "voip_metrics", "Extended_report_information", "MOS", "EXPECTED_PK", "SRC_IP", "SRC_PORT", "mos_cq", "CLOCK",
    ]
)  # fmt: skip
leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["nan", "-1"])
)
trees = st.recursive(
    leaves, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(names, inner), max_leaves=20
)


@given(st.binary(max_size=200) | trees.map(lambda tree: json.dumps(tree).encode()))
def test_any_bytes_give_reports_or_an_rtcp_error(payload: bytes) -> None:
    try:
        reports = parse(payload)
    except RtcpError:
        return
    assert reports
    for report in reports:
        block = report.block
        if block is not None:
            assert 0 < block.source_ssrc <= 0xFFFFFFFF
            assert block.lost is None or -0x800000 <= block.lost < 0x800000


@given(st.dictionaries(names, trees, min_size=1), st.dictionaries(names, trees, min_size=1))
def test_any_compound(first: dict[str, Any], second: dict[str, Any]) -> None:
    payload = json.dumps(first)[:-1] + "," + json.dumps(second)[1:]
    with contextlib.suppress(RtcpError):
        assert parse(payload.encode())


# -- intervals ---------------------------------------------------------------------------------------------

SECOND_US = 1_000_000


def said(seq: int, lost: int | None = 0, **fields: Any) -> Block:
    return Block(1, **{"fraction_lost": 0, "lost": lost, "highest_seq": seq, "jitter": 80} | fields)


def test_the_round_trip_of_rfc_3550_figure_2() -> None:
    assert round_trip_us(0xB7108000, 0xB7052000, 0x00054000) == 6_125_000


def test_a_round_trip_that_came_out_negative() -> None:
    assert round_trip_us(0x00010000, 0x00000000, 0x00020000) is None


def test_ntp32_wraps_like_the_clock() -> None:
    assert ntp32(-2_208_988_800 * SECOND_US) == 0
    assert ntp32(1795374114_500000) == (1795374114 + 2208988800 & 0xFFFF) << 16 | 0x8000


def test_deltas() -> None:
    stream = Intervals(8000)
    first = stream.received(said(1000, 3, fraction_lost=64), 0)
    assert first is not None
    assert (first.expected, first.lost, first.loss_pct, first.jitter_ms) == (None, 3, 25, 10)
    second = stream.received(said(1250, 8), 5 * SECOND_US)
    assert second is not None
    assert (second.expected, second.lost, second.loss_pct, second.restarted) == (250, 5, 2, False)
    third = stream.received(said(1500, 6), 10 * SECOND_US)  # two of them came after all
    assert third is not None
    assert (third.expected, third.lost, third.loss_pct) == (250, -2, 0)
    silent = stream.received(said(1500, 6, dlsr=5), 15 * SECOND_US)
    assert silent is not None
    assert (silent.expected, silent.lost, silent.loss_pct) == (0, 0, None)


def test_copies_and_late_reports_say_nothing_new() -> None:
    stream = Intervals(8000)
    stream.received(said(1000, 0), 0)
    stream.received(said(1500, 5), 10 * SECOND_US)
    assert stream.received(said(1250, 2), 5 * SECOND_US) is None
    assert stream.received(said(1500, 5), 10 * SECOND_US + 20) is None
    after = stream.received(said(1750, 6), 15 * SECOND_US)
    assert after is not None
    assert (after.expected, after.lost) == (250, 1)


@pytest.mark.parametrize(("before", "now"), [(0xFFFFFF80, 0x7A), (0xFF80, 0x7A), (0x1FF80, 0x2007A)])
def test_sequence_numbers_wrap(before: int, now: int) -> None:
    stream = Intervals()
    stream.received(said(before), 0)
    interval = stream.received(said(now), 5 * SECOND_US)
    assert interval is not None
    assert (interval.expected, interval.restarted) == (250, False)


@pytest.mark.parametrize(
    ("seq", "lost"),
    [
        (50, 0),  # back to the start
        (40_000, 0),  # forward faster than packets come
        (1250, 65311),  # Asterisk's view of a step back
        (1250, -20_000),  # the receiver began anew
    ],
)
def test_restart(seq: int, lost: int) -> None:
    stream = Intervals()
    stream.received(said(1000, 100), 0)
    interval = stream.received(said(seq, lost, fraction_lost=128), 5 * SECOND_US)
    assert interval is not None
    assert (interval.restarted, interval.expected, interval.lost, interval.loss_pct) == (True, None, None, 50)
    after = stream.received(said(seq + 250, lost + 10), 10 * SECOND_US)
    assert after is not None
    assert (after.restarted, after.expected, after.lost, after.loss_pct) == (False, 250, 10, 4)


def test_jitter_needs_a_clock() -> None:
    assert [
        interval and interval.jitter_ms
        for interval in (Intervals(rate).received(said(1), 0) for rate in (None, 8000, 48000))
    ] == [None, 10, 80 / 48]
    wrapped = Intervals(8000).received(said(1, jitter=4294962322), 0)
    assert wrapped is not None
    assert wrapped.jitter_ms is None


def test_round_trip_by_the_sr_that_was_seen() -> None:
    stream = Intervals()
    sender = Sender(lsr=0x12345678)
    for late in range(20):  # only some are remembered
        stream.sent(Sender(lsr=late << 16), late)
    stream.sent(sender, 10 * SECOND_US)
    interval = stream.received(said(1, lsr=0x12345678, dlsr=2 << 16), 12 * SECOND_US + 35_000)
    assert interval is not None
    assert interval.rtt_ms == 35
    early = stream.received(said(2, lsr=0x12345678, dlsr=4 << 16), 13 * SECOND_US)
    assert early is not None
    assert early.rtt_ms is None, "answered before it was sent: the receiver's delay is wrong"


def test_round_trip_by_the_senders_own_clock() -> None:
    now_us = 1795374114_500000
    block = said(1, lsr=ntp32(now_us - 3 * SECOND_US), dlsr=2 << 16)
    assert Intervals().received(block, now_us).rtt_ms is None  # type: ignore[union-attr]
    assert Intervals(own_clock=True).received(block, now_us).rtt_ms == pytest.approx(1000, abs=0.1)  # type: ignore[union-attr]


@given(
    st.lists(
        st.tuples(
            st.integers(0, 0xFFFFFFFF) | st.none(),
            st.integers(-0x800000, 0x7FFFFF) | st.none(),
            st.integers(0, 10**9),
            st.integers(0, 0xFFFFFFFF),
        ),
        max_size=8,
    )
)
def test_any_reports_make_sane_intervals(reports: list[tuple[int | None, int | None, int, int]]) -> None:
    stream = Intervals(8000, own_clock=True)
    for seq, lost, at_us, number in reports:
        stream.sent(Sender(lsr=number), at_us)
        interval = stream.received(Block(1, 3, lost, seq, number, number, number // 2), at_us)
        if interval is None:
            continue
        assert interval.loss_pct is None or 0 <= interval.loss_pct <= 100
        assert interval.expected is None or interval.expected >= 0
        assert interval.rtt_ms is None or 0 <= interval.rtt_ms <= 60_000
        assert interval.jitter_ms is None or interval.jitter_ms <= 5000


# -- recordings --------------------------------------------------------------------------------------------

WIRE = (
    "ip.src udp.srcport ip.dst udp.dstport rtcp.pt rtcp.rc rtcp.senderssrc "
    "rtcp.ssrc.identifier rtcp.ssrc.fraction rtcp.ssrc.cum_nr rtcp.ssrc.ext_high rtcp.ssrc.jitter rtcp.ssrc.lsr "
    "rtcp.ssrc.dlsr rtcp.timestamp.rtp rtcp.sender.packetcount rtcp.sender.octetcount "
    "rtcp.timestamp.ntp.msw rtcp.timestamp.ntp.lsw"
).split()


def on_the_wire(pcap: Path) -> dict[tuple[Any, ...], int | None]:
    """What tshark reads of each RTCP packet, to the LSR that its NTP time makes."""
    try:
        command = [
            find("tshark"),
            "-n",
            "-r",
            str(pcap),
            "--enable-heuristic",
            "rtcp_udp",
            "-Y",
            "rtcp",
            "-T",
            "fields",
        ]
    except MissingProgram as missing:
        pytest.fail(str(missing), pytrace=False)
    command += ["-E", "occurrence=f", *(part for name in WIRE for part in ("-e", name))]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    packets = {}
    for line in run.stdout.splitlines():
        src, src_port, dst, dst_port, *rest = line.split("\t")
        numbers = [int(field, 0) if field else None for field in rest]
        kind, count, ssrc, *block = numbers[:10]
        msw, lsw = numbers[13:]
        # Asterisk misreads the SSRC of who reported to it.
        reporter = ssrc if src == ASTERISK else None
        has_block = count and block[0]
        sender = tuple(numbers[10:13]) if kind == SR else None
        lsr = None if msw is None or lsw is None else (msw & 0xFFFF) << 16 | lsw >> 16
        where = (src, int(src_port), dst, int(dst_port))
        packets[where, kind, reporter, tuple(block) if has_block else None, sender] = lsr
    return packets


@pytest.mark.parametrize("session", SESSIONS)
def test_every_report_over_hep_is_one_that_tshark_sees_on_the_wire(session: str, tmp_path: Path) -> None:
    pcap = tmp_path / "sip_rtcp.pcap"
    pcap.write_bytes(unpacked(session, "sip_rtcp.pcap"))
    wire = on_the_wire(pcap)
    for packet in rtcp_packets(session):
        (report,) = parse(packet.payload)
        block, sender = report.block, report.sender
        seen = (
            (packet.src_ip, packet.src_port, packet.dst_ip, packet.dst_port),
            report.packet_type,
            report.ssrc,
            block
            and (
                block.source_ssrc, block.fraction_lost, block.lost, block.highest_seq, block.jitter, block.lsr or 0,
                block.dlsr,
            ),
            sender and (sender.rtp_timestamp, sender.packets, sender.octets),
        )  # fmt: skip
        assert seen in wire
        if sender is not None:
            assert abs((wire[seen] or 0) - (sender.lsr or 0)) <= 1, (
                "microseconds do not give it back to the bit"
            )


@pytest.mark.parametrize("session", SESSIONS)
def test_intervals_add_up_to_the_cdr(session: str) -> None:
    """Loss of every leg, both directions, from the deltas; and the round trips, by HEP's times, not before
    Asterisk's own and hardly later."""
    compared, late_ms = 0, list[float]()
    for each in calls(session):
        if each.number in {76, 77}:  # one Call-ID
            continue
        for name, leg in each.legs.items():
            call_id = each.truth[f"callid_{name}"][:127]
            incoming, outgoing = Intervals(8000), Intervals(8000, own_clock=True)
            lost = {True: 0, False: 0}
            rtts_ms: list[float] = []
            unsure = set()
            for packet in rtcp_packets(session):
                if packet.correlation_id != call_id:
                    continue
                by_asterisk = packet.src_ip == ASTERISK
                at_us = packet.ts_us or 0
                for report in parse(packet.payload):
                    if report.block is None:
                        continue
                    interval = (incoming if by_asterisk else outgoing).received(report.block, at_us)
                    if interval is None:
                        continue
                    if interval.lost is None or interval.restarted:
                        unsure.add(by_asterisk)
                    lost[by_asterisk] += interval.lost or 0
                    if not by_asterisk and interval.rtt_ms is not None:
                        rtts_ms.append(interval.rtt_ms)
            for by_asterisk, direction in ((True, leg.incoming), (False, leg.outgoing)):
                if direction.lost is not None and by_asterisk not in unsure:
                    compared += 1
                    assert lost[by_asterisk] == direction.lost, (each.number, name, by_asterisk)
            if leg.rtt_min_ms is not None and leg.rtt_mean_ms is not None and rtts_ms:
                late_ms.append(sum(rtts_ms) / len(rtts_ms) - leg.rtt_mean_ms)
                assert 0 <= min(rtts_ms) - leg.rtt_min_ms < 2, (each.number, name)
    assert compared > 1.5 * len(calls(session))
    late_ms.sort()
    assert len(late_ms) > len(calls(session))
    assert late_ms[0] >= 0
    assert late_ms[int(0.95 * len(late_ms))] < 2


def test_asterisks_view_of_a_step_back_is_a_restart_and_no_loss() -> None:
    (each,) = (each for each in calls("r22-main") if each.number == 39)
    stream = Intervals(8000)
    intervals = [
        interval
        for packet in rtcp_packets("r22-main")
        if packet.correlation_id == each.truth["callid_a"] and packet.src_ip == ASTERISK
        for report in parse(packet.payload)
        if report.block and (interval := stream.received(report.block, packet.ts_us or 0))
    ]
    assert [interval.restarted for interval in intervals].count(True) == 1
    assert all(abs(interval.lost or 0) < 20 for interval in intervals)
