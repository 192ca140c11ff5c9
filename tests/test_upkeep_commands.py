"""`hepduck store`, while a tap runs, which then does it, and while none runs."""

from __future__ import annotations

import json
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filled import B_CALL, B, Run, run_in_process  # noqa: F401 - a fixture
from tap import RunningTap, eventually

TABLES_OF_BOB = {"sip": 14, "call_state": 1, "registration": 1}
OFTEN = ("merge", "prune", "count", "rate", "check")


@pytest.fixture(scope="module")
def tap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTap]:
    """A tap that heard recording b, and tends its store all the time."""
    options = [word for job in OFTEN for word in ("--set", f"store.{job}_interval=4s")]
    with RunningTap(tmp_path_factory.mktemp("tended"), *options) as running:
        running.send(B)
        running.settled(14)
        told = "SELECT DISTINCT 1 AS told FROM registration, call, finding"
        eventually(lambda: running.rows(told), "that its registration, call and finding are stored")
        yield running


@pytest.fixture(name="run")
def run_on_store(tap: RunningTap, run_here: Run) -> Any:
    """Runs `hepduck store ...` on the tap's store and gives its JSON lines."""

    def run(*words: object, code: int = 0, store: Path | None = None) -> Any:
        done = run_here("store", *words, "--store", store or tap.store, "--json", cwd=tap.folder)
        assert done.returncode == code, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()] if code < 2 else done.stderr

    return run


def test_status_tells_what_each_job_did_and_when_it_will_again(tap: RunningTap) -> None:
    names = {"merge", "prune", "counts by minute", "quality by hour", "store check"}
    status = tap.wait_for(
        lambda status: {job["job"] for job in status["jobs"] if job["runs"]} >= names,
        "that every job ran",
    )
    jobs = {job["job"]: job for job in status["jobs"]}
    for name in names:
        job = jobs[name]
        assert (job["failures"], job["error"]) == (0, None), job
        assert job["told"] and job["took_ms"] > 0 and job["interval_s"] == 4, job
        assert job["next_us"] > job["began_us"] > status["started_us"], job
    assert jobs["store check"]["told"] == "whole"
    counted = "SELECT sum(messages)::INTEGER AS n FROM sip_minute"
    assert eventually(lambda: tap.rows(counted) == [{"n": 14}], "that the messages are counted")


def test_info_tells_what_is_there(tap: RunningTap, run: Any) -> None:
    *tables, whole = run("info")
    rows = {table["table_name"]: table for table in tables}
    assert rows["sip"]["rows"] == 14 and rows["sip"]["kept"] == "14d" and rows["finding"]["kept"] == "400d"
    assert rows["finding"]["rows"] == rows["call_state"]["rows"] == 1
    assert whole["tap_runs"] is True
    assert whole["path"] == str(tap.store)
    assert 0 < whole["live_bytes"] <= whole["files_bytes"] < whole["free_bytes"]


def test_the_tap_prunes_compacts_and_copies_its_store(tap: RunningTap, run: Any, tmp_path: Path) -> None:
    assert run("prune", "--dry-run") == []
    assert {row["reason"] for row in run("prune")} <= {"replaced"}  # what is known of the agent, now and then
    (compacted,) = run("compact")
    written_meanwhile = 3  # the tap tells of itself and its agents every few seconds
    assert compacted["files_after"] <= compacted["files_before"] + written_meanwhile
    (copied,) = run("backup", tmp_path / "copy")
    assert copied["path"] == str(tmp_path / "copy") and copied["files"] > 5
    assert all(each["ok"] for each in run("check", store=tmp_path / "copy"))
    next((tmp_path / "copy" / "files" / "main" / "sip").rglob("*.parquet")).unlink()
    assert not all(each["ok"] for each in run("check", store=tmp_path / "copy", code=1))
    assert "is there already: name a new folder" in run("backup", tmp_path / "copy", code=2)
    assert tap.alive


def test_orders_come_from_the_owner_only_and_nonsense_is_answered(tap: RunningTap) -> None:
    path = tap.store / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    for nonsense in (
        b"\n",
        b"\xff\xfe\n",
        b"[1]\n",
        b'{"order": "shell", "arguments": {}}\n',
        b"x" * 100_000,
    ):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(f"/proc/self/cwd/{path.name}" if len(str(path)) > 100 else str(path))
            try:
                client.sendall(nonsense)
                answer = client.recv(4096)
            except (BrokenPipeError, ConnectionResetError):  # it heard enough
                continue
        assert b"no order that this tap knows" in answer
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(path))
        client.sendall(b'{"order": "prune", "arguments": {"nonsense": 1}}\n')
        assert b"error" in client.recv(4096)
    assert tap.alive


def test_a_person_is_erased_by_the_tap_which_goes_on(tap: RunningTap, run: Any) -> None:
    told = {row["table"]: row["rows"] for row in run("forget", "sip:bob@sip.test", "--dry-run")}
    assert TABLES_OF_BOB.items() <= told.items()
    assert tap.rows("SELECT count(*) AS n FROM sip") == [{"n": 14}]
    assert {row["table"]: row["rows"] for row in run("forget", "sip:bob@sip.test")} == told
    assert tap.rows("SELECT count(*) AS n FROM sip") == [{"n": 0}]
    assert "is no number and no address" in run("forget", "everybody", code=2)
    tap.send(B)
    tap.settled(28)
    call = f"FROM call WHERE call_id = '{B_CALL}'"
    assert eventually(lambda: tap.rows(call), "that the call is stored again")
    assert "upkeep failed" not in tap.log()


def test_without_a_tap_the_command_does_it_itself(run: Any, tmp_path: Path) -> None:
    still = tmp_path / "still"
    run("backup", still)
    assert len(run("compact", store=still)) == 1
    erased = {row["table"]: row["rows"] for row in run("forget", "bob@sip.test", store=still)}
    assert erased["sip"] == 14
    assert run("info", store=still)[-1]["tap_runs"] is False
    for order in (["check"], ["compact"], ["forget", "+49301"]):
        assert "there is no store at" in run(*order, store=tmp_path / "nowhere", code=2)
    assert not (tmp_path / "nowhere").exists()


def test_what_forgetting_does_not_reach_is_named(run: Any, run_here: Run, tmp_path: Path) -> None:
    still = tmp_path / "still"
    run("backup", still)
    waiting = still / "refused" / "sip" / "1.parquet"
    waiting.parent.mkdir(parents=True)
    waiting.write_bytes(b"")
    (tmp_path / "hepduck.toml").write_text(
        f'[store]\npath = "{still}"\n[quality]\nreport_dir = "/srv/reports"\n'
        '[[cdr]]\nname = "billing"\nsource = "Master.csv"\npreset = "cdr_csv"\nzone = "UTC"\n'
    )
    done = run_here("store", "forget", "bob@sip.test", "--dry-run", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines() == [
        "not touched: backups (they are stores: forget in each with --store)",
        "not touched: recordings, exports and captures that were imported (delete the files)",
        "not touched: logs",
        f"not touched: rows that could not be stored: 1 files in {still}/refused",
        "not touched: daily reports in /srv/reports",
        "not touched: the sources of CDRs (billing): erase there first, or rows may be read again",
    ]
    assert waiting.exists()


def test_people_get_tables(tap: RunningTap, run_here: Run) -> None:
    done = run_here("store", "check", "--store", tap.store, cwd=tap.folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line[:6].strip() for line in done.stdout.splitlines()] == ["ok"] * 5
