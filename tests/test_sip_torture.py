"""RFC 4475, the SIP torture test messages: what an analytics view makes of each, and why.

A mirror's reader neither answers nor forwards. So it refuses none of them: it shows what is there, and says
in `defects` what is wrong. A message is `clean` where the RFC calls it well formed as far as the view reads
it; `flagged` where it does not, or where the view cannot show it unchanged.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline.protocols.sip import SipMessage, parse
from pipeline.protocols.uri import aor, parse_contacts, parse_uri

MESSAGES = Path(__file__).parent / "data" / "sip" / "rfc4475"


@dataclass(frozen=True)
class Case:
    """One message: its section, what to think of it and why, and what the RFC's text says is in it."""

    name: str
    section: str
    verdict: Literal["clean", "flagged"]
    reason: str
    fields: Mapping[str, Any]
    defects: set[str] = field(default_factory=set)

    def __str__(self) -> str:
        return self.name


LONG_CALLER = "amazinglylongcallername" * 5
ODD_METHOD = "!interesting-Method0123456789_*+`.%indeed'~"
ODD_USER = "1_unusual.URI~(to-be!sure)&isn't+it$/crazy?,/;;*"
SDP = {"content_type": "application/sdp", "sdp_port": 49217, "sdp_codecs": "PCMU/8000,QCELP/8000"}

