"""`import pipeline as hd`: calls as tshark sees them, quality as the CDRs tell it, replays as the labels say."""

from __future__ import annotations

import ast
import math
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from asterisk_recordings import rows, truths, unpacked
from quality_store import TAP, cdr_rows, new_store
from recordings import PATHS, load

import pipeline as hd
import pipeline.ladder
import pipeline.quality
import pipeline.replay
from detectors.late_register import LateRegister
from pipeline.api import opened
from pipeline.api.opened import Store, moment
from pipeline.engine.rows import finding_row
from pipeline.errors import CaptureError, ConfigError, SearchError, StoreError
from pipeline.ingest.recordings import read_recording
from pipeline.replay import replay

SESSION = "r22-custom-legacy"
GHOST = "b"


@pytest.fixture(scope="module", name="store")
def filled_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """Calls through a real Asterisk with its CDRs, and one of a real Kamailio's ghost calls; the one that is asked."""
    path = tmp_path_factory.mktemp("api") / "store"
    with new_store(path) as store:
        store.hear(SESSION)
        heard = list(read_recording(PATHS[GHOST]))
        store.hear_datagrams(heard)
        store.add("finding", [finding_row(found, TAP) for found in replay(heard, [LateRegister()])])
        store.add("cdr", cdr_rows(SESSION))
        store.refresher.run()
        store.writer.flush()
    with hd.open(path) as asked:
        yield asked
    opened._current.clear()


@pytest.fixture(autouse=True)
def _asked(store: Store) -> None:
    """Functions without `store=` ask it."""


# -- against tshark --------------------------------------------------------------------------------------


class Seen(NamedTuple):
    """A SIP message on Asterisk's network device, as tshark reads it."""

    ts: float
    call_id: str
    method: str
    of: str  # the method that it is or answers
    status: int | None
    from_user: str
    to_user: str
    tagged: bool  # within a dialog


@pytest.fixture(scope="module")
def on_the_wire(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Seen]]:
    pcap = tmp_path_factory.mktemp("wire") / "sip.pcap"
    pcap.write_bytes(unpacked(SESSION, "sip_rtcp.pcap"))
    fields = ["frame.time_epoch", "sip.Call-ID", "sip.Method", "sip.CSeq.method", "sip.Status-Code"]
    fields += ["sip.from.user", "sip.to.user", "sip.to.tag"]
    command = ["tshark", "-n", "-r", str(pcap), "-Y", "sip", "-T", "fields", "-E", "separator=/t"]
    command += [part for field in fields for part in ("-e", field)]
    seen: dict[str, list[Seen]] = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        ts, call_id, method, of, status, from_user, to_user, tag = line.split("\t")
        row = Seen(
            float(ts), call_id, method, of, int(status) if status else None, from_user, to_user, bool(tag)
        )
        seen.setdefault(call_id, []).append(row)
    return seen


def first(seen: list[Seen], of: str, *statuses: int | None, tagged: bool = False) -> float:
    """When the first of these came; NaN when none did."""
    times = [
        row.ts
        for row in seen
        if row.of == of and row.status in statuses and (row.tagged == tagged or row.status is not None)
    ]
    return min(times, default=math.nan)


def test_calls_are_as_tshark_sees_them(on_the_wire: dict[str, list[Seen]]) -> None:
    """Who, how it ended, how long it took: to some ms, since HEP and tshark saw it at different places."""
    listed = {row["call_id"]: row for row in hd.calls("-callid:@sip.test", limit=None).to_dict("records")}
    assert set(listed) == set(on_the_wire)
    for call_id, seen in on_the_wire.items():
        row = listed[call_id]
        invite, answer = first(seen, "INVITE", None), first(seen, "INVITE", 200)
        ringing, bye = first(seen, "INVITE", 180, 183), first(seen, "BYE", None, tagged=True)
        finals = [each.status for each in seen if each.of == "INVITE" and (each.status or 0) >= 200]
        assert (row["from"], row["to"]) == (seen[0].from_user, seen[0].to_user)
        assert row["final_status"] == finals[0]
        assert row["first_ts"].timestamp() == pytest.approx(invite, abs=0.05)
        for name, took_ms in (("pdd_ms", (ringing - invite) * 1000), ("talk_ms", (bye - answer) * 1000)):
            if pd.isna(row[name]) and took_ms < 1:
                continue  # so close that Asterisk sent the reply's copy first
            assert row[name] == pytest.approx(took_ms, abs=50, nan_ok=True), (call_id, name)
    counted = hd.sql(
        "SELECT call_id, count(*) AS messages FROM sip WHERE NOT contains(call_id, '@sip.test') GROUP BY 1"
    )
    assert dict(zip(counted.call_id, counted.messages, strict=True)) == {
        call_id: len(seen) for call_id, seen in on_the_wire.items()
    }
    call_id, seen = max(on_the_wire.items(), key=lambda item: len(item[1]))
    assert sorted(hd.messages(call_id).method) == sorted(each.of for each in seen)


