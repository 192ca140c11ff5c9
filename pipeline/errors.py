"""Everything hepduck raises on purpose, in one tree.

HepduckError
+-- DecodeError        bytes from outside that do not hold what they should; becomes a `weird` row
|   +-- HepError       HEP container or stream framing
|   +-- SipError       not a SIP message at all
|   +-- RtcpError      RTCP JSON inside HEP
+-- ConfigError        the user's configuration: one clear line, exit code 2
+-- CaptureError       a file (recording, pcap) that cannot be read: one clear line, exit code 2
+-- StoreError         the lake cannot be opened, read or written
+-- SearchError        the search of calls cannot be read: one clear line, exit code 2
+-- ActionError        an action could not be carried out; becomes an `action_attempt` row
"""

from __future__ import annotations


class HepduckError(Exception):
    """Base of all errors that hepduck raises on purpose."""


class DecodeError(HepduckError):
    """Bytes from outside that cannot be decoded.

    `kind` is a short, stable word for counting (`hep_short`, `hep_magic`, `sip_start_line` ...);
    the message says what was found where.
    """

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


class HepError(DecodeError):
    """A HEP packet or stream that cannot be decoded."""


class SipError(DecodeError):
    """A payload that is no SIP message."""


class RtcpError(DecodeError):
    """An RTCP JSON payload that cannot be read."""


class ConfigError(HepduckError):
    """Wrong configuration; the message names the place and the mend."""


class CaptureError(HepduckError):
    """A capture file that cannot be read or written; the message names the file and the place."""


class StoreError(HepduckError):
    """The store cannot be opened, read or written."""


class SearchError(HepduckError):
    """A search that cannot be read: `why`, at `start` in `text`, for `length` characters."""

    def __init__(self, why: str, text: str, start: int, length: int = 1) -> None:
        super().__init__(f"{why}, at column {start + 1} of the search")
        self.why = why
        self.text = text
        self.start = start
        self.length = length

    def pointed(self) -> str:
        """Two lines: the search, and a mark under the place."""
        line = "".join(char if char.isprintable() else " " for char in self.text)
        return f"{line}\n{' ' * self.start}{'^' * max(1, self.length)}"


class ActionError(HepduckError):
    """An action that could not be carried out."""
