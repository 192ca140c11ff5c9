"""Erasing a person: afterwards nothing of them is in any byte of the store, and everybody else is all there."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from zlib import crc32

import pyarrow.parquet as pq
import pytest
from store_rows import QUIET
from upkeep_store import ask, empty_store

from pipeline.errors import ConfigError
from pipeline.store.check import check_store
from pipeline.store.forget import TRACES, forget
from pipeline.store.lake import Reader
from pipeline.store.ledger import Ledger
from pipeline.store.person import Person
from pipeline.store.schema import tables
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

NOW = datetime.now(UTC)
IMPERSONAL = """
    agent_state ingest_minute sip_minute schema_version cdr_source_state quality_mark_state imported_file
""".split()


def message(call_id: str, caller: str, callee: str, n: int, extra: str = "") -> dict[str, Any]:
    """An INVITE from one user to another, as the tap stores it."""
    users = [address.split("@") for address in (caller, callee)]
    text = (
        f"INVITE sip:{callee} SIP/2.0\r\nFrom: <sip:{caller}>;tag=1\r\nTo: <sip:{callee}>\r\n"
        f"Call-ID: {call_id}\r\n{extra}\r\n"
    )
    row = {"from_user": users[0][0], "from_host": users[0][1], "to_user": users[1][0], "to_host": users[1][1]}
    row |= {"ruri_user": users[1][0], "ruri_host": users[1][1], "payload": text.encode()}
    return {**row, "call_id": call_id, "ts": NOW, "received_at": NOW, "msg_id": crc32(text.encode()) + n}


def life_of(user: str, other: str, host: str = "sip.test") -> dict[str, list[dict[str, Any]]]:
    """Rows in every table about `user`, who called `other` and was called by them; Call-IDs do not name anybody."""
    one, two, leg_b, long = (f"{crc32(f'{user}{n}'.encode()):08x}{n}@host" for n in range(4))
    long = long * 12  # 127 characters and more
    aor, channel = f"sip:{user}@{host}", f"PJSIP/{user}-0000002a"
    linked = f"17000{crc32(user.encode()) % 99991}.1"
    unit = f"cdr/asterisk/{linked}"
    return {
        "sip": [
            message(one, f"{user}@{host}", f"{other}@{host}", 1),
            message(two, f"{other}@{host}", f"{user}@{host}", 2),
            {**message(leg_b, f"pbx@{host}", f"{other}@{host}", 3), "x_cid": one},
            message(
                long, f"{other}@{host}", f"pbx@{host}", 4, f"P-Asserted-Identity: <{aor};user=phone>\r\n"
            ),
        ],
        "rtcp": [{"correlation_id": name, "received_at": NOW} for name in (one, leg_b, long[:127], channel)],
        "log": [
            {"correlation_id": two, "received_at": NOW, "payload": b"ACL passed"},
            {"payload": f"no route to {aor}".encode(), "received_at": NOW},
        ],
        "weird": [{"kind": "x", "head": f"INVITE {aor} SIP".encode(), "received_at": NOW}],
        "call": [
            {"call_id": one, "from_user": user, "from_host": host, "to_user": other, "to_host": host},
            {"call_id": leg_b, "from_user": "pbx", "from_host": host, "to_user": other, "to_host": host},
        ],
        "registration": [
            {"ts": NOW, "aor": aor, "contact": f"<sip:{user}@192.0.2.1>", "call_id": "reg" + one}
        ],
        "finding": [
            {"finding_id": f"f1{user}"[:2], "ts": NOW, "aor": aor, "call_id": two},
            {"ts": NOW, "kind": "toll_fraud", "identifier": f"{user}@{host}", "evidence": {"account": user}},
        ],
        "action_attempt": [{"started_at": NOW, "call_id": two, "target": aor}],
        "cdr": [
            {
                "source": "asterisk",
                "call_id": one,
                "call_id_b": leg_b,
                "linkedid": linked,
                "uniqueid": linked,
                "src": user,
                "clid": f'"Somebody" <{user}>',
                "channel": channel,
                "ts": NOW,
                "imported_at": NOW,
            },
            {
                "source": "asterisk",
                "linkedid": linked,
                "uniqueid": linked[:-1] + "7",
                "src": "pbx",
                "ts": NOW,
                "last_data": f"PJSIP/{user}/sip:x,30",
                "extra": {"accountcode": user},
                "imported_at": NOW,
            },
        ],
        "cdr_leg": [{"source": "asterisk", "linkedid": linked, "channel": channel, "imported_at": NOW}],
        "cdr_call": [
            {"call_id": one, "src": user, "linkedid": linked, "unit": unit, "revision": r} for r in (1, 2)
        ],
        "call_leg": [
            {"name": channel, "kind": "channel", "call_id": one, "unit": unit, "revision": 1},
            {"name": leg_b, "kind": "call-id", "call_id": one, "unit": unit, "revision": 1},
        ],
        "leg_quality": [
            {"call_id": one, "leg": "a", "endpoint": f"PJSIP/{user}", "unit": unit, "revision": 1, "ts": NOW},
            {
                "call_id": leg_b,
                "leg": "b",
                "leg_name": leg_b,
                "unit": f"hep/{leg_b}",
                "revision": 1,
                "ts": NOW,
            },
        ],
        "quality_hour": [{"hour": NOW, "trunk": f"PJSIP/{user}", "directions": 1}],
    }


def store_lives(writer: Writer, *lives: dict[str, list[dict[str, Any]]]) -> None:
    for life in lives:
        for table, rows in life.items():
            for row in rows:
                row.setdefault("node", "n1")
            writer.append(table, rows)
        writer.flush()


def cells(store: Path) -> Iterator[str]:
    """Every text, number of bytes and JSON in every Parquet file of the store, read without DuckDB."""
    for file in (store / "files").rglob("*.parquet"):
        for row in pq.ParquetFile(file).read().to_pylist():
            for value in row.values():
                if isinstance(value, bytes):
                    yield value.decode("latin-1")
                elif isinstance(value, str):
                    yield value


def bytes_with(store: Path, needle: bytes) -> list[str]:
    """`grep -r`."""
    files = (file for file in store.rglob("*") if file.is_file())
    return [str(file.relative_to(store)) for file in files if needle in file.read_bytes()]


def rows_by_table(writer: Writer) -> dict[str, int]:
    return {table: ask(writer, f"SELECT count(*) FROM {table}")[0][0] for table in tables()}


def test_every_table_is_searched_or_names_nobody_on_purpose() -> None:
    assert {*TRACES, *IMPERSONAL} == set(tables())


def test_nothing_of_a_person_is_left_in_any_byte_and_the_others_are_all_there(tmp_path: Path) -> None:
    path = empty_store(tmp_path / "store")
    with (
        Writer(path, "n1", WriterSettings(flush_interval="5ms")) as writer,
        Ledger(path / "ledger.sqlite") as ledger,
    ):
        before = rows_by_table(writer)
        others = (life_of("bob", "carol"), life_of("zacharias2", "carol"), life_of("zacharia", "bob"))
        store_lives(writer, *others)
        left = rows_by_table(writer)
        life = life_of("zacharias", "carol")
        store_lives(writer, life)
        for user, call_id in (("zacharias", life["call"][0]["call_id"]), ("bob", "x")):
            attempt = ledger.claim("fake_call", call_id, f"sip:{user}@192.0.2.1", finding_id="f", at_us=1)
            assert attempt
            ledger.finish(attempt, "answered", "", [], 2)
        writer.merge()
        ask(writer, "CHECKPOINT catalog")
        assert "zacharias" in " ".join(cells(path))
        assert {"catalog.duckdb", "ledger.sqlite-wal"} <= set(bytes_with(path, b"zacharias"))
        with Reader(path) as reader:
            told = forget(writer, "sip:zacharias@sip.test", dry_run=True)
            assert rows_by_table(writer) != left
            done = forget(writer, "sip:zacharias@sip.test")
            assert done == told
            # A reader that was there all the time goes on.
            assert reader.query("SELECT count(*) AS n FROM sip").to_pylist() == [{"n": left["sip"]}]
        gone = {table: sum(1 for _ in rows) for table, rows in life.items()}
        states = {"call", "cdr_call", "call_leg", "leg_quality", "quality_hour"}
        expected = {f"{table}_state" if table in states else table: count for table, count in gone.items()}
        assert done.rows == {**expected, "ledger.sqlite": 1}
        assert rows_by_table(writer) == left
        assert not [cell for cell in cells(path) if "zacharias" in cell.replace("zacharias2", "")]
        names = [
            b"zacharias@",
            b"zacharias>",
            b"PJSIP/zacharias-",
            b'"zacharias"',
            life["call"][0]["call_id"].encode(),
        ]
        for name in names:
            assert bytes_with(path, name) == []
        assert bytes_with(path, b"zacharias\0") == []
        assert [attempt.device for attempt in ledger.attempts(0)] == ["sip:bob@192.0.2.1"]
        assert forget(writer, "sip:zacharias@sip.test").rows == {}
        assert before["schema_version"] == left["schema_version"]
    assert [each.what for each in check_store(path) if not each.ok] == []
    with Writer(path, "n1", QUIET) as writer:
        assert rows_by_table(writer) == left


def test_a_number_is_meant_in_every_spelling_and_domain(tmp_path: Path) -> None:
    with Writer(empty_store(tmp_path / "store"), "n1", QUIET) as writer:
        spellings = ("+4930123", "004930123", "4930123")
        store_lives(writer, *(life_of(number, "carol", f"{n}.test") for n, number in enumerate(spellings)))
        left = [
            message("a", "carol@sip.test", "49301234@sip.test", 1),
            message("b", "carol@sip.test", "14930123@sip.test", 2),
            message("c", "carol@sip.test", "bob@sip.test", 3, "Content-Length: 4930123\r\n"),
        ]
        store_lives(writer, {"sip": left})
        done = forget(writer, "tel:+49-30-123")
        assert done.rows["sip"] == 12 and done.rows["cdr"] == 6
        assert ask(writer, "SELECT call_id FROM sip ORDER BY 1") == [("a",), ("b",), ("c",)]
        assert ask(writer, "SELECT count(*) FROM cdr") == ask(writer, "SELECT count(*) FROM rtcp") == [(0,)]


def test_the_same_user_of_another_domain_stays(tmp_path: Path) -> None:
    with Writer(empty_store(tmp_path / "store"), "n1", QUIET) as writer:
        store_lives(
            writer, {"sip": life_of("bob", "carol")["sip"]}, {"sip": life_of("bob", "carol", "b.test")["sip"]}
        )
        # Their Call-IDs are the same here, which would tie them.
        writer_rows = ask(writer, "SELECT count(*) FROM sip")
        assert writer_rows == [(8,)]
        found = ask(
            writer,
            f"SELECT count(*) FROM sip WHERE {Person.of('bob@B.test').is_at('from_user', 'from_host')}",
        )
        assert found == [(1,)]


@pytest.mark.parametrize("text", ["", "bob", "sip:", "sip:sip.test", "https://sip.test/bob", "tel:", "*"])
def test_what_names_nobody_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no number and no address"):
        Person.of(text)
