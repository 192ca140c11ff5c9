"""The lines of the log: whole, harmless, and never too many."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Literal

import pytest
import structlog
from structlog.typing import EventDict

from pipeline.logs import MOST_LINES, PERIOD_S, RateLimit, configure
from pipeline.settings import LogSettings

HOSTILE = 'x\r\n{"event": "forged"}\x1b[2J\x1b]0;owned\x07\u202etxt\x9b31m'


@pytest.fixture(autouse=True)
def _plain_structlog() -> Iterator[None]:
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("how", ["json", "text"])
def test_strangers_words(how: Literal["json", "text"], capsys: pytest.CaptureFixture[str]) -> None:
    """In a value and in an exception's words: one line each, nothing that steers a terminal."""
    configure(LogSettings(format=how))
    log = structlog.get_logger("test")
    log.warning("odd", call_id=HOSTILE)
    text = capsys.readouterr().err
    try:
        raise ValueError(HOSTILE.replace("\n", ""))
    except ValueError:
        log.exception("failed")
    failed = capsys.readouterr().err
    every = text + failed
    own_colours = ("\x1b[0m", "\x1b[1m", "\x1b[2m", "\x1b[3")  # the renderer's
    for colour in own_colours:
        every = every.replace(colour, "")
    assert not set(every) & set("\r\x07\u202e\x9b")
    assert "\x1b[2J" not in every and "\x1b]0" not in every
    assert text.count("\n") == 1
    if how == "json":
        assert json.loads(failed)["event"] == "failed"
        assert json.loads(text)["call_id"] == HOSTILE


def test_too_many_of_one_event() -> None:
    """A flood is cut, another event passes; afterwards it is said how many were left out."""
    now_s = 0.0
    limit = RateLimit(lambda: now_s)

    def passes(event: str) -> EventDict | None:
        try:
            return limit(None, "info", {"event": event})
        except structlog.DropEvent:
            return None

    assert sum(passes("flood") is not None for _ in range(5 * MOST_LINES)) == MOST_LINES
    assert passes("other") == {"event": "other"}
    now_s = PERIOD_S
    assert passes("flood") == {"event": "flood", "left_out": 4 * MOST_LINES}
    assert sum(passes("flood") is not None for _ in range(5 * MOST_LINES)) == MOST_LINES - 1
    now_s = 10 * PERIOD_S
    passes("flood")
    now_s = 20 * PERIOD_S
    assert passes("flood") == {"event": "flood"}


def test_names_that_a_stranger_makes_up() -> None:
    limit = RateLimit()
    for number in range(5000):
        limit(None, "info", {"event": f"e{number}"})
    assert len(limit._counts) <= 1000
