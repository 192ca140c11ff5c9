"""The app as its users have it: `hepduck app` in a real Chromium, on a store that a real tap writes to meanwhile.

One app and one browser for all: the tap goes on where that of `app_store` stopped, on a copy of its store.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import product
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from app_store import HOSTILE_CALL, AppStore, hostile_messages, just_ended
from browser import NARROW, PATIENCE_S, WIDE, Visit, chromium
from pcap_maker import Seen, tshark_sip
from playwright.sync_api import Browser
from recordings import PATHS, load
from tap import RunningTap, call_id_of, eventually, ghost_call, hep3, sip

from pipeline.demo.web import WebApp
from pipeline.ingest.recordings import RecordingWriter

pytestmark = pytest.mark.timeout(300)

NUMBER = "+15551234"
TO_NUMBER = load("j2").label  # with credentials; the desk phone answers, the iPhone is late
(OWED,) = TO_NUMBER["expected"]
JUNIPERS = "jmirror"  # tshark takes what goes to its proxy's port, 30030, for mirrored packets of that kind
HERE, CHOSEN, ELSEWHERE = "America/New_York", "Asia/Kolkata", "Europe/Berlin"

Row = dict[str, Any]
Arrive = Callable[..., Visit]


@pytest.fixture(scope="module", name="tap")
def tap_that_goes_on(app_store: AppStore, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTap]:
    folder = tmp_path_factory.mktemp("browser")
    shutil.copytree(app_store.path, folder / "store")
    with RunningTap(folder, "--set", "store.redact=[]") as tap:  # so that the app has credentials to hide
        play(tap, PATHS["j2"])
        tap.wait_for(lambda status: status["queued"] == 0 and len(status["actions"]) >= 2, "its finding")
        yield tap
        assert tap.stop() == 0


@pytest.fixture(scope="module", name="url")
def address_of_the_app(tap: RunningTap) -> Iterator[str]:
    app = WebApp(tap.store)
    yield app.url
    app.close()


@pytest.fixture(scope="module", name="browser")
def one_browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(name="arrive")
def visitors(browser: Browser, url: str) -> Iterator[Arrive]:
    """Brings visitors (arguments as for `Visit`), and sees that nothing went wrong for any of them."""
    visits: list[Visit] = []

    def arrive(**how: str) -> Visit:
        visits.append(Visit(browser, url, **how))
        return visits[-1]

    yield arrive
    for visit in visits:
        visit.close()
    assert [problem for visit in visits for problem in visit.problems] == []


def play(tap: RunningTap, recording: Path) -> None:
    """Have the tap hear a recording, as if it had just ended."""
    moved = tap.folder / f"now-{recording.name}"
    with RecordingWriter(moved) as writer:
        writer.write(just_ended(recording))
    tap.send(moved)


def say(tap: RunningTap, *messages: bytes) -> None:
    with tap.connected() as sock:
        for message in messages:
            sock.send(hep3(message))


def wait_for(look: Callable[[], Any], what: str) -> None:
    eventually(look, what, PATIENCE_S)


def messages_of_the_call(tap: RunningTap) -> list[Row]:
    """As they are stored, in order of time; with those that prove the finding, the late phone's REGISTER."""
    call_id = OWED["call_id"]
    proof = f"(SELECT unnest(msg_ids) FROM finding WHERE call_id = '{call_id}')"
    return tap.rows(f"FROM sip WHERE call_id = '{call_id}' OR msg_id IN {proof} ORDER BY ts, msg_id")


def starred(payload: bytes) -> bytes:
    """What proves that somebody knows a password (RFC 7616 3.4) is hidden, and nothing else."""
    return re.sub(rb'(?<=response=")[^"]+', lambda found: b"*" * len(found[0]), payload)


# -- find the call, read a message, take it away -----------------------------------------------------------


def fit(calls: list[dict[str, str]]) -> bool:
    """Whether these are calls of the number."""
    return bool(calls) and all(NUMBER.strip("+") in row["from"] + row["to"] for row in calls)


@pytest.fixture(name="call")
def call_that_was_searched(arrive: Arrive, tap: RunningTap) -> Visit:
    """Its number typed on Calls, its row clicked on."""
    visit = arrive(zone=HERE).open(range="all")
    every = len(visit.table("calls_table"))
    box = visit.element("q").get_by_role("textbox")
    box.fill(NUMBER)
    box.press("Enter")
    wait_for(lambda: len(visit.table("calls_table")) < every, "fewer calls")
    found = visit.table("calls_table")
    assert fit(found)
    visit.click_row("calls_table", [row["Call-ID"] for row in found].index(OWED["call_id"]))
    visit.page.wait_for_url("**/call?*")
    visit.element("ladder").locator("svg").first.wait_for()
    return visit


