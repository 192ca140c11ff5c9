"""What the tap does at intervals: how each run is noted, and where that can be seen while one of them fails."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

from filled import Run, run_in_process  # noqa: F401 - a fixture
from tap import RunningTap, eventually
from test_metrics import scrape
from world.ports import free_port

from pipeline.jobs import Jobs

TIME = r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d) UTC"


def test_the_last_success_stays_known_while_runs_fail() -> None:
    jobs = Jobs()
    outcomes: Iterator[str | None] = iter([None, "no space left\non device", "still none"])
    told: list[str | None] = []

    def work() -> None:
        told.append(next(outcomes, "ever since"))

    began_us = time.time_ns() // 1000
    jobs.every(timedelta(milliseconds=30), "prune", work, failing=lambda: told[-1])
    jobs.start()
    try:
        (first,) = eventually(lambda: [job for job in jobs.status() if job["runs"] == 1], "the first run")
        assert (first["failures"], first["error"]) == (0, None)
        assert began_us < first["began_us"] <= first["succeeded_us"] < time.time_ns() // 1000
        (later,) = eventually(lambda: [job for job in jobs.status() if job["runs"] >= 3], "two more")
    finally:
        jobs.stop()
    assert later["failures"] == later["runs"] - 1
    assert later["error"] in {"still none", "ever since"}
    assert later["succeeded_us"] == first["succeeded_us"] < later["began_us"]


def test_a_job_that_fails_is_seen_in_metrics_and_status(tmp_path: Path, run_here: Run) -> None:
    listen = f"127.0.0.1:{free_port()}"
    (tmp_path / "taken").write_text("a file where the folder of reports should be")
    (tmp_path / "hepduck.toml").write_text(
        f'[metrics]\nlisten = "{listen}"\n'
        f'[quality]\nenabled = false\nreport_dir = "{tmp_path}/taken/reports"\nreport_at = "00:00"\n'
    )
    before_s = time.time()
    with RunningTap(tmp_path, configuration=tmp_path / "hepduck.toml") as tap:

        def figure(name: str, job: str) -> float | None:
            return scrape(listen).get((f"hepduck_job_{name}", (("name", job),)))

        eventually(lambda: figure("runs_total", "merge") and figure("runs_total", "quality report"), "both")
        assert (figure("failing", "quality report"), figure("failing", "merge")) == (1, 0)
        assert figure("failures_total", "quality report") == figure("runs_total", "quality report")
        assert figure("failures_total", "merge") == 0
        assert figure("last_success_timestamp_seconds", "quality report") is None
        assert before_s < (figure("last_success_timestamp_seconds", "merge") or 0) < time.time()
        assert 0 < (figure("duration_seconds", "merge") or 0) < time.time() - before_s
        assert (figure("interval_seconds", "merge"), figure("interval_seconds", "store check")) == (
            60,
            86_400,
        )
        assert before_s < scrape(listen)["hepduck_start_time_seconds", ()] < time.time()

        def status() -> dict[str, str]:
            shown = run_here("status", "--store", tap.store, cwd=tmp_path).stdout.splitlines()
            told = [
                re.split(r"  +", line.removeprefix("job        "))
                for line in shown
                if line.startswith("job ")
            ]
            return {name: "  ".join(rest) for name, *rest in told}

        lines = status()
        ok = re.fullmatch(rf"ok  last run {TIME}  took \d+(\.\d)? m?s  next {TIME}", lines["merge"])
        assert ok, lines["merge"]
        ran, due = (datetime.fromisoformat(text) for text in (ok[1], ok[3]))
        assert timedelta(0) < due - ran <= timedelta(minutes=1, seconds=1)
        assert re.fullmatch(
            rf"FAILING  last run {TIME}  took .+  next {TIME}  error: .*{tmp_path}/taken/reports.*",
            lines["quality report"],
        )
        assert re.fullmatch(rf"waiting  next {TIME}", lines["store check"])
        assert tap.stop() == 0
        assert "next" not in status()["merge"]  # nobody would run it
