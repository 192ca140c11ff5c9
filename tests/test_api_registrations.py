"""Registrations from Python: against labels of real recordings, and REGISTERs written by hand for a real tap."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pandas as pd
import pytest
from recordings import PATHS, load
from registers import Phone, flapping, scan, storm
from tap import RunningTap

from pipeline.api.live import message_rate, tail
from pipeline.api.opened import Store
from pipeline.api.registrations import (
    binding_counts,
    bindings,
    flaps,
    refresh_intervals,
    registration_failure_rate,
    registration_failures,
    registration_rate,
    registrations,
)
from pipeline.errors import SearchError, StoreError

LABELLED = ("a", "c", "f", "q", "moved", "mix")
START = (
    time.time() // 60 * 60 - 3 * 3600
)  # of what is written by hand: long over, so that nothing is too young

YOUNG = START + 4 * 3600  # of a clock that is ahead


def at(seconds: float) -> datetime:
    """So long after `START`."""
    return datetime.fromtimestamp(START + seconds, UTC)


def rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return frame.to_dict("records")


DESK = Phone("desk", instance="00000000-0000-4000-8000-0000000000d5", expires=600)
PLAIN = Phone("plain", ip="198.51.100.11")  # without an instance
SHORT = Phone("short", ip="198.51.100.12", expires=60)
NOMAD = Phone("nomad", ip="198.51.100.13", instance="00000000-0000-4000-8000-00000000000a")
FLAPPER = Phone("flapper", ip="198.51.100.14", instance="00000000-0000-4000-8000-0000000000f1")
PAIR = [
    Phone("pair", ip=f"198.51.100.{n}", instance=f"00000000-0000-4000-8000-0000000000{n}") for n in (20, 21)
]
WRONG = Phone("wrong", ip="198.51.100.30")
BRIEF = Phone("brief", ip="198.51.100.31")
MUTE = Phone("mute", ip="198.51.100.32")
SCANNER, STORM = "203.0.113.66", "203.0.113.77"


def by_hand() -> Iterator[bytes]:
    """What the phones do, each on its own."""
    for refresh in range(8):  # every 300 s, for 600 s each
        yield from DESK.register(START + 300 * refresh)
    yield from PLAIN.register(START)
    yield from PLAIN.register(START + 100, expires=0)  # un-registers
    yield from SHORT.register(START)  # expires at 60
    yield from SHORT.register(START + 200)  # anew, until 260
    for move in range(4):
        NOMAD.port = 6000 + move
        yield from NOMAD.register(START + 100 * move)
    yield from flapping(START, FLAPPER, 10, every_s=60)
    for phone in PAIR:
        yield from phone.register(START)
    yield from PAIR[0].register(START + 300, expires=0, contact="*")  # takes away both
    for attempt in range(5):  # every time a challenge, and then a 403
        yield from WRONG.send(START + 60 * attempt, 401)
        yield from WRONG.send(START + 60 * attempt + 0.1, 403)
    yield from BRIEF.send(START, 423)
    yield from BRIEF.send(START + 0.1, 401)
    yield from BRIEF.send(START + 0.2, 200)
    twice = MUTE.send(START, None)
    yield from [*twice, *twice]  # a retransmission is no second try
    yield from scan(START + 1000, SCANNER, 200)
    yield from storm(START + 2000, "stubborn", STORM, 90)
    yield from Phone("young", ip="198.51.100.40").send(YOUNG, 401)
    yield from Phone("young", ip="198.51.100.41").send(YOUNG, 403)


@pytest.fixture(scope="module", name="store")
def filled_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """What a real tap made of the recordings, and of what is written by hand."""
    tap = RunningTap(tmp_path_factory.mktemp("registrations"))
    heard = list(by_hand())
    with tap:
        tap.send(*(PATHS[name] for name in LABELLED))
        before = tap.wait_for(lambda status: status["queued"] == 0, "the recordings")["received"]
        with tap.connected() as sock:
            for number, packet in enumerate(heard):
                sock.send(packet)
                if number % 50 == 49:
                    time.sleep(0.005)
        tap.settled(before + len(heard))
        assert tap.stop() == 0
    with Store(tap.store) as store:
        yield store


# -- against labels --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a", "c", "f", "q"])
def test_who_registered_when_as_the_labels_say(name: str, store: Store) -> None:
    label = json.loads(PATHS[name].with_suffix(".json").read_text())
    owed = [event for event in label["events"] if event["event"] == "register"]
    assert owed
    every = rows(registrations(limit=100_000, store=store))[::-1]
    found = [next(row for row in every if row["call_id"] == event["call_id"]) for event in owed]
    for event, row in zip(owed, found, strict=True):
        assert (row["aor"], row["user_agent"]) == (f"sip:{event['aor']}@sip.test", event["ua"])
        assert (row["change"] == "removed") == (event["expires"] == 0)
        if event["expires"]:
            assert row["expires_s"] == event["expires"]
        late = (row["ts"] - found[0]["ts"]).total_seconds() - (event["t"] - owed[0]["t"])
        assert abs(late) < 0.2


def test_a_refresh_from_the_same_socket_and_a_move_to_another(store: Store) -> None:
    """Recordings q (refreshes 3 s later, same socket) and moved (comes back from a new port)."""
    (register,) = [
        e
        for e in json.loads(PATHS["q"].with_suffix(".json").read_text())["events"]
        if e["event"] == "register"
    ]
    of_bob = rows(registrations(account="sip:bob@sip.test", limit=1000, store=store))[::-1]
    first, second = [row for row in of_bob if row["call_id"] == register["call_id"]]
    assert second["change"] == "refreshed"
    assert 2.9 < (second["ts"] - first["ts"]).total_seconds() < 3.3
    (owed,) = load("moved").label["expected"]
    ip, _, port = owed["contact"].partition(";")[0].rpartition(":")
    moved = [row for row in of_bob if (row["src_ip"], str(row["src_port"])) == (ip, port)]
    assert moved[0]["change"] == "moved"


def test_who_is_bound_after_a_busy_minute(store: Store) -> None:
    """Recording mix: each labelled phone is registered where the label says; who un-registered is not."""
    label = load("mix").label
    end = datetime.fromtimestamp(load("mix").arrived[-1].at_us / 1e6, UTC)
    bound = {
        (row["aor"], f"{row['src_ip']}:{row['src_port']};transport={row['transport']}")
        for row in rows(bindings(at=end, limit=5000, store=store))
    }
    late = {(entry["aor"], entry["contact"]) for entry in label["expected"]}
    assert late and late <= bound
    left = {(entry["aor"], entry["contact"]) for entry in label["must_not"] if entry["why"] == "unregister"}
    assert left and not left & bound
    (all_of_them,) = rows(binding_counts(at=end, store=store))
    assert all_of_them["bindings"] == len(bindings(at=end, limit=5000, store=store))


def test_nobody_was_refused_in_the_recordings(store: Store) -> None:
    """Kamailio challenges each REGISTER, and all phones know their passwords."""
    mix = load("mix")
    assert sum(event.sip.status == 401 for _, event in mix.arrived) > 1000
    begin, end = (datetime.fromtimestamp(mix.arrived[i].at_us / 1e6, UTC) for i in (0, -1))
    assert registration_failures(since=begin, until=end, store=store).empty


# -- bindings by hand ------------------------------------------------------------------------------------

# When who is bound, in seconds after START: (account, device) -> spans. Written from `by_hand`, not by our code.
LIVES = {
    ("desk", 0): [(0, 7 * 300 + 600)],
    ("plain", 0): [(0, 100)],
    ("short", 0): [(0, 60), (200, 260)],
    ("nomad", 0): [(0, 300 + 600)],
    ("flapper", 0): [(60 * n, 60 * n + 30) for n in range(10)],
    ("pair", 0): [(0, 300)],
    ("pair", 1): [(0, 300)],
    ("brief", 0): [(0, 600)],
}
ACCOUNTS = {account for account, _ in LIVES}


def owed_at(seconds: float) -> Counter[str]:
    return Counter(
        f"sip:{account}@sip.test"
        for (account, _), spans in LIVES.items()
        for begin, end in spans
        if begin <= seconds < end
    )


@pytest.mark.parametrize(
    "seconds", [-5, 5, 45, 65, 105, 155, 205, 265, 295, 305, 580, 605, 895, 905, 2695, 2705]
)
def test_who_is_bound_at_a_time(seconds: float, store: Store) -> None:
    bound = rows(bindings(at=at(seconds), limit=5000, store=store))
    ours = Counter(row["aor"] for row in bound if row["aor"].split(":")[1].split("@")[0] in ACCOUNTS)
    assert ours == owed_at(seconds)


def test_a_binding_tells_where_from_with_what_and_how_long(store: Store) -> None:
    (row,) = rows(bindings(at=at(350), account="sip:nomad@sip.test", store=store))
    assert (row["src_ip"], row["src_port"], row["transport"]) == ("198.51.100.13", 6003, "udp")
    assert row["device"] == f"urn:uuid:{NOMAD.instance}" and row["user_agent"] == "Phone/1.0"
    assert row["expires_s"] == 600 and row["call_id"] == NOMAD.call_id
    assert abs(row["left_s"] - 550) <= 1
    assert row["refreshed_at"].tzinfo is not None
    assert abs((row["refreshed_at"] - at(300)).total_seconds()) < 0.1


def test_bindings_are_searched_paged_and_counted(store: Store) -> None:
    found = [
        bindings("IAN", at=at(5), store=store),
        bindings("198.51.100.1", at=at(5), limit=50, store=store),
    ]
    assert [len(table) for table in found] == [0, 5]  # .10 to .14
    pages = [rows(bindings("198.51.100.", at=at(5), limit=3, offset=3 * n, store=store)) for n in range(4)]
    assert [len(page) for page in pages] == [3, 3, 2, 0]
    assert len({row["call_id"] for page in pages for row in page}) == 8
    (counted,) = rows(binding_counts("198.51.100.", at=at(5), store=store))
    assert (counted["bindings"], counted["accounts"], counted["addresses"]) == (8, 7, 8)
    by_agent = rows(binding_counts("198.51.100.", at=at(5), by="user_agent", store=store))
    assert by_agent == [{"key": "Phone/1.0", "bindings": 8, "accounts": 7, "addresses": 8}]
    with pytest.raises(StoreError, match="user_agent"):
        binding_counts(by="moon", store=store)


def test_over_time_the_line_is_what_was_bound_and_nothing_is_lost(store: Store) -> None:
    begin, end = -60, 3000
    table = registration_rate(since=at(begin), until=at(end), steps=60, store=store)
    step = (table["at"].iloc[1] - table["at"].iloc[0]).total_seconds()
    ends = [(row.at.timestamp() - START + step, row.bindings) for row in table.itertuples()]
    inside = [(seconds, count) for seconds, count in ends if seconds <= end]
    assert len(inside) > 30
    # a binding is accepted 60 ms after the second it is written down for
    assert dict(inside) == {seconds: owed_at(seconds - 0.06).total() for seconds, _ in inside}
    summed = table[["registered", "refreshed", "moved", "removed", "expired"]].sum().to_dict()
    assert summed == {
        "registered": 1 + 1 + 2 + 1 + 10 + 2 + 1,
        "refreshed": 7,
        "moved": 3,
        "removed": 1 + 10 + 1,  # the one for two is one
        "expired": 1 + 2 + 1 + 1,  # desk, short twice, nomad, brief
    }


def test_who_flaps(store: Store) -> None:
    found = {row["aor"]: row for row in rows(flaps(since=at(-60), until=at(3000), store=store))}
    assert set(found) == {"sip:flapper@sip.test", "sip:nomad@sip.test"}
    flapper, nomad = found["sip:flapper@sip.test"], found["sip:nomad@sip.test"]
    assert (flapper["times"], flapper["came_back"], flapper["moved"], flapper["removed"]) == (9, 9, 0, 10)
    assert (nomad["times"], nomad["came_back"], nomad["moved"], nomad["addresses"]) == (3, 0, 3, 1)
    assert nomad["src_port"] == 6003
    assert flapper["per_hour"] == pytest.approx(9 / (9 * 60 + 30) * 3600, rel=0.01)
    assert flaps(since=at(-60), until=at(3000), at_least=10, store=store).empty
    (short,) = [
        row
        for row in rows(flaps(since=at(-60), until=at(3000), at_least=1, store=store))
        if row["aor"] == "sip:short@sip.test"
    ]
    assert (short["came_back"], short["lapsed"]) == (1, 1)


def test_refresh_intervals(store: Store) -> None:
    (row,) = rows(refresh_intervals(since=at(-60), until=at(3000), store=store))
    # desk seven times after 300 s, nomad three times after 100 s; lifetimes of 600 s, but for short's 60 s
    assert (row["user_agent"], row["devices"], row["refreshes"], row["lapsed"]) == ("Phone/1.0", 3, 10, 1)
    assert (row["interval_s_p5"], row["interval_s_p50"]) == pytest.approx((100, 300), abs=0.1)
    assert (row["expires_s_p50"], row["share_pct_p50"]) == pytest.approx((600, 50), abs=0.1)
    assert row["per_minute"] == pytest.approx(10 / 51, rel=0.01)


# -- refusals by hand ------------------------------------------------------------------------------------


def refused(store: Store, **more: Any) -> dict[str, dict[str, Any]]:
    found = rows(registration_failures(since=at(-60), until=at(3000), store=store, **more))
    return {row["src_ip" if "src_ip" in row else "aor"]: row for row in found}


def test_who_was_refused(store: Store) -> None:
    found = refused(store)
    assert set(found) == {SCANNER, STORM, WRONG.ip, MUTE.ip}  # not who was asked to try again, and did
    scanner, stubborn = found[SCANNER], found[STORM]
    assert (scanner["kind"], scanner["refused"], scanner["accounts"], scanner["forbidden"]) == (
        "scanner",
        200,
        200,
        200,
    )
    assert scanner["user_agent"] == "friendly-scanner" and scanner["accepted"] == 0
    assert len(scanner["tried"]) == 5
    assert (stubborn["kind"], stubborn["refused"], stubborn["unauthorized"]) == ("storm", 90, 90)
    assert (stubborn["accounts"], stubborn["per_minute_max"]) == (1, 90)
    wrong, mute = found[WRONG.ip], found[MUTE.ip]
    assert (wrong["kind"], wrong["refused"], wrong["forbidden"], wrong["unauthorized"]) == (
        "refused",
        5,
        5,
        0,
    )
    assert (mute["refused"], mute["unanswered"]) == (1, 1)
    assert wrong["call_id"] == WRONG.call_id
    assert abs((scanner["last"] - scanner["first"]).total_seconds() - 199 * 0.2) < 0.1
    assert [row["refused"] for row in found.values()] == [200, 90, 5, 1]


def test_which_accounts_were_tried_from_one_address(store: Store) -> None:
    tried = refused(store, by="account", ip=SCANNER)
    assert len(tried) == 100  # as many as asked for
    assert set(refused(store, by="account", ip=SCANNER, limit=500)) == {
        f"sip:{1000 + n}@sip.test" for n in range(200)
    }
    assert set(refused(store, by="account", ip=WRONG.ip)) == {"sip:wrong@sip.test"}
    with pytest.raises(StoreError, match="source, account"):
        refused(store, by="moon")


def test_refusals_over_time(store: Store) -> None:
    table = registration_failure_rate(since=at(-60), until=at(3000), steps=60, store=store)
    assert table["refused"].sum() == 200 + 90 + 5 + 1
    columns = ["unauthorized", "forbidden", "not_found", "other", "unanswered"]
    assert table[columns].sum().to_dict() == dict(zip(columns, [90, 205, 0, 0, 1], strict=True))
    busy = table[table["refused"] > 20]
    assert busy["at"].min() >= at(960) and busy["at"].max() <= at(2040)


def test_a_challenge_is_no_refusal_until_the_phone_had_time(store: Store) -> None:
    """A challenge of this moment, or of a clock that is ahead, may be answered yet; a 403 will not."""
    end = datetime.fromtimestamp(YOUNG + 60, UTC)
    found = rows(registration_failures(since=end - timedelta(minutes=2), until=end, store=store))
    assert [(row["src_ip"], row["refused"], row["forbidden"]) for row in found] == [("198.51.100.41", 1, 1)]


# -- the newest messages ---------------------------------------------------------------------------------


def test_the_tail_is_the_newest_and_finds_what_fits(store: Store) -> None:
    everything = tail(limit=100_000, span=timedelta(hours=1), store=store)
    assert everything["msg_id"].is_monotonic_decreasing
    assert list(tail(limit=7, store=store)["msg_id"]) == list(everything["msg_id"][:7])
    assert "payload" not in everything

    def fits(search: str) -> set[int]:
        return set(tail(search, limit=100_000, span=timedelta(hours=1), store=store)["msg_id"])

    def ids(mask: pd.Series) -> set[int]:
        return set(everything.loc[mask.fillna(False), "msg_id"])

    t = everything
    assert fits("") == set(t["msg_id"])
    assert fits("method:REGISTER") == ids(t["method"] == "REGISTER")
    assert fits("code:403") == ids(t["status"] == 403)
    assert fits("code:4xx -code:401") == ids((t["status"] // 100 == 4) & (t["status"] != 401))
    assert fits(f"ip:{SCANNER}") == ids((t["src_ip"] == SCANNER) | (t["dst_ip"] == SCANNER))
    inside = [t[f"{end}_ip"].str.startswith("198.51.100.") for end in ("src", "dst")]
    assert fits("ip:198.51.100.0/24") == ids(inside[0] | inside[1])
    assert fits("user=wrong") == ids((t["from_user"] == "wrong") | (t["to_user"] == "wrong"))
    assert fits(f"callid={DESK.call_id}") == ids(t["call_id"] == DESK.call_id)
    assert fits("ua:scanner") == ids(t["user_agent"] == "friendly-scanner")
    assert all(len(fits(search)) for search in ("code:403", "user=wrong", "ua:scanner", "ip:198.51.100.0/24"))


def test_the_tail_as_it_was(store: Store) -> None:
    everything = tail(limit=100, store=store)
    then = everything["received_at"].iloc[50].to_pydatetime()
    before = tail(until=then, limit=20, store=store)
    assert before["received_at"].max() == then
    assert set(before["msg_id"]) < set(tail(limit=100_000, span=timedelta(hours=1), store=store)["msg_id"])


@pytest.mark.parametrize("search", ["pdd>3s", "bob state:failed", "foo:1", '"open'])
def test_what_a_tail_cannot_be_searched_for_is_pointed_at(search: str, store: Store) -> None:
    with pytest.raises(SearchError) as refusal:
        tail(search, store=store)
    assert "^" in refusal.value.pointed()
    assert refusal.value.start == {"bob state:failed": 4}.get(search, 0)


def test_messages_over_time_add_up(store: Store) -> None:
    everything = tail(limit=100_000, span=timedelta(hours=1), store=store)
    begin, end = everything["received_at"].min(), everything["received_at"].max()
    around = timedelta(seconds=20)
    table = message_rate(since=begin - around, until=end + around, steps=30, store=store)
    assert table["messages"].iloc[0] == table["messages"].iloc[-1] == 0  # steps without any are there too
    assert table["messages"].sum() == len(everything)
    assert table["requests"].sum() == everything["status"].isna().sum()
    register = everything["status"].isna() & (everything["method"] == "REGISTER")
    assert table["registers"].sum() == register.sum()
    failed = (everything["status"] >= 400) & ~everything["status"].isin([401, 407])
    assert table["failures"].sum() == failed.sum()
    steps = table["at"].diff().dropna().dt.total_seconds().unique()
    assert list(steps) == [table["step_s"].iloc[0]]
    assert (table["per_second"] * table["step_s"]).sum() == pytest.approx(len(everything))
