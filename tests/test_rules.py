"""From finding to action: who may act, what holds it, what is recorded. With the real ledger."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from late_findings import late_finding

from pipeline.engine.actions import Action, ActionResult, ActionSettings, Attempt
from pipeline.engine.commands import Finding
from pipeline.engine.rule_settings import Rule, RulesSettings, check_rules
from pipeline.engine.rules import RuleRunner
from pipeline.errors import ActionError, ConfigError, StoreError
from pipeline.store.ledger import Ledger

LIVE = {"enabled": True, "dry_run": False}
COLUMNS = {
    "attempt_id",
    "finding_id",
    "action",
    "rule",
    "call_id",
    "device",
    "target",
    "dry_run",
    "started_at",
}
COLUMNS |= {"ended_at", "outcome", "detail", "sip_statuses", "register_to_invite_ms"}


class Spy(Action):
    """Notes what it is asked to do; `does` stands for the doing."""

    name = "spy"
    needs_target = True

    def __init__(self, does: Callable[[Finding], Any] | None = None, **settings: Any) -> None:
        super().__init__(ActionSettings(**{**LIVE, **settings}))
        self.does = does
        self.acted: list[str | None] = []
        self.planned = 0
        self.life: list[str] = []

    async def start(self) -> None:
        self.life.append("start")

    async def stop(self) -> None:
        self.life.append("stop")

    async def plan(self, finding: Finding) -> str:
        self.planned += 1
        return f"would call {finding.call_id}"

    async def act(self, finding: Finding, attempt: Attempt) -> ActionResult:
        self.acted.append(finding.call_id)
        if self.does is not None:
            result = self.does(finding)
            if asyncio.iscoroutine(result):
                result = await result
            if result is not None:
                return result
        return ActionResult("done", "as asked", ((180, 7), (487, 9)), invite_sent_us=None)


class Other(Spy):
    name = "other"
    needs_target = False


class Kin(Spy):
    name = "kin"
    family = "spy"


class Teller(Spy):
    name = "teller"
    touches_world = False


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger(tmp_path / "ledger.sqlite") as opened:
        yield opened


class Rules:
    """A running RuleRunner and what it recorded."""

    def __init__(self, ledger: Any, *actions: Spy, stop_file: Path | None = None, **settings: Any) -> None:
        rule = Rule(finding="late_register", actions=[action.name for action in actions])
        self.rows: list[dict[str, Any]] = []
        self.runner = RuleRunner(
            RulesSettings(**{"rule": [rule], **settings}),
            {action.name: action for action in actions},
            ledger,
            self.rows.append,
            stop_file=stop_file,
        )

    def __enter__(self) -> Rules:
        self.runner.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.runner.stop()

    def run(self, *findings: Finding) -> list[dict[str, Any]]:
        """Submit, one after the other is done, and stop: the rows."""
        with self:
            for finding in findings:
                self.runner.submit(finding)
                self.settle()
        return self.rows

    def settle(self) -> None:
        end = time.monotonic() + 10
        while self.runner.counts().pending:
            assert time.monotonic() < end
            time.sleep(0.001)


def outcomes(rows: list[dict[str, Any]]) -> list[str]:
    return [row["outcome"] for row in rows]


# -- what is recorded ----------------------------------------------------------------------------------


def test_an_act_is_recorded_with_all_columns_and_in_the_ledger(ledger: Ledger) -> None:
    finding = late_finding()
    sent_us = finding.evidence["register_us"] + 1500
    spy = Spy(lambda _: ActionResult("cancelled", "told", ((100, 5), (487, 9)), invite_sent_us=sent_us))
    before_us = time.time_ns() // 1000
    (row,) = Rules(ledger, spy).run(finding)

    assert set(row) == COLUMNS
    assert before_us <= row["started_at"] <= row["ended_at"] <= time.time_ns() // 1000
    times = ("started_at", "ended_at", "attempt_id")
    assert {key: value for key, value in row.items() if key not in times} == {
        "finding_id": "finding-1",
        "action": "spy",
        "rule": "late_register",
        "call_id": "4f1d-lost@alice.example",
        "device": "urn:uuid:0001",
        "target": "127.0.0.21:22142;transport=udp",
        "dry_run": False,
        "outcome": "cancelled",
        "detail": "told",
        "sip_statuses": [{"status": 100, "at_us": 5}, {"status": 487, "at_us": 9}],
        "register_to_invite_ms": 1.5,
    }
    (attempt,) = ledger.attempts(0)
    assert attempt.attempt_id == row["attempt_id"]
    assert (attempt.outcome, attempt.detail, attempt.dry_run) == ("cancelled", "told", False)
    assert attempt.statuses == row["sip_statuses"]
    assert not ledger.unfinished()


@pytest.mark.parametrize(
    "settings",
    [{}, {"enabled": True}, {"dry_run": False}, {"enabled": True, "dry_run": True}, {"enabled": False}],
)
def test_only_two_yeses_let_an_action_act(ledger: Ledger, settings: dict[str, bool]) -> None:
    spy = Spy()
    spy.settings = ActionSettings(**settings)
    (row,) = Rules(ledger, spy).run(late_finding())
    assert (row["outcome"], row["dry_run"], row["detail"]) == (
        "dry_run",
        True,
        "would call 4f1d-lost@alice.example",
    )
    assert not spy.acted
    assert spy.life == []  # a dry run opens nothing
    assert ledger.attempts(0) == []


def test_a_dry_run_says_what_would_hold_it_live(ledger: Ledger, tmp_path: Path) -> None:
    spy = Spy(dry_run=True)
    rows = Rules(ledger, spy).run(late_finding(trusted=False), late_finding(ts_us=1))
    assert outcomes(rows) == ["dry_run", "dry_run"]
    assert "untrusted" in rows[0]["detail"]
    assert "stale" in rows[1]["detail"]
    assert all("would call" in row["detail"] for row in rows)


def test_live_actions_are_started_before_and_stopped_after(ledger: Ledger) -> None:
    spy = Spy()
    spy.does = lambda _: spy.life.append("act")
    Rules(ledger, spy).run(late_finding())
    assert spy.life == ["start", "act", "stop"]


def test_rules_choose_actions_by_the_findings_kind(ledger: Ledger) -> None:
    spy, other = Spy(), Other()
    rules = Rules(
        ledger,
        spy,
        other,
        rule=[
            Rule(finding="late_register", actions=["spy"]),
            Rule(finding="one_way", actions=["other"], name="tell the desk"),
        ],
    )
    rows = rules.run(late_finding(), late_finding(kind="one_way"), late_finding(kind="unknown"))
    assert [(row["action"], row["rule"]) for row in rows] == [
        ("spy", "late_register"),
        ("other", "tell the desk"),
    ]


def test_the_default_rule_logs_and_rehearses_the_fake_call() -> None:
    rules = [(rule.finding, rule.actions) for rule in RulesSettings().rule]
    assert rules == [("late_register", ["log", "fake_call"]), ("*", ["log"])]


def test_a_star_stands_for_what_no_rule_names(ledger: Ledger) -> None:
    spy, other = Spy(), Other()
    chosen = [
        Rule(finding="late_register", actions=["spy"]),
        Rule(finding="muted", actions=[]),
        Rule(finding="*", actions=["other"]),
    ]
    kinds = ["late_register", "toll_fraud", "muted"]
    rows = Rules(ledger, spy, other, rule=chosen).run(*(late_finding(kind=kind) for kind in kinds))
    assert sorted(row["action"] for row in rows) == ["other", "spy"]


def test_a_rule_that_names_no_action_is_refused() -> None:
    with pytest.raises(ConfigError, match="no action page, or it lacks settings; known: spy"):
        check_rules(RulesSettings(rule=[Rule(finding="x", actions=["page"])]), {"spy": Spy()})


# -- the brakes, one by one ----------------------------------------------------------------------------


def test_one_act_for_a_call_and_device(ledger: Ledger) -> None:
    spy = Spy()
    rows = Rules(ledger, spy).run(
        late_finding(),
        late_finding(finding_id="finding-2"),
        late_finding(device="urn:uuid:0002"),  # another phone of the same call
        late_finding(call_id="second-call"),  # another call for the same phone
    )
    assert outcomes(rows) == ["done", "held_claimed", "done", "done"]
    assert len(spy.acted) == 3


def test_one_act_even_for_findings_at_the_same_moment(ledger: Ledger) -> None:
    spy = Spy()
    with Rules(ledger, spy, per_aor_max=1000, max_per_minute=1000) as rules:
        for _ in range(50):
            rules.runner.submit(late_finding())
        rules.settle()
    assert sorted(outcomes(rules.rows)) == ["done"] + ["held_claimed"] * 49


def test_actions_of_one_family_act_once_between_them(ledger: Ledger) -> None:
    rows = Rules(ledger, Spy(), Kin(), Other()).run(late_finding())
    acted = {row["action"]: row["outcome"] for row in rows}
    assert sorted([acted["spy"], acted["kin"]]) == ["done", "held_claimed"]
    assert acted["other"] == "done"


def test_a_claim_outlives_the_process(ledger: Ledger, tmp_path: Path) -> None:
    assert outcomes(Rules(ledger, Spy()).run(late_finding())) == ["done"]
    with Ledger(tmp_path / "ledger.sqlite") as again:
        assert outcomes(Rules(again, Spy()).run(late_finding())) == ["held_claimed"]


CRASHING = """
import os, sys
sys.path[:0] = [{tests!r}, {root!r}]
from test_rules import Ledger, Rules, Spy, late_finding
spy = Spy(lambda _: os.kill(os.getpid(), 9))
Rules(Ledger({path!r}), spy).run(late_finding())
"""


def test_a_crash_between_claim_and_act_leads_to_no_second_act(tmp_path: Path) -> None:
    path, here = tmp_path / "ledger.sqlite", Path(__file__).parent
    script = CRASHING.format(tests=str(here), root=str(here.parent), path=str(path))
    crashed = subprocess.run([sys.executable, "-c", script], check=False, timeout=60)
    assert crashed.returncode == -signal.SIGKILL
    with Ledger(path) as ledger:
        (lost,) = ledger.unfinished()
        assert lost.call_id == "4f1d-lost@alice.example"
        spy = Spy()
        assert outcomes(Rules(ledger, spy).run(late_finding())) == ["held_claimed"]
        assert not spy.acted


def test_so_many_acts_for_one_address_of_record(ledger: Ledger) -> None:
    findings = [late_finding(call_id=f"call-{n}") for n in range(6)]
    rows = Rules(ledger, Spy()).run(*findings, late_finding(call_id="x", aor="sip:carol@sip.test"))
    assert outcomes(rows) == ["done"] * 4 + ["held_per_aor"] * 2 + ["done"]
    later = Rules(ledger, Spy(), per_aor_window="1ms").run(late_finding(call_id="call-9"))
    assert outcomes(later) == ["done"]


def test_the_limit_per_address_counts_phones_only(ledger: Ledger) -> None:
    """A webhook beside the call must not use up the phone's share."""
    findings = [late_finding(call_id=f"call-{n}") for n in range(4)]
    assert outcomes(Rules(ledger, Spy(), Other()).run(*findings)) == ["done"] * 8


