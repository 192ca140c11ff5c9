"""What detectors ask for: findings and timers. A detector yields these; it never acts itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

Severity = Literal["info", "warning", "critical"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something a detector found, with all that an engineer needs to see why.

    `identifier` says what makes two findings the same one; the engine drops a finding whose
    (`kind`, `identifier`) was raised less than `suppress_for_us` of event time ago. `trusted` is False
    when a fact came from a HEP agent that did not pass the agent check: rules never act on those.
    """

    kind: str
    identifier: str
    ts_us: int  # event time, microseconds since the epoch
    severity: Severity = "warning"
    call_id: str | None = None
    aor: str | None = None  # "sip:bob@sip.test"
    evidence: Mapping[str, Any] = field(default_factory=dict)
    msg_ids: tuple[int, ...] = ()  # the stored messages that prove it
    suppress_for_us: int = 3_600_000_000
    trusted: bool = True
    finding_id: str = ""  # given by the engine: unique, and the same again in a replay


@dataclass(frozen=True, slots=True)
class StartTimer:
    """Ask for a `TimerFired` once event time reaches `at_us`. Starting a running `name` moves it.

    `agent` names the capture agent whose clock `at_us` was told by; None: the one just heard.
    """

    name: str
    at_us: int
    agent: str | None = None


@dataclass(frozen=True, slots=True)
class CancelTimer:
    """Forget the timer `name`; nothing happens when there is none."""

    name: str


Command = Finding | StartTimer | CancelTimer
