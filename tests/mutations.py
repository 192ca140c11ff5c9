"""Bytes that nobody should send: random ones, and recorded HEP with damage; the same again for the same seed."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

from pipeline.ingest.recordings import read_recording

KAMAILIO = Path(__file__).parent / "data" / "kamailio"
MAX_DATAGRAM_BYTES = 65_000

# What parsers stumble over, thrown in at any place.
_WORDS = (
    b"\r\n", b"\r\n\r\n", b"\n\n", b"\r", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\x1b[31m", b"%00", b"%ff",
    b"<sip:", b">", b'"', b"\\", b"@", b",", b";", b"[::1", b"[::1%25eth0]", b"tel:", b"*",
    b";expires=99999999999999999999", b";tag=late-", b";received=[", b";rport=-1", b";branch=z9hG4bK",
    b"Expires: 4294967296\r\n", b"Expires: 0\r\n", b"CSeq: 99999999999999999999 INVITE\r\n", b"Contact: *\r\n",
    b"SIP/2.0 99999999999 x\r\n", b"SIP/2.0 487 \r\n", b"Content-Length: 0\r\n", b"Content-Length: -1\r\n",
    b"Path: <sip:x;received=sip:9.9.9.9:99999>\r\n", b"m=audio 99999999999 RTP/AVP\r\n", b"HEP3\0\6", b"EEP3\xff\xff",
)  # fmt: skip


def recorded() -> list[bytes]:
    """All datagrams of all small recordings: every HEP version, every kind of message."""
    return [
        record.data
        for path in sorted(KAMAILIO.glob("*.hep"))
        if path.stem != "mix"
        for record in read_recording(path)
    ]


class Mutator:
    """An endless source of damage to `sources`, which are the recorded datagrams unless others are given."""

    def __init__(
        self, seed: int, sources: Sequence[bytes] | None = None, words: Sequence[bytes] = _WORDS
    ) -> None:
        self.rng = random.Random(seed)
        self.sources = sources or recorded()
        self.words = words

    def datagrams(self, count: int) -> Iterator[bytes]:
        """`count` datagrams: a tenth random bytes, else recorded packets with damage to HEP or only to SIP."""
        return islice(self._datagrams(), count)

    def _datagrams(self) -> Iterator[bytes]:
        rng = self.rng
        while True:
            kind = rng.random()
            if kind < 0.02:
                yield b"\x01"
            elif kind < 0.1:
                yield rng.randbytes(rng.choice((0, 1, 5, 6, 20, 100, 1400)))
            elif kind < 0.55:
                yield self.damaged(rng.choice(self.sources))[:MAX_DATAGRAM_BYTES]
            else:
                yield self.damaged_payload(rng.choice(self.sources))

    def stream(self) -> bytes:
        """What a confused or malicious peer writes to a connection: noise, damaged frames, sound ones, a cut."""
        rng = self.rng
        parts = []
        for _ in range(rng.randrange(1, 40)):
            kind = rng.random()
            if kind < 0.2:
                parts.append(rng.randbytes(rng.randrange(200)))
            elif kind < 0.5:
                parts.append(rng.choice(self.sources))
            else:
                parts.append(self.damaged(rng.choice(self.sources)))
        whole = b"".join(parts)
        return whole[: rng.randrange(len(whole) + 1)] if rng.random() < 0.3 else whole

    def damaged(self, data: bytes) -> bytes:
        """One to eight wounds anywhere; half the time HEP3's length is made right again."""
        rng = self.rng
        wounded = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            at = rng.randrange(len(wounded) + 1)
            wound = rng.randrange(6)
            if wound == 0 and at < len(wounded):
                wounded[at] = rng.randrange(256)
            elif wound == 1:
                del wounded[at : at + rng.randrange(1, 40)]
            elif wound == 2:
                wounded[at:at] = rng.randbytes(rng.randrange(1, 20))
            elif wound == 3:
                wounded[at:at] = rng.choice(self.words)
            elif wound == 4:
                copied = rng.randrange(len(wounded) + 1)
                wounded[at:at] = wounded[copied : copied + rng.randrange(60)]
            else:
                other = rng.choice(self.sources)
                wounded[at:] = other[rng.randrange(len(other) + 1) :]
        if wounded[:4] == b"HEP3" and len(wounded) >= 6 and rng.random() < 0.5:
            wounded[4:6] = struct.pack("!H", len(wounded) & 0xFFFF)
        return bytes(wounded)

    def damaged_payload(self, data: bytes) -> bytes:
        """Sound HEP3 around a damaged message: what gets through to the SIP parser and to the engine."""
        at = data.find(b"\0\0\0\x0f")
        if at < 0 or not data.startswith(b"HEP3"):
            return self.damaged(data)
        payload = self.damaged(data[at + 6 :])[: MAX_DATAGRAM_BYTES - at]
        packet = data[:at] + struct.pack("!IH", 0x0F, len(payload) + 6) + payload
        return packet[:4] + struct.pack("!H", len(packet)) + packet[6:]
