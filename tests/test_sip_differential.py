"""The SIP view beside two other implementations, tshark and the sipmessage package.

Every SIP payload of the recorded Kamailio traffic and all of RFC 4475 goes through all three. They agree,
save for what stands in the tables below, each with the rule that makes ours right, or at least allowed.
"""

from __future__ import annotations

import struct
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import sipmessage

from pipeline.ingest.recordings import read_recording
from pipeline.protocols import hep
from pipeline.protocols.sip import SipMessage, parse
from pipeline.protocols.uri import parse_contacts

DATA = Path(__file__).parent / "data"
TORTURE = sorted((DATA / "sip" / "rfc4475").glob("*.sip"))
MIX_SAMPLE = 400  # evenly spread payloads of the big recording; all of the others

Fields = dict[str, Any]


@cache
def payloads() -> dict[str, bytes]:
    """Each payload once, under the name of the file and its place in it."""
    found = {path.stem: path.read_bytes() for path in TORTURE}
    seen = set(found.values())
    for recording in sorted((DATA / "kamailio").glob("*.hep")):
        packets = [packet for datagram in read_recording(recording) for packet in hep.decode(datagram.data)]
        step = max(1, len(packets) // MIX_SAMPLE)
        for number, packet in enumerate(packets[::step]):
            if packet.protocol_type == 1 and packet.payload not in seen:
                seen.add(packet.payload)
                found[f"{recording.stem}:{number * step}"] = packet.payload
    return found


def ours(payload: bytes) -> SipMessage:
    return parse(payload, datagram=True)[0]


# tshark


def write_pcap(path: Path, datagrams: Iterator[bytes]) -> None:
    """Raw IPv4 (link type 101), UDP from port 5060 to port 5060; microseconds count the packets."""
    with path.open("wb") as file:
        file.write(struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 1 << 18, 101))
        for number, payload in enumerate(datagrams):
            udp = struct.pack("!HHHH", 5060, 5060, 8 + len(payload), 0) + payload
            ip = struct.pack("!BBHHHBBHII", 0x45, 0, 20 + len(udp), 0, 0, 64, 17, 0, 0x7F000001, 0x7F000002)
            file.write(struct.pack("<IIII", 0, number, 20 + len(udp), 20 + len(udp)) + ip + udp)


TSHARK_FIELDS = (
    "sip.Method sip.Status-Code sip.r-uri sip.r-uri.user sip.r-uri.host sip.Call-ID sip.CSeq.seq"
    " sip.CSeq.method sip.from.user sip.from.host sip.from.tag sip.to.user sip.to.host sip.to.tag"
    " sip.Via.branch sip.Via.transport sip.Contact sip.Expires sip.User-Agent sip.Server sip.Content-Type"
    " sdp.connection_info.address sdp.media.port"
).split()


def tshark_views(directory: Path, named: Mapping[str, bytes]) -> dict[str, dict[str, list[str]]]:
    """All values of these fields that tshark finds in each payload."""
    pcap = directory / "sip.pcap"
    write_pcap(pcap, iter(named.values()))
    fields = [argument for field in TSHARK_FIELDS for argument in ("-e", field)]
    form = ["-T", "fields", "-E", "separator=\x1e", "-E", "aggregator=\x1f", "-E", "occurrence=a"]
    command = ["tshark", "-r", str(pcap), "-o", "sip.strict_sip_version:FALSE", *form, *fields]
    output = subprocess.run(command, capture_output=True, check=True, timeout=120).stdout
    lines = output.decode("utf-8", "replace").removesuffix("\n").split("\n")
    return {
        name: {
            field: [value for value in values.split("\x1f") if value]
            for field, values in zip(TSHARK_FIELDS, line.split("\x1e"), strict=True)
        }
        for name, line in zip(named, lines, strict=True)
    }


def from_tshark(view: dict[str, list[str]]) -> Fields:
    """tshark's words for ours. It writes users as they stand, and hosts in the sender's case."""

    def first(key: str) -> str | None:
        return next(iter(view[key]), None)

    def host(key: str) -> str | None:
        return (first(key) or "").lower().strip("[]") or None

    def user(key: str) -> str | None:
        return unquote(first(key) or "") or None

    def number(key: str) -> int | None:
        return int(first(key) or "") if first(key) else None

    return {
        "method": first("sip.Method") or first("sip.CSeq.method"),
        "status": number("sip.Status-Code"),
        "ruri": first("sip.r-uri"),
        "ruri_user": user("sip.r-uri.user"),
        "ruri_host": host("sip.r-uri.host"),
        "call_id": first("sip.Call-ID"),
        "cseq": number("sip.CSeq.seq"),
        "cseq_method": first("sip.CSeq.method"),
        "from_user": user("sip.from.user"),
        "from_host": host("sip.from.host"),
        "from_tag": first("sip.from.tag"),
        "to_user": user("sip.to.user"),
        "to_host": host("sip.to.host"),
        "to_tag": first("sip.to.tag"),
        "via_branch": first("sip.Via.branch"),
        "via_count": len(view["sip.Via.transport"]),
        "via_transport": (first("sip.Via.transport") or "").lower() or None,
        "contact": ", ".join(view["sip.Contact"]) or None,
        "expires": number("sip.Expires"),
        "user_agent": first("sip.User-Agent") or first("sip.Server"),
        "content_type": first("sip.Content-Type"),
        "sdp_ip": first("sdp.connection_info.address"),
        "sdp_port": number("sdp.media.port"),
    }


