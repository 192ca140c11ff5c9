"""HEP (Homer Encapsulation Protocol) versions 1, 2 and 3: bytes to packets and back, no I/O.

    for packet in decode(datagram):
        packet.src_ip, packet.ts_us, packet.payload

Source of the rules: `HEP3_Network_Protocol_Specification_REV_37` for version 3, the structs of
Kamailio's `sipcapture/hep.h` for versions 1 and 2, and what real emitters send where they differ.
"""

from __future__ import annotations

from pipeline.errors import HepError
from pipeline.protocols.hep.encode import encode
from pipeline.protocols.hep.legacy import decode_legacy
from pipeline.protocols.hep.packet import HEP3_MAGICS, TRANSPORTS, Chunk, HepPacket
from pipeline.protocols.hep.stream import HepStream
from pipeline.protocols.hep.v3 import decode_v3

__all__ = ["HEP3_MAGICS", "TRANSPORTS", "Chunk", "HepError", "HepPacket", "HepStream", "decode", "encode"]

_VERSION_1_AND_2 = b"\x01\x02"
MAX_INFLATED_BYTES = 1 << 16  # as much as an uncompressed payload may have, not a thousand times that


def decode(
    datagram: bytes, *, now_us: int | None = None, max_inflated_bytes: int = MAX_INFLATED_BYTES
) -> list[HepPacket]:
    """The packets in one datagram, or in one frame of a stream: at least one, in wire order.

    `now_us` (microseconds since the epoch; the arrival time serves) helps to tell the byte order of a
    version 2 time, which no field says: little-endian, as x86 writes it, unless only the other is credible.
    Compressed payloads may inflate to `max_inflated_bytes` together. What could be mended is named in `defects`.

    Raises HepError, and nothing else, with one of these kinds: `hep_short`, `hep_magic`, `hep_length`,
    `hep_family`, `hep_address`, `hep_chunk_length`, `hep_chunk_overrun`, `hep_chunk_truncated`,
    `hep_chunk_size`, `hep_chunk_count`, `hep_inflate`.
    """
    if datagram[:4] in HEP3_MAGICS:
        return decode_v3(datagram, max_inflated_bytes)
    if not datagram:
        raise HepError("hep_short", "an empty datagram")
    if datagram[0] in _VERSION_1_AND_2:
        return [decode_legacy(datagram, now_us)]
    raise HepError("hep_magic", f"starts with {datagram[:4].hex(' ')}, which is no version of HEP")
