"""`hepduck check` tries each source of CDRs: one row is read, in time, and kept nowhere.

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
from filled import Run, run_in_process  # noqa: F401 - fixture

from pipeline.ingest.cdr import CdrError, trial
from pipeline.ingest.cdr.settings import CdrSourceSettings


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
