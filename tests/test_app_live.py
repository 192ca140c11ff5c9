"""The page of live messages: while a tap runs, when it is silent or stopped, paused, and with nothing heard yet."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from app_store import App, reading
from cdr_recordings import AT_ONCE
from registers import Phone
from tap import RunningTap, eventually

from app import health_parts
from pipeline.store.writer import Writer

TABLE = "live_table"


@pytest.fixture(scope="module", name="tap")
def running_tap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTap]:
    """A tap that runs, and has heard two phones register."""
    with RunningTap(tmp_path_factory.mktemp("live")) as tap:
        say(
            tap,
            *Phone("first").register(time.time()),
            *Phone("second", ip="198.51.100.2").register(time.time()),
        )
        yield tap


@pytest.fixture(scope="module", name="page")
def page_on_the_tap(tap: RunningTap) -> Iterator[type[App]]:
    with reading(tap.store):
        yield App


def say(tap: RunningTap, *packets: bytes) -> None:
    """Have the tap hear and store them."""
    status = tap.status()
    before = status["received"] if status else 0
    with tap.connected() as sock:
        for packet in packets:
            sock.send(packet)
        tap.settled(before + len(packets))


def said(app: App) -> str:
    return "\n".join(element.value for kind in ("markdown", "caption") for element in app.test.get(kind))


def messages(app: App) -> list[str]:
    return [message for shown in app.test.dataframe for message in shown.value["message"]]


def metric(app: App, label: str) -> int:
    (found,) = [metric.value for metric in app.test.metric if metric.label == label]
    return int(found.replace(",", ""))


def test_messages_come_while_the_page_is_open(page: type[App], tap: RunningTap) -> None:
    app = page("live")
    assert "live" in said(app) and tap.address() in said(app).replace("\\", "")
    assert messages(app)[:4] == ["200 OK (REGISTER)", "REGISTER", "401 Unauthorized (REGISTER)", "REGISTER"]
    registers = metric(app, "REGISTERs / min")
    say(tap, *Phone("third").send(time.time(), 403))
    eventually(lambda: messages(app.run())[0] == "403 Forbidden (REGISTER)", "the newest on top")
    eventually(lambda: metric(app.run(), "REGISTERs / min") > registers, "that it is counted")


def test_paused_is_as_it_was(page: type[App], tap: RunningTap) -> None:
    app = page("live", live_q="user:paused")
    assert "No message fits" in said(app)
    app.test.toggle(key="live_paused").set_value(True)
    app.run()
    assert "paused" in said(app)
    link = {"live_q": "user:paused", "live_paused": "true", "live_at": str(app.test.query_params["live_at"])}
    say(tap, *Phone("paused").send(time.time(), 403))
    eventually(lambda: len(messages(page("live", live_q="user:paused"))) == 2, "that others see it")
    assert "No message fits" in said(app.run())
    assert "No message fits" in said(page("live", **link))  # the link shows what was seen
    app.test.toggle(key="live_paused").set_value(False)
    app.run()
    assert "live_at" not in app.test.query_params
    assert messages(app) == ["403 Forbidden (REGISTER)", "REGISTER"]


def test_the_filter_is_in_the_link_and_rows_are_bounded(page: type[App], tap: RunningTap) -> None:
    assert set(messages(page("live", live_q="code:401"))) == {"401 Unauthorized (REGISTER)"}
    say(tap, *(packet for _ in range(30) for packet in Phone("many").send(time.time(), 200)))
    app = page("live", live_q="user:many", live_rows="50")
    assert len(messages(app)) == 50
    assert app.test.text_input(key="live_q").value == "user:many"


def test_a_filter_that_cannot_be_read_is_pointed_at(page: type[App]) -> None:
    app = page("live", live_q="bob pdd>3s")
    assert "messages have" in app.test.error[0].value.replace("\\", "")
    assert app.test.code[0].value.splitlines()[1] == "    ^^^^^^"


def test_a_click_opens_the_call(page: type[App], tap: RunningTap) -> None:
    phone = Phone("clicked")
    say(tap, *phone.send(time.time(), 403))
    app = page("live", live_q="user:clicked")
    say(tap, *Phone("clicked").send(time.time(), 403))  # the click means what was seen, not what came since
    app.test.session_state[TABLE] = {"selection": {"rows": [], "columns": [], "cells": [(1, "message")]}}
    app.run()
    assert app.test.query_params["call_id"] == phone.call_id


def test_silence_says_what_to_check(page: type[App], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health_parts, "SILENT", timedelta(0))
    app = page("live")
    assert "No HEP received in" in said(app) and "hepduck doctor" in said(app)


def test_when_the_tap_was_stopped_the_last_messages_stay(page: type[App], tap: RunningTap) -> None:
    assert tap.stop() == 0
    app = page("live")
    assert "no tap is running" in said(app)
    assert messages(app)
    assert metric(app, "Messages / min") > 0  # of the last minute that there was


# -- another store: it ends what `page` began, so it comes last ----------------------------------------------


def test_an_empty_store(tmp_path: Path) -> None:
    Writer(tmp_path / "store", "tap", AT_ONCE).stop()
    with reading(tmp_path / "store"):
        app = App("live")
    assert "No SIP message has arrived yet" in said(app) and "hepduck doctor" in said(app)