REFUSED = "refused"


def from_sipmessage(payload: bytes) -> Fields | None:
    """sipmessage's words for ours, or REFUSED; None where it refuses all. It keeps escapes in users."""
    try:
        message: Any = sipmessage.Message.parse(payload)
    except ValueError:
        return None

    def field(read: Callable[[], Any]) -> Any:
        try:
            return read() or None
        except (ValueError, LookupError):
            return REFUSED

    fields: dict[str, Callable[[], Any]] = {
        "call_id": lambda: message.call_id,
        "cseq": lambda: message.cseq.sequence,
        "cseq_method": lambda: message.cseq.method,
        "from_user": lambda: unquote(message.from_address.uri.user or ""),
        "from_host": lambda: str.lower(message.from_address.uri.host).strip("[]"),
        "from_display": lambda: message.from_address.name,
        "from_tag": lambda: message.from_address.parameters.get("tag"),
        "to_user": lambda: unquote(message.to_address.uri.user or ""),
        "to_host": lambda: str.lower(message.to_address.uri.host).strip("[]"),
        "to_display": lambda: message.to_address.name,
        "to_tag": lambda: message.to_address.parameters.get("tag"),
        "via_branch": lambda: message.via[0].parameters.get("branch"),
        "via_count": lambda: len(message.via),
        "via_transport": lambda: str.lower(message.via[0].transport),
        "expires": lambda: message.expires,
        "user_agent": lambda: message.user_agent or message.server,
        "content_type": lambda: str(message.content_type or ""),
        "body": lambda: message.body,
        "contacts": lambda: [(str(one.uri), one.parameters.get("expires")) for one in message.contact],
    }
    if isinstance(message, sipmessage.Request):
        fields |= {
            "method": lambda: message.method,
            "ruri_user": lambda: unquote(message.uri.user or ""),
            "ruri_host": lambda: str.lower(message.uri.host).strip("[]"),
        }
    else:
        fields |= {"status": lambda: message.code, "reason": lambda: message.phrase}
    return {name: field(read) for name, read in fields.items()}


def as_sipmessage_says(message: SipMessage, field: str) -> Any:
    if field == "contacts":
        contacts = parse_contacts(message.contact)
        return [(contact.uri, contact.params.get("expires")) for contact in contacts] or None
    return getattr(message, field) or None


# What differs: the message, the fields (ALL: theirs is no SIP message), and the rule.
ALL = ("everything",)

TSHARK_DIFFERS: dict[str, tuple[tuple[str, ...], str]] = {
    "bigcode": (ALL, "a status of more than 3 digits (RFC 3261 7.2): kept without a status, to be seen"),
    "escnull": (
        ("from_user", "to_user"),
        "RFC 4475 3.1.1.4: %00 must not shorten the user, so it stays written out",
    ),
    "intmeth": (
        ("ruri_user", "cseq_method"),
        "RFC 3261 25.1: a password may hold any of &=+$, and a method %",
    ),
    "longreq": (("via_branch", "via_count"), "RFC 3261 7.3.1: blanks may stand before the colon, so 34 Vias"),
    "ltgtruri": (("ruri_user", "ruri_host"), "RFC 4475 3.1.2.7: a liberal element ignores the brackets"),
    "lwsruri": (ALL, "RFC 4475 3.1.2.8: the blank in the Request-URI may be ignored"),
    "lwsstart": (ALL, "RFC 4475 3.1.2.9: a liberal element ignores the extra blanks"),
    "ncl": (
        ("sdp_ip", "sdp_port"),
        "RFC 4475 3.1.2.3: length unknown, in a datagram the rest is the body (18.3)",
    ),
    "quotbal": (("to_user", "to_host"), "RFC 4475 3.1.2.6: the end of the quote may be inferred"),
    "scalar02": (
        ("cseq", "contact", "expires"),
        "RFC 4475 3.1.2.4: out of range is no number; 7.3.1: one blank for a fold",
    ),
    "scalarlg": (("cseq",), "RFC 4475 3.1.2.5: a CSeq out of range is no number, least of all 2**32-1"),
    "wsinv": (
        (
            *("from_user", "from_host", "from_tag", "to_user", "to_host", "to_tag"),
            *("via_branch", "via_count", "via_transport", "contact"),
        ),
        "RFC 3261 7.3.1: blanks may stand before the colon and around separators, folds are one blank",
    ),
}

