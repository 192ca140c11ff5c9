"""When the store does not write: what comes waits on disk, in order, and is stored exactly once in the end."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from store_rows import PATIENCE_S, sip_rows
from tap import RunningTap, call_id_of, ghost_call

from pipeline.checks import run_checks
from pipeline.errors import StoreError
from pipeline.ingest.recordings import read_recording
from pipeline.ingest.restamp import restamp
from pipeline.settings import Settings
from pipeline.status import as_text, read_status
from pipeline.store import parquet
from pipeline.store.catalog import Catalog
from pipeline.store.lake import Reader, open_reader
from pipeline.store.overview import overview
from pipeline.store.parquet import conform
from pipeline.store.paths import StorePaths
from pipeline.store.schema import read_migrations
from pipeline.store.settings import RetentionSettings, WriterSettings
from pipeline.store.spool import BrokenFileError, Spool, read_batch
from pipeline.store.writer import Writer, WriterStatus

HASTY = WriterSettings(
    serve_readers=False, flush_interval="10ms", retry_wait="20ms", retry_wait_max="50ms", spool_after="100ms"
)
ROWS = 600


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return tmp_path / "store"


class Feeder:
    """Puts batches of messages with rising ids, and checks the books at every look."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.taken = self.not_taken = 0
        self.first_id = self.next_id = writer.last_msg_id + 1

    def put(self, batches: int = 1) -> None:
        for _ in range(batches):
            if self.writer.put("sip", sip_rows(ROWS, self.next_id)):
                self.taken += ROWS
            else:
                self.not_taken += ROWS
            self.next_id += ROWS
            self.look()

    def look(self) -> WriterStatus:
        status = self.writer.status()
        done = status.stored.get("sip", 0) + status.lost.get("sip", 0) + status.refused.get("sip", 0)
        assert 0 <= done <= self.taken
        assert status.queued_rows <= self.writer.settings.queue_rows
        assert status.spool is not None
        assert status.spool.bytes <= status.spool.allowed_bytes
        assert done + status.queued_rows + status.spool.rows >= self.taken
        return status

    def wait_for(self, condition: Callable[[WriterStatus], object], what: str) -> WriterStatus:
        deadline = time.monotonic() + PATIENCE_S
        while not condition(status := self.look()):
            assert time.monotonic() < deadline, f"waited in vain: {what}; {status}"
            time.sleep(0.01)
        return status

    def spooled(self) -> WriterStatus:
        """All that was taken is on disk, though not in the store."""

        def on_disk(status: WriterStatus) -> bool:
            assert status.spool is not None
            return status.spool.rows + status.stored.get("sip", 0) == self.taken

        return self.wait_for(on_disk, "all in the spool")


def blocked(store: Path) -> Path:
    """A file where the folder of the messages should be: nothing can be written there, not even by root."""
    folder = store / "files" / "main" / "sip"
    if folder.is_dir():
        folder.rename(folder.with_name("sip.away"))
    folder.parent.mkdir(parents=True, exist_ok=True)
    folder.touch()
    return folder


def unblock(folder: Path) -> None:
    folder.unlink()
    if (away := folder.with_name("sip.away")).is_dir():
        away.rename(folder)


def stored(store: Path) -> tuple[int, int]:
    """Messages, and different ones."""
    with open_reader(store) as reader:
        rows, ids = reader.execute("SELECT count(*), count(DISTINCT msg_id) FROM sip").fetchone() or (0, 0)
    return rows, ids


def spool_files(store: Path) -> list[Path]:
    return sorted((store / "spool").iterdir())


# -- the file ----------------------------------------------------------------------------------------------


def test_a_batch_comes_back_from_disk_as_it_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", 10**9, "n1")
    finding = [
        {"finding_id": "f1", "ts": 5, "evidence": {"a": [1, "\r\n"]}, "msg_ids": [7, 9], "trusted": True}
    ]
    tables = {"sip": conform("sip", sip_rows(50, 8), "n1"), "finding": conform("finding", finding, "n1")}
    made = spool.write(3, "0badcafe", tables)
    (file,) = Spool(tmp_path / "spool", 10**9, "n1").left_behind()
    assert (file.place, file.batch_id, file.rows, file.last_msg_id) == (
        3,
        "0badcafe",
        {"sip": 50, "finding": 1},
        57,
    )
    assert file.path == made.path and file.left_behind and not made.left_behind
    assert all(rows.equals(tables[name]) for name, rows in spool.read(file).items())


