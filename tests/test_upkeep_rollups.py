"""Counts by minute and quality by hour are those of the rows themselves, in whatever order these come."""

from __future__ import annotations

import random
import statistics
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from store_rows import QUIET, sip_rows
from upkeep_store import ask, empty_store

from pipeline.store import upkeep
from pipeline.store.catalog import Catalog
from pipeline.store.parquet import conform
from pipeline.store.paths import StorePaths
from pipeline.store.retention import drop_replaced, prune
from pipeline.store.rollups import count_messages, rate_hours
from pipeline.store.schema import read_migrations
from pipeline.store.settings import RetentionSettings
from pipeline.store.writer import Writer

T0 = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - timedelta(hours=30)
UTC_US = pa.timestamp("us", "UTC")


@pytest.fixture
def store(tmp_path: Path) -> Path:
    return empty_store(tmp_path / "store")


@pytest.fixture
def writer(store: Path) -> Iterator[Writer]:
    with Writer(store, "n1", QUIET) as made:
        yield made


# -- messages by minute --------------------------------------------------------------------------------


class Heard:
    """Messages at random minutes, and a count of them by hand."""

    def __init__(self, writer: Writer) -> None:
        self.writer = writer
        self.draw = random.Random(1)
        self.counts: Counter[tuple[datetime, str, int | None]] = Counter()
        self.bytes: Counter[tuple[datetime, str, int | None]] = Counter()
        self.next_id = 1

    def more(self, rows: int) -> None:
        columns: dict[str, list[Any]] = {"ts": [], "method": [], "status": [], "payload_bytes": []}
        for _ in range(rows):
            ts = T0 + timedelta(seconds=self.draw.uniform(0, 600))
            method = self.draw.choice(["INVITE", "REGISTER"])
            status = self.draw.choice([None, 100, 180, 200, 401, 487])
            size = self.draw.randrange(300, 1500)
            for column, value in zip(columns.values(), (ts, method, status, size), strict=True):
                column.append(value)
            key = ts.replace(second=0, microsecond=0), method, status and status // 100
            self.counts[key] += 1
            self.bytes[key] += size
        table = pa.table(
            {
                "ts": pa.array(columns["ts"], UTC_US),
                "received_at": pa.array([datetime.now(UTC)] * rows, UTC_US),
                "method": columns["method"],
                "status": pa.array(columns["status"], pa.int32()),
                "payload_bytes": pa.array(columns["payload_bytes"], pa.int32()),
                "msg_id": list(range(self.next_id, self.next_id + rows)),
            }
        )
        self.next_id += rows
        assert self.writer.put("sip", table)
        self.writer.flush()

    def assert_counted(self) -> None:
        found = ask(
            self.writer,
            "SELECT minute, method, status_class, sum(messages)::BIGINT, sum(bytes)::BIGINT"
            " FROM sip_minute GROUP BY ALL",
        )
        assert {tuple(key): (messages, size) for *key, messages, size in found} == {
            key: (count, self.bytes[key]) for key, count in self.counts.items()
        }


def test_each_message_counts_once_however_late_and_in_however_many_passes(store: Path) -> None:
    with Writer(store, "n1", QUIET) as writer:
        heard = Heard(writer)
        heard.more(500)
        assert count_messages(writer) == 500
        assert count_messages(writer) == 0
        heard.more(300)
        heard.more(200)
        writer.merge()  # which deals out new row ids, and so must not matter
        heard.more(50)
        assert count_messages(writer) == 550
        heard.assert_counted()
    with Writer(store, "n1", QUIET) as writer:  # after a restart
        heard.writer = writer
        assert count_messages(writer) == 0
        heard.more(70)
        assert count_messages(writer) == 70
        heard.assert_counted()
    with Writer(store, "n2", QUIET) as other:  # the tap has another name now
        assert count_messages(other) == 0
        assert other.put("sip", pa.table({"ts": pa.array([T0], UTC_US), "method": ["OPTIONS"]}))
        other.flush()
        assert count_messages(other) == 1
        assert ask(other, "SELECT sum(messages)::BIGINT FROM sip_minute") == [(1121,)]


def test_counts_outlive_the_messages(writer: Writer) -> None:
    heard = Heard(writer)
    heard.more(500)
    count_messages(writer)
    prune(writer, RetentionSettings(max_size="100%"), now=datetime.now(UTC) + timedelta(days=15))
    assert ask(writer, "SELECT count(*) FROM sip") == [(0,)]
    heard.assert_counted()
    heard.more(10)
    assert count_messages(writer) == 10
    heard.assert_counted()


def test_messages_imported_at_their_own_time_count_as_well(writer: Writer) -> None:
    Heard(writer).more(5)
    count_messages(writer)
    long_ago = T0 - timedelta(days=9)
    writer.append("imported_file", [{"name": "a.pcap", "first_ts": long_ago}])
    old = pa.array([long_ago], UTC_US)
    writer.put("sip", pa.table({"ts": old, "received_at": old, "method": ["INVITE"]}))
    writer.flush()
    assert count_messages(writer) == 1


