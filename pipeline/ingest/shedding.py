"""What to let go of first when more comes than can be decoded: the order, and how a datagram's place in it is told.

| sheds first | what | counted as |
|---|---|---|
| 1 | OPTIONS with its replies, keep-alives, and what is no HEP, no SIP and no report | `shed_options` |
| 2 | SUBSCRIBE, NOTIFY, PUBLISH, MESSAGE, INFO and methods of no RFC, with their replies; log lines | `shed_presence` |
| 3 | RTCP and reports of quality | `shed_rtcp` |
| 4 | ACK, BYE, PRACK, UPDATE, REFER, with their replies | `shed_dialog` |
| 5 | INVITE, CANCEL, REGISTER, with their replies: what ghost calls are found by | `queue_full` |

Each class may fill the queue up to its share of `FILL`; what lies above is kept for those behind it, so nothing that
is queued must ever be taken out again to make room. Whole messages are shed: a row without its payload would have
cost the decoding that there is no time for.

A datagram is looked at in the receive thread, so only its outside is: the HEP chunks up to the payload, the first
word there, and of a reply the CSeq. Where that does not tell (several messages in one, headers oddly written, lengths
that lie), it is in the last class if any of the three methods occurs in it at all. A compressed payload is not
inflated here, for that may take long by intent: it might be an INVITE, so it is in the last class, too. Encrypted and
other binary payloads never become an event: first class.
"""

from __future__ import annotations

import re
from enum import IntEnum
from struct import Struct
from typing import Final

from pipeline.protocols.hep import HEP3_MAGICS
from pipeline.protocols.hep import packet as hep
from pipeline.protocols.hep.legacy import payload_at
from pipeline.protocols.sip_head import PADDING


class Precedence(IntEnum):
    """The classes of the table, in the order of shedding."""

    OPTIONS = 0
    PRESENCE = 1
    RTCP = 2
    DIALOG = 3
    CALL = 4


FILL: Final = (0.25, 0.40, 0.55, 0.70, 1.0)
"""By precedence: the share of the queue, in datagrams and in bytes, above which it is shed."""

REASONS: Final = ("shed_options", "shed_presence", "shed_rtcp", "shed_dialog", "queue_full")
"""By precedence: the word it is counted under. `queue_full` is the loss that shedding is there to avoid."""

_METHODS: Final = {
    method: precedence
    for precedence, methods in (
        (Precedence.OPTIONS, b"OPTIONS"),
        (Precedence.PRESENCE, b"SUBSCRIBE NOTIFY PUBLISH MESSAGE INFO"),
        (Precedence.DIALOG, b"ACK BYE PRACK UPDATE REFER"),
        (Precedence.CALL, b"INVITE CANCEL REGISTER"),
    )
    for method in methods.split()
}
_CALL_METHODS: Final = tuple(method for method, rank in _METHODS.items() if rank is Precedence.CALL)
_LONGEST: Final = 1 + max(map(len, _METHODS))  # with the blank behind it
_VERSION: Final = b"SIP/2.0"
_CSEQ: Final = b"\nCSeq:"
_CSEQ_METHOD: Final = re.compile(rb"\nCSeq:[ \t]*[0-9]+[ \t]+([A-Z]+)[ \t]*\r?\n").match

_CHUNK: Final = Struct("!IH")  # vendor 0 and type in one number: the type
_HEADER_BYTES: Final = 6
_KIND: Final = _CHUNK.pack(hep.PROTOCOL_TYPE, 7)
_KIND_ENDS: Final = (83, 107)  # in Kamailio's order of chunks, over IPv4 and IPv6: half of the way is known


def precedence(data: bytes) -> Precedence:
    """The class of a datagram or frame. Takes about two microseconds, and never raises."""
    found = _hep3(data) if data[:4] in HEP3_MAGICS else _legacy(data)
    if found is None:
        return _odd(data, 0)
    kind, at, end = found
    if kind == hep.PROTOCOL_TYPE_SIP:
        return _sip(data, at, end) if at else Precedence.CALL
    if kind in hep.PROTOCOL_TYPES_QUALITY:
        return Precedence.RTCP
    return Precedence.PRESENCE if kind == hep.PROTOCOL_TYPE_LOG else Precedence.OPTIONS


def _hep3(data: bytes) -> tuple[int | None, int, int] | None:
    """Protocol type, and where the payload begins (0: it is compressed) and ends; None where that is not plain."""
    total = end = len(data)
    at, kind, payload, packed = _HEADER_BYTES, None, 0, False
    for kind_ends in _KIND_ENDS:
        if data[kind_ends - 7 : kind_ends - 1] == _KIND:
            at, kind = kind_ends, data[kind_ends - 1]
            break
    while at < total and not (payload and kind is not None):
        if at + _CHUNK.size > total:
            return None
        chunk, length = _CHUNK.unpack_from(data, at)
        value, at = at + _CHUNK.size, at + length
        if length < _CHUNK.size or at > total:
            return None
        if chunk == hep.PAYLOAD:
            payload, end = value, at
        elif chunk == hep.PROTOCOL_TYPE and length == _CHUNK.size + 1:
            kind = data[value]
        elif chunk == hep.COMPRESSED_PAYLOAD:
            packed = True
    if int.from_bytes(data[4:6]) != total:  # more packets behind it, or a length that lies
        return None
    return kind, payload or (0 if packed else end), end


def _legacy(data: bytes) -> tuple[int, int, int] | None:
    at = payload_at(data)
    return None if at is None else (hep.PROTOCOL_TYPE_SIP, at, len(data))


def _sip(data: bytes, at: int, end: int) -> Precedence:
    if data[at : at + 1] in PADDING:  # true of an empty payload, too
        at = end - len(data[at:end].lstrip(PADDING))
        if at == end:
            return Precedence.OPTIONS
    word = data[at : min(at + _LONGEST, end)].partition(b" ")[0]
    if word == _VERSION:
        found = _CSEQ_METHOD(data, data.find(_CSEQ, at, end))
        word = found[1] if found else b""
    rank = _METHODS.get(word)
    if rank is Precedence.CALL or (rank is not None and data.count(_CSEQ, at, end) == 1):
        return rank
    return _odd(data, at)


def _odd(data: bytes, at: int) -> Precedence:
    if any(data.find(method, at) >= 0 for method in _CALL_METHODS):
        return Precedence.CALL
    return Precedence.PRESENCE if data.find(_VERSION, at) >= 0 else Precedence.OPTIONS
