"""`hepduck record`, `send` and `replay`: what they do to recordings, and what they find in them."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from filled import B_CALL, B, Run, run_in_process  # noqa: F401 - a fixture
from recordings import ALIASES, ALL_OUTCOMES, DATA, PATHS, Owed, load
from tap import COMMAND, environment, hepduck

from pipeline.ingest.recordings import read_recording

KAMAILIO = DATA / "kamailio"


def replayed(*arguments: object, cwd: Path, run: Run = hepduck) -> list[dict[str, Any]]:
    done = run("replay", *arguments, "--json", "--no-config", cwd=cwd)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def owed(findings: list[dict[str, Any]]) -> Counter[Owed]:
    """What the output names, by the documented keys."""
    assert {finding["kind"] for finding in findings} <= {"late_register"}
    return Counter(Owed(f["call_id"], f["aor"], f["target"], f["outcome"]) for f in findings)


SET_ALIASES = ("--set", f"detectors.late_register.aliases={json.dumps(ALIASES)}")
SET_ALL_OUTCOMES = ("--set", f"detectors.late_register.outcomes={json.dumps(ALL_OUTCOMES)}")


@pytest.mark.parametrize("name", [path.stem for path in sorted(KAMAILIO.glob("*.hep"))])
def test_replay_finds_what_the_label_says(name: str, tmp_path: Path, run_here: Run) -> None:
    due = Counter(load(name).expected)
    found = owed(replayed(PATHS[name], *SET_ALIASES, cwd=tmp_path, run=run_here))
    assert not due - found, "missing"
    assert not found - due - Counter(load(name).tolerated), "not owed"


@pytest.mark.parametrize("name", ["k1", "k3"])
def test_replay_with_other_outcomes(name: str, tmp_path: Path, run_here: Run) -> None:
    assert replayed(PATHS[name], cwd=tmp_path, run=run_here) == []
    findings = replayed(PATHS[name], *SET_ALL_OUTCOMES, cwd=tmp_path, run=run_here)
    assert owed(findings) == Counter(load(name).expected_extended)


def test_replay_shuffled(tmp_path: Path, run_here: Run) -> None:
    """The same seed is the same order; the order changes no finding; speed changes nothing at all."""
    plain = replayed(B, cwd=tmp_path)
    how = {"cwd": tmp_path, "run": run_here}
    runs = [replayed(B, "--shuffle-ms", 20, "--seed", seed, **how) for seed in (1, 1, 2)]
    assert runs[0] == runs[1]
    assert owed(runs[0]) == owed(runs[2]) == owed(plain) == Counter(load("b").expected)
    assert replayed(B, "--speed", "20x", **how) == plain


def test_replay_of_several_files(tmp_path: Path) -> None:
    findings = replayed(B, PATHS["o"], cwd=tmp_path)
    assert owed(findings) == Counter(load("b").expected + load("o").expected)


def test_findings_as_exit_code(tmp_path: Path, run_here: Run) -> None:
    """Only when asked for; in words on stdout, the sum on stderr."""
    done = hepduck("replay", B, "--no-config", "--fail-on-findings", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (3, "1 finding\n")
    (line,) = done.stdout.splitlines()
    for word in ("sip:bob@sip.test", "127.0.0.21:20427", B_CALL, "canceled"):
        assert word in line
    assert run_here("replay", B, "--no-config", cwd=tmp_path).returncode == 0
    none = run_here("replay", KAMAILIO / "a.hep", "--no-config", "--fail-on-findings", cwd=tmp_path)
    assert (none.returncode, none.stdout, none.stderr) == (0, "", "0 findings\n")


def test_replay_of_a_cut_file(tmp_path: Path) -> None:
    """What is whole counts; the rest is named."""
    (tmp_path / "cut.hep").write_bytes(B.read_bytes()[:-100])
    done = hepduck("replay", "cut.hep", "--no-config", cwd=tmp_path)
    assert done.returncode == 0
    assert "cut short" in done.stderr


def test_record_send_replay(tmp_path: Path) -> None:
    """What was recorded is what was sent, byte for byte, and so is what is sent on from it."""
    sources = [PATHS[name] for name in ("b", "edge", "b_hep2")]
    first = recorded_by_us(sources, tmp_path / "first.hep.zst")
    second = recorded_by_us([first], tmp_path / "second.hep")
    sent = [record.data for path in sources for record in read_recording(path)]
    for path in (first, second):
        assert [record.data for record in read_recording(path)] == sent
    assert first.stat().st_size < second.stat().st_size / 2
    due = Counter(load("b").expected + load("edge").expected + load("b_hep2").expected)
    assert owed(replayed(second, cwd=tmp_path)) == due


def recorded_by_us(sources: list[Path], path: Path) -> Path:
    """`hepduck record` what `hepduck send` sends."""
    process = subprocess.Popen(
        [*COMMAND, "record", "-o", str(path), "-L", "udp:127.0.0.1:0", "--no-config"],
        cwd=path.parent,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    address = re.match(rf"recording (udp:127\.0\.0\.1:\d+) to {path}", process.stderr.readline())
    assert address
    done = hepduck("send", *sources, "--to", address[1], "--speed", "max", cwd=path.parent)
    count = sum(1 for source in sources for _ in read_recording(source))
    assert (done.returncode, done.stdout) == (0, "")
    assert re.match(rf"sent {count} packets, \d+ bytes", done.stderr)
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == f"{count} datagrams in {path}\n"
    assert process.returncode == 0
    return path
