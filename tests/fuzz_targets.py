"""What must hold for any bytes: one check per parser of strangers' words, for whoever brings the bytes.

`tests/test_fuzz.py` brings a corpus and seeded damage, `python -m benchmarks.fuzz TARGET` lets atheris find them.
A check returns when all is well, and raises (an AssertionError, or what the parser should never have raised).
"""

# ruff: noqa: PT017  what an error says is checked beside what a result says

from __future__ import annotations

import io
import ipaddress
import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from functools import cache
from typing import Final, NamedTuple

import duckdb

from pipeline.errors import HepError, RtcpError, SearchError, SipError
from pipeline.ingest.cdr import CdrError, Raw
from pipeline.ingest.cdr.records import Record, RecordReader, shape_of
from pipeline.ingest.cdr.rows import BadRowError, RowMaker
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.protocols import hep, rtcp, sip
from pipeline.protocols.hep import HepPacket, HepStream
from pipeline.protocols.hep.v3 import MAX_CHUNKS, decode_chunks, decode_kamailio
from pipeline.protocols.redact import Redactor
from pipeline.protocols.rtcp_intervals import Intervals
from pipeline.protocols.rtcp_report import RR, SR, XR
from pipeline.protocols.sip import SipMessage
from pipeline.protocols.uri import parse_contacts, path_received, push_provider, via_source
from pipeline.store.call_search import compile_search
from pipeline.store.parquet import conform
from pipeline.store.schema import tables

NOW_US: Final = 1_800_000_000_000_000
CAP: Final = hep.MAX_INFLATED_BYTES


def assert_storable(text: str | None) -> None:
    """Valid Unicode without line ends or NUL, and something where it is not None."""
    assert text is None or text
    if text:
        text.encode()
        assert not {"\r", "\n", "\0"} & set(text), text


# -- HEP -------------------------------------------------------------------------------------------------


def check_hep(data: bytes) -> None:
    """Nothing but HepError; both ways of reading version 3 agree; what is read, encoded, reads the same."""
    short_cut = decode_kamailio(data)
    if short_cut is not None:
        assert decode_chunks(data, CAP) == [short_cut]
    try:
        packets = hep.decode(data, now_us=NOW_US)
    except HepError as error:
        assert error.kind.startswith("hep_")
        assert len(str(error)) < 200
        return
    assert packets
    assert sum(len(packet.payload) for packet in packets) <= max(len(data), CAP)
    for packet in packets:
        _check_packet(packet)


def _check_packet(packet: HepPacket) -> None:
    for address in (packet.src_ip, packet.dst_ip):
        ipaddress.ip_address(address)
    assert packet.ts_us is None or 0 < packet.ts_us < 2**32 * 1_000_000
    assert packet.ts_us is not None or packet.version == 1 or "hep_time" in packet.defects
    assert sum(len(chunk.value) for chunk in packet.extra) <= 1 << 16
    if len(packet.extra) > MAX_CHUNKS - 16:
        return  # with the chunks that encoding adds there would be too many
    try:
        encoded = hep.encode(packet, packet.version)
    except HepError as error:  # inflated, or with addresses of two families
        assert error.kind == "hep_encode"
        assert len(packet.payload) > 60_000 or packet.version < 3 or packet.extra or packet.correlation_id
        return
    again = hep.decode(encoded, now_us=NOW_US)
    assert [one._replace(defects=()) for one in again] == [packet._replace(defects=())]


def check_stream(data: bytes) -> None:
    """The cuts change nothing, no byte is unaccounted for, and no more than one frame is held.

    The first byte tells how many of the next ones are cuts (their distance), the second the longest frame.
    """
    count, longest = (data[0] % 32, 6 + data[1] * 257) if len(data) > 1 else (0, 65535)
    cuts, body = data[2 : 2 + count], data[2 + count :]
    whole = HepStream(longest)
    expected = whole.feed(body)
    for pieces in (
        _pieces(body, cuts),
        [body[at : at + 1] for at in range(len(body))] if len(body) < 512 else [],
    ):
        if not pieces:
            continue
        stream, frames = HepStream(longest), []
        for piece in pieces:
            frames += stream.feed(piece)
            assert stream.pending_bytes <= max(longest, 6)
        assert frames == expected
        assert (stream.skipped_bytes, stream.resyncs) == (whole.skipped_bytes, whole.resyncs)
    assert sum(map(len, expected)) + whole.skipped_bytes + whole.pending_bytes == len(body)
    for frame in expected:
        assert frame[:4] in hep.HEP3_MAGICS
        assert len(frame) == int.from_bytes(frame[4:6]) <= longest


