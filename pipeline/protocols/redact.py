"""What a store need not know: credentials and the text of messages, starred before anything is kept.

A star takes the place of each byte, so lengths, offsets, Content-Length and a pcap made of it stay true. Of
digest credentials (RFC 2617, RFC 7616) only the proof is starred: `response` is what a password can be guessed
from, while username, realm, nonce and uri say why somebody was refused. Of all other schemes nothing is left but
the scheme's name. Keys of the media (RFC 4568, and `k=` of RFC 4566) count as credentials.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator
from typing import Final, Literal, get_args

from pipeline.protocols.sip import SipMessage
from pipeline.protocols.sip_head import PADDING

Redacted = Literal["credentials", "message_bodies"]
EVERYTHING: Final[tuple[Redacted, ...]] = get_args(Redacted)
_SHORTEST_KEY = 4  # a shorter one would star half of every packet

# A header with its continuation lines (RFC 3261 7.3.1); a bare CR is a blank, as everywhere here.
_IN_REQUESTS = (b"authorization", b"secret")
_IN_REPLIES = (b"authentication-info",)
_HEADER = re.compile(
    rb"(?P<name>(?:proxy-)?(?:authorization|authentication-info)|[\w-]*secret)[ \t]*:"
    rb"(?P<value>[^\n]*(?:\n[ \t][^\n]*)*)",
    re.IGNORECASE,
)
_DIGEST = re.compile(rb"\s*digest\s", re.IGNORECASE)
_OTHER_SCHEME = re.compile(rb"\s*[\w-]+\s+(?=\S)")
_PROOFS = (b"response", b"rspauth")
_PROOF = re.compile(rb"""\w+(?:\s*=\s*(?P<value>"(?:[^"\\]|\\.)*|[^",\s][^,\s]*))?""", re.DOTALL)
_MEDIA_KEY = re.compile(rb"(?:\binline:|^k=[\w-]+:)(?P<value>[^\s|;]+)", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE = re.compile(rb"\n\r?\n")
_STARS = bytes(byte if byte in b' \t\r\n"' else 0x2A for byte in range(256))

Span = tuple[int, int]


class Redactor:
    """Stars what `what` names, and in undecodable packets the HEP `keys`."""

    def __init__(self, what: Collection[Redacted] = EVERYTHING, keys: Collection[bytes] = ()) -> None:
        self._credentials = "credentials" in what
        self._bodies = "message_bodies" in what
        self._keys = [key for key in keys if len(key) >= _SHORTEST_KEY]

    def message(self, sip: SipMessage) -> bytes:
        """The message's bytes as they may be stored: the very same object where there is nothing to hide."""
        payload = sip.payload
        spans: list[Span] = []
        if self._credentials:
            if sip.is_request:
                spans += _credentials(payload, _IN_REQUESTS)
            elif 200 <= (sip.status or 0) < 300:  # here the server proves that it knows the password, too
                spans += _credentials(payload, _IN_REPLIES)
            if sip.body:
                spans += _media_keys(payload)
        payload = _starred(payload, spans)
        if self._bodies and sip.body and sip.method == "MESSAGE":
            payload = _without_body(payload)
        return payload

    def text(self, data: bytes) -> bytes:
        """Whatever else is kept of what came in: lines of logs, the head of what could not be decoded."""
        for key in self._keys:
            data = data.replace(key, b"*" * len(key))
        if self._credentials:
            data = _starred(data, [*_credentials(data, _IN_REQUESTS + _IN_REPLIES), *_media_keys(data)])
        return data


# Each of these looks at a place once: what repeats a word thousands of times must not cost as many looks at it all.


def _credentials(data: bytes, words: Iterable[bytes]) -> Iterator[Span]:
    low = data.lower()
    for word in words:
        at = low.find(word)
        while at >= 0:  # a pattern that ignores case is slow; it looks only where one of the words is
            line = low.rfind(b"\n", 0, at) + 1
            header = _HEADER.match(data, line)
            if header:
                yield from _proofs(data, low, header)
            at = low.find(word, header.end() if header else _end_of_line(data, at))


def _end_of_line(data: bytes, at: int) -> int:
    end = data.find(b"\n", at)
    return end if end >= 0 else len(data)


def _proofs(data: bytes, low: bytes, header: re.Match[bytes]) -> Iterator[Span]:
    name, (start, end) = header["name"].lower(), header.span("value")
    if not name.endswith(b"info") and not _DIGEST.match(data, start, end):
        scheme = None if name.endswith(b"secret") else _OTHER_SCHEME.match(data, start, end)
        yield scheme.end() if scheme else start, end
        return
    for word in _PROOFS:
        at = low.find(word, start, end)
        while at >= 0:
            proof = _PROOF.match(data, at, end)
            assert proof  # it begins with the word
            if proof["value"] is not None:
                yield proof.span("value")
            at = low.find(word, proof.end(), end)


def _media_keys(data: bytes) -> Iterator[Span]:
    low = data.lower()
    if b"inline:" in low or b"\nk=" in low or low.startswith(b"k="):
        for key in _MEDIA_KEY.finditer(data):
            yield key.span("value")


def _without_body(payload: bytes) -> bytes:
    head = _BLANK_LINE.search(payload, len(payload) - len(payload.lstrip(PADDING)))
    end = head.end() if head else len(payload)
    return payload[:end] + b"*" * (len(payload) - end)


def _starred(data: bytes, spans: Collection[Span]) -> bytes:
    if not spans:
        return data
    starred = bytearray(data)
    for start, end in spans:
        starred[start:end] = data[start:end].translate(_STARS)
    return bytes(starred)
