"""Settings of the store that a configuration may set; the defaults fit a tap on a small machine."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WriterSettings:
    """How the writer batches, and what it may use.

    A flush happens every `flush_interval_s`, or as soon as `flush_rows` rows wait. The queue holds at most
    `queue_rows` rows and `queue_bytes`; what does not fit is refused, never dropped behind the caller's back.
    """

    flush_interval_s: float = 1.0
    flush_rows: int = 20_000
    queue_rows: int = 400_000
    queue_bytes: int = 512 * 1024 * 1024
    retry_wait_s: float = 0.2
    retry_wait_max_s: float = 5.0
    memory_limit: str = "1GB"
    threads: int = 2
    serve_readers: bool = True
