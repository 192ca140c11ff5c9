"""The ladder of a call, from rows as the store gives them: what is drawn, in which order, and how."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.callview import hide_secrets
from pipeline.ladder import Arrow, Note, build, message_label, printable, times, to_text

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
ALICE, PROXY, BOB = ("10.0.0.1", 5060), ("10.0.0.2", 5060), ("2001:db8::3", 5062)
Row = dict[str, Any]


def message(at_ms: float, src: tuple[str, int], dst: tuple[str, int], **changes: Any) -> Row:
    """A row of table `sip`: an INVITE to bob unless told otherwise."""
    row = {
        "ts": T0 + timedelta(milliseconds=at_ms),
        "msg_id": int(at_ms * 1000),
        "src_ip": src[0],
        "src_port": src[1],
        "dst_ip": dst[0],
        "dst_port": dst[1],
        "call_id": "c1@sip.test",
        "method": "INVITE",
        "status": None,
        "reason": None,
        "cseq": 1,
        "via_branch": "z9hG4bK-1",
        "from_tag": "a1",
        "to_user": "bob",
        "ruri_user": "bob",
    }
    return {**row, **changes}


def finding(at_ms: float, **changes: Any) -> Row:
    """A row of table `finding`."""
    row = {
        "ts": T0 + timedelta(milliseconds=at_ms),
        "kind": "late_register",
        "target": "10.0.0.9:5060;transport=udp",
        "outcome": "canceled",
        "late_ms": 620.4,
        "identifier": "c1|bob@sip.test|device",
    }
    return {**row, **changes}


def attempt(at_ms: float | None, **changes: Any) -> Row:
    """A row of table `action_attempt`."""
    row = {
        "started_at": None if at_ms is None else T0 + timedelta(milliseconds=at_ms),
        "action": "fake_call",
        "outcome": "dry_run",
        "dry_run": True,
        "detail": "to sip:10.0.0.2:\nINVITE ...",
    }
    return {**row, **changes}


def labels(*messages: Row) -> list[str]:
    return [step.label for step in build(messages).steps]


def test_a_ladder_as_text() -> None:
    """Drawn by hand."""
    drawn = to_text(
        build(
            [
                message(0, ALICE, PROXY),
                message(2, PROXY, BOB, via_branch="z9hG4bK-2"),
                message(180.4, BOB, PROXY, status=180.0, reason="Ringing", via_branch="z9hG4bK-2"),
                message(61_500, ALICE, PROXY, method="CANCEL"),
            ],
            [finding(61_900)],
            [attempt(61_950)],
        )
    )
    assert drawn == (
        "          10.0.0.1:5060      10.0.0.2:5060         [2001:db8::3]:5062\n"
        "          |                        |                        |\n"
        "    0.000 |------ INVITE bob ----->|                        |\n"
        "    0.002 |                        |------ INVITE bob ----->|\n"
        "    0.180 |                        |<----- 180 Ringing -----|\n"
        "   61.500 |------ CANCEL bob ----->|                        |\n"
        "   61.900 !! GHOST CALL: 10.0.0.9:5060;transport=udp registered 620 ms\n"
        "             after the call was canceled, and no INVITE reached it\n"
        "   61.950 => fake_call (dry run): to sip:10.0.0.2\n"
        "          |                        |                        |\n"
    )


def test_an_arrow_over_a_lifeline() -> None:
    """From the first to the third: one line, no lifeline between."""
    steps = [
        message(0, ALICE, PROXY),
        message(1, PROXY, BOB),
        message(2, BOB, ALICE, status=200.0, reason="OK"),
    ]
    line = to_text(build(steps)).splitlines()[4]
    assert line.startswith("    0.002 |<---")
    assert line.endswith("---|")
    assert line.count("|") == 2
    assert " 200 OK " in line


def test_no_messages() -> None:
    assert to_text(build([])) == "no messages\n"


def test_steps_stand_in_order_of_time() -> None:
    """Whatever the order of the rows; of two at the same time the id decides, and a note follows its message."""
    first, second = (
        message(5, ALICE, PROXY, msg_id=1),
        message(5, PROXY, ALICE, status=100.0, reason="x", msg_id=2),
    )
    late = message(9, ALICE, PROXY, method="ACK")
    ladder = build([late, second, first], [finding(5)], [attempt(7)])
    assert [step.label.partition(":")[0] for step in ladder.steps] == [
        "INVITE bob", "100 x", "GHOST CALL", "fake_call (dry run)", "ACK bob",
    ]  # fmt: skip
    assert ladder.participants == ["10.0.0.1:5060", "10.0.0.2:5060"]


def test_copies_are_counted_not_drawn() -> None:
    """A retransmission, and what a second capture agent mirrored of the same hop, are no steps of their own."""
    again = [message(ms, ALICE, PROXY) for ms in (0, 1, 500)]
    next_hop = message(2, PROXY, BOB, via_branch="z9hG4bK-2")
    other_branch = message(3, PROXY, BOB, via_branch="z9hG4bK-3")
    ladder = build([*again, next_hop, other_branch])
    arrows = [step for step in ladder.steps if isinstance(step, Arrow)]
    assert [(arrow.src, arrow.dst, arrow.copies) for arrow in arrows] == [(0, 1, 3), (1, 2, 1), (1, 2, 1)]
    assert " INVITE bob x3 " in to_text(ladder)


def test_our_own_call_is_drawn_differently() -> None:
    """The compensating call, known by its From tag, has waves."""
    own = message(0, PROXY, BOB, from_tag="late-1f")
    assert [step.kind for step in build([own]).steps] == ["own"]
    assert "~~ INVITE bob ~~" in to_text(build([own])).replace("~~~", "~~")


def test_labels() -> None:
    assert labels(
        message(0, ALICE, PROXY),
        message(1, ALICE, PROXY, ruri_user=None, cseq=2),
        message(2, ALICE, PROXY, method="REGISTER", ruri_user=None),
        message(3, PROXY, ALICE, status=487.0, reason="Request Terminated"),
        message(4, PROXY, ALICE, status=200, reason=None),
    ) == ["INVITE bob", "INVITE", "REGISTER bob", "487 Request Terminated", "200 INVITE"]


def test_notes() -> None:
    """In time, before the end of the call, of another kind, and without a time."""
    ladder = build(
        [message(0, ALICE, PROXY)],
        [finding(1, late_ms=-40.2), finding(2, kind="declined", identifier="c1\x1b[2J")],
        [attempt(3, dry_run=False, outcome="cancelled", detail=None), attempt(None)],
    )
    notes = [step for step in ladder.steps if isinstance(step, Note)]
    assert [(note.kind, note.label) for note in notes] == [
        (
            "finding",
            "GHOST CALL: 10.0.0.9:5060;transport=udp registered 40 ms before the call was canceled,"
            " and no INVITE reached it",
        ),
        ("finding", "declined: c1·[2J"),
        ("action", "fake_call: cancelled"),
    ]


def test_a_long_label_is_cut_at_a_mark() -> None:
    line = to_text(build([message(0, ALICE, PROXY, ruri_user="b" * 100)])).splitlines()[2]
    assert len(line) < 60
    assert "bbb… -" in line
    assert line.endswith(">|")


def test_a_message_to_oneself() -> None:
    line = to_text(build([message(0, ALICE, ALICE)])).splitlines()[2]
    assert line == "    0.000 |<- INVITE bob"


def test_printable() -> None:
    """What steers a terminal or turns the text around becomes a dot; letters of any script stay."""
    assert printable("a\x1b[31mb\r\n\x00\x7f\x9b\u202e\u200b") == "a·[31mb·······"
    assert printable("Zoë 李 Ω") == "Zoë 李 Ω"
    assert message_label(message(0, ALICE, PROXY, ruri_user="b\x1bb")) == "INVITE b·b"


def test_hidden_secrets() -> None:
    """Credentials in any spelling, folded too; the compensating call's secret; SRTP keys. The length stays."""
    payload = (
        b"REGISTER sip:sip.test SIP/2.0\r\n"
        b'Authorization: Digest username="bob",\r\n response="0123"\r\n'
        b"PROXY-AUTHORIZATION : Basic eDp5\r\n"
        b"X-Late-Secret:geheim\r\n"
        b"Contact: <sip:bob@10.0.0.3>\r\n"
        b"\r\n"
        b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:WVNfX19zZW1jdGwgKCkgewkyMjA7\r\n"
    )
    assert hide_secrets(payload) == (
        b"REGISTER sip:sip.test SIP/2.0\r\n"
        b'Authorization: Digest username="bob",\r\n response="****"\r\n'
        b"PROXY-AUTHORIZATION : Basic ****\r\n"
        b"X-Late-Secret:******\r\n"
        b"Contact: <sip:bob@10.0.0.3>\r\n"
        b"\r\n"
        b"a=crypto:1 AES_CM_128_HMAC_SHA1_80 inline:****************************\r\n"
    )


