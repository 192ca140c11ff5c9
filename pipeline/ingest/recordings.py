"""Recordings: HEP as it arrived, byte for byte, in a `.hep` file, plain or zstd.

The format: the magic `HEPREC01`, then records of u64 arrival time in ns since the epoch, u16 source port,
u32 length, and that many bytes; all big-endian. It holds no sender address: read back, it is 127.0.0.1.
"""

from __future__ import annotations

import os
import random
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from os import PathLike, fspath
from pathlib import Path
from struct import Struct
from threading import Lock
from types import TracebackType
from typing import BinaryIO, Final

import zstandard

from pipeline.errors import CaptureError
from pipeline.ingest import Datagram
from pipeline.ingest.captures.counts import CaptureCounts
from pipeline.ingest.unpack import Source

__all__ = ["Datagram", "Recording", "RecordingWriter", "read_recording", "shuffle"]

MAGIC: Final = b"HEPREC01"
_RECORD: Final = Struct("!QHI")
_MAX_RECORD_BYTES: Final = 1 << 20  # a HEP packet has at most 65535
_FLUSH_EVERY_S: Final = 1.0


def read_recording(path: str | PathLike[str]) -> Recording:
    """The datagrams of a recording, in file order. Raises CaptureError when the file is none.

    A file cut short, as a crash leaves it, gives all its whole records; `damage` of the result then says so.
    """
    return Recording(Path(path))


class Recording(Iterator[Datagram]):
    """An iterator over a recording; `damage` says, after the last record, what is wrong with the rest.

    `counts` has each record as a packet that carries a message; `cut_short`: the file merely ends too soon.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.counts = CaptureCounts()
        self.damage: str | None = None
        self.cut_short = False
        self._source = Source(path, _MAX_RECORD_BYTES)
        magic = self._source.read(len(MAGIC))
        if magic != MAGIC:
            raise CaptureError(f"{path} is no recording: it starts with {magic!r}, not {MAGIC!r}")
        self._records = self._read()

    def __next__(self) -> Datagram:
        return next(self._records)

    @property
    def place(self) -> int:
        """How many bytes of the unpacked file have been read."""
        return self._source.at

    def _read(self) -> Iterator[Datagram]:
        source, counts = self._source, self.counts
        place = source.at
        try:
            while head := source.read(_RECORD.size):
                if source.lacking:
                    break
                arrival_ns, port, length = _RECORD.unpack(head)
                if length > _MAX_RECORD_BYTES:
                    self.damage = f"{self.path}: the record at byte {place} claims {length} bytes"
                    return
                data = source.read(length)
                if len(data) < length:
                    break
                place = source.at
                counts.packets += 1
                counts.carriers += 1
                counts.messages += 1
                yield Datagram(arrival_ns // 1000, "127.0.0.1", port, "file", True, data)
        except CaptureError as error:
            self.damage = str(error)
        else:
            if place != source.at:
                self.cut_short = True
                self.damage = f"{self.path}: the record at byte {place} is cut short; all before it were read"


class RecordingWriter:
    """Writes a recording; zstd when the name ends in `.zst`. What was written a second ago survives a crash.

    An older file of that name stays as it is until the first record comes, or the writer is closed: whoever makes
    one may yet fail to bind its port. `write` may be called from several threads. Raises CaptureError when the
    file cannot be written.
    """

    def __init__(self, path: str | PathLike[str]) -> None:
        self.path = Path(path)
        self.records = 0
        self._lock = Lock()
        self._flushed_s = time.monotonic()
        self._begun = False
        with self._told():
            # Customers' traffic, and the agents' key in clear: a new file is its owner's alone.
            made = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        self._file: BinaryIO = os.fdopen(made, "wb")
        self._compressor = zstandard.ZstdCompressor().compressobj() if fspath(path).endswith(".zst") else None

    def write(self, datagrams: Iterable[Datagram]) -> None:
        """Append records, in the order given."""
        records = [
            _RECORD.pack(datagram.arrival_us * 1000, datagram.agent_port, len(datagram.data)) + datagram.data
            for datagram in datagrams
        ]
        with self._lock, self._told():
            self._append(b"".join(records))
            self.records += len(records)
            if time.monotonic() - self._flushed_s >= _FLUSH_EVERY_S:
                self._flush()

    def flush(self) -> None:
        """Hand everything written so far to the system."""
        with self._lock, self._told():
            self._flush()

    def close(self) -> None:
        """Finish the file. A second time does nothing."""
        with self._lock, self._told():
            if self._file.closed:
                return
            with self._file:
                self._begin()
                if self._compressor is not None:
                    self._file.write(self._compressor.flush())

    def __enter__(self) -> RecordingWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @contextmanager
    def _told(self) -> Iterator[None]:
        """The system's refusals as CaptureError."""
        try:
            yield
        except OSError as error:
            raise CaptureError(f"{self.path} cannot be written: {error.strerror}") from error

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            if stat.S_ISREG(os.fstat(self._file.fileno()).st_mode):  # not /dev/stdout, or a pipe
                self._file.truncate(0)
            self._append(MAGIC)
            self._flush()

    def _append(self, data: bytes) -> None:
        self._begin()
        self._file.write(data if self._compressor is None else self._compressor.compress(data))

    def _flush(self) -> None:
        self._begin()
        if self._compressor is not None:
            self._file.write(self._compressor.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK))
        self._file.flush()
        self._flushed_s = time.monotonic()


def shuffle(records: Iterable[Datagram], within_ms: float, seed: int) -> list[Datagram]:
    """The records in the order of new arrival times, each up to `within_ms` later than it really came."""
    rng = random.Random(seed)  # noqa: S311  # reproducible, not secret
    within_us = within_ms * 1000
    late = [r._replace(arrival_us=r.arrival_us + int(rng.uniform(0, within_us))) for r in records]
    return sorted(late, key=lambda record: record.arrival_us)
