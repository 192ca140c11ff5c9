"""What must hold for any bytes, for the corpus and for seeded damage to it: `python -m benchmarks.fuzz`, in short."""

from __future__ import annotations

import io
import math
import random

import duckdb
import fuzz_targets
import pytest
from fuzz_seeds import FOUND, seeds
from fuzz_targets import TARGETS
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mutations import Mutator

from pipeline.errors import SearchError
from pipeline.ingest.cdr import Raw, lines
from pipeline.ingest.cdr.records import RecordReader, Shape
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.protocols import redact, rtcp, sip_head
from pipeline.protocols.hep import HepStream, v3
from pipeline.store import call_search
from pipeline.store.call_search import compile_search

MUTATIONS = {"hep": 3000, "stream": 300, "sip": 400, "rtcp": 3000, "cdr": 400, "search": 300}


@pytest.mark.parametrize("name", TARGETS)
def test_the_corpus(name: str) -> None:
    """The recordings, the torture messages, and what was ever found."""
    assert len(seeds(name)) >= 3
    check_seeds(name)


def check_seeds(name: str) -> None:
    for data in seeds(name):
        TARGETS[name].check(data)


@pytest.mark.parametrize("name", TARGETS)
def test_seeded_damage(name: str) -> None:
    target, sources = TARGETS[name], seeds(name)
    mutator, rng = Mutator(seed=4475, sources=sources, words=target.words), random.Random(5118)
    for _ in range(MUTATIONS[name]):
        data = rng.choice(sources)
        for _ in range(rng.choice((1, 1, 3))):
            data = mutator.damaged(data)
        target.check(data[: target.max_bytes])


@pytest.mark.parametrize("name", TARGETS)
def test_any_words_of_the_grammar(name: str) -> None:
    target = TARGETS[name]
    parts = st.sampled_from(target.words) | st.binary(max_size=12) | st.text(max_size=6).map(str.encode)

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
    @given(st.binary(max_size=2), st.lists(parts, max_size=30))
    def holds(start: bytes, rest: list[bytes]) -> None:
        target.check(start + b"".join(rest))

    holds()


def test_every_finding_belongs_to_a_target() -> None:
    assert {folder.name for folder in FOUND.iterdir()} <= set(TARGETS)
    assert all(path.stat().st_size <= 16_384 for path in FOUND.glob("*/*"))


# -- the checks can fail ---------------------------------------------------------------------------------


class _Deaf(HepStream):
    """Forgets what it holds when a piece is short."""

    def feed(self, data: bytes) -> list[bytes]:
        if len(data) < 8:
            self._rest = b""
        return super().feed(data)


def _raises(*_: object, **__: object) -> object:
    raise ValueError("a bug")


@pytest.mark.parametrize(
    ("name", "place", "attribute", "bug"),
    [
        ("hep", v3, "_inflate", _raises),
        ("hep", v3._Chunks, "_text", lambda *_: "another"),
        ("stream", fuzz_targets, "HepStream", _Deaf),
        ("sip", sip_head, "seconds", lambda *_: -1),
        ("sip", redact, "_STARS", bytes(range(256))[::-1]),
        ("rtcp", rtcp, "storable", str),
        ("rtcp", rtcp, "finite", float),
        ("cdr", lines, "_flat", _raises),
        ("cdr", math, "isfinite", lambda _: True),
        ("search", call_search.Bound, "__call__", lambda *_: "$other"),
    ],
)
def test_a_planted_bug_is_found(
    name: str, place: object, attribute: str, bug: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(place, attribute, bug)
    with pytest.raises((AssertionError, ValueError, TypeError, duckdb.Error)):
        check_seeds(name)


# -- what was dear once ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["csv", "outfile"])
def test_a_quote_that_stays_open_costs_no_more_than_its_lines(kind: str) -> None:
    """Each of sixty thousand lines was read again with all before it: for minutes."""
    settings = CdrSourceSettings(source="tried.csv", order=["start", "src"], format=kind)
    reader = RecordReader(Shape(settings.format, None, 0, 0), settings, to_the_end=True)
    records = [*reader.records(io.BytesIO(b'"a\n' + b"\n" * 60_000), 0)]
    assert [record.found for record in records] == ["line 1: a quote stays open"] + [None] * 60_000


def test_a_cell_of_a_hundred_lines_is_one_cell() -> None:
    settings = CdrSourceSettings(source="tried.csv", order=["start", "src"])
    reader = RecordReader(Shape("csv", None, 0, 0), settings, to_the_end=True)
    (record,) = reader.records(io.BytesIO(b'2026-01-01,"' + b"a\n" * 100 + b'"\n'), 0)
    assert isinstance(record.found, Raw)
    assert record.found.values == {"start": "2026-01-01", "src": "a\n" * 100}


def test_wildcards_are_quick_on_any_call_id_and_bounded() -> None:
    """SQL's LIKE tries all ways to share the text among the wildcards: this took longer than anybody lives."""
    store = duckdb.connect()
    store.execute("CREATE TABLE c AS SELECT repeat('a', 60000) AS call_id")
    for search, found in (
        ("callid:" + "a*" * 15 + "b", 0),
        ("callid:" + "A%" * 15 + "a", 1),
        ("callid:a_*", 0),
    ):
        condition = compile_search(search)
        sql = f"SELECT count(*) FROM c WHERE {condition.sql}"
        assert store.execute(sql, condition.parameters).fetchall() == [(found,)]
    with pytest.raises(SearchError, match=r"more than 20 \* in one value, at column 3") as caught:
        compile_search("a " + "b*" * 21)
    assert (caught.value.start, caught.value.length) == (2, 42)


def test_half_a_surrogate_pair_costs_its_place_and_no_more() -> None:
    (report,) = rtcp.parse(b'{"MOS":4,"CODEC_NAME":"a\\ud800b","RTP_SIP_CALL_ID":"c\\u0000"}')
    assert report.media is not None
    assert (report.media.codec, report.media.call_id) == ("a?b", "c\ufffd")
    found = lines.object_of('{"src": "a\\ud800b", "dst": "\\ud83d\\ude00", "extra": {"a": [1]}}')
    assert found == {"src": "a?b", "dst": "\U0001f600", "extra": '{"a": [1]}'}