# -- hops --------------------------------------------------------------------------------------------------


def spans(*messages: Row, collapse: bool = True) -> list[tuple[str, str, str, list[str]]]:
    """Sender, receiver, label and whom it passed, of each arrow."""
    ladder = build(messages, collapse_hops=collapse)
    names = ladder.participants
    return [(names[arrow.src], names[arrow.dst], arrow.label, arrow.via) for arrow in ladder.arrows]


A, P, B = "10.0.0.1:5060", "10.0.0.2:5060", "[2001:db8::3]:5062"


def test_hops_of_a_message_are_one_arrow() -> None:
    """From its sender to its last receiver; replies come back the same way. Behind it lie all that was mirrored."""
    ringing = {"status": 180, "reason": "Ringing", "to_tag": "b1"}
    messages = [
        message(0, ALICE, PROXY),
        message(1, PROXY, BOB, via_branch="z9hG4bK-2", ruri_user="bob-at-home"),
        message(2, PROXY, BOB, via_branch="z9hG4bK-2", ruri_user="bob-at-home"),
        message(5, BOB, PROXY, via_branch="z9hG4bK-2", **ringing),
        message(6, PROXY, ALICE, **ringing),
    ]
    assert spans(*messages) == [(A, B, "INVITE bob", [P]), (B, A, "180 Ringing", [P])]
    assert len(spans(*messages, collapse=False)) == 4
    ladder = build(messages, collapse_hops=True)
    assert ladder.participants == [A, B]
    assert [arrow.msg_ids for arrow in ladder.arrows] == [[0, 1000, 2000], [5000, 6000]]
    assert [arrow.msg_id for arrow in ladder.arrows] == [0, 5000]


