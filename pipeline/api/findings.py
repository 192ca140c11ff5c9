"""Ghost calls and other findings: what was found, what was done about it and what the phone answered, what may act."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final
from zoneinfo import ZoneInfo

from pipeline.api.opened import Moment, Store, current, moment
from pipeline.durations import step_of
from pipeline.errors import StoreError
from pipeline.evidence import in_words
from pipeline.store import finding_queries

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.settings import Settings
    from pipeline.store.queries import Row

GHOSTS: Final = finding_queries.LATE

BRAKES: Final = {
    "kill_switch": "the kill switch: rules.halt, or the file STOP in the store's folder",
    "untrusted": "a capture agent behind it did not pass the agent check",
    "target": "no contact of an accepted REGISTER is known",
    "stale": "the finding was too old to act on (rules.max_age)",
    "per_aor": "too many acts for one account (rules.per_aor_max)",
    "per_minute": "too many acts in a minute (rules.max_per_minute)",
    "claimed": "it was acted on for this call and phone before",
    "ledger": "the ledger could not be written: nothing acts without it",
}
"""What each brake of `pipeline.engine.brakes` says of an attempt that it held."""

_HELD: Final = "held_"
_WOULD_HOLD: Final = re.compile(r"live, this would be held \((\w+):")


def findings(
    *,
    since: Moment = None,
    until: Moment = None,
    kind: str | None = None,
    other_than: str | None = None,
    call_id: str | None = None,
    limit: int = 100,
    offset: int = 0,
    store: Store | None = None,
) -> pd.DataFrame:
    """Findings of [since, until), newest first: of one `kind`, of every kind `other_than` one, or all.

    | column | |
    |---|---|
    | `ts`, `kind`, `severity`, `node`, `finding_id` | when it was decided (UTC), and by whom |
    | `call_id`, `aor`, `caller`, `from_display` | the lost call; the account of the phone |
    | `device`, `target`, `user_agent` | the phone: +sip.instance or address; where it registered from |
    | `outcome`, `late_ms` | how the call had ended; from then to the phone's REGISTER |
    | `invite_ts`, `outcome_ts`, `register_ts` | the three times |
    | `trusted` | False: a capture agent did not pass the agent check, so nothing acts |
    | `identifier`, `facts` | whom or what it is about, where that is no lost call; what the detector knows, in words |
    | `done` | what each action made of it, one a line |
    | `answered` | status codes with which the phone answered the compensating call, in order: "180, 487" |
    """
    asked = current(store)
    question = finding_queries.findings(
        since=moment(since),
        until=moment(until),
        kind=kind,
        other_than=other_than,
        call_id=call_id,
        limit=limit,
        offset=offset,
    )
    frame = asked.frame(*question)
    frame["facts"] = [in_words(json.loads(each) if each else None) for each in frame.pop("evidence")]
    attempts = [list(each) if each is not None else [] for each in frame.pop("attempts")]
    frame["done"] = ["\n".join(map(attempt_words, each)) or None for each in attempts]
    frame["answered"] = [_answers(each) for each in attempts]
    return frame.astype({"done": "str", "answered": "str", "facts": "str"})


def finding_totals(
    *,
    since: Moment = None,
    until: Moment = None,
    kind: str | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """By `outcome` of the lost call: `findings`, different `phones` and `calls`, `late_ms_p50`, `late_ms_p95`, `last`
    (when the newest was found); most frequent first, before them the same of all together (`outcome` missing)."""
    question = finding_queries.totals(since=moment(since), until=moment(until), kind=kind)
    return current(store).frame(*question)


def finding_kinds(*, store: Store | None = None) -> list[str]:
    """The kinds of findings that the store holds."""
    return finding_queries.kinds(current(store).reader)


def findings_over_time(
    *,
    since: Moment = None,
    until: Moment = None,
    kind: str | None = None,
    zone: str = "UTC",
    steps: int = 120,
    store: Store | None = None,
) -> pd.DataFrame:
    """How many in each of at most about `steps` steps: `at` (the step's start), `step_s`, `outcome`, `findings`. Steps
    without any are not there; they are counted from a midnight in `zone`."""
    asked, start, end = current(store), moment(since), moment(until)
    known = finding_queries.span(asked.reader, kind)
    now = datetime.now(UTC)
    first = start or (known[0] if known else now)
    step_s = step_of(max((end or now) - first, timedelta(seconds=steps)), steps)
    midnight = first.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0)
    question = finding_queries.by_step(
        since=start, until=end, kind=kind, step_s=step_s, midnight=midnight.astimezone(UTC)
    )
    frame = asked.frame(*question)
    frame.insert(1, "step_s", step_s)
    return frame


def actions(
    *,
    since: Moment = None,
    until: Moment = None,
    call_id: str | None = None,
    limit: int = 100,
    store: Store | None = None,
) -> pd.DataFrame:
    """What actions did in [since, until), newest first.

    | column | |
    |---|---|
    | `started_at`, `ended_at`, `action`, `rule`, `node` | when (UTC), which, started by which rule |
    | `dry_run`, `outcome`, `detail`, `words` | how it ended: a word of the action's, its sentence, both in words |
    | `call_id`, `device`, `target`, `finding_id` | for which finding |
    | `statuses`, `statuses_at` | SIP status codes that came back, and when |
    | `register_to_invite_ms` | from the REGISTER's 200 to our INVITE |
    """
    question = finding_queries.attempts(
        since=moment(since), until=moment(until), call_id=call_id, limit=limit
    )
    frame = current(store).frame(*question)
    rows: list[Any] = frame.to_dict("records")
    frame["words"] = [attempt_words(row) for row in rows]
    return frame.astype({"words": "str"})


def action_counts(*, since: Moment = None, until: Moment = None, store: Store | None = None) -> pd.DataFrame:
    """By `action`, `dry_run`, `outcome`: `attempts`, `brake` (which one held, in words), `register_to_invite_ms_p50`,
    `_p95`, `last`."""
    frame = current(store).frame(*finding_queries.attempt_counts(since=moment(since), until=moment(until)))
    frame["brake"] = [BRAKES.get(str(outcome).removeprefix(_HELD)) for outcome in frame["outcome"]]
    return frame.astype({"brake": "str"})


def attempt_words(attempt: Row) -> str:
    """One attempt in a few words: `fake_call: cancelled, the phone rang and was told (180, 487)`."""
    action, outcome = attempt["action"], str(attempt["outcome"])
    if outcome.startswith(_HELD):
        return f"{action}: held, {BRAKES.get(outcome.removeprefix(_HELD), outcome.removeprefix(_HELD))}"
    detail = str(attempt["detail"] or "").partition("\n")[0].strip().rstrip(":")
    if attempt["dry_run"]:
        return f"{action}: dry run, nothing was sent{_but(detail)}"
    statuses = ", ".join(str(status) for status in _listed(attempt["statuses"]))
    return f"{action}: {outcome}" + (f", {detail}" if detail else "") + (f" ({statuses})" if statuses else "")


def _but(detail: str) -> str:
    """What a dry run says would keep it from acting; `pipeline.engine.rules` writes it."""
    held = _WOULD_HOLD.match(detail)
    if held is not None:
        return f"; live, it would be held: {BRAKES.get(held[1], held[1])}"
    return "; live, it would fail" if detail.startswith("live, this would fail") else ""


def _answers(attempts: Sequence[Row]) -> str | None:
    told = [str(status) for attempt in attempts for status in _listed(attempt["statuses"])]
    return ", ".join(told) or None


def _listed(values: Any) -> list[Any]:
    return [] if values is None or values is not values else list(values)  # noqa: PLR0124  NaN


# -- armed or not ----------------------------------------------------------------------------------------


def action_states(*, store: Store | None = None, settings: Settings | None = None) -> pd.DataFrame:
    """What each action may do: `action`, `state`, `words`, `from` (running tap, stopped tap, or this configuration).

    `state` is ARMED, on (it touches nothing outside), dry run, lacks settings, or halted. What the tap says of itself
    counts; where it says nothing, the configuration of this process.
    """
    import pandas as pd  # noqa: PLC0415

    from pipeline.assemble import actions_of  # noqa: PLC0415
    from pipeline.settings import load  # noqa: PLC0415
    from pipeline.status import plugin_states, read_status  # noqa: PLC0415

    folder = current(store).path
    told = settings or load()[0]
    try:
        status = read_status(folder)
    except StoreError:
        status = {}
    if status.get("plugins"):
        plugins, source = status["plugins"], "running tap" if status["alive"] else "stopped tap"
    else:
        plugins, source = plugin_states(told.plugins_dir, (), actions_of(told)), "this configuration"
    halted = (folder / "STOP").exists() or told.rules.halt
    named = {name for rule in told.rules.rule for name in rule.actions}
    rows = []
    for plugin in plugins:
        if plugin["kind"] != "action":
            continue
        state = "halted" if halted and plugin["state"] == "ARMED" else plugin["state"]
        words = _STATES.get(state, state)
        if plugin["name"] not in named:
            words += " No rule starts it."
        rows.append({"action": plugin["name"], "state": state, "words": words, "from": source})
    return pd.DataFrame(rows, columns=["action", "state", "words", "from"])


_STATES: Final = {
    "ARMED": "Armed: it acts on every finding, within the brakes.",
    "on": "On: it only tells, and touches nothing outside.",
    "dry run": "Dry run: it only notes what it would do; nothing is sent.",
    "lacks settings": "Off: it lacks settings that have no default.",
    "halted": "Halted by the kill switch: it holds everything back.",
}
