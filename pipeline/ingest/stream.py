"""HEP over TCP and TLS: one selector thread for all listeners and connections.

Nobody can hold up anybody else: sockets and TLS handshakes never block, a connection keeps at most one
unfinished frame, and silent connections go when their time is up or their place is needed.
"""

from __future__ import annotations

import errno
import selectors
import socket
import ssl
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Thread
from typing import Final

from pipeline.ingest import Datagram
from pipeline.ingest.agents import AgentCheck
from pipeline.ingest.counters import ListenerCounters, new_counters, reject, snapshot
from pipeline.ingest.endpoints import Endpoint, bind, local_endpoint
from pipeline.instants import now_us
from pipeline.protocols.hep import HepStream

_READ_BYTES: Final = 1 << 20  # much at once: each read costs a turn of the interpreter lock
_READS_PER_TURN: Final = 16  # then the others have theirs; TLS gives 16 KiB at a time
_SWEEP_EVERY_S: Final = 0.5
_HANDSHAKE_S: Final = 10.0
_NO_DESCRIPTORS: Final = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


@dataclass(slots=True)
class _Listener:
    endpoint: Endpoint
    socket: socket.socket
    tls: ssl.SSLContext | None
    counters: ListenerCounters = field(default_factory=new_counters)


@dataclass(slots=True, eq=False)
class _Connection:
    listener: _Listener
    socket: socket.socket
    ip: str
    port: int
    trusted: bool
    last_heard_s: float
    handshaking: bool
    frames: int = 0
    stream: HepStream = field(default_factory=HepStream)


