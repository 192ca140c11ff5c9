"""Free loopback ports, below the range from which the kernel takes the ports of outgoing connections."""

from __future__ import annotations

import random
import socket

LOWEST, HIGHEST = 20_000, 32_000
KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}


def family(address: str) -> socket.AddressFamily:
    """The socket family of an IP address without brackets."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def free_port(*addresses: str) -> int:
    """A port that is free for UDP and for TCP on every one of `addresses` (127.0.0.1 when none is given)."""
    for _ in range(200):
        port = random.randrange(LOWEST, HIGHEST)
        if all(_is_free(address, port) for address in addresses or ("127.0.0.1",)):
            return port
    raise RuntimeError(f"no free port on {addresses} between {LOWEST} and {HIGHEST}")


def _is_free(address: str, port: int) -> bool:
    for kind in KINDS.values():
        with socket.socket(family(address), kind) as probe:
            try:
                probe.bind((address, port))
            except OSError:
                return False
    return True