def test_a_proxys_own_messages_stay() -> None:
    """Its 100 passes nothing on (RFC 3261 16.7), nor does the 487 that it makes, with a tag of its own."""
    trying = {"status": 100, "reason": "Trying"}
    assert spans(
        message(0, ALICE, PROXY),
        message(1, PROXY, ALICE, **trying),
        message(2, PROXY, BOB, via_branch="z9hG4bK-2"),
        message(3, BOB, PROXY, via_branch="z9hG4bK-2", **trying),
        message(4, BOB, PROXY, via_branch="z9hG4bK-2", status=487, reason="No", to_tag="b1"),
        message(5, PROXY, ALICE, status=487, reason="No", to_tag="proxy"),
    ) == [
        (A, B, "INVITE bob", [P]),
        (P, A, "100 Trying", []),
        (B, P, "100 Trying", []),
        (B, P, "487 No", []),
        (P, A, "487 No", []),
    ]


def test_a_fork_is_one_arrow_a_branch() -> None:
    """Each from the caller, the first with the caller's own hop behind it."""
    carol = ("10.0.0.4", 5060)
    ladder = build(
        [
            message(0, ALICE, PROXY),
            message(1, PROXY, BOB, via_branch="z9hG4bK-2"),
            message(2, PROXY, carol, via_branch="z9hG4bK-3"),
        ],
        collapse_hops=True,
    )
    assert [(arrow.src, arrow.dst, arrow.msg_ids) for arrow in ladder.arrows] == [
        (0, 1, [0, 1000]),
        (0, 2, [2000]),
    ]
    assert [arrow.via for arrow in ladder.arrows] == [[P], [P]]


def test_other_calls_and_loops_are_no_hops() -> None:
    """A switch's second leg has a Call-ID of its own; what comes back to where it was is drawn."""
    assert len(spans(message(0, ALICE, PROXY), message(1, PROXY, BOB, call_id="c2@sip.test"))) == 2
    assert len(spans(message(0, ALICE, PROXY), message(1, PROXY, ALICE, via_branch="z9hG4bK-2"))) == 2
    assert len(spans(message(0, ALICE, PROXY), message(1, PROXY, PROXY, via_branch="z9hG4bK-2"))) == 2


def test_who_is_who() -> None:
    """By the first User-Agent that each sent of its own accord: a proxy passes on that of others."""
    ladder = build(
        [
            message(0, ALICE, PROXY, user_agent="Desk\x1b"),
            message(1, PROXY, BOB, via_branch="z9hG4bK-2", user_agent="Desk\x1b"),
            message(2, BOB, PROXY, via_branch="z9hG4bK-2", status=180, user_agent="Mobile"),
            message(3, PROXY, ALICE, status=180, user_agent="Mobile"),
            message(4, PROXY, ALICE, method="OPTIONS", user_agent="Proxy 1.0"),
            message(5, ALICE, PROXY, method="OPTIONS", status=200, user_agent="Desk 2"),
        ]
    )
    assert dict(zip(ladder.participants, ladder.agents, strict=True)) == {
        A: "Desk·",
        P: "Proxy 1.0",
        B: "Mobile",
    }


def test_families() -> None:
    """What decides how a step is drawn."""
    replies = [
        message(at, PROXY, ALICE, status=status, reason="x")
        for at, status in enumerate((180, 200, 302, 404, 503, 603))
    ]
    own = message(9, PROXY, BOB, from_tag="late-1f")
    own_reply = message(10, BOB, PROXY, from_tag="late-1f", status=180)
    families = [arrow.family for arrow in build([message(-1, ALICE, PROXY), *replies, own, own_reply]).arrows]
    assert families == ["request", "1xx", "2xx", "3xx", "failure", "failure", "failure", "own", "own"]


def test_times() -> None:
    ladder = build([message(0, ALICE, PROXY), message(1500.4, PROXY, ALICE, status=200)], [finding(1600)])
    assert times(ladder) == ["+0.000", "+1.500", "+1.600"]
    assert times(ladder, "previous") == ["+0.000", "+1.500", "+0.100"]
    assert times(ladder, "absolute", ZoneInfo("Asia/Kolkata")) == [
        "17:30:00.000",
        "17:30:01.500",
        "17:30:01.600",
    ]
    assert times(build([])) == []
