"""URIs, name-addrs, Contacts, and where a phone really is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocols.uri import (
    SipUri,
    aor,
    escape_user,
    parse_contacts,
    parse_name_addr,
    parse_name_addrs,
    parse_params,
    parse_uri,
    path_received,
    push_provider,
    split_list,
    unescape,
    via_source,
)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        # RFC 3261 19.1.3
        ("sip:alice@atlanta.com", SipUri("sip", "alice", "alice", "atlanta.com")),
        (
            "sip:alice:secretword@atlanta.com;transport=tcp",
            SipUri("sip", "alice", "alice", "atlanta.com", params={"transport": "tcp"}),
        ),
        (
            "sips:alice@atlanta.com?subject=project%20x&priority=urgent",
            SipUri("sips", "alice", "alice", "atlanta.com", headers="subject=project%20x&priority=urgent"),
        ),
        (
            "sip:+1-212-555-1212:1234@gateway.com;user=phone",
            SipUri("sip", "+1-212-555-1212", "+1-212-555-1212", "gateway.com", params={"user": "phone"}),
        ),
        (
            "sip:atlanta.com;method=REGISTER?to=alice%40atlanta.com",
            SipUri(
                "sip", host="atlanta.com", params={"method": "REGISTER"}, headers="to=alice%40atlanta.com"
            ),
        ),
        (
            "sip:alice;day=tuesday@atlanta.com",
            SipUri("sip", "alice;day=tuesday", "alice;day=tuesday", "atlanta.com"),
        ),
        # RFC 3261 19.1.4: escapes are the characters they stand for, hosts have no case
        ("sip:%61lice@atlanta.com", SipUri("sip", "alice", "%61lice", "atlanta.com")),
        ("SIP:ALICE@AtLanTa.CoM", SipUri("sip", "ALICE", "ALICE", "atlanta.com")),
        # RFC 5118 4.1
        ("sip:[2001:DB8::10]", SipUri("sip", host="2001:db8::10")),
        ("sip:u@[2001:db8::10]:5070;lr", SipUri("sip", "u", "u", "2001:db8::10", 5070, {"lr": ""})),
        # RFC 3966
        (
            "tel:+1-201-555-0123;phone-context=x",
            SipUri("tel", "+12015550123", "+1-201-555-0123", params={"phone-context": "x"}),
        ),
        # Other schemes have neither user nor host of ours
        ("urn:service:sos", SipUri("urn")),
        ("soap.beep://192.0.2.103:3002", SipUri("soap.beep")),
        # As senders get it wrong
        ("sip:bob@mail.test@sip.test", SipUri("sip", "bob@mail.test", "bob@mail.test", "sip.test")),
        (
            "sip:bob@sip.test;x=@evil.test",
            SipUri("sip", "bob", "bob", "sip.test", params={"x": "@evil.test"}),
        ),
        ("sip:bob@sip.test:99999", SipUri("sip", "bob", "bob", "sip.test")),
        ("sip: bob@sip.test ", SipUri("sip", "bob", "bob", "sip.test")),
        ("sip:@sip.test", SipUri("sip", host="sip.test")),
        ("bob@sip.test", None),
        ("*", None),
        ("", None),
        ("sip:", None),
        ("sip:bob@", None),
        ("sip:bob@[2001:db8::10", None),
    ],
)
def test_parse_uri(text: str, expected: SipUri | None) -> None:
    assert parse_uri(text) == expected


def test_transport_of_a_uri() -> None:
    uris = ("sip:a", "sips:a", "sip:a;transport=TCP", "sips:a;transport=ws")
    assert [uri.transport for text in uris if (uri := parse_uri(text))] == ["udp", "tls", "tcp", "ws"]


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("bob", "bob"),
        ("%62ob", "bob"),
        ("%25%34%31", "%41"),  # RFC 4475 3.1.1.3: never recursively
        ("%C3%BC", "ü"),
        ("%C3", "%C3"),
        ("%00", "%00"),
        ("a%0d%0aVia: x", "a%0d%0aVia: x"),
        ("100%", "100%"),
        ("%zz", "%zz"),
    ],
)
def test_unescape(text: str, plain: str) -> None:
    assert unescape(text) == plain


@pytest.mark.parametrize("user", ["bob", "I have spaces", "b@c:d%41", "ü", "a;b=c", "<\"'\\>"])
def test_an_escaped_user_reads_back(user: str) -> None:
    uri = parse_uri(f"sip:{escape_user(user)}@sip.test")
    assert uri is not None
    assert (uri.user, uri.host) == (user, "sip.test")


@pytest.mark.parametrize(
    ("user", "host", "key"),
    [
        ("bob", "sip.test", "bob@sip.test"),
        ("Bob", "SIP.Test.", "Bob@sip.test"),
        ("bob", None, None),
        (None, "sip.test", None),
        ("", "sip.test", None),
    ],
)
def test_aor(user: str | None, host: str | None, key: str | None) -> None:
    assert aor(user, host) == key


def test_equal_accounts_have_equal_keys() -> None:
    """RFC 3261 19.1.4, 10.3: escapes and the host's case do not matter, port and parameters are no part."""
    texts = ("sip:%62ob@SIP.TEST:5080;user=phone", "sip:bob@sip.test.", "sips:bob:pw@sip.test")
    assert {aor(uri.user, uri.host) for text in texts if (uri := parse_uri(text))} == {"bob@sip.test"}


