"""A store of any version that there ever was, opened by this one: all its rows are there, whatever cuts that off."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import old_store
import pytest
from filled import Run, run_in_process  # noqa: F401 - a fixture
from old_store import CALL, CDRS_SINCE, CODES, COUNTS_SINCE, NEWEST, QUALITY_SINCE, SHIPPED, make_old_store

import pipeline as hd
from pipeline.store import call_queries, finding_queries, queries
from pipeline.store.catalog import Catalog
from pipeline.store.check import check_store
from pipeline.store.heard_queries import overview
from pipeline.store.lake import open_reader
from pipeline.store.paths import StorePaths
from pipeline.store.queries import Source, rows_of
from pipeline.store.rollups import count_messages
from pipeline.store.schema import Migration
from pipeline.store.writer import Writer


def version_of(path: Path) -> int:
    with open_reader(path, of_any_version=True) as reader:
        found = reader.execute("SELECT max(version), count(*) FROM schema_version").fetchone()
    assert found and found[0] == found[1]
    return int(found[0])


def assert_all_there(source: Source, version: int) -> None:
    """What a store of `version` held is what those find who ask this one."""
    (call,) = rows_of(source, *call_queries.calls(source, "from:alice state:canceled"))
    assert (call["call_id"], call["messages"]) == (CALL, len(CODES))
    assert call["r_factor"] == (60.0 if version >= QUALITY_SINCE else None)
    told = [(row["ts"], row["status"], row["method"]) for row in queries.call_messages(source, CALL)]
    sent = [row["ts"] for row in old_store.rows()["sip"]]
    assert told == [(ts, status, method) for ts, (status, method) in zip(sent, CODES, strict=True)]
    (finding,) = rows_of(source, *finding_queries.findings())
    assert (finding["call_id"], finding["late_ms"], finding["trusted"]) == (CALL, 1628, True)
    (attempt,) = queries.action_attempts(source, finding_id="f1")
    assert (attempt["action"], attempt["outcome"]) == ("fake_call", "dry_run")
    (binding,) = queries.registrations(source)
    assert (binding["aor"], binding["event"]) == ("sip:bob@sip.test", "registered")
    cdrs = rows_of(source, "SELECT call_id FROM cdr")
    assert cdrs == ([{"call_id": CALL}] if version >= CDRS_SINCE else [])
    heard = overview(source, ("total", "worst"))
    if version >= QUALITY_SINCE:
        (total,) = heard["total"]
        assert (total["calls"], total["rated"], total["r_p50"]) == (1, 2, 70.0)
        assert [(row["call_id"], row["r_factor"]) for row in heard["worst"]] == [(CALL, 60.0)]
    else:
        assert heard["worst"] == []
    counted = rows_of(source, "SELECT sum(messages)::INTEGER AS n FROM sip_minute")
    assert counted == [{"n": len(CODES) if version >= COUNTS_SINCE else None}]


@pytest.mark.parametrize("version", range(1, NEWEST + 1))
def test_a_store_of_that_version_is_all_there_after_the_upgrade(version: int, tmp_path: Path) -> None:
    paths = make_old_store(tmp_path / "store", version)
    upgraded = Catalog(paths, "n1", old_store.QUIET, SHIPPED)
    try:
        assert upgraded.version == NEWEST
        assert_all_there(upgraded.connection, version)
    finally:
        upgraded.close()


def test_an_upgrade_that_was_killed_at_each_of_its_ends(tmp_path: Path) -> None:
    """The store is as before or as after, never between, and the next start does the rest."""
    path = make_old_store(tmp_path / "store", 1).root
    for killed_before in (NEWEST, NEWEST + 1):  # in the last step; while all is committed
        argv = [sys.executable, old_store.__file__, str(path)]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as upgrade:
            assert upgrade.stdin and upgrade.stdout
            for version in range(2, min(killed_before, NEWEST) + 1):
                assert upgrade.stdout.readline() == f"{version}\n"
                if version < killed_before:
                    upgrade.stdin.write("\n")
                    upgrade.stdin.flush()
            if killed_before > NEWEST:
                time.sleep(random.uniform(0, 0.05))
            upgrade.kill()
            assert upgrade.wait(60) in ({-9} if killed_before <= NEWEST else {-9, 0})
        assert version_of(path) in ({1} if killed_before <= NEWEST else {1, NEWEST})
    with Writer(path, "n1", old_store.QUIET) as writer:
        writer.merge()  # upkeep is at ease with the older files
        assert count_messages(writer) == len(CODES)
        assert count_messages(writer) == 0
    with hd.Store(path) as store:
        assert list(hd.calls("state:canceled", store=store)["call_id"]) == [CALL]
        assert "CANCEL" in str(hd.ladder(CALL, store=store))
    assert all(each.ok for each in check_store(path))


LISTEN = ("--no-config", "--set", 'tap.listen=["udp:127.0.0.1:0"]')
B = Path(__file__).parent / "data" / "kamailio" / "b.hep"


@pytest.mark.parametrize(
    "command",
    [("run", *LISTEN), ("check", *LISTEN), ("import", B), ("calls",)],
    ids=lambda command: command[0],
)
def test_a_store_that_is_newer_than_the_program(command: tuple[str, ...], newer: Path, run_here: Run) -> None:
    done = run_here(*command, "--store", newer, cwd=newer.parent)
    refusal = (
        f"the store at {newer} has version {NEWEST + 1}, and this hepduck knows only up to {NEWEST}:"
        " install a newer one"
    )
    assert len([line for line in (done.stdout + done.stderr).splitlines() if line.endswith(refusal)]) == 1
    assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert version_of(newer) == NEWEST + 1


@pytest.fixture(scope="module")
def newer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a migration that nobody has written yet."""
    paths = StorePaths.of(tmp_path_factory.mktemp("newer") / "store")
    paths.root.mkdir()
    invented = Migration(NEWEST + 1, "invented", "CREATE VIEW invented AS SELECT 1 AS one;")
    Catalog(paths, "n1", old_store.QUIET, [*SHIPPED, invented]).close()
    return paths.root


def test_reading_a_store_that_is_older_than_the_program(tmp_path: Path, run_here: Run) -> None:
    paths = StorePaths.of(tmp_path / "store")
    paths.root.mkdir()
    Catalog(paths, "n1", old_store.QUIET, SHIPPED[:-1]).close()
    path = paths.root
    done = run_here("calls", "--store", path, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"hepduck: the store at {path} has version {NEWEST - 1}, and this hepduck reads version {NEWEST}: "
        f"a start of its tap, or `hepduck store compact --store {path}`, brings it up to date\n"
    )
    done = run_here("check", *LISTEN, "--store", path, cwd=tmp_path)
    assert f"ok    store: {path} (version {NEWEST - 1}, will become {NEWEST})\n" in done.stdout
    assert done.returncode == 0
