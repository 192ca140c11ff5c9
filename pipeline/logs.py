"""Logs: structlog to stderr, for people on a terminal, JSON elsewhere; never a line per message.

What a stranger sent may be in any value. It steers no terminal and opens no line of its own: JSON escapes it, on a
terminal control characters become dots. And it fills no disk: of one event only so many lines are written at a
time. Where the lines go, and when they are rotated, is the business of whoever holds stderr: journald, Docker.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from pipeline.ladder import printable
from pipeline.settings import LogSettings

MOST_LINES = 100
"""Lines of one event within `PERIOD_S`; the first one after that says how many were left out."""
PERIOD_S = 10.0
_MOST_EVENTS = 1000  # told apart


class RateLimit:
    """A processor that drops what is too much of one event."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._counts: dict[str, tuple[float, int]] = {}  # event -> since when, and how many since

    def __call__(self, _logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        event, now_s = str(line.get("event")), self._clock()
        with self._lock:
            since_s, count = self._counts.get(event, (now_s, 0))
            over = now_s - since_s >= PERIOD_S
            if over or event not in self._counts:
                if len(self._counts) >= _MOST_EVENTS:
                    self._counts.clear()
                self._counts[event] = (now_s, 1)
            else:
                self._counts[event] = (since_s, count + 1)
        if over:
            left_out = count - MOST_LINES
            return {**line, "left_out": left_out} if left_out > 0 else line
        if count >= MOST_LINES:
            raise structlog.DropEvent
        return line


def harmless(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    """A processor that takes from text what steers a terminal; a traceback keeps its lines."""
    return {key: _harmless(value) if isinstance(value, str) else value for key, value in line.items()}


def _harmless(text: str) -> str:
    return "\n".join(printable(part) for part in text.split("\n")) if "Traceback" in text else printable(text)


def configure(settings: LogSettings) -> None:
    """Set up logging for this process."""
    as_json = settings.format == "json" or (settings.format == "auto" and not sys.stderr.isatty())
    plain = structlog.dev.plain_traceback
    last: list[Processor] = (
        [structlog.processors.JSONRenderer()]
        if as_json
        else [harmless, structlog.dev.ConsoleRenderer(exception_formatter=plain)]
    )
    structlog.configure(
        processors=[
            RateLimit(),
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="ts"),
            structlog.processors.format_exc_info,
            *last,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelName(settings.level.upper())),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
