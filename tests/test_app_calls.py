"""The page of calls: what it finds, how it is sorted, paged and left, and what its CSV holds."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator
from zoneinfo import ZoneInfo

import pytest
from app_store import GHOSTS, HOSTILE_CALL, NUMBERS_CALL, SESSION, App, AppStore, asterisk_datagrams, reading
from recordings import PATHS, load

from app import calls_table, look
from pipeline.api.opened import Store

INVITE = re.compile(rb"INVITE sips?:([^@\s;]+)@[^\r\n]* SIP/2\.0\r\n(.*?)\r\n\r\n", re.DOTALL)
CALL_ID = re.compile(rb"^Call-ID: *(\S+)", re.MULTILINE | re.IGNORECASE)
GHOST_CALLS = {owed["call_id"] for name in GHOSTS for owed in load(name).label["expected"]}


def invites() -> Iterator[tuple[str, str]]:
    """Call-ID and dialled user of every INVITE that the store's tap heard, read without the product's code."""
    heard = [PATHS[name].read_bytes() for name in GHOSTS]
    heard += [datagram.data for datagram in asterisk_datagrams(SESSION)]
    for data in heard:
        for user, head in INVITE.findall(data):
            call_id = CALL_ID.search(head)
            assert call_id
            yield call_id[1].decode(), user.decode()


CALLS = {call_id for call_id, _ in invites()} | {HOSTILE_CALL, NUMBERS_CALL}


def found(app: App) -> set[str]:
    return set(app.ids)


def test_all_calls_newest_first(open_app: type[App]) -> None:
    app = open_app()
    assert found(app) == CALLS
    assert app.test.caption[0].value.startswith(f"**{len(CALLS)}** calls · all times")
    times = list(app.test.dataframe(key="calls_table").value["first_ts"])
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize("dialled", ["7075", "7020", "bob"])
def test_a_number_is_found(dialled: str, open_app: type[App]) -> None:
    owed = {call_id for call_id, user in invites() if user == dialled}
    assert owed
    app = open_app(q=f"to={dialled}")
    assert found(app) - {HOSTILE_CALL} == owed
    assert app.test.text_input(key="q").value == f"to={dialled}"  # a link shows what it searched


def test_a_new_search_begins_on_the_first_page(open_app: type[App], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(calls_table, "PAGE_ROWS", 5)
    app = open_app(page="2")
    app.test.text_input(key="q").set_value("state:answered")
    app.run()
    assert len(app.ids) == 5
    assert app.ids == open_app(q="state:answered").ids


def test_presets(open_app: type[App]) -> None:
    """Each is a state of the search; several mean any of them, and a search still holds."""
    assert found(open_app(only="ghost")) == GHOST_CALLS
    several = open_app(only=["ghost", "failed"])
    assert found(several) > GHOST_CALLS
    rows = several.test.dataframe(key="calls_table").value
    assert set(rows["state"]) <= {
        "busy",
        "declined",
        "rejected",
        "no answer",
        "refused",
        "cancelled",
        "answered",
    }
    assert set(rows[rows["state"].isin({"cancelled", "answered"})]["remarks"]) == {"ghost call"}
    assert found(open_app(only=["ghost", "failed"], q="-state:failed")) == GHOST_CALLS
    pressed = several.test.pills(key="only")
    assert list(pressed.value) == ["ghost", "failed"]


def test_sorted_by_the_store(open_app: type[App]) -> None:
    """By numbers and not by how they are written; what is not known comes last."""
    app = open_app(sort="-talk_ms")
    talk = list(app.test.dataframe(key="calls_table").value["talk_ms"])
    known = [value for value in talk if value != look.MISSING]
    assert talk == known + [look.MISSING] * (len(talk) - len(known))
    seconds = [float(value.removesuffix(" s")) for value in known]
    assert seconds == sorted(seconds, reverse=True)
    assert max(seconds) >= 16
    assert app.ids != open_app(sort="talk_ms").ids
    assert app.ids != open_app(sort="nonsense").ids == open_app().ids


def test_pages(open_app: type[App], monkeypatch: pytest.MonkeyPatch) -> None:
    """Cut by the store, every call on one of them; a page that is no more is the last one."""
    monkeypatch.setattr(calls_table, "PAGE_ROWS", 20)
    first, second, beyond = open_app(), open_app(page="2"), open_app(page="99")
    assert len(first.ids) == 20
    assert first.ids + second.ids == open_app(sort="-first_ts").ids + second.ids
    assert set(first.ids) | set(second.ids) == CALLS
    assert beyond.ids == second.ids


def test_a_row_opens_its_call(open_app: type[App]) -> None:
    for selection in (
        {"rows": [1], "columns": [], "cells": []},
        {"rows": [], "columns": [], "cells": [(1, "to")]},
    ):
        app = open_app(only="ghost")
        chosen = app.ids[1]
        app.test.session_state["calls_table"] = {"selection": selection}
        app.run()
        assert app.test.query_params["call_id"] == chosen
        assert chosen in app.html()


def test_an_error_points_at_the_place(open_app: type[App]) -> None:
    app = open_app(q="alice colour:red")
    assert "no key 'colour'" in app.test.error[0].value.replace("\\", "")
    line, mark = app.test.code[0].value.split("\n")
    assert line == "alice colour:red"
    assert line[mark.index("^") :].startswith("colour")


def test_nothing_found(open_app: type[App]) -> None:
    """Says what to check; one click looks at all times."""
    app = open_app(range="from-to", **{"from": "2001-01-01T00:00", "until": "2001-01-02T00:00"})
    said = app.said()
    assert "No calls in this time" in said
    assert "hepduck doctor" in said
    assert "The newest message arrived" in said
    app.test.button(key="all_times").click()
    app.run()
    assert found(app) == CALLS
    assert "No call fits" in open_app(q="nobody-at-all").said()


# -- CSV ---------------------------------------------------------------------------------------------------


def rows_of(data: bytes) -> list[dict[str, str]]:
    """As a spreadsheet reads them."""
    return list(csv.DictReader(io.StringIO(data.decode("utf-8-sig"), newline="")))


def exported(path: AppStore, search: str = "", **overrides: object) -> list[dict[str, str]]:
    span = {"since": None, "until": None}
    with reading(path.path, **overrides), Store(path.path) as store:
        return rows_of(calls_table.as_csv(store, search, span, "-first_ts", ZoneInfo("Asia/Kolkata")))


def test_csv_has_the_whole_result(app_store: AppStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the page shows; times with the zone that was chosen."""
    monkeypatch.setattr(calls_table, "PAGE_ROWS", 5)
    rows = exported(app_store)
    assert {row["call_id"] for row in rows} == CALLS
    assert all(row["first_ts"].endswith("+05:30") for row in rows)
    assert {row["call_id"] for row in exported(app_store, "state:ghost")} == GHOST_CALLS


def test_csv_is_harmless(app_store: AppStore) -> None:
    """No cell begins like a formula, and none steers a terminal."""
    (row,) = exported(app_store, "callid:script")
    assert row["user_agent"].startswith("'=cmd|")
    for cell in row.values():
        assert cell[:1] not in {"=", "+", "@", "\t", "\r"}
        assert cell[:1] != "-" or cell[1:2].isdigit()
        assert cell.isprintable()


def test_numbers_are_masked_where_configured(app_store: AppStore) -> None:
    """In the table and in the file; the search still takes the whole number."""
    (row,) = exported(app_store, "15551234567", mask_numbers=True)
    assert (row["call_id"], row["from"], row["to"]) == (NUMBERS_CALL, "1555123xxxx", "00493012xxxx")
    with reading(app_store.path, mask_numbers=True):
        shown = App(q="15551234567").test.dataframe(key="calls_table").value.iloc[0]
    assert (shown["from"], shown["to"]) == ("1555123xxxx", "00493012xxxx")
