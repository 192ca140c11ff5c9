"""Captures and recordings into the store, at their own time: the same decoding and the same detectors as live, but
nothing ever acts.

A file is stored whole or not at all, and once: its content's hash is committed with its last message. Its rows
carry a node of their own, so a tap that restarts never takes what was imported for what it heard itself, and its
findings never reach the rules. Messages that are in two files, or in a file and on the tap, are stored twice: that
two captures show the same packet is a fact about both.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from pipeline.assemble import detectors_of
from pipeline.decode import WEIRD_HEAD_BYTES, Decoder
from pipeline.engine.commands import Finding
from pipeline.engine.engine import Engine
from pipeline.engine.rows import call_row, finding_row, registration_row
from pipeline.errors import CaptureError, StoreError
from pipeline.ingest import Datagram
from pipeline.ingest.captures.capture import Capture
from pipeline.ingest.captures.counts import CaptureCounts, Weird
from pipeline.ingest.captures.files import open_capture
from pipeline.ingest.recordings import Recording
from pipeline.ingest.unpack import Content, content_of
from pipeline.instants import at, now_us
from pipeline.protocols.redact import Redactor
from pipeline.quality.refresh import Refresher
from pipeline.recall import recall
from pipeline.settings import Settings
from pipeline.store.bulk import Load, TakenIds, stored_rows
from pipeline.store.paths import StorePaths, writer_runs
from pipeline.store.schema import layout
from pipeline.store.writer import Writer

ROWS_AT_ONCE: Final = 10_000
_PROGRESS_EVERY: Final = 500  # messages
_MERGE_BELOW_BYTES: Final = 16 << 20
_STEP_BACK_US: Final = 60_000_000
_UTC_US: Final = pa.timestamp("us", "UTC")
_FINDINGS_KNOWN: Final = timedelta(days=1)  # before the file begins

Progress = Callable[[int, int], object]
"""Told now and then: bytes read, bytes there are."""


@dataclass(slots=True)
class Imported:
    """What became of one file. All adds up:

    `counts.packets == counts.carriers + ignored + weird packets`, and
    `messages == stored.total() + weird_messages.total()`.
    """

    path: Path
    counts: CaptureCounts = field(default_factory=CaptureCounts)
    stored: Counter[str] = field(default_factory=Counter)  # messages by table: sip, rtcp, log
    messages: int = 0  # of the carriers, lost ones included
    weird_messages: Counter[str] = field(default_factory=Counter)
    findings: Counter[str] = field(default_factory=Counter)
    first_us: int | None = None
    last_us: int | None = None
    before: datetime | None = None  # when it was imported already: then nothing was done
    damage: str | None = None  # what is wrong with the file; what could be read of it is stored
    cut_short: bool = False  # and no more than that
    steps_back: bool = False  # its messages are not in order of time
    too_old: Counter[str] = field(
        default_factory=Counter
    )  # rows by table that `[store.retention]` would drop at once

    def as_json(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "file": str(self.path),
            "already_imported": self.before.isoformat() if self.before else None,
            "packets": self.counts.packets,
            "carriers": self.counts.carriers,
            "ignored": dict(self.counts.ignored),
            "weird_packets": dict(self.counts.weird),
            "messages": self.messages,
            "stored": dict(self.stored),
            "weird_messages": dict(self.weird_messages),
            "findings": dict(self.findings),
            "older_than_retention": dict(self.too_old),
            "damage": self.damage,
        }


class Importer:
    """Holds the store while files are imported. Raises StoreError when a tap, or anything else, writes to it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._node = f"{settings.node}/import"
        self._redactor = Redactor(settings.store.redact)
        detectors_of(settings)  # what is wrong with the configuration is said before the store is touched
        try:
            self._writer = Writer(settings.store.path, settings.node, settings.store.writer)
        except StoreError as error:
            if not writer_runs(StorePaths.of(settings.store.path)):
                raise
            raise StoreError(
                f"{error}: stop it first, import into another store (--store), or play the file at it with "
                "`hepduck send`"
            ) from error
        self._stored_any = False

    def import_file(self, path: Path, progress: Progress = lambda _read, _all: None) -> Imported:
        """Import one file, or say when that was done. Raises CaptureError for what is no capture, or when the
        beginning of it was imported before."""
        known = stored_rows(self._writer, "SELECT bytes, sha256, recorded_at FROM imported_file")
        content, begins = content_of(path, {size for size, _, _ in known})
        for size, sha256, when in known:
            if (size, sha256) == (content.bytes, content.sha256):
                return Imported(path, before=when)
            if begins.get(size) == sha256:
                raise CaptureError(
                    f"{path} has grown since it was imported at {when:%Y-%m-%d %H:%M:%S} UTC: those {size} bytes "
                    "are stored; import what is new as a file of its own"
                )
        with Load(self._writer, self._node, content.sha256[:16]) as load:
            run = _Run(self._settings, _Heard(self._node, self._writer), self._redactor, load, path)
            done = run.read(content, progress)
            load.add("imported_file", [_file_row(done, content, path)])
            load.commit()
        self._stored_any = True
        return done

    def close(self) -> None:
        """Bring quality up to date with what was imported, and let others write."""
        try:
            if self._stored_any:
                self._writer.merge(_MERGE_BELOW_BYTES)  # many small files slow readers
                if self._settings.quality.enabled:
                    Refresher(self._writer, self._settings.quality).run()
        finally:
            self._writer.stop()

    def __enter__(self) -> Importer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True, slots=True)
