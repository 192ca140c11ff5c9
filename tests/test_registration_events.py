"""What becomes of a binding over time, as the engine tells the store: each REGISTER sets its lifetime anew, an
un-REGISTER ends it (RFC 3261 10.2.2, 10.3)."""

from __future__ import annotations

import time
from collections.abc import Iterable

from registers import Phone

from pipeline.decode import Decoder
from pipeline.engine.engine import Engine
from pipeline.ingest import Datagram

T0 = time.time() - 4 * 3600
OWN, ELSEWHERE = "6b1d7c6e-0f5a-4f0e-9d0c-000000000001", "6b1d7c6e-0f5a-4f0e-9d0c-000000000002"


def events(packets: Iterable[bytes]) -> list[str]:
    """`phone registered`, `phone removed` ... in the order in which they were known; hours pass at the end."""
    engine = Engine([])
    decoder = Decoder("tap", engine.interest)
    now_us = time.time_ns() // 1000
    silence = Phone("other", ip="198.51.100.99").register(T0 + 3 * 3600)
    for packet in [*packets, *silence]:
        engine.handle(decoder.decode([Datagram(now_us, "127.0.0.1", 9060, "udp", True, packet)]), now_us)
    told = [
        f"{(registration.aor or '').partition('@')[0]} {event}"
        for registration, event in engine.state.registered
    ]
    assert told.pop() == "other registered"
    return told


def test_a_phone_that_comes_back_after_it_went_is_registered_anew() -> None:
    phone = Phone("bob", instance=OWN)
    there = [*phone.register(T0), *phone.register(T0 + 60)]
    gone = phone.register(T0 + 90, expires=0)
    back = [*phone.register(T0 + 120), *phone.register(T0 + 180)]
    told = ["registered", "refreshed", "removed", "registered", "refreshed", "expired"]
    assert events([*there, *gone, *back]) == [f"bob {event}" for event in told]


def test_a_binding_that_was_removed_does_not_expire() -> None:
    phone = Phone("bob", instance=OWN)
    assert events([*phone.register(T0), *phone.register(T0 + 30, expires=0)]) == [
        "bob registered",
        "bob removed",
    ]


def test_removing_all_is_meant_for_each_phone_of_the_account() -> None:
    one, other = (Phone("bob", ip=f"198.51.100.{n}", instance=uid) for n, uid in ((1, OWN), (2, ELSEWHERE)))
    packets = [*one.register(T0), *other.register(T0 + 1), *one.register(T0 + 2, expires=0, contact="*")]
    packets += [*other.register(T0 + 3), *one.register(T0 + 4)]
    told = ["registered", "registered", "removed", "registered", "registered", "expired", "expired"]
    assert events(packets) == [f"bob {event}" for event in told]


def test_the_newest_register_says_how_long() -> None:
    """The hour that it asked for before is no more."""
    phone = Phone("bob", instance=OWN)
    first = phone.register(T0, expires=3600)
    short = phone.register(T0 + 60, expires=60)
    late = phone.register(T0 + 180)
    assert events([*first, *short, *late])[:3] == ["bob registered", "bob refreshed", "bob registered"]


def test_a_refresh_that_is_mirrored_after_the_removal_that_followed_it() -> None:
    phone = Phone("bob", instance=OWN)
    first, refresh = phone.register(T0), phone.register(T0 + 60)
    gone = phone.register(T0 + 60.5, expires=0)
    assert events([*first, *gone, *refresh]) == ["bob registered", "bob removed", "bob refreshed"]
