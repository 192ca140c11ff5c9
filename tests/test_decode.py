"""From datagrams to rows and events: one row for each message, nothing lost, nothing believed too easily."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from recordings import PATHS
from tap import hep3, sip

from pipeline import decode
from pipeline.agents_seen import MAX_AGENTS, MAX_CAPTURE_IDS
from pipeline.decode import Decoder
from pipeline.ingest import Datagram
from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import HepPacket

NOW_US = 1_800_000_000_000_000
HOUR_US = 3_600_000_000
INTEREST = {"INVITE", "REGISTER"}


def arrived(data: bytes, *, at_us: int = NOW_US, agent: str = "10.0.0.5", trusted: bool = True) -> Datagram:
    return Datagram(at_us, agent, 9060, "udp", trusted, data)


def invite(call_id: str, **how: Any) -> bytes:
    return hep3(sip("INVITE sip:bob@sip.test SIP/2.0", call_id), **{"ts_us": NOW_US - 500, **how})


def rows(decoder: Decoder, table: str = "sip") -> list[dict[str, Any]]:
    taken = decoder.take()
    return taken[table].to_pylist() if table in taken else []


@pytest.fixture
def decoder() -> Decoder:
    return Decoder("node-1", INTEREST)


def us(row: dict[str, Any], column: str) -> int:
    return round(row[column].timestamp() * 1_000_000)


def test_columns(decoder: Decoder) -> None:
    """Where each part of a packet goes."""
    payload = sip("INVITE sip:bob@sip.test SIP/2.0", "c1@x", "Contact: <sip:alice@10.0.0.9>", "Expires: 60")
    decoder.decode([arrived(hep3(payload, ts_us=NOW_US - 1500, agent_id=7, correlation_id=b"other@x"))])
    (row,) = rows(decoder)
    assert us(row, "ts") == NOW_US - 1500
    assert us(row, "received_at") == NOW_US
    got = {
        name: value for name, value in row.items() if value is not None and name not in {"ts", "received_at"}
    }
    assert got == {
        "node": "node-1",
        "agent_id": 7,
        "agent_addr": "10.0.0.5",
        "hep_version": 3,
        "transport": "udp",
        "src_ip": "127.0.0.21",
        "src_port": 5062,
        "dst_ip": "127.0.0.1",
        "dst_port": 5060,
        "call_id": "c1@x",
        "correlation_id": "other@x",
        "method": "INVITE",
        "cseq": 1,
        "from_user": "alice",
        "from_host": "sip.test",
        "from_tag": "a1",
        "to_user": "bob",
        "to_host": "sip.test",
        "ruri_user": "bob",
        "ruri_host": "sip.test",
        "via_branch": "z9hG4bK-c1-x",
        "contact": "<sip:alice@10.0.0.9>",
        "expires": 60,
        "payload": payload,
        "payload_bytes": len(payload),
        "msg_id": NOW_US,
    }


def test_events_are_those_of_interest(decoder: Decoder) -> None:
    """Requests and replies by CSeq's method; with the agent's name, the hop and the row they belong to."""
    events = decoder.decode(
        [
            arrived(invite("c1@x")),
            arrived(hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", "o1@x"))),
            arrived(hep3(sip("SIP/2.0 180 Ringing", "c1@x", cseq="1 INVITE"), agent_id=9)),
            arrived(hep3(sip("SIP/2.0 200 OK", "o1@x", cseq="1 OPTIONS"))),
        ]
    )
    assert [(event.sip.method, event.sip.status, event.agent) for event in events] == [
        ("INVITE", None, "10.0.0.5/2001"),
        ("INVITE", 180, "10.0.0.5/9"),
    ]
    assert (events[0].src, events[0].dst, events[0].transport) == (
        ("127.0.0.21", 5062),
        ("127.0.0.1", 5060),
        "udp",
    )
    stored = rows(decoder)
    assert [event.msg_id for event in events] == [stored[0]["msg_id"], stored[2]["msg_id"]]


def test_ids_rise(decoder: Decoder) -> None:
    """Unique and in order of arrival: within one read, when the clock steps back, and from the last run on."""
    decoder.decode([arrived(invite(f"{n}@x")) for n in range(3)])
    decoder.decode([arrived(invite("back@x"), at_us=NOW_US - HOUR_US)])
    decoder.decode([arrived(invite("on@x"), at_us=NOW_US + 10)])
    ids = [row["msg_id"] for row in rows(decoder)]
    assert ids == [NOW_US, NOW_US + 1, NOW_US + 2, NOW_US + 3, NOW_US + 10]
    again = Decoder("node-1", INTEREST, last_msg_id=NOW_US + HOUR_US)
    again.decode([arrived(invite("after@x"))])
    assert rows(again)[0]["msg_id"] == NOW_US + HOUR_US + 1


@pytest.mark.parametrize(
    ("ts_us", "expected_us"),
    [
        (NOW_US - 30 * 24 * HOUR_US, NOW_US - 30 * 24 * HOUR_US),  # a recording of last month
        (NOW_US + HOUR_US, NOW_US + HOUR_US),  # a clock that is wrong
        (NOW_US + 25 * HOUR_US, NOW_US),  # one nobody can live by
        (0, NOW_US),  # none
    ],
)
def test_event_time(decoder: Decoder, ts_us: int, expected_us: int) -> None:
    (event,) = decoder.decode([arrived(invite("c1@x", ts_us=ts_us))])
    assert event.ts_us == expected_us
    assert us(rows(decoder)[0], "ts") == expected_us


def test_hep1_keeps_the_order_of_one_read(decoder: Decoder) -> None:
    """It brings no time; all datagrams of a read have one arrival time, but came one after the other."""
    recorded = list(read_recording(PATHS["b_hep1"]))
    events = decoder.decode([arrived(record.data) for record in recorded])
    times = [event.ts_us for event in events]
    assert times == sorted(set(times))
    assert NOW_US <= times[0] <= times[-1] < NOW_US + len(recorded)


def test_several_packets_in_a_datagram(decoder: Decoder) -> None:
    """Each is a message of its own; what follows them is a defect of the last."""
    decoder.decode([arrived(b"".join(invite(f"{n}@x") for n in range(3)) + b"rest")])
    assert [row["call_id"] for row in rows(decoder)] == ["0@x", "1@x", "2@x"]
    assert decoder.counts.unpacked == 2
    assert decoder.counts.defects == {"hep_trailing": 1}


@pytest.mark.parametrize(("ip_proto", "messages"), [(6, 2), (17, 1)])
def test_several_messages_in_a_payload(decoder: Decoder, ip_proto: int, messages: int) -> None:
    """On a stream they follow each other; in a datagram what follows is noise (RFC 3261 18.3)."""
    payload = sip("OPTIONS sip:bob@sip.test SIP/2.0", "1@x") + sip("OPTIONS sip:bob@sip.test SIP/2.0", "2@x")
    decoder.decode([arrived(hep3(payload, ip_proto=ip_proto))])
    assert [row["call_id"] for row in rows(decoder)] == ["1@x", "2@x"][:messages]
    assert decoder.counts.unpacked == messages - 1


@pytest.mark.parametrize(
    ("ip_proto", "via", "transport"),
    [(17, "TCP", "udp"), (6, "UDP", "tcp"), (22, "WSS", "wss"), (22, "TLS", "tls"), (132, "UDP", "sctp")],
)
def test_the_hop_s_transport(decoder: Decoder, ip_proto: int, via: str, transport: str) -> None:
    """HEP knows it of this hop; only Kamailio's 22 (TLS, WS, WSS) must be told by the Via."""
    payload = sip("OPTIONS sip:bob@sip.test SIP/2.0", "1@x").replace(
        b"SIP/2.0/UDP", f"SIP/2.0/{via}".encode()
    )
    decoder.decode([arrived(hep3(payload, ip_proto=ip_proto))])
    assert rows(decoder)[0]["transport"] == transport


