"""What must hold for any bytes, for the corpus and for seeded damage to it: `python -m benchmarks.fuzz`, in short."""

from __future__ import annotations

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

from pipeline.ingest.cdr import lines
from pipeline.protocols import redact, rtcp, sip_head
from pipeline.protocols.hep import HepStream, v3
from pipeline.store import call_search

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
        ("rtcp", rtcp, "_storable", str),
        ("rtcp", rtcp, "_float", float),
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
