"""The page of one call: its ladder and messages, what is hidden in them, how it sounded, what can be taken away."""

from __future__ import annotations

import html
import json
import re
import subprocess
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET
from zoneinfo import ZoneInfo

import pyarrow as pa
import pytest
from app_store import HOSTILE_CALL, LONG_HEADER_BYTES, NUMBERS_CALL, SESSION, App, AppStore, reading
from asterisk_recordings import truths
from recordings import PATHS, load

from app import call_export
from app.call_data import WholeCall, signalling, whole_call
from pipeline import ladder_chart
from pipeline.api.opened import Store
from pipeline.ingest.recordings import read_recording

(OWED,) = load("c").label["expected"]  # answered by the desk phone, then the iPhone registers
CALL, REGISTER = OWED["call_id"], OWED["register_call_id"]
HEARD = [datagram.data for datagram in read_recording(PATHS["c"])]
OF_CALL = [data for data in HEARD if CALL.encode() in data]
SHOWN = len(OF_CALL) + 2  # with the late phone's REGISTER and the 200 to it
TRUTH = next(truth for truth in truths(SESSION) if truth["callid_b"] and truth["a_up_seen"])


def drawn(app: App, chart: int = 0) -> list[dict[str, Any]]:
    """The rows that a chart draws, of all its layers."""
    datasets = app.test.get("vega_lite_chart")[chart].proto.datasets
    tables = [pa.ipc.open_stream(dataset.data.data).read_all() for dataset in datasets]
    return [row for table in tables for row in table.to_pylist()]


def arrows(app: App) -> list[dict[str, Any]]:
    """The arrows of the ladder from the top down, without the copy that marks the chosen one."""
    found = {row["msg_id"]: row for row in drawn(app) if row.get("msg_id") is not None}
    return sorted(found.values(), key=lambda row: row["top"])


def raw(app: App) -> str:
    """The message beside the ladder, or how it differs from another."""
    shown = re.search(r'<pre class="wire">\n(.*?)</pre>', app.html(), re.DOTALL)
    return html.unescape(shown[1]) if shown else str(app.test.code[-1].value)


@pytest.fixture(name="ghost")
def page_of_the_ghost_call(open_app: type[App]) -> App:
    return open_app("call", call_id=CALL, hops="true")


# -- the ladder ------------------------------------------------------------------------------------------


def test_every_hop(ghost: App) -> None:
    """Each message that was mirrored is an arrow, a retransmission only a number; the finding stands among them."""
    counts = [
        int(found[1]) if (found := re.search(r" x(\d+)$", row["label"])) else 1 for row in arrows(ghost)
    ]
    assert sum(counts) == SHOWN
    assert max(counts) == 2  # the ACK to the 407
    finding = next(row for row in drawn(ghost) if row.get("kind") == "finding")
    assert finding["label"].replace("\n", " ").startswith(f"GHOST CALL: {OWED['contact']} registered ")
    registered = next(row for row in arrows(ghost) if row["label"].startswith("REGISTER"))
    assert registered["top"] < finding["top"] < arrows(ghost)[-1]["top"]
    assert next(row["label"] for row in drawn(ghost) if row.get("kind") == "action").startswith(
        "fake_call (dry run)"
    )
    assert CALL in ghost.html()


def test_hops_collapsed(open_app: type[App], ghost: App) -> None:
    """What the proxy passed on is one arrow from end to end; a click on it still reaches each of its hops."""
    app = open_app("call", call_id=CALL)
    assert 0 < len(arrows(app)) < len(arrows(ghost))
    passed = next(row for row in arrows(app) if row["label"] == "180 Ringing")
    proxy = load("c").label["kamailio"]
    assert (passed["via"], passed["lanes"]) == (proxy, 2)
    at_proxy = [row for row in arrows(ghost) if row["label"] == "180 Ringing"]
    assert [(row["src"], row["dst"]) for row in at_proxy] == [(passed["src"], proxy), (proxy, passed["dst"])]

    hops = []
    for copy in ("1", "2"):
        shown = open_app("call", call_id=CALL, msg=str(passed["msg_id"]), copy=copy)
        assert raw(shown).startswith("SIP/2.0 180 Ringing")
        hops.append(raw(shown).count("branch="))
    assert hops == [2, 1]  # the proxy takes its own Via off (RFC 3261 16.7)