VALID = [
    Case(
        "wsinv",
        "3.1.1.1",
        "clean",
        "folding, blanks and cases all over are allowed",
        {
            "method": "INVITE",
            "ruri_user": "vivekg",
            "ruri_host": "chair-dnrc.example.com",
            "from_display": 'J Rosenberg \\"',
            "from_user": "jdrosen",
            "from_tag": "98asjd8",
            "to_user": "vivekg",
            "to_tag": "1918181833n",
            "cseq": 9,
            "via_count": 3,
            "via_branch": "390skdjuw",
            "via_transport": "udp",
            "sdp_ip": "192.0.2.4",
            **SDP,
        },
    ),
    Case(
        "intmeth",
        "3.1.1.2",
        "flagged",
        "well formed, but text columns hold no NUL: that of the quoted-pair is shown as U+FFFD",
        {
            "method": ODD_METHOD,
            "cseq": 139122385,
            "cseq_method": ODD_METHOD,
            "ruri_user": ODD_USER,
            "to_user": ODD_USER,
            "to_display": "BEL:\x07 NUL:\ufffd DEL:\x7f",
            "from_display": "token1~` token2'+_ token3*%!.-",
            "from_user": "mundane",
            "from_tag": "_token~1'+`*%!-.",
            "via_branch": "z9hG4bK-.!%66*_+`'~",
            "call_id": "intmeth.word%ZK-!.*_+'@word`~)(><:\\/\"][?}{",
        },
        {"nul"},
    ),
    Case(
        "esc01",
        "3.1.1.3",
        "clean",
        "escapes in URIs stand for their characters, once",
        {
            "ruri_user": "sips:user@example.com",
            "ruri_host": "example.net",
            "to_user": "user",
            "from_user": "I have spaces",
            "sdp_ip": "192.0.2.1",
            **SDP,
        },
    ),
    Case(
        "escnull",
        "3.1.1.4",
        "clean",
        "an escaped NUL stays escaped, so the user is not shortened",
        {
            "method": "REGISTER",
            "to_user": "null-%00-null",
            "from_user": "null-%00-null",
            "from_tag": "839923423",
        },
    ),
    Case(
        "esc02",
        "3.1.1.5",
        "clean",
        "% is no escape in a method, a display name or a header name",
        {
            "method": "RE%47IST%45R",
            "cseq_method": "RE%47IST%45R",
            "to_display": "%Z%45",
            "from_display": "%Z%45",
            "via_branch": "z9hG4bK209%fzsnel234",
            "contact": "<sip:alias1@host1.example.com>, <sip:alias3@host3.example.com>",
        },
    ),
    Case(
        "lwsdisp",
        "3.1.1.6",
        "clean",
        "no blank is needed before the bracket: an erratum of RFC 3261",
        {"from_display": "caller", "from_user": "caller", "from_host": "example.com", "from_tag": "323"},
    ),
    Case(
        "longreq",
        "3.1.1.7",
        "clean",
        "long values are kept whole",
        {
            "from_user": LONG_CALLER,
            "from_tag": "12" + "982" * 50 + "424",
            "to_display": "I have a user name of " + "extreme" * 10 + " proportion",
            "to_user": "user",
            "to_host": "example.com",
            "call_id": "longreq.one" + "really" * 20 + "longcallid",
            "contact": f"<sip:{LONG_CALLER}@host5.example.net>",
            "via_count": 34,
            "via_top": "SIP/2.0/TCP sip33.example.com",
            "via_branch": None,
            "sdp_ip": "192.0.2.1",
            **SDP,
        },
    ),
    Case(
        "dblreq",
        "3.1.1.8",
        "flagged",
        "in a datagram what follows the body is noise (RFC 3261 18.3): one REGISTER, no INVITE",
        {
            "method": "REGISTER",
            "cseq": 8,
            "to_user": "j.user",
            "body": b"",
            "contact": "sip:j.user@host.example.com",
        },
        {"extra_octets"},
    ),
    Case(
        "semiuri",
        "3.1.1.9",
        "clean",
        "a semicolon may stand in the user",
        {"ruri_user": "user;par=u@example.net", "ruri_host": "example.com", "to_user": "j_user"},
    ),
    Case(
        "transports",
        "3.1.1.10",
        "clean",
        "transports are an open set",
        {
            "via_count": 5,
            "via_transport": "udp",
            "via_last": "SIP/2.0/TCP t5.example.com;branch=z9hG4bK0a9idfnee",
        },
    ),
    Case(
        "mpart01",
        "3.1.1.11",
        "clean",
        "a binary multipart body is left alone",
        {
            "method": "MESSAGE",
            "call_id": "3d9485ad0c49859b@Zmx1ZmZ5LW1hYy0xNi5sb2NhbA..",
            "content_type": "multipart/mixed;boundary=7a9cbec02ceef655",
            "user_agent": "SIPimp.org/0.2.5 (curses)",
            "from_user": "fluffy",
            "sdp_ip": None,
        },
    ),
    Case(
        "unreason",
        "3.1.1.12",
        "clean",
        "a reason phrase may be any UTF-8",
        {"status": 200, "method": "INVITE", "cseq": 35, "sdp_ip": "192.0.2.198", "to_tag": "2229", **SDP},
    ),
    Case("noreason", "3.1.1.13", "clean", "a reason phrase may be empty", {"status": 100, "reason": None}),
]

