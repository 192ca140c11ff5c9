"""The bounded queue between the receive threads and the decoder: full means dropped, and counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Condition

from pipeline.ingest import Datagram


class BatchQueue:
    """Batches of datagrams from any number of threads to any number of threads.

    The newest are dropped when it is full: what is queued is the longer part of calls under way.
    """

    def __init__(self, max_datagrams: int = 200_000) -> None:
        self.max_datagrams = max_datagrams
        self._batches: deque[Sequence[Datagram]] = deque()
        self._changed = Condition()
        self._depth = 0
        self._accepted = 0
        self._dropped = 0
        self._closed = False

    def put_batch(self, batch: Sequence[Datagram]) -> int:
        """Queue what fits, in order, without ever waiting; gives how many that were."""
        with self._changed:
            room = 0 if self._closed else self.max_datagrams - self._depth
            if len(batch) > room:
                self._dropped += len(batch) - room
                batch = batch[:room]
            if batch:
                self._batches.append(batch)
                self._depth += len(batch)
                self._accepted += len(batch)
                self._changed.notify()
            return len(batch)

    def get(self, timeout_s: float, max_datagrams: int = 4096) -> list[Datagram]:
        """What is queued, oldest first: at least one whole batch, then more while `max_datagrams` is not
        passed. Waits up to `timeout_s` for the first; empty when none came, or when closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._closed, timeout_s)
            taken: list[Datagram] = []
            while self._batches and (not taken or len(taken) + len(self._batches[0]) <= max_datagrams):
                taken.extend(self._batches.popleft())
            self._depth -= len(taken)
            return taken

    def close(self) -> None:
        """Take no more; what is queued can still be got, and waiting `get` calls return."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Closed, though perhaps not drained."""
        return self._closed

    @property
    def depth(self) -> int:
        """Datagrams queued now."""
        return self._depth

    def counters(self) -> dict[str, int]:
        """`accepted`, `depth`, and the loss under its reason `queue_full`, taken at one moment."""
        with self._changed:
            return {"accepted": self._accepted, "depth": self._depth, "queue_full": self._dropped}
