"""Registration scans: what a scanner does, and what honest phones do that looks like it (RFC 3261 10, 22)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from story import DESK_PHONE, STRANGER, Phone, Story
from watching import held_bytes, told, watch
from world.collector import Collector
from world.phone import Phone as RealPhone

from detectors.register_scan import RegisterScan, RegisterScanSettings
from pipeline.decode import Decoder
from pipeline.engine.engine import CALL_METHODS
from pipeline.ingest import Datagram

SCANNER = STRANGER[0]


def scan(**settings: Any) -> RegisterScan:
    return RegisterScan(RegisterScanSettings(**settings))


def scanner(user: object, port: int = 5060) -> Phone:
    return Phone(port, account=f"{user}@sip.test", ip=SCANNER, instance=None, user_agent="friendly-scanner")


def comes_in(story: Story, ms: float, phone: Phone, status: int = 401) -> None:
    """A phone is challenged and answers, with the same Call-ID and the next CSeq (RFC 3261 22.1)."""
    story.register(ms, phone, status=status)
    first = story.events[-1].sip.call_id
    cseq = story.events[-1].sip.cseq
    story.register(ms + 20, phone)
    for event in story.events[-2:]:
        event.sip.call_id, event.sip.cseq = first, (cseq or 0) + 1


def test_many_accounts() -> None:
    story = Story()
    for number in range(12):
        story.register(100 * number, scanner(100 + number), status=404)
    (found,) = told(story, scan())
    assert (found.kind, found.identifier, found.evidence["source_ip"]) == ("register_scan", SCANNER, SCANNER)
    assert found.evidence["accounts"] == found.evidence["failures"] >= 10
    assert found.evidence["most_tried"][0] == "100@sip.test"
    assert found.evidence["statuses"] == {"404": found.evidence["failures"]}


def test_many_passwords() -> None:
    story = Story()
    for number in range(40):
        story.register(50 * number, scanner("bob"), status=403)
    (found,) = told(story, scan())
    assert (found.evidence["accounts"], found.evidence["most_tried"]) == (1, ["bob@sip.test"])
    assert found.evidence["failures"] >= 30


def test_an_office_that_comes_in() -> None:
    """Five hundred phones behind one address, all at the same time; each is challenged first."""
    story = Story()
    for number in range(500):
        comes_in(story, number, replace(scanner(f"u{number}", 20_000 + number), user_agent="Yealink"))
    assert told(story, scan()) == []


def test_a_scanner_among_them() -> None:
    story = Story()
    for number in range(300):
        comes_in(story, 100 * number, replace(scanner(f"u{number}", 20_000 + number), user_agent="Yealink"))
        story.register(100 * number + 50, scanner(f"guess{number}"), status=401)
    (found,) = told(story, scan())
    assert all(account.startswith("guess") for account in found.evidence["most_tried"])


@pytest.mark.parametrize("every_s", [30, 10])
def test_a_phone_with_a_wrong_password(every_s: int) -> None:
    """It tries again for ever: a nuisance, and no scan."""
    story = Story()
    for number in range(100):
        story.register(1000 * every_s * number, DESK_PHONE, status=401)
    assert told(story, scan()) == []


def test_a_200_that_overtakes_its_401() -> None:
    story = Story()
    for number in range(40):
        comes_in(story, 1000 * number, scanner(f"u{number}", 20_000 + number))
        accepted_us = story.events[-1].ts_us
        story.events[-3].ts_us = accepted_us + 500  # the 401
    assert told(story, scan()) == []


def test_copies_of_a_refusal_count_once() -> None:
    story = Story()
    for number in range(8):
        story.register(100 * number, scanner(number), status=403, copies=5)
    assert told(story, scan(failures=12)) == []
    assert len(told(story, scan(failures=8))) == 1


def test_behind_an_edge_proxy_the_phone_is_named() -> None:
    story = Story()
    for number in range(12):
        story.register(100 * number, scanner(number), status=404, edge=("192.0.2.7", 5060))
    (found,) = told(story, scan())
    assert found.evidence["source_ip"] == SCANNER


def test_ignored_networks() -> None:
    story = Story()
    for number in range(40):
        story.register(100 * number, scanner(number), status=404)
    assert told(story, scan(ignore=["203.0.113.0/24"])) == []


def test_a_slow_scan_is_below_the_limit_and_a_lower_limit_finds_it() -> None:
    story = Story()
    for number in range(60):
        story.register(10_000 * number, scanner(number), status=404)
    assert told(story, scan()) == []
    assert len(told(story, scan(window="10m"))) == 1


def test_an_agent_that_nobody_vouches_for() -> None:
    story = Story(trusted=False)
    for number in range(12):
        story.register(100 * number, scanner(number), status=404)
    assert [found.trusted for found in told(story, scan())] == [False]


def test_strangers_cost_little() -> None:
    """Sources that anybody can forge, accounts of any length."""
    story = Story()
    for number in range(400):
        phone = replace(scanner(f"{number}" + 2000 * "x"), ip=f"10.{number >> 8}.{number & 255}.1")
        story.register(number, phone, status=404)
    detector = scan(max_sources=50)
    assert told(story, detector) == []
    assert held_bytes(detector) < 100_000
    flood = Story()
    for number in range(400):
        flood.register(number, scanner(f"{number}" + 2000 * "x"), status=404)
    detector = scan()
    assert len(told(flood, detector)) == 1
    assert held_bytes(detector) < 50_000


def test_a_real_scanner_at_a_real_kamailio(start_kamailio: Any, meet: Any) -> None:
    """Wrong passwords from one address, a right one from another: only the first is found."""
    with Collector() as collector:
        kamailio = start_kamailio(defines={"HEPDUCK_URI": collector.uri, "NO_INJECT": None})
        parties = meet(kamailio)
        parties.registered("bob", address="127.0.0.21")
        attacker: RealPhone = parties.phone("victim", address="127.0.0.66")
        for number in range(12):
            attacker.user = f"victim{number}"
            status = attacker._register_once(600, None, 5)
            assert status == "401"
            wrong = 'Digest username="x", realm="sip.test", nonce="0", uri="sip:sip.test", response="0"'
            assert attacker._register_once(600, wrong, 5) == "401"
        assert collector.wait(lambda mirrored: sum(m.what == "401" for m in mirrored) >= 25)
        datagrams = tuple(collector.datagrams)
    decoder = Decoder("test", CALL_METHODS)
    events = decoder.decode([Datagram(1, "127.0.0.1", 9060, "udp", True, data) for data in datagrams])
    (found,) = watch(scan(), events)
    assert found.evidence["source_ip"] == "127.0.0.66"
    assert found.evidence["accounts"] >= 10 and found.evidence["failures"] >= 2 * 10 - 1
