"""What became of the packets of a capture: nothing is left out without a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple


class Weird(NamedTuple):
    """What should have been a message and came to nothing, as the store's table `weird` keeps it."""

    ts_us: int
    kind: str
    detail: str
    data: bytes  # what there is of it


OnWeird = Callable[[Weird], object]


@dataclass(slots=True)
class CaptureCounts:
    """`packets == carriers + ignored.total() + weird.total()`, once the file is read to its end.

    A packet carries SIP or HEP, a whole message or a piece of one. `messages` counts the datagrams and frames
    given, `lost` what of streams came to nothing: bytes that are missing or lead nowhere.
    """

    packets: int = 0
    carriers: int = 0
    ignored: Counter[str] = field(default_factory=Counter)
    weird: Counter[str] = field(default_factory=Counter)
    messages: int = 0
    lost: Counter[str] = field(default_factory=Counter)
    cut: int = 0  # carriers that the capture's snap length cut
