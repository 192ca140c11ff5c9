"""`check_store` passes a whole store, and names what is broken in one that was damaged on purpose."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from store_rows import QUIET, sip_rows
from upkeep_store import empty_store

from pipeline.store import upkeep
from pipeline.store.check import check_store
from pipeline.store.ledger import Ledger
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

NOW = datetime.now(UTC)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Messages in three files, rows deleted from one of them, and a ledger."""
    path = empty_store(tmp_path / "store")
    with Writer(path, "n1", QUIET) as writer:
        for n in range(3):
            writer.put("sip", sip_rows(600, 1 + 600 * n, NOW))
            writer.flush()
        with writer.tending() as cursor:
            cursor.execute("DELETE FROM sip WHERE msg_id = 7")
    with Ledger(path / "ledger.sqlite") as ledger:
        ledger.claim("fake_call", "c", "d", finding_id="f", at_us=1)
    return path


def sip_files(store: Path) -> list[Path]:
    files = (store / "files" / "main" / "sip").rglob("*.parquet")
    return sorted(file for file in files if not file.name.endswith("-delete.parquet"))


def test_a_whole_store_passes(store: Path) -> None:
    found = list(check_store(store))
    assert [each.what for each in found if not each.ok] == []
    assert len(found) == 5
    assert {each.what: each.detail for each in found}["ids of SIP messages"] == "1799 messages"


def test_a_store_that_is_written_and_tended_meanwhile_passes(tmp_path: Path) -> None:
    path = empty_store(tmp_path / "store")
    with Writer(path, "n1", WriterSettings(flush_interval="10ms")) as writer:
        for n in range(12):
            writer.put("sip", sip_rows(600, 1 + 600 * n, NOW))
            writer.flush()
            if n % 4 == 3:
                writer.merge()
                with writer.tending() as cursor:
                    upkeep.expire(cursor, timedelta(0))
                    upkeep.clean_up(cursor, timedelta(0))
                assert all(each.ok for each in check_store(path, sample=3))


def _take_away(store: Path) -> str:
    sip_files(store)[0].unlink()
    return "files of the catalog"


def _leave_behind(store: Path) -> str:
    (file,) = sip_files(store)[:1]
    orphan = file.with_name("orphan.parquet")
    orphan.write_bytes(file.read_bytes())
    os.utime(orphan, (1e9, 1e9))
    return "files on the disk"


def _cut(store: Path) -> str:
    file = sip_files(store)[0]
    file.write_bytes(file.read_bytes()[:-100])
    return "rows and bytes of files"


def _exchange(store: Path) -> str:
    file = sip_files(store)[0]
    pq.write_table(pq.read_table(file).slice(0, 500), file)
    return "rows and bytes of files"


def _store_twice(store: Path) -> str:
    with Writer(store, "n1", QUIET) as writer:
        writer.put("sip", sip_rows(60, 1200, NOW))
    return "ids of SIP messages"


def _spoil_ledger(store: Path) -> str:
    ledger = store / "ledger.sqlite"
    ledger.write_bytes(ledger.read_bytes()[:4096] + b"\xff" * 8192)
    return "action ledger"


@pytest.mark.parametrize("damage", [_take_away, _leave_behind, _cut, _exchange, _store_twice, _spoil_ledger])
def test_damage_is_named(store: Path, damage: Callable[[Path], str]) -> None:
    expected = damage(store)
    wrong = {each.what: each.detail for each in check_store(store) if not each.ok}
    assert expected in wrong, wrong
    if "files" in expected:
        assert "files/main/sip/" in wrong[expected]
