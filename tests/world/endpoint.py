"""One SIP socket with a thread that reads it: what phones and callers have in common."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
from typing import Literal

from world.ports import family
from world.sip import Transcript, header, new_token

Transport = Literal["udp", "tcp", "tls"]


class Endpoint:
    """Sends and receives SIP over one UDP socket, or one TCP or TLS connection, to one proxy.

    Each received message is noted in `transcript` and then given to `on_message`. `preface` goes before all SIP, as
    a balancer's PROXY line does.
    """

    def __init__(
        self, proxy: tuple[str, int], address: str, transport: Transport = "udp", *, preface: bytes = b""
    ) -> None:
        self.transport = transport
        self.transcript = Transcript()
        self.tag = new_token()
        kind = socket.SOCK_DGRAM if transport == "udp" else socket.SOCK_STREAM
        self._socket = socket.socket(family(address), kind)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, int(transport != "udp"))
        self._socket.bind((address, 0))
        self._socket.connect(proxy)
        if transport != "udp":
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if preface:
            self._socket.sendall(preface)
        if transport == "tls":
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            self._socket = context.wrap_socket(self._socket)
        self._socket.setblocking(False)
        self.address, self.port = self._socket.getsockname()[:2]
        self._closing = threading.Event()
        self._using = threading.Lock()  # a TLS connection must not be read and written at the same time
        name = f"{type(self).__name__} {self.host_port}"
        self._thread = threading.Thread(target=self._read, name=name, daemon=True)
        self._thread.start()

    @property
    def host_port(self) -> str:
        """`127.0.0.21:5060` or `[::1]:5060`."""
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"

    @property
    def target(self) -> str:
        """Where the proxy sees this endpoint: `127.0.0.21:5060;transport=udp`."""
        return f"{self.host_port};transport={self.transport}"

    def send(self, *lines: str, body: str = "") -> None:
        """Sends a message given by its header lines."""
        if body:
            lines += ("Content-Type: application/sdp",)
        text = "\r\n".join((*lines, f"Content-Length: {len(body)}", "", body))
        self.transcript.add(text, sent=True)
        with self._using:
            self._socket.sendall(text.encode())

    def via(self, branch: str) -> str:
        return f"Via: SIP/2.0/{self.transport.upper()} {self.host_port};rport;branch={branch}"

    def sdp(self) -> str:
        version = "IP6" if ":" in self.address else "IP4"
        lines = ("v=0", f"o=- 1 1 IN {version} {self.address}", "s=-", f"c=IN {version} {self.address}")
        return "\r\n".join((*lines, "t=0 0", "m=audio 9000 RTP/AVP 0", ""))

    def on_message(self, text: str) -> None:
        """What to do with a received message; an endpoint of its own does nothing."""

    def close(self) -> None:
        self._closing.set()
        self._thread.join()
        self._socket.close()

    def _read(self) -> None:
        buffer = b""
        while not self._closing.is_set():
            select.select([self._socket], [], [], 0.03)
            try:
                with self._using:
                    data = self._socket.recv(65_535)
            except (BlockingIOError, ssl.SSLWantReadError):
                continue
            except ConnectionError:
                if self.transport == "udp":  # ICMP: the proxy is gone, or not yet there
                    continue
                return
            if not data and self.transport != "udp":
                return
            buffer = self._take_messages(buffer + data)

    def _take_messages(self, buffer: bytes) -> bytes:
        """Handles the whole messages in `buffer` and gives back the rest (RFC 3261 18.3)."""
        while True:
            buffer = buffer.lstrip(b"\r\n\0")
            head, blank, rest = buffer.partition(b"\r\n\r\n")
            length = int(header(head.decode("latin-1"), "Content-Length") or 0)
            if not blank or len(rest) < length:
                return b"" if self.transport == "udp" else buffer
            text = buffer[: len(head) + len(blank) + length].decode("latin-1")
            buffer = rest[length:]
            self.transcript.add(text, sent=False)
            with contextlib.suppress(ConnectionError):
                self.on_message(text)
