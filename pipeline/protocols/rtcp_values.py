"""Values of RTCP as agents write them in JSON: strings, wrapped, signed or not. What one cannot be is None. Pure."""

from __future__ import annotations

import math
from typing import Any, Final

MAX_U32: Final = 0xFFFFFFFF


def integer(value: Any) -> int | None:
    """An integer, however written: a number, a float without a fraction, or a string of either."""
    if isinstance(value, str):
        value = value.strip()
        if not (0 < len(value) <= 20 and value.isascii()):
            return None
        if value.removeprefix("-").isdigit():
            return int(value)
    number = finite(value)
    return int(number) if number is not None and number == math.floor(number) else None


def finite(value: Any) -> float | None:
    """A number, or a string of one; neither NaN, nor infinite, nor absurd."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):
        return None
    return number if abs(number) < 1e15 else None


def u32(value: Any) -> int | None:
    """A field of 32 bits; a negative one was printed as signed."""
    number = integer(value)
    return number & MAX_U32 if number is not None and -0x80000000 <= number <= MAX_U32 else None


def within(value: Any, low: int, high: int) -> int | None:
    """An integer of `low` to `high`, both included."""
    number = integer(value)
    return number if number is not None and low <= number <= high else None


def lost(value: Any) -> int | None:
    """Cumulative loss has 24 bits and a sign; agents print it signed, or unsigned with 24 or 32 bits."""
    number = integer(value)
    if number is None:
        return None
    for bits in (24, 32):
        if 1 << (bits - 1) <= number < 1 << bits:
            number -= 1 << bits
    return number if -0x800000 <= number < 0x800000 else None


def short_text(value: Any) -> str | None:
    """The beginning of a string that a column can hold."""
    return storable(value[:256]) if isinstance(value, str) and value else None


def storable(text: str) -> str:
    """Without what JSON can say and no column can hold: halves of surrogate pairs, and NUL."""
    return text.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
