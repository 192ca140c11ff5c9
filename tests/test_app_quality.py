"""The page Quality: each state and each breakdown, from a store whose every direction is known."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from app_store import App, reading
from heard_store import CALLS, COVER, MONDAY, fill, made_store, ways
from store_rows import QUIET
from upkeep_store import empty_store

from app import look, quality_charts, quality_tables
from pipeline.api.opened import Store
from pipeline.api.quality import quality_overview
from pipeline.store.writer import Writer

MADE = ways()
RATED = [way for way in MADE if way.r is not None]
HOSTILE = "<img src=x onerror=alert(1)> **bold** :red[x] [a](javascript:1)\x1b[31m"


@pytest.fixture(scope="module", name="store")
def path_of_the_store() -> Path:
    return made_store()


@pytest.fixture(scope="module", name="page")
def page_on_the_store(store: Path) -> Iterator[type[App]]:
    with reading(store):
        yield App


@pytest.fixture(scope="module", name="whole")
def page_with_all_of_it(page: type[App]) -> App:
    """For tests that only look."""
    return page("quality", unranked="true")


@pytest.fixture(scope="module", name="report")
def report_of_the_store(store: Path) -> dict[str, pd.DataFrame]:
    with Store(store) as opened:
        return quality_overview(zone="Europe/Kyiv", store=opened)


def said(app: App) -> str:
    """All text of the page."""
    return "\n".join(
        element.value for kind in ("markdown", "caption", "subheader") for element in app.test.get(kind)
    )


def metrics(app: App) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.test.metric}


def table(app: App, key: str) -> pd.DataFrame:
    (found,) = (each for each in app.test.dataframe if each.key == key)
    return found.value


def click(app: App, key: str, row: int) -> App:
    app.test.session_state[key] = {"selection": {"rows": [], "columns": [], "cells": [(row, "calls")]}}
    return app.run()


# -- the page ------------------------------------------------------------------------------------------------


def test_with_data(whole: App) -> None:
    app = whole
    rated = len({way.call_id for way in RATED})
    heard = CALLS + sum(COVER.values()) - COVER["not answered"]
    assert f"**{rated:,} of {heard:,} calls" in said(app)
    values = [way.r for way in RATED]
    assert metrics(app) == {
        "R, percentile 50": f"{np.percentile(values, 50):.1f}",
        "R, percentile 5": f"{np.percentile(values, 5):.1f}",
        "Directions below R 70": f"{100 * np.mean([r < 70 for r in values]):.1f} %",
        "Calls rated": str(rated),
    }
    assert len(app.test.get("vega_lite_chart")) == 8  # coverage, time, bands, week, three spreads, breakdown
    advice = next(
        each.value for each in app.test.markdown if "VARCHAR" in each.value or "dialplan" in each.value
    )
    assert "deploy/asterisk" in advice


@pytest.mark.parametrize("words", ["trunk", "codec", "User-Agent", "account", "network"])
def test_each_breakdown(words: str, page: type[App]) -> None:
    """It is in the URL; a click on a row leads to its calls, the worst first."""
    app, by = page("quality", by=words), {"User-Agent": "ua"}.get(words, words)
    shown = table(app, f"quality_table_{by}")
    known = {getattr(way, by) for way in MADE if getattr(way, by) is not None}
    assert len(shown) == len(known) + 1  # and those of which it is not known
    assert "(not known)" in set(shown.iloc[:, 0])
    click(app, f"quality_table_{by}", 0)
    assert app.test.query_params["sort"] in ("r_factor", ["r_factor"])
    (search,) = (
        app.test.query_params["q"]
        if isinstance(app.test.query_params["q"], list)
        else [app.test.query_params["q"]]
    )
    assert search.endswith("r<70")
    assert app.test.session_state["q"] == search


def test_a_breakdown_that_is_none(page: type[App]) -> None:
    """A URL made by hand: trunks are shown, and those that are not ranked only when asked for."""
    shown = {each.key for each in page("quality", by="moon").test.dataframe}
    assert "quality_table_trunk" in shown
    assert "quality_unranked" not in shown


def test_what_is_not_known_leads_nowhere(page: type[App]) -> None:
    app = page("quality", by="account")
    row = list(table(app, "quality_table_account").iloc[:, 0]).index("(not known)")
    click(app, "quality_table_account", row)
    assert "q" not in app.test.query_params


def test_worst_calls_lead_to_the_call(page: type[App]) -> None:
    app = page("quality")
    ranked = [way for way in RATED if way.enough and (way.grounded or way.codec is None)]
    worst = min(ranked, key=lambda way: way.r or 0)
    shown = table(app, "quality_worst")
    assert shown["R"].iloc[0] == f"{worst.r:.1f}"
    assert shown["length"].iloc[0] == look.length(1000 * worst.due / 50)
    assert shown["sample"].iloc[0] == f"{worst.due:,} packets"
    click(app, "quality_worst", 0)
    assert app.test.query_params["call_id"] in (worst.call_id, [worst.call_id])


def test_those_that_are_not_ranked_are_shown_when_asked_for(whole: App) -> None:
    shown = table(whole, "quality_unranked")
    counts = [way for way in RATED if not (way.enough and (way.grounded or way.codec is None))]
    assert shown["R"].iloc[0] == f"{min(way.r or 0 for way in counts):.1f}"
    assert "~" in "".join(shown["MOS"])


def test_how_each_mos_was_made(whole: App) -> None:
    (shown,) = (each.value for each in whole.test.dataframe if "Bpl" in each.value)
    assert set(shown["kind"]) == {"CQ", "LQ"}
    assert set(shown.loc[shown["codec"] == "OPUS", "published"]) == {"no, stand-in"}
    assert set(shown.loc[shown["codec"] == "PCMA", "Bpl"]) == {"25.1"}


def test_times_are_shown_in_the_zone(whole: App, page: type[App]) -> None:
    utc, kyiv = (
        table(app, "quality_worst")["time"].iloc[0] for app in (whole, page("quality", zone="Europe/Kyiv"))
    )
    assert pd.Timestamp(kyiv) - pd.Timestamp(utc) in (pd.Timedelta(hours=2), pd.Timedelta(hours=3))


def test_a_range_with_nothing_in_it(page: type[App]) -> None:
    app = page("quality", range="from-to", **{"from": "2020-01-01T00:00", "until": "2020-01-02T00:00"})
    assert "No call that could be heard in this time" in said(app)
    assert "No call was seen at all." in said(app)
    assert not app.test.metric


def test_a_range_of_calls_without_quality(page: type[App]) -> None:
    """Some that no CDR has come for yet: how many, why, and what to do; no figures of nothing."""
    app = page("quality", range="from-to", **{"from": "2026-04-23T00:00", "until": "2026-04-24T00:00"})
    assert "**0 of 6 calls (0 %)**" in said(app)
    assert "None of these calls could be rated." in said(app)
    assert not app.test.metric


def test_an_empty_store(tmp_path: Path) -> None:
    with reading(empty_store(tmp_path / "store")):
        app = App("quality")
        assert "res_hep_rtcp" in said(app)
        assert not app.test.metric


def test_hostile_names_are_text_and_numbers_masked_where_that_is_set(tmp_path: Path) -> None:
    """A trunk's name comes from the wire, and so do numbers."""
    way = next(way for way in RATED if way.enough and way.grounded)
    fill(tmp_path / "store", [replace(way, trunk=HOSTILE, codec="PCMA", r=30.0)])
    later = MONDAY.replace(month=4)
    known = {"call_id": way.call_id, "first_ts": way.ts, "last_ts": later, "from_user": "4930123456"}
    failing = {"source": "asterisk", "state": "failing", "error": HOSTILE, "updated_at": later}
    with Writer(tmp_path / "store", "n1", QUIET) as writer:
        writer.append("call", [known]).result(60)
        writer.append("cdr_source_state", [failing]).result(60)
    with reading(tmp_path / "store", mask_numbers=True):
        app = App("quality")
    assert "\x1b" not in said(app)
    assert "<img" not in said(app)
    shown = table(app, "quality_table_trunk").iloc[0, 0]
    assert "<img src=x onerror=alert(1)>" in shown
    assert "\x1b" not in shown
    assert table(app, "quality_worst")["from"].tolist() == ["493012xxxx"]
    (warning,) = app.test.warning
    assert "CDRs of **asterisk** cannot be read" in warning.value
    assert "\\<img" in warning.value
    assert "\x1b" not in warning.value


