"""Files as they lie on the disk, plain, gzip or zstd by their first bytes, read as one stream of plain bytes."""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Final, NamedTuple

import zstandard

from pipeline.errors import CaptureError

_BLOCK_BYTES: Final = 1 << 18
_ZSTD_MAGIC: Final = b"\x28\xb5\x2f\xfd"
_GZIP_MAGIC: Final = b"\x1f\x8b"
_GZIP_BITS: Final = 16 + zlib.MAX_WBITS


def blocks(path: Path) -> Iterator[bytes]:
    """The file, unpacked, in pieces that are never empty; of a packed file that was cut all that can be had.

    Raises CaptureError when the file cannot be read, or is broken inside.
    """
    place = 0
    try:
        with path.open("rb") as file:
            packed = _Packed(file.read(_BLOCK_BYTES))
            while packed.block:
                yield from packed.unpacked()
                place += len(packed.block)
                packed.block = file.read(_BLOCK_BYTES)
    except OSError as error:
        raise CaptureError(f"{path} cannot be read: {error.strerror or error}") from error
    except (zstandard.ZstdError, zlib.error) as error:
        raise CaptureError(f"{path}: unreadable from about byte {place} on: {error}") from error


class _Packed:
    """Unpacks block after block. Several packed streams in a row are one, as `cat a.gz b.gz` makes them."""

    def __init__(self, first: bytes) -> None:
        self.block = first
        self._zstd = self._gzip = None
        if first.startswith(_ZSTD_MAGIC):
            self._zstd = zstandard.ZstdDecompressor().decompressobj(read_across_frames=True)
        elif first.startswith(_GZIP_MAGIC):
            self._gzip = zlib.decompressobj(_GZIP_BITS)

    def unpacked(self) -> Iterator[bytes]:
        if self._zstd is not None:
            if plain := self._zstd.decompress(self.block):
                yield plain
        elif self._gzip is not None:
            yield from self._gunzip()
        else:
            yield self.block

    def _gunzip(self) -> Iterator[bytes]:
        assert self._gzip is not None
        rest = self.block
        while rest:
            if self._gzip.eof:
                rest = rest.lstrip(b"\0")  # tape and disk images pad with them
                if not rest:
                    return
                self._gzip = zlib.decompressobj(_GZIP_BITS)
            if plain := self._gzip.decompress(rest, _BLOCK_BYTES):
                yield plain
            rest = self._gzip.unused_data if self._gzip.eof else self._gzip.unconsumed_tail


class Content(NamedTuple):
    """What is in a file, however it is packed."""

    sha256: str
    bytes: int


def content_of(path: Path, sizes: Collection[int] = ()) -> tuple[Content, dict[int, str]]:
    """What is in the file; and the hashes of its first bytes, for those of `sizes` that are less than all.

    Raises CaptureError.
    """
    digest, size = hashlib.sha256(), 0
    begins: dict[int, str] = {}
    due = sorted(sizes, reverse=True)
    for block in blocks(path):
        at = 0
        while due and due[-1] < size + len(block):
            mark = due.pop()
            digest.update(block[at : mark - size])
            begins[mark] = digest.copy().hexdigest()
            at = mark - size
        digest.update(block[at:])
        size += len(block)
    return Content(digest.hexdigest(), size), begins


class Source:
    """A file as the libraries that read captures want it: `read(n)`, which takes no number for granted.

    `at` is the place of the next byte in the unpacked file, `lacking` how many bytes of the last read were not
    there: the file ends inside of what it promised.
    """

    def __init__(self, path: Path, most_bytes: int) -> None:
        self.path = path
        self.at = 0
        self.lacking = 0
        self._most_bytes = most_bytes
        self._blocks = blocks(path)
        self._buffer, self._place = b"", 0

    def read(self, size: int = -1) -> bytes:
        """The next `size` bytes, fewer only at the end. Raises CaptureError for a size beyond reason."""
        if not 0 <= size <= self._most_bytes:
            raise CaptureError(f"{self.path}: broken at byte {self.at}: it claims {size} bytes there")
        end = self._place + size
        if end > len(self._buffer):
            self._fill(size)
            end = size
        data = self._buffer[self._place : end]
        self._place += len(data)
        self.at += len(data)
        self.lacking = size - len(data)
        return data

    def _fill(self, size: int) -> None:
        parts = [self._buffer[self._place :]]
        have = len(parts[0])
        while have < size and (block := next(self._blocks, None)) is not None:
            parts.append(block)
            have += len(block)
        self._buffer, self._place = b"".join(parts), 0
