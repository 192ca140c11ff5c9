"""Settings of the store's writer; the defaults fit a tap on a small machine."""

from __future__ import annotations

from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from pipeline.durations import Duration


class WriterSettings(BaseModel):
    """How the writer batches, and what it may use.

    What does not fit into the queue is refused, never dropped behind the caller's back.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    flush_interval: Duration = Field(
        timedelta(seconds=1), description="commit at most this often, unless many rows wait"
    )
    flush_rows: int = Field(20_000, ge=1, description="commit at once when this many rows wait")
    queue_rows: int = Field(400_000, ge=1, description="most rows that may wait")
    queue_bytes: int = Field(512 * 1024 * 1024, ge=1, description="most bytes that may wait")
    retry_wait: Duration = Field(
        timedelta(milliseconds=200), description="wait after a failed flush; doubles up to retry_wait_max"
    )
    retry_wait_max: Duration = Field(timedelta(seconds=5), description="longest wait after a failed flush")
    memory_limit: str = Field("1GB", description="most memory that DuckDB takes in the tap")
    threads: int = Field(2, ge=1, description="threads of DuckDB in the tap")
    serve_readers: bool = Field(True, description="let other processes read live, on loopback")
