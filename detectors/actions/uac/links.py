"""The way to the proxy: one UDP socket, or one TCP connection, shared by all calls.

The UDP socket is connected: the kernel picks our address, drops what comes from anybody but the proxy,
and reports ICMP errors. A link that broke is made anew by the next `open` or `send`.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import socket
from collections.abc import Callable
from dataclasses import dataclass

from detectors.actions.uac.messages import Party
from pipeline.errors import ActionError

MAX_MESSAGE_BYTES = 65_535
_CONNECT_SECONDS = 4.0
_DATAGRAMS_PER_TURN = 64
_PROXY = re.compile(
    r"sip:(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]+)(?::(?P<port>\d{1,5}))?(?:;transport=(?P<transport>udp|tcp))?",
    re.ASCII | re.IGNORECASE,
)
_CONTENT_LENGTH = re.compile(
    rb"^(?:content-length|l)[ \t]*:[ \t]*(\d{1,9})[ \t]*\r?$", re.IGNORECASE | re.MULTILINE
)


@dataclass(frozen=True, slots=True)
class ProxyAddress:
    """Where the calls go: "sip:127.0.0.1:5060", "sip:[::1]:5060;transport=tcp"."""

    host: str  # without brackets
    port: int
    transport: str  # UDP, TCP

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sip:{host}:{self.port};transport={self.transport.lower()}"

    @classmethod
    def parse(cls, text: str) -> ProxyAddress:
        """Raises ValueError."""
        found = _PROXY.fullmatch(text)
        port = int(found["port"] or 5060) if found else 0
        if found is None or not 0 < port < 65536:
            raise ValueError("is no proxy address; write sip:HOST:PORT, with ;transport=tcp for TCP")
        return cls(found["host"].strip("[]"), port, (found["transport"] or "udp").upper())


class Link:
    """Base of both: `open`, `send`, `close`, and who we are on it (`party`)."""

    reliable = False

    def __init__(self, proxy: ProxyAddress, local: tuple[str, int] | None = None) -> None:
        """`local` is the address to send from (ip without brackets; port 0 for any) that the proxy admits."""
        self.proxy = proxy
        self.on_message: Callable[[bytes], None] = lambda _data: None
        self.on_lost: Callable[[str], None] = lambda _why: None
        self._local = local
        self._party: Party | None = None

    @property
    def party(self) -> Party:
        if self._party is None:
            raise ActionError("link is not open")
        return self._party

    async def open(self) -> None:
        """Make the link ready, when it is not. Raises ActionError."""
        raise NotImplementedError

    def send(self, data: bytes) -> None:
        """Send one message. What goes wrong is told by `on_lost`, later, never raised here."""
        raise NotImplementedError

    async def close(self) -> None:
        raise NotImplementedError

    def _name_party(self, sock: socket.socket) -> None:
        self._party = party_of(sock, self.proxy.transport)


def party_of(sock: socket.socket, transport: str) -> Party:
    """Who we are on a connected socket."""
    host, port = sock.getsockname()[:2]
    return Party(transport, f"[{host}]" if ":" in host else host, port)


async def connected_udp_socket(proxy: ProxyAddress, local: tuple[str, int] | None) -> socket.socket:
    """A non-blocking UDP socket towards the proxy. Connecting it sends nothing. Raises ActionError."""
    error: OSError | None = None
    try:
        found = await asyncio.get_running_loop().getaddrinfo(proxy.host, proxy.port, type=socket.SOCK_DGRAM)
    except OSError as failed:
        raise ActionError(f"proxy {proxy.host}: {failed}") from failed
    for family, kind, number, _, address in found:
        sock = socket.socket(family, kind, number)
        try:
            sock.setblocking(False)
            if local is not None:
                sock.bind(local)
            sock.connect(address)
        except OSError as failed:
            error = failed
            sock.close()
        else:
            return sock
    raise ActionError(f"no socket towards {proxy.host}:{proxy.port}: {error}")


class UdpLink(Link):
    def __init__(self, proxy: ProxyAddress, local: tuple[str, int] | None = None) -> None:
        super().__init__(proxy, local)
        self._socket: socket.socket | None = None
        self._opening = asyncio.Lock()

    async def open(self) -> None:
        async with self._opening:
            if self._socket is None:
                self._socket = await connected_udp_socket(self.proxy, self._local)
                self._name_party(self._socket)
                asyncio.get_running_loop().add_reader(self._socket, self._readable)

    def send(self, data: bytes) -> None:
        if self._socket is None:
            self._lost_soon("UDP socket is closed")
            return
        with contextlib.suppress(ConnectionRefusedError):  # the ICMP error of something sent before
            self._send_once(data)
            return
        try:
            self._send_once(data)
        except ConnectionRefusedError as error:
            self._lost_soon(str(error))

    def _send_once(self, data: bytes) -> None:
        """Raises only ConnectionRefusedError; then nothing was sent."""
        assert self._socket is not None
        try:
            self._socket.send(data)
        except BlockingIOError:
            pass  # the socket's buffer is full: lost like any datagram, and repeated like any
        except ConnectionRefusedError:
            raise
        except OSError as error:  # the network is gone: a new socket when it is back
            self._drop()
            self._lost_soon(str(error))

    def _readable(self) -> None:
        for _ in range(_DATAGRAMS_PER_TURN):
            if self._socket is None:
                return
            try:
                data = self._socket.recv(MAX_MESSAGE_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                self.on_lost(str(error))
                return
            self.on_message(data)

    def _lost_soon(self, why: str) -> None:
        asyncio.get_running_loop().call_soon(self.on_lost, why)

    def _drop(self) -> None:
        if self._socket is not None:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()
            self._socket = None

    async def close(self) -> None:
        self._drop()


class TcpLink(Link):
    reliable = True

    def __init__(self, proxy: ProxyAddress, local: tuple[str, int] | None = None) -> None:
        super().__init__(proxy, local)
        self._writer: asyncio.StreamWriter | None = None
        self._reading: asyncio.Task[None] | None = None
        self._reopening: asyncio.Task[None] | None = None
        self._waiting: list[bytes] = []
        self._opening = asyncio.Lock()
        self._closed = False

    async def open(self) -> None:
        async with self._opening:
            if self._closed:
                raise ActionError("link is closed")
            if self._writer is not None and not self._writer.is_closing():
                return
            local = (
                None if self._local is None else (self._local[0], 0)
            )  # a fixed port could not be reused soon
            try:
                async with asyncio.timeout(_CONNECT_SECONDS):
                    reader, self._writer = await asyncio.open_connection(
                        self.proxy.host, self.proxy.port, local_addr=local, limit=2 * MAX_MESSAGE_BYTES
                    )
            except (OSError, TimeoutError) as error:
                raise ActionError(
                    f"no TCP connection to {self.proxy.host}:{self.proxy.port}: {error}"
                ) from error
            self._name_party(self._writer.get_extra_info("socket"))
            self._reading = asyncio.create_task(self._read(reader, self._writer))

    def send(self, data: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(data)
            return
        self._waiting.append(data)
        if self._reopening is None:
            self._reopening = asyncio.create_task(self._reopen())

    async def _reopen(self) -> None:
        try:
            await self.open()
        except ActionError as error:
            self._reopening = None
            self._waiting.clear()
            self.on_lost(str(error))
            return
        self._reopening = None
        waiting, self._waiting = self._waiting, []
        for data in waiting:
            self.send(data)

    async def _read(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        why = "TCP connection closed by the proxy"
        try:
            while (message := await read_message(reader)) is not None:
                self.on_message(message)
        except (OSError, ValueError, asyncio.IncompleteReadError, asyncio.LimitOverrunError) as error:
            why = f"TCP connection lost: {error}"
        writer.close()
        if self._writer is writer:
            self._writer = None
        if not self._closed:
            self.on_lost(why)

    async def close(self) -> None:
        self._closed = True
        for task in (self._reopening, self._reading):
            if task is not None:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
        if self._writer is not None:
            self._writer.close()
            with contextlib.suppress(OSError):
                await self._writer.wait_closed()
            self._writer = None


async def read_message(reader: asyncio.StreamReader) -> bytes | None:
    """The next SIP message of a stream (RFC 3261 section 18.3), None at its end; CRLF pings are skipped.

    Raises ValueError, LimitOverrunError or IncompleteReadError for what cannot be framed.
    """
    while True:
        try:
            head = await reader.readuntil(b"\r\n")
        except asyncio.IncompleteReadError as error:
            if not error.partial.strip():
                return None
            raise
        if head != b"\r\n":
            break
    head += await reader.readuntil(b"\r\n\r\n")
    length = _CONTENT_LENGTH.search(head)
    body_bytes = int(length[1]) if length else 0
    if len(head) + body_bytes > MAX_MESSAGE_BYTES:
        raise ValueError(f"message of {len(head) + body_bytes} bytes")
    return head + await reader.readexactly(body_bytes)


def make_link(proxy: ProxyAddress, local: tuple[str, int] | None) -> Link:
    return TcpLink(proxy, local) if proxy.transport == "TCP" else UdpLink(proxy, local)
