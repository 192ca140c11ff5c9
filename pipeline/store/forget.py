"""Erasing a person from a store: every row about a number or an address of record, and every row of the calls that
they took part in; in the tables, in the files, in older snapshots, in the catalog and in the action ledger.

Rows that others depend on go last, so that what was cut off is done in full by doing it again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import duckdb

from pipeline.errors import StoreError
from pipeline.store import upkeep
from pipeline.store.duck import quoted
from pipeline.store.files import delete_rows, in_bites, live_files
from pipeline.store.paths import StorePaths
from pipeline.store.person import Person
from pipeline.store.writer import Writer

_CUT: Final = 127  # Asterisk cuts correlation ids of RTCP there


@dataclass(frozen=True, slots=True)
class _Traces:
    """Where a table names people, and what ties its rows to those of other tables."""

    at: Mapping[str, str] = field(default_factory=dict)  # columns of users -> of their domains
    users: Sequence[str] = ()  # columns of users, in tables without domains
    texts: Sequence[str] = ()
    json: Sequence[str] = ()
    names: Sequence[str] = ()
    calls: Sequence[str] = ()  # columns of Call-IDs
    cdrs: Sequence[str] = ()  # columns of linkedid and uniqueid: what ties the rows of one call of the CDRs
    units: Sequence[str] = ()  # of what is written as a whole, again and again

    def about(self, person: Person) -> list[str]:
        """Conditions: the row names the person."""
        return [
            *(person.is_at(user, host) for user, host in self.at.items()),
            *map(person.is_user, self.users),
            *map(person.in_text, self.texts),
            *map(person.in_json, self.json),
            *map(person.in_name, self.names),
        ]


# In the order in which they are erased: what leads to other rows comes after those.
TRACES: Final = {
    "rtcp": _Traces(names=("correlation_id",), calls=("correlation_id",)),
    "log": _Traces(texts=("payload",), calls=("correlation_id",)),
    "weird": _Traces(texts=("detail", "head")),
    "quality_hour_state": _Traces(names=("trunk",)),
    "leg_quality_state": _Traces(
        names=("endpoint", "leg_name"), calls=("call_id", "leg_call_id"), units=("unit",)
    ),
    "call_leg_state": _Traces(
        names=("name", "endpoint"),
        calls=("CASE WHEN kind = 'call-id' THEN name END", "call_id", "leg_call_id"),
        units=("unit",),
    ),
    "cdr_call_state": _Traces(
        users=("src", "dst", "accountcode"),
        names=("clid", "channel", "dst_channel", "trunk"),
        calls=("call_id", "call_id_b"),
        cdrs=("linkedid",),
        units=("unit",),
    ),
    "cdr_leg": _Traces(
        json=("extra",), names=("channel",), calls=("call_id", "call_id_a"), cdrs=("linkedid", "uniqueid")
    ),
    "cdr": _Traces(
        users=("src", "dst", "accountcode", "peeraccount", "userfield"),
        json=("extra",),
        names=("clid", "channel", "dst_channel", "last_data"),
        calls=("call_id", "call_id_b"),
        cdrs=("linkedid", "uniqueid"),
    ),
    "finding": _Traces(texts=("aor", "target", "identifier"), json=("evidence",), calls=("call_id",)),
    "action_attempt": _Traces(texts=("device", "target", "detail"), calls=("call_id",)),
    "registration": _Traces(texts=("aor", "device", "contact"), calls=("call_id",)),
    "call_state": _Traces(at={"from_user": "from_host", "to_user": "to_host"}, calls=("call_id",)),
    "sip": _Traces(
        at={"from_user": "from_host", "to_user": "to_host", "ruri_user": "ruri_host"},
        texts=("contact", "payload"),
        calls=("call_id", "correlation_id", "x_cid"),
    ),
}

_LEDGER: Final = "ledger.sqlite"


@dataclass(slots=True)
class Forgotten:
    """Rows that went, or would, by table; those of the action ledger under the name of its file."""

    name: str
    rows: dict[str, int] = field(default_factory=dict)


def out_of_reach(
    paths: StorePaths, spool: Path, report_dir: Path | None, cdr_sources: Sequence[str]
) -> list[str]:
    """Where the person may still be after `forget`, in words: what the store does not know of, or did not make."""
    told = [
        "backups (they are stores: forget in each with --store)",
        "recordings, exports and captures that were imported (delete the files)",
        "logs",
    ]
    for folder, what in (
        (paths.refused, "rows that could not be stored"),
        (spool, "what waits to be stored"),
    ):
        files = [file for file in folder.rglob("*") if file.is_file()] if folder.is_dir() else []
        if files:
            told.append(f"{what}: {len(files)} files in {folder}")
    if report_dir is not None:
        told.append(f"daily reports in {report_dir}")
    if cdr_sources:
        named = ", ".join(cdr_sources)
        told.append(f"the sources of CDRs ({named}): erase there first, or rows may be read again")
    return told


def forget(writer: Writer, text: str, *, dry_run: bool = False) -> Forgotten:
    """Erase whom `text` names; `dry_run` counts only.

    Reads every message, and keeps other upkeep waiting, but not ingest. Raises ConfigError for what is neither number
    nor address, StoreError or duckdb.Error when it is cut off: then do it again.
    """
    person = Person.of(text)
    done = Forgotten(person.name)
    with writer.tending() as cursor:
        calls = _calls_of(cursor, person)
        for table, traces in TRACES.items():
            found = _find(cursor, table, traces, person)
            if found:
                done.rows[table] = found if dry_run else _erase(writer, cursor, table)
        in_ledger = _ledger(writer.paths, person, calls, dry_run=dry_run)
        if in_ledger:
            done.rows[_LEDGER] = in_ledger
        if dry_run:
            return done
        upkeep.expire(cursor, timedelta(0))
        upkeep.clean_up(cursor, timedelta(0))
    if done.rows:
        writer.renew_catalog()  # least and greatest values of each file stand there
    return done


# -- finding ---------------------------------------------------------------------------------------------


def _calls_of(cursor: duckdb.DuckDBPyConnection, person: Person) -> list[str]:
    """Fill the temporary tables `forgotten_call`, `_cdr`, `_unit`: what ties rows to those that name the person."""
    for kind in ("call", "cdr", "unit"):
        cursor.execute(f"CREATE OR REPLACE TEMP TABLE forgotten_{kind} (id VARCHAR PRIMARY KEY)")
    for table, traces in TRACES.items():
        if about := traces.about(person):
            _note(cursor, table, traces, " OR ".join(about))
    noted = -1
    while noted < (noted := _count_noted(cursor)):  # leg B's Call-ID leads to leg A's, and so on
        for table, traces in TRACES.items():
            if len(traces.calls) + len(traces.cdrs) > 1 and (tied := _tied(traces)):
                _note(cursor, table, traces, tied)
    found = cursor.execute("SELECT id FROM forgotten_call").fetchall()
    return [str(call_id) for (call_id,) in found]


def _note(cursor: duckdb.DuckDBPyConnection, table: str, traces: _Traces, condition: str) -> None:
    """Note what the rows that meet the condition are tied to, in one look at the table."""
    kinds = {"call": traces.calls, "cdr": traces.cdrs, "unit": traces.units}
    ties = [f"[{', '.join(columns) or 'NULL::VARCHAR'}] AS {kind}" for kind, columns in kinds.items()]
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE noted AS SELECT DISTINCT {', '.join(ties)} FROM {table} WHERE {condition}"
    )
    for kind in kinds:
        cursor.execute(f"""
            INSERT OR IGNORE INTO forgotten_{kind}
            SELECT DISTINCT id FROM (SELECT unnest({kind}) AS id FROM noted) WHERE id <> ''""")


def _count_noted(cursor: duckdb.DuckDBPyConnection) -> int:
    row = cursor.execute("""
        SELECT (SELECT count(*) FROM forgotten_call) + (SELECT count(*) FROM forgotten_cdr)
            + (SELECT count(*) FROM forgotten_unit)""").fetchone()
    return int(row[0]) if row else 0


def _tied(traces: _Traces) -> str:
    """The condition: the row is tied to one that names the person."""
    calls = f"SELECT id FROM forgotten_call UNION SELECT left(id, {_CUT}) FROM forgotten_call"
    known = (
        (traces.calls, calls),
        (traces.cdrs, "SELECT id FROM forgotten_cdr"),
        (traces.units, "SELECT id FROM forgotten_unit"),
    )
    return " OR ".join(f"{column} IN ({ids})" for columns, ids in known for column in columns)


def _find(cursor: duckdb.DuckDBPyConnection, table: str, traces: _Traces, person: Person) -> int:
    """Fill the temporary table `forgotten_row` of `table`; how many."""
    conditions = [*traces.about(person), _tied(traces)]
    where = " OR ".join(f"({condition})" for condition in conditions if condition)
    cursor.execute(
        f"CREATE OR REPLACE TEMP TABLE forgotten_row AS SELECT filename, rowid AS row_id FROM {table} WHERE {where}"
    )
    row = cursor.execute("SELECT count(*) FROM forgotten_row").fetchone()
    return int(row[0]) if row else 0


# -- erasing ---------------------------------------------------------------------------------------------


def _erase(writer: Writer, cursor: duckdb.DuckDBPyConnection, table: str) -> int:
    """Delete the rows that `_find` found, and write their files again without them."""
    found = cursor.execute("SELECT DISTINCT filename FROM forgotten_row").fetchall()
    names = {str(name) for (name,) in found}
    files = [file for file in live_files(cursor, writer.paths, table) if str(file.path) in names]
    rows = 0
    for bite in in_bites(files):
        listed = ", ".join(quoted(file.path) for file in bite)
        if writer.stopping:
            raise StoreError("the tap stopped before all was erased: do it again")
        with writer.between_commits():
            rows += delete_rows(
                cursor,
                writer.paths,
                bite,
                f"rowid IN (SELECT row_id FROM forgotten_row WHERE filename IN ({listed}))",
            )
    upkeep.rewrite(cursor, writer.paths, table)
    return rows


def _ledger(paths: StorePaths, person: Person, calls: Iterable[str], *, dry_run: bool) -> int:
    """Forget attempts that have ended; their bytes are overwritten."""
    if not paths.ledger.exists():
        return 0
    with (
        closing(sqlite3.connect(paths.ledger, timeout=10, isolation_level=None)) as ledger,
        duckdb.connect() as db,
    ):
        ended = ledger.execute(
            "SELECT attempt_id, call_id, device, aor, detail FROM attempt WHERE ended_at_us IS NOT NULL"
        ).fetchall()
        db.execute(
            "CREATE TABLE attempt (attempt_id VARCHAR, call_id VARCHAR, device VARCHAR, aor VARCHAR, detail VARCHAR)"
        )
        if ended:
            db.executemany("INSERT INTO attempt VALUES (?, ?, ?, ?, ?)", ended)
        about = " OR ".join(map(person.in_text, ("device", "aor", "detail")))
        found: list[tuple[Any, ...]] = db.execute(
            f"SELECT attempt_id FROM attempt WHERE {about} OR list_contains(?, call_id)", [list(calls)]
        ).fetchall()
        if found and not dry_run:
            ledger.execute("PRAGMA secure_delete = ON")
            ledger.executemany("DELETE FROM attempt WHERE attempt_id = ?", found)
            ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return len(found)
