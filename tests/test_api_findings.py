"""Findings, attempts and delays as DataFrames, against what the messages of labelled recordings say themselves."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from ghost_store import SCENES, fill, label, told
from store_rows import QUIET
from upkeep_store import empty_store

from pipeline.api import delays, findings
from pipeline.api.opened import Store
from pipeline.errors import StoreError
from pipeline.settings import Settings, load
from pipeline.store.writer import Writer

FOUND = ("b", "c", "p")
AT_US = 1_700_000_000_000_000
ATTEMPTS = (
    {
        "scene": "b", "action": "fake_call", "dry_run": False, "outcome": "cancelled",
        "detail": "the phone rang and was told", "register_to_invite_ms": 52.5,
        "sip_statuses": [{"status": 180, "at_us": AT_US}, {"status": 487, "at_us": AT_US + 250_000}],
    },
    {"scene": "b", "action": "log", "dry_run": False, "outcome": "logged"},
    {"scene": "c", "action": "fake_call", "dry_run": False, "outcome": "held_per_aor", "detail": "4 acts for x"},
    {
        "scene": "p", "action": "fake_call", "dry_run": True, "outcome": "dry_run",
        "detail": "live, this would be held (stale: the finding is 99 s old); to sip:127.0.0.1:5060:\nINVITE ...",
    },
    {"scene": "p", "action": "webhook", "dry_run": True, "outcome": "dry_run", "detail": "to http://x:\nPOST"},
)  # fmt: skip


@pytest.fixture(scope="module", name="store")
def ghost_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("ghosts") / "store"
    fill(path, SCENES, ATTEMPTS)
    with Store(path) as store:
        yield store


@pytest.fixture(scope="module", name="settings")
def default_settings() -> Settings:
    return load(no_file=True)[0]


def expected() -> dict[tuple[str, str], tuple[str, str]]:
    """(call, target) -> account and outcome, of all labels."""
    return {
        (owed["call_id"], owed["contact"]): (owed["aor"], owed["reason"])
        for scene in FOUND
        for owed in label(scene)["expected"]
    }


# -- findings ------------------------------------------------------------------------------------------------


def test_findings_are_those_of_the_labels(store: Store) -> None:
    table = findings.findings(kind=findings.GHOSTS, store=store)
    told_of = {(row.call_id, row.target): (row.aor, row.outcome) for row in table.itertuples()}
    assert told_of == expected()
    assert table["ts"].is_monotonic_decreasing
    assert set(table["caller"]) == {"alice"}
    assert findings.finding_kinds(store=store) == [findings.GHOSTS]


def test_how_late_they_were(store: Store) -> None:
    """As the messages themselves have it."""
    table = findings.findings(store=store).set_index("call_id")
    for scene in ("b", "c"):
        (owed,) = label(scene)["expected"]
        row, truth = table.loc[owed["call_id"]], told(scene)
        assert row["late_ms"] == pytest.approx(truth.late_ms[owed["register_call_id"]], abs=2)
        for column, at in (
            ("invite_ts", truth.invite),
            ("outcome_ts", truth.ended),
            ("register_ts", truth.registered[owed["register_call_id"]]),
        ):
            assert abs((row[column] - at).total_seconds()) < 0.002


def test_what_was_done_and_what_the_phone_answered(store: Store) -> None:
    table = findings.findings(store=store)
    by_scene = {owed["call_id"]: scene for scene in FOUND for owed in label(scene)["expected"]}
    done: dict[str, list[object]] = {}
    for row in table.itertuples():
        done.setdefault(by_scene[row.call_id], []).append((row.done, row.answered))
    assert done["b"] == [
        ("fake_call: cancelled, the phone rang and was told (180, 487)\nlog: logged", "180, 487")
    ]
    held = findings.BRAKES["per_aor"]
    assert [each[0] for each in done["c"]] == [f"fake_call: held, {held}"]  # type: ignore[index]
    dry = (
        f"fake_call: dry run, nothing was sent; live, it would be held: {findings.BRAKES['stale']}\n"
        "webhook: dry run, nothing was sent"
    )
    assert dry in [each[0] for each in done["p"]]  # type: ignore[index]


def test_every_brake_has_its_words() -> None:
    """As `pipeline.engine.brakes` names them at its head."""
    from pipeline.engine import brakes  # noqa: PLC0415  for its words alone

    named = {line.split()[0] for line in (brakes.__doc__ or "").splitlines()[2:] if line[:1].strip()}
    assert set(findings.BRAKES) == named


def test_totals_and_rate(store: Store) -> None:
    totals = findings.finding_totals(store=store)
    outcomes = [outcome for _, outcome in expected().values()]
    assert totals["findings"].tolist()[0] == len(outcomes)
    assert dict(zip(totals["outcome"].iloc[1:], totals["findings"].iloc[1:], strict=True)) == {
        outcome: outcomes.count(outcome) for outcome in set(outcomes)
    }
    rate = findings.findings_over_time(store=store)
    assert rate["findings"].sum() == len(outcomes)
    assert findings.finding_totals(since="2051-01-01", store=store).empty


# -- actions -------------------------------------------------------------------------------------------------


def test_attempts(store: Store) -> None:
    table = findings.actions(store=store)
    assert len(table) == len(ATTEMPTS)
    row = table[table["outcome"] == "cancelled"].iloc[0]
    assert list(row["statuses"]) == [180, 487]
    first, second = row["statuses_at"]
    assert second - first == pd.Timedelta(milliseconds=250)
    assert row["register_to_invite_ms"] == 52.5
    assert table["started_at"].is_monotonic_decreasing


def test_counts_by_action(store: Store) -> None:
    table = findings.action_counts(store=store)
    counted = {(row.action, row.dry_run, row.outcome): row.attempts for row in table.itertuples()}
    assert counted == {(each["action"], each["dry_run"], each["outcome"]): 1 for each in ATTEMPTS}
    held = table[table["outcome"] == "held_per_aor"].iloc[0]
    assert held["brake"] == findings.BRAKES["per_aor"]


def test_what_may_act_as_the_configuration_has_it(store: Store, settings: Settings) -> None:
    """No tap has run with this store: the configuration tells, and dry run is the default."""
    table = findings.action_states(store=store, settings=settings).set_index("action")
    assert set(table["from"]) == {"this configuration"}
    assert table.loc["fake_call", "state"] == table.loc["sipp", "state"] == "dry run"
    assert table.loc["log", "state"] == "on"
    assert "No rule starts it." in table.loc["sipp", "words"]
    assert "No rule starts it." not in table.loc["fake_call", "words"]


def test_what_may_act_as_the_tap_says(store: Store, tmp_path: Path, settings: Settings) -> None:
    """The tap's word counts; the kill switch beside its store halts what is armed."""
    shutil.copytree(store.path, tmp_path / "store")
    plugins = [
        {"kind": "action", "name": "fake_call", "state": "ARMED"},
        {"kind": "action", "name": "log", "state": "on"},
        {"kind": "detector", "name": "late_register", "state": "on"},
    ]
    (tmp_path / "store" / "status.json").write_text(json.dumps({"state": "stopped", "plugins": plugins}))
    with Store(tmp_path / "store") as copy:
        table = findings.action_states(store=copy, settings=settings)
        assert dict(zip(table["action"], table["state"], strict=True)) == {"fake_call": "ARMED", "log": "on"}
        assert set(table["from"]) == {"stopped tap"}
        (copy.path / "STOP").touch()
        table = findings.action_states(store=copy, settings=settings)
        assert dict(zip(table["action"], table["state"], strict=True)) == {"fake_call": "halted", "log": "on"}


