"""Threads that stand back: those of DuckDB and of upkeep, not those that receive, detect and write (sched(7))."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tap import RunningTap

LOW = 5  # a quarter of a core beside a thread of 0 (sched(7): each step is a factor of 1.25)
SCRIPT = """
import json, os, threading
import duckdb
from pipeline.priority import lower_library_threads, stand_back

connection = duckdb.connect(config={"threads": 4})
connection.execute("SELECT count(*) FROM range(10_000_000)")
go, told = threading.Event(), {}

def wait(name, first=lambda: None):
    first()
    told[name] = threading.get_native_id()
    go.wait()

threads = [threading.Thread(target=wait, args=("worker",)), threading.Thread(target=wait, args=("upkeep", stand_back))]
for thread in threads:
    thread.start()
while len(told) < 2:
    pass
lowered = lower_library_threads()
again = lower_library_threads()
told["main"] = threading.get_native_id()
nice = {int(task): os.getpriority(os.PRIO_PROCESS, int(task)) for task in os.listdir("/proc/self/task")}
named = {name: nice.pop(thread_id) for name, thread_id in told.items()}
go.set()
print(json.dumps({"lowered": lowered, "again": again, "named": named, "others": list(nice.values())}))
"""


@pytest.fixture
def base() -> int:
    """What this process was started with: a test run may be a nice one itself."""
    return os.getpriority(os.PRIO_PROCESS, 0)


def test_threads_of_libraries_and_upkeep_stand_back_and_ours_do_not(base: int) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    low = max(base, LOW)
    assert found["named"] == {"main": base, "worker": base, "upkeep": low}
    assert len(found["others"]) >= 3  # DuckDB's, beside the one that asked
    assert set(found["others"]) == {low}
    assert found["lowered"] == (len(found["others"]) if base < low else 0)
    assert found["again"] == 0


def test_a_tap_detects_before_it_tends_its_store(tmp_path: Path, base: int) -> None:
    with RunningTap(tmp_path) as tap:
        tasks = Path(f"/proc/{tap.pid}/task")

        def nice() -> dict[int, int]:
            return {
                int(task.name): os.getpriority(os.PRIO_PROCESS, int(task.name)) for task in tasks.iterdir()
            }

        give_up_s = time.monotonic() + 40  # the threads of libraries are looked at every ten seconds
        while (found := list(nice().values())).count(max(base, LOW)) < 8 and time.monotonic() < give_up_s:
            time.sleep(0.2)
        assert found.count(max(base, LOW)) >= 8, found  # DuckDB's, those that serve readers, those of upkeep
        assert nice()[tap.pid] == base  # the first thread is the loop
        assert found.count(base) >= 3, found  # and those that receive and write
