"""Call detail records from tables and files, each row once, whatever happens in between.

    settings -> tables, csvfiles (how to get at the rows) -> rows (what they mean) -> source (once each) -> sink

Rows are stored before the position that follows them, in that order, through the one writer. So after any
crash the position is at most too old, never too new; what is read again is known by its key (`rows`) and
left out, because each chunk asks the store first. No memory of what was stored lives outside the store.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass, field
from typing import Any, Protocol

from pipeline.errors import CaptureError

Position = dict[str, Any]  # how far a source was read; JSON, its keys are the reader's own


class CdrError(CaptureError):
    """A source of CDRs that cannot be read; the message names the source and the mend."""


@dataclass(frozen=True, slots=True)
class Raw:
    """One row as the source has it: its own column names and values."""

    values: dict[str, Any]
    place: str  # "line 17": for messages
    cut: bool = False  # Asterisk cut the record; what is there is whole


@dataclass(slots=True)
class Chunk:
    """Some rows, and the position after them. Of an unreadable one: where it is, and why."""

    rows: list[Raw | str] = field(default_factory=list)
    position: Position | None = None
    notes: list[str] = field(default_factory=list)


class RowReader(Protocol):
    """How to get at the rows of one kind of source."""

    def chunks(self, position: Position | None) -> Generator[Chunk]:
        """What is new since `position`, and perhaps more. Raises CdrError when the source cannot be read."""
        ...