# -- delays and windows --------------------------------------------------------------------------------------


def test_delays_from_invite_to_register(store: Store, settings: Settings) -> None:
    """b, c, and both phones of p too late; d in time; g came after the end, and no finding."""
    table = delays.register_delays(settings=settings, store=store)
    steps = {"late": [], "in time": [], "after the end": []}  # type: ignore[var-annotated]
    for row in table[table["phones"] > 0].itertuples():
        steps[row.what] += [(row.low_s, row.high_s)] * row.phones
    late = sorted(
        (told(scene).registered[owed["register_call_id"]] - told(scene).invite).total_seconds()
        for scene in FOUND
        for owed in label(scene)["expected"]
    )
    assert len(steps["late"]) == len(late)
    for (low_s, high_s), delay_s in zip(sorted(steps["late"]), late, strict=True):
        assert low_s - 0.002 <= delay_s <= high_s + 0.002
    assert len(steps["in time"]) == 1
    ((low_s, high_s),) = steps["after the end"]
    truth = told("g")
    (registered,) = [at for at in truth.registered.values() if at > truth.ended]
    assert low_s <= (registered - truth.invite).total_seconds() <= high_s


def test_other_windows(store: Store, settings: Settings) -> None:
    """The stored messages through the detector: 17 s late is found with a window of 20 s, and not with 15."""
    late_s = sorted(
        told(scene).late_ms[owed["register_call_id"]] / 1000
        for scene in FOUND
        for owed in label(scene)["expected"]
    )
    windows = (1.0, 2.0, 15.0, 16.0, 20.0, 60.0)
    table = delays.other_windows(windows, settings=settings, store=store)
    found = dict(zip(table["window_s"], table["found"], strict=True))
    late_s.append(next(late for late in told("g").late_ms.values() if late > 0) / 1000)
    assert 16 < late_s[-1] < 20
    assert found == {window: sum(late <= window for late in late_s) for window in windows}
    assert (table["canceled"] + table["answered"] + table["other"] == table["found"]).all()
    assert dict(zip(table["window_s"], table["answered"], strict=True))[15.0] == 1


