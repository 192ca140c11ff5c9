"""The page of health, and what it is made of: counters that add up, reasons, samples, jobs, sources, plugins."""

from __future__ import annotations

import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from app_store import App, reading
from asterisk_recordings import SESSIONS
from cdr_recordings import AT_ONCE
from cdr_recordings import path as cdr_path
from prometheus_client.parser import text_string_to_metric_families
from tap import RunningTap, Status, hep3, sip
from world.ports import free_port

from app import health_charts
from app.hexdump import hexdump
from pipeline.api import health
from pipeline.api.opened import Store
from pipeline.jobs import Jobs
from pipeline.store.writer import Writer

KEY = b"right"
JOBS = {"cdr records", "cdr gone", "quality"}  # that run at once; there are others
NO_SIP = b"GET /<script>\x1b[31m" + bytes(range(200))
CONFIGURATION = """
[[cdr]]
name = "records"
source = "{records}"
preset = "cdr_adaptive"
interval = "200ms"
jitter = "0s"
[[cdr]]
name = "gone"
source = "{folder}/there-is-none.csv"
preset = "cdr_adaptive"
interval = "200ms"
jitter = "0s"
[actions.sipp]
enabled = true
"""


@pytest.fixture(scope="module", name="tap")
def running_tap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTap]:
    """A tap that runs, and heard: 5 messages, 3 with a wrong key, 2 that are no HEP, 1 that is no SIP, of 2 agents."""
    folder = tmp_path_factory.mktemp("health")
    records = folder / "cdr.csv"
    shutil.copyfile(cdr_path(SESSIONS[0], "cdr_full.csv"), records)
    configuration = folder / "hepduck.toml"
    configuration.write_text(CONFIGURATION.format(records=records, folder=folder))
    variables = {"HEPDUCK_TAP__AUTH_KEY": KEY.decode(), "HEPDUCK_METRICS__LISTEN": f"127.0.0.1:{free_port()}"}
    with RunningTap(folder / "tap", configuration=configuration, variables=variables) as tap:
        (folder / "tap" / "metrics").write_text(variables["HEPDUCK_METRICS__LISTEN"])
        now_us = time.time_ns() // 1000
        with tap.connected() as sock:
            for number in range(5):
                late_us = 42_000_000 if number == 4 else 0
                message = sip("OPTIONS sip:bob@sip.test SIP/2.0", f"{number}@health")
                sock.send(hep3(message, auth_key=KEY, ts_us=now_us - late_us, agent_id=2001 + number // 4))
            for number in range(3):
                sock.send(hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", f"{number}@bad"), auth_key=b"wrong"))
            sock.send(b"\x01")
            sock.send(b"\x01")
            sock.send(hep3(NO_SIP, auth_key=KEY))
        tap.settled(11)
        tap.wait_for(
            lambda status: {job["job"] for job in status["jobs"] if job["runs"]} >= JOBS, "a run of each job"
        )
        yield tap


@pytest.fixture(scope="module", name="status")
def settled_status(tap: RunningTap) -> Status:
    status = tap.status()
    assert status
    return status


@pytest.fixture(scope="module", name="store")
def open_store(tap: RunningTap) -> Iterator[Store]:
    with Store(tap.store) as store:
        yield store


@pytest.fixture(scope="module", name="app")
def page_of_health(tap: RunningTap) -> Iterator[App]:
    with reading(tap.store):
        yield App("health", health_kind="sip_start_line")


def said(app: App) -> str:
    kinds = ("markdown", "caption", "subheader")
    return "\n".join(element.value for kind in kinds for element in app.test.get(kind)).replace("\\", "")


def table(app: App, column: str) -> pd.DataFrame:
    """The first table of the page that has the column."""
    return next(shown.value for shown in app.test.dataframe if column in shown.value)


# -- from Python -----------------------------------------------------------------------------------------


def test_the_counters_add_up_as_the_tap_says(store: Store, status: Status) -> None:
    counters = health.counters(store=store).set_index("fate")["messages"].to_dict()
    assert counters == {
        name: status[name] for name in ("received", "stored", "rejected", "shed", "kernel_dropped", "queued")
    } | {"unexplained": 0}
    assert counters["received"] == 11
    assert counters["rejected"] == 3
    assert counters["stored"] == counters["received"] - counters["rejected"]
    share = health.counters(store=store).set_index("fate")["share_pct"]
    assert share["stored"] == pytest.approx(100 * 8 / 11)


def test_reasons_have_meanings(store: Store) -> None:
    losses = health.losses(store=store)
    assert {
        (row.what, row.reason, row.count_) for row in losses.rename(columns={"count": "count_"}).itertuples()
    } == {
        ("rejected", "bad_key", 3),
        ("weird", "hep_short", 2),
        ("weird", "sip_start_line", 1),
    }
    (key,) = health.bad_keys(store=store).to_dict("records")
    assert (key["agent_addr"], key["hep_version"], key["has_key"], key["count"]) == ("127.0.0.1", 3, True, 3)
    assert abs((key["last_at"] - pd.Timestamp.now("UTC")).total_seconds()) < 300
    (meaning,) = losses.loc[losses["what"] == "rejected", "meaning"]
    assert "auth_key" in meaning


def test_what_could_not_be_decoded_with_its_bytes(store: Store) -> None:
    kinds = health.weird(store=store).set_index("kind")["messages"].to_dict()
    assert kinds == {"hep_short": 2, "sip_start_line": 1}
    (sample,) = health.weird_samples(kind="sip_start_line", store=store).to_dict("records")
    assert (sample["head"], sample["bytes"]) == (NO_SIP[:256], len(NO_SIP))
    assert len(health.weird_samples(limit=2, store=store)) == 2


def test_jobs_sources_and_plugins(store: Store) -> None:
    jobs = {row.job: row for row in health.jobs(store=store).itertuples()}
    assert JOBS | {"merge"} <= set(jobs)
    assert jobs["cdr records"].state in {"ok", "running"} and jobs["cdr records"].runs >= 1
    assert jobs["cdr gone"].failures >= 1 and "there-is-none.csv" in jobs["cdr gone"].error
    assert jobs["merge"].interval_s == 60
    quality = jobs["quality"]
    assert timedelta(0) < quality.next_at - quality.began_at <= timedelta(seconds=quality.interval_s + 1)
    sources = {row.source: row for row in health.cdr_sources(store=store).itertuples()}
    rows = len(cdr_path(SESSIONS[0], "cdr_full.csv").read_text().splitlines()) - 1
    assert (sources["records"].state, sources["records"].imported) == ("ok", rows)
    assert sources["gone"].state == "failing" and "there-is-none.csv" in sources["gone"].error
    plugins = {row.name: (row.kind, row.state) for row in health.plugins(store=store).itertuples()}
    assert plugins["late_register"] == ("detector", "on")
    assert plugins["log"] == ("action", "on")
    assert plugins["fake_call"] == plugins["sipp"] == ("action", "dry run")
    assert plugins["exec"] == ("action", "lacks settings")


def test_metrics_of_the_sources(tap: RunningTap) -> None:
    """As Prometheus reads them: by the names of the sources, which are the configuration's."""
    listen = (tap.folder / "metrics").read_text()
    with urllib.request.urlopen(f"http://{listen}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    promtool = subprocess.run(
        ["promtool", "check", "metrics"], input=text, capture_output=True, text=True, check=False
    )
    assert "hepduck_cdr" not in promtool.stdout + promtool.stderr  # what it finds fault with
    samples = {
        (sample.name, sample.labels["source"]): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("hepduck_cdr")
    }
    rows = len(cdr_path(SESSIONS[0], "cdr_full.csv").read_text().splitlines()) - 1
    assert (samples["hepduck_cdr_rows_total", "records"], samples["hepduck_cdr_rows_total", "gone"]) == (
        rows,
        0,
    )
    assert samples["hepduck_cdr_polls_total", "records"] >= 1
    assert (
        samples["hepduck_cdr_errors_total", "gone"] >= 1
        and samples["hepduck_cdr_errors_total", "records"] == 0
    )
    assert (samples["hepduck_cdr_failing", "records"], samples["hepduck_cdr_failing", "gone"]) == (0, 1)
    assert 0 <= samples["hepduck_cdr_last_success_age_seconds", "records"] < 60
    assert ("hepduck_cdr_last_success_age_seconds", "gone") not in samples  # it never did
    assert samples["hepduck_cdr_refused_total", "records"] == 0


def test_the_size_of_the_store(store: Store, tap: RunningTap) -> None:
    tables = health.tables(store=store).set_index("table_name")
    assert tables["rows"][["sip", "weird"]].to_list() == [5, 3]
    (disk,) = health.disk(store=store).to_dict("records")
    assert tables["bytes"].sum() <= disk["bytes"]
    assert abs(disk["free_bytes"] - shutil.disk_usage(tap.store).free) < 10**9


def test_a_job_that_fails_says_so() -> None:
    jobs = Jobs()
    jobs.every(timedelta(hours=1), "fine", lambda: "3 rows")
    jobs.every(timedelta(hours=1), "told", lambda: None, failing=lambda: "no disk\nand more")
    before = {job["job"]: (job["runs"], job["began_us"]) for job in jobs.status()}
    assert before == {"fine": (0, None), "told": (0, None)}
    jobs.start()
    while not all(job["runs"] for job in jobs.status()):
        time.sleep(0.01)
    fine, told = jobs.status()
    assert (fine["failures"], fine["error"], fine["told"]) == (0, None, "3 rows")
    assert (told["failures"], told["error"]) == (1, "no disk")
    assert fine["next_us"] - fine["began_us"] == pytest.approx(3600e6, rel=0.01)
    jobs.stop()
    assert [job["next_us"] for job in jobs.status()] == [None, None]


# -- the page --------------------------------------------------------------------------------------------


def test_the_page_shows_the_sum(app: App) -> None:
    shown = {metric.label: metric.value for metric in app.test.metric}
    labels = ("Received", "= stored", "+ rejected", "+ shed", "+ kernel dropped", "+ queued")
    assert [shown[label] for label in labels] == ["11", "8", "3", "0", "0", "0"]
    assert "adds up" in said(app) and "running" in said(app)
    assert "11 received = 8 stored + 3 rejected + 0 shed + 0 kernel dropped + 0 queued" in said(app)
    assert list(table(app, "meaning")["reason"]) == ["bad_key"]
    assert set(table(app, "job")["job"]) >= JOBS
    assert list(table(app, "has_key")["count"]) == [3]
    assert set(table(app, "source")["state"]) == {"ok", "failing"}


def test_samples_are_harmless(app: App) -> None:
    (dump,) = [code.value for code in app.test.code if code.value.startswith("0000")]
    lines = dump.splitlines()
    assert lines[0] == "0000  47 45 54 20 2f 3c 73 63 72 69 70 74 3e 1b 5b 33  |GET /<script>.[3|"
    assert bytes.fromhex("".join(line[6:53] for line in lines)) == NO_SIP[:256]
    assert "\x1b" not in dump + said(app)
    assert app.test.selectbox(key="health_kind").value == "sip_start_line"


def test_bytes_for_people() -> None:
    assert hexdump(b"") == "(nothing)"
    assert hexdump(b"a\x00\xffb") == "0000  61 00 ff 62                                      |a..b|"


def test_the_bar_is_as_long_as_what_was_received(store: Store) -> None:
    drawn = health_charts.fates(health.counters(store=store)).to_dict()
    (values,) = drawn["datasets"].values()
    assert {value["fate"]: value["messages"] for value in values} == {"stored": 8, "rejected": 3}


# -- when it was stopped, and killed ---------------------------------------------------------------------


def test_a_tap_that_was_stopped(tap: RunningTap, app: App) -> None:
    assert tap.stop() == 0  # what is told every ten seconds only is told now
    app.run()
    assert "stopped" in said(app) and "It was stopped at" in said(app)
    assert "11 received = 8 stored + 3 rejected" in said(app)


def test_agents_and_their_clocks(store: Store) -> None:
    found = {row.agent: row for row in health.agents(store=store).itertuples()}
    right, late = found["127.0.0.1/2001"], found["127.0.0.1/2002"]
    assert abs(right.skew_ms) < 5000
    assert late.skew_ms - right.skew_ms == pytest.approx(42_000, abs=5000)
    assert right.trusted and 0 <= right.silent_s < 120


def test_what_came_in_by_the_minute(store: Store) -> None:
    intake = health.intake(since="10m", store=store)
    assert intake[["received", "rejected", "shed", "kernel_dropped"]].sum().to_list() == [11, 3, 0, 0]
    assert set(intake["step_s"]) == {60}


def test_a_tap_that_was_killed(tap: RunningTap, app: App) -> None:
    tap.start()
    tap.kill()
    app.run()
    assert "dead" in said(app) and "was it killed?" in said(app)
    assert "adds up" in said(app)


# -- other stores: they end what `app` began, so they come last ----------------------------------------------


def test_no_bytes_are_shown_where_numbers_are_masked(tap: RunningTap) -> None:
    with reading(tap.store, mask_numbers=True):
        app = App("health", health_kind="sip_start_line")
    assert "Samples are not shown" in said(app)
    assert not [code for code in app.test.code if code.value.startswith("0000")]


def test_a_store_that_no_tap_filled(tmp_path: Path) -> None:
    """As `hepduck import` leaves it, and empty besides."""
    Writer(tmp_path / "store", "tap", AT_ONCE).stop()
    with Store(tmp_path / "store") as empty:
        assert all(
            ask(store=empty).empty for ask in (health.counters, health.losses, health.jobs, health.plugins)
        )
        assert all(
            ask(store=empty).empty
            for ask in (health.weird, health.agents, health.cdr_sources, health.listeners)
        )
    with reading(tmp_path / "store"):
        app = App("health")
    for word in (
        "No tap has run with this store",
        "Nothing came in",
        "No agent was heard",
        "No CDRs are read",
    ):
        assert word in said(app)
