"""What stands on every page of the app: range, zone, words and forms, and what it says when there is no store."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pandas as pd
import pytest
from app_store import App, AppStore, reading

from app import data, export, look
from app.frame import Frame
from pipeline.palette import ARROWS
from pipeline.protocols.emodel import band

PAGES = [path.stem for path in sorted((Path(__file__).parents[1] / "app" / "views").glob("[!_]*.py"))]


def framed(app: App) -> Frame:
    frame: Frame = app.test.session_state["frame"]
    return frame


@pytest.mark.parametrize("page", PAGES)
def test_every_page(page: str, open_app: type[App]) -> None:
    """It runs, and has the selectors; the page list has it."""
    app = open_app(page)
    assert framed(app).since is None
    assert app.test.get("segmented_control") or app.test.get("button_group")


# -- range and zone --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chosen", "length"),
    [("15m", timedelta(minutes=15)), ("24h", timedelta(days=1)), ("7d", timedelta(days=7))],
)
def test_relative_ranges(chosen: str, length: timedelta, open_app: type[App]) -> None:
    """To now, however late that is; asked in steps, so that answers can be kept."""
    frame = framed(open_app(range=chosen))
    assert frame.until is None
    assert frame.since is not None
    assert length <= datetime.now(UTC) - frame.since < length + timedelta(minutes=1)
    assert frame.since.timestamp() % 10 == 0
    assert frame.words == f"last {chosen}, times in UTC"


def test_a_range_of_ones_own(open_app: type[App]) -> None:
    """As the clock of the chosen zone has it, summer time included."""
    given = {"from": "2026-07-01T08:00", "until": "2026-12-01T09:30"}
    frame = framed(open_app(range="from-to", zone="Europe/Berlin", **given))
    assert frame.since == datetime(2026, 7, 1, 6, 0, tzinfo=UTC)
    assert frame.until == datetime(2026, 12, 1, 8, 30, tzinfo=UTC)
    assert frame.words == "2026-07-01 08:00 to 2026-12-01 09:30, Europe/Berlin"
    assert frame.range == {"since": frame.since, "until": frame.until}


def test_a_range_that_ends_before_it_begins(open_app: type[App]) -> None:
    app = open_app(range="from-to", **{"from": "2026-07-02T00:00", "until": "2026-07-01T00:00"})
    assert "must be before" in app.test.warning[0].value
    assert not app.test.dataframe


def test_the_browsers_zone(app_store: AppStore) -> None:
    """Unless the link names another, or the browser names none that is known."""
    with reading(app_store.path):
        for browser, link, shown in (
            ("Asia/Kolkata", {}, "Asia/Kolkata"),
            ("Asia/Kolkata", {"zone": "America/Lima"}, "America/Lima"),
            ("Asia/Kolkata", {"zone": "Nowhere/Town"}, "Asia/Kolkata"),
            ("Nowhere/Town", {}, "UTC"),
        ):
            app = App(browser=browser, **link)
            assert framed(app).zone == ZoneInfo(shown)
            times = app.test.dataframe[0].value["first_ts"]
            newest = data.store().frame("SELECT max(first_ts) AS at FROM call_state")["at"][0]
            assert times[0] == f"{newest.tz_convert(shown):%Y-%m-%d %H:%M:%S}"


def test_a_link_to_fixed_times_is_whole(app_store: AppStore) -> None:
    """It names its zone and both times, or it would mean another time elsewhere, and tomorrow."""
    with reading(app_store.path):
        app = App(browser="Asia/Kolkata")
        app.test.segmented_control(key="range").set_value("from-to")
        app.run()
        frame = framed(app)
        assert app.test.session_state["zone"] == "Asia/Kolkata"
        now = datetime.now(ZoneInfo("Asia/Kolkata"))
        assert frame.since is not None
        assert frame.until is not None
        assert frame.until - frame.since == timedelta(days=1)
        assert frame.since <= now < frame.until + timedelta(minutes=1)  # it may be midnight just now
        assert (frame.since.hour, frame.since.minute) == (0, 0)
        for key in ("from", "until"):
            widget = next(each for each in app.test.get("datetime_input") if each.key == key)
            assert widget.value != widget.proto.default  # else Streamlit would leave it out of the link


# -- no store ----------------------------------------------------------------------------------------------


def test_no_store(tmp_path: Path) -> None:
    with reading(tmp_path / "none"):
        said = App().said()
    assert "There is nothing to read yet" in said
    assert "there is no store at" in said
    assert "`hepduck run`" in said


# -- answers -----------------------------------------------------------------------------------------------


def counted(*, word: str, store: object) -> pd.DataFrame:
    CALLS.append(word)
    return pd.DataFrame({"from": [word], "n": [len(CALLS)]})


CALLS: list[str] = []


def test_answers_are_kept_and_ones_own(app_store: AppStore) -> None:
    """The same question is asked once; what one page does to its answer no other sees."""
    with reading(app_store.path):
        first = data.ask(counted, word="15551234567")
        first.loc[0, "n"] = 99
        again, other = data.ask(counted, word="15551234567"), data.ask(counted, word="b")
    assert CALLS == ["15551234567", "b"]
    assert (again["n"][0], other["n"][0]) == (1, 2)
    with reading(app_store.path, mask_numbers=True):
        assert data.ask(counted, word="15551234567")["from"][0] == "1555123xxxx"


# -- words and forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("made", "text"),
    [
        (look.number(None), "–"),  # noqa: RUF001
        (look.mos(float("nan")), "–"),  # noqa: RUF001
        (look.length(pd.NA), "–"),  # noqa: RUF001
        (look.time(pd.NaT, ZoneInfo("UTC")), "–"),  # noqa: RUF001
        (look.number(1234567), "1,234,567"),
        (look.r_factor(80.04), "80.0"),
        (look.mos(4.024), "4.02"),
        (look.percent(0), "0.00 %"),
        (look.milliseconds(12.34), "12.3 ms"),
        (look.length(870), "870 ms"),
        (look.length(12_340), "12.3 s"),
        (look.length(245_000), "4 min 05 s"),
        (look.length(7_620_000), "2 h 07 min"),
        (look.length(277_200_000), "3 d 5 h"),
        (look.size(0), "0 B"),
        (look.size(1_536_000), "1.5 MB"),
        (look.time(datetime(2026, 7, 1, 6, 0, 0, 7000, UTC), ZoneInfo("Europe/Berlin"), "%H:%M:%S.%f"), "08:00:00.007"),
    ],
)  # fmt: skip
def test_forms(made: str, text: str) -> None:
    assert made == text


def test_text_from_the_wire_in_markdown() -> None:
    """No mark of Markdown stays unescaped, and nothing becomes a link (GFM makes links of bare addresses)."""
    hostile = "**a** [b](javascript:x) <i> $x$ :red[y] `c` http://evil.test www.evil.test a@evil.test \x1b[2J"
    made = look.plain(hostile)
    punctuation = r"[!-/:-@\[-`{-~]"
    assert not re.search(punctuation, re.sub(rf"\\{punctuation}", "", made))
    without = made.replace("\\", "")
    assert not re.search(r"\w@\w|://\w|www\.\w", without)
    assert without.replace("\u2060", "") == hostile.replace("\x1b", "·")


def test_every_band_has_a_colour() -> None:
    """So has every kind of step in a ladder."""
    assert set(look.BANDS) == {band(r) for r in range(101)}
    assert len(set(look.BANDS.values())) == len(look.BANDS)
    assert {"request", "1xx", "2xx", "3xx", "failure", "own", "finding", "action"} == set(ARROWS)


def contrast(one: str, other: str) -> float:
    """WCAG 2.1's contrast ratio."""

    def luminance(colour: str) -> float:
        parts = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", look.CATEGORIES)
def test_colours_are_seen_in_light_and_dark(colour: str) -> None:
    """Graphics need a contrast of 3 (WCAG 2.1, 1.4.11)."""
    assert min(contrast(colour, "#ffffff"), contrast(colour, "#12171e")) >= 3


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+4930", "'+4930"),
        ("-x", "'-x"),
        ("@SUM", "'@SUM"),
        ("\t=1", "'·=1"),
        ("plain", "plain"),
        (None, ""),
        (pd.NA, ""),
        (-1.5, -1.5),
        (datetime(2026, 7, 1, tzinfo=UTC), "2026-07-01T00:00:00+00:00"),
    ],
)
def test_cells_of_csv(value: object, cell: object) -> None:
    assert export.cell(value) == cell
