"""What single values of a CDR mean: text, numbers and times as databases and Asterisk's writers give them.

Each function takes whatever a driver or a file gives (text, numbers, Decimal, datetime, bytes, None) and
returns None for what says nothing: empty text, zero dates, NaN. Raises ValueError for what has no meaning.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal, InvalidOperation
from typing import Any
from zoneinfo import ZoneInfo

_EPOCH_NAIVE = datetime(1970, 1, 1)  # noqa: DTZ001  as cdr_adaptive_odbc writes it with usegmtime
_NUMBER = re.compile(r"-?\d+(\.\d*)?")
_UNIQUEID = re.compile(r"(?:.*-)?(\d{9,10})\.\d+")  # [systemname-]epoch.N
_MAX_BIGINT = 2**63 - 1

Converter = Callable[[Any], Any]  # what each of the functions below is

# What Asterisk's JSON and MariaDB make of a backslash and a letter inside a Call-ID (RFC 3261 `word`).
_UNESCAPED = str.maketrans({"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"})

# main/cdr.c: ast_cdr_disp2str, and ast_channel_amaflags2string; for columns that hold numbers.
_DISPOSITIONS = {
    0: "NO ANSWER",
    1: "NO ANSWER",
    2: "FAILED",
    4: "BUSY",
    8: "ANSWERED",
    16: "CONGESTION",
    32: "CANCEL",
}
_AMAFLAGS = {1: "OMIT", 2: "BILLING", 3: "DOCUMENTATION"}


def text(value: Any) -> str | None:
    """Text as it came; empty text says nothing."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        return value
    if isinstance(value, bytes | bytearray | memoryview):
        return decoded(bytes(value)) or None
    return str(value)


def call_id(value: Any) -> str | None:
    """A Call-ID; what was taken for an escape on its way is put back."""
    found = text(value)
    return found.translate(_UNESCAPED) if found else None


def decoded(data: bytes) -> str:
    """UTF-8, or else Latin-1, in which every byte means something."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("latin-1")


def number(value: Any) -> float | None:
    """A number; NaN and infinity say nothing."""
    if value is None or value == "":
        return None
    found = float(value)
    return found if math.isfinite(found) else None


def integer(value: Any) -> int | None:
    """A whole number that fits 64 bits."""
    if isinstance(value, int):
        found: int | None = value
    else:
        as_number = number(value)
        found = (
            None if as_number is None else int(Decimal(str(value)) if isinstance(value, str) else as_number)
        )
    if found is not None and abs(found) > _MAX_BIGINT:
        raise ValueError(f"{value!r} is too large")
    return found


def milliseconds(value: Any) -> int | None:
    """Seconds (whole, or with a fraction) -> whole milliseconds; less than none says nothing."""
    if value is None or value == "":
        return None
    try:
        seconds = Decimal(str(value))
    except InvalidOperation:
        raise ValueError(f"{value!r} is no number of seconds") from None
    if not seconds.is_finite() or not 0 <= seconds < 10**9:
        return None
    return int((seconds * 1000).to_integral_value())


def disposition(value: Any) -> str | None:
    """In words, where the column holds Asterisk's number too."""
    return _in_words(value, _DISPOSITIONS)


def amaflags(value: Any) -> str | None:
    """In words, where the column holds Asterisk's number too."""
    return _in_words(value, _AMAFLAGS)


def _in_words(value: Any, words: dict[int, str]) -> str | None:
    found = text(value)
    if found is None or not _NUMBER.fullmatch(found):
        return found
    return words.get(int(float(found)))


def epoch_of(uniqueid: str | None) -> int | None:
    """When the channel began, in seconds since the epoch, UTC: `[systemname-]1795374114.0` -> 1795374114."""
    found = _UNIQUEID.fullmatch(uniqueid) if uniqueid else None
    return int(found[1]) if found else None


def moment(value: Any) -> datetime | None:
    """A time as it stands: naive where it names no zone, else aware. Zero dates and the epoch say nothing.

    Takes `2026-11-22 21:01:54`, ISO 8601 with an offset, seconds since the epoch (whole or with a fraction).
    """
    if value is None or value == "":
        return None
    if isinstance(value, datetime):
        found = value
    elif isinstance(value, date):
        found = datetime(value.year, value.month, value.day)  # noqa: DTZ001  its zone is the source's
    elif isinstance(value, int | float | Decimal):
        found = _from_epoch(value)
    else:
        found_text = text(value)
        if found_text is None or found_text.startswith("0000-00-00") or not found_text.strip():
            return None
        if _NUMBER.fullmatch(found_text):
            found = _from_epoch(Decimal(found_text))
        else:
            found = datetime.fromisoformat(found_text.strip())
    if found.replace(tzinfo=None) <= _EPOCH_NAIVE + timedelta(days=1):
        return None
    if found.year > 9998:
        raise ValueError(f"{value} is no time")  # no room for a zone
    return found


def _from_epoch(seconds: int | float | Decimal) -> datetime:
    microseconds = int(Decimal(str(seconds)) * 1_000_000)
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)


def in_utc(time: datetime, zone: ZoneInfo, epoch_s: int | None) -> datetime:
    """`time` in UTC; a naive one is in `zone`.

    An hour that happens twice (the end of summer time) is told by the channel's beginning, `epoch_s`: the
    first of both that is not before it.
    """
    if time.tzinfo is not None:
        return time.astimezone(UTC)
    if zone.key == "UTC":
        return time.replace(tzinfo=UTC)
    first, second = (time.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
    if first < second and epoch_s is not None and first.timestamp() < epoch_s - 60:
        return second
    return first