class StreamServer:
    """Binds in `listen` (ConfigError), serves from `start` to `stop`."""

    def __init__(
        self,
        deliver: Callable[[list[Datagram]], object],
        check: AgentCheck,
        *,
        max_connections: int = 256,
        idle_timeout_s: float = 3600.0,
    ) -> None:
        self._deliver = deliver
        self._check = check
        self._max_connections = max_connections
        self._idle_timeout_s = idle_timeout_s
        self._listeners: list[_Listener] = []
        self._resting: list[_Listener] = []  # until the next sweep: no descriptor is left for a connection
        self._connections: set[_Connection] = set()
        self._selector = selectors.DefaultSelector()
        self._wake_receiver, self._waker = socket.socketpair()
        self._selector.register(self._wake_receiver, selectors.EVENT_READ, None)
        self._buffer = memoryview(bytearray(_READ_BYTES))
        self._thread = Thread(target=self._run, name="tap-streams", daemon=True)

    def listen(self, endpoint: Endpoint, tls: ssl.SSLContext | None) -> Endpoint:
        """Add a listener before `start`; gives the endpoint with the port that it really has."""
        bound = bind(endpoint)
        bound.listen(128)
        bound.setblocking(False)
        listener = _Listener(local_endpoint(endpoint.via, bound), bound, tls)
        self._listeners.append(listener)
        self._selector.register(bound, selectors.EVENT_READ, listener)
        return listener.endpoint

    def start(self) -> None:
        """Accept connections from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Read what is there, close everything, and wait for the thread. A second time does nothing."""
        if self._waker.fileno() < 0:
            return
        if self._thread.ident is not None:
            self._waker.send(b"\0")
            self._thread.join()
        for listener in self._listeners:
            listener.socket.close()
        self._wake_receiver.close()
        self._waker.close()
        self._selector.close()

    def counters(self) -> dict[Endpoint, ListenerCounters]:
        """Copies of the counts so far, by listener."""
        return {listener.endpoint: snapshot(listener.counters) for listener in self._listeners}

    def _run(self) -> None:
        next_sweep_s = time.monotonic() + _SWEEP_EVERY_S
        while True:
            stopping = False
            for key, _ in self._selector.select(_SWEEP_EVERY_S):
                if isinstance(key.data, _Connection):
                    if key.data in self._connections:  # else closed in this very turn, to make room
                        self._serve(key.data)
                elif isinstance(key.data, _Listener):
                    self._accept(key.data)
                else:
                    stopping = True
            if stopping:
                break
            if time.monotonic() >= next_sweep_s:
                self._sweep()
                next_sweep_s = time.monotonic() + _SWEEP_EVERY_S
        for connection in list(self._connections):
            self._serve(connection)
            if connection in self._connections:
                self._close(connection)

    # -- connections -----------------------------------------------------------------------------------

    def _accept(self, listener: _Listener) -> None:
        try:
            accepted, address = listener.socket.accept()
        except OSError as error:  # gone before we came, or out of file descriptors
            if error.errno in _NO_DESCRIPTORS:  # the caller waits in the backlog: asking at once would spin
                reject(listener.counters, "no_descriptors")
                self._selector.unregister(listener.socket)
                self._resting.append(listener)
            return
        ip, port = address[:2]
        if not self._check.allows(ip):
            reject(listener.counters, "network")
            accepted.close()
            return
        if len(self._connections) >= self._max_connections and not self._make_room(ip):
            reject(listener.counters, "connection_limit")
            accepted.close()
            return
        accepted.setblocking(False)
        trusted = self._check.address_trusted(ip)
        if listener.tls is not None:
            try:
                accepted = listener.tls.wrap_socket(accepted, server_side=True, do_handshake_on_connect=False)
            except OSError:  # gone already
                reject(listener.counters, "tls")
                return
            # A certificate that the handshake has verified vouches for the sender.
            trusted = trusted or listener.tls.verify_mode == ssl.CERT_REQUIRED
        connection = _Connection(
            listener, accepted, ip, port, trusted, time.monotonic(), handshaking=listener.tls is not None
        )
        self._connections.add(connection)
        self._selector.register(accepted, selectors.EVENT_READ, connection)
        listener.counters["connections"] += 1
        listener.counters["connections_total"] += 1

    def _make_room(self, ip: str) -> bool:
        """Close the connection that can best be spared for a new one from `ip`, if any: one that never sent a frame,
        else one of the address that holds the most, where that is more than `ip` would then have; of these the
        one that has been silent longest."""
        spared = [connection for connection in self._connections if not connection.frames]
        if not spared:
            held = Counter(connection.ip for connection in self._connections)
            crowd, most = held.most_common(1)[0]
            if most <= held[ip] + 1:
                return False
            spared = [connection for connection in self._connections if connection.ip == crowd]
        idler = min(spared, key=lambda connection: connection.last_heard_s)
        idler.listener.counters["idle_closed"] += 1
        self._close(idler)
        return True

    def _sweep(self) -> None:
        for listener in self._resting:
            self._selector.register(listener.socket, selectors.EVENT_READ, listener)
        self._resting.clear()
        now_s = time.monotonic()
        for connection in list(self._connections):
            limit_s = self._idle_timeout_s
            if connection.handshaking:
                limit_s = min(limit_s, _HANDSHAKE_S)
            if now_s - connection.last_heard_s > limit_s:
                connection.listener.counters["idle_closed"] += 1
                self._close(connection)

    def _close(self, connection: _Connection) -> None:
        counters = connection.listener.counters
        counters["connections"] -= 1
        if connection.stream.pending_bytes:
            counters["incomplete_frames"] += 1
        self._connections.discard(connection)
        self._selector.unregister(connection.socket)
        connection.socket.close()

    # -- reading ---------------------------------------------------------------------------------------

    def _serve(self, connection: _Connection) -> None:
        if connection.handshaking and not self._handshake(connection):
            return
        parts: list[bytes] = []
        ended = False
        try:
            for _ in range(_READS_PER_TURN):
                size = connection.socket.recv_into(self._buffer)
                if not size:
                    ended = True
                    break
                parts.append(bytes(self._buffer[:size]))
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:  # reset by the peer, or broken TLS
            ended = True
        if parts:
            connection.last_heard_s = time.monotonic()
            self._take(connection, b"".join(parts))
        if ended:
            self._close(connection)

    def _handshake(self, connection: _Connection) -> bool:
        """One step; whether it was the last. The time since accepting is not renewed: ten seconds for all."""
        assert isinstance(connection.socket, ssl.SSLSocket)
        try:
            connection.socket.do_handshake()
        except ssl.SSLWantReadError:
            self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
            return False
        except ssl.SSLWantWriteError:
            self._selector.modify(connection.socket, selectors.EVENT_WRITE, connection)
            return False
        except OSError:  # ssl.SSLError is one: no TLS, no common cipher, no good certificate, or gone
            reject(connection.listener.counters, "tls")
            self._close(connection)
            return False
        self._selector.modify(connection.socket, selectors.EVENT_READ, connection)
        connection.handshaking = False
        return True

    def _take(self, connection: _Connection, data: bytes) -> None:
        stream, counters = connection.stream, connection.listener.counters
        skipped_bytes, resyncs = stream.skipped_bytes, stream.resyncs
        frames = stream.feed(data)
        counters["skipped_bytes"] += stream.skipped_bytes - skipped_bytes
        counters["resyncs"] += stream.resyncs - resyncs
        if not frames:
            return
        if stream.skipped_bytes:
            # No HEP agent sends anything else. A proxy that relays a caller's SIP to this port does, with
            # frames of the caller's making in the body: whose they are, the address does not say.
            connection.trusted = False
        connection.frames += len(frames)
        counters["received"] += len(frames)
        counters["received_bytes"] += sum([len(frame) for frame in frames])
        arrival_us = now_us()
        via = connection.listener.endpoint.via
        self._deliver(
            [
                Datagram(arrival_us, connection.ip, connection.port, via, connection.trusted, frame)
                for frame in frames
            ]
        )