def test_so_many_acts_in_a_minute(ledger: Ledger) -> None:
    findings = [late_finding(call_id=f"call-{n}", aor=f"sip:u{n}@sip.test") for n in range(5)]
    rows = Rules(ledger, Spy(), max_per_minute=3).run(*findings)
    assert outcomes(rows) == ["done"] * 3 + ["held_per_minute"] * 2


def test_the_stop_file_holds_while_it_is_there(ledger: Ledger, tmp_path: Path) -> None:
    stop_file = tmp_path / "STOP"
    spy = Spy()
    with Rules(ledger, spy, stop_file=stop_file) as rules:
        for n, there in enumerate((False, True, False)):
            stop_file.touch() if there else stop_file.unlink(missing_ok=True)
            rules.runner.submit(late_finding(call_id=f"call-{n}"))
            rules.settle()
    assert outcomes(rules.rows) == ["done", "held_kill_switch", "done"]
    assert spy.acted == ["call-0", "call-2"]


def test_the_stop_file_holds_even_after_the_claim(ledger: Ledger, tmp_path: Path) -> None:
    stop_file = tmp_path / "STOP"

    class Slow:
        def __getattr__(self, name: str) -> Any:
            if name == "claim":
                stop_file.touch()
            return getattr(ledger, name)

    spy = Spy()
    assert outcomes(Rules(Slow(), spy, stop_file=stop_file).run(late_finding())) == ["held_kill_switch"]
    assert not spy.acted


