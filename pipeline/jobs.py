"""What runs at intervals inside `hepduck run`: APScheduler with the rules that all jobs share.

One run of a job at a time; runs that were missed are made up by one; each is early or late by some seconds,
so that many jobs do not start in step. A job must not raise, and ends soon once it is told to. Each run is
noted: `status` says when it was, how long it took, what it did, what failed, and when the next one is due.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from apscheduler.executors.pool import ThreadPoolExecutor
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.interval import IntervalTrigger

from pipeline.instants import now_us, us_of
from pipeline.priority import stand_back

_THREADS = 4
_BEHIND, _THREADS_BEHIND = "behind", 2
_PATIENCE_S = 5.0


@dataclass(slots=True)
class JobStatus:
    """What is known of a job. Times in microseconds since the epoch."""

    job: str
    interval_s: float
    running: bool = False
    runs: int = 0  # that have ended, since the start
    failures: int = 0  # of those
    told: str | None = None  # what the last run did, in a few words, where the job says so
    error: str | None = None  # of the last run, in one line
    began_us: int | None = None  # the last run
    took_ms: float | None = None  # the last run that has ended
    succeeded_us: int | None = None  # the end of the last run without an error, since the start
    next_us: int | None = None


class Jobs:
    """The jobs of a running tap: `every` before or after `start`, `stop` once."""

    def __init__(self) -> None:
        logging.getLogger("apscheduler").setLevel(logging.ERROR)  # "run missed": a slow source says so itself
        self._scheduler = BackgroundScheduler(
            timezone=UTC,
            executors={
                "default": ThreadPoolExecutor(_THREADS),
                _BEHIND: ThreadPoolExecutor(_THREADS_BEHIND, pool_kwargs={"initializer": stand_back}),
            },
            job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None},
        )
        self._jobs: dict[str, JobStatus] = {}
        self._running = 0
        self._changed = threading.Condition()
        self._stopped = False

    def every(
        self,
        interval: timedelta,
        name: str,
        work: Callable[[], object],
        *,
        jitter: timedelta = timedelta(0),
        after: timedelta = timedelta(0),
        failing: Callable[[], str | None] = lambda: None,
        can_wait: bool = False,
    ) -> None:
        """Call `work` `after` the start and then every `interval`, early or late by up to `jitter`.

        Text that it returns is shown. `failing` is asked after a run: what went wrong in it, or None. Work that
        `can_wait` stands back when cores are short.
        """
        self._jobs[name] = JobStatus(name, interval.total_seconds())
        self._scheduler.add_job(
            lambda: self._run(name, work, failing),
            IntervalTrigger(
                seconds=interval.total_seconds(), jitter=jitter.total_seconds() or None, timezone=UTC
            ),
            id=name,
            name=name,
            executor=_BEHIND if can_wait else "default",
            next_run_time=datetime.now(UTC) + after,
        )

    def start(self) -> None:
        """Begin; a job without `after` is due at once."""
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

    def status(self) -> list[dict[str, Any]]:
        """The jobs in the order in which they were set up, each as a `JobStatus` in plain JSON types."""
        due = {job.id: job.next_run_time for job in self._scheduler.get_jobs()}
        with self._changed:
            jobs = [asdict(job) for job in self._jobs.values()]
        for job in jobs:
            next_time = due.get(job["job"])
            job["next_us"] = us_of(next_time)
        return jobs

    def _run(self, name: str, work: Callable[[], object], failing: Callable[[], str | None]) -> None:
        job = self._jobs[name]
        began_s = time.monotonic()
        with self._changed:
            if self._stopped:
                return
            self._running += 1
            job.running, job.began_us = True, now_us()
        error: str | None = None
        told: object = None
        try:
            told = work()
            error = failing()
        except BaseException as failure:
            error = repr(failure)
            raise
        finally:
            with self._changed:
                self._running -= 1
                job.running, job.took_ms = False, (time.monotonic() - began_s) * 1000
                job.runs += 1
                job.failures += error is not None
                job.told = told if isinstance(told, str) else None
                job.error = error.partition("\n")[0] if error is not None else None
                if error is None:
                    job.succeeded_us = now_us()
                self._changed.notify_all()
