"""Every read of the store, on real recorded traffic; counts come from the recordings' own bytes."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from store_rows import PATIENCE_S

from pipeline.decode import Decoder
from pipeline.errors import StoreError
from pipeline.ingest.recordings import read_recording
from pipeline.store import leg_queries, queries
from pipeline.store.lake import Reader, open_reader
from pipeline.store.writer import Writer

DATA = Path(__file__).parent / "data" / "kamailio"
RECORDINGS = ("a", "b", "c2", "fb", "mix")


def call_id_of(packet: bytes) -> str:
    """The Call-ID in a HEP packet, by its bytes alone."""
    return packet.partition(b"\r\nCall-ID: ")[2].partition(b"\r\n")[0].decode()


SECRET = re.compile(rb'(?<=response=")[0-9a-f]{32}|(?<=-Secret: )\w+')  # starred before it is stored


@pytest.fixture(scope="module")
def recorded() -> dict[str, list[bytes]]:
    """Call-ID -> the packets that carry it, in order of arrival."""
    found: dict[str, list[bytes]] = {}
    for name in RECORDINGS:
        for datagram in read_recording(DATA / f"{name}.hep"):
            found.setdefault(call_id_of(datagram.data), []).append(datagram.data)
    return found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory, recorded: dict[str, list[bytes]]) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("queries") / "store"
    with Writer(path, "n1") as writer:
        decoder = Decoder("n1", [])
        for name in RECORDINGS:
            decoder.decode(read_recording(DATA / f"{name}.hep"))
            for table, rows in decoder.take().items():
                assert writer.put(table, rows)
            writer.flush(PATIENCE_S)
        yield path


@pytest.fixture(scope="module", params=["connection", "reader"])
def source(store: Path, request: pytest.FixtureRequest) -> Iterator[queries.Source]:
    opened: queries.Source = open_reader(store) if request.param == "connection" else Reader(store)
    yield opened
    opened.close()


@pytest.fixture
def known(tmp_path: Path) -> Iterator[tuple[Writer, Reader]]:
    """A small store whose rows the test makes up."""
    with Writer(tmp_path / "store", "n1") as writer, Reader(tmp_path / "store") as reader:
        yield writer, reader


def test_all_messages_are_stored(source: queries.Source, recorded: dict[str, list[bytes]]) -> None:
    stored = queries.run_sql(source, "SELECT call_id, count(*) AS messages FROM sip GROUP BY ALL")
    assert dict(zip(stored.call_id, stored.messages, strict=True)) == {
        call_id: len(packets) for call_id, packets in recorded.items()
    }


def test_a_calls_messages_are_its_bytes_in_order(
    source: queries.Source, recorded: dict[str, list[bytes]]
) -> None:
    for call_id in list(recorded)[:20]:
        rows = queries.call_messages(source, call_id)
        payloads = Counter(row["payload"] for row in rows)
        assert sum(payloads.values()) == len(recorded[call_id])
        for packet in (
            SECRET.sub(lambda secret: b"*" * len(secret[0]), packet) for packet in recorded[call_id]
        ):
            assert any(packet.endswith(payload) or payload in packet for payload in payloads)
        moments = [(row["ts"], row["msg_id"]) for row in rows]
        assert moments == sorted(moments) and all(moment.tzinfo for moment, _ in moments)
    assert queries.call_messages(source, "nosuch@sip.test") == []


def test_tail_goes_through_all_messages_page_by_page(
    source: queries.Source, recorded: dict[str, list[bytes]]
) -> None:
    seen: list[int] = []
    while page := queries.tail(source, after_msg_id=seen[-1] if seen else 0, limit=3000):
        seen += [row["msg_id"] for row in page]
    assert len(seen) == len(set(seen)) == sum(map(len, recorded.values()))
    assert seen == sorted(seen)
    assert [row["msg_id"] for row in queries.tail(source, limit=5)] == seen[-5:]
    assert queries.tail(source, after_msg_id=seen[-1]) == []


def test_counts_by_minute_add_up(source: queries.Source, recorded: dict[str, list[bytes]]) -> None:
    minutes = queries.counts_by_minute(source)
    packets = [packet for several in recorded.values() for packet in several]
    assert sum(row["messages"] for row in minutes) == len(packets)
    invites = [packet for packet in packets if b"INVITE sip:" in packet.partition(b"\r\n")[0]]
    assert sum(row["invites"] for row in minutes) == len(invites)
    assert all(row["minute"].second == 0 for row in minutes)
    assert [row["minute"] for row in minutes] == sorted({row["minute"] for row in minutes})
    last = minutes[-1]["minute"]
    assert queries.counts_by_minute(source, since=last) == minutes[-1:]
    assert queries.counts_by_minute(source, until=last) == minutes[:-1]


def test_info_counts_rows_files_and_bytes(source: queries.Source, recorded: dict[str, list[bytes]]) -> None:
    found = {row["table_name"]: row for row in queries.info(source)}
    assert found["sip"]["rows"] == sum(map(len, recorded.values()))
    assert found["sip"]["files"] >= len(RECORDINGS) and found["sip"]["bytes"] > 10_000
    assert found["sip"]["first"] < found["sip"]["last"]
    assert (found["cdr"]["rows"], found["cdr"]["files"], found["cdr"]["first"]) == (0, 0, None)


# -- calls, findings, attempts -------------------------------------------------------------------------

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def call(n: int, **more: object) -> dict[str, object]:
    return {
        "call_id": f"call-{n}@sip.test",
        "first_ts": T0 + timedelta(minutes=n),
        "last_ts": T0 + timedelta(minutes=n, seconds=30),
        "from_user": f"+49301234{n}",
        "from_display": "Alice O'Hara",
        "messages": 5,
        **more,
    }


def test_calls_are_found_by_time_and_text(known: tuple[Writer, Reader]) -> None:
    writer, reader = known
    writer.append("call", [call(n, outcome="ringing") for n in range(5)])
    writer.flush()
    ended = T0 + timedelta(minutes=10)
    writer.append("call", [call(3, outcome="answered", last_ts=ended, user_agent="LinphoneiOS/5.2")])
    writer.flush()

    def ids(**asked: object) -> list[int]:
        return [int(row["call_id"][5]) for row in queries.find_calls(reader, **asked)]

    assert ids() == [4, 3, 2, 1, 0]
    assert ids(limit=2) == [4, 3]
    assert ids(since=T0 + timedelta(minutes=2)) == [4, 3, 2]
    assert ids(since=T0 + timedelta(minutes=9)) == [3], "by the latest state, which lasts longer"
    assert ids(until=T0 + timedelta(minutes=1)) == [0]
    assert ids(text="linphoneIOS") == [3]
    assert ids(text="3012342") == [2]
    assert ids(text="o'hara", limit=1) == [4]
    assert ids(text="%") == []
    assert ids(text="") == [4, 3, 2, 1, 0]
    (row,) = queries.call_rows(reader, "call-3@sip.test")
    assert row and (row["outcome"], row["node"], row["last_ts"]) == ("answered", "n1", ended)
    assert "recorded_at" not in row
    assert queries.call_rows(reader, "nosuch") == []


def test_findings_and_attempts_come_back_as_python_values(known: tuple[Writer, Reader]) -> None:
    writer, reader = known
    evidence = {"device": "<urn:uuid:1>", "late_ms": 560.0, "register_us": 1}
    for n, kind in enumerate(("late_register", "late_register", "other")):
        row = {"finding_id": f"f{n}", "kind": kind, "ts": T0 + timedelta(minutes=n), "call_id": f"c{n}"}
        writer.append("finding", [{**row, "evidence": evidence, "msg_ids": [n, n + 1]}])
    statuses = [{"status": 180, "at_us": 5}, {"status": 487, "at_us": 9}]
    attempt = {"attempt_id": "a1", "finding_id": "f1", "call_id": "c1", "started_at": T0, "dry_run": False}
    writer.append("action_attempt", [{**attempt, "sip_statuses": statuses, "register_to_invite_ms": 4.5}])
    writer.flush()
    assert [row["finding_id"] for row in queries.findings(reader)] == ["f2", "f1", "f0"]
    assert [row["finding_id"] for row in queries.findings(reader, kind="late_register", limit=1)] == ["f1"]
    assert [row["finding_id"] for row in queries.findings(reader, since=T0 + timedelta(minutes=2))] == ["f2"]
    (finding,) = queries.findings(reader, call_id="c1")
    assert (finding["evidence"], finding["msg_ids"]) == (evidence, [1, 2])
    (found,) = queries.action_attempts(reader, finding_id="f1")
    assert (found["sip_statuses"], found["dry_run"], found["started_at"]) == (statuses, False, T0)
    assert queries.action_attempts(reader, call_id="c1") == [found]
    assert queries.action_attempts(reader, finding_id="f0") == []
    assert queries.action_attempts(reader, since=T0 + timedelta(seconds=1)) == []


def test_minutes_agents_bindings_and_weird_things(known: tuple[Writer, Reader]) -> None:
    writer, reader = known
    minute = {"minute": T0, "received": 5, "stored": 3, "rejected": 1}
    writer.append(
        "ingest_minute", [{**minute, "shed": {"queue_full": 1}}, {**minute, "shed": {"queue_full": 2}}]
    )
    writer.append("ingest_minute", [{**minute, "minute": T0 + timedelta(minutes=1)}])
    for kind, length in (("hep_short", 3), ("hep_short", 5), ("hep_magic", 9)):
        row = {"received_at": T0 + timedelta(seconds=length), "kind": kind, "detail": f"{length} bytes"}
        writer.append("weird", [{**row, "head": b"\x01" * length, "bytes": length}])
    writer.append(
        "agent", [{"agent": "10.0.0.5/2001", "received": 1}, {"agent": "10.0.0.5/2001", "received": 2}]
    )
    writer.append("registration", [{"ts": T0, "aor": "sip:bob@sip.test", "event": "registered"}])
    writer.flush()
    first, second = queries.ingest_by_minute(reader)
    assert (first["received"], first["stored"], first["shed"]) == (10, 6, {"queue_full": 3})
    assert (second["received"], second["shed"]) == (5, {})
    short, magic = queries.weird_summary(reader)
    assert (short["kind"], short["messages"], short["detail"]) == ("hep_short", 2, "5 bytes")
    assert magic["head"] == b"\x01" * 9
    assert [row["received"] for row in queries.agents(reader)] == [2]
    assert [row["event"] for row in queries.registrations(reader, aor="sip:bob@sip.test")] == ["registered"]
    assert queries.registrations(reader, aor="sip:carol@sip.test") == []


def test_a_call_is_found_beyond_its_last_known_state(known: tuple[Writer, Reader]) -> None:
    """The row of a call is written when its state changes; messages may come after that."""
    writer, reader = known
    rows = [
        {"ts": T0 + timedelta(seconds=n), "call_id": "c1", "msg_id": n, "payload": b"x"} for n in (0, 5, 3600)
    ]
    writer.append("sip", rows)
    assert [row["msg_id"] for row in _messages(writer, reader)] == [0, 5, 3600], "no state yet"
    state = {"call_id": "c1", "first_ts": T0, "last_ts": T0 + timedelta(seconds=5)}
    writer.append("call", [state])
    assert [row["msg_id"] for row in _messages(writer, reader)] == [0, 5, 3600], "still going on"
    writer.append("call", [{**state, "end_ts": T0 + timedelta(seconds=5)}])
    assert [row["msg_id"] for row in _messages(writer, reader)] == [0, 5], "long over: another call's reuse"


def _messages(writer: Writer, reader: Reader) -> list[queries.Row]:
    writer.flush()
    return queries.call_messages(reader, "c1")


# -- legs ----------------------------------------------------------------------------------------------


def test_the_other_legs_of_a_call(known: tuple[Writer, Reader]) -> None:
    """A caller waits for two hours, then two phones are tried; days before the Call-ID stood for another call."""
    writer, reader = known
    long_ago = T0 - timedelta(days=3)
    legs = [
        _leg("a", "a", T0, 3 * 3600),
        _leg("b1", "b", T0 + timedelta(hours=2), 30),
        _leg("b2", "b", T0 + timedelta(hours=2, seconds=30), 600),
        _leg("b0", "b", long_ago, 60),
        {**_leg("gone", "b", T0, 10), "unit": "withdrawn", "revision": 1},
        {**_leg("gone", None, T0, 10), "unit": "withdrawn", "revision": 2},
    ]
    times = {
        "a": (T0, T0 + timedelta(hours=3)),
        "b1": (T0 + timedelta(hours=2),),
        "b2": (T0 + timedelta(hours=2, seconds=30),),
        "b0": (long_ago,),
        "gone": (T0,),
    }
    messages = [(call_id, ts) for call_id, told in times.items() for ts in told]
    writer.append("call_leg", legs)
    writer.append(
        "sip",
        [
            {"call_id": call_id, "ts": ts, "msg_id": number, "payload": b"x"}
            for number, (call_id, ts) in enumerate(messages)
        ],
    )
    writer.flush()

    def others(call_id: str, at: datetime | None) -> dict[str, int]:
        found = leg_queries.other_messages(reader, leg_queries.legs(reader, call_id), at)
        return {name: len(rows) for name, rows in found.items()}

    waited = T0 + timedelta(hours=2)
    assert others("b1", waited) == {"a": 2, "b2": 1}
    assert list(others("b2", waited)) == ["a", "b1"], "leg A first"
    assert others("a", waited) == {"b1": 1, "b2": 1}
    assert others("a", long_ago) == {"b0": 1}
    assert others("a", None) == {"b0": 1, "b1": 1, "b2": 1}
    assert others("nobody", None) == {}
    assert [leg_queries.legs(reader, name).of for name in ("a", "b1", "gone", "nobody")] == [
        None,
        "a",
        None,
        None,
    ]


def _leg(name: str, leg: str | None, ts: datetime, seconds: int) -> queries.Row:
    return {
        "name": name,
        "kind": "call-id",
        "call_id": "a",
        "leg": leg,
        "tied_by": "cdr",
        "ts": ts,
        "end_ts": ts + timedelta(seconds=seconds),
        "unit": "cdr:1",
        "revision": 7,
    }


# -- the user's own SQL --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT count(*) FROM sip",
        "FROM sip LIMIT 1;",
        "WITH a AS (SELECT 1 AS one) SELECT * FROM a",
        "DESCRIBE sip",
        "SUMMARIZE finding",
        "SHOW TABLES",
        "SHOW ALL TABLES",
        'EXPLAIN SELECT * FROM "call"',
        "explain analyze from sip",
        "DESCRIBE SELECT 1",
        "FROM ducklake_snapshots('lake')",
        "SELECT 'DROP TABLE sip; ducklake_cleanup_old_files()' AS words",
        "VALUES (1)",
    ],
)
def test_reading_sql_passes(source: queries.Source, sql: str) -> None:
    assert len(queries.run_sql(source, sql)) >= 1


@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("DROP TABLE sip", "read-only"),
        ("COPY sip TO '/x.csv'", "read-only"),
        ("EXPLAIN ANALYZE COPY (SELECT 1) TO '/x.csv'", "read-only"),
        ("SELECT 1; SELECT 2", "one statement"),
        ("SHOW TABLES; DROP TABLE sip", "syntax"),
        ("SET threads = 1", "read-only"),
        ("ATTACH ':memory:' AS m", "read-only"),
        ("CALL ducklake_merge_adjacent_files('lake')", "read-only"),
        ("FROM ducklake_cleanup_old_files('lake', cleanup_all => true)", "cleanup_old_files is not"),
        ("SUMMARIZE FROM lake.cleanup_old_files(cleanup_all => true)", "cleanup_old_files is not"),
        ("SELECT (SELECT count(*) FROM query('SELECT 1'))", "query is not"),
        ("FROM quack_stop('quack:127.0.0.1:1')", "quack_stop is not"),
        ("FROM read_text('/etc/hostname')", "disabled by configuration"),
        ("SELEC 1", "syntax error"),
        ("SELECT nosuch FROM sip", "nosuch"),
        ("", "one statement"),
    ],
)
def test_any_other_sql_is_refused_in_words(source: queries.Source, sql: str, words: str) -> None:
    with pytest.raises(StoreError, match=words):
        queries.run_sql(source, sql)
