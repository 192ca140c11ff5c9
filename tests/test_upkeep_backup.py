"""A backup is the store of one moment, whole, whatever the tap does meanwhile and afterwards."""

from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from store_rows import QUIET, sip_rows
from upkeep_store import ask, empty_store

from pipeline.errors import StoreError
from pipeline.store import upkeep
from pipeline.store.backup import back_up
from pipeline.store.check import check_store
from pipeline.store.lake import open_reader
from pipeline.store.ledger import Ledger
from pipeline.store.paths import StorePaths
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

NOW = datetime.now(UTC)
BUSY = WriterSettings(serve_readers=False, flush_interval="5ms")


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer(empty_store(tmp_path / "store"), "n1", BUSY) as made:
        yield made


class Load(threading.Thread):
    """Puts messages and calls, and tends the store, until told to stop."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(daemon=True)
        self.writer = writer
        self.done = threading.Event()

    def run(self) -> None:
        n = 0
        while not self.done.wait(0.005):
            self.writer.put("sip", sip_rows(60, 1 + 60 * n, NOW))
            self.writer.append("finding", [{"finding_id": f"f{n}"}])  # in the same commit
            n += 1
            if n % 20 == 0:
                self.writer.merge()
                with self.writer.tending() as cursor:
                    upkeep.expire(cursor, timedelta(0))
                    upkeep.clean_up(cursor, timedelta(0))


def test_a_backup_under_load_opens_and_is_whole(writer: Writer, tmp_path: Path) -> None:
    with Ledger(writer.paths.ledger) as ledger:
        ledger.claim("fake_call", "call-1", "device", finding_id="f", at_us=1)
        load = Load(writer)
        load.start()
        copies = []
        for n in range(3):
            while len(ask(writer, "FROM finding")) < 30 * (n + 1):
                pass
            copies.append(Path(back_up(writer, tmp_path / f"backup{n}").path))
        load.done.set()
        load.join()
    shutil.rmtree(writer.paths.files / "main" / "sip")  # whatever becomes of the original
    seen = []
    for copy in copies:
        assert [each.what for each in check_store(copy) if not each.ok] == []
        with open_reader(copy) as reader:
            rows, ids, payloads, findings = reader.execute(
                "SELECT count(*), count(DISTINCT msg_id), count(payload), (SELECT count(*) FROM finding) FROM sip"
            ).fetchone() or (0, 0, 0, 0)
        assert rows == ids == payloads == 60 * findings
        seen.append(rows)
        with Ledger(StorePaths.of(copy).ledger) as restored:
            assert [attempt.call_id for attempt in restored.attempts(0)] == ["call-1"]
    assert seen == sorted(seen) and len(set(seen)) == 3
    with Writer(copies[0], "n1", QUIET) as restored:  # and it goes on from there
        restored.put("sip", sip_rows(60, 10**9, NOW))
        restored.flush()
        restored.merge()
        assert ask(restored, "SELECT count(*) FROM sip") == [(seen[0] + 60,)]


def test_files_are_linked_where_they_can_be(writer: Writer, tmp_path: Path) -> None:
    writer.put("sip", sip_rows(600, at=NOW))
    writer.flush()
    done = back_up(writer, tmp_path / "backup")
    files = list((tmp_path / "backup" / "files").rglob("*.parquet"))
    assert done.files == done.linked == len(files)
    assert done.bytes == sum(file.stat().st_size for file in files)
    assert all(file.stat().st_nlink == 2 for file in files)
    assert (tmp_path / "backup").stat().st_mode & 0o777 == 0o700


def test_onto_another_disk_files_are_copied(writer: Writer, tmp_path: Path) -> None:
    shared_memory = Path("/dev/shm")
    if shared_memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.fail("this machine has one file system only")
    writer.put("sip", sip_rows(600, at=NOW))
    writer.flush()
    target = shared_memory / f"hepduck-test-{os.getpid()}"
    try:
        done = back_up(writer, target)
        assert (done.linked, done.files > 0) == (0, True)
        assert all(each.ok for each in check_store(target))
    finally:
        shutil.rmtree(target)


def test_nothing_is_overwritten_and_nothing_half_made_is_left(writer: Writer, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    with pytest.raises(StoreError, match="is there already"):
        back_up(writer, tmp_path / "there")
    with pytest.raises(StoreError, match="inside of the store"):
        back_up(writer, writer.paths.root / "backup")
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="cannot back up to"):
        back_up(writer, tmp_path / "file" / "backup")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "store", "there"]