def _pieces(body: bytes, cuts: bytes) -> list[bytes]:
    found, at = [], 0
    for cut in cuts:
        found.append(body[at : at + cut])
        at += cut
    return [*found, body[at:]]


# -- SIP -------------------------------------------------------------------------------------------------

_TEXTS: Final = (
    "method reason ruri ruri_user ruri_host call_id cseq_method from_user from_host from_display from_tag to_user "
    "to_host to_display to_tag via_branch via_top via_last via_transport contact user_agent reason_header x_cid path "
    "content_type sdp_ip sdp_codecs"
).split()
_REDACTOR: Final = Redactor(keys=[b"s3cret"])


def check_sip(data: bytes) -> None:
    """Nothing but SipError; the messages are the payload in order; columns are as documented; redaction keeps
    every length and place, is done once and for all, and what detectors read of a message never raises."""
    for datagram in (None, True, False):
        try:
            messages = sip.parse(data, datagram=datagram)
        except SipError as error:
            assert error.kind in {"sip_empty", "sip_keepalive", "sip_start_line"}
            break
        assert 1 <= len(messages) <= (1 if datagram else sip.MAX_MESSAGES)
        at = 0
        for message in messages:
            at = data.index(message.payload, at) + len(message.payload)
            _check_message(message)
    starred = _REDACTOR.text(data)
    assert len(starred) == len(data)
    assert _REDACTOR.text(starred) == starred


def _check_message(message: SipMessage) -> None:
    for name in _TEXTS:
        assert_storable(getattr(message, name))
    assert message.is_request == (message.ruri is not None)
    assert message.status is None or 100 <= message.status <= 699
    for number in (message.cseq, message.expires):
        assert number is None or 0 <= number < 2**32
    assert message.sdp_port is None or 0 <= message.sdp_port <= 65535
    assert message.via_count >= (message.via_top is not None)
    assert message.body in message.payload
    assert len(set(message.defects)) == len(message.defects)
    (again,) = sip.parse(message.payload, datagram=True)
    for field in fields(SipMessage):
        if field.name != "defects":
            assert getattr(again, field.name) == getattr(message, field.name), field.name
    stored = _REDACTOR.message(message)
    assert len(stored) == len(message.payload)
    assert all(kept in (was, 0x2A) for was, kept in zip(message.payload, stored, strict=True))
    assert _REDACTOR.message(replace(message, payload=stored)) == stored
    for contact in parse_contacts(message.contact):
        assert contact.expires is None or 0 <= contact.expires < 10**10
        assert contact.q is None or 0 <= contact.q <= 1
        assert contact.instance != "" and push_provider(contact) != ""
    for source in (via_source(message.via_top), via_source(message.via_last), path_received(message.path)):
        assert source is None or (source[0] and source[1] >= 0 and source[2] == source[2].lower())


# -- RTCP ------------------------------------------------------------------------------------------------


def check_rtcp(data: bytes) -> None:
    """Nothing but RtcpError; a bounded number of reports, whose numbers are finite and whose texts can be stored;
    intervals made of them are sane."""
    try:
        reports = rtcp.parse(data)
    except RtcpError as error:
        assert error.kind in {"rtcp_size", "rtcp_json", "rtcp_shape"}
        str(error).encode()
        return
    assert 1 <= len(reports) <= len(data)
    stream = Intervals(8000, own_clock=True)
    at_us = NOW_US
    for report in reports:
        json.dumps(asdict(report), allow_nan=False, ensure_ascii=False).encode()
        assert report.ssrc is None or 0 < report.ssrc < 2**32
        assert report.packet_type in {0, SR, RR, XR} or SR <= report.packet_type <= XR
        if report.sender is not None:
            stream.sent(report.sender, at_us)
        if report.block is not None:
            assert 0 < report.block.source_ssrc < 2**32
            assert report.block.lost is None or -0x800000 <= report.block.lost < 0x800000
            interval = stream.received(report.block, at_us := at_us + 1_000_000)
            if interval is not None:
                assert interval.loss_pct is None or 0 <= interval.loss_pct <= 100
                assert interval.expected is None or interval.expected >= 0
                assert interval.rtt_ms is None or 0 <= interval.rtt_ms <= 60_000
        if report.media is not None and report.media.call_id is not None:
            assert len(report.media.call_id) <= 256