def test_search_ladder_message_and_pcap(call: Visit, tap: RunningTap, tmp_path: Path) -> None:
    assert call.query["call_id"] == OWED["call_id"]
    stored = messages_of_the_call(tap)
    assert {row["call_id"] for row in stored} == {OWED["call_id"], OWED["register_call_id"]}

    # A click on an arrow shows the very message, with its credentials starred.
    (wanted,) = [
        row for row in stored if row["method"] == "INVITE" and b"\nProxy-Authorization:" in row["payload"]
    ]
    invites = [row for row in stored if row["method"] == "INVITE" and row["status"] is None]
    label = f"INVITE {NUMBER}"
    call.arrow(label, invites.index(wanted))
    call.wait_for_query(msg=str(wanted["msg_id"]))
    shown = starred(wanted["payload"])
    assert shown != wanted["payload"]
    wait_for(lambda: call.raw() == shown.decode().replace("\r\n", "\n").rstrip("\n"), "the message")
    call.page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    call.page.get_by_role("button", name="Copy", exact=True).click()
    call.page.get_by_role("button", name="Copied").wait_for()
    assert call.page.evaluate("navigator.clipboard.readText()").rstrip("\n") == call.raw()

    # The pcap: tshark reads what is stored.
    call.element("exports").get_by_role("button").click()
    with call.page.expect_download() as download:
        call.page.locator(".st-key-export_pcapng").get_by_role("button").click()
    assert re.fullmatch(r"call-[\w.-]+Z\.pcapng", download.value.suggested_filename)
    download.value.save_as(tmp_path / "call.pcapng")
    read = tshark_sip(tmp_path / "call.pcapng", "--disable-protocol", JUNIPERS)
    assert read == [
        Seen(
            round(row["ts"].timestamp() * 1_000_000),
            (row["src_ip"], row["src_port"]),
            (row["dst_ip"], row["dst_port"]),
            starred(row["payload"]),
        )
        for row in stored
    ]


# -- range, zone, address ----------------------------------------------------------------------------------


def test_the_way_back_from_a_call_leads_to_the_search(call: Visit) -> None:
    call.page.get_by_role("link", name="Back to calls").click()
    call.wait_for_query(q=NUMBER, range="all")
    wait_for(lambda: fit(call.table("calls_table")), "the calls that were found")


def test_range_and_zone_are_in_the_address(arrive: Arrive, tap: RunningTap) -> None:
    """What is chosen is shown, and a reload, or another reader elsewhere, shows the same."""
    began: dict[str, datetime] = {
        row["call_id"]: row["first_ts"]
        for row in tap.rows("SELECT call_id, min(ts) AS first_ts FROM sip GROUP BY 1")
    }

    def times(visit: Visit) -> dict[str, str]:
        return {row["Call-ID"]: row["time"] for row in visit.table("calls_table")}

    def expected(calls: dict[str, str], zone: str) -> dict[str, str]:
        return {name: f"{began[name].astimezone(ZoneInfo(zone)):%Y-%m-%d %H:%M:%S}" for name in calls}

    visit = arrive(zone=HERE).open(range="1h")
    recent = times(visit)
    assert {OWED["call_id"], HOSTILE_CALL} < set(recent)
    assert recent == expected(recent, HERE)

    zone = visit.element("zone").get_by_role("combobox")
    zone.click()
    zone.fill(CHOSEN)
    zone.press("Enter")
    visit.wait_for_query(zone=CHOSEN, range="1h")
    wait_for(lambda: times(visit) == expected(recent, CHOSEN), f"times in {CHOSEN}")

    visit.element("range").get_by_text("all", exact=True).click()
    visit.wait_for_query(zone=CHOSEN, range="all")
    wait_for(lambda: len(times(visit)) > len(recent), "older calls")
    every = times(visit)
    assert recent.keys() < every.keys()
    heard = {name: at for name, at in every.items() if name in began}
    assert heard == expected(heard, CHOSEN)

    assert times(visit.reload()) == every
    elsewhere = arrive(zone=ELSEWHERE)
    elsewhere.page.goto(visit.page.url)
    assert times(elsewhere.ready()) == every
    assert CHOSEN in elsewhere.text()


