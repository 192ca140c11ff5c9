"""The ways in: network tap, recordings, captures. All of them give datagrams."""

from __future__ import annotations

from typing import NamedTuple


class Datagram(NamedTuple):
    """What arrived, byte for byte: one UDP datagram, one frame of a stream, or one record of a file."""

    arrival_us: int  # microseconds since the epoch; the same for all that one read gave
    agent_addr: str  # IP address of the HEP agent, without brackets
    agent_port: int
    via: str  # udp, tcp, tls, file
    trusted: bool  # passed the tap's check of address or certificate; an auth key is checked at decoding
    data: bytes