def test_lists_mind_quotes_and_brackets() -> None:
    text = r'"a, \"b\"," <sip:x,y@h>;q=1, <sip:z@h>,, *'
    assert split_list(text) == [r'"a, \"b\"," <sip:x,y@h>;q=1', "<sip:z@h>", "*"]


def test_params() -> None:
    text = ';Expires = 60 ; +sip.instance="<urn:uuid:1;2>";ob;expires=1;x="a\\"b"'
    assert parse_params(text) == {"expires": "60", "+sip.instance": "<urn:uuid:1;2>", "ob": "", "x": 'a"b'}


def test_name_addr() -> None:
    address = parse_name_addr(r' "Bob \"B\"" <sip:bob@h;lr>;tag=1 ')
    assert (address.display, address.uri, address.params) == ('Bob "B"', "sip:bob@h;lr", {"tag": "1"})
    bare = parse_name_addr("sip:bob@h;tag=1")
    assert (bare.display, bare.uri, bare.params) == (None, "sip:bob@h", {"tag": "1"})
    assert parse_name_addr('"Mr. J. <sip:j@h>').uri == "sip:j@h"
    assert [path.uri for path in parse_name_addrs("<sip:p1;lr>, <sip:p2;lr>")] == ["sip:p1;lr", "sip:p2;lr"]


# Contacts


def test_contacts_of_a_kamailio_answer() -> None:
    first, second = parse_contacts(
        "<sip:bob@10.11.12.13:5060;transport=tcp>;expires=600;q=0.5;"
        'received="sip:127.0.0.21:23027;transport=tcp";'
        '+sip.instance="<urn:uuid:6C1E9F7A-0D3C-4C56-9D0A-1F2B3C4D5E01>", '
        '"Desk, 2nd" <sip:bob@192.0.2.9>;expires=0'
    )
    assert (first.expires, first.q, first.display, first.star) == (600, 0.5, None, False)
    assert first.instance == "urn:uuid:6c1e9f7a-0d3c-4c56-9d0a-1f2b3c4d5e01"
    assert first.received == "sip:127.0.0.21:23027;transport=tcp"
    assert first.address == parse_uri("sip:bob@10.11.12.13:5060;transport=tcp")
    assert (second.uri, second.display, second.expires) == ("sip:bob@192.0.2.9", "Desk, 2nd", 0)
    assert (second.instance, second.received, second.q) == (None, None, None)


def test_the_wildcard_contact() -> None:
    (star,) = parse_contacts(" * ")
    assert (star.star, star.address, star.expires) == (True, None, None)


def test_no_contacts() -> None:
    assert parse_contacts(None) == []
    assert parse_contacts(" , ") == []


def test_parameters_of_a_contact_without_brackets_are_the_headers() -> None:
    """RFC 3261 20.10, RFC 4475 3.3.12."""
    (contact,) = parse_contacts("sip:+19725552222@gw1.example.net;expires=30;transport=tcp")
    assert contact.expires == 30
    assert contact.address == parse_uri("sip:+19725552222@gw1.example.net")


@pytest.mark.parametrize("expires", ["", "soon", "-1", "99999999999", "1.5", "٣"])
def test_expires_that_is_no_number(expires: str) -> None:
    (contact,) = parse_contacts(f"<sip:a@b>;expires={expires}")
    assert contact.expires is None


