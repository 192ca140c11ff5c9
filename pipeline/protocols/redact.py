"""What a store need not know: credentials and the text of messages, starred before anything is kept.

A star takes the place of each byte, so lengths, offsets, Content-Length and a pcap made of it stay true. Of
digest credentials (RFC 2617, RFC 7616) only the proof is starred: `response` is what a password can be guessed
from, while username, realm, nonce and uri say why somebody was refused. Of all other schemes nothing is left but
the scheme's name. Keys of the media (RFC 4568, and `k=` of RFC 4566) count as credentials.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Final, Literal, get_args

from pipeline.protocols.sip import SipMessage
from pipeline.protocols.sip_head import PADDING

Redacted = Literal["credentials", "message_bodies"]
EVERYTHING: Final[tuple[Redacted, ...]] = get_args(Redacted)
_SHORTEST_KEY = 4  # a shorter one would star half of every packet

# A header with its continuation lines (RFC 3261 7.3.1); a bare CR is a blank, as everywhere here.
_HEADER = re.compile(
    rb"^(?P<name>(?:proxy-)?(?:authorization|authentication-info)|[\w-]*secret)[ \t]*:"
    rb"(?P<value>[^\n]*(?:\n[ \t][^\n]*)*)",
    re.IGNORECASE | re.MULTILINE,
)
_DIGEST = re.compile(rb"\s*digest\s", re.IGNORECASE)
_OTHER_SCHEME = re.compile(rb"\s*[\w-]+\s+(?=\S)")
_PROOF = re.compile(
    rb"""(?<![\w-])(?:response|rspauth)\s*=\s*(?P<value>"(?:[^"\\]|\\.)*|[^",\s][^,\s]*)""",
    re.IGNORECASE | re.DOTALL,
)
_MEDIA_KEY = re.compile(rb"(?:\binline:|^k=[\w-]+:)(?P<value>[^\s|;]+)", re.IGNORECASE | re.MULTILINE)
_BLANK_LINE = re.compile(rb"\n\r?\n")
_VISIBLE = re.compile(rb'[^\s"]')


class Redactor:
    """Stars what `what` names, and in undecodable packets the HEP `keys`."""

    def __init__(self, what: Collection[Redacted] = EVERYTHING, keys: Collection[bytes] = ()) -> None:
        self._credentials = "credentials" in what
        self._bodies = "message_bodies" in what
        self._keys = [key for key in keys if len(key) >= _SHORTEST_KEY]

    def message(self, sip: SipMessage) -> bytes:
        """The message's bytes as they may be stored: the very same object where there is nothing to hide."""
        payload = sip.payload
        if self._credentials:
            # Only requests show credentials, only a 2xx proves that the server knows them (RFC 3261 22).
            if sip.is_request or 200 <= (sip.status or 0) < 300:
                payload = _without_credentials(payload)
            if sip.body:
                payload = _without_media_keys(payload)
        if self._bodies and sip.body and sip.method == "MESSAGE":
            payload = _without_body(payload)
        return payload

    def text(self, data: bytes) -> bytes:
        """Whatever else is kept of what came in: lines of logs, the head of what could not be decoded."""
        for key in self._keys:
            data = data.replace(key, b"*" * len(key))
        return _without_media_keys(_without_credentials(data)) if self._credentials else data


def _without_credentials(data: bytes) -> bytes:
    low = data.lower()
    if b"authorization" in low or b"secret" in low or b"rspauth" in low:
        return _HEADER.sub(_without_proof, data)
    return data


def _without_proof(header: re.Match[bytes]) -> bytes:
    name, value = header["name"].lower(), header["value"]
    begins = header.start("value") - header.start()
    if name.endswith(b"info") or _DIGEST.match(value):
        starred = _PROOF.sub(_starred, value)
    else:
        scheme = None if name.endswith(b"secret") else _OTHER_SCHEME.match(value)
        kept = scheme.end() if scheme else 0
        starred = value[:kept] + _VISIBLE.sub(b"*", value[kept:])
    return header[0][:begins] + starred


def _without_media_keys(data: bytes) -> bytes:
    low = data.lower()
    return _MEDIA_KEY.sub(_starred, data) if b"inline:" in low or b"\nk=" in low else data


def _without_body(payload: bytes) -> bytes:
    head = _BLANK_LINE.search(payload, len(payload) - len(payload.lstrip(PADDING)))
    end = head.end() if head else len(payload)
    return payload[:end] + b"*" * (len(payload) - end)


def _starred(match: re.Match[bytes]) -> bytes:
    begins = match.start("value") - match.start()
    return match[0][:begins] + _VISIBLE.sub(b"*", match["value"])
