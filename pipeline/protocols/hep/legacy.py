"""HEP versions 1 and 2: a C struct with neither length nor checksum (`sipcapture/hep.h` of Kamailio).

```
0  u8 version   1  u8 header length   2  u8 family   3  u8 IP protocol   4  u16 source port   6  u16 port
8  source and destination address, 4 or 16 bytes each
   version 2 only, in the byte order of the sender: u32 seconds, u32 microseconds, u16 capture id, 2 unused
   payload
```
The header length is not read: emitters disagree about it, and the family says the same.
"""

from __future__ import annotations

from struct import Struct
from typing import Final

from pipeline.errors import HepError
from pipeline.protocols.hep.packet import AF_INET, HepPacket, address_text

_HEAD: Final = Struct("!BBBBHH")
_TIME_LITTLE: Final = Struct("<IIHxx")
_TIME_BIG: Final = Struct(">IIHxx")
_ADDRESS_BYTES: Final = {AF_INET: 4, 10: 16, 24: 16, 28: 16, 30: 16}  # IPv6 on Linux, NetBSD, FreeBSD, macOS

# A version 2 time is credible from ten years before to a day after its arrival.
_CREDIBLE_PAST_US: Final = 10 * 366 * 86_400 * 1_000_000
_CREDIBLE_FUTURE_US: Final = 86_400 * 1_000_000


def decode_legacy(data: bytes, now_us: int | None) -> HepPacket:
    """One version 1 or 2 packet; `now_us` as in `decode`. Raises HepError `hep_short` or `hep_family`."""
    if len(data) < _HEAD.size:
        raise HepError("hep_short", f"{len(data)} bytes where the header has {_HEAD.size}")
    version, _, family, ip_proto, src_port, dst_port = _HEAD.unpack_from(data)
    size = _ADDRESS_BYTES.get(family)
    if size is None:
        raise HepError("hep_family", f"address family {family} is neither IPv4 nor IPv6")
    time_at = _HEAD.size + 2 * size
    payload_at = time_at + (_TIME_LITTLE.size if version == 2 else 0)
    if len(data) < payload_at:
        raise HepError("hep_short", f"{len(data)} bytes where the header has {payload_at}")
    ts_us, agent_id, defects = _time(data, time_at, now_us) if version == 2 else (None, None, ())
    return HepPacket(
        version=version,
        ip_proto=ip_proto,
        src_ip=address_text(data[8 : 8 + size]),
        src_port=src_port,
        dst_ip=address_text(data[8 + size : time_at]),
        dst_port=dst_port,
        ts_us=ts_us,
        agent_id=agent_id,
        payload=data[payload_at:],
        defects=defects,
    )


def payload_at(data: bytes) -> int | None:
    """Where the payload of a version 1 or 2 packet begins; None where `decode_legacy` would raise."""
    size = _ADDRESS_BYTES.get(data[2]) if len(data) >= _HEAD.size and data[0] in (1, 2) else None
    if size is None:
        return None
    at = _HEAD.size + 2 * size + (_TIME_LITTLE.size if data[0] == 2 else 0)
    return at if at <= len(data) else None


def _time(data: bytes, at: int, now_us: int | None) -> tuple[int | None, int, tuple[str, ...]]:
    """Time, capture id and defects. Little-endian, unless only big-endian makes sense of the numbers."""
    for order in (_TIME_LITTLE, _TIME_BIG):
        seconds, microseconds, agent_id = order.unpack_from(data, at)
        if _credible(seconds, now_us) and microseconds <= 999_999:
            return seconds * 1_000_000 + microseconds, agent_id, ()
    seconds, _, agent_id = _TIME_LITTLE.unpack_from(data, at)
    if _credible(seconds, now_us):
        return seconds * 1_000_000, agent_id, ("hep_usec",)
    return None, agent_id, ("hep_time",)


def _credible(seconds: int, now_us: int | None) -> bool:
    if seconds == 0 or now_us is None:
        return seconds != 0
    return -_CREDIBLE_PAST_US <= seconds * 1_000_000 - now_us <= _CREDIBLE_FUTURE_US