def test_messages_of_a_store_of_an_older_version_count_once(tmp_path: Path) -> None:
    paths = StorePaths.of(tmp_path / "old")
    paths.root.mkdir()
    older = Catalog(paths, "n1", QUIET, read_migrations()[:5])
    older.commit("batch-1", {"sip": conform("sip", sip_rows(60), "n1")}, T0)
    older.close()
    with Writer(paths.root, "n1", QUIET) as writer:
        assert ask(writer, "SELECT count(*) FROM sip WHERE recorded_at IS NULL") == [(60,)]
        assert count_messages(writer) == 60
        assert count_messages(writer) == 0
        Heard(writer).more(5)
        assert count_messages(writer) == 5
        assert ask(writer, "SELECT sum(messages)::BIGINT FROM sip_minute") == [(65,)]


# -- quality by hour -----------------------------------------------------------------------------------


def legs(
    unit: str, ts: datetime, revision: int, r_incoming: float | None, **more: Any
) -> list[dict[str, Any]]:
    """Both directions of one leg; outgoing is always 90."""
    shared = {
        **{"call_id": unit, "unit": unit, "revision": revision, "leg": "a", "ts": ts, "end_ts": ts},
        **{"source": "cdr", "codec": "PCMA", "grounded": True, "endpoint": "PJSIP/trunk", "flags": ""},
    }
    ways = (("incoming", r_incoming), ("outgoing", 90.0))
    return [{**shared, "direction": way, "r_factor": r, "loss_pct": 0.5, **more} for way, r in ways]


def stored(writer: Writer, rows: list[dict[str, Any]]) -> None:
    done = writer.append("leg_quality", rows)
    writer.flush()
    done.result(0)


def hours(writer: Writer) -> dict[tuple[datetime, str | None], tuple[Any, ...]]:
    found = ask(writer, "SELECT hour, trunk, directions, rated, grounded, r_mean, r_p50 FROM quality_hour")
    assert len({row[:2] for row in found}) == len(found)
    return {row[:2]: row[2:] for row in found}


def test_an_hour_is_what_its_legs_say_whenever_they_say_it(writer: Writer) -> None:
    draw = random.Random(2)
    rates = [draw.uniform(30, 93) for _ in range(40)]
    for n, r in enumerate(rates):
        stored(writer, legs(f"u{n}", T0 + timedelta(minutes=n), 1, r))
        if n in {10, 30}:
            assert rate_hours(writer)
    assert rate_hours(writer) == 1
    assert rate_hours(writer) == 0
    every = [*rates, *[90.0] * 40]
    expected = (80, 80, 80, pytest.approx(statistics.fmean(every)), pytest.approx(statistics.median(every)))
    assert hours(writer) == {(T0, "PJSIP/trunk"): expected}
    # A leg turns out to be of another hour and trunk, another was not rated after all.
    later = T0 + timedelta(hours=1, minutes=5)
    stored(writer, legs("u3", later, 2, rates[3], endpoint="PJSIP/other"))
    stored(writer, legs("u7", T0, 2, None))
    assert rate_hours(writer) == 2
    left = [r for n, r in enumerate(rates) if n not in {3, 7}] + [90.0] * 39
    first = (78, 77, 77, pytest.approx(statistics.fmean(left)), pytest.approx(statistics.median(left)))
    both = [rates[3], 90.0]
    second = (2, 2, 2, pytest.approx(statistics.fmean(both)), pytest.approx(statistics.median(both)))
    assert hours(writer) == {
        (T0, "PJSIP/trunk"): first,
        (T0 + timedelta(hours=1), "PJSIP/other"): second,
    }
    with writer.tending() as cursor:  # what was replaced may go
        drop_replaced(writer, cursor)
        upkeep.expire(cursor, timedelta(0))
    assert hours(writer)[T0, "PJSIP/trunk"] == first
    # Of the second hour nothing is left.
    stored(writer, [{"unit": "u3", "revision": 3}])
    assert rate_hours(writer) >= 1
    assert set(hours(writer)) == {(T0, "PJSIP/trunk")}


def test_many_hours_at_once_are_all_there(writer: Writer) -> None:
    stored(writer, [row for n in range(60) for row in legs(f"u{n}", T0 - timedelta(hours=n), 1, 80.0)])
    assert rate_hours(writer) == 60
    assert rate_hours(writer) == 0
    assert len(hours(writer)) == 60
    stored(writer, legs("late", T0 - timedelta(hours=59), 1, 70.0))
    assert rate_hours(writer) == 1
    assert hours(writer)[T0 - timedelta(hours=59), "PJSIP/trunk"][0] == 4
