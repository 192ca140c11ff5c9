"""Which threads go first on a busy machine: those that receive, detect and write, before upkeep and DuckDB's own.

DuckDB joins files and answers readers on as many threads as there are cores, and the loop that detects would have to
share with each of them. A thread keeps what it was lowered to, and so do those that it starts (sched(7)).
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

_NICE: Final = 5  # a quarter of a core when another thread wants all of it: enough not to starve
_TASKS: Final = Path("/proc/self/task")
_STARTING_S: Final = 0.001


def stand_back() -> None:
    """Lower the priority of the calling thread."""
    _lower(threading.get_native_id())


def lower_library_threads() -> int:
    """Lower the priority of all threads of this process that Python did not start; how many were lowered now.

    None where the system does not tell of threads: it is Linux that has a priority for each.
    """
    try:
        return sum(_lower(thread_id) for thread_id in _of_libraries())
    except OSError:
        return 0


def _of_libraries() -> set[int]:
    while True:
        every = {int(task.name) for task in _TASKS.iterdir()}
        ours = {thread.native_id for thread in threading.enumerate()}
        if None not in ours:
            return every - ours
        time.sleep(_STARTING_S)  # one that is just starting cannot be told from the others


def _lower(thread_id: int) -> bool:
    with suppress(OSError):  # it has ended, or the system does not allow it
        if os.getpriority(os.PRIO_PROCESS, thread_id) < _NICE:
            os.setpriority(os.PRIO_PROCESS, thread_id, _NICE)
            return True
    return False
