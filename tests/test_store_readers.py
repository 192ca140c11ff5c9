"""Readers in other processes: live while the tap runs, and as well when it does not."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import duckdb
import pytest
from store_rows import PATIENCE_S, process, sip_rows

from pipeline.errors import StoreError
from pipeline.store import upkeep
from pipeline.store.lake import Reader, attach_lines, open_reader
from pipeline.store.paths import StorePaths
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

READ_ALONG = """
import sys, time
from pipeline.store.lake import Reader
with Reader(sys.argv[1]) as reader:
    while True:
        rows, ids = reader.query("SELECT count(*), count(DISTINCT msg_id) FROM sip").to_pylist()[0].values()
        assert rows == ids, (rows, ids)
        print(rows, flush=True)
        if rows >= int(sys.argv[2]):
            break
        time.sleep(0.01)
"""
IN_A_PLAIN_DUCKDB = """
import duckdb, sys
connection = duckdb.connect()
for line in sys.stdin.read().splitlines():
    connection.execute(line)
print(connection.execute("SELECT count(*) FROM sip").fetchone()[0])
"""


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def live(store: Path) -> Iterator[Writer]:
    """A tap that runs, with 600 messages stored."""
    with Writer(store, "n1", WriterSettings(flush_interval="20ms")) as writer:
        writer.put("sip", sip_rows(600))
        writer.flush()
        yield writer


def python(script: str, *arguments: object, given: str | None = None) -> str:
    run = subprocess.run(
        [sys.executable, "-c", script, *map(str, arguments)],
        input=given,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


def count(reader: duckdb.DuckDBPyConnection) -> int:
    row = reader.execute("SELECT count(*) FROM sip").fetchone()
    assert row
    return int(row[0])


def test_another_process_sees_rows_come_in_while_they_come(store: Path, live: Writer) -> None:
    arguments = [sys.executable, "-c", READ_ALONG, str(store), "6000"]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout
        assert reader.stdout.readline() == "600\n"
        for n in range(1, 10):
            assert live.put("sip", sip_rows(600, 1 + 600 * n))
            live.flush()
            if n % 3 == 0:
                live.merge()
        seen = [int(line) for line in reader.stdout]
        assert reader.wait(PATIENCE_S) == 0
    assert seen == sorted(seen) and seen[-1] == 6000


def test_every_committed_row_is_seen_by_the_next_statement(store: Path, live: Writer) -> None:
    with open_reader(store) as reader:
        for n in range(1, 6):
            live.put("sip", sip_rows(60, 601 + 60 * n))
            live.flush()
            assert count(reader) == 600 + 60 * n


def test_several_readers_at_once(store: Path, live: Writer) -> None:
    readers = [open_reader(store) for _ in range(6)]
    assert [count(reader) for reader in readers] == [600] * 6
    for reader in readers:
        reader.close()
    assert count(open_reader(store)) == 600


def test_an_open_reader_does_not_keep_the_tap_from_starting(store: Path) -> None:
    with Writer(store, "n1") as writer:
        writer.put("sip", sip_rows(60))
    with open_reader(store) as notebook, Reader(store) as app:
        assert count(notebook) == 60
        assert app.query("SELECT count(*) AS n FROM sip").to_pylist() == [{"n": 60}]
        with Writer(store, "n1") as writer:
            writer.put("sip", sip_rows(60, 61))
            writer.flush()
            assert count(notebook) == 60, "a reader of before stays with what it saw"
            assert app.query("SELECT count(*) AS n FROM sip").to_pylist() == [{"n": 120}]
        assert app.query("SELECT count(*) AS n FROM sip").to_pylist() == [{"n": 120}]


def test_a_log_that_is_folded_into_the_catalog_meanwhile_is_not_missed(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Writer(store, "n1") as writer:
        writer.put("sip", sip_rows(60))
    with process("flush_and_die", store) as tap:
        tap.wait(PATIENCE_S)
    paths = StorePaths.of(store)
    assert paths.catalog_log.exists()
    copy_file, copied = shutil.copyfile, []

    def copy_and_fold(source: Path, target: Path) -> object:
        done = copy_file(source, target)
        copied.append(source)
        if len(copied) == 1:
            with duckdb.connect(paths.catalog) as late:
                late.execute("CHECKPOINT")
            paths.catalog_log.unlink(missing_ok=True)
        return done

    monkeypatch.setattr(shutil, "copyfile", copy_and_fold)
    with open_reader(store) as reader:
        assert count(reader) == 120
    assert copied == [paths.catalog, paths.catalog]


def test_a_file_that_vanishes_under_a_reader_costs_one_more_try(store: Path, live: Writer) -> None:
    (file,) = (store / "files" / "main" / "sip").rglob("*.parquet")
    away = file.with_suffix(".away")
    tries = []

    class Watched(Reader):
        def reopen(self) -> None:
            tries.append("again")
            away.rename(file)
            super().reopen()

    with Watched(store) as reader:
        file.rename(away)
        assert reader.query("SELECT count(payload) AS n FROM sip").to_pylist() == [{"n": 600}]
    assert tries == ["again"]


def test_a_snapshot_in_use_outlives_its_files(store: Path, live: Writer) -> None:
    with open_reader(store) as reader:
        reader.execute("BEGIN")
        assert count(reader) == 600
        live.put("sip", sip_rows(600, 601))
        live.flush()
        merged_away = set((store / "files" / "main" / "sip").rglob("*.parquet"))
        live.merge()
        with live.cursor() as cursor:
            upkeep.clean_up(cursor, timedelta(0))
        assert len(merged_away) == 2
        assert not any(file.exists() for file in merged_away)
        assert reader.execute("SELECT count(payload) FROM sip").fetchone() == (600,)
        reader.execute("COMMIT")
        assert reader.execute("SELECT count(payload) FROM sip").fetchone() == (1200,)


def test_a_long_lived_reader_follows_the_tap_through_stop_and_start(store: Path) -> None:
    Writer(store, "n1").stop()
    with Reader(store) as reader:
        for n in range(3):
            with Writer(store, "n1") as writer:
                writer.put("sip", sip_rows(60, 1 + 60 * n))
                if n == 1:
                    writer.flush()
                    assert reader.query("SELECT count(*) AS n FROM sip").to_pylist() == [{"n": 120}]
            assert reader.query("SELECT count(*) AS n FROM sip").to_pylist() == [{"n": 60 + 60 * n}]


def test_after_kill_9_what_was_left_for_readers_is_seen_through(store: Path) -> None:
    with process("hold", store) as tap:
        assert tap.stdout
        assert tap.stdout.readline() == "ready\n"
        assert (store / "reader.json").exists()
        with open_reader(store) as reader:
            assert count(reader) == 0
        tap.kill()
        tap.wait(PATIENCE_S)
    assert (store / "reader.json").exists(), "stale, as kill -9 leaves it"
    with open_reader(store) as reader:
        assert count(reader) == 0
    assert not any("quack:" in line for line in attach_lines(store))
    with Writer(store, "n1") as writer:
        writer.put("sip", sip_rows(60))
        writer.flush()
        with open_reader(store) as reader:
            assert count(reader) == 60


def test_a_reader_waits_for_a_tap_that_is_starting(store: Path) -> None:
    with process("hold", store) as tap:
        deadline = time.monotonic() + PATIENCE_S
        while not (store / "writer.lock").exists():
            assert time.monotonic() < deadline
            time.sleep(0.001)
        with open_reader(store, timeout_s=PATIENCE_S) as reader:
            assert count(reader) == 0
        assert tap.stdin
        tap.stdin.close()
        tap.wait(PATIENCE_S)


def test_a_tap_that_has_made_its_lock_and_not_yet_taken_it_is_waited_for(store: Path) -> None:
    store.mkdir()
    (store / "writer.lock").touch()
    with ThreadPoolExecutor() as pool:
        opened = pool.submit(open_reader, store, timeout_s=PATIENCE_S)
        time.sleep(0.3)
        (store / "writer.lock").touch()  # as a tap does at once before it takes it
        with Writer(store, "n1"), opened.result() as reader:
            assert count(reader) == 0


def test_no_store_is_said_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="there is no store at"):
        open_reader(tmp_path / "nosuch")
    with pytest.raises(StoreError, match="there is no store at"):
        attach_lines(tmp_path / "nosuch")
    (tmp_path / "writer.lock").touch()  # of a tap that ended before it had made its store
    with pytest.raises(StoreError, match="there is no store at"):
        open_reader(tmp_path, timeout_s=PATIENCE_S)


def test_a_store_that_moved_is_read_and_written_where_it_is_now(store: Path, tmp_path: Path) -> None:
    with Writer(store, "n1") as writer:
        writer.put("sip", sip_rows(60))
    moved = tmp_path / "it's elsewhere"
    shutil.move(store, moved)
    with open_reader(moved) as reader:
        assert reader.execute("SELECT count(call_id) FROM sip").fetchone() == (60,)
    with Writer(moved, "n1") as writer:
        writer.put("sip", sip_rows(60, 61))
        writer.flush()
        with open_reader(moved) as reader:
            assert reader.execute("SELECT count(call_id) FROM sip").fetchone() == (120,)


# -- what a reader may do ------------------------------------------------------------------------------


@pytest.mark.parametrize("running", [True, False])
def test_a_reader_is_locked_down(store: Path, live: Writer, tmp_path: Path, running: bool) -> None:
    secret = tmp_path / "secret.csv"
    secret.write_text("a,b\n1,2\n")
    if not running:
        live.stop()
    with open_reader(store) as reader:
        for statement in (
            "INSERT INTO sip SELECT * FROM sip LIMIT 1",
            "DELETE FROM sip",
            "CREATE TABLE t (a INTEGER)",
            "DROP TABLE sip",
            "CALL ducklake_delete_orphaned_files('lake', cleanup_all => true)",
            "CALL ducklake_expire_snapshots('lake', older_than => now())",
            f"FROM read_csv('{secret}')",
            f"FROM '{secret}'",
            f"COPY (SELECT 1) TO '{tmp_path}/out.csv'",
            f"ATTACH '{tmp_path}/other.duckdb'",
            "FROM read_csv('http://127.0.0.1:9/x.csv')",
            "INSTALL sqlite",
            "SET enable_external_access = true",
            "SET memory_limit = '100GB'",
            "SET lock_configuration = false",
        ):
            with pytest.raises(duckdb.Error):
                reader.execute(statement).fetchall()
        assert count(reader) == 600
        reader.execute("SET TimeZone = 'Europe/Berlin'")
        assert count(reader) == 600


def test_the_token_is_the_owners_and_new_at_each_start(store: Path) -> None:
    tokens = set()
    for _ in range(2):
        with Writer(store, "n1"):
            file = StorePaths.of(store).reader_file
            assert file.stat().st_mode & 0o777 == 0o600
            served = json.loads(file.read_text())
            assert served["pid"] == os.getpid()
            assert served["endpoint"].startswith("quack:127.0.0.1:")
            tokens.add(served["token"])
        assert not file.exists()
    assert len(tokens) == 2 and all(len(token) >= 40 for token in tokens)


def test_even_with_the_token_the_server_gives_only_what_a_reader_needs(store: Path, live: Writer) -> None:
    served = json.loads(StorePaths.of(store).reader_file.read_text())
    client = duckdb.connect()
    for line in attach_lines(store):
        if line.startswith("LOAD"):
            client.execute(line)

    def ask(sql: str, token: str = served["token"]) -> list[tuple[object, ...]]:
        return client.execute(
            "FROM quack_query(?, ?, token => ?)", [served["endpoint"], sql, token]
        ).fetchall()

    assert ask("SELECT count(*) FROM ducklake_snapshot")
    for statement in (
        "DROP TABLE ducklake_snapshot",
        "DELETE FROM ducklake_data_file",
        "WITH a AS (SELECT 1) INSERT INTO ducklake_metadata SELECT 'a', 'b', NULL, NULL",
        "SELECT 1; DROP TABLE ducklake_snapshot",
        "FROM read_text('/etc/hostname')",
        "FROM \"READ_TEXT\"('/etc/hostname')",
        "FROM duckdb_secrets() AS s, read_text('/etc/hostname')",
        "FROM '/etc/hostname.csv'",
        "FROM lake.cleanup_old_files(cleanup_all => true)",
        "FROM ducklake_cleanup_old_files('lake', cleanup_all => true)",
        "FROM query('DROP TABLE ducklake_snapshot')",
        "SET GLOBAL quack_authorization_function = 'quack_nop_authorization'",
        "CALL quack_stop('x')",
        "COPY (SELECT 1) TO '/x'",
        "ATTACH '/x.duckdb'",
    ):
        with pytest.raises(duckdb.Error, match="Authorization failed"):
            ask(statement)
    with pytest.raises(duckdb.Error, match="Authentication failed"):
        ask("SELECT 1", token="x" * 43)
    client.close()
    assert live.status().errors == 0
    with open_reader(store) as reader:
        assert count(reader) == 600


# -- the user's own DuckDB -----------------------------------------------------------------------------


@pytest.mark.parametrize("running", [True, False])
def test_the_lines_to_type_work_in_a_plain_duckdb(store: Path, live: Writer, running: bool) -> None:
    if not running:
        live.stop()
    lines = attach_lines(store)
    assert any("quack:" in line for line in lines) is running
    assert python(IN_A_PLAIN_DUCKDB, given="\n".join(lines)) == "600\n"
    if running:
        live.put("sip", sip_rows(60, 601))
        live.flush()
        assert python(IN_A_PLAIN_DUCKDB, given="\n".join(lines)) == "660\n"
