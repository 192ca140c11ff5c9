"""Durations as users write them, `"500ms"`, `"15s"`, `"14d"`: read once here, carried as `timedelta`."""

from __future__ import annotations

import math
import re
from datetime import timedelta
from typing import Annotated, Final

from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

_UNITS_US = {"us": 1, "ms": 1_000, "s": 1_000_000, "m": 60_000_000, "h": 3_600_000_000, "d": 86_400_000_000}
_FORM = re.compile(r"(\d+(?:\.\d+)?)\s*(us|ms|s|m|h|d)", re.ASCII)


def parse_duration(value: object) -> object:
    """A duration from text; ValueError says which forms are known. Anything but text is left to pydantic."""
    if not isinstance(value, str):
        return value
    found = _FORM.fullmatch(value.strip())
    if found is None:
        raise ValueError(f'{value!r} is no duration; write for example "500ms", "15s", "10m", "1h" or "14d"')
    return timedelta(microseconds=round(float(found[1]) * _UNITS_US[found[2]]))


def format_duration(value: timedelta) -> str:
    """The shortest exact form: `timedelta(seconds=90)` -> `"90s"`."""
    us = to_us(value)
    for unit in ("d", "h", "m", "s", "ms"):
        if us and us % _UNITS_US[unit] == 0:
            return f"{us // _UNITS_US[unit]}{unit}"
    return f"{us}us"


def to_us(value: timedelta) -> int:
    """Whole microseconds."""
    return value // timedelta(microseconds=1)


Duration = Annotated[
    timedelta,
    BeforeValidator(parse_duration),
    PlainSerializer(format_duration, return_type=str),
    WithJsonSchema({"type": "string", "pattern": _FORM.pattern}),
]
"""A settings field that holds a length of time."""


_ROUND_S: Final = (
    1,
    2,
    5,
    10,
    15,
    30,
    *(m * 60 for m in (1, 2, 5, 10, 15, 30)),
    *(h * 3600 for h in (1, 2, 6, 12, 24)),
)


def step_of(length: timedelta, most: int = 200) -> int:
    """The shortest round number of seconds that cuts `length` into at most `most` steps; whole days from one on."""
    seconds = length.total_seconds()
    days = math.ceil(seconds / 86_400 / most)
    return next((step for step in _ROUND_S if seconds / step <= most), days * 86_400)
