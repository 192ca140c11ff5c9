"""The action ledger's upkeep: what a crash cut off is settled at a start, and what is long over is forgotten."""

from __future__ import annotations

from datetime import timedelta

import structlog

from pipeline.errors import StoreError
from pipeline.instants import now_us
from pipeline.store.ledger import Ledger

log = structlog.get_logger(__name__)

FORGET_EVERY = timedelta(days=1)
_KEPT_US = 7 * 86_400_000_000


class LedgerWork:
    """A job of the running tap."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._error: str | None = None

    def settle(self) -> None:
        """Say what became of attempts that a crash cut off: unknown, and never to be tried again. Raises StoreError."""
        for attempt in self._ledger.unfinished():
            log.warning("an action was cut off", attempt_id=attempt.attempt_id, call_id=attempt.call_id)
            self._ledger.finish(attempt.attempt_id, "unknown", "cut off by a crash", [], now_us())

    def forget(self) -> str | None:
        """Forget attempts that ended a week ago: none of their calls rings any more."""
        try:
            forgotten = self._ledger.prune(now_us() - _KEPT_US)
        except StoreError as error:
            self._error = str(error)
            return None
        self._error = None
        return f"{forgotten} attempts forgotten" if forgotten else None

    def error(self) -> str | None:
        """How the last run went wrong, in one line."""
        return self._error
