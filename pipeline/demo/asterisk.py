"""A quarter of an hour of a real Asterisk, as if it had ended just now: what it mirrored, and what it billed.

88 calls, through lines that were made bad on purpose: loss, delay, jitter, one-way audio. Times are moved, all
else is as it was recorded.
"""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Final

import zstandard

from pipeline.ingest.recordings import RecordingWriter, read_recording
from pipeline.ingest.restamp import restamp
from pipeline.instants import now_us

_FOLDER: Final = resources.files("pipeline.demo") / "recordings" / "asterisk"
_TIMES: Final = ("start", "answer", "end")
_ENDED_AGO_US: Final = 20_000_000


def write_header(cdrs: Path) -> None:
    """A CDR file without a row, as a switch has it that has billed nothing yet."""
    cdrs.write_text(_cdrs().partition("\n")[0] + "\n", encoding="utf-8")


def write_moved(heard: Path, cdrs: Path) -> int:
    """Write the recording, and append to the CDRs, both moved by the same length of time; returns the messages."""
    with resources.as_file(_FOLDER / "heard.hep.zst") as path:
        recorded = list(read_recording(path))
    first_us, last_us = recorded[0].arrival_us, recorded[-1].arrival_us
    begin_us = now_us() - (last_us - first_us) - _ENDED_AGO_US
    with RecordingWriter(heard) as writer:
        writer.write(list(restamp(recorded, begin_us)))
    with cdrs.open("a", encoding="utf-8") as file:
        file.write(_moved(_cdrs(), timedelta(microseconds=begin_us - first_us)))
    return len(recorded)


def _cdrs() -> str:
    return zstandard.ZstdDecompressor().decompress((_FOLDER / "cdr.csv.zst").read_bytes()).decode()


def _moved(text: str, later: timedelta) -> str:
    """The rows with times that much later; they are in UTC."""
    rows = csv.DictReader(io.StringIO(text))
    moved = io.StringIO()
    writer = csv.DictWriter(moved, list(rows.fieldnames or ()), quoting=csv.QUOTE_ALL, lineterminator="\n")
    for row in rows:
        for name in _TIMES:
            if row[name]:
                at = datetime.fromisoformat(row[name]).replace(tzinfo=UTC) + later
                row[name] = f"{at:%Y-%m-%d %H:%M:%S}"
        writer.writerow(row)
    return moved.getvalue()
