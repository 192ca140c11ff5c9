"""The real tap as a process to measure, and processes beside it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError
from pipeline.status import read_status

_PATIENCE_S = 60.0


class TapProcess:
    """`hepduck run` on a free port, with its own store."""

    def __init__(self, store: Path, *options: str, via: str = "udp") -> None:
        store.mkdir(parents=True, exist_ok=True)
        self.store = store
        self.process = subprocess.Popen(
            [
                *(sys.executable, "-m", "pipeline", "run", "--no-config", "--store", str(store)),
                *("-L", f"{via}:127.0.0.1:0", "-l", "error", *options),
            ],
            stdout=subprocess.DEVNULL,
            stderr=(store / "tap.log").open("wb"),
        )
        self.port = int(next(iter(self.wait(lambda _status: True)["listeners"])).rpartition(":")[2])

    def status(self) -> dict[str, Any]:
        """The last status written."""
        return read_status(self.store)

    def wait(self, done: Any) -> dict[str, Any]:
        """The first status for which `done` holds."""
        give_up_s = time.monotonic() + _PATIENCE_S
        while time.monotonic() < give_up_s and self.process.poll() is None:
            with contextlib.suppress(StoreError, json.JSONDecodeError):
                status = self.status()
                if done(status):
                    return status
            time.sleep(0.05)
        raise RuntimeError(f"the tap did not get there: {(self.store / 'tap.log').read_text()[-2000:]}")

    def settle(self) -> dict[str, Any]:
        """Wait until nothing more comes and nothing waits."""
        last = -1
        while True:
            now = self.wait(lambda status: status["queued"] == 0)
            if now["received"] == last:
                return now
            last = now["received"]
            time.sleep(1.5)

    def stop(self) -> None:
        """SIGTERM, and wait."""
        self.process.terminate()
        self.process.wait(_PATIENCE_S)


@contextlib.contextmanager
def sender(port: int, rate: float, seconds: float) -> Iterator[subprocess.Popen[str]]:
    """A sending process, ready to begin at a line on its stdin."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.traffic", str(port), str(rate), str(seconds)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def begin(process: subprocess.Popen[str]) -> None:
    """Let a ready process go."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def result(process: subprocess.Popen[str]) -> list[float]:
    """The numbers on the process's last line."""
    assert process.stdout is not None
    return [float(word) for word in process.stdout.readline().split()]
