"""The thread that takes batches to disk while the store does not take them. The writer's own may be stuck then."""

from __future__ import annotations

import threading

import structlog

from pipeline.store.backlog import Backlog
from pipeline.store.spool import Spool

_LOOKS_S = 0.25
_TRIES_AGAIN_S = 1.0

_log = structlog.get_logger(__name__)


class Spooler:
    """Runs beside the writer from the start; `finish` once."""

    def __init__(self, backlog: Backlog, spool: Spool) -> None:
        self._backlog = backlog
        self._spool = spool
        self._finishing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="store-spooler", daemon=True)
        self._thread.start()

    def finish(self, timeout_s: float) -> None:
        """Take to disk all that is left, as far as there is room, and end; a stuck disk is waited for so long."""
        self._finishing.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        spooling = False
        while True:
            last = self._finishing.is_set()
            batch = self._backlog.to_save(all_=last)
            if batch is None:
                if last:
                    return
                spooling = spooling and self._backlog.status().is_behind
                self._finishing.wait(_LOOKS_S)  # not for each row that comes: it would be in the writer's way
                continue
            try:
                file = self._spool.write(batch.place, batch.batch_id, batch.tables or {})
            except Exception as error:  # noqa: BLE001  whatever it is: the rows are kept, and it is reported
                if self._backlog.not_saved(batch, error):
                    _log.error("spool_not_written", folder=str(self._spool.folder), error=str(error))
                if last:
                    return
                self._finishing.wait(_TRIES_AGAIN_S)
                continue
            if not spooling:
                spooling = True
                why = self._backlog.status().last_error
                _log.warning("spooling", folder=str(self._spool.folder), why=why)
            if (stale := self._backlog.saved(batch, file)) is not None:
                self._spool.remove(stale)
