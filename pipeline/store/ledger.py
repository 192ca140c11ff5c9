"""The action ledger: what was claimed is on disk before anything is sent, and is never claimed twice.

SQLite with a write-ahead log and `synchronous = FULL`: one fsync per claim, a few milliseconds at most,
since it lies on the way from REGISTER's 200 to our INVITE. The lake gets the finished attempts for
analysis; this is the memory that stops a second call.

A dry run's claim and a real one are kept apart: each (action, call_id, device) can be claimed once in a
dry run and once for real. So a rehearsal never stands in the way of the real thing, nor counts for its
brakes, and does not repeat itself either.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import StoreError

_VERSION = 1
_BUSY_TIMEOUT_S = 5.0
_TABLES = """
CREATE TABLE IF NOT EXISTS attempt (
    attempt_id TEXT PRIMARY KEY,
    action TEXT NOT NULL,
    call_id TEXT NOT NULL,
    device TEXT NOT NULL,
    aor TEXT,
    finding_id TEXT NOT NULL,
    dry_run INTEGER NOT NULL,
    claimed_at_us INTEGER NOT NULL,
    expires_at_us INTEGER,
    ended_at_us INTEGER,
    outcome TEXT,
    detail TEXT,
    statuses TEXT NOT NULL DEFAULT '[]',
    UNIQUE (action, call_id, device, dry_run)
) STRICT;
CREATE INDEX IF NOT EXISTS attempt_by_aor ON attempt (aor, claimed_at_us);
CREATE INDEX IF NOT EXISTS attempt_by_time ON attempt (claimed_at_us);
"""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One claimed attempt. Times are microseconds since the epoch; `ended_at_us` is None while it runs.

    `expires_at_us` says until when it makes sense to act (the phone has given up ringing after that).
    """

    attempt_id: str
    action: str
    call_id: str
    device: str
    aor: str | None
    finding_id: str
    dry_run: bool
    claimed_at_us: int
    expires_at_us: int | None
    ended_at_us: int | None
    outcome: str | None
    detail: str | None
    statuses: list[dict[str, int]]


class Ledger:
    """The ledger in the file `path`. Safe to use from several threads. Raises StoreError when it cannot."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self._path = Path(path)
        self._lock = threading.Lock()
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._path.touch(mode=0o600)
            self._db = sqlite3.connect(
                self._path, timeout=_BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise StoreError(f"cannot open the action ledger {self._path}: {error}") from error
        try:
            self._prepare()
        except BaseException as error:
            self._db.close()
            if isinstance(error, sqlite3.Error):
                raise StoreError(f"cannot use the action ledger {self._path}: {error}") from error
            raise

    def _prepare(self) -> None:
        self._db.row_factory = sqlite3.Row
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        (version,) = self._db.execute("PRAGMA user_version").fetchone()
        if version > _VERSION:
            raise StoreError(f"the action ledger {self._path} was made by a newer hepduck: install that")
        self._db.executescript(f"BEGIN; {_TABLES} PRAGMA user_version = {_VERSION}; COMMIT")

    def claim(
        self,
        action: str,
        call_id: str,
        device: str,
        *,
        finding_id: str,
        at_us: int,
        aor: str | None = None,
        dry_run: bool = True,
        expires_at_us: int | None = None,
    ) -> str | None:
        """Claim an attempt; its id once the claim is on disk, None when it was claimed before.

        Atomic between threads and processes.
        """
        attempt_id = uuid.uuid4().hex
        row = (attempt_id, action, call_id, device, aor, finding_id, dry_run, at_us, expires_at_us)
        done = self._execute(
            "INSERT INTO attempt"
            " (attempt_id, action, call_id, device, aor, finding_id, dry_run, claimed_at_us, expires_at_us)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING RETURNING attempt_id",
            row,
        )
        return attempt_id if done else None

    def finish(
        self, attempt_id: str, outcome: str, detail: str, statuses: Sequence[dict[str, int]], ended_at_us: int
    ) -> None:
        """Write down how an attempt ended. `statuses` is [{"status": 180, "at_us": ...}, ...].

        Raises StoreError for an attempt that was never claimed, or has ended before.
        """
        done = self._execute(
            "UPDATE attempt SET outcome = ?, ended_at_us = ?, detail = ?, statuses = ?"
            " WHERE attempt_id = ? AND ended_at_us IS NULL RETURNING attempt_id",
            (outcome, ended_at_us, detail, json.dumps(list(statuses)), attempt_id),
        )
        if not done:
            raise StoreError(f"attempt {attempt_id} is not running")

    def recent(self, aor: str, since_us: int) -> int:
        """How many real attempts for `aor` were claimed at or after `since_us`: for the limit per AOR."""
        return self._count("claimed_at_us >= ? AND aor = ?", (since_us, aor))

    def count_since(self, since_us: int) -> int:
        """How many real attempts were claimed at or after `since_us`: for `max_per_minute`."""
        return self._count("claimed_at_us >= ?", (since_us,))

    def attempts(self, since_us: int) -> list[Attempt]:
        """Every attempt claimed at or after `since_us`, dry runs too, newest first."""
        return self._attempts("claimed_at_us >= ? ORDER BY claimed_at_us DESC", (since_us,))

    def unfinished(self) -> list[Attempt]:
        """Attempts that were claimed and never finished, oldest first: their fate is unknown after a restart.

        They must not be tried again: the phone may have rung.
        """
        return self._attempts("ended_at_us IS NULL ORDER BY claimed_at_us", ())

    def prune(self, before_us: int) -> int:
        """Forget what ended before `before_us`; returns how many. Running attempts stay."""
        return len(
            self._execute(
                "DELETE FROM attempt WHERE ended_at_us < ? RETURNING attempt_id",
                (before_us,),
            )
        )

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._db.close()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _count(self, where: str, parameters: tuple[Any, ...]) -> int:
        counted = self._execute(f"SELECT count(*) FROM attempt WHERE NOT dry_run AND {where}", parameters)
        return int(counted[0][0])

    def _attempts(self, where: str, parameters: tuple[Any, ...]) -> list[Attempt]:
        return [
            Attempt(**{**row, "dry_run": bool(row["dry_run"]), "statuses": json.loads(row["statuses"])})
            for row in map(dict, self._execute(f"SELECT * FROM attempt WHERE {where}", parameters))
        ]

    def _execute(self, sql: str, parameters: tuple[Any, ...]) -> list[sqlite3.Row]:
        try:
            with self._lock:
                return self._db.execute(sql, parameters).fetchall()
        except sqlite3.Error as error:
            raise StoreError(f"the action ledger {self._path}: {error}") from error
