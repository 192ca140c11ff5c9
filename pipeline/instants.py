"""Instants: microseconds since the epoch, as the pipeline counts them, and aware UTC times, as the store keeps them."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from typing import overload

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def now_us() -> int:
    """Wall time in microseconds since the epoch."""
    return time.time_ns() // 1000


@overload
def at(us: int) -> datetime: ...
@overload
def at(us: None) -> None: ...
@overload
def at(us: int | None) -> datetime | None: ...
def at(us: int | None) -> datetime | None:
    """Microseconds since the epoch as an aware UTC time, exact."""
    return None if us is None else EPOCH + us * _MICROSECOND


@overload
def us_of(instant: datetime) -> int: ...
@overload
def us_of(instant: None) -> None: ...
@overload
def us_of(instant: datetime | None) -> int | None: ...
def us_of(instant: datetime | None) -> int | None:
    """An aware time in microseconds since the epoch, exact."""
    return None if instant is None else (instant - EPOCH) // _MICROSECOND
