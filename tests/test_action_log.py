"""The log line of a finding."""

from __future__ import annotations

import asyncio
import dataclasses
import io
from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from late_findings import late_finding
from structlog.testing import capture_logs

from detectors.actions.log import Log, LogSettings
from pipeline.engine.actions import ActionResult, Attempt


@pytest.fixture(autouse=True)
def _plain_structlog() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


def log(**changes: Any) -> ActionResult:
    return asyncio.run(Log(LogSettings()).act(late_finding(**changes), Attempt("a", "r", 0)))


@pytest.mark.parametrize(
    ("severity", "level"), [("info", "info"), ("warning", "warning"), ("critical", "error")]
)
def test_a_line_at_the_findings_level(severity: str, level: str) -> None:
    finding = late_finding()
    with capture_logs() as lines:
        action = Log(LogSettings())
        asyncio.run(action.act(dataclasses.replace(finding, severity=severity), Attempt("a", "r", 0)))
    (line,) = lines
    assert line["event"] == "late_register"
    assert line["log_level"] == level
    assert line["call_id"] == "4f1d-lost@alice.example"
    assert line["finding_id"] == "finding-1"


def test_a_value_cannot_write_lines_of_its_own() -> None:
    written = io.StringIO()
    structlog.configure(
        processors=[structlog.dev.ConsoleRenderer(colors=False)],
        logger_factory=structlog.PrintLoggerFactory(written),
    )
    evil = "x\nlevel=error event=forged \x1b[2J"
    log(call_id=evil, aor=evil, caller_display=evil)
    assert written.getvalue().count("\n") == 1
    assert "\x1b" not in written.getvalue()


def test_it_needs_no_two_yeses() -> None:
    assert Log(LogSettings()).live
    with capture_logs() as lines:
        assert log().outcome == "logged"
        assert (
            asyncio.run(Log(LogSettings(enabled=False)).act(late_finding(), Attempt("a", "r", 0))).outcome
            == "disabled"
        )
    assert len(lines) == 1
