"""A proxy with a phone behind it, for tests of our caller: real sockets on loopback, SIP read by hand.

It shares no code with the caller: requests are taken apart with plain string operations, replies are
written from a template. What it does with a request is the test's own coroutine or function.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass
class Request:
    """One request as it came over the wire."""

    raw: bytes
    method: str
    uri: str
    headers: list[tuple[str, str]]
    body: bytes
    sender: tuple[str, int] = ("", 0)

    def get(self, name: str) -> str:
        values = self.all(name)
        assert len(values) == 1, f"{name}: {values}"
        return values[0]

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key.lower() == name.lower()]

    def param(self, name: str, key: str) -> str:
        for part in self.get(name).rpartition(">")[2].split(";") + self.get(name).split(";"):
            if part.strip().startswith(key + "="):
                return part.strip()[len(key) + 1 :]
        raise AssertionError(f"no {key} in {name}: {self.get(name)}")


def read(raw: bytes) -> Request:
    head, _, body = raw.partition(b"\r\n\r\n")
    lines = head.decode("utf-8").split("\r\n")
    method, uri, version = lines[0].split(" ")
    assert version == "SIP/2.0"
    headers = []
    for line in lines[1:]:
        name, colon, value = line.partition(": ")
        assert colon, line
        headers.append((name, value))
    request = Request(raw, method, uri, headers, body)
    assert int(request.get("Content-Length")) == len(body)
    return request


def reply_to(request: Request, status: int, phrase: str = "X", tag: str = "phone", extra: str = "") -> bytes:
    lines = [f"SIP/2.0 {status} {phrase}"]
    top, *others = request.all("Via")
    host, port = request.sender
    # RFC 3261 section 18.2.1 and RFC 3581 section 4; IPv6 without brackets, as in section 20.42
    lines += [f"Via: {top.replace(';rport;', f';rport={port};received={host};')}"]
    lines += [f"Via: {via}" for via in others]
    to = request.get("To")
    if status > 100 and ";tag=" not in to:
        to += f";tag={tag}"
    lines += [f"From: {request.get('From')}", f"To: {to}"]
    lines += [f"Call-ID: {request.get('Call-ID')}", f"CSeq: {request.get('CSeq')}"]
    if extra:
        lines += extra.split("\n")
    return ("\r\n".join([*lines, "Content-Length: 0", "", ""])).encode()


Handler = Callable[["Peer", Request], None]


@dataclass
class Peer:
    """Listens, keeps every request, and lets `handler` answer with `reply` or `send`."""

    handler: Handler
    host: str = "127.0.0.1"
    tcp: bool = False
    requests: list[Request] = field(default_factory=list)
    port: int = 0
    connections: int = 0
    _send: dict[int, Callable[[bytes], None]] = field(default_factory=dict)
    last_sender: tuple[str, int] | None = None

    async def __aenter__(self) -> Peer:
        loop = asyncio.get_running_loop()
        self._changed = asyncio.Event()
        if self.tcp:
            self._server = await asyncio.start_server(self._serve, self.host, self.port)
            self.port = self._server.sockets[0].getsockname()[1]
        else:
            family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
            self._socket = socket.socket(family, socket.SOCK_DGRAM)
            self._socket.bind((self.host, self.port))
            self._socket.setblocking(False)
            self.port = self._socket.getsockname()[1]
            loop.add_reader(self._socket, self._readable)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self.tcp:
            self._server.close()
            self.drop_connections()
            await self._server.wait_closed()
            if self._serving:
                await asyncio.wait(self._serving)
        else:
            asyncio.get_running_loop().remove_reader(self._socket)
            self._socket.close()

    @property
    def uri(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sip:{host}:{self.port}" + (";transport=tcp" if self.tcp else "")

    def reply(self, request: Request, status: int, *args: str, **kwargs: str) -> None:
        self.send(request, reply_to(request, status, *args, **kwargs))

    def send(self, request: Request, data: bytes) -> None:
        self._send[id(request)](data)

    def later(self, seconds: float, request: Request, status: int, **kwargs: str) -> None:
        asyncio.get_running_loop().call_later(seconds, lambda: self.reply(request, status, **kwargs))

    def of(self, method: str) -> list[Request]:
        return [request for request in self.requests if request.method == method]

    async def wait_for(self, method: str, count: int = 1) -> Request:
        """The count-th request of that method; the test's own time limit ends a vain wait."""
        while len(self.of(method)) < count:
            self._changed.clear()
            await asyncio.wait_for(self._changed.wait(), 10)
        return self.of(method)[count - 1]

    _serving: set[asyncio.Task[None]] = field(default_factory=set)

    def drop_connections(self) -> None:
        for writer in self._writers:
            writer.close()
        self._writers.clear()

    _writers: list[asyncio.StreamWriter] = field(default_factory=list)

    def _got(self, raw: bytes, send: Callable[[bytes], None]) -> None:
        request = read(raw)
        self._send[id(request)] = send
        request.sender = self.last_sender or ("", 0)
        self.requests.append(request)
        self._changed.set()
        self.handler(self, request)

    def _readable(self) -> None:
        data, sender = self._socket.recvfrom(65535)
        self.last_sender = sender[:2]
        self._got(data, lambda reply: self._socket.sendto(reply, sender) and None)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._serving.add(asyncio.current_task())
        self._writers.append(writer)
        self.last_sender = writer.get_extra_info("peername")[:2]
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                self._got(head + await reader.readexactly(length), writer.write)
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()


class Phone:
    """A handler: what a well-behaved phone and proxy do. The 487 follows the CANCEL's 200."""

    def __init__(self, *, trying: bool = True, ringing: int | None = 180, final: int | None = None) -> None:
        self.trying, self.ringing, self.final = trying, ringing, final
        self.invite: dict[str, Request] = {}

    def __call__(self, peer: Peer, request: Request) -> None:
        branch = request.param("Via", "branch")
        if request.method == "INVITE":
            again = branch in self.invite
            self.invite[branch] = request
            if again:
                return
            if self.trying:
                peer.reply(request, 100, "Trying")
            if self.ringing:
                peer.reply(request, self.ringing, "Ringing")
            if self.final:
                peer.reply(request, self.final, extra="Contact: <sip:bob@127.0.0.1:9>")
        elif request.method == "CANCEL":
            peer.reply(request, 200, "canceling")
            if self.final is None:
                peer.reply(self.invite[branch], 487, "Request Terminated")
        elif request.method == "BYE":
            peer.reply(request, 200, "OK")
