"""The one writer: what it takes, when it commits, and what it does when it cannot."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from store_rows import PATIENCE_S, QUIET, T0, process, sip_rows

from pipeline.errors import StoreError
from pipeline.store import upkeep
from pipeline.store.catalog import Catalog
from pipeline.store.lake import open_reader
from pipeline.store.parquet import conform
from pipeline.store.paths import StorePaths
from pipeline.store.schema import read_migrations
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

US = 1_000_000
SLOW = WriterSettings(serve_readers=False, flush_interval="1h", flush_rows=1000, queue_rows=2000)
STUBBORN = WriterSettings(
    serve_readers=False, flush_interval="10ms", retry_wait="20ms", retry_wait_max="50ms"
)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def writer(store: Path) -> Iterator[Writer]:
    with Writer(store, "n1", QUIET) as made:
        yield made


def ask(writer: Writer, sql: str) -> list[tuple[Any, ...]]:
    with writer.cursor() as cursor:
        return cursor.execute(sql).fetchall()


def wait_until(condition: Any) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def parquet_files(store: Path, table: str = "sip") -> list[Path]:
    return sorted((store / "files" / "main" / table).rglob("*.parquet"))


# -- what goes in comes out ----------------------------------------------------------------------------


def test_columns_come_back_as_they_were_put(writer: Writer) -> None:
    rows = sip_rows(600)
    assert writer.put("sip", rows)
    writer.flush()
    with writer.cursor() as cursor:
        found = cursor.execute(
            f"SELECT {', '.join(rows.column_names)} FROM lake.sip ORDER BY msg_id"
        ).to_arrow_table()
    assert found.cast(rows.schema).equals(rows)
    assert ask(writer, "SELECT DISTINCT node FROM lake.sip") == [("n1",)]
    assert len(ask(writer, "SELECT DISTINCT batch_id FROM lake.sip WHERE batch_id IS NOT NULL")) == 1


def test_files_that_were_read_take_no_memory(writer: Writer) -> None:
    """A merge reads each file once: they would push out of memory what is read again."""
    assert writer.put("sip", sip_rows(600))
    writer.flush()
    assert ask(writer, "SELECT count(DISTINCT payload) FROM lake.sip") != [(0,)]
    kept = "SELECT sum(memory_usage_bytes) FROM duckdb_memory() WHERE tag = 'EXTERNAL_FILE_CACHE'"
    assert ask(writer, kept) == [(0,)]


def test_small_rows_come_back_with_json_lists_and_both_kinds_of_time(writer: Writer) -> None:
    evidence = {"device": 'a "quoted" \\ ünï \r\n word', "late_ms": 612.5, "legs": [1, 2]}
    row = {"finding_id": "f1", "ts": T0, "evidence": evidence, "msg_ids": [7, 9], "trusted": True}
    same_time = int(T0.timestamp()) * US + 1
    writer.append("finding", [row, {"finding_id": "f2", "ts": same_time}]).result(PATIENCE_S)
    found = ask(
        writer, "SELECT finding_id, epoch_us(ts), evidence::VARCHAR, msg_ids FROM lake.finding ORDER BY 1"
    )
    assert found[0][:2] == ("f1", same_time - 1)
    assert json.loads(found[0][2]) == evidence
    assert found[0][3] == [7, 9]
    assert found[1] == ("f2", same_time, None, None)


def test_of_states_the_latest_is_seen(writer: Writer) -> None:
    def call(call_id: str, outcome: str, updated_us: int) -> dict[str, Any]:
        return {"call_id": call_id, "outcome": outcome, "updated_at": updated_us}

    writer.append("call", [call("a", "ringing", 5), call("b", "ringing", 5), call("a", "answered", 5)])
    writer.flush()
    writer.append("call", [call("b", "canceled", 1)])  # later, though its event time is earlier
    writer.flush()
    found = ask(writer, 'SELECT call_id, node, outcome FROM lake."call" ORDER BY 1')
    assert found == [("a", "n1", "answered"), ("b", "n1", "canceled")]
    assert writer.status().stored == {"call_state": 3}


def test_files_are_sorted_cut_by_day_of_arrival_and_carry_a_bloom_filter(writer: Writer, store: Path) -> None:
    before_midnight = datetime(2026, 2, 28, 23, 59, 59, 700_000, tzinfo=UTC)
    writer.put("sip", sip_rows(600, at=before_midnight))
    writer.flush()
    folders = {file.parent.relative_to(store / "files" / "main" / "sip") for file in parquet_files(store)}
    assert {str(folder) for folder in folders} == {"year=2026/month=2/day=28", "year=2026/month=3/day=1"}
    for file in parquet_files(store):
        call_ids = pq.read_table(file, columns=["call_id"]).column("call_id").to_pylist()
        assert call_ids == sorted(call_ids)
    with duckdb.connect() as db:
        filters = db.execute(
            "SELECT DISTINCT path_in_schema FROM parquet_metadata(?) WHERE bloom_filter_offset IS NOT NULL",
            [[str(file) for file in parquet_files(store)]],
        ).fetchall()
    assert filters == [("call_id",)]
    assert ask(writer, "SELECT count(*) FROM lake.sip") == [(600,)]


def test_a_sender_with_a_wild_clock_does_not_scatter_files(writer: Writer, store: Path) -> None:
    days = [T0 - timedelta(days=n) for n in range(300)]
    writer.put(
        "sip", sip_rows(300, received_at=T0).set_column(0, "ts", pa.array(days, pa.timestamp("us", "UTC")))
    )
    writer.flush()
    assert len(parquet_files(store)) == 1
    assert ask(writer, "SELECT count(DISTINCT date_trunc('day', ts)) FROM lake.sip") == [(300,)]


def test_message_ids_go_on_after_a_restart(store: Path) -> None:
    with Writer(store, "n1", QUIET) as writer:
        assert writer.last_msg_id == 0
        writer.put("sip", sip_rows(10, first_id=41))
    with Writer(store, "n1", QUIET) as writer:
        assert writer.last_msg_id == 50


@pytest.mark.parametrize(
    ("table", "rows", "words"),
    [
        ("sips", [{"ts": 1}], "no table 'sips'"),
        ("finding", [{"nosuch": 1}], "no column"),
        ("finding", [{"ts": "yesterday"}], "cannot hold"),
        ("finding", [{"msg_ids": [2**70]}], "cannot hold"),
        ("sip", [{"src_port": 2**40}], "cannot hold"),
        ("sip", [{"from_user": "\ud800"}], "cannot hold"),
    ],
)
def test_what_a_table_cannot_hold_never_enters_the_queue(
    writer: Writer, table: str, rows: list[dict[str, Any]], words: str
) -> None:
    with pytest.raises(StoreError, match=words):
        writer.append(table, rows).result(PATIENCE_S)
    writer.append("finding", [{"finding_id": "f1"}]).result(PATIENCE_S)
    assert writer.status().errors == 0


# -- when it commits -----------------------------------------------------------------------------------


def test_a_full_queue_refuses_and_says_so(store: Path) -> None:
    with Writer(store, "n1", SLOW.model_copy(update={"flush_rows": 1_000_000})) as writer:
        first = writer.put("sip", sip_rows(1500))  # the first batch is due at once
        wait_until(lambda: writer.status().queued_rows == 0)
        assert first
        assert writer.put("sip", sip_rows(1500, 1501))
        assert not writer.put("sip", sip_rows(1500, 3001))
        with pytest.raises(StoreError, match="queue is full"):
            writer.append("weird", [{"kind": "x"}] * 600).result(0)
        assert writer.put("sip", sip_rows(500, 3001))
    assert writer.status().stored == {"sip": 3500}


def test_many_rows_do_not_wait_for_the_clock(store: Path) -> None:
    with Writer(store, "n1", SLOW) as writer:
        writer.put("sip", sip_rows(10))
        wait_until(lambda: writer.status().stored)
        writer.put("sip", sip_rows(999, 11))
        writer.put("sip", sip_rows(1, 1010))
        wait_until(lambda: writer.status().stored == {"sip": 1010})


def test_after_stop_nothing_is_taken(store: Path) -> None:
    writer = Writer(store, "n1", QUIET)
    writer.put("sip", sip_rows(60))
    assert writer.stop().stored == {"sip": 60}
    assert not writer.put("sip", sip_rows(60))
    with pytest.raises(StoreError, match="stopped"):
        writer.append("finding", [{"finding_id": "f1"}]).result(0)
    with pytest.raises(StoreError, match="stopped"):
        writer.flush()
    assert writer.stop().stored == {"sip": 60}


# -- when it cannot ------------------------------------------------------------------------------------


def test_a_second_writer_is_refused_by_name(store: Path, writer: Writer) -> None:
    with pytest.raises(StoreError, match=rf"another hepduck \(pid {os.getpid()}\) is writing to {store}"):
        Writer(store, "n1", QUIET)
    writer.append("finding", [{"finding_id": "f1"}]).result(PATIENCE_S)


def test_a_writer_in_another_process_is_named_and_makes_room_when_it_ends(store: Path) -> None:
    with process("hold", store) as other:
        assert other.stdout and other.stdin
        assert other.stdout.readline() == "ready\n"
        with pytest.raises(StoreError, match=rf"another hepduck \(pid {other.pid}\)"):
            Writer(store, "n1", QUIET)
        other.stdin.close()
        assert other.wait(PATIENCE_S) == 0
        Writer(store, "n1", QUIET).stop()


def test_a_catalog_open_elsewhere_is_said_in_words(store: Path) -> None:
    Writer(store, "n1", QUIET).stop()
    script = (
        "import duckdb, sys; c = duckdb.connect(sys.argv[1], read_only=True); print(1, flush=True); input()"
    )
    catalog = str(store / "catalog.duckdb")
    arguments = [sys.executable, "-c", script, catalog]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        holder = rf"is open in another program \(.*, pid {other.pid}\): close it there first"
        with pytest.raises(StoreError, match=holder):
            Writer(store, "n1", QUIET)
        other.communicate(b"\n", PATIENCE_S)
    Writer(store, "n1", QUIET).stop()


def test_a_store_that_cannot_be_made_is_said_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot write to the store"):
        Writer(tmp_path / "file" / "store", "n1", QUIET)


def test_a_failing_flush_keeps_its_batch_until_it_succeeds(store: Path) -> None:
    with Writer(store, "n1", STUBBORN) as writer:
        blocked = store / "files" / "main" / "sip"
        if blocked.is_dir():
            blocked.rmdir()
        blocked.parent.mkdir(exist_ok=True)
        blocked.touch()  # a file where the folder should be: as good as a full disk, and root feels it too
        writer.put("sip", sip_rows(600))
        done = writer.append("finding", [{"finding_id": "f1"}])
        wait_until(lambda: writer.status().errors >= 2)
        status = writer.status()
        assert status.stored == {} and status.queued_rows == 601 and "sip" in (status.last_error or "")
        blocked.unlink()
        done.result(PATIENCE_S)
        assert ask(writer, "SELECT count(*), count(DISTINCT msg_id) FROM lake.sip") == [(600, 600)]
        assert ask(writer, "SELECT count(*) FROM lake.finding") == [(1,)]
        assert writer.status().last_error is None
        assert len(parquet_files(store)) == 1


def test_what_cannot_be_written_at_stop_is_counted_as_lost(store: Path) -> None:
    writer = Writer(store, "n1", STUBBORN.model_copy(update={"spool_bytes": 0}))
    blocked = store / "files" / "main" / "sip"
    blocked.parent.mkdir(exist_ok=True)
    blocked.touch()
    writer.put("sip", sip_rows(600))
    done = writer.append("sip", [{"msg_id": 601}])
    status = writer.stop(timeout_s=0.2)
    assert (status.stored, status.lost) == ({}, {"sip": 601})
    with pytest.raises(StoreError, match="given up at stop"):
        done.result(0)
    blocked.unlink()
    with Writer(store, "n1", QUIET) as again:
        assert ask(again, "SELECT count(*) FROM lake.sip") == [(0,)]


def _disk_full(store: Path) -> None:
    """In its own process: no file may grow beyond a limit, for a while; DuckDB's own files feel it as well."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Writer(store, "n1", STUBBORN) as writer:
        for _ in range(3):
            writer.put("sip", sip_rows(600, writer.status().stored.get("sip", 0) + 1))
            writer.flush()
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        writer.put("sip", sip_rows(600, 1801))
        wait_until(lambda: writer.status().errors >= 3)
        # Now Parquet files fit, but the catalog's log, already longer, may not grow.
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
        seen = writer.status().errors
        wait_until(lambda: writer.status().errors >= seen + 3)
        assert writer.status().stored == {"sip": 1800}
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        writer.flush()
        assert writer.status().stored == {"sip": 2400}
        assert ask(writer, "SELECT count(*), count(DISTINCT msg_id) FROM lake.sip") == [(2400, 2400)]


