"""Figures of quality: on a store whose every direction is known against numpy, on a recorded one against the relay."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from asterisk_recordings import calls as recorded_calls
from heard_store import CALLS, COVER, MONDAY, NETWORKS, SPRING_FORWARD, Way, fill, made_store, mos, ways
from quality_store import cdr_rows, new_store
from test_quality_truth import lost_and_due
from upkeep_store import empty_store

from pipeline.api import quality as api
from pipeline.api.calls import calls, count_calls
from pipeline.api.opened import Store
from pipeline.errors import StoreError
from pipeline.protocols.codecs import lookup

MADE = ways()
RATED = [way for way in MADE if way.r is not None]
KYIV = ZoneInfo("Europe/Kyiv")
SHARES = {"p5": 5, "p50": 50, "p95": 95}


@pytest.fixture(scope="module", name="store")
def opened_store() -> Iterator[Store]:
    with Store(made_store()) as store:
        yield store


def assert_percentiles(row: pd.Series, found: list[Way]) -> None:
    """R as numpy has it, linear between neighbours; the MOS is that of the R."""
    for share, percent in SHARES.items():
        expected = np.percentile([way.r for way in found], percent)
        assert row[f"r_{share}"] == pytest.approx(expected)
        assert row[f"mos_{share}"] == pytest.approx(mos(float(expected)), abs=1e-9)


# -- by what calls went through ------------------------------------------------------------------------------


KEYS: dict[str, Callable[[Way], str]] = {
    "all": lambda way: "all",
    "trunk": lambda way: way.trunk,
    "codec": lambda way: way.codec or "-",
    "ua": lambda way: way.ua,
    "account": lambda way: way.account,
    "network": lambda way: NETWORKS[way.network][1] if way.network else "-",
}


@pytest.mark.parametrize("by", KEYS)
def test_figures_by(by: str, store: Store) -> None:
    table = api.quality(by, store=store).set_index("key")
    groups: dict[str, list[Way]] = {}
    for way in MADE:
        groups.setdefault(KEYS[by](way), []).append(way)
    assert set(table.index) - {"-"} == set(groups) - {"-"}
    for key, group in groups.items():
        if key == "-":
            continue  # directions of the calls of COVER are there too
        row, rated = table.loc[key], [way for way in group if way.r is not None]
        assert_percentiles(row, rated)
        assert row["rated"] == len(rated)
        assert row["enough"] == sum(way.enough for way in rated)
        assert row["grounded_pct"] == pytest.approx(100 * np.mean([way.grounded for way in rated]))
        if by != "all":
            assert row["calls"] == len({way.call_id for way in group})
            assert row["unrated"] == len(group) - len(rated)
        for figure in ("loss_pct", "jitter_ms", "rtt_ms"):
            values = [value for way in group if (value := getattr(way, figure)) is not None]
            for share in ("p50", "p95"):
                assert row[f"{figure}_{share}"] == pytest.approx(np.percentile(values, SHARES[share]))


def test_the_lowest_come_first_and_other_groupings_are_refused(store: Store) -> None:
    table = api.quality("account", store=store)
    known = table["r_p5"].dropna()
    assert list(known) == sorted(known)
    assert list(table["key"]) == [*table["key"].head(len(known)), "-"]  # what is not known comes last
    with pytest.raises(StoreError, match="no quality by 'moon'"):
        api.quality("moon", store=store)


def test_a_range_takes_the_legs_that_began_in_it(store: Store) -> None:
    since, until = MONDAY + timedelta(hours=30), MONDAY + timedelta(hours=70)
    row = api.quality(since=since, until=until, store=store).iloc[0]
    found = [way for way in RATED if since <= way.ts < until]
    assert row["rated"] == len(found)
    assert_percentiles(row, found)
    assert api.quality(since="2051-01-01", store=store).empty


# -- over time -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("zone", ["UTC", "Europe/Kyiv", "Asia/Kathmandu"])
def test_over_time(zone: str, store: Store) -> None:
    table = api.quality_over_time(zone=zone, store=store)
    step = timedelta(seconds=int(table["step_s"].iloc[0]))
    assert table["at"].is_monotonic_increasing
    assert 12 <= len(table) <= 200
    assert table["rated"].sum() == len(RATED)
    for _, row in table.iterrows():
        began = row["at"].to_pydatetime()
        local = began.astimezone(ZoneInfo(zone))
        since_midnight = timedelta(hours=local.hour, minutes=local.minute, seconds=local.second)
        before_the_change = began < SPRING_FORWARD
        assert since_midnight % min(step, timedelta(days=1)) == timedelta(0) or not before_the_change
        found = [way for way in RATED if began <= way.ts < began + step]
        assert row["rated"] == len(found)
        assert row["enough"] == sum(way.enough for way in found)
        if found:
            assert_percentiles(row, found)


def test_days_are_days_of_the_zone(tmp_path: Path) -> None:
    """Also the one that has 23 hours."""
    moments = {
        datetime(2026, 3, 28, 22, 30, tzinfo=UTC): 90.0,  # 29 March in Kyiv
        datetime(2026, 3, 29, 20, 30, tzinfo=UTC): 80.0,  # still
        datetime(2026, 3, 29, 21, 30, tzinfo=UTC): 70.0,  # 30 March
    }
    days = [replace(MADE[0], call_id=f"{ts}", ts=ts, r=r) for ts, r in moments.items()]
    fill(tmp_path / "store", days)
    with Store(tmp_path / "store") as store:
        found = api.heard_queries.overview(
            store.reader, ["over_time"], zone="Europe/Kyiv", steps=(86_400, MONDAY)
        )["over_time"]
    table = pd.DataFrame(found).dropna(subset=["r_p50"]).sort_values("at")
    assert [at.tz_convert("Europe/Kyiv").isoformat() for at in table["at"]] == [
        "2026-03-29T00:00:00+02:00",
        "2026-03-30T00:00:00+03:00",
    ]
    assert list(table["r_p50"]) == [85.0, 70.0]


def test_by_weekday_and_hour_of_the_zone(store: Store) -> None:
    table = api.quality_by_hour(zone="Europe/Kyiv", store=store).set_index(["weekday", "hour"])
    cells: dict[tuple[int, int], list[Way]] = {}
    for way in RATED:
        local = way.ts.astimezone(KYIV)
        cells.setdefault((local.isoweekday(), local.hour), []).append(way)
    assert table[table["rated"] > 0].index.tolist() == sorted(cells)
    for cell, found in cells.items():
        assert table.loc[cell, "rated"] == len(found)
        assert_percentiles(table.loc[cell], found)


# -- spread and bands ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("figure", ["loss_pct", "jitter_ms", "rtt_ms"])
def test_spread(figure: str, store: Store) -> None:
    table = api.quality_spread(store=store)
    rows = table[table["figure"] == figure]
    values = [value for way in MADE if (value := getattr(way, figure)) is not None]
    assert rows["directions"].sum() == len(values)
    assert rows["share_pct"].sum() == pytest.approx(100)
    assert list(rows["low"].iloc[1:]) == list(rows["high"].iloc[:-1])
    assert (rows["low"].iloc[0], rows["high"].iloc[-1]) == (-math.inf, math.inf)
    for row in rows.itertuples():
        assert row.directions == sum(row.low < value <= row.high for value in values), row


def test_bands_are_those_of_g109(store: Store) -> None:
    table = api.quality_bands(store=store).set_index("band")
    limits = {
        "very satisfied": 90, "satisfied": 80, "some dissatisfied": 70, "many dissatisfied": 60,
        "nearly all dissatisfied": 50, "not recommended": -1000,
    }  # fmt: skip
    top = 1000
    for words, limit in limits.items():
        assert table.loc[words, "directions"] == sum(
            limit <= way.r < top for way in RATED if way.r is not None
        )
        top = limit
    assert list(table["r_from"]) == [90, 80, 70, 60, 50, 0]


# -- rankings ------------------------------------------------------------------------------------------------


def test_worst_calls(store: Store) -> None:
    """One row a call, by its worst direction; short ones and codecs that nobody published figures of are left out."""
    for ranked in (True, False):
        lowest: dict[str, Way] = {}
        for way in RATED:
            counts = way.enough and (way.grounded or way.codec is None)
            if counts == ranked and way.r < lowest.get(way.call_id, way).r + 1e-12:  # type: ignore[operator]
                lowest[way.call_id] = way
        expected = sorted(lowest.values(), key=lambda way: way.r or 0)[:30]
        table = api.worst_calls(limit=30, ranked=ranked, store=store)
        assert list(table["call_id"]) == [way.call_id for way in expected]
        assert list(table["r_factor"]) == pytest.approx([way.r for way in expected])
        for row, way in zip(table.itertuples(), expected, strict=True):
            assert (row.leg, row.direction, row.trunk, row.due) == (
                way.leg,
                way.direction,
                way.trunk,
                way.due,
            )
            assert row.seconds == pytest.approx(way.due / 50)
            assert row.mos == pytest.approx(mos(way.r or 0))
            assert (row.from_user, row.to_user) == ("alice", "bob")


def test_how_each_mos_was_made(store: Store) -> None:
    """With a round trip it is conversational; Ie and Bpl are those of G.113, or a stand-in that is named so."""
    table = api.quality_methods(store=store)
    counted = {
        (row.mos_method, row.kind, None if pd.isna(row.codec) else row.codec): (row.directions, row.enough)
        for row in table.itertuples()
    }
    expected = Counter[tuple[str, str, str | None]]()
    enough = Counter[tuple[str, str, str | None]]()
    for way in RATED:
        key = ("g107-simplified", "CQ") if way.rtt_ms is not None else ("g107-simplified-lq", "LQ")
        expected[*key, way.codec] += 1
        enough[*key, way.codec] += way.enough
    assert counted == {key: (count, enough[key]) for key, count in expected.items()}
    parameters = {row.codec: (row.ie, row.bpl, row.grounded) for row in table.itertuples()}
    assert parameters["PCMA"] == parameters["PCMU"] == (0, 25.1, True)  # G.113 appendix I, with concealment
    assert parameters["OPUS"] == (0, 25.1, False)
    bare = api.quality_methods(conceal_loss=False, store=store)
    assert set(bare.loc[bare["codec"] == "PCMU", "bpl"]) == {4.3}


# -- coverage ------------------------------------------------------------------------------------------------


def test_coverage(store: Store) -> None:
    table = api.quality_coverage(store=store)
    rated = len({way.call_id for way in RATED})
    nothing = CALLS - rated  # all four directions without an R: their flags say why
    told = dict(zip(table["why"], table["calls"], strict=True))
    expected = COVER | {"rated": rated}
    expected["the phone sent no RTCP reports"] += nothing
    assert told == expected
    assert set(table.loc[~table["audible"], "why"]) == {"not answered"}
    tuesday = api.quality_coverage(
        since=MONDAY + timedelta(days=1), until=MONDAY + timedelta(days=1, minutes=10), store=store
    )
    told = dict(zip(tuesday["why"], tuesday["calls"], strict=True))
    told.pop("rated", None)
    assert told == {why: count for why, count in COVER.items() if why != "no CDR: no CDR yet"}


def test_an_empty_store(tmp_path: Path) -> None:
    """Tables without rows, with the columns and types of others."""
    with Store(empty_store(tmp_path / "store")) as store:
        report = api.quality_overview(store=store)
        assert api.quality_coverage(store=store).empty
    assert report["total"]["rated"].tolist() == [0]
    assert report["total"]["r_p5"].isna().all()
    assert all(report[name].empty for name in ("over_time", "by_hour", "by", "methods", "worst", "unranked"))
    assert report["over_time"]["at"].dtype == "datetime64[us, UTC]"


# -- to the calls behind a row -------------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["trunk", "codec", "ua", "account", "network"])
def test_the_search_behind_a_row_finds_its_calls(by: str, store: Store) -> None:
    for key in api.quality(by, store=store)["key"]:
        if key == "-":
            assert api.search_for(by, key) == ""
            continue
        found = set(calls(api.search_for(by, key), limit=None, store=store)["call_id"])
        expected = {way.call_id for way in MADE if KEYS[by](way) == key}
        assert expected <= found if by == "ua" else expected == found, (key, api.search_for(by, key))
        poor = {way.call_id for way in RATED if way.call_id in found and way.r is not None and way.r < 70}
        assert count_calls(api.search_for(by, key, 70), store=store) == len(poor)


# -- a real Asterisk, and the relay that counted every packet ------------------------------------------------


def test_the_recorded_session_is_as_the_relay_counted(tmp_path: Path) -> None:
    """Loss is told until the last report only, so percentiles are near the relay's and not equal to them."""
    name = "r22-custom-legacy"
    with new_store(tmp_path / "store") as recorded:
        recorded.hear(name)
        recorded.add("cdr", cdr_rows(name))
        recorded.refresher.run()
    truth = [
        100 * lost / due
        for call in recorded_calls(name)
        for leg in call.legs
        for direction in ("incoming", "outgoing")
        if (counted := lost_and_due(call, leg, direction)) is not None
        for lost, due in [counted]
        if due
    ]
    with Store(tmp_path / "store") as store:
        total = api.quality(store=store).iloc[0]
        by_codec = api.quality("codec", store=store).set_index("key")
        rated = api.quality_coverage(store=store).set_index("why").loc["rated", "calls"]
    assert total["loss_pct_p50"] == pytest.approx(np.percentile(truth, 50), abs=0.3)
    assert total["loss_pct_p95"] == pytest.approx(np.percentile(truth, 95), abs=2)
    wire = {
        codec.name
        for call in recorded_calls(name)
        for leg in call.legs
        if (codec := lookup(call.codec(leg))) is not None
    }
    assert set(by_codec.index) - {"-"} == wire
    assert rated >= 0.9 * len({call.truth["callid_a"] for call in recorded_calls(name)})
