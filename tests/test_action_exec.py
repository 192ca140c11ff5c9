"""exec with real processes."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from late_findings import late_finding
from pydantic import SecretStr

from detectors.actions.exec import Exec, ExecSettings
from pipeline.engine.actions import ActionResult, Attempt
from pipeline.errors import ActionError

ATTEMPT = Attempt("attempt-1", "rule", 0)


def run(*argv: str, **settings: Any) -> ActionResult:
    action = Exec(ExecSettings(argv=list(argv), **settings))
    return asyncio.run(action.act(late_finding(caller_user="a&touch$IFS/x;`id`"), ATTEMPT))


def python(script: str, **settings: Any) -> ActionResult:
    return run(sys.executable, "-c", script, **settings)


def gone(pid: int) -> bool:
    """True once no such process runs; a killed grandchild may wait a moment for whoever reaps it."""
    end = time.monotonic() + 5
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state == "Z":
            return True
        time.sleep(0.01)
    return False


def test_the_finding_is_on_stdin_and_never_an_argument(tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    script = f"import sys; open({str(seen)!r}, 'w').write(sys.stdin.read()); print(sys.argv)"
    assert python(script) == ActionResult("done", "exit status 0: ['-c']")
    sent = json.loads(seen.read_text())
    assert sent["call_id"] == "4f1d-lost@alice.example"
    assert sent["evidence"]["caller_user"] == "a&touch$IFS/x;`id`"


def test_no_shell_reads_the_arguments() -> None:
    assert run("echo", "$HOME", "`id`", ";", "*").detail == "exit status 0: $HOME `id` ; *"


def test_only_a_small_environment_is_handed_down(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEPDUCK_ACTIONS__FAKE_CALL__SECRET", "tr0ub4dor")
    result = python(
        "import os; print(sorted(os.environ), os.environ['X'])",
        environment={"X": SecretStr("1")},
        output_bytes=9999,
    )
    assert "SECRET" not in result.detail
    assert "HEPDUCK_ATTEMPT_ID" in result.detail
    assert result.detail.endswith(" 1")


@pytest.mark.parametrize(
    ("script", "detail"),
    [
        ("import sys; sys.exit(3)", "exit status 3"),
        ("import sys; sys.stderr.write('no phone'); sys.exit(1)", "exit status 1: no phone"),
        ("import os; os.kill(os.getpid(), 15)", "killed by SIGTERM"),
    ],
)
def test_how_it_failed_is_told(script: str, detail: str) -> None:
    assert python(script) == ActionResult("failed", detail)


def test_the_end_of_a_long_output_is_kept() -> None:
    result = python("print('x' * 1_000_000 + 'end')", output_bytes=10)
    assert result.detail == "exit status 0: " + "x" * 6 + "end"


def test_a_program_that_reads_nothing_is_fine() -> None:
    assert run("true").outcome == "done"


def test_a_program_that_is_not_there() -> None:
    with pytest.raises(ActionError, match="no-such-program: no such program"):
        run("no-such-program")


def test_at_the_limit_the_program_and_its_children_are_killed(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        "import os, subprocess, time\n"
        "child = subprocess.Popen(['sleep', '600'])\n"
        f"open({str(pids)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')\n"
        "time.sleep(600)\n"
    )

    async def limited() -> None:
        action = Exec(ExecSettings(argv=[sys.executable, "-c", script]))
        task = asyncio.create_task(action.act(late_finding(), ATTEMPT))
        while not (pids.exists() and len(pids.read_text().split()) == 2):
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(limited())
    assert all(gone(int(pid)) for pid in pids.read_text().split())


def test_a_child_that_keeps_the_output_open_is_killed_at_the_limit(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {pid}; exit 0"

    async def limited() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await Exec(ExecSettings(argv=["sh", "-c", script])).act(late_finding(), ATTEMPT)

    asyncio.run(limited())
    assert gone(int(pid.read_text()))


def test_plan_runs_nothing(tmp_path: Path) -> None:
    action = Exec(ExecSettings(argv=["touch", str(tmp_path / "x")]))
    plan = asyncio.run(action.plan(late_finding()))
    assert "'touch'" in plan
    assert "4f1d-lost@alice.example" in plan
    assert not any(tmp_path.iterdir())


def test_settings_that_are_shown_hold_no_secret() -> None:
    """`hepduck check --dump` and `hepduck actions` print them."""
    settings = ExecSettings.model_validate({"argv": ["true"], "environment": {"TOKEN": "s3cret"}})
    shown = settings.model_dump(mode="json")
    assert "s3cret" not in json.dumps(shown)
    assert list(shown["environment"]) == ["TOKEN"]