def test_a_full_disk_costs_no_row_once_there_is_room_again(store: Path) -> None:
    run = subprocess.run(
        [sys.executable, __file__, str(store)], capture_output=True, text=True, timeout=150, check=False
    )
    assert run.returncode == 0, run.stderr
    with open_reader(store) as reader:
        assert reader.execute("SELECT count(*), count(DISTINCT msg_id) FROM sip").fetchone() == (2400, 2400)


def test_a_catalog_that_breaks_down_is_opened_again(store: Path) -> None:
    settings = WriterSettings(flush_interval="10ms", retry_wait="20ms")
    with Writer(store, "n1", settings) as writer:
        writer.put("sip", sip_rows(600))
        writer.flush()
        with writer.cursor() as cursor:
            cursor.execute("SET GLOBAL debug_checkpoint_abort = 'before_header'")
            with pytest.raises(duckdb.FatalException):
                cursor.execute("CHECKPOINT catalog")
        writer.put("sip", sip_rows(600, 601))
        writer.flush()
        assert writer.status().errors > 0
        assert ask(writer, "SELECT count(*), count(DISTINCT msg_id) FROM lake.sip") == [(1200, 1200)]
        with open_reader(store) as reader:
            assert reader.execute("SELECT count(*) FROM sip").fetchone() == (1200,)


