"""SIP over TCP: messages one behind the other, cut by Content-Length (RFC 3261 18.3)."""

from __future__ import annotations

import re
from typing import Final

from pipeline.ingest.captures.payloads import LONGEST_LINE
from pipeline.protocols.hep import MAX_INFLATED_BYTES
from pipeline.protocols.sip_head import PADDING

MOST_BYTES: Final = MAX_INFLATED_BYTES  # of one message: as much as HEP can carry
_METHOD: Final = rb"[A-Za-z0-9\-.!%*_+`'~]{1,64}"
_END: Final = rb"[^\r\n]*\r?\n"
# Where a message is due, whatever may be one; after garbage, what hardly can be anything else.
_starts: Final = re.compile(
    rb"(?:SIP/[0-9]|" + _METHOD + rb"[ \t][^\r\n]*[ \t]SIP/[0-9])" + _END, re.IGNORECASE
).match
_next_start: Final = re.compile(
    rb"(?<=\n)(?:SIP/2\.0 [1-6][0-9][0-9] |"
    + _METHOD
    + rb" [A-Za-z][A-Za-z0-9+.-]*:[^ \r\n]+ SIP/2\.0)"
    + _END
).search
_padding: Final = re.compile(b"[" + PADDING + b"]*").match
_blank_line: Final = re.compile(rb"\n\r?\n").search
_content_length: Final = re.compile(
    rb"\n(?:content-length|l)[ \t]*:[ \t]*([0-9]{1,10})[ \t]*\r?\n", re.IGNORECASE
).search


def holds_start(data: bytes) -> int | None:
    """Where in the middle of a stream the next message begins: at once, or after the end of a line."""
    if _starts(data):
        return 0
    found = _next_start(data)
    return found.start() if found else None


class SipStream:
    """Cuts a byte stream into SIP messages, and finds the next one after garbage.

    Holds at most one unfinished message. A message without Content-Length has no body: streams must have it.
    """

    def __init__(self) -> None:
        self.skipped_bytes = 0  # garbage thrown away so far
        self.resyncs = 0  # how often garbage began
        self._buffer = bytearray()
        self._needed = 0  # bytes in the buffer before it is worth looking again
        self._in_garbage = False

    @property
    def pending(self) -> bytes:
        """What there is of a message that is not complete yet; CRLFs between messages are none."""
        return bytes(self._buffer).lstrip(PADDING)

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes, in order. Never raises."""
        self._buffer += data
        if len(self._buffer) < self._needed:
            return []
        buffer = bytes(self._buffer)
        messages: list[bytes] = []
        at = 0
        while True:
            at = _padding(buffer, at).end()  # type: ignore[union-attr]  # it matches nothing, too
            if at == len(buffer):
                break
            if not _starts(buffer, at):
                if self._may_go_on(buffer, at):
                    break
                at = self._skip(buffer, at)
                continue
            self._in_garbage = False
            end = self._end(buffer, at)
            if end is None:
                at = self._skip(buffer, at)
            elif end > len(buffer):
                self._needed = end - at
                del self._buffer[:at]
                return messages
            else:
                messages.append(buffer[at:end])
                at = end
        self._needed = 0
        del self._buffer[:at]
        return messages

    def _may_go_on(self, buffer: bytes, at: int) -> bool:
        """Whether the line at `at` is not whole yet, and may become a start line."""
        return len(buffer) - at < LONGEST_LINE and b"\n" not in buffer[at:]

    def _end(self, buffer: bytes, at: int) -> int | None:
        """Where the message ends; beyond the buffer when it is not all there. None: it is no message."""
        head = _blank_line(buffer, at, at + MOST_BYTES)
        if head is None:
            return None if len(buffer) - at > MOST_BYTES else len(buffer) + 1
        length = _content_length(buffer, at, head.end() - 1)
        end = head.end() + (int(length[1]) if length else 0)
        return end if end - at <= MOST_BYTES else None

    def _skip(self, buffer: bytes, at: int) -> int:
        """Where the next message after `at` begins, or may begin with what is still to come."""
        found = _next_start(buffer, at + 1)
        if found:
            goal = found.start()
        else:
            line = buffer.rfind(b"\n", at + 1)
            goal = line if line > 0 and len(buffer) - line < LONGEST_LINE else len(buffer)
        self.skipped_bytes += goal - at
        self.resyncs += not self._in_garbage
        self._in_garbage = True
        return goal