# -- charts --------------------------------------------------------------------------------------------------


def rows_of(chart: object, *columns: str) -> list[dict[str, object]]:
    """The rows of a chart's data that have all of `columns`."""
    spec = chart.to_dict()  # type: ignore[attr-defined]
    return [row for data in spec["datasets"].values() for row in data if set(columns) <= row.keys()]


def test_r_over_time_names_the_bands_and_the_percentiles(report: dict[str, pd.DataFrame]) -> None:
    chart = quality_charts.over_time(report["over_time"], ZoneInfo("Europe/Kyiv"))
    words = {row["band"] for row in rows_of(chart, "band")}
    assert words == set(look.BANDS)
    lines = rows_of(chart, "percentile", "r")
    assert {row["percentile"] for row in lines} == {"p5", "p50", "p95"}
    told = {(row["when"], row["percentile"]): row["r"] for row in lines if row["r"] is not None}
    first = report["over_time"].iloc[0]
    when = first["at"].tz_convert("Europe/Kyiv").strftime("%Y-%m-%d %H:%M")
    assert told[when, "p5"] == pytest.approx(first["r_p5"])
    text = chart.to_json()
    assert "strokeDash" in text
    assert "R factor" in text


def test_a_gap_in_time_is_a_gap_in_the_line(report: dict[str, pd.DataFrame]) -> None:
    """Not a line drawn over hours of which nothing is known."""
    steps = report["over_time"].head(6).drop(index=[2, 3])
    drawn = rows_of(quality_charts.over_time(steps, ZoneInfo("UTC")), "percentile", "r")
    assert sum(row["r"] is None and row["percentile"] == "p50" for row in drawn) == 1


