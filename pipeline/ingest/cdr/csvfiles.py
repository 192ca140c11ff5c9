"""A CDR file, followed as it grows: rotation, truncation and a last line that is still being written.

The position is the offset behind the last whole record, with the file's inode and a digest of its first
bytes. The same inode with the same head: reading goes on. Anything else is a new file, read from its start,
after what was left in the old one, where that is still beside it under another name (also as .gz).
"""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from pipeline.ingest.cdr import CdrError, Chunk, Position
from pipeline.ingest.cdr.records import HEAD_BYTES, RecordReader, shape_of
from pipeline.ingest.cdr.settings import CdrSourceSettings

CHUNK_ROWS = 5000
_DIGEST_BYTES = 4096


class CsvFile:
    """Reads the file of `settings`; `to_the_end` when nobody writes to it any more."""

    def __init__(self, settings: CdrSourceSettings, *, to_the_end: bool = False) -> None:
        self._settings = settings
        self._to_the_end = to_the_end

    def chunks(self, position: Position | None) -> Generator[Chunk]:
        """What was written since `position`. A last record that is not complete waits for the next time."""
        path = self._settings.path
        try:
            if not path.is_file():
                raise CdrError(f"{path}: {'not a file' if path.exists() else 'no such file'}")
            with _open(path) as file:
                inode = os.fstat(file.fileno()).st_ino
                goes_on = position is not None and position["inode"] == inode and _begins_so(file, position)
                if position is not None and not goes_on:
                    yield from self._rest_of_the_old_one(path, position)
                yield from self._read(file, position if goes_on else None)
        except (OSError, EOFError) as error:
            raise CdrError(f"{path}: {getattr(error, 'strerror', None) or error}") from error

    def _rest_of_the_old_one(self, path: Path, position: Position) -> Iterator[Chunk]:
        """What was appended to the old file after `position`, if it was rotated to a name beside."""
        for sibling in sorted(path.parent.iterdir()):
            if not sibling.name.startswith(path.stem) or not sibling.is_file() or sibling.samefile(path):
                continue
            with _open(sibling) as file:
                if _begins_so(file, position):
                    yield from self._read(file, position)
                    return
        yield Chunk(position=position, notes=["the file was replaced, and the old one is not beside it"])

    def _read(self, file: BinaryIO, position: Position | None) -> Iterator[Chunk]:
        """The records from `position` to the end, in chunks with the position after each."""
        inode = os.fstat(file.fileno()).st_ino
        file.seek(0)
        head = file.read(HEAD_BYTES)
        shape = shape_of(head, self._settings)
        offset, line = shape.start, shape.start_line
        if position is not None and position["offset"] > offset:
            offset, line = position["offset"], position["line"]
        file.seek(offset)

        def here() -> Position:
            digested = head[: min(offset, _DIGEST_BYTES)]
            return {
                "inode": inode,
                "offset": offset,
                "line": line,
                "head": hashlib.sha256(digested).hexdigest(),
                "head_bytes": len(digested),
            }

        chunk = Chunk()
        reader = RecordReader(shape, self._settings, to_the_end=self._to_the_end)
        for record in reader.records(file, line):
            offset += len(record.data)
            line += record.data.count(b"\n")
            if record.found is not None:
                chunk.rows.append(record.found)
            if len(chunk.rows) >= CHUNK_ROWS:
                chunk.position = here()
                yield chunk
                chunk = Chunk()
        chunk.position = here()
        yield chunk


def _open(path: Path) -> BinaryIO:
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb")


def _begins_so(file: BinaryIO, position: Position) -> bool:
    """True when the file begins as the one of `position` did, and reaches as far."""
    file.seek(0)
    if hashlib.sha256(file.read(position["head_bytes"])).hexdigest() != position["head"]:
        return False
    if position["offset"] == 0:
        return True
    file.seek(position["offset"] - 1)
    return bool(file.read(1))
