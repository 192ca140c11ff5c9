"""`hepduck quality`, the strip of `hepduck call`, the daily report, and all of it beside a running tap."""

from __future__ import annotations

import csv
import io
import json
import statistics
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from asterisk_recordings import DATA, truths
from filled import Run, run_in_process  # noqa: F401 - a fixture
from quality_store import Store, cdr_rows, datagrams, new_store
from tap import RunningTap, eventually, hepduck

from pipeline.protocols.emodel import mos
from pipeline.quality.daily import day_to_report, write_report
from pipeline.quality.settings import QualitySettings
from pipeline.quality.work import QualityWork
from pipeline.store.writer import Writer

DAY = date(2026, 11, 22)
SMALL = "r22-custom-legacy"


@pytest.fixture(scope="module")
def main_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """r22-main, closed."""
    path = tmp_path_factory.mktemp("main") / "store"
    with new_store(path) as store:
        store.hear("r22-main")
        store.refresher.run()
        store.add("cdr", cdr_rows("r22-main"))
        store.refresher.run()
    return path


def said(run_here: Run, store: Path, *words: object) -> str:
    done = run_here(*words, "--store", store, cwd=store.parent)
    assert done.returncode == 0, done.stderr
    return done.stdout


def objects(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def csv_rows(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(file.read_text())))


# -- the command -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", ["r22-main", "r18"])
def test_figures_of_a_recording_that_was_imported_are_sane(
    run_here: Run, tmp_path: Path, session: str
) -> None:
    store = tmp_path / "store"
    said(run_here, store, "cdr", "import", DATA / session / "cdr_full.csv", "--preset", "cdr_adaptive")
    (row,) = objects(said(run_here, store, "quality", "--json"))
    assert row["calls"] >= 10
    assert row["rated"] >= 25
    assert 15 < row["r_p5"] < row["r_p50"] < row["r_p95"] <= 93.2
    assert 1 <= row["mos_p5"] < row["mos_p50"] < row["mos_p95"] <= 4.5
    assert row["loss_pct_p50"] < 1 < row["loss_pct_p95"] < 35
    assert 0 < row["jitter_ms_p50"] < 3 < row["jitter_ms_p95"] < 30
    assert 0 < row["rtt_ms_p50"] < 5 < row["rtt_ms_p95"] < 700
    assert row["grounded_pct"] == 0, "CDRs do not tell the codec"


@pytest.mark.parametrize(
    ("by", "keys"),
    [
        ("trunk", {"PJSIP/ep", "PJSIP/epdm"}),
        ("codec", {"PCMU", "PCMA", "G722", "OPUS"}),
        ("account", {"bed"}),
        ("hour", {"2026-11-22 19:00"}),
    ],
)
def test_figures_by(run_here: Run, main_store: Path, by: str, keys: set[str]) -> None:
    rows = objects(said(run_here, main_store, "quality", "--by", by, "--json"))
    assert keys <= {row["key"] for row in rows}
    assert {row["by"] for row in rows} == {by}
    cells = list(csv.DictReader(io.StringIO(said(run_here, main_store, "quality", "--by", by, "--csv"))))
    assert [cell["key"].removeprefix("'") for cell in cells] == [row["key"] for row in rows]
    assert said(run_here, main_store, "quality", "--by", by).splitlines()[0].split()[:3] == [
        "key",
        "calls",
        "rated",
    ]


def test_figures_by_user_agent_name_the_phone_and_not_the_switch(run_here: Run, main_store: Path) -> None:
    keys = {row["key"] for row in objects(said(run_here, main_store, "quality", "--by", "ua", "--json"))}
    assert any(key.startswith("PJSUA") for key in keys)
    assert any(key.startswith("baresip") for key in keys)
    assert "testbed-asterisk" not in keys


def test_percentiles_are_of_r_and_the_mos_is_theirs(run_here: Run, main_store: Path) -> None:
    (row,) = objects(said(run_here, main_store, "quality", "--json"))
    query = "SELECT r_factor FROM leg_quality_best WHERE r_factor IS NOT NULL"
    ratings = sorted(each["r_factor"] for each in objects(said(run_here, main_store, "sql", query, "--json")))
    assert row["rated"] == len(ratings)
    assert row["r_p50"] == pytest.approx(statistics.median(ratings))
    assert row["mos_p50"] == pytest.approx(mos(row["r_p50"]))


