"""CDR tables in a real MariaDB and a real PostgreSQL: all rows in once, however and whenever they appear."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from cdr_recordings import EXTRA_ROWS, FULL_ROWS, SESSIONS, ZONE, Importer, importer, path
from databases import Database, MariaDB, PostgreSQL

from pipeline.ingest.cdr import CdrError
from pipeline.ingest.cdr.columns import LEG_FIELDS
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.trial import try_source

DEPLOY = Path(__file__).parents[1] / "deploy" / "asterisk"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Importer]:
    with importer(tmp_path) as made:
        yield made


@pytest.fixture(params=["mysql", "postgresql"])
def database(request: pytest.FixtureRequest, mariadb: MariaDB, postgresql: PostgreSQL) -> Database:
    return mariadb if request.param == "mysql" else postgresql


def full_table(database: Database, session: str, table: str) -> str:
    """Loads cdr_full of a session under a name of its own; the URL that reads it."""
    kind = "mysql" if isinstance(database, MariaDB) else "pg"
    database.load(path(session, f"cdr_full.{kind}.sql"), "cdr_full", table)
    return database.url(table)


# -- what the recordings hold ----------------------------------------------------------------------------


@pytest.mark.parametrize("session", SESSIONS)
def test_both_databases_and_the_export_agree(
    store: Importer, mariadb: MariaDB, postgresql: PostgreSQL, session: str
) -> None:
    """Doubles and decimals, the column `end`, answers of 1970, NULL and empty text: one meaning."""
    table = f"all_{session.replace('-', '_')}"
    for name, database in (("maria", mariadb), ("pg", postgresql)):
        source = store.source(full_table(database, session, table), name=name)
        assert source.poll() == FULL_ROWS[session]
        assert [source.poll() for _ in range(3)] == [0, 0, 0]
        assert source.status.warning is None
    store.source(path(session, "cdr_full.csv"), name="csv").poll()
    told = "* EXCLUDE (source, call_id, imported_at, recorded_at)"
    maria, pg, export = (
        store.sql(f"SELECT {told} FROM cdr WHERE source = ? ORDER BY uniqueid, sequence", name)
        for name in ("maria", "pg", "csv")
    )
    assert maria == export
    assert pg == export
    assert {
        bool(row) for row in store.sql("SELECT answer_ts < '2026-01-01' FROM cdr WHERE answer_ts < ts")
    } == set()


@pytest.mark.parametrize("session", SESSIONS)
def test_the_recipes_table(store: Importer, mariadb: MariaDB, session: str) -> None:
    """`NOT NULL DEFAULT 0` and `DEFAULT ''`: what nobody wrote is NULL, what was measured as 0 stays 0."""
    table = f"extra_{session.replace('-', '_')}"
    mariadb.load(path(session, "cdr_extra.mysql.sql"), "cdr_extra", table)
    how = {"preset": "cdr_extra", "zone": ZONE}
    assert store.source(mariadb.url(table), name="maria", **how).poll() == EXTRA_ROWS[session]
    assert store.source(path(session, "cdr_extra.csv"), name="csv", **how).poll() == EXTRA_ROWS[session]
    told = "SELECT * EXCLUDE (source, imported_at, recorded_at) FROM cdr WHERE source = ? ORDER BY source_row"
    assert store.sql(told, "maria") == store.sql(told, "csv")
    for leg in "ab":
        zeros = mariadb.sql(
            f"SELECT count(*) FROM {table} WHERE rtcp_{leg}_rtt IS NULL AND rtcp_{leg}_rxploss = 0"
        )
        unknown = f"SELECT count(*) FROM cdr WHERE source = 'maria' AND rtcp_{leg}_rxploss IS NULL"
        assert store.sql(unknown) == [(int(zeros),)]
        whole = mariadb.sql(
            f"SELECT count(*), sum(rtcp_{leg}_rxploss = 0) FROM {table} WHERE rtcp_{leg}_rtt >= 0"
        )
        counted = store.sql(
            f"SELECT count(*), count(*) FILTER (rtcp_{leg}_rxploss = 0) FROM cdr"
            f" WHERE source = 'maria' AND rtcp_{leg}_rtt IS NOT NULL"
        )
        assert counted == [tuple(int(cell) for cell in whole.split())]


def test_what_mysql_takes_and_python_does_not(store: Importer, mariadb: MariaDB) -> None:
    """Zero dates, impossible dates, odd names and types: each costs at most its own row."""
    mariadb.sql(
        """
        CREATE TABLE odd (
            calldate datetime NOT NULL DEFAULT '0000-00-00 00:00:00',
            answer datetime NOT NULL DEFAULT '0000-00-00 00:00:00',
            `end` datetime NULL, uniqueid varchar(32), channel varchar(20) DEFAULT 'PJSIP/a-1',
            duration decimal(10,3), billsec int, disposition int, amaflags int,
            `select``"%s :x` int DEFAULT 5, b bit(8), t time, u bigint unsigned, y year, z date, blob_ blob
        );
        SET sql_mode = '';
        INSERT INTO odd (calldate, uniqueid, duration, disposition, amaflags, b, t, u, y, z, blob_) VALUES
            ('2026-11-22 21:00:00', '1795374000.1', 16.292, 8, 3, b'10000001', '838:59:59',
             18446744073709551615, 2026, '0000-00-00', 'caf\\xe9'),
            ('0000-00-00 00:00:00', 'pbx-1795374001.2', 1, 4, 2, NULL, NULL, NULL, NULL, NULL, NULL),
            ('2026-00-10 00:00:00', '1795374002.3', NULL, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL),
            ('2026-11-22 21:00:03', '1795374003.4', NULL, 16, NULL, NULL, NULL, NULL, NULL, '2026-02-31', NULL);
        """
    )
    source = store.source(mariadb.url("odd"), preset="cdr_extra", zone=ZONE)
    assert source.poll() == 3
    assert (source.status.refused, source.status.state) == (1, "ok")
    assert "2026-00-10" in str(source.status.warning)
    rows = store.sql("SELECT uniqueid, epoch(ts)::BIGINT, answer_ts, duration_ms, disposition, amaflags, defects,"
                     " extra->>'select`\"%s :x' FROM cdr ORDER BY uniqueid")  # fmt: skip
    assert rows == [
        ("1795374000.1", 1795374000, None, 16292, "ANSWERED", "DOCUMENTATION", None, "5"),
        ("1795374003.4", 1795374003, None, None, "CONGESTION", None, None, "5"),
        ("pbx-1795374001.2", 1795374001, None, 1000, "BUSY", "BILLING", "no_start", "5"),
    ]
    # The bad row is read with every poll, and counts once.
    assert [source.poll() for _ in range(3)] == [0, 0, 0]
    assert source.status.refused == 1


def test_what_postgresql_holds_and_python_does_not(store: Importer, postgresql: PostgreSQL) -> None:
    postgresql.sql(
        """
        CREATE TABLE odd ("start" timestamptz, answer timestamp, "end" timestamptz, uniqueid text, channel text,
            billsec numeric, "Mixed Case""%s" text[], ok boolean);
        INSERT INTO odd VALUES
            ('2026-11-22 21:00:00+02', '2026-11-22 21:00:01', '2026-11-22 21:00:05+02', '1795374000.1', 'a', 3.5,
             '{x,y}', true),
            ('infinity', NULL, NULL, '1795374001.2', 'a', 'NaN', NULL, NULL),
            ('2026-11-22 21:00:02+02', NULL, NULL, '1795374002.3', 'a', 'NaN', NULL, false);
        """
    )
    source = store.source(postgresql.url("odd"), zone=ZONE)
    assert source.poll() == 2
    assert source.status.refused == 1
    assert "infinity" in str(source.status.warning)
    rows = store.sql("SELECT epoch(ts)::BIGINT, epoch(answer_ts)::BIGINT, epoch(end_ts)::BIGINT, billsec_ms, defects"
                     " FROM cdr ORDER BY ts")  # fmt: skip
    assert rows == [
        (1795374000, 1795374001, 1795374005, 3500, None),
        (1795374002, None, None, None, None),
    ]
    assert source.poll() == 0


# -- polling ---------------------------------------------------------------------------------------------


def test_rows_that_appear_late_come_in_once(store: Importer, database: Database) -> None:
    """Rows are written when calls end: in any order of their starts. A third of them before a restart."""
    url = full_table(database, "r22-main", "late_whole")
    database.sql("CREATE TABLE late AS SELECT * FROM late_whole WHERE sequence < 0")
    url = database.url("late")
    source = store.source(url)
    assert source.poll() == 0
    for turn, part in enumerate((7, 3, 5, 1, 0, 6, 2, 4)):
        database.sql(f"INSERT INTO late SELECT * FROM late_whole WHERE mod(sequence, 8) = {part}")
        if turn == 3:
            store = store.again()
            source = store.source(url)
        assert source.poll() > 0
        assert source.poll() == 0
        store.assert_once(int(database.sql("SELECT count(*) FROM late")))
    store.assert_once(103)
    database.sql("DROP TABLE late; DROP TABLE late_whole")
    store.writer.stop()


def test_a_poll_asks_for_its_window_only(store: Importer, mariadb: MariaDB) -> None:
    """With an index a poll reads the rows of the overlap, a sweep those of its own; the server says so."""
    mariadb.sql(
        """
        CREATE TABLE window_ (start datetime, uniqueid varchar(32), channel varchar(20), KEY (start));
        INSERT INTO window_ SELECT '2026-11-01' + INTERVAL seq MINUTE, concat(1793491200 + 60 * seq, '.', seq), 'a'
            FROM seq_0_to_19999;
        """
    )
    source = store.source(mariadb.url("window_"), overlap="2h", sweep_overlap="25h", sweep_interval="1h")
    assert source.poll() == 20_000

    def rows_read() -> int:
        said = mariadb.sql("SHOW GLOBAL STATUS LIKE 'Handler_read%'")
        return sum(int(line.split("\t")[1]) for line in said.splitlines())

    def cost() -> int:
        before = rows_read()
        source.poll()
        return rows_read() - before

    assert cost() < 250  # two hours of one row a minute, and what the questions themselves read
    # A row that starts 20 hours before the newest one: the next sweep finds it.
    mariadb.sql("INSERT INTO window_ VALUES ('2026-11-14 01:00:00', '1794610800.99999', 'late')")
    assert source.poll() == 0
    store = store.again()
    restarted = store.source(mariadb.url("window_"), overlap="2h", sweep_overlap="25h")
    assert restarted.poll() == 1  # the first poll after a start sweeps
    store.assert_once(20_001)
    store.writer.stop()
    mariadb.sql("DROP TABLE window_")


def test_a_start_in_the_far_future_does_not_blind_the_window(store: Importer, mariadb: MariaDB) -> None:
    mariadb.sql(
        """
        CREATE TABLE future (start datetime, uniqueid varchar(32), channel varchar(20));
        INSERT INTO future VALUES ('2025-11-22 21:00:00', '1763845200.1', 'a'), ('2099-01-01 00:00:00', '7.2', 'a');
        """
    )
    source = store.source(mariadb.url("future"))
    assert source.poll() == 2
    mariadb.sql("INSERT INTO future VALUES ('2025-11-22 21:00:01', '1763845201.3', 'a')")
    assert source.poll() == 1


def test_a_database_that_is_down_for_a_while(store: Importer, database: Database) -> None:
    """Counted, visible in the store, told once; nothing is lost or doubled when it is back."""
    url = full_table(database, "r18", "down")
    source = store.source(url, name="down", timeout="5s")
    database.sql("CREATE TABLE rest AS SELECT * FROM down; DELETE FROM down WHERE sequence > 20")
    source.run()
    before = store.count()
    assert 0 < before < 37
    database.stop()
    try:
        source.run()
        source.run()
        status = source.status
        assert (status.state, status.failures) == ("failing", 2)
        assert re.search("refused|connect", str(status.error), re.IGNORECASE)
        assert store.sql("SELECT state, error FROM cdr_source") == [("failing", status.error)]
    finally:
        database.start()
    database.sql("INSERT INTO down SELECT * FROM rest WHERE sequence > 20")
    source.run()
    assert (source.status.state, source.status.error) == ("ok", None)
    assert store.sql("SELECT state, error, imported FROM cdr_source") == [("ok", None, 37)]
    store.assert_once(37)
    database.sql("DROP TABLE down; DROP TABLE rest")


def test_a_store_that_stops_in_the_middle_loses_and_doubles_nothing(
    store: Importer, database: Database
) -> None:
    """A writer that is stopped takes no rows; the next run begins where the store says, whatever was under way."""
    url = full_table(database, "r18", "stopped")
    store.writer.stop()
    source = store.source(url)
    source.run()
    assert source.status.state == "failing"
    assert source.status.imported == 0
    again = Importer(store.folder)
    assert again.source(url).poll() == 37
    again.assert_once(37)
    again.writer.stop()
    database.sql("DROP TABLE stopped")


# -- errors ----------------------------------------------------------------------------------------------


def test_what_cannot_be_read_is_said_in_one_line(store: Importer, database: Database) -> None:
    url = full_table(database, "r18", "broken")
    right, other = f":{database.port}/", ":1/"
    for broken, preset, message in (
        (url.replace(":right@", ":wrong@"), "cdr_adaptive", r"Access denied|authentication failed"),
        (url, "freepbx", r"calldate"),
        (url.replace("=broken", "=nosuch"), "cdr_adaptive", r"nosuch.*(doesn't|does not) exist"),
        (url.replace("=broken", "=no`s\"u'c;h"), "cdr_adaptive", r"(doesn't|does not) exist"),
        (url.replace(right, other), "cdr_adaptive", r"refused"),
        (url.replace("/asterisk", "/nosuch"), "cdr_adaptive", r"nosuch"),
        (url.replace("127.0.0.1", "256.0.0.1"), "cdr_adaptive", r"256\.0\.0\.1"),
    ):
        with pytest.raises(CdrError, match=message) as raised:
            store.source(broken, preset=preset).poll()
        assert "\n" not in str(raised.value)
        assert "right" not in str(raised.value)
        assert "wrong" not in str(raised.value)
    database.sql("DROP TABLE broken")


def test_an_account_that_may_only_read_is_enough(store: Importer, database: Database) -> None:
    url = full_table(database, "r18", "readonly")
    grants = "SHOW GRANTS FOR reader@127.0.0.1" if isinstance(database, MariaDB) else "\\dp readonly"
    assert not re.search("INSERT|reader=[^/]*[awd]", database.sql(grants))
    password = url.replace("reader:right@", "reader@")
    assert store.source(password, password="right").poll() == 37
    database.sql("DROP TABLE readonly")


def test_names_from_the_configuration_only(store: Importer, database: Database) -> None:
    """A table and columns with quotes, spaces, capitals and percent signs in their names."""
    mark = "`" if isinstance(database, MariaDB) else '"'
    quote = lambda name: mark + name.replace(mark, mark * 2) + mark  # noqa: E731
    table, start, call_id = 'My `"C%DR', "The Start", "x%(callid)s"
    database.sql(
        f"CREATE TABLE {quote(table)} ({quote(start)} timestamp NULL, {quote(call_id)} varchar(99),"
        f" uniqueid varchar(30), channel varchar(20));"
        f"INSERT INTO {quote(table)} VALUES ('2026-11-22 19:01:54', 'a@b', '1795374114.0', 'c');"
    )
    columns = {start: "start", call_id: "sip_callid"}
    source = store.source(
        database.url("placeholder").replace("placeholder", "My%20%60%22C%25DR"), columns=columns
    )
    assert source.poll() == 1
    assert source.poll() == 0
    assert store.sql("SELECT call_id, epoch(ts)::BIGINT FROM cdr") == [("a@b", 1795374114)]


def test_a_time_zone_that_does_not_fit_is_noticed(store: Importer, mariadb: MariaDB) -> None:
    mariadb.load(path("r18", "cdr_extra.mysql.sql"), "cdr_extra", "zoned")
    source = store.source(mariadb.url("zoned"), preset="cdr_extra", name="zoned")
    assert source.poll() == 36
    assert "2 h ahead of their uniqueids: zone 'UTC' is not" in str(source.status.warning)
    assert store.sql("SELECT warning FROM cdr_source")[0][0] == source.status.warning
    marked = store.sql("SELECT count(*) FROM cdr WHERE defects = 'zone'")[0][0]
    assert marked > 30
    # With the right one the rows are known all the same.
    right = store.source(mariadb.url("zoned"), preset="cdr_extra", zone=ZONE, name="zoned")
    assert right.poll() == 0
    assert right.status.warning is None


# -- deploy/asterisk -------------------------------------------------------------------------------------


def test_the_leg_table_as_deployed(store: Importer, database: Database) -> None:
    """The schema holds what func_odbc.conf writes; each leg once, also one that was written twice."""
    odbc = (DEPLOY / "leg-qos" / "func_odbc.conf").read_text()
    statements = re.findall(
        r"^;?writesql=(INSERT INTO leg_qos \(([^)]*)\) VALUES \((.*)\))$", odbc, re.MULTILINE
    )
    statement, columns, _ = statements[0 if isinstance(database, MariaDB) else 1]
    assert tuple(columns.split(", ")) == LEG_FIELDS
    database.sql((DEPLOY / "leg-qos" / f"schema.{database.scheme}.sql").read_text())
    nasty = "1\"q'~<w>:\\b[1]{x}?@10.77.1.75"
    legs = [
        ("1795374114.0", "1795374114.0", "a", nasty, nasty),
        ("1795374114.1", "1795374114.0", "b", "b9f55f8f", nasty),
        ("1795374114.1", "1795374114.0", "b", "b9f55f8f", nasty),
    ]
    strings = store_strings(store)
    for uniqueid, linkedid, leg, call_id, call_id_a in legs:
        values = {
            "STRFTIME(${EPOCH},UTC,%Y-%m-%d %H:%M:%S)": "2026-11-22 19:02:11",
            "CHANNEL(uniqueid)": uniqueid,
            "CHANNEL(linkedid)": linkedid,
            "CHANNEL(name)": "PJSIP/ep-00000000",
            "HEPDUCK_LEG": leg,
            "CHANNEL(pjsip,call-id)": call_id,
            "HEPDUCK_CALL_ID_A": call_id_a,
            "CHANNEL(audioreadformat)": "ulaw",
            "CHANNEL(rtp,dest)": "10.77.1.1:4000",
            "HANGUPCAUSE": "16",
            **{f"CHANNEL(rtcp,{name})": text for name, text in strings.items()},
        }
        database.sql(as_asterisk(statement, values))
    source = store.source(database.url("leg_qos"), preset="leg_qos", name="legs")
    assert source.poll() == 2
    assert source.poll() == 0
    store.assert_once(2, "cdr_leg")
    rows = store.sql(
        "SELECT uniqueid, linkedid, leg, call_id, call_id_a, codec, rtp_dest, hangup_cause, epoch(ts)::BIGINT,"
        " epoch(end_ts)::BIGINT, rtcp_all, rtcp_all_mes, extra, defects FROM cdr_leg ORDER BY uniqueid"
    )
    facts = (
        "ulaw",
        "10.77.1.1:4000",
        16,
        1795374114,
        1795374131,
        strings["all"],
        strings["all_mes"],
        None,
        None,
    )
    assert rows == [(*leg, *facts) for leg in legs[:2]]
    database.sql("DROP TABLE leg_qos")


def test_the_cdr_table_as_deployed(store: Importer, database: Database) -> None:
    database.sql((DEPLOY / "cdr-qos" / f"schema.{database.scheme}.sql").read_text())
    full_table(database, "r22-main", "deployed")
    held = database.sql(
        "SELECT column_name FROM information_schema.columns WHERE table_name = 'cdr' ORDER BY ordinal_position"
    ).split()
    quoted = ", ".join(f'"{name}"' if isinstance(database, PostgreSQL) else f"`{name}`" for name in held)
    database.sql(f"INSERT INTO cdr ({quoted}) SELECT {quoted} FROM deployed")
    assert store.source(database.url("cdr")).poll() == 103
    counts = database.sql("SELECT count(rtcp_a_all), count(rtcp_b_all_mes), 0 FROM deployed").split()
    stored = store.sql("SELECT count(rtcp_a_all), count(rtcp_b_all_mes), count(extra) FROM cdr")
    assert stored == [tuple(map(int, counts))]
    dialplan = (DEPLOY / "cdr-qos" / "extensions-hepduck.conf").read_text()
    assert set(re.findall(r"CDR\((\w+)\)=", dialplan)) <= set(held)
    database.sql("DROP TABLE cdr; DROP TABLE deployed")


def store_strings(store: Importer) -> dict[str, str]:
    """The RTCP strings of a real leg."""
    source = store.source(path("r22-main", "cdr_full.csv"), name="strings")
    source.poll()
    names = ("all", "all_jitter", "all_loss", "all_rtt", "all_mes")
    row = store.sql(f"SELECT {', '.join(f'rtcp_a_{name}' for name in names)} FROM cdr WHERE sequence = 0")[0]
    return dict(zip(names, row, strict=True))


def as_asterisk(statement: str, values: dict[str, str]) -> str:
    """The statement with its variables in place; SQL_ESC doubles quotes, SQL_ESC_BACKSLASHES backslashes."""
    for name, value in values.items():
        escaped = value.replace("'", "''")
        both = value.replace("\\", "\\\\").replace("'", "''")
        statement = statement.replace(f"${{SQL_ESC(${{SQL_ESC_BACKSLASHES(${{{name}}})}})}}", both)
        statement = statement.replace(f"${{SQL_ESC(${{{name}}})}}", escaped)
        statement = statement.replace(f"${{{name}}}", value)
    assert "${" not in statement
    return statement


# -- `hepduck check` -------------------------------------------------------------------------------------


def test_a_source_is_tried(database: Database) -> None:
    """One row is read. What is wrong is one line that names the source, without its password."""

    def tried(url: str, **settings: str) -> str:
        return try_source(CdrSourceSettings.model_validate({"source": url, **settings}))

    url = full_table(database, "r18", f"tried_{type(database).__name__.lower()}")
    assert "readable, a row starts at 2026-11-2" in tried(url)
    database.sql("CREATE TABLE none_yet (uniqueid varchar(40), channel varchar(40), calldate timestamp NULL)")
    assert "no row in it yet" in tried(database.url("none_yet"), preset="freepbx")
    for wrong, words in (
        (database.url("no_such_table"), "no_such_table"),
        (database.url("none_yet"), "start"),  # the preset's column
        (database.url("none_yet", password="guess"), "denied|authentication failed"),
    ):
        with pytest.raises(CdrError, match=words) as error:
            tried(wrong)
        assert str(error.value).count("\n") == 0
        assert "guess" not in str(error.value)