def test_few_directions_are_told_from_many_without_colour(report: dict[str, pd.DataFrame]) -> None:
    table_ = report["by_hour"]
    cells = rows_of(quality_charts.by_hour(table_), "told", "r_p5")
    for cell in cells:
        assert (str(cell["told"])[0] == "(") == (cell["rated"] < 20)  # type: ignore[operator]
    few = quality_tables.ranked(report["by"])
    assert list(few["enough"] < 20) == sorted(few["enough"] < 20)


def test_every_step_of_a_spread_is_named_and_graded(report: dict[str, pd.DataFrame]) -> None:
    steps = rows_of(quality_charts.spread(report["spread"], "loss_pct"), "step", "grade")
    grades = {row["step"]: row["grade"] for row in steps}
    assert next(iter(grades)) == "0"
    assert grades["0.5\N{EN DASH}1"] == "good"
    assert grades["1\N{EN DASH}2"] == grades["2\N{EN DASH}3"] == "fair"
    assert grades["3\N{EN DASH}5"] == grades["over 20"] == "poor"
    text = quality_charts.spread(report["spread"], "jitter_ms").to_json()
    assert "jitter, ms" in text
    assert "% of directions" in text


def test_bands_have_words_and_numbers(report: dict[str, pd.DataFrame]) -> None:
    rows = rows_of(quality_charts.bands(report["bands"]), "label", "told")
    assert rows[0]["label"] == "very satisfied (R from 90)"
    assert rows[-1]["label"] == "not recommended (R below 50)"
    assert str(rows[0]["told"]).startswith(f"{sum((way.r or 0) >= 90 for way in RATED)} (")
