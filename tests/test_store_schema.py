"""The tables are what storage.md's reader was promised, stated once, and carried over from version to version."""

from __future__ import annotations

import shutil
from importlib import resources
from pathlib import Path

import pytest
from store_rows import QUIET, T0, sip_rows

from pipeline.errors import StoreError
from pipeline.store import schema
from pipeline.store.catalog import Catalog
from pipeline.store.lake import open_reader
from pipeline.store.parquet import conform
from pipeline.store.paths import StorePaths
from pipeline.store.writer import Writer

# The promise to everybody who writes SQL against the store.
SIP_COLUMNS = """
    ts received_at node agent_id agent_addr hep_version transport src_ip src_port dst_ip dst_port direction
    call_id correlation_id method status reason cseq from_user from_host from_display from_tag to_user to_host
    to_tag ruri_user ruri_host via_branch contact expires user_agent reason_header x_cid sdp_ip sdp_port
    sdp_codecs payload payload_bytes msg_id batch_id recorded_at
""".split()
WEIRD_COLUMNS = "ts received_at node agent_addr kind detail head bytes".split()
CALL_COLUMNS = """
    call_id node first_ts last_ts from_user from_host from_display to_user to_host ruri_user outcome invite_ts
    first_18x_ts answer_ts end_ts final_status final_reason srd_ms pdd_ms ring_ms talk_ms legs messages
    user_agent codec src_ip dst_ip updated_at
""".split()
TABLES = """
    sip rtcp log weird agent call registration cdr leg_quality finding action_attempt ingest_minute schema_version
""".split()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("schema") / "store"
    Writer(path, "n1", QUIET).stop()
    return path


def test_columns_of_the_message_tables_are_as_promised() -> None:
    assert list(schema.columns("sip")) == SIP_COLUMNS
    assert list(schema.columns("weird")) == WEIRD_COLUMNS


def test_every_table_is_there_and_every_row_names_its_node(store: Path) -> None:
    with open_reader(store) as reader:
        for table in TABLES:
            columns = [row[0] for row in reader.execute(f'DESCRIBE "{table}"').fetchall()]
            assert "node" in columns, table
        assert [row[0] for row in reader.execute('DESCRIBE "call"').fetchall()] == CALL_COLUMNS


def test_what_python_reads_from_the_migrations_is_what_the_lake_has(store: Path) -> None:
    sql_types = {"TIMESTAMP WITH TIME ZONE": "TIMESTAMPTZ"}
    with open_reader(store) as reader:
        for table, columns in schema.tables().items():
            described = reader.execute(f"DESCRIBE {table}").fetchall()
            assert {name: sql_types.get(kind, kind) for name, kind, *_ in described} == columns
            result = reader.execute(f"FROM {table} LIMIT 0").to_arrow_table()
            expected = schema.arrow_schema(table)
            assert result.column_names == expected.names


def test_unknown_tables_are_refused() -> None:
    with pytest.raises(StoreError, match="no table 'sips'"):
        schema.columns("sips")


def _invented_migrations(folder: Path, sql: str) -> list[schema.Migration]:
    """The first shipped migration and an invented second one."""
    folder.mkdir()
    shipped = resources.files("pipeline.store.migrations") / "0001_initial.sql"
    with resources.as_file(shipped) as file:
        shutil.copy(file, folder)
    (folder / "0002_invented.sql").write_text(sql)
    return schema.read_migrations(folder)


def _first_version(path: Path, migrations: list[schema.Migration]) -> StorePaths:
    """A store made by the first migration alone, with rows in it."""
    paths = StorePaths.of(path)
    paths.root.mkdir()
    first = Catalog(paths, "n1", QUIET, migrations[:1])
    first.commit("batch-1", {"sip": conform("sip", sip_rows(100), "n1")}, T0)
    assert first.version == 1
    first.close()
    return paths


def test_an_older_store_is_brought_up_to_date_with_its_rows(tmp_path: Path) -> None:
    migrations = _invented_migrations(
        tmp_path / "migrations",
        """
        ALTER TABLE sip ADD COLUMN p_asserted_identity VARCHAR;
        CREATE TABLE trunk (
            node VARCHAR,
            name VARCHAR
        );
        """,
    )
    assert schema.parse_tables(migrations)["sip"]["p_asserted_identity"] == "VARCHAR"
    assert schema.parse_tables(migrations)["trunk"] == {"node": "VARCHAR", "name": "VARCHAR"}
    paths = _first_version(tmp_path / "store", migrations)
    second = Catalog(paths, "n1", QUIET, migrations)
    try:
        assert second.version == 2
        run = second.connection.execute
        assert run("SELECT count(*), count(p_asserted_identity), sum(msg_id) FROM sip").fetchone() == (
            100,
            0,
            5050,
        )
        assert run("SELECT count(*) FROM trunk").fetchone() == (0,)
        assert run("SELECT version, name FROM schema_version ORDER BY 1").fetchall() == [
            (1, "initial"),
            (2, "invented"),
        ]
    finally:
        second.close()
    again = Catalog(paths, "n1", QUIET, migrations)
    assert again.version == 2
    again.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    migrations = _invented_migrations(
        tmp_path / "migrations",
        "ALTER TABLE sip ADD COLUMN a VARCHAR; ALTER TABLE nosuch ADD COLUMN b VARCHAR;",
    )
    paths = _first_version(tmp_path / "store", migrations)
    with pytest.raises(StoreError, match="cannot bring the store at .* to version 2"):
        Catalog(paths, "n1", QUIET, migrations)
    first = Catalog(paths, "n1", QUIET, migrations[:1])
    of_version_1 = [name for name in SIP_COLUMNS if name != "recorded_at"]
    assert [row[0] for row in first.connection.execute("DESCRIBE sip").fetchall()] == of_version_1
    assert first.connection.execute("SELECT count(*) FROM sip").fetchone() == (100,)
    first.close()


def test_a_store_newer_than_the_code_is_refused_in_words(tmp_path: Path) -> None:
    shipped = schema.read_migrations()
    newest = len(shipped)
    invented = schema.Migration(newest + 1, "invented", "CREATE VIEW v AS SELECT 1 AS one;")
    paths = StorePaths.of(tmp_path / "store")
    paths.root.mkdir()
    Catalog(paths, "n1", QUIET, [*shipped, invented]).close()
    known = f"has version {newest + 1}, and this hepduck knows only up to {newest}: install a newer one"
    with pytest.raises(StoreError, match=known):
        Writer(paths.root, "n1", QUIET)


def test_migrations_with_a_gap_are_refused(tmp_path: Path) -> None:
    (tmp_path / "0001_a.sql").write_text("")
    (tmp_path / "0003_c.sql").write_text("")
    with pytest.raises(StoreError, match="not numbered"):
        schema.read_migrations(tmp_path)