# -- against the CDRs and the view of all calls ----------------------------------------------------------


def test_quality_of_the_list_is_that_of_the_view() -> None:
    """`call_quality` joins all calls in SQL of its own; the list looks at its page only."""
    view = {row["call_id"]: row for row in hd.sql("FROM call_quality WHERE in_sip").to_dict("records")}
    listed = {row["call_id"]: row for row in hd.calls(limit=None).to_dict("records")}
    names = {"r_factor": "worst_r_factor", "mos": "worst_mos", "loss_pct": "worst_loss_pct"}
    names |= {"jitter_ms": "worst_jitter_ms", "rtt_ms": "worst_rtt_ms", "account": "accountcode"}
    rated = 0
    for call_id, row in view.items():
        for ours, theirs in names.items():
            known = not pd.isna(row[theirs])
            assert known == (not pd.isna(listed[call_id][ours])), (call_id, ours)
            if known:
                assert listed[call_id][ours] == (
                    row[theirs] if ours == "account" else pytest.approx(row[theirs])
                )
        rated += not pd.isna(listed[call_id]["r_factor"])
    assert rated >= 10
    billed = {row["sip_callid"] for row in rows(SESSION) if row["accountcode"] == "bed" and row["sip_callid"]}
    assert {row["call_id"] for row in hd.calls("account:bed", limit=None).to_dict("records")} >= billed
    assert {listed[call_id]["trunk"] for call_id in billed & set(listed)} == {"PJSIP/ep"}


def test_legs_are_calls_of_their_own_with_their_own_quality() -> None:
    """Both Call-IDs of a call are listed; the truth says which belong together."""
    listed = {row["call_id"]: row for row in hd.calls(limit=None).to_dict("records")}
    pairs = [(truth["callid_a"], truth["callid_b"]) for truth in truths(SESSION) if truth["callid_b"]]
    pairs = [pair for pair in pairs if set(pair) <= set(listed)]
    assert len(pairs) >= 8
    for a, b in pairs:
        if pd.notna(listed[b]["r_factor"]):
            assert listed[a]["r_factor"] <= listed[b]["r_factor"], "of leg A all legs count"
    for a, b in pairs[:2]:
        of_a, of_b = hd.call(a), hd.call(b)
        assert (of_a.leg_b_of, of_b.leg_b_of) == (None, a)
        assert of_b.other_legs == {a: of_a.messages}
        assert of_a.other_legs == {b: of_b.messages}


# -- one call --------------------------------------------------------------------------------------------


def test_one_call() -> None:
    label = load(GHOST).label["expected"][0]
    call_id = label["call_id"]
    (row,) = hd.calls("state:ghost").to_dict("records")
    assert (row["call_id"], row["state"], row["ghost"], row["final_status"]) == (
        call_id,
        "canceled",
        True,
        487,
    )
    seen = hd.call(call_id[5:12])
    assert (seen.call_id, [finding["target"] for finding in seen.findings]) == (call_id, [label["contact"]])
    messages = hd.messages(call_id)
    assert len(messages) == len(seen.messages) == 12
    invites = [
        payload for payload in messages.payload if payload.startswith(b"INVITE sip:bob@sip.test SIP/2.0\r\n")
    ]
    assert len(invites) == 2
    assert not messages.payload.map(lambda payload: b'response="0' in payload).any()
    assert str(messages.status.dtype) == "Int64"
    assert messages.status.dropna().tolist()[:2] == [407, 100]
    ladder = hd.ladder(call_id)
    assert ladder.text == str(ladder) == repr(ladder)
    assert "GHOST CALL" in ladder.text
    assert ladder.text.count("INVITE bob") == 2
    drawn = ladder.chart().to_dict()
    assert "INVITE bob" in str(drawn)
    for unknown in (hd.call, hd.messages, hd.ladder):
        with pytest.raises(StoreError, match="no call fits 'nobody@'"):
            unknown("nobody@")


def test_relations_frames_and_sql() -> None:
    """A relation is the same question unasked; whole numbers stay whole where some are missing, times are aware."""
    frame = hd.calls("code:2xx", sort="call_id")
    relation = hd.calls("code:2xx", sort="call_id", relation=True)
    assert relation.columns == list(frame.columns)
    assert [row[1] for row in relation.project("node, call_id").fetchall()] == frame.call_id.tolist()
    assert {str(frame[name].dtype) for name in ("final_status", "messages", "legs")} == {"Int64"}
    assert str(frame.first_ts.dtype) == "datetime64[us, UTC]"
    assert str(frame.ghost.dtype) == str(frame.grounded.dtype) == "boolean"
    counted = hd.sql(
        "SELECT state, count(*) AS calls FROM (VALUES ('a'), ('b'), ('a')) t(state) GROUP BY 1 ORDER BY 1"
    )
    assert counted.to_dict("list") == {"state": ["a", "b"], "calls": [2, 1]}
    with pytest.raises(StoreError, match="read-only"):
        hd.sql("DROP TABLE sip")
    with pytest.raises(SearchError, match="did you mean state"):
        hd.calls("sate:busy")
    with pytest.raises(ValueError, match="no time zone"):
        hd.calls(since=datetime(2026, 1, 1))  # noqa: DTZ001  that is the mistake


