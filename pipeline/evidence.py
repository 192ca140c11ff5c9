"""The facts of a finding in words, whatever detector wrote them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

from pipeline.ladder import printable

_UNIT: Final = re.compile(r"(?P<name>\w+)_(?P<unit>s|ms|pct)")
_UNITS: Final = {"s": " s", "ms": " ms", "pct": " %"}


def in_words(evidence: Mapping[str, Any] | None) -> str:
    """`source ip 192.0.2.7, failures 60, window 60 s`: name and value, in the detector's order.

    Times (`_us`) and what is not known are left out: a finding has a time of its own.
    """
    return ", ".join(
        f"{name} {value}" for name, value in map(_told, (evidence or {}).items()) if value is not None
    )


def _told(fact: tuple[str, Any]) -> tuple[str, str | None]:
    name, value = fact
    if name.endswith("_us") or value is None or value in ("", [], {}):
        return name, None
    found = _UNIT.fullmatch(name)
    words = printable((found["name"] if found else name).replace("_", " "))
    return words, " and ".join(_values(value)) + (_UNITS[found["unit"]] if found else "")


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, Mapping):
        yield from (printable(f"{name}: {_number(each)}") for name, each in value.items())
    elif isinstance(value, list | tuple):
        yield from (printable(_number(each)) for each in value)
    else:
        yield printable(_number(value))


def _number(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)
