"""The tolerant SIP view: fields, tolerances, defects, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.errors import SipError
from pipeline.ingest.recordings import read_recording
from pipeline.protocols import hep
from pipeline.protocols.sip import MAX_MESSAGES, SipMessage, parse
from pipeline.protocols.sip_head import MAX_HEADER_LINES

KAMAILIO = Path(__file__).parent / "data" / "kamailio"

BODY = (
    b"v=0\r\no=alice 1 1 IN IP4 192.0.2.7\r\ns=-\r\nc=IN IP4 192.0.2.7\r\nt=0 0\r\n"
    b"m=audio 7078 RTP/AVP 96 8\r\na=rtpmap:96 opus/48000/2\r\n"
)
INVITE = (
    b"INVITE sip:bob@Phone.Test:5080;transport=tcp SIP/2.0\r\n"
    b"Via: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKtop;rport\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.7:5062;branch=z9hG4bKlow\r\n"
    b'From: "Alice" <sip:alice@sip.test>;tag=a1\r\n'
    b"To: Bob <sip:bob@sip.test>\r\n"
    b"Call-ID: c1@192.0.2.7\r\n"
    b"CSeq: 7 INVITE\r\n"
    b"Contact: <sip:alice@192.0.2.7:5062>\r\n"
    b"Expires: 120\r\n"
    b"User-Agent: Phone/1.0 (desk)\r\n"
    b'Reason: SIP;cause=200;text="Call completed elsewhere"\r\n'
    b"X-CID: other-leg\r\n"
    b"Path: <sip:edge.test;lr>\r\n"
    b"Content-Type: application/sdp\r\n"
    b"Content-Length: %d\r\n\r\n"
) % len(BODY) + BODY
OPTIONS = (
    b"OPTIONS sip:sip.test SIP/2.0\r\n"
    b"Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n"
    b"From: <sip:alice@sip.test>;tag=1\r\n"
    b"To: <sip:sip.test>\r\n"
    b"Call-ID: o1\r\n"
    b"CSeq: 1 OPTIONS\r\n"
    b"Content-Length: 0\r\n\r\n"
)


def one(payload: bytes, *, datagram: bool | None = None) -> SipMessage:
    (message,) = parse(payload, datagram=datagram)
    return message


def options(old: bytes, new: bytes) -> SipMessage:
    """The OPTIONS above with one thing changed."""
    assert old in OPTIONS
    return one(OPTIONS.replace(old, new))


def test_every_field_of_a_request() -> None:
    message = one(INVITE)
    assert {name: getattr(message, name) for name in SipMessage.__slots__} == {
        "is_request": True,
        "method": "INVITE",
        "status": None,
        "reason": None,
        "ruri": "sip:bob@Phone.Test:5080;transport=tcp",
        "ruri_user": "bob",
        "ruri_host": "phone.test",
        "call_id": "c1@192.0.2.7",
        "cseq": 7,
        "cseq_method": "INVITE",
        "from_user": "alice",
        "from_host": "sip.test",
        "from_display": "Alice",
        "from_tag": "a1",
        "to_user": "bob",
        "to_host": "sip.test",
        "to_display": "Bob",
        "to_tag": None,
        "via_branch": "z9hG4bKtop",
        "via_count": 2,
        "via_top": "SIP/2.0/TCP 192.0.2.1;branch=z9hG4bKtop;rport",
        "via_last": "SIP/2.0/UDP 192.0.2.7:5062;branch=z9hG4bKlow",
        "via_transport": "tcp",
        "contact": "<sip:alice@192.0.2.7:5062>",
        "expires": 120,
        "user_agent": "Phone/1.0 (desk)",
        "reason_header": 'SIP;cause=200;text="Call completed elsewhere"',
        "x_cid": "other-leg",
        "path": "<sip:edge.test;lr>",
        "content_type": "application/sdp",
        "body": BODY,
        "sdp_ip": "192.0.2.7",
        "sdp_port": 7078,
        "sdp_codecs": "opus/48000,PCMA/8000",
        "payload": INVITE,
        "defects": (),
    }


def test_a_reply_has_the_method_of_its_cseq() -> None:
    message = one(
        OPTIONS.replace(b"OPTIONS sip:sip.test SIP/2.0", b"SIP/2.0 486 Busy Here").replace(
            b"To: <sip:sip.test>", b"To: <sip:sip.test>;tag=2\r\nServer: kamailio (5.6.3)"
        )
    )
    assert (message.is_request, message.method, message.cseq_method) == (False, "OPTIONS", "OPTIONS")
    assert (message.status, message.reason, message.ruri) == (486, "Busy Here", None)
    assert (message.to_user, message.to_host, message.to_tag) == (None, "sip.test", "2")
    assert message.user_agent == "kamailio (5.6.3)"
    assert message.defects == ()


def test_compact_names_odd_case_and_blanks_around_the_colon() -> None:
    """RFC 3261 7.3.1 and 7.3.3."""
    message = one(
        b"INVITE sip:bob@sip.test SIP/2.0\r\n"
        b"v: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n"
        b"F :<sip:alice@sip.test>;tag=1\r\n"
        b"t\t:  <sip:bob@sip.test>  \r\n"
        b"I: compact\r\n"
        b"cSeq: 1 INVITE\r\n"
        b"m: <sip:a@192.0.2.7>\r\n"
        b"USER-agent:  x  \r\n"
        b"c: application/sdp\r\n"
        b"L: %d\r\n\r\n" % len(BODY) + BODY
    )
    assert (message.call_id, message.cseq, message.contact) == ("compact", 1, "<sip:a@192.0.2.7>")
    assert (message.from_user, message.to_user, message.from_tag) == ("alice", "bob", "1")
    assert (message.via_branch, message.user_agent, message.sdp_port) == ("z9hG4bK1", "x", 7078)
    assert message.defects == ()
    assert one(OPTIONS.replace(b"Call-ID", b"CALL-id")).call_id == "o1"


def test_folded_lines_are_one_value() -> None:
    """RFC 3261 7.3.1; no value holds a line end."""
    message = options(b"Call-ID: o1", b"Call-ID:\r\n  o1\r\nSubject: a\r\n\tb\r\nUser-Agent: x\r\n \r\n  y")
    assert (message.call_id, message.user_agent, message.defects) == ("o1", "x y", ())


def test_lines_that_end_in_bare_lf() -> None:
    message = one(INVITE.replace(b"\r\n", b"\n"))
    assert (message.call_id, message.from_tag, message.via_count) == ("c1@192.0.2.7", "a1", 2)
    assert (message.sdp_ip, message.sdp_codecs) == ("192.0.2.7", "opus/48000,PCMA/8000")
    assert set(message.defects) == {"lf_only", "truncated_body"}  # its Content-Length counts the CRs


def test_an_lf_only_head_ends_at_its_own_blank_line() -> None:
    head = OPTIONS.replace(b"\r\n", b"\n").replace(b"Content-Length: 0", b"Content-Length: 9")
    message = one(head + b"one\r\n\r\nx\n")
    assert (message.body, message.defects) == (b"one\r\n\r\nx\n", ("lf_only",))


def test_a_bare_cr_opens_no_header() -> None:
    message = options(b"Call-ID: o1", b"Subject: x\rCall-ID: spoofed\r\nCall-ID: o1")
    assert (message.call_id, message.defects) == ("o1", ("bare_cr",))


def test_bad_utf8_and_nul_become_replacement_characters() -> None:
    message = options(b"Call-ID: o1", b"Call-ID: o\xff1\r\nUser-Agent: a\0b")
    assert (message.call_id, message.user_agent) == ("o\ufffd1", "a\ufffdb")
    assert set(message.defects) == {"bad_utf8", "nul"}
    assert b"o\xff1" in message.payload


@pytest.mark.parametrize(
    ("line", "defect"),
    [
        (b"Via: SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1\r\n", "missing_via"),
        (b"From: <sip:alice@sip.test>;tag=1\r\n", "missing_from"),
        (b"To: <sip:sip.test>\r\n", "missing_to"),
        (b"Call-ID: o1\r\n", "missing_call_id"),
        (b"CSeq: 1 OPTIONS\r\n", "missing_cseq"),
    ],
)
def test_missing_headers(line: bytes, defect: str) -> None:
    """RFC 3261 8.1.1."""
    assert options(line, b"").defects == (defect,)
    name = line.partition(b":")[0]
    assert options(line, name + b":  \r\n").defects == (defect,)


def test_nothing_but_a_start_line() -> None:
    message = one(b"SIP/2.0 200 OK\r\n\r\n")
    assert (message.status, message.method, message.cseq, message.via_count) == (200, None, None, 0)
    assert len(message.defects) == 5
    values = (getattr(message, name) for name in SipMessage.__slots__)
    assert "" not in [value for value in values if isinstance(value, str)]


@pytest.mark.parametrize(
    ("old", "new", "defect"),
    [
        (b"Call-ID: o1", b"Call-ID: o1\r\nCall-ID: o2", "duplicate_call_id"),
        (b"Call-ID: o1", b"Call-ID: o1\r\ni: o2", "duplicate_call_id"),
        (b"CSeq: 1 OPTIONS", b"CSeq: 1 OPTIONS\r\nCSeq: 2 OPTIONS", "duplicate_cseq"),
        (b"CSeq: 1 OPTIONS", b"CSeq: 1 INVITE", "cseq_method_mismatch"),
        (b"CSeq: 1 OPTIONS", b"CSeq: 1", "bad_cseq"),
        (b"CSeq: 1 OPTIONS", b"CSeq: OPTIONS 1", "bad_cseq"),
        (b"CSeq: 1 OPTIONS", b"CSeq: 2147483648 OPTIONS", "bad_cseq"),
        (b"CSeq: 1 OPTIONS", b"CSeq: \xd9\xa1 OPTIONS", "bad_cseq"),
        (b"From: <sip:alice@sip.test>", b"From: <sip:a@x>, <sip:alice@sip.test>", "bad_from"),
        (b"From: <sip:alice@sip.test>;tag=1", b"From: alice", "bad_from"),
        (b"Content-Length: 0", b"Content-Length: five", "bad_content_length"),
        (b"Content-Length: 0", b"Content-Length: -1", "bad_content_length"),
        (b"Content-Length: 0", b"Content-Length: 4", "truncated_body"),
        (b"Content-Length: 0", b"Expires: soon", "bad_expires"),
        (b"Content-Length: 0", b"Expires: 4294967296", "bad_expires"),
        (b"Content-Length: 0", b"no colon here", "bad_header"),
        (b" SIP/2.0\r\nVia", b" SIP/3.0\r\nVia", "bad_version"),
        (b"OPTIONS sip:sip.test", b"OPTIONS  sip:sip.test", "bad_start_line"),
        (b"OPTIONS sip:sip.test", b"OPTIONS sip.test", "bad_ruri"),
        (b"\r\n\r\n", b"\r\n", "no_end_of_headers"),
        (b"z9hG4bK1", b"z9hG4bK", "bad_branch"),
        (b"SIP/2.0/UDP 192.0.2.7", b"nonsense", "bad_via"),
    ],
)
def test_defects(old: bytes, new: bytes, defect: str) -> None:
    assert defect in options(old, new).defects


def test_the_first_of_a_repeated_header_counts() -> None:
    message = options(b"Call-ID: o1", b"Call-ID: o1\r\nCall-ID: o2\r\nFrom: <sip:eve@sip.test>;tag=9")
    assert (message.call_id, message.from_user, message.from_tag) == ("o1", "alice", "1")


@pytest.mark.parametrize(
    ("cseq", "expected"),
    [
        (b"0 OPTIONS", (0, "OPTIONS")),
        (b"0009\t OPTIONS", (9, "OPTIONS")),
        (b"4294967295 OPTIONS", (4294967295, "OPTIONS")),
        (b"4294967296 OPTIONS", (None, "OPTIONS")),
        (b"9" * 5000 + b" OPTIONS", (None, "OPTIONS")),
        (b"1_0 OPTIONS", (None, None)),
    ],
)
def test_cseq(cseq: bytes, expected: tuple[int | None, str | None]) -> None:
    message = options(b"CSeq: 1 OPTIONS", b"CSeq: " + cseq)
    assert (message.cseq, message.cseq_method) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("<sip:bob@sip.test>;tag=t", ("bob", "sip.test", None, "t")),
        ("sip:bob@sip.test;tag=t", ("bob", "sip.test", None, "t")),
        ("<sip:bob@sip.test;tag=uri>", ("bob", "sip.test", None, None)),
        ("<sip:bob@sip.test>;x=1;TAG = t;y", ("bob", "sip.test", None, "t")),
        ("Bob B <sip:bob@sip.test>", ("bob", "sip.test", "Bob B", None)),
        (r'"a \"b\" c, <sip:x@y>" <sip:bob@sip.test>;tag=t', ("bob", "sip.test", 'a "b" c, <sip:x@y>', "t")),
        ('"a>;tag=b" <sip:bob@sip.test>;tag=t', ("bob", "sip.test", "a>;tag=b", "t")),
        ('"" <sip:bob@sip.test>', ("bob", "sip.test", None, None)),
        ("<sip:bob:secret@sip.test:5080>", ("bob", "sip.test", None, None)),
        (
            "<sip:+15551234;phone-context=x@SIP.Test;user=phone>",
            ("+15551234;phone-context=x", "sip.test", None, None),
        ),
        ("<sips:bob@[2001:DB8::1]:5061>;tag=t", ("bob", "2001:db8::1", None, "t")),
        ("<tel:+1-555-1234;phone-context=x>;tag=t", ("+15551234", None, None, "t")),
        ("<sip:anonymous@anonymous.invalid>", ("anonymous", "anonymous.invalid", None, None)),
        ("<sip:%62ob@sip.test>", ("bob", "sip.test", None, None)),
        ("<sip:b%0D%0Ab@sip.test>", ("b%0D%0Ab", "sip.test", None, None)),
    ],
)
def test_parties(value: str, expected: tuple[str | None, ...]) -> None:
    message = options(b"To: <sip:sip.test>", b"To: " + value.encode())
    assert (message.to_user, message.to_host, message.to_display, message.to_tag) == expected
    assert message.defects == ()


def test_lists_are_joined_and_vias_counted_through_commas() -> None:
    message = options(
        b"Call-ID: o1",
        b"Call-ID: o1\r\n"
        b'Via: SIP/2.0/TLS a;branch=z9hG4bK2, SIP/2.0/UDP b;x=",";branch=z9hG4bK3\r\n'
        b'Contact: "a, b" <sip:x@y>\r\nContact: *\r\nPath: <sip:p1>,<sip:p2>\r\nPath: <sip:p3>',
    )
    assert (message.via_count, message.via_branch) == (3, "z9hG4bK1")
    assert message.via_last == 'SIP/2.0/UDP b;x=",";branch=z9hG4bK3'
    assert message.contact == '"a, b" <sip:x@y>, *'
    assert message.path == "<sip:p1>,<sip:p2>, <sip:p3>"


@pytest.mark.parametrize(
    ("via", "branch", "transport"),
    [
        ("SIP/2.0/UDP h;branch=z9hG4bKx", "z9hG4bKx", "udp"),
        ("SIP/2.0/udp h;rport", None, "udp"),
        ("SIP / 2.0 / WSS h ; Branch = z9hG4bKx ;i=1", "z9hG4bKx", "wss"),
        ("SIP/2.0/TLS-SCTP h:5061;received=1.2.3.4;branch=a", "a", "tls-sctp"),
        ("SIP/2.0/TCP [2001:db8::1]:5060;branch=z9hG4bKx;alias", "z9hG4bKx", "tcp"),
    ],
)
def test_topmost_via(via: str, branch: str | None, transport: str) -> None:
    message = options(b"SIP/2.0/UDP 192.0.2.7;branch=z9hG4bK1", via.encode())
    assert (message.via_branch, message.via_transport, message.via_top) == (branch, transport, via)


# Content-Length, and several messages in one payload


def test_the_body_ends_where_content_length_says() -> None:
    message = one(OPTIONS.replace(b"Length: 0", b"Length: 3") + b"abcdef")
    assert (message.body, message.defects) == (b"abc", ("extra_octets",))
    assert message.payload.endswith(b"abcdef")


def test_without_content_length_all_is_body() -> None:
    """RFC 3261 18.3."""
    assert one(OPTIONS.replace(b"Content-Length: 0\r\n", b"") + b"abc\r\n").body == b"abc\r\n"


def test_a_stream_is_split_by_content_length() -> None:
    """RFC 3261 18.3, 7.5: CRLFs before a start line are skipped."""
    tcp = OPTIONS.replace(b"/UDP", b"/TCP")
    first, second, third = parse(b"\r\n\r\n" + INVITE + tcp + b"\r\n\r\n" + tcp.replace(b"o1", b"o2"))
    assert (first.method, first.body, first.payload) == ("INVITE", BODY, b"\r\n\r\n" + INVITE)
    assert (second.call_id, second.payload) == ("o1", tcp + b"\r\n\r\n")
    assert (third.call_id, third.defects) == ("o2", ())


def test_what_follows_in_a_datagram_is_noise() -> None:
    """RFC 3261 18.3, RFC 4475 3.1.1.8: a sender must not get a second message past us in the first one."""
    assert one(OPTIONS + INVITE).defects == ("extra_octets",)  # the topmost Via says UDP
    assert one(INVITE + OPTIONS, datagram=True).defects == ("extra_octets",)
    assert [message.method for message in parse(OPTIONS + INVITE, datagram=False)] == ["OPTIONS", "INVITE"]


def test_what_follows_in_a_stream_may_be_no_message_at_all() -> None:
    message = one(OPTIONS + b"\x16\x03\x01 not SIP", datagram=False)
    assert message.defects == ("extra_octets",)


def test_messages_of_one_payload_are_limited() -> None:
    messages = parse(OPTIONS * (MAX_MESSAGES + 1), datagram=False)
    assert len(messages) == MAX_MESSAGES
    assert messages[-1].defects == ("extra_octets",)


# What is refused


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        (b"", "sip_empty"),
        (b"\r\n\r\n", "sip_keepalive"),
        (b"\0\0\0\0", "sip_keepalive"),
        (b"\r\n", "sip_keepalive"),
        (b"hello", "sip_start_line"),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "sip_start_line"),
        (b"HTTP/1.1 200 OK\r\n\r\n", "sip_start_line"),
        (b"INVITE sip:bob@sip.test\r\n\r\n", "sip_start_line"),
        (b"INVITE SIP/2.0\r\n\r\n", "sip_start_line"),
        (b"IN(VITE) sip:a SIP/2.0\r\n\r\n", "sip_start_line"),
        (b"SIP/2.0 abc OK\r\n\r\n", "sip_start_line"),
        (b"SIP/2.0\r\n\r\n", "sip_start_line"),
        (b"\x00\x01\x00\x00!\x12\xa4B", "sip_start_line"),
    ],
)
def test_what_is_no_sip(payload: bytes, kind: str) -> None:
    with pytest.raises(SipError) as raised:
        parse(payload)
    assert raised.value.kind == kind


# Anything at all


def assert_storable(message: SipMessage) -> None:
    """What the columns rely on: true Unicode, no line end or NUL, None instead of ""."""
    for name in SipMessage.__slots__:
        value = getattr(message, name)
        if isinstance(value, str):
            assert value, name
            assert not {"\r", "\n", "\0"} & set(value), name
            value.encode()
        elif isinstance(value, int):
            assert 0 <= value < 2**32, name


def parse_anything(payload: bytes) -> None:
    try:
        messages = parse(payload)
    except SipError:
        return
    for message in messages:
        assert_storable(message)
        assert message.payload in payload


@given(st.binary(max_size=400))
def test_any_bytes(payload: bytes) -> None:
    parse_anything(payload)


@given(
    st.lists(
        st.sampled_from(
            [
                b"\r\n",
                b"\n",
                b"\r",
                b" ",
                b":",
                b";",
                b",",
                b"<",
                b'"',
                b"\\",
                b"\0",
                b"\xff",
                b"%0d%0a",
                b"%00",
                b"[",
                b"@",
                b"=",
                b"Via",
                b"From",
                b"To",
                b"m",
                b"l",
                b"CSeq",
                b"SIP/2.0/UDP",
                b"sip:a@b",
                b"branch",
                b"tag",
                b"1",
                b"99999999999",
                b"\xd9\xa1",
                b"INVITE",
                b"INVITE sip:a@b SIP/2.0\r\n",
                b"SIP/2.0 200 OK\r\n",
            ]
        ),
        max_size=60,
    )
)
def test_sip_like_bytes(parts: list[bytes]) -> None:
    parse_anything(b"INVITE sip:a@b SIP/2.0\r\n" + b"".join(parts))


@settings(max_examples=300)
@given(st.integers(0, len(INVITE)), st.integers(0, 30), st.binary(max_size=6), st.integers(0, len(INVITE)))
def test_damaged_messages(at: int, cut: int, insert: bytes, end: int) -> None:
    damaged = INVITE[:at] + insert + INVITE[at + cut :]
    parse_anything(damaged)
    parse_anything(damaged[:end])


@pytest.mark.parametrize(
    "payload",
    [
        OPTIONS.replace(b"Call-ID: o1", b"Call-ID: o1\r\nX: y" * 1) + b"x" * 10**7,
        b"OPTIONS sip:a SIP/2.0\r\n" + b"A:\r\n" * 10**6 + b"\r\n",
        b"OPTIONS sip:a SIP/2.0\r\n" + b" \r\n" * 10**6 + b"\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nVia: " + b"," * 10**6 + b"\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nVia: SIP/2.0/TCP a" + b"; " * 10**6 + b"\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nTo: " + b'"' * 10**6 + b"\r\n\r\n",
        b'OPTIONS sip:a SIP/2.0\r\nTo: "' + b"\\" * 10**6 + b"\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nFrom: " + b"<" * 10**6 + b"\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nCSeq: " + b"1 " * 10**6 + b"\r\n\r\n",
        b"OPTIONS " + b" " * 10**6 + b"\r\n\r\n",
        b"OPTIONS " + b"sip:a@" * 10**6 + b" SIP/2.0\r\n\r\n",
        b"OPTIONS sip:a SIP/2.0\r\nContact: <sip:a>\r\n" + b"Contact: <sip:a>\r\n" * 10**5 + b"\r\n",
        b"SIP/2.0 200 OK\r\nVia: SIP/2.0/TCP a\r\nl: 0\r\n\r\n" * 10**5,
    ],
)
def test_big_payloads_take_linear_time(payload: bytes) -> None:
    """None of these may run into the test's time limit."""
    parse_anything(payload)


def test_header_lines_are_limited() -> None:
    message = options(b"Call-ID: o1\r\n", b"X: y\r\n" * MAX_HEADER_LINES + b"Call-ID: o1\r\n")
    assert message.call_id is None
    assert "too_many_headers" in message.defects


# Real Kamailio


def test_everything_real_kamailio_mirrored_is_clean() -> None:
    messages = 0
    for recording in sorted(KAMAILIO.glob("*.hep")):
        for datagram in read_recording(recording):
            for packet in hep.decode(datagram.data):
                if packet.protocol_type not in {1, None}:
                    continue
                message = one(packet.payload)
                assert message.defects == (), packet.payload
                assert message.call_id
                assert message.method
                assert_storable(message)
                messages += 1
    assert messages > 10_400
