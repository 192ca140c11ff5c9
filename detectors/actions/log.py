"""A line in the log for each finding."""

from __future__ import annotations

import json
from typing import Any

import structlog
from pydantic import Field

from pipeline.engine.actions import Action, ActionResult, ActionSettings, Attempt, finding_as_json
from pipeline.engine.commands import Finding

_log = structlog.get_logger("hepduck.finding")


class LogSettings(ActionSettings):
    """`[actions.log]`"""

    enabled: bool = Field(True, description="log findings")


class Log(Action):
    """Write the finding to the log."""

    name = "log"
    Settings = LogSettings
    touches_world = False

    async def plan(self, finding: Finding) -> str:
        return f"log {finding.kind} {finding.identifier}"

    async def act(self, finding: Finding, _attempt: Attempt) -> ActionResult:
        if not self.settings.enabled:
            return ActionResult("disabled")
        level = {"info": _log.info, "critical": _log.error}.get(finding.severity, _log.warning)
        level(finding.kind, **{key: _one_line(value) for key, value in finding_as_json(finding).items()})
        return ActionResult("logged")


def _one_line(value: Any) -> Any:
    """Text from SIP messages must not be able to write lines of its own, whatever the log's format."""
    if isinstance(value, str):
        return value if value.isprintable() else json.dumps(value)
    return value
