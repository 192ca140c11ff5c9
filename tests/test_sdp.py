"""SDP bodies: address, port, codecs, direction and keys of the first audio stream."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocols.sdp import Sdp, parse

# RFC 4566 section 5
EXAMPLE = b"""v=0
o=jdoe 2890844526 2890842807 IN IP4 10.47.16.5
s=SDP Seminar
i=A Seminar on the session description protocol
c=IN IP4 224.2.17.12/127
t=2873397496 2873404696
a=recvonly
m=audio 49170 RTP/AVP 0
m=video 51372 RTP/AVP 99
a=rtpmap:99 h263-1998/90000
"""


def test_the_example_of_the_rfc() -> None:
    expected = Sdp("224.2.17.12", 49170, "PCMU/8000", "recvonly", crypto=False)
    assert parse(EXAMPLE) == expected
    assert parse(EXAMPLE.replace(b"\n", b"\r\n")) == expected


def test_a_stream_overrides_the_session() -> None:
    body = EXAMPLE.replace(b"RTP/AVP 0\n", b"RTP/AVP 0\nc=IN IP6 2001:db8::1\na=sendonly\n")
    assert parse(body) == Sdp("2001:db8::1", 49170, "PCMU/8000", "sendonly")


def test_codecs_in_order_of_preference_dynamic_static_and_unnamed() -> None:
    """Static payload types: RFC 3551 section 6; an rtpmap names anew what it names."""
    body = (
        b"m=audio 4000/2 RTP/SAVP 111 9 18 8 0 3 13 101 77\na=rtpmap:111 opus/48000/2\n"
        b"a=rtpmap:101 telephone-event/8000\na=rtpmap:8 PCMA/8000\n"
        b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:x\n"
    )
    assert parse(body) == Sdp(
        None,
        4000,
        "opus/48000,G722/8000,G729/8000,PCMA/8000,PCMU/8000,GSM/8000,CN/8000,telephone-event/8000,77",
        "sendrecv",
        crypto=True,
    )


def test_the_first_audio_stream_behind_a_video_stream() -> None:
    video = b"m=video 1 RTP/AVP 31\nc=IN IP4 192.0.2.2\n"
    body = b"c=IN IP4 192.0.2.1\n" + video + b"m=audio 2 RTP/AVP 0\nm=audio 3 RTP/AVP 8\n"
    assert parse(body) == Sdp("192.0.2.1", 2, "PCMU/8000", "sendrecv")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"", Sdp()),
        (b"v=0\nc=IN IP4 192.0.2.1\n", Sdp(ip="192.0.2.1")),
        (b"c=IN IP4\nm=audio\n", Sdp(direction="sendrecv")),
        (b"c=IN IP4 /127\nm=audio x RTP/AVP 0\n", Sdp(codecs="PCMU/8000", direction="sendrecv")),
        (b"m=audio 70000 RTP/AVP\n", Sdp(direction="sendrecv")),
        (b"m=audio 0 RTP/AVP 96\na=rtpmap:96\n", Sdp(port=0, codecs="96", direction="sendrecv")),
        (b"m=video 1 RTP/AVP 31\n", Sdp()),
    ],
)
def test_malformed_bodies(body: bytes, expected: Sdp) -> None:
    assert parse(body) == expected


@given(st.binary(max_size=80), st.binary(max_size=40))
def test_nothing_raises(head: bytes, tail: bytes) -> None:
    for body in (head, b"m=audio 1 RTP/AVP 0 96\na=rtpmap:96 " + head + b"\nc=" + tail):
        sdp = parse(body)
        for text in (sdp.ip, sdp.codecs):
            assert text is None or not {"\r", "\n", "\0"} & set(text)
            assert text != ""