SIPMESSAGE_DIFFERS: dict[str, tuple[tuple[str, ...], str]] = {
    "badaspec": (
        ("to_user", "to_host", "to_display", "to_tag"),
        "RFC 4475 3.1.2.14: the blanks may be ignored",
    ),
    "baddn": (ALL, "RFC 3261 7.5: no empty line at the end of the headers; what is there is shown"),
    "badinv01": (
        ("via_branch", "via_count", "via_transport", "contacts"),
        "RFC 4475 3.1.2.1: what can be read is shown",
    ),
    "badvers": (ALL, "RFC 4475 3.1.2.16: a mirror shows what other versions send"),
    "bigcode": (("status",), "RFC 3261 7.2: a status has 3 digits"),
    "dblreq": (("body",), "RFC 3261 18.3: the body ends where Content-Length says"),
    "esc01": (("contacts",), "RFC 3261 7.3.1: it does not unfold"),
    "escnull": (
        ("from_user", "to_user"),
        "RFC 4475 3.1.1.4: %00 must not shorten the user, so it stays written out",
    ),
    "escruri": (ALL, "RFC 4475 3.1.2.11: the headers in the Request-URI may be ignored"),
    "insuf": (
        (
            *("call_id", "from_user", "from_host", "from_display", "from_tag"),
            *("to_user", "to_host", "to_display", "to_tag"),
        ),
        "RFC 4475 3.3.1: absent headers are absent, the rest is shown",
    ),
    "intmeth": (
        ("to_display", "via_branch"),
        "RFC 3261 25.1: a quoted-pair is its second character; % is no escape in a Via",
    ),
    "longreq": (("via_count",), "RFC 3261 7.3.1: blanks may stand before the colon, so 34 Vias"),
    "ltgtruri": (ALL, "RFC 4475 3.1.2.7: a liberal element ignores the brackets"),
    "lwsruri": (ALL, "RFC 4475 3.1.2.8: the blank in the Request-URI may be ignored"),
    "lwsstart": (ALL, "RFC 4475 3.1.2.9: a liberal element ignores the extra blanks"),
    "mcl01": (("body",), "RFC 3261 18.3: the body ends where Content-Length says; the first of two counts"),
    "novelsc": (ALL, "RFC 4475 3.3.3: well formed, any scheme may stand there"),
    "quotbal": (
        ("to_user", "to_host", "to_display", "to_tag"),
        "RFC 4475 3.1.2.6: the end of the quote may be inferred",
    ),
    "regbadct": (("contacts",), "RFC 4475 3.1.2.13: the angle brackets may be inferred"),
    "regescrt": (("contacts",), "RFC 4475 3.3.14: well formed, a Contact may hold headers"),
    "scalar02": (ALL, "RFC 3261 7.3.1: it does not unfold"),
    "scalarlg": (("cseq",), "RFC 3261 8.1.1.5: a CSeq is less than 2**31"),
    "semiuri": (ALL, "RFC 3261 7.3.1: it does not unfold"),
    "trws": (ALL, "RFC 4475 3.1.2.10: a liberal element ignores blanks after the version"),
    "unkscm": (ALL, "RFC 4475 3.3.2: well formed, any scheme may stand there"),
    "unksm2": (
        (
            *("from_user", "from_host", "from_display", "from_tag"),
            *("to_user", "to_host", "to_display", "to_tag", "contacts"),
        ),
        "RFC 4475 3.3.4: well formed, any scheme may stand there",
    ),
    "wsinv": (ALL, "RFC 3261 7.3.1: it does not unfold"),
    "p:17": (
        ("contacts",),
        "RFC 3261 25.1: a comma outside quotes separates the two Contacts that Kamailio sent",
    ),
}


def unlike_tshark(directory: Path, named: Mapping[str, bytes]) -> dict[str, tuple[str, ...]]:
    """The fields of each payload that tshark reads otherwise."""
    differs: dict[str, tuple[str, ...]] = {}
    for name, view in tshark_views(directory, named).items():
        message, theirs = ours(named[name]), from_tshark(view)
        fields = tuple(field for field, value in theirs.items() if getattr(message, field) != value)
        if fields:
            differs[name] = fields if theirs["call_id"] else ALL
    return differs


def unlike_sipmessage(named: Mapping[str, bytes]) -> dict[str, tuple[str, ...]]:
    """The fields of each payload that sipmessage reads otherwise."""
    differs: dict[str, tuple[str, ...]] = {}
    for name, payload in named.items():
        message, theirs = ours(payload), from_sipmessage(payload)
        if theirs is None:
            differs[name] = ALL
            continue
        fields = tuple(
            field for field, value in theirs.items() if as_sipmessage_says(message, field) != value
        )
        if fields:
            differs[name] = fields
    return differs


def test_tshark_sees_the_same(tmp_path: Path) -> None:
    told = {name: fields for name, (fields, _) in TSHARK_DIFFERS.items()}
    assert unlike_tshark(tmp_path, payloads()) == told


def test_sipmessage_sees_the_same() -> None:
    told = {name: fields for name, (fields, _) in SIPMESSAGE_DIFFERS.items()}
    assert unlike_sipmessage(payloads()) == told


def test_what_is_compared() -> None:
    """All of RFC 4475, and enough of each recording."""
    names = list(payloads())
    assert len(TORTURE) == 49
    assert len(names) > 1000
    recordings = {name.partition(":")[0] for name in names if ":" in name}
    assert len(recordings) >= 30