@pytest.mark.parametrize(
    ("contact", "provider"),
    [
        ("<sip:a@b;pn-provider=apns;pn-prid=x;pn-param=y>", "apns"),  # RFC 8599 4.1
        ("<sip:a@b;PN-Provider=APNS>", "apns"),
        ("<sip:a@b;pn-provider=fcm>", "fcm"),
        ("<sip:a@b;app-id=x;pn-type=apple;pn-tok=y>", "apns"),
        ("<sip:a@b;app-id=x;pn-type=firebase;pn-tok=y>", "fcm"),
        ("sip:a@b;pn-provider=apns", "apns"),
        ("<sip:a@b>;expires=60", None),
        ("*", None),
    ],
)
def test_push_provider(contact: str, provider: str | None) -> None:
    (parsed,) = parse_contacts(contact)
    assert push_provider(parsed) == provider


# Where the phone is


@pytest.mark.parametrize(
    ("path", "source"),
    [
        (
            "<sip:127.0.0.1:30369;lr;received=sip:127.0.0.21:23027%3Btransport%3Dtcp>",
            ("127.0.0.21", 23027, "tcp"),
        ),
        (
            "<sip:core.test;lr;received=sip:192.0.2.9:1>,"
            " <sip:edge.test;lr;received=sip:192.0.2.1:2%3Btransport%3Dtls>",
            ("192.0.2.1", 2, "tls"),
        ),
        ("<sip:edge.test;lr;received=sip:[2001:db8::1]:5070>", ("2001:db8::1", 5070, "udp")),
        ("<sip:edge.test;lr;received=sip:192.0.2.1>", ("192.0.2.1", 5060, "udp")),
        ("<sip:edge.test;lr>;received=sip:192.0.2.1:3", ("192.0.2.1", 3, "udp")),
        ("<sip:core.test;received=sip:192.0.2.9:1>, <sip:edge.test;lr>", None),
        ("<sip:edge.test;lr;received=nonsense>", None),
        ("", None),
        (None, None),
    ],
)
def test_path_received(path: str | None, source: tuple[str, int, str] | None) -> None:
    assert path_received(path) == source


@pytest.mark.parametrize(
    ("via", "source"),
    [
        ("SIP/2.0/UDP 192.0.2.1:5080;branch=z9hG4bK1", ("192.0.2.1", 5080, "udp")),
        (
            "SIP/2.0/UDP 10.1.1.1:4540;received=192.0.2.1;rport=9988;branch=z9hG4bKkjshdyff",
            ("192.0.2.1", 9988, "udp"),
        ),
        ("SIP/2.0/TCP 10.1.1.1;received=192.0.2.1;rport", ("192.0.2.1", 5060, "tcp")),
        ("SIP/2.0/TLS phone.test;branch=z9hG4bK1", ("phone.test", 5061, "tls")),
        ("SIP/2.0/WSS df7jal23ls0d.invalid;branch=z9hG4bK1;rport", ("df7jal23ls0d.invalid", 443, "wss")),
        ("SIP/2.0/UDP [2001:db8::9:1]:6050;received=[2001:DB8::9:255]", ("2001:db8::9:255", 6050, "udp")),
        (
            "SIP/2.0/UDP [2001:db8::9:1];received=2001:db8::9:255;branch=z9hG4bKas3",
            ("2001:db8::9:255", 5060, "udp"),
        ),
        (
            "SIP  / 2.0  / TCP     spindle.example.com   ; branch  =   z9hG4bK9ikj8",
            ("spindle.example.com", 5060, "tcp"),
        ),
        ("SIP/2.0/UDP h:5070 ;rport=99999999999", ("h", 5070, "udp")),
        ("SIP/2.0/UDP", None),
        ("nonsense", None),
        (None, None),
    ],
)
def test_via_source(via: str | None, source: tuple[str, int, str] | None) -> None:
    """RFC 3261 18.2.1, RFC 3581 section 4, RFC 7118; IPv6 with and without brackets: RFC 5118 4.5."""
    assert via_source(via) == source


@given(
    st.text(alphabet=st.sampled_from('sipSIP:@;=,<>"\\%0dA[]*?/. \t-tel'), max_size=60) | st.text(max_size=60)
)
def test_nothing_raises(text: str) -> None:
    for contact in parse_contacts(text):
        assert contact.expires is None or contact.expires >= 0
        assert (contact.q, contact.instance, contact.received, push_provider(contact)) != ()
    parse_uri(text)
    path_received(text)
    via_source(text)
    via_source("SIP/2.0/UDP " + text)
