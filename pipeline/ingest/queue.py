"""The bounded queue between the receive threads and the decoder: full means dropped, and counted."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Condition

from pipeline.ingest import Datagram


class BatchQueue:
    """Batches of datagrams from any number of threads to any number of threads.

    The newest are dropped when it is full: what is queued is the longer part of calls under way. Its bytes
    are bounded, too: as many datagrams of the largest size would be more than most machines have memory.
    """

    def __init__(self, max_datagrams: int = 200_000, max_bytes: int = 512 << 20) -> None:
        self.max_datagrams = max_datagrams
        self.max_bytes = max_bytes
        self._batches: deque[tuple[Sequence[Datagram], int]] = deque()  # with its bytes
        self._changed = Condition()
        self._depth = 0
        self._bytes = 0
        self._accepted = 0
        self._dropped = 0
        self._closed = False

    def put_batch(self, batch: Sequence[Datagram]) -> int:
        """Queue what fits, in order, without ever waiting; gives how many that were."""
        given, size = len(batch), _bytes_of(batch)
        with self._changed:
            room = 0 if self._closed else self.max_datagrams - self._depth
            if given > room:
                batch = batch[:room]
                size = _bytes_of(batch)
            if self._bytes + size > self.max_bytes:
                batch = ()
            self._dropped += given - len(batch)
            if batch:
                self._batches.append((batch, size))
                self._depth += len(batch)
                self._bytes += size
                self._accepted += len(batch)
                self._changed.notify()
            return len(batch)

    def get(self, timeout_s: float, max_datagrams: int = 4096, max_bytes: int = 32 << 20) -> list[Datagram]:
        """What is queued, oldest first: at least one whole batch, then more while neither limit is passed.
        Waits up to `timeout_s` for the first; empty when none came, or when closed and drained."""
        with self._changed:
            self._changed.wait_for(lambda: self._batches or self._closed, timeout_s)
            taken: list[Datagram] = []
            size = 0
            while self._batches:
                batch, more = self._batches[0]
                if taken and (len(taken) + len(batch) > max_datagrams or size + more > max_bytes):
                    break
                self._batches.popleft()
                taken.extend(batch)
                size += more
            self._depth -= len(taken)
            self._bytes -= size
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


def _bytes_of(batch: Sequence[Datagram]) -> int:
    return sum([len(datagram.data) for datagram in batch])
