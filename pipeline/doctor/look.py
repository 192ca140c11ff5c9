"""What the checks look at: a window of the store, the tap's status, the configuration."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

from pipeline.assemble import actions_of, detectors_of
from pipeline.errors import StoreError
from pipeline.settings import Settings
from pipeline.status import read_status
from pipeline.store.lake import Reader
from pipeline.store.queries import Row, rows_of

WINDOW = timedelta(minutes=15)
MOST_MESSAGES = 200_000  # the newest ones are enough to tell a habit by, and all of a busy day are too many
MESSAGE_TABLES = ("sip", "rtcp", "log", "weird")


class Look:
    """One look at a store; it is the same for all checks.

    The window ends at the newest message, so that an old store can be judged too. `since` is its length, or when
    it begins; a window with more than `MOST_MESSAGES` SIP messages begins later. A `reader` that is given is used
    and left open. Raises StoreError.
    """

    def __init__(
        self,
        store: Path,
        settings: Settings,
        since: timedelta | datetime = WINDOW,
        now: datetime | None = None,
        reader: Reader | None = None,
    ) -> None:
        self.store = store
        self.settings = settings
        self.now = now or datetime.now(UTC)
        self._closes = reader is None
        self.reader = reader or Reader(store)
        self.status = self._status()
        self.until = self._newest()
        self.since = self._begin(since)
        self._kept: dict[str, list[Row]] = {}

    def rows(self, sql: str, **given: Any) -> list[Row]:
        """The rows of a query, which may name `$since`, the begin of the window. Asked once for all checks."""
        if "$since" in sql:
            given["since"] = self.since
        key = f"{sql}{sorted(given.items())}"
        if key not in self._kept:
            self._kept[key] = rows_of(self.reader, sql, given or None)
        return self._kept[key]

    def row(self, sql: str, **given: Any) -> Row:
        """The only row of a query."""
        (found,) = self.rows(sql, **given)
        return found

    @property
    def runs(self) -> bool:
        """Whether a tap writes to the store now."""
        return bool(self.status and self.status["alive"])

    @cached_property
    def late_register(self) -> Any:
        """The detector of ghost calls as configured, or None when it is off."""
        return next((d for d in detectors_of(self.settings) if d.name == "late_register"), None)

    @cached_property
    def armed(self) -> list[str]:
        """The actions that may act, as the running tap was started; else as the configuration says."""
        if self.status:
            return [p["name"] for p in self.status["plugins"] if p["state"] == "ARMED"]
        return [name for name, a in actions_of(self.settings).items() if a.live and a.touches_world]

    def _status(self) -> dict[str, Any] | None:
        try:
            return read_status(self.store)
        except StoreError:
            return None

    def _newest(self) -> datetime | None:
        newest = " UNION ALL ".join(
            f"SELECT max(received_at) AS newest FROM {table}" for table in MESSAGE_TABLES
        )
        found: datetime | None = rows_of(self.reader, f"SELECT max(newest) AS newest FROM ({newest})")[0][
            "newest"
        ]
        return found

    def _begin(self, since: timedelta | datetime) -> datetime:
        if isinstance(since, timedelta):
            since = (self.until or self.now) - since
        crowded = rows_of(
            self.reader,
            "SELECT received_at FROM sip WHERE received_at >= $since"
            " ORDER BY received_at DESC LIMIT 1 OFFSET $most",
            {"since": since, "most": MOST_MESSAGES},
        )
        return crowded[0]["received_at"] if crowded else since

    def close(self) -> None:
        """Close the store, unless it was open before."""
        if self._closes:
            self.reader.close()

    def __enter__(self) -> Look:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
