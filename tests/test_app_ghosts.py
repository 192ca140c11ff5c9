"""The page Ghost calls: what was found and done, as recorded; armed or not; windows; and a new one while it is open."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from app_store import App, reading
from ghost_store import fill, label, told
from store_rows import QUIET
from tap import eventually
from upkeep_store import empty_store

from app import ghost_charts, look
from pipeline.api import delays, findings
from pipeline.api.opened import Store
from pipeline.settings import load
from pipeline.store.writer import Writer

FOUND = ("b", "c", "p")
SCENES = (*FOUND, "g", "d")
HELD = {"scene": "c", "action": "fake_call", "dry_run": False, "outcome": "held_per_aor"}
DONE = {
    "scene": "b", "action": "fake_call", "dry_run": False, "outcome": "cancelled",
    "detail": "the phone rang and was told", "register_to_invite_ms": 52.5,
    "sip_statuses": [{"status": 180, "at_us": 1}, {"status": 487, "at_us": 2}],
}  # fmt: skip


@pytest.fixture(scope="module", name="store")
def ghost_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("ghosts") / "store"
    fill(path, SCENES, (DONE, HELD))
    return path


@pytest.fixture(scope="module", name="whole")
def page_with_all_of_it(store: Path) -> Iterator[App]:
    """For tests that only look."""
    with reading(store):
        yield App("ghosts", what_if="true")


def owed() -> list[dict[str, str]]:
    return [each for scene in FOUND for each in label(scene)["expected"]]


def said(app: App) -> str:
    return "\n".join(
        element.value
        for kind in ("markdown", "caption", "subheader", "info", "warning", "error")
        for element in app.test.get(kind)
    )


def listed(app: App) -> pd.DataFrame:
    (found,) = (each for each in app.test.dataframe if each.key == "ghosts_table")
    return found.value


def with_column(app: App, column: str) -> pd.DataFrame:
    (found,) = (
        each.value for each in app.test.dataframe if column in each.value and each.key != "ghosts_table"
    )
    return found


# -- what was found ------------------------------------------------------------------------------------------


def test_the_newest_come_first_with_all_that_is_told_of_them(whole: App) -> None:
    shown = listed(whole)
    assert len(shown) == len(owed())
    assert list(shown["time"]) == sorted(shown["time"], reverse=True)
    by_phone = shown.set_index("phone")
    for each in owed():
        rows = by_phone.loc[[each["contact"]]]
        assert (rows["account"] == each["aor"].removeprefix("sip:")).all()
        assert set(rows["call was"]) <= {"caller gave up", "answered elsewhere"}
    (b,) = label("b")["expected"]
    row = by_phone.loc[[b["contact"]]].iloc[0]
    late_s = told("b").late_ms[b["register_call_id"]] / 1000
    assert row["late"] == f"{late_s:.1f} s"
    assert row["what was done"] == "fake_call: cancelled, the phone rang and was told (180, 487)"
    assert row["the phone answered"] == "180, 487"


def test_figures(whole: App) -> None:
    told_of = {metric.label: metric.value for metric in whole.test.metric}
    assert told_of["Ghost calls"] == str(len(owed()))
    late = sorted(
        told(scene).late_ms[each["register_call_id"]] for scene in FOUND for each in label(scene)["expected"]
    )
    middle = (late[(len(late) - 1) // 2] + late[len(late) // 2]) / 2
    assert told_of["How late, p50"] == look.length(middle)


def test_a_click_opens_the_call(store: Path) -> None:
    with reading(store):
        app = App("ghosts")
        (c,) = label("c")["expected"]
        row = list(listed(app)["phone"]).index(c["contact"])
        app.test.session_state["ghosts_table"] = {
            "selection": {"rows": [], "columns": [], "cells": [(row, "late")]}
        }
        app.run()
        assert c["call_id"] in app.test.query_params["call_id"]


def test_a_new_one_appears_while_the_page_is_open(tmp_path: Path) -> None:
    """No reload: the part that is asked again each other second finds it."""
    fill(tmp_path / "store", ("b",))
    with reading(tmp_path / "store"):
        app = App("ghosts")
        assert len(listed(app)) == 1
        with Store(tmp_path / "store") as store:
            row = store.reader.query("SELECT * FROM finding").to_pylist()[0]
        later = {"ts": row["ts"] + timedelta(minutes=1), "finding_id": "new", "aor": "sip:carol@sip.test"}
        with Writer(tmp_path / "store", "tap", QUIET) as writer:
            writer.append("finding", [row | later | {"evidence": json.loads(row["evidence"])}]).result(60)
        eventually(
            lambda: len(listed(app.run())) == 2, "the new one in the list"
        )  # an answer is kept for 2 s
        assert listed(app)["account"].iloc[0] == "carol@sip.test"


def test_only_what_is_in_the_range(store: Path) -> None:
    with reading(store):
        app = App("ghosts", range="from-to", **{"from": "2020-01-01T00:00", "until": "2020-01-02T00:00"})
        assert "No ghost call in this time" in said(app)
        assert not app.test.metric


def test_an_empty_store(tmp_path: Path) -> None:
    with reading(empty_store(tmp_path / "store")):
        app = App("ghosts", what_if="true")
        assert "No ghost call in this time" in said(app)
        assert "No window finds a ghost call" in said(app)
        assert "Dry run." in said(app)


# -- armed or not, and what held -----------------------------------------------------------------------------


def test_dry_run_is_said_first(whole: App) -> None:
    assert "Nothing is sent to any phone" in said(whole)
    shown = with_column(whole, "which means").set_index("action")
    assert shown.loc["fake_call", "state"] == "dry run"
    assert shown.loc["fake_call", "did"] == "1 cancelled, 1 held per aor"
    assert shown.loc["fake_call"].iloc[-1] == "52.5 ms / 52.5 ms"


def test_brakes_are_told_in_words(whole: App) -> None:
    shown = with_column(whole, "brake")
    assert shown[["brake", "because", "times"]].to_numpy().tolist() == [
        ["per_aor", findings.BRAKES["per_aor"], "1"]
    ]


@pytest.mark.parametrize(
    ("stopped", "words"), [(False, "**Armed.** `fake\\_call` acts"), (True, "**Halted.**")]
)
def test_armed_and_halted_are_said(stopped: bool, words: str, tmp_path: Path) -> None:
    store = empty_store(tmp_path / "store")
    plugins = [{"kind": "action", "name": "fake_call", "state": "ARMED"}]
    (store / "status.json").write_text(json.dumps({"state": "stopped", "plugins": plugins}))
    if stopped:
        (store / "STOP").touch()
    with reading(store):
        assert words in said(App("ghosts"))


def test_every_attempt(whole: App) -> None:
    shown = with_column(whole, "dry run")
    assert sorted(shown["what was done"]) == sorted(
        [
            "fake_call: cancelled, the phone rang and was told (180, 487)",
            f"fake_call: held, {findings.BRAKES['per_aor']}",
        ]
    )


# -- delays and windows --------------------------------------------------------------------------------------


def test_how_many_come_within_the_window_is_said(whole: App) -> None:
    """All but the one of scene g, which came 17 s after the end of its call."""
    phones = len(owed()) + 2
    assert f"{100 * (phones - 1) / phones:.1f} % of {phones} came within 15 s" in said(whole)


def test_the_window_is_drawn_in(store: Path) -> None:
    with Store(store) as opened:
        table = delays.register_delays(settings=load(no_file=True)[0], store=opened)
    text = ghost_charts.delays(table, 15.0).to_json()
    assert "window 15 s" in text
    assert "seconds from INVITE to REGISTER" in text
    assert "window" not in ghost_charts.delays(table, None).to_json()
    spec = ghost_charts.delays(table, 15.0).to_dict()
    bars = [row for data in spec["datasets"].values() for row in data if "phones" in row]
    assert sum(row["phones"] for row in bars) == table["phones"].sum()
    assert {row["words"] for row in bars} == {
        "in time",
        "too late: a ghost call",
        "after the end, no ghost call",
    }
    for row in bars:  # stacked
        assert row["top"] - row["bottom"] == row["phones"]


def test_other_windows_are_drawn_with_the_one_in_force_named(whole: App) -> None:
    assert len(whole.test.get("vega_lite_chart")) == 3  # rate, delays, windows
    table = pd.DataFrame(
        {"window_s": [15.0, 20.0], "found": [4, 5], "canceled": [3, 4], "answered": [1, 1], "other": [0, 0]}
    )
    spec = ghost_charts.other_windows(table, 15.0).to_dict()
    rows = [row for data in spec["datasets"].values() for row in data]
    assert {row["window"] for row in rows} == {"15 s (now)", "20 s"}
    assert {row["ended"] for row in rows if "ended" in row and row.get("value")} == {
        "caller gave up",
        "answered elsewhere",
    }


def test_the_rate_stacks_outcomes_and_shows_the_zones_clock() -> None:
    at = pd.Timestamp("2026-03-01T12:00Z")
    table = pd.DataFrame(
        {"at": [at, at], "step_s": [60, 60], "outcome": ["canceled", "own <b>"], "findings": [2, 3]}
    )
    spec = ghost_charts.rate(table, ZoneInfo("Europe/Kyiv")).to_dict()
    (rows,) = spec["datasets"].values()
    assert [(row["when"], row["bottom"], row["top"]) for row in rows] == [
        ("2026-03-01 14:00", 0, 2),
        ("2026-03-01 14:00", 2, 5),
    ]
    assert rows[0]["ended"] == "caller gave up"


def test_too_much_to_replay_is_said(store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delays, "MOST_REPLAYED", 5)
    with reading(store):
        app = App("ghosts", what_if="true")
        assert "This time is too much to replay." in said(app)
        assert "more than 5 messages" in said(app).replace("\\", "")