# -- while the tap takes in --------------------------------------------------------------------------------


def test_a_new_ghost_call_appears(arrive: Arrive, tap: RunningTap) -> None:
    """Without a reload, on top; a click opens it."""
    visit = arrive().open("ghosts", range="1h")
    before = visit.table("ghosts_table")
    assert before
    visit.page.evaluate("window.never_reloaded = true")
    play(tap, ghost_call(tap.folder, "kim"))
    visit.wait_for_cell("ghosts_table", "kim@sip.test")
    (newest, *others) = visit.table("ghosts_table")
    assert newest["account"] == "kim@sip.test"
    assert others == before
    assert visit.page.evaluate("window.never_reloaded")
    visit.click_row("ghosts_table", 0)
    visit.page.wait_for_url("**/call?*")
    assert visit.query["call_id"] == call_id_of("kim")


def test_live(arrive: Arrive, tap: RunningTap) -> None:
    """Messages come by themselves, none while it is paused."""
    first, second = "live-1@sip.test", "live-2@sip.test"
    start = "OPTIONS sip:bob@sip.test SIP/2.0"
    visit = arrive().open("live")
    say(tap, sip(start, first))
    visit.wait_for_cell("live_table", first)

    pause = visit.element("live_paused").locator("label")
    pause.click()
    visit.element("live_state").get_by_text("nothing is asked until you go on").wait_for()
    say(tap, sip(start, second))
    wait_for(lambda: tap.rows(f"FROM sip WHERE call_id = '{second}'"), "that it is stored")
    visit.element("live_rows").get_by_text("50", exact=True).click()  # so that it is drawn again
    visit.page.get_by_text("The newest 50 of").wait_for()
    shown = [row["Call-ID"] for row in visit.table("live_table")]
    assert first in shown
    assert second not in shown

    pause.click()
    visit.wait_for_cell("live_table", second)


# -- what is hostile ---------------------------------------------------------------------------------------


def test_hostile_content_is_harmless(arrive: Arrive, tap: RunningTap) -> None:
    """No script of it runs, no element of it is made, nothing is fetched from anywhere (`arrive` sees to that)."""
    visit = arrive().open(range="1h")
    ids = [row["Call-ID"] for row in visit.table("calls_table")]
    assert_harmless(visit)
    visit.click_row("calls_table", ids.index(HOSTILE_CALL))
    visit.page.wait_for_url("**/call?*")
    visit.arrow("486")
    wait_for(lambda: "486 <b>Busy</b>·[2J" in visit.raw(), "the reply")
    tip = visit.page.locator("#vg-tooltip-element.visible")
    visit.arrow("486", hover=True)
    wait_for(lambda: "<b>Busy</b>" in tip.inner_text(), "what the pointer is on, as text")
    assert_harmless(visit)

    compare = visit.element("compare").get_by_role("combobox")
    compare.click()
    compare.press("Enter")
    wait_for(lambda: "+Subject: <img src=x" in visit.raw(), "the difference")
    assert_harmless(visit)

    visit.open("live", live_q="ip:127.0.0.0/8")
    say(tap, *hostile_messages())
    visit.wait_for_cell("live_table", HOSTILE_CALL)
    assert_harmless(visit)


def assert_harmless(visit: Visit) -> None:
    page = visit.page
    assert page.evaluate("window.alerted") == []
    made = "img[src=x], [onerror], [href^='javascript:'], main b, main strong:text-is('bold')"
    assert page.locator(made).count() == 0
    scripts = page.locator("script").all_text_contents()
    assert not any("alert(1)" in script for script in scripts)
    links: list[str] = page.locator("a[href]").evaluate_all("links => links.map(link => link.href)")
    assert all(link.startswith(visit.url) for link in links), links


# -- looks -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", ["calls", "call", "quality", "ghosts", "registrations", "live", "health"])
def test_every_page_fits(page: str, arrive: Arrive) -> None:
    """Wide and narrow, light and dark: nothing raises, nothing sticks out."""
    more = {"call_id": OWED["call_id"]} if page == "call" else {}
    visit = arrive().open(page, range="all", **more)
    for width, scheme in product((WIDE, NARROW), ("light", "dark")):
        visit.look(width, scheme)
        wait_for(visit.fits, f"that {page} has room in {width} px")
