"""HEP packets to bytes, in Kamailio's chunk order."""

from __future__ import annotations

from collections.abc import Iterator
from struct import Struct
from struct import error as StructError
from typing import Final

from pipeline.errors import HepError
from pipeline.protocols.hep import packet as hep
from pipeline.protocols.hep.packet import AF_INET, AF_INET6, Chunk, HepPacket, address_bytes

_CHUNK: Final = Struct("!HHH")
_LEGACY_HEAD: Final = Struct("!BBBBHH")
_LEGACY_TIME: Final = Struct("<IIHxx")
_U8, _U16, _U32 = Struct("!B"), Struct("!H"), Struct("!I")


def encode(packet: HepPacket, version: int = 3) -> bytes:
    """`packet` as HEP of `version` 1, 2 or 3; versions 1 and 2 drop what they have no place for.

    `packet.version` and `packet.defects` are not read; the payload goes uncompressed. Raises HepError
    `hep_encode` when a value does not fit.
    """
    try:
        if version == 3:
            return _encode_v3(packet)
        if version in (1, 2):
            return _encode_legacy(packet, version)
    except (StructError, OSError) as error:
        raise HepError("hep_encode", f"a value does not fit its field: {error}") from error
    raise HepError("hep_encode", f"there is no HEP version {version}")


def _encode_v3(packet: HepPacket) -> bytes:
    body = b"".join([_CHUNK.pack(c.vendor, c.type, 6 + len(c.value)) + c.value for c in _chunks(packet)])
    return b"HEP3" + _U16.pack(6 + len(body)) + body


def _chunks(packet: HepPacket) -> Iterator[Chunk]:
    def generic(kind: int, value: bytes) -> Chunk:
        return Chunk(hep.GENERIC_VENDOR, kind, value)

    src, dst = address_bytes(packet.src_ip), address_bytes(packet.dst_ip)
    yield generic(hep.IP_FAMILY, _U8.pack(packet.ip_family))
    yield generic(hep.IP_PROTOCOL, _U8.pack(packet.ip_proto))
    yield generic(hep.SRC_IPV4 if len(src) == 4 else hep.SRC_IPV6, src)
    yield generic(hep.DST_IPV4 if len(dst) == 4 else hep.DST_IPV6, dst)
    yield generic(hep.SRC_PORT, _U16.pack(packet.src_port))
    yield generic(hep.DST_PORT, _U16.pack(packet.dst_port))
    if packet.ts_us is not None:
        seconds, microseconds = divmod(packet.ts_us, 1_000_000)
        yield generic(hep.TIME_S, _U32.pack(seconds))
        yield generic(hep.TIME_US, _U32.pack(microseconds))
    yield generic(hep.PROTOCOL_TYPE, _U8.pack(packet.protocol_type))
    if packet.agent_id is not None:
        yield generic(hep.AGENT_ID, _U32.pack(packet.agent_id))
    if packet.correlation_id is not None:
        yield generic(hep.CORRELATION_ID, packet.correlation_id.encode())
    if packet.auth_key is not None:
        yield generic(hep.AUTH_KEY, packet.auth_key)
    if packet.node_name is not None:
        yield generic(hep.NODE_NAME, packet.node_name.encode())
    yield from packet.extra
    yield generic(hep.PAYLOAD, packet.payload)


def _encode_legacy(packet: HepPacket, version: int) -> bytes:
    src, dst = address_bytes(packet.src_ip), address_bytes(packet.dst_ip)
    if len(src) != len(dst):
        raise HepError("hep_encode", f"version {version} cannot hold {packet.src_ip} beside {packet.dst_ip}")
    family = AF_INET if len(src) == 4 else AF_INET6
    header_bytes = _LEGACY_HEAD.size + len(src) + len(dst)
    head = _LEGACY_HEAD.pack(version, header_bytes, family, packet.ip_proto, packet.src_port, packet.dst_port)
    time = b""
    if version == 2:
        seconds, microseconds = divmod(packet.ts_us or 0, 1_000_000)
        time = _LEGACY_TIME.pack(seconds, microseconds, packet.agent_id or 0)
    return head + src + dst + time + packet.payload
