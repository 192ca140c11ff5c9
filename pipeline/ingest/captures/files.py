"""Captures (pcap, pcapng) and recordings (.hep), told apart by their first bytes: both give HEP datagrams."""

from __future__ import annotations

from os import PathLike
from pathlib import Path

from pipeline.errors import CaptureError
from pipeline.ingest.captures.capture import Capture
from pipeline.ingest.captures.counts import OnWeird
from pipeline.ingest.captures.packets import PCAP_MAGICS, PCAPNG_MAGIC
from pipeline.ingest.recordings import MAGIC, Recording
from pipeline.ingest.unpack import blocks


def open_capture(path: str | PathLike[str], on_weird: OnWeird | None = None) -> Capture | Recording:
    """What is in a file, as datagrams; gzip and zstd are unpacked. Raises CaptureError when it is neither.

    `on_weird` is told what a pcap holds of messages that cannot be put together.
    """
    path = Path(path)
    start = next(blocks(path), b"")
    if start[: len(MAGIC)] == MAGIC:
        return Recording(path)
    if start[:4] in PCAP_MAGICS or start[:4] == PCAPNG_MAGIC:
        return Capture(path, on_weird)
    what = f"it starts with {start[:8]!r}" if start else "it is empty"
    raise CaptureError(f"{path} is no recording, pcap or pcapng: {what}")


def begins_us(path: str | PathLike[str]) -> int:
    """The time of the first packet or record in microseconds, to put files in order; 0 where there is none.

    Raises CaptureError.
    """
    source = open_capture(path)
    if isinstance(source, Recording):
        first = next(source, None)
        return first.arrival_us if first else 0
    return source.first_packet_us()
