"""What one listener of the tap has seen; nothing is lost without a number here."""

from __future__ import annotations

from typing import TypedDict


class ListenerCounters(TypedDict):
    """Counts since the start. For UDP, datagrams that reached the machine = received + kernel_dropped."""

    received: int  # datagrams or frames, the rejected ones included
    received_bytes: int  # of those; HEP bytes, without UDP, TCP or TLS headers
    kernel_dropped: int  # UDP: the socket's receive buffer was full
    receive_errors: int  # UDP: system calls that failed; what they would have given waits in the socket
    rejected: dict[str, int]  # by reason: network; on streams also connection_limit, no_descriptors, tls
    connections: int  # open now
    connections_total: int  # accepted since the start
    idle_closed: int  # connections closed for silence, or to make room
    skipped_bytes: int  # garbage on streams
    resyncs: int  # how often garbage began on a stream
    incomplete_frames: int  # streams that ended inside a frame


def new_counters() -> ListenerCounters:
    """All zero."""
    return {
        "received": 0,
        "received_bytes": 0,
        "kernel_dropped": 0,
        "receive_errors": 0,
        "rejected": {},
        "connections": 0,
        "connections_total": 0,
        "idle_closed": 0,
        "skipped_bytes": 0,
        "resyncs": 0,
        "incomplete_frames": 0,
    }


def reject(counters: ListenerCounters, reason: str) -> None:
    """Count one rejection."""
    counters["rejected"][reason] = counters["rejected"].get(reason, 0) + 1


def snapshot(counters: ListenerCounters) -> ListenerCounters:
    """A copy that stays as it is. Each counter has one writing thread, so no lock is needed."""
    return {**counters, "rejected": counters["rejected"].copy()}
