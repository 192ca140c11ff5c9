"""What is starred before it is stored, and what is not: examples from the RFCs, and whatever else may come."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tap import hep3

from pipeline.decode import Decoder
from pipeline.ingest import Datagram
from pipeline.protocols.redact import Redactor
from pipeline.protocols.sip import parse

NOW_US = 1_800_000_000_000_000
# RFC 3665 2.1, F3: Bob answers the challenge.
REGISTER = """\
REGISTER sips:ss2.biloxi.example.com SIP/2.0
Via: SIP/2.0/TLS client.biloxi.example.com:5061;branch=z9hG4bKnashd92
Max-Forwards: 70
From: Bob <sips:bob@biloxi.example.com>;tag=ja743ks76zlflH
To: Bob <sips:bob@biloxi.example.com>
Call-ID: 1j9FpLxk3uxtm8tn@biloxi.example.com
CSeq: 2 REGISTER
Contact: <sips:bob@client.biloxi.example.com>
{credentials}
Content-Length: 0

"""
DIGEST = (
    'Authorization: Digest username="bob", realm="atlanta.example.com" nonce="ea9c8e88df84f1cec4341ae6cbe5a359",'
    ' opaque="", uri="sips:ss2.biloxi.example.com", response="dfe56131d1958046689d83306477ecc"'
)
# RFC 3428 4.
MESSAGE = """\
MESSAGE sip:user2@domain.com SIP/2.0
Via: SIP/2.0/TCP user1pc.domain.com;branch=z9hG4bK776sgdkse
Max-Forwards: 70
From: sip:user1@domain.com;tag=49583
To: sip:user2@domain.com
Call-ID: asd88asd77a@1.2.3.4
CSeq: 1 MESSAGE
Content-Type: text/plain
Content-Length: 18

Watson, come here."""
# RFC 4568 4.
CRYPTO = """\
INVITE sip:bob@sip.test SIP/2.0
Via: SIP/2.0/TLS 192.0.2.9;branch=z9hG4bK1
From: <sip:alice@sip.test>;tag=1
To: <sip:bob@sip.test>
Call-ID: c@sip.test
CSeq: 1 INVITE
Content-Type: application/sdp