def test_times(open_app: type[App]) -> None:
    """Since the first, since the one before, on the clock of the chosen zone."""
    first, previous, clock = (
        [row["time"] for row in arrows(open_app("call", call_id=CALL, clock=name, zone="Asia/Kolkata"))]
        for name in ("since first", "since previous", "time of day")
    )
    seconds = [float(text) for text in first]
    assert seconds == sorted(seconds)
    assert seconds[0] == float(previous[0]) == 0
    gaps = [float(text) for text in previous]
    assert gaps[3] == pytest.approx(seconds[3] - seconds[2], abs=0.0011)
    assert all(re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}", text) for text in clock)
    began = re.search(r"\d{4}-\d\d-\d\d (\d\d:\d\d:\d\d\.\d{3})", open_app("call", call_id=CALL).html())
    assert began
    hours = (int(clock[0][:2]) * 60 + int(clock[0][3:5]) - int(began[1][:2]) * 60 - int(began[1][3:5])) % (
        24 * 60
    )
    assert hours == 5 * 60 + 30  # the page above was in UTC


def test_a_long_ladder_comes_in_parts(
    ghost: App, open_app: type[App], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The part with the chosen message; together they are the whole, with the same times."""
    monkeypatch.setattr(ladder_chart, "MOST_STEPS", 6)
    found: list[dict[str, Any]] = []
    parts: list[int] = []
    while len(found) < len(arrows(ghost)):
        first = arrows(ghost)[len(found)]["msg_id"]
        app = open_app("call", call_id=CALL, hops="true", msg=str(first))
        assert 0 < len(arrows(app)) <= 6
        parts.append(app.test.pagination(key="ladder_part").value)
        found += arrows(app)
    assert parts == list(range(1, len(parts) + 1))
    assert [(row["label"], row["time"]) for row in found] == [
        (row["label"], row["time"]) for row in arrows(ghost)
    ]


def test_legs_merged(open_app: type[App]) -> None:
    """Both legs of a call through Asterisk in one ladder; a switch leaves the other leg out."""
    both = open_app("call", call_id=TRUTH["callid_a"])
    alone = open_app("call", call_id=TRUTH["callid_a"], legs="false")
    phones = [{row[end] for row in arrows(app) for end in ("src", "dst")} for app in (both, alone)]
    assert len(phones[0]) == 3
    assert phones[1] < phones[0]
    from_b = open_app("call", call_id=TRUTH["callid_b"])
    assert {row["msg_id"] for row in arrows(from_b)} == {row["msg_id"] for row in arrows(both)}
    assert "Leg B of" in "\n".join(caption.value for caption in from_b.test.caption)


# -- messages --------------------------------------------------------------------------------------------


def test_the_raw_message(ghost: App, open_app: type[App]) -> None:
    """Of the arrow in the link, as it was on the wire; without one, the first. Credentials are stars."""
    assert raw(ghost).startswith("INVITE sip:bob@sip.test SIP/2.0\n")
    for arrow in arrows(ghost)[::5]:
        shown = raw(open_app("call", call_id=CALL, hops="true", msg=str(arrow["msg_id"])))
        heads = {data[at:] for data in HEARD if (at := data.find(shown.partition("\n")[0].encode())) >= 0}
        lines = [line for line in shown.split("\n") if "*" not in line]
        assert any(all(line.encode() in head for line in lines) for head in heads), shown
    secret = re.search(rb'response="([0-9a-f]{32})"', b"".join(OF_CALL))
    assert secret
    with_credentials = arrows(ghost)[3]
    shown = raw(open_app("call", call_id=CALL, hops="true", msg=str(with_credentials["msg_id"])))
    assert "Proxy-Authorization:" in shown
    assert secret[1].decode() not in shown


def test_stepping(ghost: App) -> None:
    """With the buttons, which have keys; the link follows."""
    ids = [row["msg_id"] for row in arrows(ghost)]
    assert ghost.test.button(key="step_previous").disabled
    for at in (1, 2):
        ghost.test.button(key="step_next").click()
        ghost.run()
        assert ghost.test.query_params["msg"] == str(ids[at])
    ghost.test.button(key="step_previous").click()
    ghost.run()
    assert ghost.test.query_params["msg"] == str(ids[1])
    assert raw(ghost).startswith("SIP/2.0 407 ")
    shortcuts = [ghost.test.button(key=key).proto.shortcut for key in ("step_previous", "step_next")]
    assert shortcuts == ["k", "j"]


def test_two_messages_compared(ghost: App, open_app: type[App]) -> None:
    """What the caller changed after the proxy had asked for credentials."""
    first, second = [row["msg_id"] for row in arrows(ghost) if row["label"] == "INVITE bob"][:2]
    app = open_app("call", call_id=CALL, hops="true", msg=str(first), diff=str(second))
    changed = raw(app).split("\n")
    assert "-CSeq: 1 INVITE" in changed
    assert "+CSeq: 2 INVITE" in changed
    assert any(line.startswith("+Proxy-Authorization: ") for line in changed)
    assert not any(line.startswith(("-From:", "+From:")) for line in changed)


def test_hostile_content_is_harmless(open_app: type[App]) -> None:
    """Mark-up is text, what steers a terminal is a dot, a long header is cut and says so."""
    app = open_app("call", call_id=HOSTILE_CALL)
    page = app.html()
    (ours,) = [
        element.proto.body for element in app.test.get("html") if element.proto.unsafe_allow_javascript
    ]
    assert "alert" not in ours
    assert "<script" not in page.replace(ours, "")
    assert "&lt;script&gt;alert(1)&lt;/script&gt;@sip.test" in page
    assert "more bytes: take the pcap" in raw(app)
    assert len(raw(app)) < LONG_HEADER_BYTES / 2
    app.test.button(key="step_next").click()
    app.run()
    assert "486 <b>Busy</b>·[2J" in raw(app)
    label = next(element.value for element in app.test.markdown if "486" in element.value)
    assert not re.search(r"(?<!\\)[<>_`\[]", label)
    everything = page + app.said() + "".join(code.value for code in app.test.code)
    assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]", everything)


def test_numbers_are_masked_where_configured(app_store: AppStore) -> None:
    """Everywhere on the page, and in what is taken away from it."""
    with reading(app_store.path, mask_numbers=True), Store(app_store.path) as store:
        app = App("call", call_id=NUMBERS_CALL)
        shown = app.html() + app.said() + raw(app) + str(drawn(app))
        call = asked_whole(NUMBERS_CALL, store)
        files = [call_export.as_json(call), call_export.as_svg(call, ZoneInfo("UTC"))]
        files.append(call_export.as_pcap(call).decode("latin-1"))
    for text in (shown, *files):
        assert "15551234567" not in text
        assert "004930123456" not in text
        assert "00493012xxxx" in text
    with reading(app_store.path):
        assert "15551234567" in App("call", call_id=NUMBERS_CALL).html()


def test_a_call_that_is_not_there(open_app: type[App]) -> None:
    assert "no call fits" in open_app("call", call_id="nobody@nowhere").said()
    assert "No call is chosen" in open_app("call").said()


# -- quality ---------------------------------------------------------------------------------------------


def test_a_registration_is_shown_as_what_it_is(open_app: type[App]) -> None:
    app = open_app("call", call_id=REGISTER)
    assert "REGISTER of bob@sip.test" in app.html() + app.said()


def test_quality(open_app: type[App]) -> None:
    """The strip: each leg and direction once, loss as the relay counted it; reports over time; the CDR."""
    app = open_app("call", call_id=TRUTH["callid_a"])
    strip = app.test.dataframe[0].value
    assert [*zip(strip["leg"], strip["direction"], strict=True)] == [
        (leg, way) for leg in ("a", "b") for way in ("incoming", "outgoing")
    ]
    seen, dropped = int(TRUTH["a_up_seen"]), int(TRUTH["a_up_dropped"])
    assert float(strip["loss"][0].removesuffix(" %")) == pytest.approx(100 * dropped / seen, abs=2.5)
    assert set(strip["users"]) <= {"very satisfied", "satisfied", "some dissatisfied", "many dissatisfied"}
    assert all(re.fullmatch(r"\d\.\d\d [CL]Q", text) for text in strip["MOS"])
    every = open_app("call", call_id=TRUTH["callid_a"], sources="true").test.dataframe[0].value
    assert len(every) > len(strip)

    reports = drawn(app, chart=1)
    assert {row["series"] for row in reports} <= {
        f"{leg} {way}" for leg in "ab" for way in ("incoming", "outgoing")
    }
    assert {row["series"].split()[0] for row in reports} == {"a", "b"}
    cdr = app.test.dataframe[1].value
    assert list(cdr["disposition"]) == ["ANSWERED"]


def test_a_call_without_quality(ghost: App) -> None:
    assert "Nothing is known of how this call sounded" in ghost.said()


# -- what is taken away ----------------------------------------------------------------------------------


def asked_whole(call_id: str, store: Store) -> WholeCall:
    return whole_call(signalling(call_id, store=store), lambda ask, **given: ask(**given, store=store))


@pytest.fixture(name="whole")
def whole_ghost_call(app_store: AppStore) -> WholeCall:
    with reading(app_store.path), Store(app_store.path) as store:
        return asked_whole(CALL, store)


def test_pcap(whole: WholeCall, tmp_path: Path) -> None:
    """tshark finds the messages that were mirrored, in their order."""
    file = tmp_path / f"{call_export.file_name(whole)}.pcapng"
    file.write_bytes(call_export.as_pcap(whole))
    wanted = [word for name in ("sip.Call-ID", "sip.CSeq.seq", "frame.time_epoch") for word in ("-e", name)]
    read = subprocess.run(
        ["tshark", "-r", str(file), "-Y", "sip", "-T", "fields", *wanted],
        capture_output=True,
        text=True,
        check=True,
    )
    packets = [line.split("\t") for line in read.stdout.splitlines()]
    assert sorted(call_id for call_id, _, _ in packets) == sorted([CALL] * len(OF_CALL) + [REGISTER] * 2)
    times = [float(time) for _, _, time in packets]
    assert times == sorted(times)


def test_drawing_and_json(whole: WholeCall) -> None:
    svg = ET.fromstring(call_export.as_svg(whole, ZoneInfo("Asia/Kolkata")))
    texts = [element.text or "" for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert f"{CALL}, times in Asia/Kolkata" in texts
    assert sum(text.startswith("INVITE bob") for text in texts) == 3
    found = json.loads(call_export.as_json(whole))
    assert len(found["messages"]) == SHOWN
    assert found["findings"][0]["target"] == OWED["contact"]
    assert found["messages"][0]["ts"].endswith("+00:00")
    assert not re.search(r'response=\\"[0-9a-f]{32}', call_export.as_json(whole))


def test_names_of_files(whole: WholeCall) -> None:
    """Harmless in any file system, with the time in UTC."""
    assert re.fullmatch(r"call-[\w.-]+-\d{8}T\d{6}Z", call_export.file_name(whole))
