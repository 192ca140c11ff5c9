"""A HEP collector that only keeps what arrives: over UDP, TCP or TLS."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from pipeline.protocols.hep import HepPacket, decode
from world.endpoint import Transport
from world.kamailio import Certificate
from world.sip import header, kind

LENGTH_AT = slice(4, 6)  # of a HEP version 3 packet; over a stream there is no other framing


@dataclass(frozen=True)
class Mirrored:
    """One SIP message of the mirror."""

    what: str  # method or status code
    text: str
    packet: HepPacket

    @property
    def source(self) -> tuple[str, int]:
        return self.packet.src_ip, self.packet.src_port

    @property
    def destination(self) -> tuple[str, int]:
        return self.packet.dst_ip, self.packet.dst_port


class Collector:
    """Listens on a free loopback port; `datagrams` are the HEP packets in order of arrival."""

    def __init__(self, transport: Transport = "udp", certificate: Certificate | None = None) -> None:
        self.transport = transport
        self.datagrams: list[bytes] = []
        self.connections = 0
        self._closing = threading.Event()
        self._tls: ssl.SSLContext | None = None
        if transport == "tls":
            assert certificate is not None
            self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            self._tls.load_cert_chain(certificate.certificate, certificate.key)
        kind_ = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(socket.AF_INET, kind_)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.settimeout(0.1)
        if transport != "udp":
            self._socket.listen()
        self._threads = [threading.Thread(target=self._run, daemon=True)]
        self._threads[0].start()

    @property
    def uri(self) -> str:
        """As Kamailio's duplicate_uri wants it."""
        suffix = "" if self.transport == "udp" else f";transport={self.transport}"
        return f"sip:127.0.0.1:{self._socket.getsockname()[1]}{suffix}"

    def packets(self) -> list[HepPacket]:
        return [packet for datagram in tuple(self.datagrams) for packet in decode(datagram)]

    def mirrored(self, *call_ids: str) -> list[Mirrored]:
        """The mirrored SIP messages, of these calls or of all."""
        texts = ((packet.payload.decode("latin-1"), packet) for packet in self.packets())
        return [
            Mirrored(kind(text), text, packet)
            for text, packet in texts
            if not call_ids or header(text, "Call-ID") in call_ids
        ]

    def wait(self, condition: Callable[[list[Mirrored]], object], timeout_s: float = 5) -> bool:
        """Waits until `condition(self.mirrored())` holds; False when it does not come to hold in time."""
        deadline = time.monotonic() + timeout_s
        while not condition(self.mirrored()):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.02)
        return True

    def close(self) -> None:
        self._closing.set()
        for thread in self._threads:
            thread.join()
        self._socket.close()

    def __enter__(self) -> Collector:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            with contextlib.suppress(TimeoutError):
                if self.transport == "udp":
                    self.datagrams.append(self._socket.recv(65_535))
                else:
                    self._accept(self._socket.accept()[0])

    def _accept(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        if self._tls:
            connection = self._tls.wrap_socket(connection, server_side=True)
        connection.settimeout(0.1)
        self.connections += 1
        self._threads.append(threading.Thread(target=self._read, args=(connection,), daemon=True))
        self._threads[-1].start()

    def _read(self, connection: socket.socket) -> None:
        buffer = b""
        with connection:
            while not self._closing.is_set():
                try:
                    data = connection.recv(65_535)
                except TimeoutError:
                    continue
                except OSError:
                    return
                if not data:
                    return
                buffer += data
                while len(buffer) >= 6 and len(buffer) >= (size := int.from_bytes(buffer[LENGTH_AT])):
                    self.datagrams.append(buffer[:size])
                    buffer = buffer[size:]
