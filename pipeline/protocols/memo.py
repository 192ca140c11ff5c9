"""Memory for texts that come again and again."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import TypeVar

_Parsed = TypeVar("_Parsed")


def remember(function: Callable[[str], _Parsed]) -> Callable[[str], _Parsed]:
    """Cache the results of a pure function of a text: the last 8192 of them.

    Texts of more than 512 characters are worked out anew each time, so that no sender can fill the memory.
    """
    cached = lru_cache(maxsize=8192)(function)
    return lambda text: cached(text) if len(text) <= 512 else function(text)
