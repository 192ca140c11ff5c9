"""What the running tap does about quality, as jobs that never raise: take in what is new, write the daily report."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import structlog

from pipeline.errors import StoreError
from pipeline.quality.daily import day_to_report, write_report
from pipeline.quality.refresh import Refresher
from pipeline.quality.settings import QualitySettings
from pipeline.store.writer import Writer

_STALE = "quality is not up to date"
_UNWRITTEN = "daily report not written"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class QualityStatus:
    """Counters since the start, for status.json."""

    error: str | None = None
    report_error: str | None = None
    calls: int = 0  # of CDRs, each time they were made
    reports: int = 0
    legs: int = 0  # rows of leg_quality written
    last_report: str | None = None  # day of the last daily report


class QualityWork:
    """The jobs `refresh` and `report` of one store."""

    def __init__(self, writer: Writer, settings: QualitySettings) -> None:
        self.settings = settings
        self._writer = writer
        self._refresher = Refresher(writer, settings)
        self._status = QualityStatus()
        self._stopping = False

    def status(self) -> dict[str, Any]:
        """The state of this moment, as plain JSON types."""
        known = self._status
        return {"state": "failing" if known.error or known.report_error else "ok", **asdict(known)}

    def error(self) -> str | None:
        """What failed in the last pass, in one line; None while all is well."""
        return self._status.error

    def report_error(self) -> str | None:
        """The same of the daily report."""
        return self._status.report_error

    def stop(self) -> None:
        """Have a running pass end soon; the next start goes on from there."""
        self._stopping = True
        self._refresher.stop()

    def refresh(self) -> None:
        """One pass; what fails is told once and done again by the next pass."""
        try:
            done = self._refresher.run()
        except (StoreError, duckdb.Error, OSError) as error:
            self._status.error = self._failed(_STALE, str(error).partition("\n")[0], self._status.error)
        except Exception as error:  # a bug of ours must not end the job
            if self._status.error is None and not self._stopping:
                log.exception("quality failed")
            self._status.error = self._failed(_STALE, repr(error), self._status.error)
        else:
            self._status.error = None
            self._status.calls += done.calls
            self._status.reports += done.reports
            self._status.legs += done.legs

    def report(self, now: datetime | None = None) -> None:
        """The report of the day before, when it is due; a day that was missed is made up the next time."""
        try:
            day = day_to_report(self.settings, now or datetime.now(UTC))
            if day is None or self.settings.report_dir is None:
                self._status.report_error = None
                return
            with self._writer.cursor() as cursor:
                cursor.execute("USE lake")
                files = write_report(cursor, day, self.settings.report_zone, self.settings.report_dir)
        except (StoreError, duckdb.Error, OSError) as error:
            reason = str(error).partition("\n")[0]
            self._status.report_error = self._failed(_UNWRITTEN, reason, self._status.report_error)
        else:
            self._status.report_error = None
            self._status.last_report = str(day)
            log.info("daily report written", files=[str(file) for file in files])

    def _failed(self, what: str, error: str, before: str | None) -> str | None:
        """The error to show from now on: at stop that of `before`. One that is new is logged."""
        if self._stopping:
            return before
        if error != before:
            log.warning(what, error=error)
        return error