def test_the_window_in_force_finds_what_was_found(store: Store, settings: Settings) -> None:
    rule = delays.ghost_rule(settings)
    assert rule is not None
    assert rule.window_s == 15
    again = delays.replay_stored(rule.window_s, settings=settings, store=store)
    stored = findings.findings(store=store)
    assert sorted(zip(again["call_id"], again["device"], strict=True)) == sorted(
        zip(stored["call_id"], stored["device"], strict=True)
    )


def test_too_much_to_replay_is_refused(store: Store, settings: Settings) -> None:
    with pytest.raises(StoreError, match="more than 10 messages to replay"):
        delays.other_windows(settings=settings, most=10, store=store)


def test_a_detector_that_is_off_has_no_window() -> None:
    off = load(no_file=True, overrides={"detectors.late_register.enabled": False})[0]
    assert delays.ghost_rule(off) is None


def test_without_push_devices_there_are_the_findings_alone(store: Store) -> None:
    nobody = {"detectors.late_register.devices.user_agent": "no such phone"}
    blind = load(no_file=True, overrides=nobody)[0]
    table = delays.register_delays(settings=blind, store=store)
    assert set(table.loc[table["phones"] > 0, "what"]) == {"late"}
    assert table["phones"].sum() == len(expected())
    assert (
        delays.replay_stored(60, settings=blind, store=store)["call_id"]
        .isin({c for c, _ in expected()})
        .all()
    )


def test_devices_are_told_by_push_parameters_too(tmp_path: Path, settings: Settings) -> None:
    """RFC 8599, and what Linphone sent before it; the User-Agent is nobody's."""
    rang = datetime(2026, 3, 1, 12, tzinfo=UTC)
    calls, phones = [], []
    after_s = {"pn-provider=apns": 3.5, "pn-type=apple": 5.5, "pn-provider=fcm": 7.5}
    for user, (push, seconds) in enumerate(after_s.items()):
        call = {
            "call_id": f"c{user}",
            "first_ts": rang,
            "last_ts": rang + timedelta(seconds=9),
            "invite_ts": rang,
        }
        calls.append(call | {"to_user": f"u{user}", "to_host": "SIP.test", "messages": 1})
        contact = f"<sip:u{user}@10.0.0.1:5060;transport=tls;PN-PRID=x;{push.upper()}>"
        phone = {
            "aor": f"sip:u{user}@sip.test",
            "device": "d",
            "event": "refreshed",
            "user_agent": "SomeApp 1.0",
        }
        phones.append(phone | {"contact": contact, "ts": rang + timedelta(seconds=seconds)})
    empty_store(tmp_path / "store")
    with Writer(tmp_path / "store", "n1", QUIET) as writer:
        writer.append("call", calls)
        writer.append("registration", phones)
        writer.flush()
    with Store(tmp_path / "store") as store:
        table = delays.register_delays(settings=settings, store=store)
    counted = table.loc[table["phones"] > 0, ["what", "low_s", "high_s", "phones"]]
    assert counted.to_numpy().tolist() == [["in time", 3, 4, 1], ["in time", 5, 6, 1]]
