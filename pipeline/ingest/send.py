"""Plays recordings and captures at any HEP collector, with the spacing they were taken with: recordings byte for
byte, the SIP in captures as HEP version 3."""

from __future__ import annotations

import socket
import ssl
import time
from collections.abc import Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pipeline.errors import ConfigError
from pipeline.ingest import Datagram
from pipeline.ingest.captures.files import open_capture
from pipeline.ingest.endpoints import Endpoint
from pipeline.ingest.restamp import restamp
from pipeline.instants import now_us
from pipeline.protocols.hep import HEP3_MAGICS

_CONNECT_TIMEOUT_S: Final = 5.0
_SETTLE_S: Final = 0.2


@dataclass(frozen=True, slots=True)
class TlsClient:
    """How to meet a TLS collector: by default its certificate must be good for the host name."""

    verify: bool = True
    ca: Path | None = None  # PEM; None: the system's
    certificate: Path | None = None  # PEM, for collectors that ask for one
    private_key: Path | None = None


class Sent(NamedTuple):
    """What was sent, and how long it took; `damage` says of each broken file what is wrong with it."""

    packets: int
    bytes: int
    seconds: float
    damage: tuple[str, ...] = ()


def send_recording(
    paths: Sequence[str | PathLike[str]],
    to: str,
    *,
    speed: float | Literal["max"] = 1.0,
    tls: TlsClient | None = None,
    now: bool = False,
) -> Sent:
    """Send the recordings and captures one after the other to `udp:HOST:PORT`, `tcp:...` or `tls:...`.

    `speed` divides the original spacing; "max" waits for nothing. With `now` the HEP timestamps are moved,
    as if it all happened now. Versions 1 and 2 of HEP have no framing and go over UDP only. Raises
    ConfigError when the collector cannot be reached, refuses, or closes the connection, and CaptureError
    for a file that is neither.
    """
    if speed != "max" and speed <= 0:
        raise ConfigError(f"speed {speed}: must be above 0, or max")
    pace = 1.0 if speed == "max" else speed
    endpoint = Endpoint.parse(to)
    recordings = [open_capture(path) for path in paths]
    packets = sent_bytes = 0
    started_s = time.monotonic()
    try:
        with _connect(endpoint, tls or TlsClient()) as sock:
            for recording in recordings:
                begun_s, first_us = time.monotonic(), None
                source = restamp(recording, now_us(), speed=pace) if now else recording
                for datagram in source:
                    first_us = datagram.arrival_us if first_us is None else first_us
                    if speed != "max":
                        _sleep_until(
                            begun_s + (datagram.arrival_us - first_us) / 1_000_000 / (1 if now else speed)
                        )
                    _check_framing(endpoint, recording.path, datagram)
                    sock.sendall(datagram.data)
                    packets += 1
                    sent_bytes += len(datagram.data)
            seconds = time.monotonic() - started_s
            _settle(sock)
    except OSError as error:
        raise ConfigError(f"{endpoint} {_reason(error)} (after {packets} packets)") from error
    damage = tuple(recording.damage for recording in recordings if recording.damage)
    return Sent(packets, sent_bytes, seconds, damage)


def _connect(endpoint: Endpoint, tls: TlsClient) -> socket.socket:
    family, address = endpoint.resolve()
    kind = socket.SOCK_DGRAM if endpoint.via == "udp" else socket.SOCK_STREAM
    sock = socket.socket(family, kind)
    try:
        sock.settimeout(_CONNECT_TIMEOUT_S)
        sock.connect(address)
        if endpoint.via == "tls":
            sock = _tls_context(tls).wrap_socket(sock, server_hostname=endpoint.host)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock


def _tls_context(tls: TlsClient) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=tls.ca)
        if tls.certificate is not None:
            context.load_cert_chain(tls.certificate, tls.private_key, password="")
    except OSError as error:
        raise ConfigError(f"the TLS files {tls.ca or ''} {tls.certificate or ''}: {error}") from error
    if not tls.verify:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _check_framing(endpoint: Endpoint, path: Path, datagram: Datagram) -> None:
    if endpoint.via != "udp" and datagram.data[:4] not in HEP3_MAGICS:
        raise ConfigError(
            f"{path} holds packets that are not HEP3 and have no length of their own: "
            f"send it over UDP, not {endpoint.via.upper()}"
        )


def _settle(sock: socket.socket) -> None:
    """Let a refusal arrive: an ICMP error, a reset, a TLS alert. It also reads the TLS session tickets
    that would turn our close into a reset."""
    sock.settimeout(_SETTLE_S)
    try:
        if not sock.recv(1) and sock.type == socket.SOCK_STREAM:
            raise ConnectionResetError
    except TimeoutError:
        pass


def _sleep_until(due_s: float) -> None:
    wait_s = due_s - time.monotonic()
    if wait_s > 0:
        time.sleep(wait_s)


def _reason(error: OSError) -> str:
    if isinstance(error, ConnectionRefusedError):
        return "refuses: is a collector listening there?"
    if isinstance(error, TimeoutError):
        return "does not answer"
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"has a certificate that is not trusted here: {error.verify_message}"
    if isinstance(error, ssl.SSLError):
        return f"broke off TLS: {error.reason}"
    if isinstance(error, (BrokenPipeError, ConnectionResetError)):
        return "closed the connection"
    return f"cannot be sent to: {error.strerror or error}"