INVALID = [
    Case(
        "badinv01",
        "3.1.2.1",
        "flagged",
        "the Via that can be read is shown, the empty values are not counted",
        {
            "via_count": 1,
            "via_top": "SIP/2.0/UDP 192.0.2.15;;",
            "from_tag": "134161461246",
            "sdp_ip": "192.0.2.15",
        },
        {"bad_via"},
    ),
    Case(
        "clerr",
        "3.1.2.2",
        "flagged",
        "as much of the body as there is",
        {"from_tag": "93942939o2", "sdp_ip": "192.0.2.155", **SDP},
        {"truncated_body"},
    ),
    Case(
        "ncl",
        "3.1.2.3",
        "flagged",
        "a length below 0 is none: in a datagram the rest is the body",
        {"cseq": 0, "sdp_ip": "192.0.2.53", **SDP},
        {"bad_content_length"},
    ),
    Case(
        "scalar02",
        "3.1.2.4",
        "flagged",
        "numbers out of range are none",
        {"method": "REGISTER", "cseq": None, "cseq_method": "REGISTER", "expires": None},
        {"bad_cseq", "bad_expires"},
    ),
    Case(
        "scalarlg",
        "3.1.2.5",
        "flagged",
        "a stack would drop it; an engineer wants to see it",
        {"status": 503, "cseq": None, "cseq_method": "OPTIONS", "from_tag": "2easdjfejw"},
        {"bad_cseq"},
    ),
    Case(
        "quotbal",
        "3.1.2.6",
        "flagged",
        "the quote is taken to end before the bracket",
        {"to_user": "j.user", "to_host": "example.com", "to_display": "Mr. J. User", "sdp_ip": "192.0.2.15"},
        {"bad_to"},
    ),
    Case(
        "ltgtruri",
        "3.1.2.7",
        "flagged",
        "the brackets are ignored",
        {"ruri": "<sip:user@example.com>", "ruri_user": "user", "ruri_host": "example.com", "cseq": 1},
        {"bad_ruri"},
    ),
    Case(
        "lwsruri",
        "3.1.2.8",
        "flagged",
        "the blank is ignored",
        {"ruri_user": "user", "ruri_host": "example.com", "cseq": 2130706432, "to_tag": "3xfe-9921883-z9f"},
        {"bad_ruri"},
    ),
    Case(
        "lwsstart",
        "3.1.2.9",
        "flagged",
        "the extra blanks are ignored",
        {"method": "INVITE", "ruri": "sip:user@example.com", "cseq": 1893884},
        {"bad_start_line"},
    ),
    Case(
        "trws",
        "3.1.2.10",
        "flagged",
        "the blanks at the end are ignored",
        {
            "method": "OPTIONS",
            "ruri": "sip:remote-target@example.com",
            "cseq": 238923,
            "via_transport": "tcp",
        },
        {"bad_start_line"},
    ),
    Case(
        "escruri",
        "3.1.2.11",
        "flagged",
        "the headers in the Request-URI are ignored",
        {"ruri_user": "user", "ruri_host": "example.com", "cseq": 149209342},
        {"bad_ruri"},
    ),
    Case(
        "baddate",
        "3.1.2.12",
        "clean",
        "the view does not read Date",
        {"cseq": 1392934, "sdp_ip": "192.0.2.5"},
    ),
    Case(
        "regbadct",
        "3.1.2.13",
        "clean",
        "the missing brackets of the Contact can be inferred",
        {"method": "REGISTER", "contact": "sip:user@example.com?Route=%3Csip:sip.example.com%3E"},
    ),
    Case(
        "badaspec",
        "3.1.2.14",
        "flagged",
        "the blanks within the brackets are ignored",
        {
            "from_display": "Bell, Alexander",
            "to_display": "Watson, Thomas",
            "to_user": "t.watson",
            "to_host": "example.org",
        },
        {"bad_to"},
    ),
    Case(
        "baddn",
        "3.1.2.15",
        "flagged",
        "the missing quotes are inferred; the published bytes lack the empty line, too",
        {
            "from_display": "Bell, Alexander",
            "from_user": "a.g.bell",
            "from_tag": "43",
            "to_display": "Watson, Thomas",
            "to_user": "t.watson",
        },
        {"bad_from", "bad_to", "no_end_of_headers"},
    ),
    Case(
        "badvers",
        "3.1.2.16",
        "flagged",
        "read as 2.0, for want of any other",
        {"method": "OPTIONS", "cseq": 1, "from_display": "A. Bell", "via_transport": "udp"},
        {"bad_version"},
    ),
    Case(
        "mismatch01",
        "3.1.2.17",
        "flagged",
        "the start line counts",
        {"method": "OPTIONS", "cseq_method": "INVITE", "cseq": 8},
        {"cseq_method_mismatch"},
    ),
    Case(
        "mismatch02",
        "3.1.2.18",
        "flagged",
        "the start line counts, methods are an open set",
        {"method": "NEWMETHOD", "cseq_method": "INVITE", "cseq": 8},
        {"cseq_method_mismatch"},
    ),
    Case(
        "bigcode",
        "3.1.2.19",
        "flagged",
        "a stack would drop it; the view shows it without a status",
        {"is_request": False, "status": None, "reason": "better not break the receiver", "cseq": 353494},
        {"bad_status"},
    ),
]