def test_who_is_admitted() -> None:
    """Nobody: counted. Not believed: taken in, and said so."""

    def admit(_datagram: Datagram, packet: HepPacket) -> bool | None:
        return {b"good": True, b"unknown": False}.get(packet.auth_key or b"")

    decoder = Decoder("node-1", INTEREST, admit)
    datagram = b"".join(invite(f"{key}@x", auth_key=key.encode()) for key in ("good", "bad", "unknown"))
    events = decoder.decode([arrived(datagram)])
    assert [(event.sip.call_id, event.trusted) for event in events] == [
        ("good@x", True),
        ("unknown@x", False),
    ]
    assert decoder.counts.rejected == {"bad_key": 1}
    assert decoder.counts.unpacked == 2
    assert len(rows(decoder)) == 2


def test_agents(decoder: Decoder) -> None:
    """One for each address and id; told once, and again when heard again."""
    decoder.decode([arrived(invite("1@x", ts_us=NOW_US - 2500)), arrived(invite("2@x", ts_us=NOW_US - 1500))])
    decoder.decode([arrived(invite("3@x", agent_id=5), agent="10.0.0.6")])
    seen = {agent.row("node-1", NOW_US)["agent"]: agent for agent in decoder.agents()}
    assert set(seen) == {"10.0.0.5/2001", "10.0.0.6/5"}
    row = seen["10.0.0.5/2001"].row("node-1", NOW_US)
    assert (row["received"], row["skew_ms"], row["trusted"], row["hep_versions"]) == (2, 1.5, True, "3")
    assert decoder.agents() == []
    decoder.decode([arrived(invite("4@x"))])
    assert [agent.packets for agent in decoder.agents()] == [3]


