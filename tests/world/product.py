"""hepduck itself, as users run it: the real command, a configuration file, a store of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from world import programs

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "pipeline"]


class Hepduck:
    """A running tap. `configuration` is the text of its hepduck.toml; log and store are kept in `run_dir`."""

    def __init__(self, run_dir: Path, configuration: str) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.log_file = run_dir / "hepduck.log"
        self.store = run_dir / "store"
        self._file = run_dir / "hepduck.toml"
        self._file.write_text(configuration)
        self._environment = {k: v for k, v in os.environ.items() if not k.startswith("HEPDUCK_")}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, timeout_s: float = 30) -> Hepduck:
        """Starts it and waits until it listens."""
        argv = [*COMMAND, "run", "-f", str(self._file), "--store", str(self.store)]
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, cwd=ROOT, env=self._environment
            )
        deadline = time.monotonic() + timeout_s
        while '"listening"' not in self.log():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"hepduck did not start:\n{self.log()[-3000:]}")
            time.sleep(0.03)
        return self

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def rows(self, query: str) -> list[dict[str, Any]]:
        """The rows of a query on the store, through `hepduck sql`, while it is written to."""
        return [json.loads(line) for line in self._ask("sql", query).splitlines()]

    def status(self) -> dict[str, Any]:
        """What it says of itself, by `hepduck status`."""
        found: dict[str, Any] = json.loads(self._ask("status"))
        return found

    def wait_for_rows(self, query: str, count: int = 1, timeout_s: float = 15) -> list[dict[str, Any]]:
        """Waits until the query has `count` rows; gives what there is when it does not come to have them."""
        deadline = time.monotonic() + timeout_s
        while len(rows := self.rows(query)) < count and time.monotonic() < deadline:
            pass
        return rows

    def stop(self) -> int:
        """Ends it as a service manager does. Its exit status."""
        assert self._process is not None
        return programs.stop(self._process, patience_s=20)

    def _ask(self, *words: str) -> str:
        argv = [*COMMAND, *words, "--json", "--store", str(self.store)]
        done = subprocess.run(
            argv, capture_output=True, text=True, cwd=ROOT, env=self._environment, timeout=30, check=False
        )
        if done.returncode != 0:
            raise RuntimeError(f"hepduck {words[0]}: {done.stderr}")
        return done.stdout

    def __enter__(self) -> Hepduck:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()
