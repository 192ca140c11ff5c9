"""`hepduck check` tries each source of CDRs: one row is read, in time, and kept nowhere. And what `doctor` looks
like, and its page.

Databases that work are in `test_cdr_tables.py`.
"""

from __future__ import annotations

import json
import socket
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cdr_recordings import ZONE, path
from filled import Run, filled_tap, run_in_process  # noqa: F401 - fixtures
from tap import RunningTap

from pipeline.doctor import CHECKS
from pipeline.ingest.cdr import CdrError, trial
from pipeline.ingest.cdr.settings import CdrSourceSettings

PAGE = (Path(__file__).parents[1] / "docs" / "doctor.md").read_text()


def tried(source: object, **settings: Any) -> str:
    return trial.try_source(CdrSourceSettings.model_validate({"source": str(source), **settings}))


@pytest.mark.parametrize("session", ["r22-main", "r18"])
def test_asterisks_own_file(session: str) -> None:
    told = tried(path(session, "Master.csv"), preset="cdr_csv")
    assert "Master.csv: readable, a row starts at 2026-11-2" in told


def test_files_that_are_not_as_their_settings_say(tmp_path: Path) -> None:
    master = path("r22-main", "Master.csv")
    (tmp_path / "empty.csv").touch()
    assert "no row in it yet" in tried(tmp_path / "empty.csv", preset="cdr_csv")
    for words, source, settings in (
        (["missing.csv", "no such file"], tmp_path / "missing.csv", {}),
        (["not a file"], tmp_path, {}),
        (["no header line"], master, {"preset": "cdr_custom"}),
        (["21 columns, where 3 are expected"], master, {"preset": "cdr_csv", "columns": "src,dst,start"}),
        (["2 h behind its uniqueid", f"{ZONE!r}"], master, {"preset": "cdr_csv", "zone": ZONE}),
    ):
        with pytest.raises(CdrError) as error:
            tried(source, **settings)
        assert all(word in str(error.value) for word in words), error.value


@pytest.mark.parametrize("scheme", ["mysql", "postgresql"])
def test_databases_that_do_not_answer(scheme: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that refuses, and one that takes the connection and says nothing: an error, not an endless wait."""
    monkeypatch.setattr(trial, "LONGEST", timedelta(seconds=1))
    monkeypatch.setattr("pipeline.ingest.cdr.tables._CONNECT_TIMEOUT_S", 2)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(CdrError, match=rf"{scheme}://reader@127.0.0.1:{port}/x\?table=cdr: "):
            tried(f"{scheme}://reader:geheim@127.0.0.1:{port}/x?table=cdr")
    with pytest.raises(CdrError, match=r"refused"):
        tried(f"{scheme}://reader:geheim@127.0.0.1:{port}/x?table=cdr")


def test_the_command(tmp_path: Path, run_here: Run) -> None:
    (tmp_path / "hepduck.toml").write_text(
        f"""
        [tap]
        listen = ["udp:127.0.0.1:0"]
        [[cdr]]
        name = "good"
        source = "{path("r22-main", "Master.csv")}"
        preset = "cdr_csv"
        [[cdr]]
        name = "gone"
        source = "postgresql://reader:geheim@127.0.0.1:1/x?table=cdr"
        """
    )
    done = run_here("check", "--json", cwd=tmp_path)
    rows = {row["what"]: row for row in map(json.loads, done.stdout.splitlines())}
    assert done.returncode == 2
    assert rows["cdr good"]["ok"], rows
    assert not rows["cdr gone"]["ok"]
    assert "geheim" not in done.stdout
    assert not (tmp_path / "hepduck-data").exists()


def test_what_senders_wrote_steers_no_terminal(filled: RunningTap, run_here: Run) -> None:
    """A recording sent as it was: its clock is months off. What is wrong comes first, and all of it in plain text."""
    done = run_here("doctor", "--store", filled.store, cwd=filled.folder)
    assert (done.returncode, done.stderr) == (1, "")
    first = next(line for line in done.stdout.splitlines()[1:] if line)
    assert first.split()[:2] == ["WRONG", "clock"]
    assert not any(ord(letter) < 32 or 127 <= ord(letter) < 160 for letter in done.stdout.replace("\n", ""))
    as_json = run_here("doctor", "--json", "--store", filled.store, cwd=filled.folder)
    assert [json.loads(line)["check"] for line in as_json.stdout.splitlines()] == [
        check.name for check in CHECKS
    ]
    wrong = run_here("doctor", "--since", "yesterday", "--store", filled.store, cwd=filled.folder)
    assert wrong.returncode == 2
    assert "15m" in wrong.stderr


def test_the_page_lists_the_checks() -> None:
    listed = [line for line in PAGE.splitlines() if line.startswith("| `")]
    assert listed == [f"| `{check.name}` | {check.about} | {check.looks_at} |" for check in CHECKS]
