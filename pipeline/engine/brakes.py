"""What keeps an action from acting: each brake once, with the word under which it is recorded.

kill_switch  `rules.halt`, or the stop file exists
untrusted    a fact came from a HEP agent that did not pass the agent check
target       the finding names no contact of an accepted REGISTER, for an action that needs one
stale        the finding is older than `rules.max_age`: a replayed recording must call nobody
per_aor      `per_aor_max` acts upon phones of this address of record within `per_aor_window`
per_minute   `max_per_minute` acts in all
claimed      this action, or one of its family, was begun for this call and device before
ledger       the ledger cannot be asked or written: without it nothing may act
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from pipeline.durations import Duration, to_us
from pipeline.engine.actions import Action, parse_target
from pipeline.engine.commands import Finding

_MINUTE_US = 60_000_000


class BrakeSettings(BaseModel):
    """The limits of `[rules]`."""

    model_config = ConfigDict(extra="forbid")

    halt: bool = Field(False, description="kill switch: no action acts")
    per_aor_max: int = Field(4, ge=1, description="most acts for one address of record within per_aor_window")
    per_aor_window: Duration = Field(timedelta(seconds=60), description="see per_aor_max")
    max_per_minute: int = Field(60, ge=1, description="most acts in all")
    max_age: Duration = Field(
        timedelta(seconds=60), description="findings older than this (a phone rings 30-60 s) act no more"
    )


class Ledger(Protocol):
    """The durable memory of what was begun (`pipeline.store.ledger`). Called from one thread at a time."""

    def claim(
        self,
        action: str,
        call_id: str,
        device: str,
        *,
        finding_id: str,
        at_us: int,
        aor: str | None,
        dry_run: bool,
    ) -> str | None:
        """Begin `action` for this call and device: an attempt id, on disk when this returns; None when
        it was begun before, by whatever process."""

    def finish(
        self, attempt_id: str, outcome: str, detail: str, statuses: list[dict[str, int]], ended_at_us: int
    ) -> None:
        """Note how the attempt ended."""

    def recent(self, aor: str, since_us: int) -> int:
        """How many attempts for this address of record were begun since."""

    def count_since(self, since_us: int) -> int:
        """How many attempts were begun since."""


@dataclass(frozen=True, slots=True)
class Held:
    """A brake that holds, and why."""

    brake: str
    why: str

    @property
    def outcome(self) -> str:
        return f"held_{self.brake}"


class Brakes:
    """Asked before each act. `hold` is quick; `claim` writes to disk."""

    def __init__(self, settings: BrakeSettings, ledger: Ledger, stop_file: Path | None = None) -> None:
        self._settings = settings
        self._ledger = ledger
        self._stop_file = stop_file

    def halted(self) -> Held | None:
        if self._settings.halt:
            return Held("kill_switch", "rules.halt is set")
        try:
            if self._stop_file is not None and self._stop_file.exists():
                return Held("kill_switch", f"{self._stop_file} exists")
        except OSError as error:
            return Held("kill_switch", f"{self._stop_file} cannot be looked for: {error}")
        return None

    def hold(self, action: Action, finding: Finding, now_us: int) -> Held | None:
        """The brakes that need no ledger."""
        if (halted := self.halted()) is not None:
            return halted
        if not finding.trusted:
            return Held("untrusted", "a capture agent behind this finding did not pass the agent check")
        if action.needs_target and parse_target(finding.evidence.get("target")) is None:
            return Held(
                "target", f"no contact of an accepted REGISTER: {finding.evidence.get('target')!r:.80}"
            )
        age_us = now_us - finding.ts_us
        if age_us > to_us(self._settings.max_age):
            return Held("stale", f"the finding is {age_us / 1e6:.1f} s old")
        return None

    def claim(self, action: Action, finding: Finding, now_us: int) -> str | Held:
        """Claim (call, device) in the ledger: the attempt id, durable by now, or the brake that holds.

        Fails closed: whatever goes wrong with the ledger is a brake.
        """
        settings, family = self._settings, action.family or action.name
        aor = finding.aor if action.needs_target else None
        call_id, device = claim_key(finding)
        try:
            in_window = self._ledger.recent(aor, now_us - to_us(settings.per_aor_window)) if aor else 0
            if in_window >= settings.per_aor_max:
                return Held("per_aor", f"{in_window} acts for {aor} within {settings.per_aor_window}")
            in_minute = self._ledger.count_since(now_us - _MINUTE_US)
            if in_minute >= settings.max_per_minute:
                return Held("per_minute", f"{in_minute} acts within a minute")
            attempt_id = self._ledger.claim(
                family, call_id, device, finding_id=finding.finding_id, at_us=now_us, aor=aor, dry_run=False
            )
        except Exception as error:  # noqa: BLE001 - a ledger that fails in any way must hold
            return Held("ledger", f"{type(error).__name__}: {error}")
        return attempt_id or Held("claimed", f"{family} was begun before for this call and device")


def claim_key(finding: Finding) -> tuple[str, str]:
    """(call, device) of a finding; a finding without them is claimed by its own identifier."""
    device = finding.evidence.get("device")
    call_id = finding.call_id or ""
    if call_id and isinstance(device, str) and device:
        return call_id, device
    return call_id, f"{finding.kind}:{finding.identifier}"
