"""Client transactions: RFC 3261 section 17.1, with the Accepted state of RFC 6026.

    INVITE (17.1.1)                                   others (17.1.2)
    calling    --1xx-->      proceeding               trying     --1xx-->     proceeding
    calling    --2xx-->      accepted                 either     --final-->   completed
    calling    --3xx-6xx-->  completed (ACK)          either     --timer F--> terminated (timeout)
    calling    --timer B-->  terminated (timeout)     completed  --timer K--> terminated
    proceeding --2xx-->      accepted
    proceeding --3xx-6xx-->  completed (ACK)
    accepted   --timer M-->  terminated
    completed  --timer D-->  terminated

A transaction knows no socket: it is given `send`, and tells its user about every reply that is not
a repetition, and about the end that came without one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from sipmessage import Response


@dataclass(frozen=True, slots=True)
class Timers:
    """RFC 3261 section 17.1.1.1 and its table 4, in seconds."""

    t1: float = 0.5  # round trip estimate
    t2: float = 4.0  # longest interval between repetitions, INVITE aside
    t4: float = 5.0  # how long the network holds a message
    d: float = 32.0  # how long repeated finals of an INVITE are acknowledged over UDP

    @property
    def give_up(self) -> float:
        """Timers B, F and M."""
        return 64 * self.t1


class State(Enum):
    CALLING = "calling"
    TRYING = "trying"
    PROCEEDING = "proceeding"
    ACCEPTED = "accepted"
    COMPLETED = "completed"
    TERMINATED = "terminated"


@dataclass(frozen=True, slots=True)
class Wiring:
    """What a transaction is connected to: the link below it and the user above it."""

    send: Callable[[bytes], None]
    on_reply: Callable[[Response], None]
    on_failure: Callable[[str], None]  # no final reply will come: "timeout", or what the transport said
    on_terminated: Callable[[], None] = lambda: None
    # The ACK to a 3xx-6xx, which is the INVITE transaction's to send.
    make_ack: Callable[[Response], bytes] = lambda _reply: b""


class ClientTransaction:
    """What INVITE and the other methods have in common: send, repeat, give up."""

    first_state = State.TRYING
    repeated_in: tuple[State, ...] = (State.TRYING, State.PROCEEDING)

    def __init__(self, request: bytes, wiring: Wiring, timers: Timers, *, reliable: bool) -> None:
        self.state = self.first_state
        self._request = request
        self._wiring = wiring
        self._timers = timers
        self._reliable = reliable
        self._loop = asyncio.get_running_loop()
        self._running: dict[str, asyncio.TimerHandle] = {}
        self._resent_after_loss = False

    def start(self) -> None:
        """Send the request; timers A or E (not over TCP), B or F."""
        self._start_timer("give_up", self._timers.give_up, self._give_up)
        if not self._reliable:
            self._start_timer("repeat", self._timers.t1, self._repeat, self._timers.t1)
        self._transmit()

    def receive(self, reply: Response) -> None:
        raise NotImplementedError

    def link_lost(self, why: str) -> None:
        """The connection is gone, or ICMP says that nobody listens (RFC 3261 section 18.4).

        Over TCP a request without any reply is sent again once, over a new connection: it may have been
        written into one that the other side had closed already.
        """
        if self.state is not self.first_state:
            return
        if self._resent_after_loss or not self._reliable:
            self.fail(why)
        else:
            self._resent_after_loss = True
            self._transmit()

    def fail(self, why: str) -> None:
        """The transport cannot send (RFC 3261 section 17.1.4); no matter once a final reply is there."""
        if self.state in (State.CALLING, State.TRYING, State.PROCEEDING):
            self.terminate()
            self._wiring.on_failure(why)

    def terminate(self) -> None:
        if self.state is not State.TERMINATED:
            self.state = State.TERMINATED
            for timer in self._running.values():
                timer.cancel()
            self._running.clear()
            self._wiring.on_terminated()

    def _transmit(self) -> None:
        self._wiring.send(self._request)

    def _repeat(self, interval: float) -> None:
        if self.state in self.repeated_in:
            following = self._interval_after(interval)
            self._start_timer("repeat", following, self._repeat, following)
            self._transmit()

    def _interval_after(self, interval: float) -> float:
        return self._timers.t2 if self.state is State.PROCEEDING else min(2 * interval, self._timers.t2)

    def _give_up(self) -> None:
        self.terminate()
        self._wiring.on_failure("timeout")

    def _start_timer(self, name: str, after: float, call: Callable[..., None], *args: object) -> None:
        self._stop_timer(name)
        self._running[name] = self._loop.call_later(after, call, *args)

    def _stop_timer(self, name: str) -> None:
        timer = self._running.pop(name, None)
        if timer is not None:
            timer.cancel()


class NonInviteTransaction(ClientTransaction):
    """RFC 3261 section 17.1.2: timers E (repeat), F (give up), K (absorb repeated replies)."""

    def receive(self, reply: Response) -> None:
        if self.state not in (State.TRYING, State.PROCEEDING):
            return
        if reply.code < 200:
            self.state = State.PROCEEDING
        else:
            self.state = State.COMPLETED
            self._stop_timer("repeat")
            self._stop_timer("give_up")
            self._start_timer("linger", 0.0 if self._reliable else self._timers.t4, self.terminate)
        self._wiring.on_reply(reply)


class InviteTransaction(ClientTransaction):
    """RFC 3261 section 17.1.1: timers A (repeat), B (give up), D (acknowledge repeated finals), M (RFC 6026).

    It acknowledges a 3xx-6xx itself; the ACK to a 2xx is its user's, who therefore is told of every 2xx,
    repeated ones too.
    """

    first_state = State.CALLING
    repeated_in = (State.CALLING,)

    _ack = b""

    def receive(self, reply: Response) -> None:
        if self.state in (State.CALLING, State.PROCEEDING):
            self._stop_timer("repeat")
            self._stop_timer("give_up")
            if reply.code < 200:
                self.state = State.PROCEEDING
            elif reply.code < 300:
                self.state = State.ACCEPTED
                self._start_timer("linger", self._timers.give_up, self.terminate)
            else:
                self.state = State.COMPLETED
                self._start_timer("linger", 0.0 if self._reliable else self._timers.d, self.terminate)
                self._ack = self._wiring.make_ack(reply)
                self._wiring.send(self._ack)
            self._wiring.on_reply(reply)
        elif self.state is State.ACCEPTED and 200 <= reply.code < 300:
            self._wiring.on_reply(reply)
        elif self.state is State.COMPLETED and reply.code >= 300:
            self._wiring.send(self._ack)

    def _interval_after(self, interval: float) -> float:
        return 2 * interval

    def linger(self) -> None:
        """Nobody waits any more (RFC 3261 section 9.1): end, but late finals are acknowledged for a while."""
        if self.state in (State.CALLING, State.PROCEEDING):
            self._start_timer("linger", self._timers.d, self.terminate)
