"""The HEP packet, and the words and numbers that all versions share."""

from __future__ import annotations

import socket
from functools import lru_cache
from typing import Final, NamedTuple

HEP3_MAGICS: Final = (b"HEP3", b"EEP3")
PROTOCOL_TYPE_SIP: Final = 1
PROTOCOL_TYPE_LOG: Final = 100
PROTOCOL_TYPES_QUALITY: Final = frozenset({5, 32, 34, 35, 99})
"""RTCP as JSON, and the reports made of it."""

TRANSPORTS: Final = {17: "udp", 6: "tcp", 132: "sctp"}
"""IP protocol number to transport. Kamailio writes 22 for TLS, WS and WSS alike: there the Via must say."""

GENERIC_VENDOR: Final = 0

# Chunk types of the generic vendor.
IP_FAMILY: Final = 0x01
IP_PROTOCOL: Final = 0x02
SRC_IPV4: Final = 0x03
DST_IPV4: Final = 0x04
SRC_IPV6: Final = 0x05
DST_IPV6: Final = 0x06
SRC_PORT: Final = 0x07
DST_PORT: Final = 0x08
TIME_S: Final = 0x09
TIME_US: Final = 0x0A
PROTOCOL_TYPE: Final = 0x0B
AGENT_ID: Final = 0x0C
AUTH_KEY: Final = 0x0E
PAYLOAD: Final = 0x0F
COMPRESSED_PAYLOAD: Final = 0x10
CORRELATION_ID: Final = 0x11
NODE_NAME: Final = 0x13

AF_INET: Final = 2
AF_INET6: Final = 10
_IPV4_MAPPED: Final = bytes(10) + b"\xff\xff"


class Chunk(NamedTuple):
    """A HEP3 chunk that no field of the packet holds: MOS, VLAN, a vendor's own."""

    vendor: int
    type: int
    value: bytes


class HepPacket(NamedTuple):
    """One HEP packet of any version. A tuple, because twenty thousand a second are made."""

    version: int
    ip_proto: int  # as sent: 17 UDP, 6 TCP, 132 SCTP, 22 Kamailio's TLS, WS and WSS
    src_ip: str
    src_port: int
    dst_ip: str
    dst_port: int
    ts_us: int | None  # microseconds since the epoch; None: none sent (always in version 1), or not credible
    protocol_type: int = PROTOCOL_TYPE_SIP  # open set: 1 SIP, 5 RTCP as JSON, 100 log ...
    agent_id: int | None = None
    auth_key: bytes | None = None
    correlation_id: str | None = None
    node_name: str | None = None
    payload: bytes = b""  # inflated where it came compressed
    extra: tuple[Chunk, ...] = ()
    defects: tuple[str, ...] = ()  # what was mended on the way in, as kinds

    @property
    def transport(self) -> str | None:
        """`udp`, `tcp`, `sctp`, or None where HEP does not tell."""
        return TRANSPORTS.get(self.ip_proto)

    @property
    def ip_family(self) -> int:
        """2 for IPv4, 10 for IPv6, from the address: other systems than Linux send other numbers."""
        return AF_INET6 if ":" in self.src_ip else AF_INET

    def chunk(self, kind: int, vendor: int = GENERIC_VENDOR) -> bytes | None:
        """The value of the first extra chunk of that type, or None."""
        return next((c.value for c in self.extra if c.type == kind and c.vendor == vendor), None)


@lru_cache(maxsize=65536)
def address_text(value: bytes) -> str:
    """4 or 16 bytes as an address; a v4-mapped IPv6 address as the IPv4 address that it means."""
    if len(value) == 4:
        return socket.inet_ntoa(value)
    if value.startswith(_IPV4_MAPPED):
        return socket.inet_ntoa(value[12:])
    return socket.inet_ntop(socket.AF_INET6, value)


def address_bytes(text: str) -> bytes:
    """The 4 or 16 bytes of an address. Raises OSError where it is none."""
    return socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
