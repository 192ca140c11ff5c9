"""Where HEP is received or sent: `udp:127.0.0.1:9060`, `tcp:...`, `tls:[::1]:9061`."""

from __future__ import annotations

import errno
import re
import socket
from typing import Final, NamedTuple

from pipeline.errors import ConfigError

_SPEC: Final = re.compile(r"(udp|tcp|tls):(?:\[([0-9A-Fa-f:.%\w]+)\]|([^:\[\]\s]+)):(\d{1,5})")


class Endpoint(NamedTuple):
    """A transport, host and port; `str()` gives the spec back."""

    via: str  # udp, tcp, tls
    host: str  # address or name, without brackets
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.via}:{host}:{self.port}"

    @classmethod
    def parse(cls, spec: str) -> Endpoint:
        """Raises ConfigError when `spec` is none."""
        match = _SPEC.fullmatch(spec.strip())
        if match is None or int(match[4]) > 65535:
            raise ConfigError(
                f"{spec!r} is no address of HEP: write udp:HOST:PORT, tcp:HOST:PORT or tls:HOST:PORT, "
                "IPv6 in brackets, as in udp:127.0.0.1:9060 or tcp:[::1]:9060"
            )
        return cls(match[1], match[2] or match[3], int(match[4]))

    def resolve(self) -> tuple[socket.AddressFamily, tuple[str, int]]:
        """Address family and socket address. Raises ConfigError when the name is unknown."""
        kind = socket.SOCK_DGRAM if self.via == "udp" else socket.SOCK_STREAM
        try:
            family, _, _, _, address = socket.getaddrinfo(self.host, self.port, type=kind)[0]
        except (OSError, UnicodeError) as error:  # UnicodeError: no name that IDNA could encode
            reason = getattr(error, "strerror", None) or "no valid name"
            raise ConfigError(f"{self}: unknown host {self.host!r} ({reason})") from error
        return family, address  # type: ignore[return-value]  # IPv6 has two more members, which bind() wants


def bind(endpoint: Endpoint) -> socket.socket:
    """A socket bound to `endpoint`; IPv6 sockets take IPv6 only. Raises ConfigError that names the mend."""
    family, address = endpoint.resolve()
    kind = socket.SOCK_DGRAM if endpoint.via == "udp" else socket.SOCK_STREAM
    bound = socket.socket(family, kind)
    try:
        if family == socket.AF_INET6:
            bound.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        if kind == socket.SOCK_STREAM:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise ConfigError(f"{endpoint} {_reason(endpoint, error)}") from error
    return bound


def _reason(endpoint: Endpoint, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        flags = "-lunp" if endpoint.via == "udp" else "-ltnp"
        return (
            f"is in use: stop the program that holds it (ss {flags} 'sport = :{endpoint.port}' names it), "
            "or listen elsewhere with tap.listen"
        )
    if error.errno == errno.EACCES:
        return "needs privileges: take a port above 1023, or give the service CAP_NET_BIND_SERVICE"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"cannot be bound: this machine has no address {endpoint.host}"
    return f"cannot be bound: {error.strerror}"


def local_endpoint(via: str, bound: socket.socket) -> Endpoint:
    """The endpoint that a bound socket really has: port 0 becomes the port that the system chose."""
    host, port = bound.getsockname()[:2]
    return Endpoint(via, host, port)