OTHERS = [
    Case(
        "badbranch",
        "3.2.1",
        "flagged",
        "the cookie alone identifies nothing",
        {"via_branch": "z9hG4bK", "cseq": 8, "from_tag": "33242"},
        {"bad_branch"},
    ),
    Case(
        "insuf",
        "3.3.1",
        "flagged",
        "what is missing is None",
        {"method": "INVITE", "cseq": 193942, "call_id": None, "from_user": None, "to_user": None, **SDP},
        {"missing_call_id", "missing_from", "missing_to"},
    ),
    Case(
        "unkscm",
        "3.3.2",
        "clean",
        "a URI of an unknown scheme has neither user nor host for us",
        {"ruri": "nobodyKnowsThisScheme:totallyopaquecontent", "ruri_user": None, "ruri_host": None},
    ),
    Case(
        "novelsc",
        "3.3.3",
        "clean",
        "so has one that is known elsewhere",
        {"ruri": "soap.beep://192.0.2.103:3002", "ruri_user": None, "ruri_host": None},
    ),
    Case(
        "unksm2",
        "3.3.4",
        "clean",
        "in From, To and Contact as well",
        {
            "from_user": None,
            "from_tag": "3234233",
            "to_user": None,
            "to_host": None,
            "contact": "<name:John_Smith>",
        },
    ),
    Case(
        "bext01",
        "3.3.5",
        "clean",
        "extensions are the endpoints' concern",
        {"method": "OPTIONS", "via_transport": "tls", "to_user": "j_user"},
    ),
    Case(
        "invut",
        "3.3.6",
        "clean",
        "a body of an unknown type is kept as it is",
        {"content_type": "application/unknownformat", "sdp_ip": None, "sdp_codecs": None, "cseq": 235448},
    ),
    Case(
        "regaut01",
        "3.3.7",
        "clean",
        "credentials are not read",
        {"method": "REGISTER", "cseq": 9338, "from_tag": "87321hj23128", "to_user": "j.user"},
    ),
    Case(
        "multi01",
        "3.3.8",
        "flagged",
        "of headers that may stand only once the first counts, as on the wire",
        {
            "cseq": 5,
            "call_id": "multi01.98asdh@192.0.2.1",
            "from_host": "example.com",
            "from_tag": "3413415",
            "to_user": "user",
        },
        {"duplicate_call_id", "duplicate_cseq", "duplicate_from", "duplicate_to"},
    ),
    Case(
        "mcl01",
        "3.3.9",
        "flagged",
        "the first Content-Length counts",
        {"body": b"There's no wa", "cseq": 15932},
        {"duplicate_content_length", "extra_octets"},
    ),
    Case(
        "bcast",
        "3.3.10",
        "clean",
        "a second Via that is a broadcast address is no fault of the syntax",
        {
            "status": 200,
            "via_count": 2,
            "via_top": "SIP/2.0/UDP 192.0.2.198;branch=z9hG4bK1324923",
            "via_last": "SIP/2.0/UDP 255.255.255.255;branch=z9hG4bK1saber23",
            **SDP,
        },
    ),
    Case("zeromf", "3.3.11", "clean", "Max-Forwards is the proxies' concern", {"cseq": 39234321}),
    Case(
        "cparam01",
        "3.3.12",
        "clean",
        "without brackets the parameter is the Contact's",
        {"contact": "sip:+19725552222@gw1.example.net;unknownparam", "cseq": 2},
    ),
    Case(
        "cparam02",
        "3.3.13",
        "clean",
        "with brackets it is the URI's",
        {"contact": "<sip:+19725552222@gw1.example.net;unknownparam>", "cseq": 3},
    ),
    Case(
        "regescrt",
        "3.3.14",
        "clean",
        "a Contact may hold headers",
        {"contact": "<sip:user@example.com?Route=%3Csip:sip.example.com%3E>", "cseq": 14398234},
    ),
    Case(
        "sdp01",
        "3.3.15",
        "clean",
        "Accept is the endpoints' concern",
        {"sdp_ip": "192.0.2.5", "cseq": 8, **SDP},
    ),
    Case(
        "inv2543",
        "3.4.1",
        "clean",
        "RFC 2543: no branch, no From tag, no Content-Length: the body is all the rest",
        {
            "via_branch": None,
            "from_tag": None,
            "from_user": "+13035551111",
            "to_user": "+16505552222",
            "sdp_ip": "192.0.2.5",
            "sdp_codecs": "PCMU/8000",
        },
    ),
]