def test_agents_are_bounded(decoder: Decoder) -> None:
    """The id is the sender's word: a stranger must not be able to fill our memory with it."""
    for first in range(0, MAX_AGENTS + 500, 500):
        decoder.decode([arrived(invite("c@x", agent_id=first + n)) for n in range(500)])
        decoder.take()
    assert len(decoder.agents()) <= MAX_AGENTS + 1
    packets = decoder.agent_packets()
    assert len(packets) == MAX_CAPTURE_IDS + 1
    assert packets["3", "sip"] == 1
    assert packets.total() == MAX_AGENTS + 500


def test_counts_by_method_have_few_labels(decoder: Decoder) -> None:
    """A method is the sender's word, too."""
    for n in range(50):
        decoder.decode([arrived(hep3(sip(f"X{n} sip:bob@sip.test SIP/2.0", f"{n}@x")))])
    decoder.decode([arrived(invite("1@x")), arrived(hep3(sip("SIP/2.0 699 No", "1@x", cseq="1 INVITE")))])
    decoder.take()
    assert decoder.counts.messages == Counter(
        {("other", "request"): 50, ("INVITE", "request"): 1, ("INVITE", "6xx"): 1}
    )


def test_a_bug_costs_one_datagram(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the tap: what our own code trips over is kept, and all else goes on."""
    parse = decode.parse

    def buggy(payload: bytes, **how: Any) -> Any:
        if b"trap@x" in payload:
            raise ZeroDivisionError("a bug")
        return parse(payload, **how)

    monkeypatch.setattr(decode, "parse", buggy)
    decoder.decode([arrived(invite(call_id)) for call_id in ("1@x", "trap@x", "2@x")])
    assert decoder.counts.weird == {"bug": 1}
    taken = decoder.take()
    assert [row["call_id"] for row in taken["sip"].to_pylist()] == ["1@x", "2@x"]
    (weird,) = taken["weird"].to_pylist()
    assert (weird["kind"], weird["detail"]) == ("bug", "ZeroDivisionError('a bug')")
    assert weird["head"] == invite("trap@x")[:256]
