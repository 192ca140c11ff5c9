"""What the running tap says of itself, once a second, in `status.json` in the store's folder."""

from __future__ import annotations

import dataclasses
import json
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import structlog

from pipeline.engine.actions import Action
from pipeline.engine.engine import Detector
from pipeline.engine.plugins import ACTIONS, DETECTORS, find
from pipeline.errors import StoreError
from pipeline.store.paths import StorePaths, writer_runs

STATUS_FILE = "status.json"
FATES = ("stored", "rejected", "shed", "kernel_dropped", "queued")
"""The terms of the sum that makes `received`."""
_ODD_COUNTERS = {
    "skipped_bytes": "bytes of garbage skipped",
    "receive_errors": "receive errors",
    "no_descriptors": "times out of file descriptors",
}

_OLD_S = 10.0  # it is written once a second

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Status:
    """Counters since the start, in messages. A datagram that holds several messages counts as many.

    Nothing is lost without a number: `received == stored + rejected + shed + kernel_dropped + queued`, always.
    `stored` counts what is committed and on disk; `weird` is a part of it. `shed` is what hepduck itself let go of,
    datagrams that nobody unpacked counting as one message each.
    """

    state: str  # running | stopped
    pid: int
    node: str
    started_us: int
    updated_us: int
    listeners: dict[str, Any]
    receive_buffers: dict[str, dict[str, int]]  # of UDP listeners: asked_bytes, granted_bytes
    received: int
    stored: int
    rejected: int
    rejected_by_reason: dict[str, int]
    bad_keys: list[dict[str, Any]]  # of these `bad_key`: `pipeline.decode.BadKey` and `Refused`
    shed_by_reason: dict[str, int]  # `pipeline.ingest.shedding.REASONS`, and those of the store
    kernel_dropped: int
    queued: int
    weird: dict[str, int]
    defects: dict[str, int]  # what was mended in messages that are stored as `sip`, `rtcp`, `log`
    findings: dict[str, int]
    actions: list[dict[str, Any]]
    rules_dropped: int  # findings that found the rules' backlog full
    rows_refused: dict[str, int]
    detectors_off: list[str]
    own_messages: int
    evicted: dict[str, int]
    calls: int
    devices: int
    last_arrival_us: int | None
    last_commit_us: int | None
    flush_ms: float | None
    store_errors: int
    store_error: str | None
    store_failing_since_us: int | None  # nothing could be written since
    spool: dict[str, Any] | None  # `pipeline.store.spool.SpoolStatus`; what is in it is `queued`
    recovered: int  # messages that earlier runs left in the spool, stored by this one; in no other number
    latency_us: int
    quality: dict[str, Any]  # `pipeline.quality.work.QualityStatus`
    cdr_sources: list[dict[str, Any]]  # `pipeline.ingest.cdr.source.SourceStatus` of each
    jobs: list[dict[str, Any]]  # `pipeline.jobs.JobStatus` of each
    plugins: list[dict[str, str]]  # as at the start: `plugin_states`; since then see `detectors_off`

    @property
    def shed(self) -> int:
        """Messages that hepduck let go of, for all reasons."""
        return sum(self.shed_by_reason.values())

    @property
    def dropped_by_reason(self) -> dict[str, int]:
        """Messages lost in all, by hepduck and by the kernel (reason `kernel`)."""
        return {"kernel": self.kernel_dropped, **self.shed_by_reason}

    @property
    def dropped(self) -> int:
        """Messages lost in all."""
        return self.shed + self.kernel_dropped

    @property
    def unexplained(self) -> int:
        """What the numbers fail to explain: always 0, or there is a bug."""
        return self.received - self.stored - self.rejected - self.shed - self.kernel_dropped - self.queued

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types, with the derived numbers."""
        derived = ("shed", "dropped_by_reason", "dropped", "unexplained")
        return {**dataclasses.asdict(self), **{name: getattr(self, name) for name in derived}}


def plugin_states(
    folder: Path | None, detectors: Iterable[Detector], actions: Mapping[str, Action]
) -> list[dict[str, str]]:
    """Every plugin that is found, and how it stands: kind, name, state, origin, summary.

    A detector is `on`, or `off` by its settings. An action is `ARMED` or, when it touches nothing outside,
    `on`; else `dry run`, or it `lacks settings`.
    """
    on = {detector.name for detector in detectors}
    rows = []
    for kind, group in (("detector", DETECTORS), ("action", ACTIONS)):
        for name, plugin in find(group, folder).items():
            detecting = "on" if name in on else "off"
            state = detecting if kind == "detector" else action_state(actions.get(name))
            told = {"origin": plugin.origin, "summary": plugin.summary}
            rows.append({"kind": kind, "name": name, "state": state, **told})
    return rows


def action_state(action: Action | None) -> str:
    """How an action stands, in words."""
    if action is None:
        return "lacks settings"
    if action.live:
        return "ARMED" if action.touches_world else "on"
    return "dry run"


def write_status(folder: Path, status: Status) -> None:
    """Replace the status file in one step, so that a reader never sees half of it."""
    fresh = folder / f"{STATUS_FILE}.new"
    fresh.write_text(json.dumps(status.as_json()), encoding="utf-8")
    fresh.replace(folder / STATUS_FILE)


class StatusFile:
    """Writes the newest status in a thread of its own: a stuck disk must not stop the loop that detects."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._changed = threading.Condition()
        self._newest: Status | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()

    def offer(self, status: Status) -> None:
        """Have this one written soon, unless a newer one comes."""
        with self._changed:
            self._newest = status
            self._changed.notify()

    def close(self, last: Status, timeout_s: float = 5.0) -> None:
        """Write the last one; on a stuck disk for so long."""
        with self._changed:
            self._newest, self._closed = last, True
            self._changed.notify()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        failing = ""
        while True:
            with self._changed:
                while self._newest is None:
                    if self._closed:
                        return
                    self._changed.wait()
                status, self._newest = self._newest, None
            try:
                write_status(self._folder, status)
                failing = ""
            except OSError as error:  # a full disk must not end the tap: what is queued may still find room
                if failing != str(error):
                    log.error("status not written", error=str(error))
                failing = str(error)