v=0
c=IN IP4 168.2.17.12
k=clear:opensesame
m=audio 49170 RTP/SAVP 0
a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz|2^20|1:4
"""


def wire(text: str) -> bytes:
    return text.replace("\n", "\r\n").encode()


def stored(payload: bytes, redactor: Redactor | None = None, **hep: Any) -> dict[str, Any]:
    """The row of the first table that got one."""
    decoder = Decoder("n", [], redactor=redactor)
    decoder.decode(
        [Datagram(NOW_US, "10.0.0.5", 9060, "udp", True, hep3(payload, ts_us=NOW_US, ip_proto=6, **hep))]
    )
    (rows,) = decoder.take().values()
    return dict(rows.to_pylist()[0])


def kept(text: str) -> str:
    """The text as it is stored."""
    row = stored(wire(text))
    assert len(row["payload"]) == row["payload_bytes"] == len(wire(text))
    return str(row["payload"].decode().replace("\r\n", "\n"))


@pytest.mark.parametrize(
    ("written", "kept_as"),
    [
        (DIGEST, DIGEST.replace("dfe56131d1958046689d83306477ecc", "*" * 31)),
        (
            "proxy-AUTHORIZATION : digest response=ab12 ,qop=auth",
            "proxy-AUTHORIZATION : digest response=**** ,qop=auth",
        ),
        (
            'Authorization: Digest username="a",\n\tresponse = "f00"',
            'Authorization: Digest username="a",\n\tresponse = "***"',
        ),
        ('Authorization: Digest response="a\\"b", nc=1', 'Authorization: Digest response="**"*", nc=1'),
        ('Authorization: Digest response="ab, nc=1', 'Authorization: Digest response="*** ****'),
        ("Authorization: Digest a=b;response=c", "Authorization: Digest a=b;response=*"),
        ("Authorization: Basic QWxhZGRpbjpvcGVu", "Authorization: Basic ****************"),
        ("Authorization: Bearer a.b.c", "Authorization: Bearer *****"),
        ("Authorization: sesame", "Authorization: ******"),
        ("Authorization: Digestresponse=ab12", "Authorization: *******************"),
        ("X-Late-Secret: open sesame", "X-Late-Secret: **** ******"),
        ("Subject: Authorization: is no header here", "Subject: Authorization: is no header here"),
        ('WWW-Authenticate: Digest realm="a", nonce="b"', 'WWW-Authenticate: Digest realm="a", nonce="b"'),
    ],
    ids=str,
)
def test_credentials(written: str, kept_as: str) -> None:
    assert kept(REGISTER.format(credentials=written)) == REGISTER.format(credentials=kept_as)


def test_what_proves_that_the_server_knows_them_too() -> None:
    reply = REGISTER.replace("REGISTER sips:ss2.biloxi.example.com SIP/2.0", "SIP/2.0 200 OK")
    info = 'Authentication-Info: qop=auth, rspauth="6629fae49393a05397450978507c4ef1", nextnonce="1"'
    starred = info.replace("6629fae49393a05397450978507c4ef1", "*" * 32)
    assert kept(reply.format(credentials=info)) == reply.format(credentials=starred)


def test_text_of_messages() -> None:
    head, _, text = MESSAGE.rpartition("\n")
    assert kept(MESSAGE) == f"{head}\n{'*' * len(text)}"


def test_no_other_body() -> None:
    other = MESSAGE.replace("MESSAGE", "INFO")
    assert kept(other) == other


def test_keys_of_the_media() -> None:
    starred = CRYPTO.replace("WVNfX19zZW1jdGwgKCkgewkyMjA7fQp9CnVubGVz", "*" * 40).replace(
        "opensesame", "*" * 10
    )
    assert kept(CRYPTO) == starred


def test_a_line_of_a_log() -> None:
    row = stored(b"tm: Authorization header\r\nAuthorization: Basic QWxhZGRpbg==\r\n", protocol_type=100)
    assert row["payload"] == b"tm: Authorization header\r\nAuthorization: Basic ************\r\n"


def test_the_agents_key_in_a_broken_packet() -> None:
    """A HEP packet cut short, its key still in it, is kept for a look; the key is not."""
    packet = hep3(b"x" * 400, ts_us=NOW_US, auth_key=b"hunter2")[:-300]
    decoder = Decoder("n", [], redactor=Redactor((), [b"hunter2"]))
    decoder.decode([Datagram(NOW_US, "10.0.0.5", 9060, "udp", True, packet)])
    (row,) = decoder.take()["weird"].to_pylist()
    assert b"hunter2" not in row["head"]
    assert row["head"] == packet.replace(b"hunter2", b"*******")[:256]


@pytest.mark.parametrize("what", [(), ("credentials",), ("message_bodies",)])
def test_each_can_be_kept(what: Any) -> None:
    redactor = Redactor(what)
    secret, text = wire(REGISTER.format(credentials=DIGEST)), wire(MESSAGE)
    assert (stored(secret, redactor)["payload"] == secret) is ("credentials" not in what)
    assert (stored(text, redactor)["payload"] == text) is ("message_bodies" not in what)


@given(st.binary(max_size=200), st.binary(max_size=200), st.sampled_from(["MESSAGE", "REGISTER", "INVITE"]))
def test_whatever_comes(header: bytes, body: bytes, method: str) -> None:
    """Lengths stay, nothing but stars is new, and what is starred is starred for good."""
    payload = (
        method.encode() + b" sip:a@b SIP/2.0\r\nCall-ID: 1\r\nAuthorization: " + header + b"\r\n\r\n" + body
    )
    redactor = Redactor()
    for message in parse(payload, datagram=True):
        once = redactor.message(message)
        assert len(once) == len(message.payload)
        assert all(new in (old, 0x2A) for old, new in zip(message.payload, once, strict=True))
        assert all(redactor.message(again) == once for again in parse(once, datagram=True))
