"""How long woken phones take to register, and what another window of the detector would have found."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final

from pipeline.api.opened import Moment, Store, current, moment
from pipeline.durations import format_duration
from pipeline.errors import StoreError
from pipeline.instants import at, us_of
from pipeline.store import finding_queries
from pipeline.store.finding_queries import LATE

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.settings import Settings
    from pipeline.store.queries import Row

DELAY_EDGES_S: Final = (
    *(0.25, 0.5, 0.75, 1, 1.5, 2, 2.5, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50, 60),
)
WINDOWS_S: Final = (1, 2, 3, 5, 10, 15, 20, 30, 45, 60)
MOST_REPLAYED: Final = 50_000  # messages: some 5 s


@dataclass(frozen=True, slots=True)
class Rule:
    """What the detector of ghost calls goes by, of the settings that were asked."""

    window_s: float
    outcomes: tuple[str, ...]
    user_agent: str
    push_providers: tuple[str, ...]


def ghost_rule(settings: Settings | None = None) -> Rule | None:
    """The detector's window, the outcomes and devices that count; None where it is off. Raises ConfigError."""
    from pipeline.assemble import detectors_of  # noqa: PLC0415  pydantic and the engine

    found = next((each for each in detectors_of(settings or _configured()) if each.name == LATE), None)
    if found is None:
        return None
    told: Any = getattr(found, "settings")  # noqa: B009  every detector has its own
    return Rule(
        told.window.total_seconds(),
        tuple(told.outcomes),
        told.devices.user_agent,
        tuple(told.devices.push_providers),
    )


def register_delays(
    *,
    since: Moment = None,
    until: Moment = None,
    settings: Settings | None = None,
    store: Store | None = None,
) -> pd.DataFrame:
    """How long woken phones take: `what`, `low_s`, `high_s` (infinite for the last step), `phones`.

    From the call's first INVITE (the push itself is not on the mirror: the proxy sends it then) to the first accepted
    REGISTER of a push device of the callee's account after it, at most a minute later. `what`: late (there is a
    finding), in time (before the call was over), after the end (and yet no finding: the phone was reached, came after
    the detector's window, or the end of the call does not count). A REGISTER that was due anyway counts too.
    """
    import pandas as pd  # noqa: PLC0415

    asked, start, end = current(store), moment(since), moment(until)
    rule = ghost_rule(settings)
    kinds = _push_kinds(asked, rule, start, end)
    question = finding_queries.delays(kinds, [1000 * edge for edge in DELAY_EDGES_S], since=start, until=end)
    counted = {(row["what"], row["high"]): row["phones"] for row in asked.reader.query(*question).to_pylist()}
    ends = [0.0, *DELAY_EDGES_S, float("inf")]
    rows = [
        {"what": what, "low_s": low, "high_s": high, "phones": counted.get((what, 1000 * high), 0)}
        for what in ("in time", "late", "after the end")
        for low, high in pairwise(ends)
    ]
    return pd.DataFrame(rows)


def other_windows(
    windows_s: Sequence[float] = WINDOWS_S,
    *,
    since: Moment = None,
    until: Moment = None,
    settings: Settings | None = None,
    most: int = MOST_REPLAYED,
    store: Store | None = None,
) -> pd.DataFrame:
    """What the detector would have found with each of these windows: `window_s`, `found`, `canceled`, `answered`,
    `other` (by how the call had ended).

    The stored messages of all calls that may be concerned are run through the detector itself, with the longest of the
    windows and all its other settings; a shorter window finds those of them that were late by no more than that. Raises
    StoreError when that are more than `most` messages: ask for less time.
    """
    import pandas as pd  # noqa: PLC0415

    found = replay_stored(max(windows_s), since=since, until=until, settings=settings, most=most, store=store)
    rows = []
    for window_s in windows_s:
        outcomes = found.loc[found["late_ms"] <= 1000 * window_s, "outcome"]
        named = {name: int((outcomes == name).sum()) for name in ("canceled", "answered")}
        other = len(outcomes) - sum(named.values())
        rows.append({"window_s": float(window_s), "found": len(outcomes), **named, "other": other})
    return pd.DataFrame(rows)


def replay_stored(
    window_s: float,
    *,
    since: Moment = None,
    until: Moment = None,
    settings: Settings | None = None,
    most: int = MOST_REPLAYED,
    store: Store | None = None,
) -> pd.DataFrame:
    """The ghost calls that the detector finds in the stored messages of [since, until) with this window: `ts`,
    `call_id`, `aor`, `device`, `outcome`, `late_ms`. Raises StoreError when that takes more than `most` messages."""
    import pandas as pd  # noqa: PLC0415

    from pipeline.assemble import build_detectors  # noqa: PLC0415
    from pipeline.engine.engine import Engine  # noqa: PLC0415
    from pipeline.recall import stored_event  # noqa: PLC0415

    asked, start, end = current(store), moment(since), moment(until)
    told = settings or _configured()
    window = timedelta(seconds=window_s)
    table = {
        **told.detectors.get(finding_queries.LATE, {}),
        "window": format_duration(window),
        "enabled": True,
    }
    detectors = [
        d for d in build_detectors({finding_queries.LATE: table}, told.plugins_dir) if d.name == LATE
    ]
    kinds = _push_kinds(asked, ghost_rule(told), start, end)
    engine = Engine(detectors, told.engine)
    methods = {name.partition(" ")[0] for name in engine.interest}
    question = finding_queries.messages_of_races(
        kinds, methods=methods, window=window, most=most + 1, since=start, until=end
    )
    rows = asked.reader.query(*question).to_pylist()
    if len(rows) > most:
        raise StoreError(f"more than {most} messages to replay: choose a shorter time range")
    raised = []
    for row in rows:
        event = stored_event(row, ())
        if event is not None:
            arrival_us = us_of(row["received_at"])
            raised += [*engine.tick(arrival_us), *engine.handle([event], arrival_us)]
    raised += engine.finish()
    kept = [
        {
            "ts": at(each.ts_us),
            "call_id": each.call_id,
            "aor": each.aor,
            "device": each.evidence["device"],
            "outcome": each.evidence["outcome"],
            "late_ms": float(each.evidence["late_ms"]),
        }
        for each in raised
        if each.kind == LATE
    ]
    frame = pd.DataFrame(kept, columns=["ts", "call_id", "aor", "device", "outcome", "late_ms"])
    frame["ts"] = pd.to_datetime(frame["ts"], utc=True)
    inside = pd.Series(True, index=frame.index)
    if start is not None:
        inside &= frame["ts"] >= start
    if end is not None:
        inside &= frame["ts"] < end
    return frame[inside].astype({"late_ms": "float64"}).reset_index(drop=True)


def _push_kinds(asked: Store, rule: Rule | None, since: datetime | None, until: datetime | None) -> list[Row]:
    """The kinds of devices that a push wakes, as the detector tells them: by User-Agent, or by the push parameters."""
    from pipeline.protocols.uri import parse_contacts, push_provider  # noqa: PLC0415

    if rule is None:
        return []
    pattern = re.compile(rule.user_agent)
    kinds = []
    for kind in finding_queries.device_kinds(asked.reader, since=since, until=until):
        contacts = parse_contacts(f"<sip:phone;{kind['push']}>") if kind["push"] else []
        if (kind["user_agent"] and pattern.search(kind["user_agent"])) or any(
            push_provider(contact) in rule.push_providers for contact in contacts
        ):
            kinds.append(kind)
    return kinds


def _configured() -> Settings:
    from pipeline.settings import load  # noqa: PLC0415

    return load()[0]
