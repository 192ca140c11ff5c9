"""The catalog is written anew under the feet of those who use it, and nobody falls."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from store_rows import PATIENCE_S, sip_rows
from upkeep_store import ask, empty_store

from pipeline.errors import StoreError
from pipeline.store.lake import Reader
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

NOW = datetime.now(UTC)


@pytest.fixture
def writer(tmp_path: Path) -> Iterator[Writer]:
    with Writer(empty_store(tmp_path / "store"), "n1", WriterSettings(flush_interval="5ms")) as made:
        made.put("sip", sip_rows(600, 1, NOW))
        made.flush()
        yield made


def test_who_reads_and_writes_goes_on(writer: Writer) -> None:
    before = writer.paths.catalog.stat().st_ino
    tables = ask(writer, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake' ORDER BY 1")
    with Reader(writer.paths.root) as reader:
        assert reader.query("SELECT count(*) AS n FROM sip").to_pylist() == [{"n": 600}]
        writer.put("sip", sip_rows(600, 601, NOW))
        writer.renew_catalog()
        writer.put("sip", sip_rows(600, 1201, NOW))
        writer.flush()
        assert reader.query("SELECT count(DISTINCT msg_id) AS n FROM sip").to_pylist() == [{"n": 1800}]
    assert writer.paths.catalog.stat().st_ino != before
    assert (
        ask(writer, "SELECT table_name FROM duckdb_tables() WHERE database_name = 'lake' ORDER BY 1")
        == tables
    )
    assert writer.status().errors == 0


def test_who_holds_a_cursor_and_waits_for_a_commit_is_waited_for(writer: Writer) -> None:
    renewed = threading.Thread(target=writer.renew_catalog)
    with writer.cursor() as cursor:
        renewed.start()
        renewed.join(0.2)
        writer.put("sip", sip_rows(600, 601, NOW))
        writer.flush(PATIENCE_S)  # would wait for good, if the commits were held up already
        assert renewed.is_alive()
        assert cursor.execute("SELECT count(*) FROM lake.sip").fetchone() == (1200,)
    renewed.join(PATIENCE_S)
    assert not renewed.is_alive()
    assert ask(writer, "SELECT count(*) FROM sip") == [(1200,)]


def test_who_does_not_let_go_keeps_the_catalog_as_it_is(writer: Writer) -> None:
    before = writer.paths.catalog.stat().st_ino
    with writer.cursor() as cursor:
        with pytest.raises(StoreError, match="in use by a long question or job"):
            writer.renew_catalog(patience_s=0.1)
        assert cursor.execute("SELECT count(*) FROM lake.sip").fetchone() == (600,)
    assert writer.paths.catalog.stat().st_ino == before
    writer.put("sip", sip_rows(600, 601, NOW))
    writer.flush()
    assert ask(writer, "SELECT count(*) FROM sip") == [(1200,)]


def test_a_stop_cuts_upkeep_off(tmp_path: Path) -> None:
    with Writer(empty_store(tmp_path / "store"), "n1", WriterSettings(serve_readers=False)) as writer:
        begun = threading.Event()
        ended: list[BaseException] = []

        def tend() -> None:
            try:
                with writer.tending() as cursor:
                    begun.set()
                    cursor.execute("SELECT count(*) FROM range(10_000_000) a, range(10_000_000) b").fetchall()
            except Exception as error:  # noqa: BLE001 - to be looked at below
                ended.append(error)

        upkeep = threading.Thread(target=tend)
        upkeep.start()
        assert begun.wait(PATIENCE_S)
    upkeep.join(PATIENCE_S)
    assert "Interrupted" in str(ended[0])
    with pytest.raises(StoreError, match="the writer is stopped"), writer.tending():
        pass
