"""Settings of the store: how it is written, and what is kept. The defaults fit a tap on a small machine."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from pipeline.durations import Duration

_UNITS = {"MB": 10**6, "GB": 10**9, "TB": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(MB|GB|TB|%)", re.ASCII)


def _known_size(text: str) -> str:
    if _SIZE.fullmatch(text) is None:
        raise ValueError(f'{text!r} is no size; write for example "50GB", or "80%" of the disk')
    return text


Size = Annotated[str, AfterValidator(_known_size)]
"""A settings field that holds a size, `"50GB"`, or a share of the disk, `"80%"`."""


def to_bytes(size: str, disk_bytes: int) -> int:
    """A `Size` in bytes, on a disk of that size."""
    found = _SIZE.fullmatch(size)
    assert found is not None
    return round(float(found[1]) * (disk_bytes / 100 if found[2] == "%" else _UNITS[found[2]]))


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
    spool_dir: Path | None = Field(
        None, description="where batches wait that the store does not take: best on another disk"
    )
    spool_bytes: int = Field(
        1024 * 1024 * 1024, ge=0, description="most bytes that may wait on disk; 0: none are put there"
    )
    spool_after: Duration = Field(
        timedelta(seconds=5), description="a store that does not write for that long is spooled for"
    )
    memory_limit: str = Field("1GB", description="most memory that DuckDB takes in the tap")
    threads: int = Field(2, ge=1, description="threads of DuckDB in the tap")
    serve_readers: bool = Field(True, description="let other processes read live, on loopback")


class UpkeepSettings(BaseModel):
    """How often the running tap does what about its store: a part of `[store]`."""

    merge_interval: Duration = Field(timedelta(minutes=1), description='join small files; "0s": never')
    prune_interval: Duration = Field(timedelta(hours=1), description='see [store.retention]; "0s": never')
    count_interval: Duration = Field(timedelta(minutes=1), description='messages by minute; "0s": never')
    rate_interval: Duration = Field(timedelta(minutes=5), description='quality by hour; "0s": never')
    check_interval: Duration = Field(timedelta(days=1), description='is the store whole? "0s": never asked')


_MESSAGES = timedelta(days=14)
_FACTS = timedelta(days=400)


class RetentionSettings(BaseModel):
    """Settings `[store.retention]`: how long rows stay after they came; "0s" keeps them for ever.

    A file goes when its newest row is old enough, so that rows may stay a day longer than this.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    sip: Duration = Field(_MESSAGES, description="SIP messages")
    rtcp: Duration = Field(_MESSAGES, description="RTCP reports")
    log: Duration = Field(_MESSAGES, description="log lines of agents")
    weird: Duration = Field(_MESSAGES, description="what could not be decoded")
    call: Duration = Field(_FACTS, description="calls, one row each")
    registration: Duration = Field(_FACTS, description="changes of bindings")
    cdr: Duration = Field(_FACTS, description="CDRs, and the calls that they make up")
    quality: Duration = Field(_FACTS, description="voice quality of legs")
    finding: Duration = Field(_FACTS, description="findings")
    action: Duration = Field(_FACTS, description="attempts of actions")
    counts: Duration = Field(_FACTS, description="counts by minute, quality by hour")
    max_size: Size = Field(
        "80%",
        description="of all files, or of the disk: beyond it the oldest messages go, whatever their age",
    )

    def by_table(self) -> dict[str, timedelta]:
        """Table -> how long its rows stay; tables that are not named keep theirs."""
        of_tables = (
            (self.sip, "sip imported_file"),
            (self.rtcp, "rtcp"),
            (self.log, "log"),
            (self.weird, "weird"),
            (self.call, "call_state"),
            (self.registration, "registration"),
            (self.cdr, "cdr cdr_leg cdr_call_state call_leg_state"),
            (self.quality, "leg_quality_state"),
            (self.finding, "finding"),
            (self.action, "action_attempt"),
            (self.counts, "ingest_minute sip_minute quality_hour_state"),
        )
        return {table: age for age, names in of_tables if age for table in names.split()}