@pytest.mark.parametrize(
    ("value", "zone", "expected"),
    [
        (None, UTC, None),
        ("2026-11-22", UTC, datetime(2026, 11, 22, tzinfo=UTC)),
        ("2026-11-22 20:00", ZoneInfo("Europe/Kyiv"), datetime(2026, 11, 22, 18, tzinfo=UTC)),
        ("2026-11-22T20:00:00+01:00", ZoneInfo("Europe/Kyiv"), datetime(2026, 11, 22, 19, tzinfo=UTC)),
        ("2026-11-22T20:00:00Z", UTC, datetime(2026, 11, 22, 20, tzinfo=UTC)),
        (datetime(2026, 7, 1, tzinfo=ZoneInfo("Europe/Kyiv")), UTC, datetime(2026, 6, 30, 21, tzinfo=UTC)),
        ("0001-01-01", UTC, datetime(1970, 1, 1, tzinfo=UTC)),
        ("99999999999d", UTC, datetime(1970, 1, 1, tzinfo=UTC)),
    ],
)
def test_moments(value: Any, zone: Any, expected: datetime | None) -> None:
    assert moment(value, zone) == expected


def test_moments_ago() -> None:
    before = datetime.now(UTC)
    told = moment("90m")
    assert told is not None
    assert before <= told + timedelta(minutes=90) <= datetime.now(UTC)
    with pytest.raises(ValueError, match='"1h"'):
        moment("yesterday")


# -- replay ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["b", "c2", "a", "fb", "g"])
def test_replay_finds_what_the_label_says(name: str) -> None:
    expected = [(each["call_id"], each["aor"], each["contact"]) for each in load(name).label["expected"]]
    found = hd.replay(PATHS[name])
    assert sorted(zip(found.call_id, found.aor, found.target, strict=True)) == sorted(expected)
    assert str(found.ts.dtype) == "datetime64[us, UTC]"


def test_what_if() -> None:
    """b's phone came 1628 ms too late (tshark: 3.136288 - 1.507889 s)."""
    assert len(hd.replay(PATHS["b"], window="1600ms")) == 0
    (row,) = hd.replay(PATHS["b"], window=timedelta(milliseconds=1700)).to_dict("records")
    assert row["late_ms"] == pytest.approx(1628.4, abs=0.1)
    assert (row["outcome"], row["evidence"]["caller_user"]) == ("canceled", "alice")
    assert len(hd.replay(PATHS["b"], outcomes=["answered"])) == 0
    assert len(hd.replay([str(PATHS["b"]), PATHS["c2"]])) == 2
    assert hd.replay(PATHS["b"], shuffle_ms=40, seed=7).call_id.tolist() == [row["call_id"]]
    nothing = hd.replay(PATHS["b"], settings={"detectors.late_register.enabled": False})
    assert (len(nothing), list(nothing.columns)) == (0, list(hd.replay(PATHS["b"]).columns))
    with pytest.raises(ConfigError, match="did you mean window"):
        hd.replay(PATHS["b"], windw="3s")
    with pytest.raises(CaptureError, match="no recording"):
        hd.replay(__file__)


# -- the package -----------------------------------------------------------------------------------------


def test_names_are_functions_whatever_was_imported() -> None:
    """`pipeline.ladder`, `.quality` and `.replay` are modules, too; and the table is what type checkers read."""
    for name in hd.__all__:
        assert name in dir(hd)
        if name != "health":
            assert callable(getattr(hd, name)), name
            assert getattr(hd, name).__doc__
    assert pipeline.replay is hd.replay
    assert callable(pipeline.quality)
    assert isinstance(hd.health, ModuleType)
    source = ast.parse(Path(hd.__file__ or "").read_text())
    seen = {
        alias.asname for node in ast.walk(source) if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen - {None, "annotations"} >= set(hd.__all__)
    assert {name for name in seen if name} <= set(hd.__all__)


def test_importing_is_cheap() -> None:
    """`hepduck --help` answers at once: nothing heavy is loaded before it is asked for."""
    script = """
import sys, pipeline, pipeline.cli
heavy = {"pandas", "pyarrow", "duckdb", "pydantic", "altair", "numpy"} & set(sys.modules)
assert not heavy, heavy
from pipeline import *
assert calls is pipeline.calls
"""
    subprocess.run([sys.executable, "-c", script], check=True)
