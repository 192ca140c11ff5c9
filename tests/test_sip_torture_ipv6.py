"""RFC 5118, the SIP torture test messages for IPv6: what the view makes of each, and why.

The bytes are those of the RFC with CRLF for its line ends, and with its own Content-Length: in the three messages
with a body that number is wrong (268, 181 and 236 for 251, 189 and 245 bytes), so these are `flagged` for it.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from test_sip_differential import ALL, unlike_sipmessage, unlike_tshark
from test_sip_torture import Case

from pipeline.protocols.sip import SipMessage, parse
from pipeline.protocols.uri import Source, parse_contacts, parse_uri, via_source

MESSAGES = Path(__file__).parent / "data" / "rfc5118"
CALLER = ("2001:db8::9:1", 5060, "udp")
REGISTER = {
    "method": "REGISTER",
    "cseq": 98176,
    "ruri_user": None,
    "to_user": "user",
    "to_host": "example.com",
}
TO_USER = {"ruri_user": "user", "ruri_host": "2001:db8::10", "to_user": "user", "to_host": "2001:db8::10"}
SDP = {"content_type": "application/sdp"}

CASES = [
    Case("ipv6-good", "4.1", "clean", "well formed", {**REGISTER, "ruri_host": "2001:db8::10"}),
    Case(
        "ipv6-bad",
        "4.2",
        "flagged",
        "an IPv6 reference needs its brackets; a registrar answers 400",
        REGISTER,
        {"bad_ruri"},
    ),
    Case(
        "port-ambiguous",
        "4.3",
        "clean",
        "well formed: what stands between the brackets is the address, 5070 its last group",
        {**REGISTER, "ruri_host": "2001:db8::10:5070"},
    ),
    Case("port-unambiguous", "4.4", "clean", "well formed", {**REGISTER, "ruri_host": "2001:db8::10"}),
    Case(
        "via-received-param-with-delim",
        "4.5",
        "clean",
        "not by the grammar of RFC 3261, but robust elements must read it",
        {"method": "BYE", "cseq": 321, "to_tag": "bd76ya", "via_branch": "z9hG4bKas3-111"},
    ),
    Case(
        "via-received-param-no-delim",
        "4.5",
        "clean",
        "well formed",
        {"method": "OPTIONS", "cseq": 921, "via_branch": "z9hG4bKas3"},
    ),
    Case(
        "ipv6-in-sdp",
        "4.6",
        "flagged",
        "well formed but for its length: no brackets in SDP",
        {**TO_USER, **SDP, "sdp_ip": "2001:db8::20", "sdp_port": 6000, "sdp_codecs": "G726-32/8000"},
        {"truncated_body"},
    ),
    Case(
        "mult-ip-in-header",
        "4.7",
        "clean",
        "IPv4 and IPv6 may be mixed",
        {"method": "BYE", "via_count": 3, "via_transport": "udp", "ruri_host": "host.example.net"},
    ),
    Case(
        "mult-ip-in-sdp",
        "4.8",
        "flagged",
        "well formed but for its length: each stream has an address of its own, the first audio's counts",
        {**TO_USER, **SDP, "sdp_ip": "192.0.2.1", "sdp_port": 22334, "sdp_codecs": "PCMU/8000"},
        {"extra_octets"},
    ),
    Case(
        "ipv4-mapped-ipv6",
        "4.9",
        "flagged",
        "well formed but for its length: IPv4-mapped addresses are addresses",
        {
            "from_host": "east.example.com",
            "via_count": 2,
            **SDP,
            "sdp_ip": "::ffff:192.0.2.2",
            "sdp_port": 6000,
        },
        {"extra_octets"},
    ),
    Case(
        "ipv6-bug-abnf-3-colons",
        "4.10",
        "clean",
        "a slip of RFC 3261's grammar allows the third colon: read, and shown as written",
        {"method": "OPTIONS", "ruri_user": "user", "ruri_host": "2001:db8:::192.0.2.1", "to_user": "user"},
    ),
    Case(
        "ipv6-correct-abnf-2-colons",
        "4.10",
        "clean",
        "the same, spelt right",
        {"method": "OPTIONS", "ruri_user": "user", "ruri_host": "2001:db8::192.0.2.1", "to_user": "user"},
    ),
]

# Where the sender of the topmost Via is, and of the bottommost (RFC 3261 18.2.1).
SOURCES: dict[str, tuple[Source, Source]] = {
    "via-received-param-with-delim": (("2001:db8::9:255", 5060, "udp"), ("2001:db8::9:255", 5060, "udp")),
    "via-received-param-no-delim": (("2001:db8::9:255", 5060, "udp"), ("2001:db8::9:255", 5060, "udp")),
    "ipv6-in-sdp": (("2001:db8::20", 5060, "udp"), ("2001:db8::20", 5060, "udp")),
    "mult-ip-in-header": (("2001:db8::9:1", 6050, "udp"), ("192.0.2.200", 5060, "tcp")),
    "ipv4-mapped-ipv6": (("::ffff:192.0.2.10", 19823, "udp"), ("::ffff:192.0.2.2", 5060, "udp")),
    "ipv6-bug-abnf-3-colons": (
        ("lab1.east.example.com", 5060, "udp"),
        ("lab1.east.example.com", 5060, "udp"),
    ),
    "ipv6-correct-abnf-2-colons": (
        ("lab1.east.example.com", 5060, "udp"),
        ("lab1.east.example.com", 5060, "udp"),
    ),
}
CONTACTS = {
    **dict.fromkeys(("ipv6-good", "ipv6-bad", "port-ambiguous", "port-unambiguous"), "2001:db8::1"),
    **dict.fromkeys(("via-received-param-no-delim", "mult-ip-in-sdp"), "2001:db8::9:1"),
    "ipv6-in-sdp": "2001:db8::20",
    "ipv4-mapped-ipv6": "::ffff:192.0.2.2",
}

# What sipmessage reads otherwise, and the rule; tshark does nowhere.
SIPMESSAGE_DIFFERS: dict[str, tuple[tuple[str, ...], str]] = {
    "ipv6-bad": (ALL, "RFC 5118 4.2: malformed; a mirror shows it all the same, and says so"),
    "ipv6-correct-abnf-2-colons": (
        ALL,
        "RFC 4291 2.2: well formed; it knows only the three colons of RFC 3261",
    ),
    "via-received-param-no-delim": (
        ("via_branch", "via_count", "via_transport"),
        "RFC 3261 25.1: a `received` address has no brackets",
    ),
    **dict.fromkeys(
        ("mult-ip-in-sdp", "ipv4-mapped-ipv6"),
        (("body",), "RFC 3261 18.3: the body ends where Content-Length says"),
    ),
}


def payloads() -> dict[str, bytes]:
    return {case.name: (MESSAGES / f"{case.name}.sip").read_bytes() for case in CASES}


def read(name: str) -> SipMessage:
    (message,) = parse(payloads()[name], datagram=True)
    return message


@pytest.mark.parametrize("case", CASES, ids=str)
def test_message(case: Case) -> None:
    message = read(case.name)
    assert {name: getattr(message, name) for name in case.fields} == dict(case.fields)
    assert set(message.defects) == case.defects
    assert (case.verdict == "clean") == (not case.defects)
    assert (via_source(message.via_top), via_source(message.via_last)) == SOURCES.get(
        case.name, (CALLER, CALLER)
    )
    hosts = [contact.address.host for contact in parse_contacts(message.contact) if contact.address]
    assert hosts == ([CONTACTS[case.name]] if case.name in CONTACTS else [])


def test_all_of_the_rfc_is_here() -> None:
    assert {case.name for case in CASES} == {path.stem for path in MESSAGES.iterdir()}
    assert [case.section for case in CASES] == "4.1 4.2 4.3 4.4 4.5 4.5 4.6 4.7 4.8 4.9 4.10 4.10".split()


@pytest.mark.parametrize(("name", "port"), [("port-ambiguous", None), ("port-unambiguous", 5070)])
def test_where_the_address_ends(name: str, port: int | None) -> None:
    uri = parse_uri(read(name).ruri or "")
    assert uri
    assert uri.port == port


def test_tshark_sees_the_same(tmp_path: Path) -> None:
    assert unlike_tshark(tmp_path, payloads()) == {}


def test_sipmessage_sees_the_same() -> None:
    assert unlike_sipmessage(payloads()) == {name: fields for name, (fields, _) in SIPMESSAGE_DIFFERS.items()}
