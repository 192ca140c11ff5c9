"""Taking in what is new: CDRs, RTCP reports, SIP calls, in whatever order they come.

The rule for late facts: what is known of one call of the CDRs, or of one leg of the reports, is a unit; whenever a
fact about it arrives (another CDR row, another report, the codec from SIP, a CDR that says which call the leg is
of) the whole unit is made again from all its facts and written with a higher revision, and the newest revision
counts. So the result is the same in any order, and doing the same work twice changes nothing: after a crash the
pass that was cut short is simply done again.

The work of a pass depends on what is new and not on what is stored. Nothing here is on the way of a call or of a
finding: it reads what is committed, beside the writer.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import duckdb
import structlog

from pipeline.errors import StoreError
from pipeline.instants import EPOCH
from pipeline.quality import cdr_calls, cdr_groups, facts, leg_table
from pipeline.quality.hep_book import HepBook, place_legs, rate_legs
from pipeline.quality.rating import Row, nothing_left
from pipeline.quality.settings import QualitySettings
from pipeline.quality.sip_of_legs import SsrcBook, codecs_of
from pipeline.store.commits import Span, newest, parts
from pipeline.store.writer import Writer

_TABLES: Final = ("sip", "rtcp", "call_state", "cdr", "cdr_leg")
_MARK: Final = timedelta(minutes=1)  # a pass that found nothing is noted that often
_RTCP_ROWS: Final = 100_000  # at once
_CDR_ROWS: Final = 10_000
_NAMES: Final = 200_000  # of legs that are tied, before reports are looked at again

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Refreshed:
    """What a pass did."""

    cdr_rows: int = 0
    calls: int = 0
    reports: int = 0
    legs: int = 0  # rows of leg_quality

    def __bool__(self) -> bool:
        return bool(self.cdr_rows or self.calls or self.reports or self.legs)


@dataclass(slots=True)
class _Batch:
    """Rows on their way to the store."""

    legs: list[Row] = field(default_factory=list)
    calls: list[Row] = field(default_factory=list)
    ties: list[Row] = field(default_factory=list)


class Refresher:
    """Keeps `leg_quality`, `cdr_call` and `call_leg` up to date in the store of `writer`.

    `run` is one pass; from any thread, one at a time. It raises StoreError or duckdb.Error when the store cannot
    be read or written: nothing is lost then, the next pass does it again.
    """

    def __init__(self, writer: Writer, settings: QualitySettings | None = None) -> None:
        self._writer = writer
        self._settings = settings or QualitySettings()
        self._book = HepBook(self._settings)
        self._position: dict[str, datetime | None] | None = None
        self._marked_at = EPOCH
        self._cold = True
        self._present: dict[str, set[str]] = {}  # source -> columns of media that it has
        self._revision = 0
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have a running pass end at its next commit, with StoreError; what it did not finish is done again."""
        self._stopping.set()

    def run(self) -> Refreshed:
        """Take in all that is committed by now."""
        with self._lock, self._writer.cursor() as cursor:
            cursor.execute("USE lake")
            if self._position is None:
                self._recall(cursor)
            try:
                return self._pass(cursor)
            except BaseException:
                self._book.clear()
                self._position, self._cold, self._present = None, True, {}
                raise

    def _recall(self, cursor: duckdb.DuckDBPyConnection) -> None:
        mark = facts.last_mark(cursor, self._writer.node)
        known = json.loads(mark["position"]) if mark else {}
        self._position = {table: _time(known.get(table), mark) for table in _TABLES}
        self._cold = mark is not None
        self._marked_at = mark["updated_at"] if mark else EPOCH

    def _pass(self, cursor: duckdb.DuckDBPyConnection) -> Refreshed:
        assert self._position is not None
        new = {table: Span(self._position[table], to) for table, to in newest(cursor, _TABLES).items()}
        if all(span.is_empty for span in new.values()):
            return Refreshed()
        done = Refreshed()
        self._revision = max(self._revision + 1, time.time_ns() // 1000)
        tied = self._take_x_cid(cursor, new["sip"]) if self._settings.tie_x_cid else set()
        unnamed = self._take_reports(cursor, new["rtcp"], done)
        names, roots, leg_roots = self._late_codecs(cursor, new["call_state"])
        tied |= names
        self._take_cdrs(cursor, new["cdr"], roots | unnamed, tied, done)
        self._take_leg_table(cursor, new["cdr_leg"], leg_roots, tied, done)
        self._tie_again(cursor, tied, done)
        if done or datetime.now(UTC) - self._marked_at > _MARK:
            self._remember(new)
        self._position = {table: span.to for table, span in new.items()}
        return done

    # -- the parts of a pass -----------------------------------------------------------------------------

    def _take_x_cid(self, cursor: duckdb.DuckDBPyConnection, new: Span) -> set[str]:
        ties = []
        for row in facts.x_cid_ties(cursor, new):
            call_id = row.pop("call_id")
            tie = {"name": call_id, "kind": "call-id", "leg": "b", "leg_call_id": call_id, "tied_by": "x-cid"}
            own = {"call_id": row.pop("x_cid"), "unit": f"x-cid/{call_id}", "revision": self._revision}
            ties.append(tie | own | row)
        self._write(_Batch(ties=ties))
        return {tie["name"] for tie in ties}

    def _take_reports(self, cursor: duckdb.DuckDBPyConnection, new: Span, done: Refreshed) -> set[str]:
        """Returns the roots of calls of CDRs that these reports may bring the Call-ID of a leg for."""
        unnamed: set[str] = set()
        for part in parts(cursor, "rtcp", new, _RTCP_ROWS):
            packets = facts.new_packets(cursor, part)
            legs = self._book.take(cursor, packets, cold=self._cold)
            rows = rate_legs(place_legs(cursor, legs), self._settings, self._revision)
            self._write(_Batch(legs=rows))
            done.reports += len(packets)
            done.legs += len(rows)
            if ssrcs := {row["remote_ssrc"] for row in rows if row["remote_ssrc"]}:
                since = min(row["ts"] for row in rows) - facts.SLACK
                until = max(row["end_ts"] for row in rows) + facts.SLACK
                unnamed |= {_root_of(unit) for unit in facts.unnamed_legs(cursor, ssrcs, since, until)}
        self._cold = False
        return unnamed

    def _late_codecs(
        self, cursor: duckdb.DuckDBPyConnection, new: Span
    ) -> tuple[set[str], set[str], set[str]]:
        """What was rated without a codec and can be rated with one now: names of legs of reports, roots of calls
        of CDRs, roots of the table of legs."""
        found: dict[str, set[str]] = {"hep": set(), "cdr": set(), "legs": set()}
        call_ids = [] if new.is_empty else facts.changed_calls(cursor, new)
        for row in facts.without_codec(cursor, call_ids) if call_ids else []:
            kind = row["unit"].partition("/")[0]
            found[kind].add(row["leg_name"] if kind == "hep" else _root_of(row["unit"]))
        return found["hep"], found["cdr"], found["legs"]

    def _take_cdrs(
        self, cursor: duckdb.DuckDBPyConnection, new: Span, roots: set[str], tied: set[str], done: Refreshed
    ) -> None:
        """`tied` gets the names of legs that are known to be of a call now."""
        if new.is_empty and not roots:
            return
        if new.after is not None:
            self._present = self._present or facts.present_columns(cursor, new.after)
        for part in parts(cursor, "cdr", new, _CDR_ROWS):
            rows = facts.new_cdrs(cursor, "cdr", part)
            done.cdr_rows += len(rows)
            roots |= self._new_columns(cursor, rows)
            alone = part == Span(None, new.to)  # there are no others that they could belong to
            tied |= self._write_calls(cursor, rows, set(), done, alone=alone)
            self._tie_again(cursor, tied, done, least=_NAMES)
        if roots:
            tied |= self._write_calls(cursor, [], roots, done, alone=False)

    def _new_columns(self, cursor: duckdb.DuckDBPyConnection, rows: list[Row]) -> set[str]:
        """A column that holds something for the first time exists: earlier rows of its source lack it, then. The
        roots of their calls."""
        roots: set[str] = set()
        for source in {row["source"] for row in rows}:
            known = self._present.setdefault(source, set())
            found = cdr_calls.present_columns(row for row in rows if row["source"] == source)
            if not found <= known:
                roots |= {_root_of(unit) for unit in facts.units_of(cursor, source)}
                known |= found
        return roots

    def _write_calls(
        self,
        cursor: duckdb.DuckDBPyConnection,
        rows: list[Row],
        roots: set[str],
        done: Refreshed,
        *,
        alone: bool,
    ) -> set[str]:
        due = {(row["source"], row["source_row"]) for row in rows}
        members = {(row["source"], row["source_row"]): row for row in rows}
        known = -1
        while not alone and known < len(members):  # a call may have been handed on more than once
            known = len(members)
            for row in facts.cdrs_beside(cursor, list(members.values()), roots):
                members.setdefault((row["source"], row["source_row"]), row)
        groups = [
            group
            for group in cdr_groups.gather(members.values())
            if group.root in roots or any((row["source"], row["source_row"]) in due for row in group.rows)
        ]
        if not groups:
            return set()
        codecs = codecs_of(cursor, [row for group in groups for row in group.rows], ("call_id", "call_id_b"))
        by_ssrc = SsrcBook(cursor, groups)
        codecs |= codecs_of(cursor, by_ssrc.found, ("leg_call_id",))
        batch = _Batch()
        for group in groups:
            call = cdr_calls.assess_call(
                group,
                self._present.get(group.source, set()),
                codecs,
                by_ssrc.of(group),
                self._settings,
                self._revision,
            )
            batch.calls.append(call.call)
            batch.ties += call.ties
            batch.legs += call.legs
            if not call.legs and not all((row["source"], row["source_row"]) in due for row in group.rows):
                batch.legs.append(nothing_left(group.unit, self._revision))
        stale = facts.written_units(cursor, {unit for group in groups for unit in group.stale_units})
        gone = [nothing_left(unit, self._revision) for unit in stale]
        self._write(_Batch(batch.legs + gone, batch.calls + gone, batch.ties + gone))
        done.calls += len(batch.calls)
        done.legs += len(batch.legs)
        return {tie["name"] for tie in batch.ties}

    def _take_leg_table(
        self, cursor: duckdb.DuckDBPyConnection, new: Span, roots: set[str], tied: set[str], done: Refreshed
    ) -> None:
        if new.is_empty and not roots:
            return
        for part in [*parts(cursor, "cdr_leg", new, _CDR_ROWS), None]:
            rows = facts.new_cdrs(cursor, "cdr_leg", part) if part else []
            due = {(r["source"], r["linkedid"] or r["uniqueid"] or r["source_row"]) for r in rows}
            wanted = {root for _, root in due} if part else roots
            groups = leg_table.gather(facts.legs_beside(cursor, wanted)) if wanted else []
            codecs = codecs_of(cursor, [row for group in groups for row in group.rows], ("call_id",))
            batch = _Batch()
            for group in groups:
                ties, legs = leg_table.assess_legs(group, codecs, self._settings, self._revision)
                batch.ties += ties
                batch.legs += legs
            self._write(batch)
            done.cdr_rows += len(rows)
            done.legs += len(batch.legs)
            tied |= {tie["name"] for tie in batch.ties}
            self._tie_again(cursor, tied, done, least=_NAMES)

    def _tie_again(
        self, cursor: duckdb.DuckDBPyConnection, names: set[str], done: Refreshed, *, least: int = 1
    ) -> None:
        """Legs of reports whose call, or codec, is known only now, if these are at least so many; forgets them."""
        if len(names) < least:
            return
        if facts.any_reports(cursor):
            wanted = names | {name[: facts.CUT_CALL_ID] for name in names}
            legs = self._book.again(cursor, wanted)
            self._revision += 1
            rows = rate_legs(place_legs(cursor, legs), self._settings, self._revision)
            self._write(_Batch(legs=rows))
            done.legs += len(rows)
        names.clear()

    # -- to the store ------------------------------------------------------------------------------------

    def _write(self, batch: _Batch) -> None:
        """Commit, so that the next part of the pass reads it."""
        if self._stopping.is_set():
            raise StoreError("stopped")
        futures = [
            self._append(table, rows)
            for table, rows in (
                ("leg_quality", batch.legs),
                ("cdr_call", batch.calls),
                ("call_leg", batch.ties),
            )
            if rows
        ]
        if futures:
            self._writer.flush()
            for future in futures:
                future.result()

    def _append(self, table: str, rows: Sequence[dict[str, Any]]) -> Future[None]:
        return self._writer.append(table, rows)

    def _remember(self, new: Mapping[str, Span]) -> None:
        moment = datetime.now(UTC)
        position = {table: span.to.isoformat() for table, span in new.items()}
        row = {"node": self._writer.node, "position": position, "updated_at": moment}
        future = self._writer.append("quality_mark", [row])
        self._writer.flush()
        future.result()
        self._marked_at = moment


def _root_of(unit: str) -> str:
    """`cdr/SOURCE/ROOT` -> `ROOT`; neither a source's name nor a uniqueid has a slash."""
    return unit.rpartition("/")[2]


def _time(text: Any, mark: Row | None) -> datetime | None:
    """A noted position; what older versions noted was as of the mark's own time."""
    if mark is None:
        return None
    if isinstance(text, str):
        return datetime.fromisoformat(text)
    noted: datetime = mark["updated_at"]
    return noted
