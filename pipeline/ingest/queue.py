"""The bounded queue between the receive threads and the decoder. Beyond its capacity it sheds, in the order of
`pipeline.ingest.shedding`, and counts."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from threading import Condition
from typing import Final, NamedTuple

from pipeline.ingest import Datagram
from pipeline.ingest.shedding import FILL, REASONS, Precedence, precedence

_OF_NO_USE: Final = [0] * len(REASONS)  # limits of a closed queue: nothing is below them


class QueueCounters(NamedTuple):
    """Datagrams since the start, taken at one moment: given = accepted + the sum of `shed`."""

    accepted: int
    depth: int  # of these, queued now
    shed: dict[str, int]  # by `pipeline.ingest.shedding.REASONS`, all of them


class BatchQueue:
    """Batches of datagrams from any number of threads to any number of threads.

    While it is nearly empty nobody asks what a datagram is. Above that the newest of a class are shed: what is
    queued is the longer part of calls under way. Its bytes are bounded, too: as many datagrams of the largest
    size would be more than most machines have memory.
    """

    def __init__(self, max_datagrams: int = 200_000, max_bytes: int = 512 << 20) -> None:
        self._most_datagrams = [max(int(share * max_datagrams), 1) for share in FILL]
        self._most_bytes = [int(share * max_bytes) for share in FILL]
        self._batches: deque[tuple[Sequence[Datagram], int]] = deque()  # with its bytes
        self._changed = Condition()
        self._depth = 0
        self._bytes = 0
        self._accepted = 0
        self._shed = [0] * len(REASONS)
        self._closed = False

    def put_batch(self, batch: Sequence[Datagram]) -> int:
        """Queue what there is room for, in order, without ever waiting; gives how many that were."""
        size = sum([len(datagram.data) for datagram in batch])
        ranks = self._ranks(batch, size)  # before the lock is taken: it takes as long as the batch is
        with self._changed:
            ranks = ranks or self._ranks(batch, size)  # others may have been quicker
            if ranks:
                batch, size = self._admitted(batch, ranks)
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
            self._most_datagrams = _OF_NO_USE
            self._changed.notify_all()

    @property
    def closed(self) -> bool:
        """Closed, though perhaps not drained."""
        return self._closed

    @property
    def depth(self) -> int:
        """Datagrams queued now."""
        return self._depth

    def counters(self) -> QueueCounters:
        """What became of all that was given."""
        with self._changed:
            return QueueCounters(self._accepted, self._depth, dict(zip(REASONS, self._shed, strict=True)))

    def _ranks(self, batch: Sequence[Datagram], size: int) -> list[Precedence] | None:
        """What each datagram is; None when there is room for all, whatever they are."""
        if self._depth + len(batch) <= self._most_datagrams[0] and self._bytes + size <= self._most_bytes[0]:
            return None
        return [precedence(datagram.data) for datagram in batch]

    def _admitted(
        self, batch: Sequence[Datagram], ranks: Sequence[Precedence]
    ) -> tuple[Sequence[Datagram], int]:
        """Those for which there is room, and their bytes; the others are counted."""
        depth, held, admitted = self._depth, self._bytes, []
        for datagram, rank in zip(batch, ranks, strict=True):
            size = len(datagram.data)
            if depth < self._most_datagrams[rank] and held + size <= self._most_bytes[rank]:
                admitted.append(datagram)
                depth += 1
                held += size
            else:
                self._shed[rank] += 1
        return admitted, held - self._bytes