# -- CDR files -------------------------------------------------------------------------------------------

_PLAIN: Final = (
    "start,src,dst,uniqueid,channel,duration,billsec,sequence,answer,sip_callid,rtcp_a_all,extra_one"
)
SHAPES: Final[tuple[dict[str, str], ...]] = (
    {"preset": "cdr_csv"},
    {"preset": "cdr_extra"},
    {"preset": "cdr_adaptive"},
    {"preset": "freepbx"},
    {"preset": "leg_qos"},
    {"preset": "cdr_custom", "columns": _PLAIN, "zone": "Europe/Kyiv"},
    {"preset": "cdr_custom", "columns": _PLAIN, "format": "tsv"},
    {"preset": "cdr_custom", "columns": _PLAIN, "format": "outfile"},
    {"preset": "cdr_custom", "format": "json"},
)
"""Of every shape of file; the first byte of what is tried chooses."""


@cache
def _source(number: int) -> CdrSourceSettings:
    return CdrSourceSettings.model_validate({"source": "tried.csv", **SHAPES[number]})


def check_cdr(data: bytes) -> None:
    """Every byte belongs to one record; each record is a blank line, a row that the store takes, or a refusal in one
    line. A file that is read while it grows gives the same as the whole one."""
    if not data:
        return
    settings, body = _source(data[0] % len(SHAPES)), data[1:]
    try:
        shape = shape_of(body, settings)
    except CdrError as error:
        assert "\n" not in str(error)
        return
    assert 0 <= shape.start <= len(body)

    def records(until: int, start: int, line: int, to_the_end: bool) -> list[Record]:
        file = io.BytesIO(body[:until])
        file.seek(start)
        reader = RecordReader(shape, settings, to_the_end=to_the_end)
        return list(reader.records(file, line))

    whole = records(len(body), shape.start, shape.start_line, True)
    read = shape.start + sum(len(record.data) for record in whole)
    assert read <= len(body)
    assert b"\n" not in body[read:]  # only a last line that cannot be read is left
    maker, rows = RowMaker(settings), []
    for record in whole:
        if record.found is None:
            assert not record.data.strip()
        elif isinstance(record.found, Raw):
            try:
                rows.append(maker.read(record.found).row)
            except BadRowError as error:
                assert "\n" not in str(error) and len(str(error)) < 4000
        else:
            assert record.found.startswith("line ") and len(record.found) < 4000
    if rows:
        assert conform(maker.target, rows, "n1").num_rows == len(rows)
        json.dumps([row["extra"] for row in rows], allow_nan=False).encode()

    half = len(body) // 2
    grown = records(half, shape.start, shape.start_line, False) if half > shape.start else []
    offset = shape.start + sum(len(record.data) for record in grown)
    line = shape.start_line + sum(record.data.count(b"\n") for record in grown)
    assert [*grown, *records(len(body), offset, line, True)] == whole


# -- search ----------------------------------------------------------------------------------------------


@cache
def _calls() -> duckdb.DuckDBPyConnection:
    """The tables that a condition is about, with one call."""
    connection = duckdb.connect()
    known = tables()
    for name, of, more in (
        ("c", "call_state", ", 'busy' AS state"),
        ("said", "sip", ", method AS request"),
        ("leg", "leg_quality_state", ""),
        ("peer", "leg_quality_state", ""),
        ("cdr", "cdr_call_state", ""),
        ("worst", "leg_quality_state", ", 0.0 AS mos, 0.0 AS sure_r_factor, false AS one_way"),
        ("ghosts", "finding", ""),
    ):
        columns = ", ".join(f"{_value(kind)}::{kind} AS {column}" for column, kind in known[of].items())
        connection.execute(f"CREATE TABLE {name} AS SELECT {columns}{more}")
    return connection


