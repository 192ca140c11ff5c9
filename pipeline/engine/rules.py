"""Which finding starts which actions, and the one place that starts them.

    finding --> rule --> action: may it act? --no (disabled, dry run)--> plan --> row "dry_run"
                                     |
                                   brakes ------ one holds --------------------> row "held_<brake>"
                                     |
                                 ledger claim, on disk before anything leaves
                                     |
                                    act --------------------------------------> row with its outcome

Detection never waits: `submit` puts the finding into the runner's own thread and event loop and returns.
"""

from __future__ import annotations

import asyncio
import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import structlog

from pipeline.engine.actions import Action, ActionResult, Attempt
from pipeline.engine.attempts import Row, attempt_row, statuses
from pipeline.engine.brakes import Brakes, Held, Ledger
from pipeline.engine.commands import Finding
from pipeline.engine.rule_settings import ALL_OTHERS, RulesSettings, actions_by_kind, check_rules
from pipeline.errors import ActionError

_log = structlog.get_logger("hepduck.rules")

_START_LIMIT_S = 5.0


@dataclass(frozen=True, slots=True)
class Counts:
    """What the runner did so far."""

    submitted: int
    dropped: int  # the backlog was full
    pending: int
    outcomes: Mapping[tuple[str, str, bool], int]  # (action, outcome, dry_run) -> attempts