CASES = VALID + INVALID + OTHERS


def read(name: str) -> SipMessage:
    (message,) = parse((MESSAGES / f"{name}.sip").read_bytes())
    return message


@pytest.mark.parametrize("case", CASES, ids=str)
def test_message(case: Case) -> None:
    message = read(case.name)
    assert {name: getattr(message, name) for name in case.fields} == dict(case.fields)
    assert set(message.defects) == case.defects
    assert (case.verdict == "clean") == (not case.defects)
    assert case.name in {"mpart01", "insuf"} or (message.call_id or "").startswith(case.name + ".")


def test_all_of_the_rfc_is_here() -> None:
    assert {case.name for case in CASES} == {path.stem for path in MESSAGES.glob("*.sip")}
    sections = [f"3.1.1.{n}" for n in range(1, 14)] + [f"3.1.2.{n}" for n in range(1, 20)]
    sections += ["3.2.1", *(f"3.3.{n}" for n in range(1, 16)), "3.4.1"]
    assert [case.section for case in CASES] == sections


def test_unreason_in_full() -> None:
    """RFC 4475 3.1.1.12 gives the phrase in hex: 200 is 2**3 * 5**2, "but 199 is prime"."""
    phrase = (
        "3d20322a2a33202a20352a2a3220d0bdd0be20d181d182d0be20d0b4d0b5d0b2d18fd0bdd0bed181d182d0be"
        "20d0b4d0b5d0b2d18fd182d18c202d20d0bfd180d0bed181d182d0bed0b5"
    )
    assert read("unreason").reason == bytes.fromhex(phrase).decode()


def test_the_contacts_of_the_registers() -> None:
    """RFC 4475 3.1.1.3, 3.1.1.4, 3.1.2.13 and 3.3.12 to 3.3.14, on what their Contacts mean."""
    (esc01,) = parse_contacts(read("esc01").contact)
    assert esc01.address
    assert (esc01.address.user, esc01.address.params) == ("caller", {"lr": "", "name": "value%41"})

    escnull = parse_contacts(read("escnull").contact)
    assert len({contact.address.user for contact in escnull if contact.address}) == 2
    assert aor(read("escnull").to_user, "example.com") == "null-%00-null@example.com"

    outside, inside = (parse_contacts(read(name).contact)[0] for name in ("cparam01", "cparam02"))
    assert (outside.params, inside.params) == ({"unknownparam": ""}, {})
    assert inside.address == parse_uri("sip:+19725552222@gw1.example.net;unknownparam")
    assert inside.address
    assert inside.address.params == {"unknownparam": ""}

    for name in ("regbadct", "regescrt"):
        (contact,) = parse_contacts(read(name).contact)
        assert contact.address
        assert (contact.address.user, contact.address.headers) == ("user", "Route=%3Csip:sip.example.com%3E")

    (scalar02,) = parse_contacts(read("scalar02").contact)
    assert scalar02.expires is None