def _value(kind: str) -> str:
    return f"'{'a1:.' * 16}'" if kind == "VARCHAR" else "NULL"


def check_search(data: bytes) -> None:
    """A search is refused with a mark inside its text, or becomes a condition that runs, with every value bound."""
    text = data.decode("utf-8", "surrogateescape")
    try:
        condition = compile_search(text)
    except SearchError as error:
        assert 0 <= error.start <= len(text)
        assert error.length >= 1
        assert error.start + error.length <= len(text) + 1
        assert "\n" not in str(error)
        line, mark = error.pointed().split("\n")
        assert len(line) == len(text) and mark.lstrip(" ").strip("^") == ""
        return
    assert len(condition.sql) < 4000 * (1 + text.count(" ") + text.count(",") + len(text.split()))
    found = _calls().execute(f"SELECT count(*) FROM c WHERE {condition.sql}", condition.parameters).fetchall()
    assert found in ([(0,)], [(1,)])


# -- all of them -----------------------------------------------------------------------------------------


class Target(NamedTuple):
    """A check, the longest input that makes sense, and words that its grammar knows."""

    check: Callable[[bytes], None]
    max_bytes: int
    words: tuple[bytes, ...]


_HEADERS = b"Via From To Call-ID CSeq Contact Expires Content-Type Content-Length Authorization Path".split()
_RTCP_NAMES = """
    report_blocks sender_information ssrc type source_ssrc fraction_lost packets_lost highest_seq_no ia_jitter lsr dlsr
    ntp_timestamp_sec ntp_timestamp_usec rtp_timestamp packets octets voip_metrics report_blocks_xr r_factor mos_lq MOS
    extended_report_information EXPECTED_PK PACKET_LOSS SRC_IP SRC_PORT CODEC_NAME RTP_SIP_CALL_ID CLOCK report_count
""".split()

TARGETS: Final[dict[str, Target]] = {
    "hep": Target(check_hep, 4096, (b"HEP3", b"EEP3", b"\1\x10\2\x11", b"\2\x1c\2\x11", b"\0\0\0\x0f", b"\0\0\0\x10")),
    "stream": Target(check_stream, 4096, (b"HEP3", b"EEP3", b"HEP3\0\6", b"HEP3\0\x07", b"EEP3\xff\xff")),
    "sip": Target(
        check_sip,
        8192,
        (
            *(b"\r\n" + name + b": " for name in _HEADERS), b"INVITE", b" SIP/2.0\r\n", b"SIP/2.0 200 OK\r\n", b"sip:",
            b"<sip:", b"tel:", b"\r\n\r\n", b"\n ", b"SIP/2.0/UDP ", b";branch=z9hG4bK", b";received=", b";rport",
            b"[::1]", b"application/sdp", b"multipart/mixed", b"m=audio 1 RTP/AVP 0", b"c=IN IP4 1.2.3.4",
            b"\nk=clear:", b"a=crypto:1 x inline:", b"Digest ", b"response=", b"secret", b"MESSAGE", b"*", b"%00",
            b"%41", b"\\",
        ),
    ),
    "rtcp": Target(
        check_rtcp,
        4096,
        (
            *(f'"{name}":'.encode() for name in _RTCP_NAMES),
            b"NaN", b"-Infinity", b"1e999", b"\\ud800", b"null", b"[", b"{", b'"-1"',
        ),
    ),
    "cdr": Target(
        check_cdr,
        4096,
        (b'"', b'""', b"\\N", b"\\\n", b"\r\n", b"\t", b",,", b"1795374114.0", b"2026-11-22 21:01:54", b"0000-00-00",
         b"\\ud800", b"NaN", b"\xef\xbb\xbf", b'{"start":', b"start,uniqueid,src\n", b"1e999", b"9" * 30),
    ),
    "search": Target(
        check_search,
        512,
        (b"from:", b"state:busy", b"code:4xx", b"pdd>3s", b"ip:", b"10.0.0.0/8", b"2001:db8::/32", b"mos<3", b"loss>2%",
         b'"', b"\\", b"-", b"!", b"*", b"%", b",", b"!=", b"<=", b"sip:", b"ua=", b"+4930", b"[::1]:5060"),
    ),
}  # fmt: skip
