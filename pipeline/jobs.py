"""What runs at intervals inside `hepduck run`: APScheduler with the rules that all jobs share.

One run of a job at a time; runs that were missed are made up by one; each is early or late by some seconds,
so that many jobs do not start in step. A job must not raise, and ends soon once it is told to.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

_THREADS = 4
_PATIENCE_S = 5.0


class Jobs:
    """The jobs of a running tap: `every` before or after `start`, `stop` once."""

    def __init__(self) -> None:
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # "run missed": a slow source says so itself
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={"default": ThreadPoolExecutor(_THREADS)},
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._running = 0
        self._changed = threading.Condition()
        self._stopped = False

    def every(
        self, interval: timedelta, name: str, work: Callable[[], object], *, jitter: timedelta = timedelta(0)
    ) -> None:
        """Call `work` at once and then every `interval`, early or late by up to `jitter`."""
        self._scheduler.add_job(
            lambda: self._run(work),
            IntervalTrigger(
                seconds=interval.total_seconds(), jitter=jitter.total_seconds() or None, timezone=UTC
            ),
            id=name,
            name=name,
            next_run_time=datetime.now(UTC),
        )

    def start(self) -> None:
        """Begin; the first run of each job is due at once."""
        self._scheduler.start()

    def stop(self) -> None:
        """Start no more runs, and wait a little for those under way."""
        with self._changed:
            self._stopped = True
        if self._scheduler.running:
            self._scheduler.shutdown(wait=False)
        give_up_s = time.monotonic() + _PATIENCE_S
        with self._changed:
            while self._running and (left_s := give_up_s - time.monotonic()) > 0:
                self._changed.wait(left_s)

    def _run(self, work: Callable[[], object]) -> None:
        with self._changed:
            if self._stopped:
                return
            self._running += 1
        try:
            work()
        finally:
            with self._changed:
                self._running -= 1
                self._changed.notify_all()
