"""Run a program with the finding as JSON on its standard input.

The program and its arguments come from the configuration alone; nothing of a finding is ever an argument,
and no shell is involved. The program gets a small environment of its own: hepduck's may hold secrets.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
from datetime import timedelta
from typing import Any

from pydantic import Field, SecretStr

from pipeline.durations import Duration
from pipeline.engine.actions import Action, ActionResult, ActionSettings, Attempt, finding_as_json
from pipeline.engine.commands import Finding
from pipeline.errors import ActionError

_INHERITED = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


class ExecSettings(ActionSettings):
    """`[actions.exec]`"""

    argv: list[str] = Field(min_length=1, description="program and arguments")
    environment: dict[str, SecretStr] = Field(
        default_factory=dict, description="added to the program's environment; never shown"
    )
    output_bytes: int = Field(2000, ge=0, le=100_000, description="how much of its output's end is kept")
    time_limit: Duration = Field(timedelta(seconds=30), description="then the program is killed")


class Exec(Action):
    """Run a program with the finding as JSON on stdin."""

    name = "exec"
    Settings = ExecSettings

    def __init__(self, settings: ExecSettings) -> None:
        super().__init__(settings)
        self.settings: ExecSettings = settings

    async def plan(self, finding: Finding) -> str:
        return f"run {self.settings.argv} with on stdin: {json.dumps(finding_as_json(finding), default=str)}"

    async def act(self, finding: Finding, attempt: Attempt) -> ActionResult:
        environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        environment |= {"HEPDUCK_ATTEMPT_ID": attempt.attempt_id}
        environment |= {name: value.get_secret_value() for name, value in self.settings.environment.items()}
        stdin = json.dumps(finding_as_json(finding), default=str).encode()
        status, output = await run_program(
            self.settings.argv, stdin=stdin, environment=environment, keep_bytes=self.settings.output_bytes
        )
        outcome = "done" if status == 0 else "failed"
        how = f"exit status {status}" if status >= 0 else f"killed by {signal.Signals(-status).name}"
        return ActionResult(outcome, f"{how}: {output}" if output else how)


async def run_program(
    argv: list[str], *, stdin: bytes, environment: dict[str, str], keep_bytes: int, **options: Any
) -> tuple[int, str]:
    """Run a program to its end: (exit status, negative for a signal; the end of stdout and stderr as text).

    When cancelled, the program and all its children are killed. Raises ActionError when it cannot start.
    """
    program = shutil.which(argv[0])
    if program is None:
        raise ActionError(f"{argv[0]}: no such program")
    try:
        process = await asyncio.create_subprocess_exec(
            program,
            *argv[1:],
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            env=environment,
            start_new_session=True,  # a group of its own, so that its children can be killed with it
            **options,
        )
    except OSError as error:
        raise ActionError(f"{argv[0]} cannot be started: {error}") from error
    feeding = asyncio.create_task(_feed(process, stdin))
    ended = False
    try:
        tail = await _tail(process, keep_bytes)
        await feeding
        status = await process.wait()
        ended = True
    finally:
        if not ended:
            feeding.cancel()
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            with contextlib.suppress(TimeoutError):  # a child that left the group may keep the output open
                async with asyncio.timeout(1):
                    await _tail(process, 0)
            await process.wait()
    return status, tail.decode("utf-8", "replace").strip()


async def _feed(process: asyncio.subprocess.Process, data: bytes) -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it need not read what it is given
        process.stdin.write(data)
        await process.stdin.drain()
        process.stdin.close()
        await process.stdin.wait_closed()


async def _tail(process: asyncio.subprocess.Process, keep_bytes: int) -> bytes:
    assert process.stdout is not None
    tail = b""
    while part := await process.stdout.read(65_536):
        tail = (tail + part)[-keep_bytes:] if keep_bytes else b""
    return tail
