"""From a captured packet to the IP packet in it: link layers, VLAN tags, IPv4, IPv6 and its extension headers.

Own code, for the fields that reassembly needs and for speed: of a capture with media nine packets in ten are looked
at only to be left out. Checksums are not looked at: network cards fill them in after the capture.
"""

from __future__ import annotations

from struct import Struct
from typing import Final, NamedTuple

UDP, TCP, ICMP, SCTP = 17, 6, 1, 132
_TUNNELS: Final = {4: 0x0800, 41: 0x86DD}  # IP in IP (RFC 2003), IPv6 in IP (RFC 4213)
_MOST_TUNNELS: Final = 4
_IPV4, _IPV6 = 0x0800, 0x86DD
_VLAN: Final = frozenset({0x8100, 0x88A8, 0x9100})  # IEEE 802.1Q, 802.1ad (QinQ), and before that was
_LLC: Final = 0x0600  # below it is the length of an IEEE 802.3 frame
_ETHERTYPES: Final = {0x0806: "arp", 0x8863: "pppoe", 0x8864: "pppoe", 0x8847: "mpls", 0x88CC: "lldp"}
_PROTOCOLS: Final = {
    1: "icmp",
    2: "igmp",
    47: "gre",
    50: "esp",
    51: "ah",
    58: "icmpv6",
    89: "ospf",
    132: "sctp",
}
_EXTENSIONS: Final = frozenset({0, 43, 51, 60, 135, 139, 140})  # RFC 8200, RFC 7045; 44 is the fragment's
_FRAGMENT, _AUTHENTICATION = 44, 51

# Link type (https://www.tcpdump.org/linktypes.html) -> bytes of its header, and where the EtherType lies in it.
_WITH_ETHERTYPE: Final = {1: (14, 12), 113: (16, 14), 276: (20, 0)}  # Ethernet, Linux cooked v1, v2
_RAW_IP: Final = frozenset({12, 14, 101, 228, 229})
_BSD_LOOPBACK: Final = frozenset({0, 108})
_FAMILIES: Final = {2: _IPV4, 10: _IPV6, 24: _IPV6, 28: _IPV6, 30: _IPV6}

_unpack_u16 = Struct("!H").unpack_from
_unpack_ipv4 = Struct("!BxHHHxB2x4s4s").unpack_from
_unpack_ipv6 = Struct("!4xHBx16s16s").unpack_from


class Ignored(Exception):
    """Nothing for us; the argument says what it is, as a word to count by."""


class BadPacket(Exception):
    """Less than its headers promise; the arguments are a word to count by, and what was found."""


class Fragment(NamedTuple):
    """Where a piece of a datagram belongs."""

    ident: int
    offset: int  # in bytes
    more: bool  # it is not the last


class IpPacket(NamedTuple):
    """An IP packet, or a piece of one; addresses are 4 or 16 bytes."""

    src: bytes
    dst: bytes
    protocol: int
    payload: bytes
    fragment: Fragment | None
    cut: bool  # less was captured than was on the wire


def ip_packet(link_type: int, data: bytes) -> IpPacket:
    """The innermost IP packet. Raises Ignored or BadPacket."""
    packet = _ip(*_network(link_type, data), data)
    for _ in range(_MOST_TUNNELS):
        inner = _TUNNELS.get(packet.protocol)
        if inner is None or packet.fragment is not None:
            break
        packet = _ip(inner, 0, packet.payload)
    return packet


def protocol_word(protocol: int) -> str:
    """`icmp`, `sctp`, ... or `ip_proto_99`."""
    return _PROTOCOLS.get(protocol, f"ip_proto_{protocol}")


def _network(link_type: int, data: bytes) -> tuple[int, int]:
    """EtherType, and where that packet begins."""
    if link_type in _WITH_ETHERTYPE:
        at, type_at = _WITH_ETHERTYPE[link_type]
        if len(data) < at:
            raise BadPacket("link_short", f"{len(data)} bytes of link type {link_type}")
        (kind,) = _unpack_u16(data, type_at)
        while kind in _VLAN and len(data) >= at + 4:
            (kind,) = _unpack_u16(data, at + 2)
            at += 4
        return kind, at
    if link_type in _RAW_IP and data:
        return (_IPV6 if data[0] >> 4 == 6 else _IPV4), 0
    if link_type in _BSD_LOOPBACK and len(data) >= 4:
        family = data[:4]  # in the byte order of the machine that captured, or of the network
        known = _FAMILIES.get(int.from_bytes(family, "little")) or _FAMILIES.get(int.from_bytes(family))
        if known is None:
            raise Ignored(f"family_{family.hex()}")
        return known, 4
    raise Ignored(f"link_type_{link_type}")


def _ip(kind: int, at: int, data: bytes) -> IpPacket:
    if kind == _IPV4:
        return _ipv4(data, at)
    if kind == _IPV6:
        return _ipv6(data, at)
    raise Ignored("llc" if kind < _LLC else _ETHERTYPES.get(kind, f"ethertype_{kind:04x}"))


def _ipv4(data: bytes, at: int) -> IpPacket:
    if len(data) < at + 20:
        raise BadPacket("ip_short", f"{len(data) - at} bytes where IPv4 has 20")
    first, total, ident, where, protocol, src, dst = _unpack_ipv4(data, at)
    header = (first & 0x0F) * 4
    end = at + total if total else len(data)  # 0: captured before the card cut it into packets
    if first >> 4 != 4 or header < 20 or end < at + header:
        raise BadPacket("ip_header", f"version {first >> 4}, header {header}, total {total} bytes")
    fragment = None
    if where & 0x3FFF:
        fragment = Fragment(ident, (where & 0x1FFF) * 8, bool(where & 0x2000))
    return IpPacket(src, dst, protocol, data[at + header : end], fragment, end > len(data))


def _ipv6(data: bytes, at: int) -> IpPacket:
    if len(data) < at + 40:
        raise BadPacket("ip_short", f"{len(data) - at} bytes where IPv6 has 40")
    length, header, src, dst = _unpack_ipv6(data, at)
    if data[at] >> 4 != 6:
        raise BadPacket("ip_header", f"version {data[at] >> 4} where IPv6 was due")
    at += 40
    end = at + length if length else len(data)
    fragment = None
    while (header in _EXTENSIONS or header == _FRAGMENT) and fragment is None:
        if at + 8 > min(end, len(data)):
            raise BadPacket("ip_short", f"no room for extension header {header}")
        following, size = data[at], data[at + 1]
        if header == _FRAGMENT:
            (where,) = _unpack_u16(data, at + 2)
            ident = int.from_bytes(data[at + 4 : at + 8])
            if where & 0xFFF9:  # else it is the only one: an atomic fragment, RFC 6946
                fragment = Fragment(ident, where & 0xFFF8, bool(where & 1))
            at += 8
        else:
            at += (size + 2) * 4 if header == _AUTHENTICATION else (size + 1) * 8
        header = following
    return IpPacket(src, dst, header, data[at:end], fragment, end > len(data))
