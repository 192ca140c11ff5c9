"""Which HEP agents may speak to the tap, and which of them are believed when an action hangs on it.

| configured | accepted | trusted |
|---|---|---|
| nothing | everybody | loopback addresses |
| allowed networks | senders in them | all accepted |
| auth key | packets that carry it (HEP3 chunk 0x0e, so HEP3 only) | all accepted |
| both | packets that pass both | all accepted |

A verified TLS client certificate makes a sender trusted too; it replaces neither check. A stream that held
anything but HEP is not trusted from there on, for its address or certificate: only the key vouches for it.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

from pipeline.ingest import Datagram
from pipeline.protocols.hep import HepPacket

Network = IPv4Network | IPv6Network


class AgentCheck:
    """The table above: the tap asks for the address, the decode stage for the key."""

    def __init__(self, auth_key: bytes | None = None, networks: Iterable[Network] = ()) -> None:
        self._auth_key = auth_key
        self._networks = tuple(networks)

    @property
    def has_key(self) -> bool:
        """Whether packets must carry a key; `key_ok` then decides."""
        return self._auth_key is not None

    def allows(self, ip: str) -> bool:
        """Whether a sender of that address may speak at all (reason `network` otherwise)."""
        return not self._networks or self._in_networks(_address(ip))

    def address_trusted(self, ip: str) -> bool:
        """Whether the address alone makes an allowed sender trusted: what the tap can know."""
        if self._networks:
            return self.allows(ip)
        return not self.has_key and _address(ip).is_loopback

    def key_ok(self, auth_key: bytes | None) -> bool:
        """Whether a packet's key passes (reason `bad_key` otherwise), compared in constant time."""
        return self._auth_key is None or check_key(auth_key, self._auth_key)

    def trusted(self, ip: str, auth_key: bytes | None) -> bool:
        """Whether an action may hang on a packet of that sender: both checks, as in the table."""
        if not (self.allows(ip) and self.key_ok(auth_key)):
            return False
        return self.has_key or self.address_trusted(ip)

    def admit(self, datagram: Datagram, packet: HepPacket) -> bool | None:
        """At decoding: whether the packet is trusted, or None when it is rejected for `bad_key`.

        The tap has checked the address (`Datagram.trusted`); from a file nobody asks for a key.
        """
        if datagram.via == "file":
            return datagram.trusted
        if not self.key_ok(packet.auth_key):
            return None
        return self.has_key or datagram.trusted

    def _in_networks(self, address: IPv4Address | IPv6Address) -> bool:
        return any(address.version == network.version and address in network for network in self._networks)


def check_key(sent: bytes | None, expected: bytes) -> bool:
    """Whether the key that a packet carries (None: none) is the expected one, in constant time."""
    return sent is not None and hmac.compare_digest(sent, expected)


def _address(ip: str) -> IPv4Address | IPv6Address:
    address = ip_address(ip)
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address