def test_the_same_batch_committed_twice_is_there_once(store: Path) -> None:
    paths = StorePaths.of(store)
    paths.root.mkdir()
    catalog = Catalog(paths, "n1", QUIET, read_migrations())
    tables = {"sip": conform("sip", sip_rows(60), "n1")}
    catalog.commit("batch-1", tables, T0)
    catalog.commit("batch-1", tables, T0, again=True)
    assert catalog.connection.execute("SELECT count(*) FROM sip").fetchone() == (60,)
    catalog.close()


def test_a_start_clears_what_was_never_committed_and_nothing_else(store: Path) -> None:
    with Writer(store, "n1", QUIET) as writer:
        writer.put("sip", sip_rows(60))
    (kept,) = parquet_files(store)
    orphan = kept.with_name("orphan.parquet")
    orphan.write_bytes(kept.read_bytes())
    with Writer(store, "n1", QUIET) as writer:
        assert parquet_files(store) == [kept]
        assert ask(writer, "SELECT count(*) FROM lake.sip") == [(60,)]


# -- upkeep --------------------------------------------------------------------------------------------


def tidied(writer: Writer) -> None:
    """Join and forget what the migrations left, so that a test counts its own files only."""
    writer.merge()
    with writer.cursor() as cursor:
        upkeep.expire(cursor, timedelta(0))
        upkeep.clean_up(cursor, timedelta(0))