def test_the_worst_are_those_that_the_relay_hurt_most(run_here: Run, main_store: Path) -> None:
    rows = objects(said(run_here, main_store, "quality", "--worst", 5, "--json"))
    numbers = {truth["callid_a"]: int(truth["id"]) for truth in truths("r22-main")}
    assert {numbers[row["call_id"]] for row in rows} <= {17, 19, 21, 24}
    ratings = [row["r_factor"] for row in rows]
    assert ratings == sorted(ratings)
    everyone = objects(said(run_here, main_store, "quality", "--worst", 1000, "--json"))
    assert {row["codec"] for row in everyone} == {"PCMU", "PCMA"}, "no ranking by a stand-in"
    assert min(row["seconds"] for row in everyone) >= 3


def test_since_leaves_out_what_is_older(run_here: Run, main_store: Path) -> None:
    assert (
        objects(said(run_here, main_store, "quality", "--worst", 5, "--since", "2100-01-01", "--json")) == []
    )
    (row,) = objects(said(run_here, main_store, "quality", "--since", "2026-11-22T19:06:00", "--json"))
    assert 0 < row["calls"] < 60


def test_for_people_it_says_what_is_not_joined(run_here: Run, main_store: Path) -> None:
    done = run_here("quality", "--store", main_store, cwd=main_store.parent)
    assert "86 calls joined" in done.stderr
    assert "1 calls CDR without SIP: reused Call-ID out of time" in done.stderr


def test_an_unknown_grouping_is_refused(run_here: Run, main_store: Path) -> None:
    done = run_here("quality", "--by", "moon", "--store", main_store, cwd=main_store.parent)
    assert done.returncode == 2
    assert "trunk, codec, ua, account, hour" in done.stderr


# -- a call ----------------------------------------------------------------------------------------------


def call_id(number: int, leg: str = "a") -> str:
    return next(truth[f"callid_{leg}"] for truth in truths("r22-main") if truth["id"] == str(number))


def test_the_strip_under_the_ladder(run_here: Run, main_store: Path) -> None:
    lines = said(run_here, main_store, "call", call_id(17)).splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("quality"))
    ladder = next(number for number, line in enumerate(lines) if "INVITE" in line)
    assert at > ladder
    strip = {tuple(line.split()[:2]): line for line in lines[at + 1 : at + 5]}
    assert set(strip) == {(leg, way) for leg in ("a", "b") for way in ("incoming", "outgoing")}
    for word in ("R 4", "MOS-CQ 2", "not recommended", "loss 20.70 % (166 packets)", "PCMU", "cdr PJSIP/ep"):
        assert word in strip["a", "incoming"]
    assert "very satisfied" in strip["a", "outgoing"]
    assert lines[at + 5].startswith("CDR      ANSWERED, billed 16.")


def test_what_is_unknown_is_a_dash(run_here: Run, main_store: Path) -> None:
    text = said(run_here, main_store, "call", call_id(26))  # no RTCP either way on leg A
    outgoing = next(line for line in text.splitlines() if line.startswith("  a outgoing"))
    for word in ("R -", "MOS -", "loss - (- packets)", "jitter - (max -)", "rtt -", "no_rtcp"):
        assert word in outgoing


def test_a_call_as_one_object(run_here: Run, main_store: Path) -> None:
    (found,) = objects(said(run_here, main_store, "call", call_id(17), "--json"))
    assert {row["source"] for row in found["quality"]} == {"cdr", "hep rtcp"}
    assert sum(row["best"] for row in found["quality"]) == 4
    assert found["cdrs"][0]["call_id_b"] == call_id(17, "b")


def test_leg_b_shows_the_call_that_it_is_of(run_here: Run, main_store: Path) -> None:
    text = said(run_here, main_store, "call", call_id(17, "b"))
    assert f"leg B of {call_id(17)}" in text
    assert "a incoming" in text


def test_a_call_without_cdr_says_why(run_here: Run, main_store: Path) -> None:
    (found,) = objects(
        said(
            run_here, main_store, "sql", "SELECT call_id FROM sip_unjoined WHERE from_user = 'u056'", "--json"
        )
    )
    assert "CDR      none: B leg only" in said(run_here, main_store, "call", found["call_id"])