def test_halt_holds(ledger: Ledger) -> None:
    assert outcomes(Rules(ledger, Spy(), halt=True).run(late_finding())) == ["held_kill_switch"]


@pytest.mark.parametrize(
    ("change", "outcome"),
    [
        ({"trusted": False}, "held_untrusted"),
        ({"target": None}, "held_target"),
        ({"target": "host.test:5060;transport=udp"}, "held_target"),
        ({"target": "127.0.0.1:5060;transport=udp\r\nX: y"}, "held_target"),
        ({"ts_us": time.time_ns() // 1000 - 61_000_000}, "held_stale"),
    ],
)
def test_findings_that_must_not_act(ledger: Ledger, change: dict[str, Any], outcome: str) -> None:
    spy, teller = Spy(), Teller()
    rows = Rules(ledger, spy, teller).run(late_finding(**change))
    assert {row["action"]: row["outcome"] for row in rows} == {"spy": outcome, "teller": "done"}
    assert not spy.acted
    assert ledger.attempts(0) == []


def test_an_action_that_reaches_no_phone_needs_no_target(ledger: Ledger) -> None:
    assert outcomes(Rules(ledger, Other()).run(late_finding(target=None))) == ["done"]


def test_findings_without_call_or_device_are_claimed_by_their_identifier(ledger: Ledger) -> None:
    rows = Rules(ledger, Other()).run(
        late_finding(call_id=None, device=None, identifier="a"),
        late_finding(call_id=None, device=None, identifier="a"),
        late_finding(call_id=None, device=None, identifier="b"),
    )
    assert outcomes(rows) == ["done", "held_claimed", "done"]


def test_without_a_ledger_nothing_acts(tmp_path: Path) -> None:
    closed = Ledger(tmp_path / "ledger.sqlite")
    closed.close()
    spy = Spy()
    (row,) = Rules(closed, spy).run(late_finding())
    assert row["outcome"] == "held_ledger"
    assert not spy.acted


def test_a_ledger_that_cannot_note_the_end_does_not_matter(ledger: Ledger) -> None:
    class Forgetful:
        def __getattr__(self, name: str) -> Any:
            if name == "finish":
                raise StoreError("disk full")
            return getattr(ledger, name)

    assert outcomes(Rules(Forgetful(), Spy()).run(late_finding())) == ["done"]


# -- when actions misbehave ----------------------------------------------------------------------------


def test_a_failing_action_stops_neither_the_others_nor_the_next(ledger: Ledger) -> None:
    def fail(_: Finding) -> None:
        raise RuntimeError("bug")

    def refuse(_: Finding) -> None:
        raise ActionError("no such phone")

    rows = Rules(ledger, Spy(fail), Other(refuse), Teller()).run(late_finding(), late_finding(call_id="2"))
    found = {(row["call_id"], row["action"]): (row["outcome"], row["detail"]) for row in rows}
    for call_id in ("4f1d-lost@alice.example", "2"):
        assert found[call_id, "spy"] == ("failed", "RuntimeError: bug")
        assert found[call_id, "other"] == ("failed", "no such phone")
        assert found[call_id, "teller"] == ("done", "as asked")


def test_an_action_is_ended_at_its_time_limit(ledger: Ledger) -> None:
    (row,) = Rules(ledger, Spy(lambda _: asyncio.sleep(60), time_limit="50ms")).run(late_finding())
    assert row["outcome"] == "time_limit"
    assert ledger.attempts(0)[0].outcome == "time_limit"


def test_an_action_that_cannot_start_is_asked_all_the_same(ledger: Ledger) -> None:
    class Lame(Spy):
        async def start(self) -> None:
            raise ActionError("proxy is down")

        stop = start

    assert outcomes(Rules(ledger, Lame()).run(late_finding())) == ["done"]


def test_a_recorder_that_fails_stops_nothing(ledger: Ledger) -> None:
    spy = Spy()
    rules = Rules(ledger, spy)
    rules.runner._record = lambda row: {}["no"]
    rules.run(late_finding(), late_finding(call_id="2"))
    assert len(spy.acted) == 2
    assert rules.runner.counts().outcomes == {("spy", "done", False): 2}


def test_a_full_backlog_drops_and_counts_and_never_blocks(ledger: Ledger) -> None:
    free = threading.Event()
    spy = Spy(lambda _: _wait_for(free))
    with Rules(ledger, spy, backlog=3) as rules:
        taken = [rules.runner.submit(late_finding(call_id=f"call-{n}")) for n in range(10)]
        assert rules.runner.counts().pending == 3
        free.set()
        rules.settle()
    assert taken == [True] * 3 + [False] * 7
    counts = rules.runner.counts()
    assert (counts.submitted, counts.dropped, counts.pending) == (10, 7, 0)
    assert len(rules.rows) == 3


async def _wait_for(free: threading.Event) -> None:
    while not free.is_set():
        await asyncio.sleep(0.001)


def test_stop_waits_for_what_is_under_way_and_cancels_the_rest(ledger: Ledger) -> None:
    rules = Rules(
        ledger, Spy(lambda _: asyncio.sleep(0.1)), Other(lambda _: asyncio.sleep(60)), drain="500ms"
    )
    with rules:
        rules.runner.submit(late_finding())
    assert {row["action"]: row["outcome"] for row in rules.rows} == {"spy": "done", "other": "interrupted"}
    assert rules.runner.submit(late_finding()) is False
    assert not ledger.unfinished()


def test_one_slow_action_holds_up_no_other_finding(ledger: Ledger) -> None:
    free = threading.Event()
    spy = Spy(lambda finding: _wait_for(free) if finding.call_id == "slow" else None)
    with Rules(ledger, spy) as rules:
        rules.runner.submit(late_finding(call_id="slow"))
        rules.runner.submit(late_finding(call_id="quick"))
        end = time.monotonic() + 10
        while not rules.rows:
            assert time.monotonic() < end
            time.sleep(0.001)
        assert [row["call_id"] for row in rules.rows] == ["quick"]
        free.set()


def test_the_clock_is_the_callers(ledger: Ledger) -> None:
    rows: list[dict[str, Any]] = []
    settings = RulesSettings(rule=[Rule(finding="late_register", actions=["spy"])])
    runner = RuleRunner(settings, {"spy": Spy()}, ledger, rows.append, clock=lambda: 5_000_000_000)
    runner.start()
    runner.submit(dataclasses.replace(late_finding(), ts_us=4_000_000))
    runner.stop()
    assert (rows[0]["started_at"], rows[0]["ended_at"]) == (5_000_000, 5_000_000)
    assert ledger.attempts(0)[0].claimed_at_us == 5_000_000


def test_no_thread_is_left(ledger: Ledger) -> None:
    before = set(threading.enumerate())
    Rules(ledger, Spy()).run(late_finding())
    assert set(threading.enumerate()) == before
