"""HEP3 over TCP and TLS: packets one behind the other; the header's length is the only framing."""

from __future__ import annotations

import re
from typing import Final

from pipeline.protocols.hep.packet import HEP3_MAGICS

_HEADER_BYTES: Final = 6
_MAGIC_BYTES: Final = 4
_find_magic: Final = re.compile(b"|".join(HEP3_MAGICS)).search
_PREFIXES: Final = {magic[:size] for magic in HEP3_MAGICS for size in range(1, _MAGIC_BYTES)}


class HepStream:
    """Cuts a byte stream into HEP3 frames, and finds the next one after garbage.

    Holds at most one unfinished frame, so memory is bounded by `max_frame_bytes`.
    """

    def __init__(self, max_frame_bytes: int = 65535) -> None:
        self.max_frame_bytes = max_frame_bytes
        self.skipped_bytes = 0  # garbage thrown away so far
        self.resyncs = 0  # how often garbage began
        self._rest = b""
        self._in_garbage = False

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that is not complete yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[bytes]:
        """The frames that `data` completes, in order; each starts with its magic. Never raises."""
        buffer = self._rest + data if self._rest else data
        frames: list[bytes] = []
        at, end = 0, len(buffer)
        while end - at >= _HEADER_BYTES:
            length = buffer[at + 4] << 8 | buffer[at + 5]
            if buffer[at : at + _MAGIC_BYTES] not in HEP3_MAGICS or not self._fits(length):
                at = self._skip(buffer, at)
                continue
            self._in_garbage = False
            if at + length > end:
                break
            frames.append(buffer[at : at + length])
            at += length
        else:
            if at < end and not _may_be_magic(buffer[at : at + _MAGIC_BYTES]):
                at = self._skip(buffer, at)
        self._rest = buffer[at:]
        return frames

    def _fits(self, length: int) -> bool:
        return _HEADER_BYTES <= length <= self.max_frame_bytes

    def _skip(self, buffer: bytes, at: int) -> int:
        """Where the next magic after `at` begins, or may begin with what is still to come."""
        found = _find_magic(buffer, at + 1)
        if found:
            goal = found.start()
        else:
            goal = len(buffer)
            for size in range(min(_MAGIC_BYTES - 1, goal - at - 1), 0, -1):
                if buffer[goal - size :] in _PREFIXES:
                    goal -= size
                    break
        self.skipped_bytes += goal - at
        self.resyncs += not self._in_garbage
        self._in_garbage = True
        return goal


def _may_be_magic(start: bytes) -> bool:
    return start in HEP3_MAGICS or start in _PREFIXES