def test_a_call_that_only_cdrs_tell_of(run_here: Run, tmp_path: Path) -> None:
    store = tmp_path / "store"
    said(run_here, store, "cdr", "import", DATA / SMALL / "cdr_full.csv", "--preset", "cdr_adaptive")
    number = next(truth["callid_a"] for truth in truths(SMALL) if truth["id"] == "20")
    text = said(run_here, store, "call", number)
    assert "no messages" in text
    assert "b outgoing" in text
    assert "CDR      ANSWERED" in text


# -- the daily report ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with new_store(tmp_path_factory.mktemp("small") / "store") as made:
        made.hear(SMALL)
        made.add("cdr", cdr_rows(SMALL))
        made.refresher.run()
        yield made


def test_the_report_of_a_day(store: Store, tmp_path: Path) -> None:
    with store.writer.cursor() as cursor:
        cursor.execute("USE lake")
        files = write_report(cursor, DAY, "UTC", tmp_path / "reports")
    assert [file.name for file in files] == [
        "quality-2026-11-22.csv",
        "quality-2026-11-22-worst.csv",
        "quality-2026-11-22.html",
    ]
    assert len(list((tmp_path / "reports").iterdir())) == 3
    figures, worst = (csv_rows(file) for file in files[:2])
    assert {row["by"] for row in figures} == {"all", "trunk", "codec", "ua", "account", "hour", "network"}
    (total,) = (row for row in figures if row["by"] == "all")
    assert int(total["calls"]) >= 10
    assert float(worst[0]["r_factor"]) == min(float(row["r_factor"]) for row in worst)
    page = files[2].read_text()
    for words in (
        "<h1>Voice quality, 2026-11-22 (UTC)</h1>",
        "By trunk",
        "PJSIP/ep",
        "Worst directions",
        "joined",
    ):
        assert words in page
    assert "<script" not in page


def test_a_day_is_its_own_zones(store: Store, tmp_path: Path) -> None:
    """The calls were at 19:33 UTC: in Auckland that was the next day."""
    calls = {}
    for zone, day in (("Pacific/Auckland", DAY), ("Pacific/Auckland", DAY + timedelta(days=1))):
        with store.writer.cursor() as cursor:
            cursor.execute("USE lake")
            (figures, *_) = write_report(cursor, day, zone, tmp_path / str(day))
        rows = csv_rows(figures)
        calls[day] = sum(int(row["calls"]) for row in rows if row["by"] == "all")
        hours = [row["key"] for row in rows if row["by"] == "hour"]
        assert hours == ([] if not calls[day] else ["2026-11-23 08:00"])
    assert calls[DAY] == 0 < calls[DAY + timedelta(days=1)]


def test_what_came_from_the_wire_is_text_in_the_page_and_no_formula_in_the_table(tmp_path: Path) -> None:
    with new_store(tmp_path / "store") as store:
        rows = cdr_rows(SMALL)
        for row in rows:
            row["accountcode"] = "=1+1<script>alert(1)</script>"
        store.add("cdr", rows)
        store.refresher.run()
        with store.writer.cursor() as cursor:
            cursor.execute("USE lake")
            table, _, page = write_report(cursor, DAY, "UTC", tmp_path / "reports")
    assert "<script" not in page.read_text()
    assert "'=1+1<script>" in table.read_text()


@pytest.mark.parametrize(
    ("now", "due"),
    [
        ("2026-11-23T02:59:00+00:00", None),
        ("2026-11-23T03:00:00+00:00", DAY),
        ("2026-11-23T23:00:00+00:00", DAY),
    ],
)
def test_when_a_report_is_due(tmp_path: Path, now: str, due: date | None) -> None:
    settings = QualitySettings(report_dir=tmp_path)
    assert day_to_report(settings, datetime.fromisoformat(now)) == due
    (tmp_path / f"quality-{DAY}.html").touch()
    assert day_to_report(settings, datetime.fromisoformat(now)) is None, "it is there"
    assert day_to_report(QualitySettings(), datetime.fromisoformat(now)) is None, "nobody asked for one"