def read_status(folder: Path) -> dict[str, Any]:
    """The last status written, with `alive`: whether a tap still writes to the store.

    Raises StoreError when there is none.
    """
    path = folder / STATUS_FILE
    try:
        status: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise StoreError(f"no tap has run with the store {folder}: `hepduck run --store {folder}`") from error
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} cannot be read: {error}") from error
    # By its lock, which the kernel drops with it: a process id may be somebody else's by now.
    status["alive"] = status["state"] == "running" and writer_runs(StorePaths.of(folder))
    return status


def as_text(status: dict[str, Any]) -> str:
    """The status for people; the sum is shown, not claimed."""
    state = status["state"] if status["alive"] or status["state"] == "stopped" else "DEAD (killed?)"
    parts = [f"{status[fate]} {fate}" for fate in FATES]
    fits = "adds up" if status["unexplained"] == 0 else f"{status['unexplained']} UNEXPLAINED"
    old_s = time.time() - status["updated_us"] / 1e6
    if status["alive"] and old_s > _OLD_S:
        state = f"SILENT for {old_s:.0f} s (is the disk of the store stuck? the metrics go on)"
    lines = [
        f"hepduck {state}, pid {status['pid']}, node {status['node']}, updated {_time(status['updated_us'])}",
        f"messages   {status['received']} received = {' + '.join(parts)}   ({fits})",
    ]
    for name, counts in (
        ("shed", "shed_by_reason"),
        ("rejected", "rejected_by_reason"),
        ("weird", "weird"),
        ("mended", "defects"),
    ):
        told = ", ".join(f"{count} {reason}" for reason, count in status[counts].items() if count)
        if told:
            lines.append(f"{name:<10} {told}")
    for address, counters in status["listeners"].items():
        open_ = f", {counters['connections']} connections" if not address.startswith("udp") else ""
        odd = "".join(
            f", {counters[name]} {word}" for name, word in _ODD_COUNTERS.items() if counters.get(name)
        )
        lines.append(f"listening  {address}: {counters['received']} datagrams{open_}{odd}")
    found = ", ".join(f"{count} {kind}" for kind, count in status["findings"].items()) or "none"
    lines.append(f"findings   {found}")
    for row in status["actions"]:
        how = " (dry run)" if row["dry_run"] else ""
        lines.append(f"action     {row['action']}{how}: {row['count']} {row['outcome']}")
    if status["rules_dropped"]:
        lines.append(f"rules      {status['rules_dropped']} findings dropped: the backlog was full")
    evicted = ", ".join(f"{count} {kind}s" for kind, count in status["evicted"].items() if count)
    if evicted:
        lines.append(f"forgotten  {evicted}, to stay within [engine]'s bounds")
    if status["detectors_off"]:
        lines.append(f"detectors  SWITCHED OFF after failures: {', '.join(status['detectors_off'])}")
    quality = status["quality"]
    trouble = f" (FAILING: {quality['error']})" if quality["error"] else ""
    lines.append(f"quality    {quality['legs']} records of legs, {quality['calls']} calls of CDRs{trouble}")
    for source in status["cdr_sources"]:
        trouble = "; ".join(source[name] for name in ("error", "warning") if source[name])
        told = f"{source['state']}, {source['imported']} rows, {source['refused']} refused"
        lines.append(f"cdr        {source['source']}: {told}" + (f"  ({trouble})" if trouble else ""))
    lines += _jobs(status["jobs"], ticking=status["alive"])
    committed = _time(status["last_commit_us"]) if status["last_commit_us"] else "never"
    trouble = f", {status['store_errors']} errors: {status['store_error']}" if status["store_error"] else ""
    lines.append(f"store      last commit {committed}{trouble}")
    if since := status["store_failing_since_us"]:
        lines.append(
            f"store      DOES NOT WRITE since {_time(since)}; what comes waits, in the spool if need be"
        )
    spool = status["spool"]
    if spool and (spool["files"] or spool["broken"] or spool["error"]):
        share = f"{spool['bytes'] / 1e6:.1f} of {spool['allowed_bytes'] / 1e6:.0f} MB"
        full = ", FULL" if spool["full"] else ""
        broken = f", {spool['broken']} broken files set aside" if spool["broken"] else ""
        failing = f" (FAILING: {spool['error']})" if spool["error"] else ""
        told = f"{spool['rows']} rows in {spool['files']} files, {share}{full}{broken}{failing}"
        lines.append(f"spool      {told}, in {spool['folder']}")
    if status["recovered"]:
        lines.append(f"recovered  {status['recovered']} messages that an earlier run left in the spool")
    lines.append(f"following  {status['calls']} calls, {status['devices']} devices")
    return "\n".join(lines)


def _jobs(jobs: list[dict[str, Any]], *, ticking: bool) -> Iterator[str]:
    """A line each: name, state, last run, how long it took, when the next one is due, what went wrong."""
    widest = max((len(job["job"]) for job in jobs), default=0)
    for job in jobs:
        state = job_state(job)
        told = [f"job        {job['job']:<{widest}}  {state.upper() if state == 'failing' else state:<7}"]
        if job["began_us"]:
            told.append(f"last run {_time(job['began_us'])}")
        if job["took_ms"] is not None:
            told.append(f"took {_length(job['took_ms'])}")
        if ticking and job["next_us"]:
            told.append(f"next {_time(job['next_us'])}")
        if job["error"]:
            told.append(f"error: {job['error']}")
        yield "  ".join(told).rstrip()


def job_state(job: Mapping[str, Any]) -> str:
    """How a job of the status stands: waiting (for its first run), running, ok or failing."""
    if job["running"]:
        return "running"
    if not job["runs"]:
        return "waiting"
    return "failing" if job["error"] else "ok"


def _length(ms: float) -> str:
    return f"{ms:.0f} ms" if ms < 1000 else f"{ms / 1000:.1f} s"


def _time(us: int) -> str:
    return datetime.fromtimestamp(us / 1e6, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
