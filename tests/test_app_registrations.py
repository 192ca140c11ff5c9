"""The page of registrations: each part and state, from what is put into the store to what stands on the page."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from app_store import App, reading
from cdr_recordings import AT_ONCE
from registers import Phone, fill, flapping, scan, storm

from app import registration_charts
from pipeline.api.opened import Store
from pipeline.api.registrations import registration_failure_rate, registration_rate
from pipeline.store.writer import Writer

NOW = time.time() // 60 * 60  # a storm is counted by the minute
PHONES = 60  # more than a page
HOSTILE = "<script>alert(1)</script> **bold** \x1b[31m :red[x] [a](javascript:1)"
SCANNER = "203.0.113.66"


def heard() -> Iterator[bytes]:
    """Phones that are registered, and others that are not."""
    for number in range(PHONES):
        phone = Phone(f"+4930555{1000 + number}", ip="198.51.100.1", port=5000 + number, expires=7200)
        yield from phone.register(NOW - 3600)
    odd = Phone("odd", ip="198.51.100.2", user_agent=HOSTILE, expires=7200)
    for refresh in range(3):
        yield from odd.register(NOW - 3000 + 600 * refresh)
    yield from flapping(NOW - 1800, Phone("flapper", ip="198.51.100.3", instance="f1"), 8)
    yield from scan(NOW - 1500, SCANNER, 30)
    yield from storm(NOW - 1200, "stubborn", "203.0.113.77", 80)


@pytest.fixture(scope="module", name="store")
def filled_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("registrations") / "store"
    fill(path, heard())
    return path


@pytest.fixture(scope="module", name="page")
def page_on_the_store(store: Path) -> Iterator[type[App]]:
    with reading(store):
        yield App


@pytest.fixture(scope="module", name="empty")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("empty") / "store"
    Writer(path, "tap", AT_ONCE).stop()
    return path


def metrics(app: App) -> dict[str, str]:
    return {metric.label: metric.value for metric in app.test.metric}


def click(app: App, table: str, row: int, column: str) -> App:
    app.test.session_state[table] = {"selection": {"rows": [], "columns": [], "cells": [(row, column)]}}
    return app.run()


def said(app: App) -> str:
    """All text of the page."""
    return "\n".join(
        element.value for kind in ("markdown", "caption", "subheader") for element in app.test.get(kind)
    )


def test_who_is_registered(page: type[App]) -> None:
    app = page("registrations")
    assert metrics(app) == {
        "Registered now": f"{PHONES + 1}",
        "Accounts": f"{PHONES + 1}",
        "REGISTERs refused": "110",
        "Flapping phones": "1",
    }
    table = app.test.dataframe(key="reg_bindings_table").value
    assert list(table["account"]) == [f"+4930555{1000 + number}@sip.test" for number in range(50)]
    assert table["address"].iloc[0] == "198.51.100.1:5000"
    assert re.match(r"[345]\d min|1 h 00 min", table["left"].iloc[0]), (
        "of an hour, less what tests took so far"
    )
    assert f"{PHONES + 1} bindings" in said(app)


def test_the_next_page_of_them_by_its_link(page: type[App]) -> None:
    table = page("registrations", reg_page="2").test.dataframe(key="reg_bindings_table").value
    assert len(table) == PHONES + 1 - 50
    assert table["account"].iloc[-1] == "odd@sip.test"


def test_the_search_is_in_the_link(page: type[App]) -> None:
    app = page("registrations", reg_who="ODD", reg_page="2")  # a page that there is no more
    table = app.test.dataframe(key="reg_bindings_table").value
    assert list(table["account"]) == ["odd@sip.test"]
    assert app.test.text_input(key="reg_who").value == "ODD"
    assert "Nobody like that" in said(page("registrations", reg_who="moon"))


def test_text_from_the_wire_is_text(page: type[App]) -> None:
    app = page("registrations", reg_who="odd")
    (agent,) = app.test.dataframe(key="reg_bindings_table").value["user_agent"]
    assert agent.startswith("<script>alert(1)</script> **bold**")
    assert "\x1b" not in agent
    assert "<script>" not in said(app) + app.html()


def test_a_click_opens_the_messages(page: type[App]) -> None:
    app = page("registrations", reg_who="odd")
    click(app, "reg_bindings_table", 0, "account")
    call_id = str(app.test.query_params["call_id"])
    assert call_id.startswith("phone-")
    assert call_id in app.html()  # the Call page


def test_changes(page: type[App]) -> None:
    table = (
        page("registrations", reg_part="Changes", reg_who="flapper")
        .test.dataframe(key="reg_changes_table")
        .value
    )
    assert list(table["change"]) == ["removed", "registered"] * 8
    assert table["ts"].is_monotonic_decreasing
    odd = (
        page("registrations", reg_part="Changes", reg_who="odd").test.dataframe(key="reg_changes_table").value
    )
    assert list(odd["change"]) == ["refreshed", "refreshed", "registered"]


def test_who_was_refused_and_what_they_tried(page: type[App]) -> None:
    app = page("registrations", reg_part="Refused")
    table = app.test.dataframe(key="reg_sources_table").value
    assert list(zip(table["src_ip"], table["kind"], table["refused"], strict=True)) == [
        ("203.0.113.77", "storm", 80),
        (SCANNER, "scanner", 30),
    ]
    click(app, "reg_sources_table", 1, "kind")
    assert app.test.query_params["reg_ip"] == SCANNER
    tried = app.test.dataframe(key="reg_accounts_table").value
    assert set(tried["aor"]) == {f"{1000 + n}@sip.test" for n in range(30)}
    again = page("registrations", reg_part="Refused", reg_ip=SCANNER)  # the link
    assert len(again.test.dataframe(key="reg_accounts_table").value) == 30
    again.test.button(key="reg_close").click()
    again.run()
    assert "reg_ip" not in again.test.query_params
    with pytest.raises(KeyError):
        again.test.dataframe(key="reg_accounts_table")


def test_who_flaps(page: type[App]) -> None:
    (row,) = (
        page("registrations", reg_part="Flapping")
        .test.dataframe(key="reg_flaps_table")
        .value.to_dict("records")
    )
    assert (row["account"], row["times"], row["removed"], row["phone"]) == (
        "flapper@sip.test",
        7,
        8,
        "urn:uuid:f1",
    )


def test_how_often_phones_refresh(page: type[App]) -> None:
    (shown,) = page("registrations", reg_part="Refreshes").test.dataframe
    (row,) = shown.value.to_dict("records")
    assert (row["devices"], row["refreshes"], round(row["interval_s_p50"])) == (1, 2, 600)


def test_a_range_without_registers_says_what_to_check(page: type[App]) -> None:
    app = page(
        "registrations", **{"range": "from-to", "from": "2020-01-01T00:00", "until": "2020-01-02T00:00"}
    )
    assert "No REGISTER in this range" in said(app) and "hepduck doctor" in said(app)
    assert not app.test.metric


@pytest.mark.parametrize("part", ["Registered", "Changes", "Refused", "Flapping", "Refreshes"])
def test_parts_of_a_quiet_hour_are_empty_with_a_word(part: str, page: type[App]) -> None:
    """Two minutes in which only the phones were there."""
    begin = datetime.fromtimestamp(NOW - 2 * 3600, UTC)
    until = datetime.fromtimestamp(NOW - 3300, UTC)
    app = page(
        "registrations",
        reg_part=part,
        **{
            "range": "from-to",
            "from": f"{begin:%Y-%m-%dT%H:%M}",
            "until": f"{until:%Y-%m-%dT%H:%M}",
            "zone": "UTC",
        },
    )
    assert metrics(app)["Registered at the end"] == f"{PHONES}"
    empty = {
        "Refused": "No REGISTER was refused",
        "Flapping": "No phone flapped",
        "Refreshes": "No phone refreshed",
    }
    assert empty.get(part, "") in said(app)


# -- charts ----------------------------------------------------------------------------------------------


def test_charts_show_the_clock_of_the_zone_and_every_count(store: Path) -> None:
    with Store(store) as opened:
        rate = registration_rate(store=opened)
        refused = registration_failure_rate(store=opened)
    kathmandu = ZoneInfo("Asia/Kathmandu")  # 5 h 45 min ahead
    line = registration_charts.registered(rate, kathmandu).to_dict()
    (values,) = line["datasets"].values()
    assert [value["bindings"] for value in values] == list(rate["bindings"])
    shift = timedelta(hours=5, minutes=45) / timedelta(milliseconds=1)
    assert values[0]["at"] == rate["at"].iloc[0].timestamp() * 1000 + shift
    assert values[0]["when"] == rate["at"].iloc[0].tz_convert(kathmandu).strftime("%Y-%m-%d %H:%M:%S")
    assert line["encoding"]["x"]["scale"]["type"] == "utc"
    (bars,) = registration_charts.refusals(refused, kathmandu).to_dict()["datasets"].values()
    counted = pd.DataFrame(bars).groupby("what")["count"].sum().to_dict()
    assert {what: count for what, count in counted.items() if count} == {"401 / 407": 80, "403": 30}
    assert max(len(values), len(bars)) <= 2000


# -- other stores and settings: they end what `page` began, so they come last ----------------------------------


def test_an_empty_store(empty: Path) -> None:
    with reading(empty):
        assert "No REGISTER in this range" in said(App("registrations"))


def test_numbers_are_masked_where_configured(store: Path) -> None:
    with reading(store, mask_numbers=True):
        app = App("registrations")
        table = app.test.dataframe(key="reg_bindings_table").value
        assert set(table["account"].head(10)) == {"+4930555xxxx@sip.test"}
        assert not table["contact"].str.contains("1000|1001").any()
        tried = App("registrations", reg_part="Refused", reg_ip=SCANNER).test.dataframe(
            key="reg_accounts_table"
        )
        assert len(tried.value) == 30