class _Heard:
    """The store as `recall` looks at it: with what was imported earlier, and not with what the tap heard."""

    node: str
    writer: Writer

    def cursor(self) -> duckdb.DuckDBPyConnection:
        return self.writer.cursor()


class _Run:
    """One file on its way in."""

    def __init__(
        self,
        settings: Settings,
        heard: _Heard,
        redactor: Redactor,
        load: Load,
        path: Path,
    ) -> None:
        self._settings = settings
        self._heard = heard
        self._node = heard.node
        self._redactor = redactor
        self._load = load
        self._engine = Engine(detectors_of(settings), settings.engine)
        self._decoder = Decoder(
            heard.node, self._engine.interest, is_taken=TakenIds(heard.writer), redactor=redactor
        )
        now = datetime.now(UTC)
        self._kept_since = {table: now - age for table, age in settings.store.retention.by_table().items()}
        self._known: set[str] = set()  # findings that are stored
        self._weird: list[dict[str, Any]] = []
        self._findings: list[dict[str, Any]] = []
        self._source: Capture | Recording = open_capture(path, self._take_weird)
        self._done = Imported(path, self._source.counts)

    def read(self, content: Content, progress: Progress) -> Imported:
        done, source = self._done, self._source
        for number, datagram in enumerate(source):
            self._take(datagram)
            if self._decoder.pending >= ROWS_AT_ONCE:
                self._hand_over()
            if number % _PROGRESS_EVERY == 0:
                progress(source.place, content.bytes)
        self._raised(self._engine.finish())
        self._hand_over()
        done.damage, done.cut_short = source.damage, source.cut_short
        done.weird_messages = self._decoder.counts.weird + source.counts.lost
        done.messages = source.counts.messages + self._decoder.counts.unpacked + source.counts.lost.total()
        return done

    def _take(self, datagram: Datagram) -> None:
        done, arrival_us = self._done, datagram.arrival_us
        if done.last_us is None:
            done.first_us = done.last_us = arrival_us
            self._remember(arrival_us)
        done.steps_back = done.steps_back or arrival_us < done.last_us - _STEP_BACK_US
        done.last_us = max(done.last_us, arrival_us)
        self._raised(self._engine.tick(arrival_us))
        self._raised(self._engine.handle(self._decoder.decode([datagram]), arrival_us))

    def _remember(self, first_us: int) -> None:
        """Calls that an earlier file begins and this one ends are one."""
        how, now = self._settings.engine, at(first_us)
        assert now is not None
        recall(self._engine, self._heard, now=now, lookback=how.recall, most=how.recall_messages, before=now)
        self._engine.state.changed_calls.clear()
        asked = "SELECT finding_id FROM finding WHERE ts >= ?"
        found = stored_rows(self._heard.writer, asked, [now - _FINDINGS_KNOWN])
        self._known = {finding_id for (finding_id,) in found}

    def _raised(self, findings: Iterable[Finding]) -> None:
        for finding in findings:
            if finding.finding_id in self._known:
                continue  # what is remembered raises it once more
            self._done.findings[finding.kind] += 1
            self._findings.append(finding_row(finding, self._node))

    def _take_weird(self, weird: Weird) -> None:
        head = self._redactor.text(weird.data[: 2 * WEIRD_HEAD_BYTES])[:WEIRD_HEAD_BYTES]
        ts = at(weird.ts_us)
        self._weird.append(
            {
                "ts": ts,
                "received_at": ts,
                "kind": weird.kind,
                "detail": weird.detail,
                "head": head,
                "bytes": len(weird.data),
            }
        )
        if len(self._weird) >= ROWS_AT_ONCE:
            self._hand_over()

    def _hand_over(self) -> None:
        for table, rows in self._decoder.take().items():
            self._add(table, rows)
            if table != "weird":
                self._done.stored[table] += rows.num_rows
        state, written_us = self._engine.state, now_us()
        calls = [call_row(call, self._node, written_us) for call in state.changed_calls.values()]
        registered = [registration_row(r, event, self._node) for r, event in state.registered]
        state.changed_calls.clear()
        state.registered.clear()
        small = {"call": calls, "registration": registered, "finding": self._findings, "weird": self._weird}
        for table, some in small.items():
            self._add(table, some)
        self._findings.clear()
        self._weird.clear()

    def _add(self, table: str, rows: pa.Table | list[dict[str, Any]]) -> None:
        self._load.add(table, rows)
        kept_since, column = self._kept_since.get(table), layout(table).age_column
        if kept_since is None:
            return
        if isinstance(rows, list):
            old = sum(row[column] < kept_since for row in rows if row.get(column) is not None)
        else:
            came = rows.column(column).cast(_UTC_US)
            old = pc.sum(pc.less(came, pa.scalar(kept_since, _UTC_US))).as_py() or 0
        if old:
            self._done.too_old[table] += old


def _file_row(done: Imported, content: Content, path: Path) -> dict[str, Any]:
    return {
        "name": path.name,
        "sha256": content.sha256,
        "bytes": content.bytes,
        "packets": done.counts.packets,
        "messages": done.stored.total(),
        "first_ts": at(done.first_us),
        "last_ts": at(done.last_us),
        "ignored": dict(done.counts.ignored),
        "weird": dict(done.counts.weird + done.weird_messages),
    }
