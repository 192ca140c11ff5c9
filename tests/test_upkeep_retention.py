"""What retention takes away, and what it must leave: rows by age, messages by size, states that were replaced."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from store_rows import QUIET, sip_rows
from upkeep_store import ask, empty_store

from pipeline.store import upkeep
from pipeline.store.files import live_files
from pipeline.store.lake import open_reader
from pipeline.store.retention import is_too_large, prune
from pipeline.store.schema import tables
from pipeline.store.settings import RetentionSettings, WriterSettings
from pipeline.store.writer import Writer

NOW = datetime.now(UTC)
KEPT = RetentionSettings(max_size="100%")
FOR_EVER = ("agent_state", "cdr_source_state", "quality_mark_state", "schema_version")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer(empty_store(tmp_path / "store"), "n1", QUIET) as made:
        yield made


def messages_of_days(writer: Writer, days: range, rows: int = 60) -> None:
    """`rows` messages for each of so many days ago, in two files a day."""
    for day in days:
        for half in range(2):
            first_id = 1 + rows * day + half * rows // 2
            writer.put("sip", sip_rows(rows // 2, first_id, NOW - timedelta(days=day, minutes=half)))
            writer.flush()


def files_of(writer: Writer, table: str = "sip") -> list[Path]:
    return sorted(writer.paths.table_folder(table).rglob("*.parquet"))


def test_every_table_has_an_age_or_is_kept_on_purpose() -> None:
    assert {*KEPT.by_table(), *FOR_EVER} == set(tables())


def test_messages_go_when_they_are_old_and_calls_stay(writer: Writer) -> None:
    messages_of_days(writer, range(10, 20))
    writer.append("call", [{"call_id": "a"}])
    writer.append("finding", [{"finding_id": "old", "ts": NOW - timedelta(days=200)}])
    writer.flush()
    left = [n for n in range(601, 1201) if (n - 1) // 60 < 14]  # days 10 to 13, and nothing of day 14
    dropped = prune(writer, KEPT)
    assert [(each.table, each.reason, each.rows, each.files) for each in dropped] == [
        ("sip", "age", 600 - len(left), 12)
    ]
    assert ask(writer, "SELECT msg_id FROM sip ORDER BY 1") == [(n,) for n in left]
    assert ask(writer, "SELECT count(*), min(msg_id), max(msg_id) FROM sip") == [(240, 601, 840)]
    assert ask(writer, "SELECT call_id FROM call") == [("a",)]
    assert ask(writer, "SELECT finding_id FROM finding") == [("old",)]
    assert prune(writer, KEPT) == []


def test_nothing_is_left_of_a_day_that_is_gone(writer: Writer) -> None:
    messages_of_days(writer, range(13, 16))
    prune(writer, KEPT)
    with writer.tending() as cursor:
        upkeep.expire(cursor, timedelta(0))
        upkeep.clean_up(cursor, timedelta(0))
    folders = list(writer.paths.files.rglob("day=*"))
    assert upkeep.clear_folders(writer.paths, timedelta(days=1)) == 0, "somebody may be about to write there"
    for folder in writer.paths.files.rglob("*=*"):
        os.utime(folder, (1e9, 1e9))
    assert upkeep.clear_folders(writer.paths, timedelta(days=1)) >= 2
    left = list(writer.paths.files.rglob("day=*"))
    assert len(left) < len(folders) and all(any(folder.iterdir()) for folder in left)
    messages_of_days(writer, range(13, 16))
    assert ask(writer, "SELECT count(*) FROM sip") == [(240,)]


def test_a_dry_run_tells_what_would_go_and_takes_nothing(writer: Writer) -> None:
    messages_of_days(writer, range(13, 16))
    told = prune(writer, KEPT, dry_run=True)
    assert [(each.table, each.rows) for each in told] == [("sip", 120)]
    assert ask(writer, "SELECT count(*) FROM sip") == [(180,)]
    going = [file for file in files_of(writer) if pq.read_table(file)["msg_id"][0].as_py() > 60 * 14]
    assert told[0].bytes == sum(file.stat().st_size for file in going)


def test_a_reader_keeps_what_it_reads_until_its_snapshot_is_given_up(tmp_path: Path) -> None:
    with Writer(empty_store(tmp_path / "store"), "n1", WriterSettings(flush_interval="20ms")) as writer:
        messages_of_days(writer, range(13, 17))
        with open_reader(tmp_path / "store") as reader:
            reader.execute("BEGIN")
            assert reader.execute("SELECT count(*) FROM sip").fetchone() == (240,)
            prune(writer, KEPT)
            with writer.cursor() as cursor:
                assert upkeep.expire(cursor) == 0, "younger than any reader's question may be"
                assert upkeep.clean_up(cursor) == 0
            # Files that this reader never opened before are still there for its long question.
            assert reader.execute("SELECT count(payload) FROM sip").fetchone() == (240,)
            reader.execute("COMMIT")
            assert reader.execute("SELECT count(payload) FROM sip").fetchone() == (60,)
        with writer.cursor() as cursor:
            upkeep.expire(cursor, timedelta(0))
            assert upkeep.clean_up(cursor, timedelta(0)) >= 6
    assert len(files_of(writer)) == 2


def test_a_store_that_is_too_large_loses_its_oldest_messages_only(writer: Writer) -> None:
    messages_of_days(writer, range(1, 6), rows=600)
    writer.append("call", [{"call_id": f"call-{n}", "user_agent": "x" * 500} for n in range(200)])
    writer.append("weird", [{"kind": "x", "received_at": NOW}])
    writer.flush()
    with writer.cursor() as cursor:
        files = live_files(cursor, writer.paths)
    size = sum(file.bytes for file in files)
    of_day_5 = sum(
        file.bytes for file in files if file.table == "sip" and file.last < NOW - timedelta(days=4.5)
    )
    most = RetentionSettings(max_size=f"{(size - of_day_5) / 1e6:f}MB")
    dropped = prune(writer, most)
    assert [(each.table, each.reason, each.rows) for each in dropped] == [("sip", "size", 600)]
    assert ask(writer, "SELECT min(msg_id), max(msg_id) FROM sip") == [(601, 3000)]
    assert is_too_large(writer, most) is None
    tiny = RetentionSettings(max_size="0.001MB")
    prune(writer, tiny)
    assert ask(writer, "SELECT count(*) FROM sip") == [(0,)]
    assert ask(writer, "SELECT count(*) FROM call") == [(200,)], "only messages make room"
    assert ask(writer, "SELECT count(*) FROM weird") == [(1,)], "what is younger than an hour stays"
    assert is_too_large(writer, tiny)


def test_tables_not_cut_by_day_lose_the_old_rows_of_a_file_and_are_written_again(writer: Writer) -> None:
    ages = [timedelta(days=day) for day in range(380, 420)]
    rows = [{"finding_id": f"f{age.days}", "ts": NOW - age, "kind": "k"} for age in ages]
    writer.append("finding", rows)
    writer.flush()
    (before,) = files_of(writer, "finding")
    dropped = prune(writer, KEPT, now=NOW)
    assert [(each.table, each.rows) for each in dropped] == [("finding", 19)]
    left = [age.days for age in ages if age <= KEPT.finding]
    found = ask(writer, "SELECT finding_id FROM finding ORDER BY 1")
    assert found == [(f"f{days}",) for days in left]
    with writer.cursor() as cursor:
        (after,) = live_files(cursor, writer.paths, "finding")
    assert (after.path != before, after.rows, after.deleted_rows) == (True, 21, 0)


def test_zero_means_for_ever(writer: Writer) -> None:
    messages_of_days(writer, range(500, 501))
    assert prune(writer, RetentionSettings(sip="0s", max_size="100%")) == []
    assert ask(writer, "SELECT count(*) FROM sip") == [(60,)]


def test_of_states_the_newest_stay_and_the_replaced_go(writer: Writer, tmp_path: Path) -> None:
    newest: dict[str, str] = {}
    for turn in range(6):
        calls = [f"call-{n}" for n in range(3 * turn, 40)]
        writer.append("call", [{"call_id": call, "outcome": str(turn)} for call in calls])
        newest |= dict.fromkeys(calls, str(turn))
        # A unit is one or several rows of one revision; the second time it is another number of them.
        legs = [{"call_id": "c", "leg": leg, "unit": "u", "revision": turn} for leg in "ab"[: 1 + turn % 2]]
        writer.append("leg_quality", [*legs, {"unit": "gone", "revision": turn}])
        writer.append("agent", [{"agent": "kamailio", "received": turn}])
        writer.flush()
    seen = {
        view: ask(writer, f"SELECT * FROM {view} ORDER BY ALL") for view in ("call", "leg_quality", "agent")
    }
    row_ids = dict(ask(writer, "SELECT (call_id, recorded_at)::VARCHAR, rowid FROM call_state"))
    dropped = {each.table: each.rows for each in prune(writer, KEPT)}
    assert ask(writer, "SELECT call_id, outcome FROM call_state ORDER BY 1") == sorted(newest.items())
    assert ask(writer, "SELECT unit, leg, revision FROM leg_quality_state ORDER BY ALL") == [
        ("gone", None, 5),
        ("u", "a", 5),
        ("u", "b", 5),
    ]
    assert dropped["leg_quality_state"] == (1 + 2 + 1 + 2 + 1) + 5
    assert ask(writer, "SELECT received FROM agent_state") == [(5,)]
    for view, rows in seen.items():
        assert ask(writer, f"SELECT * FROM {view} ORDER BY ALL") == rows
    left = dict(ask(writer, "SELECT (call_id, recorded_at)::VARCHAR, rowid FROM call_state"))
    assert left.items() <= row_ids.items(), "rows keep the numbers by which new ones are told from old ones"
    writer.append("call", [{"call_id": "late", "outcome": "x"}])
    writer.flush()
    assert ask(writer, "SELECT max(rowid) FROM call_state")[0][0] > max(row_ids.values())
    assert ask(writer, "SELECT outcome FROM call WHERE call_id = 'late'") == [("x",)]


def test_states_of_which_little_was_replaced_are_left_alone(writer: Writer) -> None:
    writer.append("call", [{"call_id": f"call-{n}"} for n in range(100)])
    writer.flush()
    writer.append("call", [{"call_id": "call-7"}])
    writer.flush()
    before = files_of(writer, "call_state")
    assert prune(writer, KEPT) == []
    assert files_of(writer, "call_state") == before
