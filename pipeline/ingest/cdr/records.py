"""The records of an open CDR file: what kind of file it is, which lines make a record, what is in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from pipeline.ingest.cdr import CdrError, Raw
from pipeline.ingest.cdr.columns import csv_columns
from pipeline.ingest.cdr.lines import (
    CUT_BYTES,
    BadLineError,
    Format,
    OpenLineError,
    cells_of,
    guess_format,
    object_of,
)
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.values import decoded

HEAD_BYTES = 64 * 1024
_GUESS_LINES = 200
_LONGEST_RECORD_BYTES = 64 * 1024  # a quote that stays open for longer is garbage
_LONGEST_RECORD_LINES = 128  # and each line that is added means reading all of them again
_BOM = b"\xef\xbb\xbf"

Parsed = list[str | None] | dict[str, object]


@dataclass(frozen=True, slots=True)
class Shape:
    """What the head of a file tells of all of it."""

    kind: Format
    header: tuple[str, ...] | None
    start: int  # offset of the first record
    start_line: int  # lines before it


@dataclass(frozen=True, slots=True)
class Record:
    """One record: its bytes with line ends, and what it is: a row, the reason why not, None for a blank line."""

    data: bytes
    found: Raw | str | None


def shape_of(head: bytes, settings: CdrSourceSettings) -> Shape:
    """The shape of the file that begins with `head`. Raises CdrError when nothing says what its columns are."""
    skipped = len(_BOM) if head.startswith(_BOM) else 0
    body = head[skipped:]
    lines = [decoded(line) for line in body[: body.rfind(b"\n") + 1].splitlines()[:_GUESS_LINES]]
    if not lines and len(head) < HEAD_BYTES:
        lines = [decoded(body)] if body else []
    kind: Format = "csv" if settings.shape.by_count else guess_format(lines)
    if settings.format != "auto":
        kind = settings.format
    if kind == "json" or not lines:
        return Shape(kind, None, skipped, 0)
    try:
        cells = [(cell or "").strip() for cell in cells_of(lines[0], kind)]
    except BadLineError:
        cells = []
    if settings.column_map.is_header(cells):
        return Shape(kind, tuple(cells), skipped + body.find(b"\n") + 1, 1)
    if not settings.order and not settings.shape.order:
        raise CdrError(f"{settings.path} has no header line: name its columns (--columns a,b,c)")
    return Shape(kind, None, skipped, 0)


class RecordReader:
    """Reads the records of a file from where it stands."""

    def __init__(self, shape: Shape, settings: CdrSourceSettings, *, to_the_end: bool) -> None:
        """`to_the_end`: a last line without a line end counts, if it can be read."""
        self._shape = shape
        self._order = tuple(settings.order) or settings.shape.order
        self._by_count = settings.shape.by_count and not settings.order
        self._may_be_cut = shape.header is None and not self._by_count
        self._to_the_end = to_the_end

    def records(self, file: BinaryIO, line: int) -> Iterator[Record]:
        """All records that are complete; `line` is the number of lines before.

        A record that stays open is put together with the lines after it. Where that makes no sense either, its
        first line alone is garbage, and the lines after it are read as ever.
        """
        while first := file.readline():
            place = f"line {line + 1}"
            if not first.endswith(b"\n"):
                found = self._row(first, place) if self._to_the_end else None
                if isinstance(found, Raw):
                    yield Record(first, found)
                return
            resume, data, lines = file.tell(), first, 1
            found = self._row(data, place)
            while found is None and data.strip():
                more = file.readline()
                if not more.endswith(b"\n") and not (self._to_the_end and more):
                    if self._to_the_end:
                        found = f"{place}: a quote stays open"
                        break
                    return  # may still be written
                data += more
                lines += 1
                fits = len(data) <= _LONGEST_RECORD_BYTES and lines <= _LONGEST_RECORD_LINES
                found = self._row(data, place) if fits else "too long"
            if isinstance(found, str):
                file.seek(resume)
                data = first
                if not found.startswith(place):
                    found = f"{place}: a quote stays open"
            yield Record(data, found)
            line += data.count(b"\n")

    def _row(self, data: bytes, place: str) -> Raw | str | None:
        """The row in `data`, or why there is none; None when it is blank, or open at its end."""
        line = data.removesuffix(b"\n").removesuffix(b"\r")
        if not line.strip():
            return None
        is_cut = self._may_be_cut and len(line) == CUT_BYTES
        text = decoded(line)
        try:
            if self._shape.kind == "json":
                return Raw(object_of(text, is_cut=is_cut), place, is_cut)
            cells = cells_of(text, self._shape.kind, is_cut=is_cut)
            names = self._names(cells)
            if len(cells) > len(names) or (len(cells) < len(names) and not is_cut):
                raise BadLineError(f"{len(cells)} columns, where {len(names)} are expected")
        except OpenLineError:
            return None
        except BadLineError as error:
            return f"{place}: {error}"
        return Raw(dict(zip(names, cells, strict=False)), place, len(cells) < len(names))

    def _names(self, cells: list[str | None]) -> tuple[str, ...]:
        if self._shape.header is not None:
            return self._shape.header
        if not self._by_count:
            return self._order
        names = csv_columns([cell or "" for cell in cells])
        if names is None:
            raise BadLineError(f"{len(cells)} columns, where cdr_csv writes 16 to 21")
        return names
