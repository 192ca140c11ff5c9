"""What is kept of each decision to act, or not to."""

from __future__ import annotations

from typing import Any

from pipeline.engine.actions import Action, ActionResult, Attempt
from pipeline.engine.commands import Finding

Row = dict[str, Any]


def attempt_row(
    finding: Finding, action: Action, attempt: Attempt, result: ActionResult, *, dry_run: bool, ended_us: int
) -> Row:
    """The row of table `action_attempt`; times are microseconds since the epoch."""
    register_us, latency_ms = finding.evidence.get("register_us"), None
    if result.invite_sent_us is not None and isinstance(register_us, int):
        latency_ms = (result.invite_sent_us - register_us) / 1000
    return {
        "attempt_id": attempt.attempt_id,
        "finding_id": finding.finding_id,
        "action": action.name,
        "rule": attempt.rule,
        "call_id": finding.call_id,
        "device": finding.evidence.get("device"),
        "target": finding.evidence.get("target"),
        "dry_run": dry_run,
        "started_at": attempt.started_us,
        "ended_at": ended_us,
        "outcome": result.outcome,
        "detail": result.detail,
        "sip_statuses": statuses(result),
        "register_to_invite_ms": latency_ms,
    }


def statuses(result: ActionResult) -> list[dict[str, int]]:
    """What the phone answered, and when (microseconds since the epoch)."""
    return [{"status": status, "at_us": at_us} for status, at_us in result.statuses]
