"""Just enough SIP for the test world: headers of a message, digest, and a transcript to assert on."""

from __future__ import annotations

import hashlib
import re
import threading
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

DOMAIN = "sip.test"
REASON_ELSEWHERE = 'SIP;cause=200;text="Call completed elsewhere"'


def headers(message: str, name: str) -> list[str]:
    """The values of all headers called `name`, in order."""
    head = message.split("\r\n\r\n", 1)[0]
    return re.findall(rf"(?im)^{re.escape(name)}[ \t]*:[ \t]*(.*?)[ \t]*\r?$", head)


def header(message: str, name: str) -> str:
    """The value of the first header called `name`; empty when there is none."""
    return next(iter(headers(message, name)), "")


def kind(message: str) -> str:
    """What a message is, in one word: the method of a request, the status code of a reply."""
    first, second = message.split(" ", 2)[:2]
    return second if first == "SIP/2.0" else first


def new_token(prefix: str = "") -> str:
    """A fresh word for tags, branches and Call-IDs."""
    return prefix + uuid.uuid4().hex[:16]


def new_call_id(prefix: str = "call-") -> str:
    return f"{new_token(prefix)}@{DOMAIN}"


def digest(challenge: str, user: str, password: str, method: str, uri: str) -> str:
    """The value of an Authorization header that answers `challenge` (RFC 2617, MD5, qop=auth)."""

    def parameter(name: str) -> str:
        found = re.search(rf'\b{name}="?([^",]+)"?', challenge)
        return found.group(1) if found else ""

    def md5(*parts: str) -> str:
        return hashlib.md5(":".join(parts).encode()).hexdigest()

    realm, nonce, cnonce = parameter("realm"), parameter("nonce"), new_token()
    secret, what = md5(user, realm, password), md5(method, uri)
    response = md5(secret, nonce, "00000001", cnonce, "auth", what)
    return (
        f'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", algorithm=MD5, '
        f'qop=auth, nc=00000001, cnonce="{cnonce}", response="{response}"'
    )


@dataclass(frozen=True)
class Seen:
    """One message at an endpoint. `sent` is seen from there."""

    at: float  # time.time(), seconds
    sent: bool
    text: str

    def __str__(self) -> str:
        return f"{'sent' if self.sent else 'received'} {kind(self.text)}"


@dataclass
class Transcript:
    """All messages of an endpoint, in order. Safe to read while the endpoint runs."""

    messages: list[Seen] = field(default_factory=list)
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def add(self, text: str, *, sent: bool) -> None:
        with self._changed:
            self.messages.append(Seen(time.time(), sent, text))
            self._changed.notify_all()

    def call(self, call_id: str) -> list[Seen]:
        """The messages with that Call-ID."""
        return [seen for seen in tuple(self.messages) if header(seen.text, "Call-ID") == call_id]

    def flow(self, call_id: str) -> list[str]:
        """The messages with that Call-ID in words: `["received INVITE", "sent 180", ...]`."""
        return [str(seen) for seen in self.call(call_id)]

    def flow_once(self, call_id: str) -> list[str]:
        """The same without what came or went again, to the byte: on a busy machine an answer may take longer than the
        half second after which UDP tries again (T1 of RFC 3261)."""
        return [str(seen) for seen in {(seen.sent, seen.text): seen for seen in self.call(call_id)}.values()]

    def received(self, what: str, call_id: str | None = None) -> list[Seen]:
        """The received messages of that method or status code."""
        messages = tuple(self.messages) if call_id is None else self.call(call_id)
        return [seen for seen in messages if not seen.sent and kind(seen.text) == what]

    def wait(self, condition: Callable[[], object], timeout_s: float) -> bool:
        """Waits until `condition()` holds; False when it does not come to hold in time."""
        with self._changed:
            return bool(self._changed.wait_for(condition, timeout_s))