class RuleRunner:
    """Runs actions for findings, in its own thread.

    `record` is given a row of table `action_attempt` for every decision (times in microseconds since the
    epoch); it is called in the runner's thread and must not block. `clock` gives nanoseconds since the epoch.
    """

    def __init__(
        self,
        settings: RulesSettings,
        actions: Mapping[str, Action],
        ledger: Ledger,
        record: Callable[[Row], None],
        *,
        stop_file: Path | None = None,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        """Raises ConfigError when a rule names an action that is not there."""
        check_rules(settings, actions)
        self._settings = settings
        self._actions = actions
        self._ledger = ledger
        self._record = record
        self._clock = clock
        self._stop_file = stop_file
        self._brakes = Brakes(settings, ledger, stop_file)
        self._by_kind = actions_by_kind(settings, actions)
        self._started: dict[str, Action] = {}
        self._lock = threading.Lock()
        self._submitted = self._dropped = self._pending = 0
        self._outcomes: Counter[tuple[str, str, bool]] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        # One thread, so that counting and claiming are one step for all findings under way.
        self._ledger_thread = ThreadPoolExecutor(1, thread_name_prefix="ledger")

    def start(self) -> None:
        """Start the thread and the live actions; one that cannot start is logged and may act all the same."""
        ready = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(ready,), name="rules", daemon=True)
        self._thread.start()
        ready.wait()

    def reconfigure(self, settings: RulesSettings) -> None:
        """Take findings by these rules and brakes from now on; what is under way ends by those it began with.

        Raises ConfigError, and changes nothing, when a rule names an action that is not there.
        """
        check_rules(settings, self._actions)
        with self._lock:
            self._settings = settings
            self._brakes = Brakes(settings, self._ledger, self._stop_file)
            self._by_kind = actions_by_kind(settings, self._actions)
            if self._loop is not None:
                asyncio.run_coroutine_threadsafe(self._start_live(), self._loop)

    def submit(self, finding: Finding) -> bool:
        """Take a finding; never blocks. False when the backlog is full (counted) or the runner is stopped."""
        if not self._actions_for(finding):
            return True
        with self._lock:
            self._submitted += 1
            loop = self._loop
            if loop is None or self._pending >= self._settings.backlog:
                self._dropped += 1
                return False
            self._pending += 1
            loop.call_soon_threadsafe(self._begin, finding)
        return True

    def counts(self) -> Counts:
        with self._lock:
            return Counts(self._submitted, self._dropped, self._pending, dict(self._outcomes))

    def stop(self) -> None:
        """Take no more, wait for what is under way (at most `rules.drain`), cancel the rest."""
        with self._lock:
            loop, self._loop = self._loop, None
            if loop is not None:
                loop.call_soon_threadsafe(self._stopping.set)
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        self._ledger_thread.shutdown()

    # -- in the runner's thread --------------------------------------------------------------------------

    def _run(self, ready: threading.Event) -> None:
        try:
            asyncio.run(self._main(ready))
        finally:
            ready.set()

    async def _main(self, ready: threading.Event) -> None:
        self._stopping = asyncio.Event()
        await self._start_live()
        with self._lock:
            self._loop = asyncio.get_running_loop()
        ready.set()
        await self._stopping.wait()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=self._settings.drain.total_seconds())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for action in self._started.values():
            await self._stop_action(action)

    async def _start_live(self) -> None:
        """Start the live actions that rules name and that have not been started."""
        used = {action.name: action for pairs in self._by_kind.values() for _, action in pairs if action.live}
        fresh = {name: action for name, action in used.items() if name not in self._started}
        self._started |= fresh
        await asyncio.gather(*(self._start_action(action) for action in fresh.values()))

    async def _start_action(self, action: Action) -> None:
        try:
            async with asyncio.timeout(_START_LIMIT_S):
                await action.start()
        except Exception as error:  # noqa: BLE001 - the proxy may be down now and up when it matters
            _log.warning("action not ready", action=action.name, error=_words(error))

    async def _stop_action(self, action: Action) -> None:
        try:
            async with asyncio.timeout(self._settings.drain.total_seconds()):
                await action.stop()
        except Exception as error:  # noqa: BLE001 - the other actions must still be stopped
            _log.warning("action did not stop", action=action.name, error=_words(error))

    def _begin(self, finding: Finding) -> None:
        task = asyncio.ensure_future(self._all_actions(finding))
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        with self._lock:
            self._pending -= 1

    def _actions_for(self, finding: Finding) -> list[tuple[str, Action]]:
        by_kind = self._by_kind  # a reload may replace it
        return by_kind[finding.kind if finding.kind in by_kind else ALL_OTHERS]

    async def _all_actions(self, finding: Finding) -> None:
        pairs = self._actions_for(finding)
        await asyncio.gather(*(self._one_action(finding, rule, action) for rule, action in pairs))

    async def _one_action(self, finding: Finding, rule: str, action: Action) -> None:
        """One row, whatever happens."""
        started_us = self._now_us()
        attempt_id = f"{finding.finding_id or uuid.uuid4().hex}/{rule}/{action.name}"
        dry_run = not action.live
        claimed = False
        try:
            if dry_run:
                result = await self._dry_run(finding, action, started_us)
            else:
                if action.touches_world:
                    admitted = await self._admit(finding, action, started_us)
                    if isinstance(admitted, Held):
                        result = ActionResult(admitted.outcome, admitted.why)
                        return
                    attempt_id, claimed = admitted, True
                result = await self._act(finding, action, Attempt(attempt_id, rule, started_us))
        except Exception as error:  # noqa: BLE001 - a row, whatever happens
            result = ActionResult("failed", _words(error))
        except asyncio.CancelledError:
            result = ActionResult("interrupted", "hepduck was stopped while the action was under way")
        finally:
            attempt = Attempt(attempt_id, rule, started_us)
            self._recorded(
                attempt_row(finding, action, attempt, result, dry_run=dry_run, ended_us=self._now_us())
            )
            if claimed:
                self._finish(attempt_id, result)

    async def _dry_run(self, finding: Finding, action: Action, now_us: int) -> ActionResult:
        try:
            async with asyncio.timeout(action.settings.time_limit.total_seconds()):
                plan = await action.plan(finding)
        except Exception as error:  # noqa: BLE001 - a failing action must not stop the others
            return ActionResult("dry_run", f"live, this would fail: {_words(error)}")
        held = self._brakes.hold(action, finding, now_us)
        return ActionResult(
            "dry_run", f"live, this would be held ({held.brake}: {held.why}); {plan}" if held else plan
        )

    async def _admit(self, finding: Finding, action: Action, now_us: int) -> str | Held:
        held = self._brakes.hold(action, finding, now_us)
        if held is not None:
            return held
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._ledger_thread, self._brakes.claim, action, finding, now_us)

    async def _act(self, finding: Finding, action: Action, attempt: Attempt) -> ActionResult:
        halted = self._brakes.halted() if action.touches_world else None  # it may have come with the claim
        if halted is not None:
            return ActionResult(halted.outcome, halted.why)
        limit_s = action.settings.time_limit.total_seconds()
        try:
            async with asyncio.timeout(limit_s) as limit:
                return await action.act(finding, attempt)
        except ActionError as error:
            return ActionResult("failed", str(error))
        except Exception as error:  # noqa: BLE001 - a failing action must not stop the others
            if limit.expired():
                return ActionResult("time_limit", f"not done within {limit_s:g} s")
            _log.error("action failed", action=action.name, finding_id=finding.finding_id, exc_info=True)
            return ActionResult("failed", _words(error))

    def _recorded(self, row: Row) -> None:
        with self._lock:
            self._outcomes[row["action"], row["outcome"], row["dry_run"]] += 1
        try:
            self._record(row)
        except Exception as error:  # noqa: BLE001 - what was done is done, recorded or not
            _log.error("attempt not recorded", attempt_id=row["attempt_id"], error=_words(error))

    def _finish(self, attempt_id: str, result: ActionResult) -> None:
        def finish() -> None:
            try:
                self._ledger.finish(
                    attempt_id, result.outcome, result.detail, statuses(result), self._now_us()
                )
            except Exception as error:  # noqa: BLE001 - the claim stands, which is what matters
                _log.warning("ledger not written", attempt_id=attempt_id, error=_words(error))

        self._ledger_thread.submit(finish)

    def _now_us(self) -> int:
        return self._clock() // 1000


def _words(error: Exception) -> str:
    return str(error) if isinstance(error, ActionError) else f"{type(error).__name__}: {error}"
