"""CDRs beside the running tap, and `hepduck cdr`: sources work, break and heal while everything else goes on."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from cdr_recordings import ZONE, mapping, path
from databases import MariaDB, PostgreSQL
from tap import RunningTap, eventually, hep3, hepduck, sip

MASTER = path("r22-main", "Master.csv")


def running(folder: Path, sources: list[dict[str, Any]]) -> RunningTap:
    """A tap with these sources, polled all the time."""
    often = {"interval": "200ms", "jitter": "0s", "timeout": "5s"}
    return RunningTap(folder, "--set", f"cdr={json.dumps([{**often, **source} for source in sources])}")


def source_states(tap: RunningTap) -> dict[str, dict[str, Any]]:
    status = tap.status()
    return {source["source"]: source for source in status["cdr_sources"]} if status else {}


def counts(tap: RunningTap) -> dict[str, int]:
    query = "SELECT source, count(*) AS rows, count(DISTINCT source_row) AS keys FROM cdr GROUP BY ALL"
    rows = tap.rows(query)
    assert all(row["rows"] == row["keys"] for row in rows)
    return {row["source"]: row["rows"] for row in rows}


def test_sources_of_all_kinds_beside_the_tap(
    tmp_path: Path, mariadb: MariaDB, postgresql: PostgreSQL
) -> None:
    """Good ones are read as they grow, through a kill; broken ones are visible, and heal; the tap taps."""
    mariadb.load(path("r22-main", "cdr_extra.mysql.sql"), "cdr_extra", "service")
    postgresql.load(path("r22-main", "cdr_full.pg.sql"), "cdr_full", "service")
    lines = MASTER.read_bytes().splitlines(keepends=True)
    file, late = tmp_path / "Master.csv", tmp_path / "late.csv"
    file.write_bytes(b"".join(lines[:50]) + b"garbage\n")
    sources = [
        {"name": "maria", "source": mariadb.url("service"), "preset": "cdr_extra", "zone": ZONE},
        {"name": "pg", "source": postgresql.url("service")},
        {"name": "master", "source": str(file), "preset": "cdr_csv"},
        {"name": "password", "source": mariadb.url("service", password="wrong"), "preset": "cdr_extra"},
        {"name": "column", "source": postgresql.url("service"), "preset": "freepbx"},
        {"name": "late", "source": str(late), "preset": "cdr_csv"},
    ]
    good = {"maria": 102, "pg": 103}
    with running(tmp_path, sources) as tap:
        eventually(lambda: counts(tap) == {**good, "master": 50}, "all rows of the good sources")
        states = eventually(
            lambda: (now := source_states(tap)) and all(s["polls"] > 2 for s in now.values()) and now, "polls"
        )
        assert {name: state["state"] for name, state in states.items()} == {
            **dict.fromkeys(("maria", "pg", "master"), "ok"),
            **dict.fromkeys(("password", "column", "late"), "failing"),
        }
        assert "Access denied" in states["password"]["error"]
        assert 'column "calldate" does not exist' in states["column"]["error"]
        assert "no such file" in states["late"]["error"]
        assert states["master"]["refused"] == 1
        assert "line 51: 1 columns" in states["master"]["warning"]
        assert "wrong" not in json.dumps(states)
        shown = hepduck("cdr", "sources", "--json", "--store", tap.store, cwd=tmp_path)
        told = {row["source"]: row["state"] for row in map(json.loads, shown.stdout.splitlines())}
        assert told == {name: state["state"] for name, state in states.items()}
        assert "password: failing, 0 rows" in hepduck("status", "--store", tap.store, cwd=tmp_path).stdout

        with tap.connected() as sock:
            sock.send(hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", "1@cdr")))
        assert tap.settled(1)["stored"] == 1

        shutil.copy(MASTER, late)
        with file.open("ab") as out:
            out.write(b"".join(lines[50:]))
        every = {**good, "master": 103, "late": 103}
        eventually(lambda: counts(tap) == every, "what was appended")
        # Once per source and trouble, however often it is polled.
        assert tap.log().count("cdr source cannot be read") == 3

        tap.kill()
        mariadb.sql(
            "INSERT INTO service SELECT * FROM service WHERE uniqueid = '1795374114.0'"
        )  # the same row
        tap.start()
        eventually(lambda: all(s["polls"] > 1 for s in source_states(tap).values()), "polls after the kill")
        assert counts(tap) == every
        assert source_states(tap)["master"]["imported"] == 103
        assert tap.stop() == 0
    mariadb.sql("DROP TABLE service")
    postgresql.sql("DROP TABLE service")


def test_a_database_that_goes_and_comes_back(tmp_path: Path, mariadb: MariaDB) -> None:
    mariadb.load(path("r18", "cdr_full.mysql.sql"), "cdr_full", "comes")
    mariadb.sql("CREATE TABLE goes AS SELECT * FROM comes WHERE sequence <= 10")
    with running(tmp_path, [{"name": "maria", "source": mariadb.url("goes")}]) as tap:
        first = eventually(lambda: counts(tap), "the first rows")
        mariadb.stop()
        try:
            eventually(lambda: source_states(tap)["maria"]["failures"] >= 2, "failures that are counted")
            assert source_states(tap)["maria"]["state"] == "failing"
        finally:
            mariadb.start()
        mariadb.sql("INSERT INTO goes SELECT * FROM comes WHERE sequence > 10")
        eventually(lambda: counts(tap) == {"maria": 37}, "the rest")
        assert 0 < first["maria"] < 37
        eventually(lambda: source_states(tap)["maria"]["state"] == "ok", "that it is well again")
        assert tap.stop() == 0
    mariadb.sql("DROP TABLE goes; DROP TABLE comes")


# -- hepduck cdr import ----------------------------------------------------------------------------------


def test_import_from_files_and_databases(tmp_path: Path, mariadb: MariaDB, postgresql: PostgreSQL) -> None:
    mariadb.load(path("r18", "cdr_extra.mysql.sql"), "cdr_extra", "once")
    postgresql.load(path("r18", "cdr_full.pg.sql"), "cdr_full", "once")
    columns = mapping("r18", "Qos.csv")
    sources: list[tuple[list[object], str]] = [
        ([path("r18", "Master.csv"), "--preset", "cdr_csv"], "37 new rows from Master.csv"),
        (
            [path("r18", "Qos.csv"), "--preset", "cdr_custom", "--columns", columns, "--zone", ZONE],
            "37 new rows from Qos.csv",
        ),
        (
            [mariadb.url("once"), "--preset", "cdr_extra", "--zone", ZONE, "--name", "maria"],
            "36 new rows from maria",
        ),
        (
            [postgresql.url("once").partition("?")[0], "--table", "once", "--name", "pg"],
            "37 new rows from pg",
        ),
    ]
    for arguments, said in sources:
        done = hepduck("cdr", "import", *arguments, "--store", "lake", cwd=tmp_path)
        assert (done.returncode, done.stdout, done.stderr) == (0, f"{said}\n", "")
    again = hepduck("cdr", "import", *sources[2][0], "--store", "lake", "--json", cwd=tmp_path)
    assert json.loads(again.stdout) == {"source": "maria", "rows": 0, "warning": None}
    counted = hepduck("sql", "SELECT count(*) AS n FROM cdr", "--json", "--store", "lake", cwd=tmp_path)
    assert json.loads(counted.stdout) == {"n": 36 + 3 * 37}
    mariadb.sql("DROP TABLE once")
    postgresql.sql("DROP TABLE once")


def test_import_says_what_is_wrong_in_one_line(tmp_path: Path, mariadb: MariaDB) -> None:
    lines = MASTER.read_bytes().splitlines(keepends=True)
    (tmp_path / "garbage.csv").write_bytes(b"".join([*lines[:5], b'"garbage\n', *lines[5:9]]))
    (tmp_path / "no_header.csv").write_bytes(b"a,b,c\n")
    mariadb.sql("CREATE TABLE nothing (uniqueid varchar(30))")
    wrong: list[tuple[list[object], str]] = [
        (["nosuch.csv"], "nosuch.csv: no such file"),
        (["no_header.csv", "--preset", "cdr_custom"], "no_header.csv has no header line"),
        (
            ["garbage.csv", "--preset", "cdr_csv"],
            "1 refused, the first: line 6: ',' expected after '\"'; 9 rows stored",
        ),
        ([mariadb.url("nothing", password="wrong")], "Access denied for user"),
        ([mariadb.url("nothing")], "Unknown column 'start'"),
        (["nosuch.csv", "--zone", "Kyiv"], "'Kyiv' is no time zone"),
    ]
    for arguments, said in wrong:
        done = hepduck("cdr", "import", *arguments, "--store", "lake", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (2, ""), done.stderr
        assert done.stderr.count("\n") == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    states = hepduck("cdr", "sources", "--json", "--store", "lake", cwd=tmp_path).stdout.splitlines()
    told = {row["source"]: row for row in map(json.loads, states)}
    assert told["nosuch.csv"]["state"] == "failing"
    assert (told["garbage.csv"]["imported"], told["garbage.csv"]["refused"]) == (9, 1)
    mariadb.sql("DROP TABLE nothing")


def test_import_beside_a_running_tap_is_refused(tmp_path: Path) -> None:
    with running(tmp_path, []) as tap:
        done = hepduck("cdr", "import", MASTER, "--preset", "cdr_csv", "--store", tap.store, cwd=tmp_path)
        assert done.returncode == 2
        assert f"another hepduck (pid {tap.pid}) is writing" in done.stderr


def test_the_zone_of_the_machine_plays_no_part(tmp_path: Path) -> None:
    extra = path("r18", "cdr_extra.csv")
    how = ["--preset", "cdr_extra", "--zone", ZONE, "--store", "lake"]
    done = hepduck("cdr", "import", extra, *how, cwd=tmp_path, TZ="America/New_York")
    assert done.returncode == 0, done.stderr
    asked = "SELECT count(*) AS off FROM cdr WHERE abs(epoch(ts) - split_part(uniqueid, '.', 1)::BIGINT) > 60"
    counted = hepduck("sql", asked, "--json", "--store", "lake", cwd=tmp_path)
    assert json.loads(counted.stdout) == {"off": 0}
    assert os.environ.get("TZ") != "America/New_York"