def test_what_was_cut_off_or_damaged_is_kept_aside_and_counted(tmp_path: Path) -> None:
    folder = tmp_path / "spool"
    spool = Spool(folder, 10**9, "n1")
    tables = {"sip": conform("sip", sip_rows(5000), "n1"), "weird": conform("weird", [{"kind": "x"}], "n1")}
    whole, head, tail, good = (spool.write(n, f"{n}", tables).path for n in range(1, 5))
    whole.rename(whole.with_name(whole.name + ".part"))
    head.write_bytes(head.read_bytes()[:40])
    for cut in (good.stat().st_size // 2, good.stat().st_size - 200):
        tail.write_bytes(good.read_bytes()[:cut])
        with pytest.raises(BrokenFileError):
            read_batch(tail)
    with Writer(tmp_path, "n1", HASTY) as writer:
        writer.flush()
        status = writer.status()
        assert status.recovered == {"sip": 5000, "weird": 1} and status.stored == {} and status.lost == {}
        assert status.spool is not None and (status.spool.broken, status.spool.files) == (3, 0)
    kept = {file.name.removesuffix(".broken") for file in folder.iterdir()}
    assert kept == {f"{whole.name}.part", head.name, tail.name}
    assert stored(tmp_path) == (5000, 5000)


# -- the store fails ---------------------------------------------------------------------------------------


def test_what_comes_while_the_store_fails_waits_on_disk_and_is_stored_in_order(store: Path) -> None:
    with Writer(store, "n1", HASTY.model_copy(update={"flush_rows": 2 * ROWS})) as writer:
        feeder = Feeder(writer)
        folder = blocked(store)
        for outcome in ("ringing", "answered", "ended"):
            feeder.put(3)
            writer.put("call", [{"call_id": "a", "outcome": outcome}])
            time.sleep(0.05)
        feeder.wait_for(lambda status: status.spool and status.spool.rows == 9 * ROWS + 3, "all on disk")
        status = feeder.look()
        assert status.failing_since is not None and "sip" in (status.last_error or "")
        assert status.is_behind and status.stored == {}
        unblock(folder)
        writer.flush()
        feeder.put()
        writer.flush()
        status = feeder.look()
        assert (status.failing_since, status.last_error, status.is_behind) == (None, None, False)
        assert status.stored["sip"] == feeder.taken == 10 * ROWS and spool_files(store) == []
    with open_reader(store) as reader:
        assert reader.execute('SELECT outcome FROM "call"').fetchall() == [("ended",)]
    assert stored(store) == (10 * ROWS, 10 * ROWS)


def test_beyond_its_bound_rows_are_refused_and_nothing_that_was_taken_is_lost(store: Path) -> None:
    one = sum(rows.nbytes for rows in [conform("sip", sip_rows(ROWS), "n1")])
    settings = HASTY.model_copy(update={"spool_bytes": 2 * one, "queue_rows": 4 * ROWS, "flush_rows": ROWS})
    with Writer(store, "n1", settings) as writer:
        feeder = Feeder(writer)
        folder = blocked(store)
        deadline = time.monotonic() + PATIENCE_S
        while not (feeder.not_taken and (full := feeder.look().spool) and full.full):
            feeder.put()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert feeder.taken > 4 * ROWS, "more than there is room for in memory"
        unblock(folder)
        writer.flush()
        assert feeder.look().stored == {"sip": feeder.taken}
    assert stored(store) == (feeder.taken, feeder.taken)


def test_what_cannot_be_written_at_stop_is_stored_by_the_next_run_with_ids_of_its_own(store: Path) -> None:
    writer = Writer(store, "n1", HASTY)
    feeder = Feeder(writer)
    folder = blocked(store)
    feeder.put(4)
    waits = writer.append("finding", [{"finding_id": "f1"}])
    status = writer.stop(timeout_s=0.1)
    assert status.spool is not None
    assert (status.stored, status.lost, status.spool.rows) == ({}, {"finding": 1}, 4 * ROWS)
    with pytest.raises(StoreError, match="given up at stop"):
        waits.result(0)
    unblock(folder)
    with Writer(store, "n1", HASTY) as again:
        assert again.last_msg_id == 4 * ROWS
        again.flush()
        assert again.status().recovered == {"sip": 4 * ROWS} and again.status().stored == {}
    assert stored(store) == (4 * ROWS, 4 * ROWS)


def test_a_batch_that_was_stored_before_a_crash_is_not_stored_again(store: Path) -> None:
    with Writer(store, "n1", HASTY):
        pass
    paths = StorePaths.of(store)
    tables = {"sip": conform("sip", sip_rows(ROWS), "n1")}
    Spool(paths.spool(), 10**9, "n1").write(1, "0badcafe", tables)
    catalog = Catalog(paths, "n1", HASTY, read_migrations())
    catalog.commit("0badcafe", tables, datetime.now(UTC))
    catalog.close()
    with Writer(store, "n1", HASTY) as writer:
        writer.flush()
        assert spool_files(store) == []
    assert stored(store) == (ROWS, ROWS)


# -- real faults -------------------------------------------------------------------------------------------


def _fill_and_die(store: Path) -> None:
    """In its own process: the store is blocked; once all is in the spool, a kill -9 of its own."""
    writer = Writer(store, "n1", HASTY)
    feeder = Feeder(writer)
    feeder.put(2)
    writer.flush()
    blocked(store)
    feeder.put(5)
    feeder.spooled()
    print(feeder.taken, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)


def test_kill_9_with_rows_in_the_spool_costs_none_of_them(store: Path) -> None:
    died = in_process("fill_and_die", store)
    assert died.returncode == -signal.SIGKILL, died.stderr
    taken = int(died.stdout.split()[-1])
    assert len(spool_files(store)) >= 1
    unblock(store / "files" / "main" / "sip")
    with Writer(store, "n1", HASTY) as writer:
        assert writer.last_msg_id == taken == 7 * ROWS
        feeder = Feeder(writer)
        feeder.put(1)
        writer.flush()
    assert stored(store) == (taken + ROWS, taken + ROWS)


def _disk_full(store: Path, elsewhere: Path) -> None:
    """In its own process: no file may grow beyond a limit, which is what a full disk or a quota looks like; the files
    of the spool fit under it for a while, those of the store do not."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    with Writer(store, "n1", HASTY.model_copy(update={"spool_dir": elsewhere})) as writer:
        feeder = Feeder(writer)
        feeder.put(2)
        writer.flush()
        catalog = max(file.stat().st_size for file in store.iterdir())
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
        feeder.put(3)
        feeder.wait_for(lambda status: status.spool and status.spool.error, "a spool that is full as well")
        assert feeder.look().stored == {"sip": 2 * ROWS}
        assert not list(elsewhere.rglob("*.part"))
        # Now a batch fits, but the catalog's log, longer by then, may not grow.
        assert catalog > 40_000
        resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY))
        for _ in range(40):
            feeder.put()
            time.sleep(0.01)
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        writer.flush()
        assert feeder.look().stored == {"sip": feeder.taken} == {"sip": 45 * ROWS}


def test_a_full_disk_costs_no_row_once_there_is_room_again(store: Path, tmp_path: Path) -> None:
    run = in_process("disk_full", store, tmp_path / "elsewhere")
    assert run.returncode == 0, run.stderr
    assert stored(store) == (45 * ROWS, 45 * ROWS)


class StuckDisk:
    """The folder of messages on a disk that neither writes nor fails: each new file there is a FIFO without a reader,
    made the moment before it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fifos: list[Path] = []
        self.is_stuck = True
        self._write_file = parquet._write_file
        monkeypatch.setattr(parquet, "_write_file", self._write)

    def _write(self, file: Path, rows: pa.Table, how: Any) -> None:
        if self.is_stuck:
            os.mkfifo(file)
            self.fifos.append(file)
        self._write_file(file, rows, how)

    def let_go(self) -> None:
        """The write that hangs ends with an error, the next ones work."""
        self.is_stuck = False
        for fifo in self.fifos:
            os.close(os.open(fifo, os.O_RDONLY | os.O_NONBLOCK))


def test_a_stuck_disk_stops_nobody_but_the_writer(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Writer(store, "n1", HASTY) as writer:
        feeder = Feeder(writer)
        feeder.put(2)
        writer.flush()
        disk = StuckDisk(monkeypatch)
        feeder.put(4)
        status = feeder.spooled()
        assert status.errors == 0 and status.failing_since is not None
        assert "stuck" in (status.last_error or "")
        disk.let_go()
        writer.flush()
        assert feeder.look().stored == {"sip": 6 * ROWS}
    assert stored(store) == (6 * ROWS, 6 * ROWS)
    assert spool_files(store) == []


def test_a_stop_on_a_stuck_disk_ends_with_all_in_the_spool(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.store.writer._STUCK_S", 0.1)
    writer = Writer(store, "n1", HASTY)
    feeder = Feeder(writer)
    disk = StuckDisk(monkeypatch)
    feeder.put(3)
    feeder.spooled()
    status = writer.stop(timeout_s=0.1)
    assert status.spool is not None and (status.spool.rows, status.lost) == (3 * ROWS, {})
    disk.let_go()
    writer._thread.join(PATIENCE_S)
    writer._close()
    writer._lock.release()
    with Writer(store, "n1", HASTY) as again:
        again.flush()
    assert stored(store) == (3 * ROWS, 3 * ROWS)


# -- rows that can never be stored ---------------------------------------------------------------------------


def poisoned(rows: int, at: list[int], first_id: int) -> pa.Table:
    """Messages; those at these places came in the year 11000, for which there can be no folder."""
    table = sip_rows(rows, first_id)
    came = table.column("received_at").cast(pa.int64()).to_pylist()
    for n in at:
        came[n] = 285_000_000_000 * 10**6
    return table.set_column(1, "received_at", pa.array(came, pa.int64()).cast(pa.timestamp("us", "UTC")))


def test_rows_that_can_never_be_stored_are_set_aside_alone(store: Path) -> None:
    with Writer(store, "n1", HASTY) as writer:
        writer.put("weird", [{"kind": "x"}])
        writer.put("sip", poisoned(ROWS, [0, 1, 77, ROWS - 1], 1))
        writer.put("sip", sip_rows(ROWS, ROWS + 1))
        writer.flush()
        status = writer.status()
        assert (status.stored, status.refused) == ({"weird": 1, "sip": 2 * ROWS - 4}, {"sip": 4})
        assert (status.failing_since, status.queued_rows) == (None, 0)
    found = [
        read_batch(file)["sip"].column("msg_id").to_pylist() for file in sorted((store / "refused").iterdir())
    ]
    assert sorted(found) == [[1], [2], [78], [ROWS]]
    assert stored(store) == (2 * ROWS - 4, 2 * ROWS - 4)


def test_setting_rows_aside_goes_on_after_a_crash_where_it_was(store: Path) -> None:
    with Writer(store, "n1", HASTY):
        pass
    paths = StorePaths.of(store)
    tables = {"sip": conform("sip", poisoned(ROWS, [5], 1), "n1")}
    Spool(paths.spool(), 10**9, "n1").write(1, "0badcafe", tables)
    catalog = Catalog(paths, "n1", HASTY, read_migrations())
    half = ROWS // 2
    catalog.commit(f"0badcafe.sip.{half}-{half}", {"sip": tables["sip"].slice(half, half)}, datetime.now(UTC))
    catalog.close()
    with Writer(store, "n1", HASTY) as writer:
        writer.flush()
    assert len(list(paths.refused.iterdir())) == 1
    assert stored(store) == (ROWS - 1, ROWS - 1)


def test_a_full_disk_is_never_taken_for_rows_that_cannot_be_stored(store: Path) -> None:
    with Writer(store, "n1", HASTY) as writer:
        folder = blocked(store)
        writer.put("sip", sip_rows(ROWS))
        deadline = time.monotonic() + PATIENCE_S
        while writer.status().errors < 6:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert writer.status().refused == {} and not StorePaths.of(store).refused.exists()
        unblock(folder)
        writer.flush()
        assert writer.status().stored == {"sip": ROWS}


# -- the catalog is held, moved, deleted ---------------------------------------------------------------------


@contextmanager
def holder(catalog: Path) -> Iterator[subprocess.Popen[str]]:
    """Somebody's DuckDB shell on the catalog, until the end of the block."""
    script = "import duckdb, sys; c = duckdb.connect(sys.argv[1]); print(1, flush=True); sys.stdin.read()"
    arguments = [sys.executable, "-c", script, str(catalog)]
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdin
        other.stdout.readline()
        try:
            yield other
        finally:
            other.stdin.close()
            other.wait(PATIENCE_S)


def test_a_catalog_that_is_held_is_waited_for(store: Path) -> None:
    with Writer(store, "n1", HASTY) as writer:
        Feeder(writer).put(2)
    with holder(store / "catalog.duckdb") as other:
        writer = Writer(store, "n1", HASTY, patient=True)
        assert writer.last_msg_id == 2 * ROWS, "what is there is known all the same"
        feeder = Feeder(writer)
        feeder.put(3)
        status = feeder.spooled()
        assert f"pid {other.pid}" in (status.last_error or "") and status.failing_since is not None
        with writer.as_it_was() as past, past.cursor() as cursor:
            assert cursor.execute("SELECT count(*) FROM lake.sip").fetchone() == (2 * ROWS,)
    writer.flush()
    assert feeder.look().stored == {"sip": 3 * ROWS}
    writer.stop()
    assert stored(store) == (5 * ROWS, 5 * ROWS)


def test_a_catalog_that_was_moved_is_waited_for(store: Path) -> None:
    with Writer(store, "n1", HASTY) as writer:
        feeder = Feeder(writer)
        feeder.put(2)
        writer.flush()
        (store / "catalog.duckdb").rename(store / "away")
        feeder.put(3)
        status = feeder.wait_for(lambda status: status.errors, "that it is noticed")
        assert "was moved to" in (status.last_error or "") and "away" in (status.last_error or "")
        feeder.spooled()
        (store / "away").rename(store / "catalog.duckdb")
        writer.flush()
        assert feeder.look().stored == {"sip": 5 * ROWS}
    assert stored(store) == (5 * ROWS, 5 * ROWS)


@pytest.mark.parametrize("then", ["goes on", "stops"])
def test_a_catalog_that_was_deleted_is_written_again(store: Path, then: str) -> None:
    with Writer(store, "n1", HASTY.model_copy(update={"serve_readers": True})) as writer:
        feeder = Feeder(writer)
        feeder.put(2)
        writer.flush()
        for file in store.glob("catalog.duckdb*"):
            file.unlink()
        if then == "goes on":
            feeder.put(3)
            writer.flush()
            assert stored(store) == (feeder.taken, feeder.taken)
    assert stored(store) == (feeder.taken, feeder.taken)


def test_files_that_were_moved_away_are_waited_for(store: Path) -> None:
    with Writer(store, "n1", HASTY) as writer:
        feeder = Feeder(writer)
        feeder.put(2)
        writer.flush()
        (store / "files").rename(store / "away")
        feeder.put(3)
        status = feeder.spooled()
        assert "files is gone" in (status.last_error or "")
        (store / "away").rename(store / "files")
        writer.flush()
        assert feeder.look().stored == {"sip": 5 * ROWS}
    assert stored(store) == (5 * ROWS, 5 * ROWS)


def test_a_start_without_the_catalog_clears_no_files_away(store: Path) -> None:
    with Writer(store, "n1", HASTY) as writer:
        Feeder(writer).put(1)
    (store / "catalog.duckdb").rename(store / "away")
    with pytest.raises(StoreError, match="put the catalog back"):
        Writer(store, "n1", HASTY)
    (store / "away").rename(store / "catalog.duckdb")
    assert stored(store) == (ROWS, ROWS)


# -- what is said beforehand and afterwards ----------------------------------------------------------------------


def test_check_and_info_tell_of_the_spool(store: Path, tmp_path: Path) -> None:
    with Writer(store, "n1", HASTY) as writer:
        folder = blocked(store)
        Feeder(writer).put(1)
        writer.stop(timeout_s=0.1)
    unblock(folder)
    with Reader(store) as reader:
        _, whole = overview(reader, store, RetentionSettings())
    (file,) = spool_files(store)
    assert (whole["spool_files"], whole["spool_bytes"], whole["refused_files"]) == (1, file.stat().st_size, 0)
    (tmp_path / "file").touch()
    for where, fine in ((tmp_path, True), (tmp_path / "file" / "below", False)):
        how = {"path": store, "writer": {"spool_dir": where}}
        settings = Settings(store=how, tap={"listen": ["udp:127.0.0.1:0"]})
        (told,) = (check for check in run_checks(settings) if check.what == "spool")
        assert told.ok is fine and str(where) in told.detail
        if not fine:
            with pytest.raises(StoreError, match=r"store\.writer\.spool_dir"):
                Writer(store, "n1", settings.store.writer)


# -- the whole tap -----------------------------------------------------------------------------------------------


def happen(tap: RunningTap, folder: Path, user: str) -> int:
    """A ghost call, now; how many messages it is made of."""
    records = list(read_recording(ghost_call(folder, user)))
    with tap.connected() as sock:
        for record in restamp(records, time.time_ns() // 1000):
            sock.send(record.data)
    return len(records)


def test_a_tap_finds_ghost_calls_while_its_store_is_locked_and_is_killed_on_top_of_that(
    tmp_path: Path,
) -> None:
    Writer(tmp_path / "store", "n1", HASTY).stop()
    hasty = ("spool_after=200ms", "flush_interval=100ms", "retry_wait_max=200ms")
    tap = RunningTap(tmp_path, *(f"--set=store.writer.{option}" for option in hasty))
    with holder(tap.store / "catalog.duckdb") as other:
        tap.start()
        sent = happen(tap, tmp_path, "ada")
        status = tap.wait_for(
            lambda now: now["received"] == sent and now["findings"] and now["spool"]["rows"] > sent,
            "a finding, and all in the spool",
        )
        assert (status["stored"], status["queued"], status["dropped"]) == (0, sent, 0)
        told = as_text(read_status(tap.store))
        assert "DOES NOT WRITE since" in told and f"pid {other.pid}" in told and "rows in" in told
        tap.kill()
    tap.start()
    tap.wait_for(lambda now: now["recovered"] == sent and now["spool"]["files"] == 0, "the spool is stored")
    more = happen(tap, tmp_path, "bea")
    status = tap.wait_for(lambda now: now["stored"] == more, "that it goes on")
    assert tap.stop() == 0
    assert tap.rows("SELECT count(*) AS rows, count(DISTINCT msg_id) AS ids FROM sip") == [
        {"rows": sent + more, "ids": sent + more}
    ]
    found = tap.rows("SELECT call_id, count(*) AS times FROM finding GROUP BY ALL ORDER BY call_id")
    assert found == [{"call_id": call_id_of(user), "times": 1} for user in ("ada", "bea")]


# -- this file as another process ------------------------------------------------------------------------------


def in_process(role: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """One of the parts below, played to its end in a process of its own."""
    arguments = [sys.executable, __file__, role, *map(str, paths)]
    return subprocess.run(arguments, capture_output=True, text=True, timeout=150, check=False)


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[1]))
    if sys.argv[1] == "fill_and_die":
        _fill_and_die(Path(sys.argv[2]))
    else:
        _disk_full(Path(sys.argv[2]), Path(sys.argv[3]))
