"""HEP over UDP: one blocking receive thread per socket, and the kernel's own losses counted."""

from __future__ import annotations

import contextlib
import socket
import struct
import sys
import time
from collections.abc import Callable
from threading import Event, Thread
from typing import Final

from pipeline.ingest import Datagram
from pipeline.ingest.agents import AgentCheck
from pipeline.ingest.counters import ListenerCounters, new_counters, reject, snapshot
from pipeline.ingest.endpoints import Endpoint, bind, local_endpoint
from pipeline.ingest.recvmmsg import Receiver, Sender, best_receiver, sender_address
from pipeline.instants import now_us

_SO_RCVBUFFORCE: Final = 33  # linux/include/uapi/asm-generic/socket.h
_SO_MEMINFO: Final = 55
_SK_MEMINFO_DROPS: Final = 8  # index into the u32 array of SO_MEMINFO, linux/sock_diag.h
_WAKE_EVERY_S: Final = 0.2  # how soon a silent thread notices that it shall stop
_MAX_DRAIN_S: Final = 1.0  # a sender who goes on may not keep us from stopping
_MAX_KNOWN_SENDERS: Final = 65536


class UdpListener:
    """Binds at once (ConfigError), receives from `start` to `stop`."""

    def __init__(
        self,
        endpoint: Endpoint,
        deliver: Callable[[list[Datagram]], object],
        check: AgentCheck,
        receive_buffer_bytes: int,
        make_receiver: Callable[[socket.socket], Receiver] = best_receiver,
    ) -> None:
        self._socket = bind(endpoint)
        self.endpoint = local_endpoint("udp", self._socket)
        self.receive_buffer_asked_bytes = receive_buffer_bytes
        self.receive_buffer_bytes = _grow_buffer(self._socket, receive_buffer_bytes)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, _timeval(_WAKE_EVERY_S))
        self._receiver = make_receiver(self._socket)
        self._deliver = deliver
        self._check = check
        self._known: dict[Sender, tuple[str, int, bool] | None] = {}  # None: not allowed
        self._counters = new_counters()
        self._stopping = Event()
        self._thread = Thread(target=self._run, name=f"tap-{self.endpoint}", daemon=True)

    def start(self) -> None:
        """Receive from now on. What came since binding waits in the socket."""
        self._thread.start()

    def stop(self) -> None:
        """Deliver what the socket still holds, close it, and wait for the thread. Twice is once."""
        if self._socket.fileno() < 0:
            return
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join()
        self._counters["kernel_dropped"] = _kernel_dropped(self._socket)
        self._socket.close()

    def counters(self) -> ListenerCounters:
        """A copy of the counts so far."""
        if self._socket.fileno() >= 0:
            with contextlib.suppress(OSError):  # closed by another thread since the line above
                self._counters["kernel_dropped"] = _kernel_dropped(self._socket)
        return snapshot(self._counters)

    def warning(self) -> str | None:
        """What to tell the operator when the system gave a smaller buffer than asked for."""
        asked, granted = self.receive_buffer_asked_bytes, self.receive_buffer_bytes
        if granted >= asked:
            return None
        return (
            f"{self.endpoint}: receive buffer of {granted} bytes instead of {asked}; bursts will be lost. "
            f"Mend: sysctl -w net.core.rmem_max={asked}"
        )

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._pass_on(self._receiver.receive())
            except OSError:  # short of memory, mostly; a tap that ends is deaf without a word
                self._counters["receive_errors"] += 1
                self._stopping.wait(_WAKE_EVERY_S)
        deadline_s = time.monotonic() + _MAX_DRAIN_S
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline_s and (rest := self._receiver.receive(wait=False)):
                self._pass_on(rest)

    def _pass_on(self, received: list[tuple[bytes, Sender]]) -> None:
        if not received:
            return
        arrival_us = now_us()
        known, batch = self._known, []
        for data, sender in received:
            try:
                agent = known[sender]
            except KeyError:
                agent = self._meet(sender)
            if agent is None:
                reject(self._counters, "network")
            else:
                batch.append(Datagram(arrival_us, agent[0], agent[1], "udp", agent[2], data))
        self._counters["received"] += len(received)
        self._counters["received_bytes"] += sum([len(data) for data, _ in received])
        if batch:
            self._deliver(batch)

    def _meet(self, sender: Sender) -> tuple[str, int, bool] | None:
        """What the check says about a new sender, remembered: senders are few and datagrams are many."""
        if len(self._known) >= _MAX_KNOWN_SENDERS:
            self._known.clear()
        ip, port = sender_address(sender)
        agent = (ip, port, self._check.address_trusted(ip)) if self._check.allows(ip) else None
        self._known[sender] = agent
        return agent


def _grow_buffer(sock: socket.socket, asked_bytes: int) -> int:
    """Ask for a receive buffer; gives what was granted. Above rmem_max only CAP_NET_ADMIN can."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, asked_bytes)
    except OSError:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, asked_bytes)
    granted = sock.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF)
    return granted // 2 if sys.platform == "linux" else granted  # Linux doubles it, socket(7)


def _kernel_dropped(sock: socket.socket) -> int:
    """Datagrams that the kernel threw away because this socket was full; 0 where it cannot tell."""
    if sys.platform != "linux":
        return 0
    info = sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, 4 * (_SK_MEMINFO_DROPS + 1))
    return int(struct.unpack_from("=I", info, 4 * _SK_MEMINFO_DROPS)[0])


def _timeval(seconds: float) -> bytes:
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1_000_000))
