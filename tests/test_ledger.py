"""The action ledger: on disk before anything is sent, and never twice."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from pipeline.errors import StoreError
from pipeline.ledger_work import LedgerWork
from pipeline.store.ledger import Ledger

BOB = "sip:bob@sip.test"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as made:
        yield made


def claim(ledger: Ledger, call_id: str = "c1", device: str = "d1", **more: object) -> str | None:
    facts = {"finding_id": "f1", "at_us": 1_000, "aor": BOB, "dry_run": False, **more}
    return ledger.claim("fake_call", call_id, device, **facts)


def test_a_call_and_device_are_claimed_once(ledger: Ledger) -> None:
    assert claim(ledger) is not None
    assert claim(ledger) is None
    assert claim(ledger, device="d2") is not None
    assert claim(ledger, call_id="c2") is not None
    assert ledger.claim("sipp", "c1", "d1", finding_id="f1", at_us=1_000, dry_run=False) is not None


def test_a_rehearsal_never_stands_in_the_way_of_the_real_thing(ledger: Ledger) -> None:
    assert claim(ledger, dry_run=True) is not None
    assert claim(ledger, dry_run=True) is None
    assert (ledger.recent(BOB, 0), ledger.count_since(0)) == (0, 0)
    assert claim(ledger) is not None
    assert (ledger.recent(BOB, 0), ledger.count_since(0)) == (1, 1)


def test_a_claim_survives_the_process(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    script = (
        "import os, sys; from pipeline.store.ledger import Ledger; "
        "l = Ledger(sys.argv[1]); "
        "print(l.claim('fake_call', 'c1', 'd1', finding_id='f1', at_us=1, dry_run=False), flush=True); "
        "os.kill(os.getpid(), 9)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=False
    )
    assert run.returncode == -9
    with Ledger(path) as ledger:
        assert claim(ledger) is None
        (attempt,) = ledger.unfinished()
        assert attempt.attempt_id == run.stdout.strip()
        assert (attempt.call_id, attempt.device, attempt.dry_run, attempt.outcome) == (
            "c1",
            "d1",
            False,
            None,
        )


def test_of_many_threads_and_connections_one_wins(tmp_path: Path) -> None:
    path = tmp_path / "ledger.sqlite"
    with Ledger(path) as one, Ledger(path) as two, ThreadPoolExecutor(8) as pool:
        tries = [pool.submit(claim, (one, two)[n % 2], f"c{n // 8}") for n in range(160)]
        claimed = [done.result() for done in tries]
        assert len([attempt for attempt in claimed if attempt]) == 20
        assert one.count_since(0) == 20


def test_how_an_attempt_ended_is_kept(ledger: Ledger) -> None:
    attempt_id = claim(ledger)
    assert attempt_id
    ledger.finish(attempt_id, "canceled", "487 came", [{"status": 180, "at_us": 5}], 2_000)
    assert ledger.unfinished() == []
    (attempt,) = ledger.attempts(0)
    assert (attempt.outcome, attempt.detail, attempt.ended_at_us) == ("canceled", "487 came", 2_000)
    assert attempt.statuses == [{"status": 180, "at_us": 5}]
    with pytest.raises(StoreError, match="not running"):
        ledger.finish(attempt_id, "again", "", [], 3_000)
    with pytest.raises(StoreError, match="not running"):
        ledger.finish("nosuch", "again", "", [], 3_000)


def test_counts_for_the_brakes_look_back_to_a_time(ledger: Ledger) -> None:
    for n, at_us in enumerate((1_000, 2_000, 3_000)):
        claim(ledger, call_id=f"c{n}", at_us=at_us, aor=BOB if n else "sip:carol@sip.test")
    assert ledger.count_since(2_000) == 2
    assert ledger.recent(BOB, 0) == 2
    assert ledger.recent(BOB, 3_000) == 1
    assert ledger.recent("sip:dave@sip.test", 0) == 0


def test_prune_forgets_what_ended_and_keeps_what_runs(ledger: Ledger) -> None:
    ended, _running = claim(ledger), claim(ledger, call_id="c2")
    assert ended
    ledger.finish(ended, "canceled", "", [], 2_000)
    assert ledger.prune(2_000) == 0
    assert ledger.prune(2_001) == 1
    assert [attempt.call_id for attempt in ledger.attempts(0)] == ["c2"]


def test_the_tap_settles_what_was_cut_off_and_forgets_what_ended_a_week_ago(ledger: Ledger) -> None:
    week_us, now_us = 7 * 86_400_000_000, time.time_ns() // 1000
    for call_id, ended_us in (("old", now_us - week_us - 60_000_000), ("new", now_us - week_us + 60_000_000)):
        ended = claim(ledger, call_id=call_id)
        assert ended
        ledger.finish(ended, "canceled", "", [], ended_us)
    claim(ledger, call_id="cut off")
    work = LedgerWork(ledger)
    work.settle()
    assert (work.forget(), work.error()) == ("1 attempts forgotten", None)
    assert {each.call_id: each.outcome for each in ledger.attempts(0)} == {
        "new": "canceled",
        "cut off": "unknown",
    }
    assert work.forget() is None
    ledger.close()
    assert work.forget() is None
    assert "the action ledger" in (work.error() or "")


def test_hostile_words_are_only_words(ledger: Ledger) -> None:
    name = "x'); DROP TABLE attempt; --\r\n\x00"
    assert claim(ledger, call_id=name) is not None
    assert claim(ledger, call_id=name) is None


def test_the_file_is_for_the_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "ledger.sqlite"
    with Ledger(path):
        assert path.stat().st_mode & 0o777 == 0o600


def test_what_cannot_be_used_is_said_in_words(tmp_path: Path) -> None:
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="cannot use the action ledger"):
        Ledger(garbage)
    newer = tmp_path / "newer"
    with sqlite3.connect(newer) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(StoreError, match="newer hepduck"):
        Ledger(newer)
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(StoreError, match="cannot open the action ledger"):
        Ledger(blocked / "ledger.sqlite")
