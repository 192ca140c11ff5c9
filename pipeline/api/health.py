"""Health: whether the numbers of the tap add up, who sends, what is wrong, how large the store is.

What the running tap says of itself lies in `status.json` in the store's folder, once a second; without it (a store
that was filled by `hepduck import` only) the tables made of it are empty.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from pipeline.api.opened import Moment, Store, current, moment
from pipeline.durations import step_of
from pipeline.errors import StoreError
from pipeline.instants import at
from pipeline.status import FATES, job_state, read_status
from pipeline.store import health_queries

if TYPE_CHECKING:
    import pandas as pd

MEANINGS: Final = {
    "kernel": "the socket's receive buffer was full: raise net.core.rmem_max",
    "shed_options": "the engine could not keep up: OPTIONS and keep-alives went first",
    "shed_presence": "the engine could not keep up: presence, MESSAGE, INFO and logs",
    "shed_rtcp": "the engine could not keep up: RTCP and reports of quality",
    "shed_dialog": "the engine could not keep up: ACK, BYE, PRACK, UPDATE, REFER",
    "queue_full": "the engine could not keep up: INVITE, CANCEL, REGISTER were lost",
    "store_queue_full": "the store could not keep up: its queue was full",
    "store_gave_up": "given up at stop: the store could not be written",
    "bad_key": "the packet's HEP auth key is missing or wrong: see tap.auth_key",
    "network": "the sender is not in tap.allowed_networks",
    "connection_limit": "too many connections at once",
    "no_descriptors": "the process ran out of file descriptors",
    "tls": "the TLS handshake failed",
}
"""What the reasons of `losses` mean, and what to do."""


def tap_status(*, store: Store | None = None) -> dict[str, Any]:
    """The last status, as `hepduck status --json` shows it: `pipeline.status.Status`, with `alive` (a tap runs now).

    Raises StoreError when no tap has ever run with this store.
    """
    return read_status(current(store).path)


def counters(*, store: Store | None = None) -> pd.DataFrame:
    """What became of the messages received since the tap started: `fate`, `messages`, `share_pct`.

    received = stored + rejected + shed + kernel_dropped + queued; what that leaves is the row `unexplained`, always 0.
    """
    status = _status(store)
    received = status["received"] if status else 0
    rows = [(fate, status[fate]) for fate in ("received", *FATES, "unexplained")] if status else []
    share = [100.0 * messages / received if received else None for _, messages in rows]
    return _frame(
        ("fate", "messages", "share_pct"),
        [(*row, pct) for row, pct in zip(rows, share, strict=True)],
    )


def losses(*, store: Store | None = None) -> pd.DataFrame:
    """What did not go as it should, since the tap started: `what`, `reason`, `count`, `meaning`.

    `what` is lost (messages, shed or dropped by the kernel) or rejected, weird (stored, but undecodable), mended
    (stored, with a defect), rows refused (by the store, by table), or forgotten (calls and devices, to bound the
    memory).
    """
    status = _status(store) or {}
    parts = {
        "lost": status.get("dropped_by_reason", {}),
        "rejected": status.get("rejected_by_reason", {}),
        "weird": status.get("weird", {}),
        "mended": status.get("defects", {}),
        "rows refused": status.get("rows_refused", {}),
        "forgotten": status.get("evicted", {}),
    }
    rows = [
        (what, reason, count, MEANINGS.get(reason))
        for what, counts in parts.items()
        for reason, count in counts.items()
        if count
    ]
    return _frame(("what", "reason", "count", "meaning"), rows)


def bad_keys(*, store: Store | None = None) -> pd.DataFrame:
    """Who is rejected for `bad_key`, since the tap started: `agent_addr`, `hep_version`, `has_key` (False: it sends
    none), `count`, `last_at`."""
    names = ("agent_addr", "hep_version", "has_key", "count")
    rows = [
        (*(who[name] for name in names), at(who.get("last_us")))
        for who in (_status(store) or {}).get("bad_keys", ())
    ]
    return _frame((*names, "last_at"), rows)


def intake(
    *, since: Moment = None, until: Moment = None, steps: int = 200, store: Store | None = None
) -> pd.DataFrame:
    """What came in over time, of all nodes and runs: `at` (the step's start), `step_s` (from a minute on),
    `received`, `stored`, `rejected`, `shed`, `kernel_dropped`. Counted every ten seconds or so; the newest is not
    there yet."""
    asked = current(store)
    end = moment(until) or datetime.now(UTC)
    start = moment(since) or health_queries.first_minute(asked.reader) or end
    step_s = max(step_of(end - start, steps), 60)
    found = asked.frame(*health_queries.intake(since=start, until=end, step_s=step_s))
    return found.assign(step_s=step_s)


def listeners(*, store: Store | None = None) -> pd.DataFrame:
    """Where the tap listens, with the counters of `pipeline.ingest.counters.ListenerCounters` since its start:
    `address`, `received` (datagrams or frames), `received_bytes`, `kernel_dropped`, `receive_errors`, `rejected`
    (in all), `connections` (open now), `skipped_bytes`."""
    status = _status(store) or {}
    names = ("received", "received_bytes", "kernel_dropped", "receive_errors", "connections", "skipped_bytes")
    rows = [
        (address, *(counted[name] for name in names), sum(counted["rejected"].values()))
        for address, counted in status.get("listeners", {}).items()
    ]
    return _frame(("address", *names, "rejected"), rows)


def agents(*, since: Moment = None, until: Moment = None, store: Store | None = None) -> pd.DataFrame:
    """Capture agents that were heard in [since, until), the last heard first.

    `node`, `agent` (address and capture id), `hep_versions`, `trusted`, `first_seen`, `last_seen`, `silent_s` (since
    then), `skew_ms` (how far its clock is behind ours, with the way; negative: ahead), `received` (packets).
    """
    asked = current(store)
    found = asked.frame(*health_queries.agents(since=moment(since), until=moment(until)))
    silent = datetime.now(UTC) - found["last_seen"]
    return found.assign(silent_s=silent.dt.total_seconds().clip(lower=0))


def weird(*, since: Moment = None, until: Moment = None, store: Store | None = None) -> pd.DataFrame:
    """What could not be decoded, by kind, the most frequent first: `kind`, `messages`, `senders`, `first`, `last`, and
    of the last one `agent_addr` and `detail`."""
    return current(store).frame(*health_queries.weird(since=moment(since), until=moment(until)))


def weird_samples(
    *,
    kind: str | None = None,
    since: Moment = None,
    until: Moment = None,
    limit: int = 20,
    store: Store | None = None,
) -> pd.DataFrame:
    """The newest of them: `received_at`, `agent_addr`, `kind`, `detail`, `bytes` (in all), `head` (the first bytes)."""
    question = health_queries.weird_samples(kind=kind, since=moment(since), until=moment(until), limit=limit)
    return current(store).frame(*question)


def tables(*, store: Store | None = None) -> pd.DataFrame:
    """The tables of the store: `table_name`, `rows`, `files`, `bytes` on disk, `first` and `last` time.

    The largest first; first and last as the writer or the wire has it, by table.
    """
    asked = current(store)
    return asked.frame(*health_queries.store_tables(asked.reader))


def disk(*, store: Store | None = None) -> pd.DataFrame:
    """One row: `bytes` that the store takes, the catalog included, and `free_bytes` where it lies."""
    folder = current(store).path
    taken = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return _frame(("bytes", "free_bytes"), [(taken, shutil.disk_usage(folder).free)])


def jobs(*, store: Store | None = None) -> pd.DataFrame:
    """What the tap does at intervals: `job`, `state` (waiting, running, ok, failing), `interval_s`, `runs`, `failures`,
    `began_at`, `took_ms`, `told` (what it did, where it says so) and `error` of the last run, `next_at`."""
    status = _status(store) or {}
    names = (
        *("job", "state", "interval_s", "runs", "failures"),
        *("began_at", "took_ms", "next_at", "told", "error"),
    )
    rows = [
        (
            job["job"],
            job_state(job),
            job["interval_s"],
            job["runs"],
            job["failures"],
            at(job["began_us"]),
            job["took_ms"],
            at(job["next_us"]),
            job.get("told"),
            job["error"],
        )
        for job in status.get("jobs", ())
    ]
    return _frame(names, rows)


def cdr_sources(*, store: Store | None = None) -> pd.DataFrame:
    """How reading of CDRs goes: `source`, `state` (waiting, ok, failing), `imported` and `refused` rows, `error`,
    `warning`, `updated_at` (the last success, or the last change where no tap runs), `node`."""
    asked = current(store)
    found = asked.frame(*health_queries.cdr_sources())
    status = _status(asked)
    if not status or not status["alive"] or not status["cdr_sources"]:
        return found
    names = ("source", "state", "imported", "refused", "error", "warning")
    rows = [
        (*(one[name] for name in names), _parsed(one["succeeded_at"]), status["node"])
        for one in status["cdr_sources"]
    ]
    return _frame((*names, "updated_at", "node"), rows)


def plugins(*, store: Store | None = None) -> pd.DataFrame:
    """Detectors and actions of the tap: `kind`, `name`, `state`, `origin`, `summary`.

    States of detectors: on, off, FAILED (switched off after failures); of actions: ARMED, on (touches nothing
    outside), dry run, lacks settings.
    """
    status = _status(store) or {}
    failed = status.get("detectors_off", ())
    names = ("kind", "name", "state", "origin", "summary")
    rows = [
        tuple({**one, "state": "FAILED" if one["name"] in failed else one["state"]}[name] for name in names)
        for one in status.get("plugins", ())
    ]
    return _frame(names, rows)


def _status(store: Store | None) -> dict[str, Any] | None:
    try:
        return tap_status(store=store)
    except StoreError:
        return None


def _parsed(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def _frame(names: Sequence[str], rows: Iterable[Sequence[Any]]) -> pd.DataFrame:
    """Times aware also where all are missing; whole numbers stay whole."""
    import pandas as pd  # noqa: PLC0415  0.3 s that commands without a table do without

    frame = pd.DataFrame(list(rows), columns=list(names))
    for name in names:
        if name.endswith("_at") or name in {"first", "last"}:
            frame[name] = pd.to_datetime(frame[name], utc=True)
    return frame