def test_the_job_writes_it_once_and_survives_a_folder_that_cannot_be_written(
    store: Store, tmp_path: Path
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("no folder")
    now = datetime(2026, 11, 23, 4, tzinfo=UTC)
    work = QualityWork(store.writer, QualitySettings(report_dir=blocked / "reports"))
    work.report(now)
    work.refresh()  # is well, and says nothing of the report
    assert (work.error(), work.status()["state"]) == (None, "failing")
    assert "file" in (work.report_error() or "")
    work = QualityWork(store.writer, QualitySettings(report_dir=tmp_path / "reports"))
    work.report(now)
    assert work.status()["last_report"] == "2026-11-22"
    page = tmp_path / "reports" / "quality-2026-11-22.html"
    written = page.stat().st_mtime_ns
    work.report(now)
    assert page.stat().st_mtime_ns == written


def test_a_pass_that_is_told_to_stop_does_and_is_done_again(tmp_path: Path) -> None:
    with new_store(tmp_path / "store") as store:
        store.add("cdr", cdr_rows(SMALL))
        work = QualityWork(store.writer, QualitySettings())
        work.stop()
        work.refresh()
        assert store.query("FROM cdr_call") == []
        assert work.status()["error"] is None, "that is no failure"
        QualityWork(store.writer, QualitySettings()).refresh()
        assert len(store.query("FROM cdr_call")) == len(truths(SMALL))


def test_a_job_on_a_closed_store_fails_in_its_status_only(tmp_path: Path) -> None:
    writer = Writer(tmp_path / "store", "n1")
    work = QualityWork(writer, QualitySettings())
    work.refresh()
    assert work.status()["state"] == "ok"
    writer.stop()
    work.refresh()
    assert work.status()["state"] == "failing"
    assert work.status()["error"]


# -- beside a running tap --------------------------------------------------------------------------------


def test_quality_is_there_while_the_tap_runs(tmp_path: Path) -> None:
    """Reports first, then the CDRs of the same calls, in a file that the tap follows."""
    records = tmp_path / "records.csv"
    configuration = tmp_path / "hepduck.toml"
    configuration.write_text(f"""
        [quality]
        interval = "200ms"
        report_dir = "{tmp_path / "reports"}"
        report_at = "00:00"
        [[cdr]]
        source = "{records}"
        preset = "cdr_adaptive"
        interval = "200ms"
        jitter = "0s"
    """)
    header, *lines = (DATA / SMALL / "cdr_full.csv").read_text().splitlines(keepends=True)
    records.write_text(header)
    tap = RunningTap(tmp_path / "tap", configuration=configuration)
    with tap:
        with tap.connected() as sock:
            for datagram in datagrams(SMALL):
                sock.send(datagram.data)
                time.sleep(0.0005)
        count = "SELECT count(DISTINCT leg_name) AS n FROM leg_quality WHERE source = 'hep rtcp'"
        legs = eventually(
            lambda: tap.rows(count)[0]["n"] >= 19 and tap.rows(count)[0]["n"], "legs of the reports"
        )
        with records.open("a") as file:
            file.writelines(lines)
        joined = "SELECT count(*) AS n FROM call_quality WHERE in_sip AND in_cdr"
        eventually(lambda: tap.rows(joined)[0]["n"] == len(truths(SMALL)), "every call joined with its CDR")
        tied = (
            "SELECT count(DISTINCT leg_call_id) AS n FROM leg_quality"
            " WHERE source = 'hep rtcp' AND leg = 'b' AND call_id <> leg_call_id"
        )
        eventually(lambda: tap.rows(tied)[0]["n"] >= 8, "leg B of the reports tied by the CDR")
        shown = hepduck("quality", "--json", "--store", tap.store, cwd=tmp_path)
        assert json.loads(shown.stdout)["rated"] > 30
        status = tap.wait_for(lambda status: status["quality"]["calls"] > 0, "counts of the quality job")
        assert status["quality"]["state"] == "ok"
        assert status["quality"]["reports"] == 173
        eventually(lambda: list((tmp_path / "reports").glob("*.html")), "the daily report")
        assert tap.stop() == 0
    assert legs
    assert "Traceback" not in tap.log()
