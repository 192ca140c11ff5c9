"""Answered calls without media: held to a relay that counted every packet between phones and real Asterisks."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from asterisk_recordings import DATA as ASTERISK
from cdr_recordings import path
from quality_store import cdr_rows, new_store
from tap import RunningTap

from detectors.missing_rtp import MissingRtp, MissingRtpSettings
from pipeline.engine.commands import Finding
from pipeline.engine.engine import Engine
from pipeline.engine.events import LegRated
from pipeline.quality.heard import NewLegs

SESSION = "r22-main"
DIRECT_MEDIA = 58  # of the recorded calls: phones that talked to each other, not through the switch


def leg(**changes: Any) -> LegRated:
    usual = {
        "ts_us": 1_800_000_000_000_000, "call_id": "c@x", "leg": "a", "name": "PJSIP/1-0001",
        "endpoint": "PJSIP/1", "peer_ip": "192.0.2.1", "source": "cdr", "seconds": 30.0,
        "incoming_packets": 1500, "outgoing_packets": 1500, "flags": frozenset(),
    }  # fmt: skip
    return LegRated(**{**usual, **changes})


def heard(*legs: LegRated, **settings: Any) -> list[Finding]:
    engine = Engine([MissingRtp(MissingRtpSettings(**settings))])
    assert engine.hears_legs
    findings = engine.hear_legs(legs)
    assert engine._failures == {}
    return findings


def delivered(row: dict[str, str], flow: str) -> int | None:
    """Packets that the relay let through; None where it could not count them."""
    seen = row[f"{flow}_seen"]
    return int(seen) - int(row[f"{flow}_dropped"] or 0) if seen else None


@pytest.fixture(scope="module")
def truth() -> dict[str, dict[str, str]]:
    with (ASTERISK / SESSION / "calls_truth.csv").open() as file:
        return {row["callid_a"]: row for row in csv.DictReader(file)}


@pytest.fixture(scope="module")
def legs(tmp_path_factory: pytest.TempPathFactory) -> list[LegRated]:
    """All legs of a session's CDRs and HEP, as a running tap rates and hears them."""
    with new_store(tmp_path_factory.mktemp("media") / "store") as store:
        feed = NewLegs(store.writer)
        assert feed.take() == []
        store.add("cdr", cdr_rows(SESSION))
        store.hear(SESSION)
        store.refresher.run()
        found = feed.take()
        assert feed.take() == []
        return found


def test_what_the_relay_counted(legs: list[LegRated], truth: dict[str, dict[str, str]]) -> None:
    """Each finding names a leg of which one direction brought nothing; each such leg has a finding."""
    findings = heard(*legs)
    assert {finding.kind for finding in findings} == {"one_way_rtp"}
    found = {(int(truth[f.call_id or ""]["id"]), f.evidence["leg"]) for f in findings}
    due = set()
    for row in truth.values():
        ways = [delivered(row, flow) for flow in ("a_up", "a_down", "b_up", "b_down")]
        silent = [way for way in ways if way == 0]
        lasted_s = float(row["t1"]) - float(row["t0"])
        if silent and len(silent) < len([way for way in ways if way is not None]) and lasted_s > 10:
            due |= {(int(row["id"]), "a"), (int(row["id"]), "b")}
    assert due - {(DIRECT_MEDIA, "a"), (DIRECT_MEDIA, "b")} <= found
    for number, name in found - due:  # one flow of it was not measured: nothing was ever sent there
        row = next(row for row in truth.values() if int(row["id"]) == number)
        assert delivered(row, f"{name}_up") is None or delivered(row, f"{name}_down") is None


def test_legs_without_any_packet(legs: list[LegRated], truth: dict[str, dict[str, str]]) -> None:
    """Only when asked for: phones that talk directly look the same."""
    more = [f for f in heard(*legs, no_rtp=True) if f.kind == "no_rtp"]
    assert {int(truth[f.call_id or ""]["id"]) for f in more} == {DIRECT_MEDIA}


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({"incoming_packets": 0}, "one_way_rtp"),
        ({"outgoing_packets": 0}, "one_way_rtp"),
        ({"incoming_packets": None, "flags": frozenset({"one_way"})}, "one_way_rtp"),
        ({"incoming_packets": None, "flags": frozenset({"no_rtcp"})}, None),
        ({"incoming_packets": None, "outgoing_packets": None}, None),
        ({"incoming_packets": 0, "seconds": 4.0}, None),
        ({"incoming_packets": 0, "endpoint": "PJSIP/announcements"}, None),
        ({}, None),
    ],
)
def test_one_leg(changes: dict[str, Any], kind: str | None) -> None:
    found = heard(leg(**changes), ignore_endpoints=["PJSIP/announcements"])
    assert [finding.kind for finding in found] == ([kind] if kind else [])


def test_a_leg_that_is_rated_again_is_found_once() -> None:
    rated = [leg(incoming_packets=0, seconds=10.0 + n, ts_us=n * 10_000_000) for n in range(50)]
    assert len(heard(*rated)) == 1


def test_what_reports_alone_say_starts_nothing() -> None:
    assert [f.trusted for f in heard(leg(incoming_packets=0, source="hep rtcp"))] == [False]
    assert [f.trusted for f in heard(leg(incoming_packets=0))] == [True]


def test_in_a_running_tap(tmp_path: Path) -> None:
    """A file of CDRs is read, its legs rated, and the findings stored and shown as any other."""
    sources = [
        {
            "source": str(path(SESSION, "cdr_full.csv")),
            "preset": "cdr_adaptive",
            "zone": "UTC",
            "interval": "1s",
        }
    ]
    settings = ("--set", f"cdr={json.dumps(sources)}", "--set", "quality.interval=1s")
    with RunningTap(tmp_path, *settings) as tap:
        tap.wait_for(lambda status: status["findings"].get("one_way_rtp") == 10, "five calls of two legs")
        assert tap.stop() == 0
        rows = tap.rows("SELECT call_id, kind FROM finding")
    assert len(rows) == 10
    assert len({row["call_id"] for row in rows}) == 5