def test_merging_keeps_every_row_the_order_and_the_bloom_filter(writer: Writer, store: Path) -> None:
    tidied(writer)
    for n in range(5):
        writer.put("sip", sip_rows(600, 1 + 600 * n))
        writer.append("finding", [{"finding_id": f"f{n}"}])
        writer.flush()
    small = set(parquet_files(store))
    merged = writer.merge()
    assert (merged.files_before, merged.files_after) == (10, 2)
    (large,) = set(parquet_files(store)) - small
    call_ids = pq.read_table(large, columns=["call_id"]).column("call_id").to_pylist()
    assert call_ids == sorted(call_ids) and len(call_ids) == 3000
    with duckdb.connect() as db:
        (has_filter,) = db.execute(
            "SELECT bool_and(bloom_filter_offset IS NOT NULL) FROM parquet_metadata(?)"
            " WHERE path_in_schema = 'call_id'",
            [str(large)],
        ).fetchone() or (None,)
    assert has_filter
    assert ask(writer, "SELECT count(*), count(DISTINCT msg_id) FROM lake.sip") == [(3000, 3000)]
    assert small <= set(parquet_files(store)), "readers may still use them"


def test_merging_small_files_leaves_large_ones_alone(writer: Writer, store: Path) -> None:
    for n in range(4):
        writer.put("sip", sip_rows(600, 1 + 600 * n))
        writer.flush()
    before = set(parquet_files(store))
    writer.merge()
    (large,) = set(parquet_files(store)) - before
    for n in range(4, 6):
        writer.put("sip", sip_rows(60, 1 + 600 * n))
        writer.flush()
    merged = writer.merge(max_file_bytes=large.stat().st_size)
    assert (merged.files_before, merged.files_after) == (2, 1)
    assert ask(writer, "SELECT count(*), count(DISTINCT msg_id) FROM lake.sip") == [(2520, 2520)]


def test_clean_up_deletes_only_what_is_old_and_unused(writer: Writer, store: Path) -> None:
    tidied(writer)
    for n in range(3):
        writer.put("sip", sip_rows(60, 1 + 60 * n))
        writer.flush()
    writer.merge()
    with writer.cursor() as cursor:
        assert upkeep.clean_up(cursor) == 0
        assert upkeep.expire(cursor) == 0
        assert len(parquet_files(store)) == 4
        assert upkeep.expire(cursor, timedelta(0)) > 0
        assert upkeep.clean_up(cursor, timedelta(0)) == 3
    assert len(parquet_files(store)) == 1
    assert ask(writer, "SELECT count(*) FROM lake.sip") == [(180,)]
    writer.put("sip", sip_rows(60, 181))
    writer.flush()
    assert ask(writer, "SELECT count(*) FROM lake.sip") == [(240,)]


def test_merging_beside_the_flushes_loses_and_doubles_nothing(store: Path) -> None:
    with Writer(store, "n1", STUBBORN) as writer:
        for n in range(60):
            assert writer.put("sip", sip_rows(100, 1 + 100 * n))
            if n % 10 == 9:
                writer.merge()
        writer.flush()
        assert ask(writer, "SELECT count(*), count(DISTINCT msg_id) FROM lake.sip") == [(6000, 6000)]


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    _disk_full(Path(sys.argv[1]))
