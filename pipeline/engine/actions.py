"""What an action is: the one base class behind log, fake_call, sipp, webhook, exec, and yours.

To add an action, write one file with one class, and name it in the entry points `hepduck.actions`
of your package (or drop the file into the plugins folder):

    class Pager(Action):
        name = "pager"

        class Settings(ActionSettings):
            number: str

        def __init__(self, settings: Settings) -> None:
            super().__init__(settings)
            self.settings: Pager.Settings = settings

        async def plan(self, finding: Finding) -> str:
            return f"page {self.settings.number}"

        async def act(self, finding: Finding, attempt: Attempt) -> ActionResult:
            ...
            return ActionResult("paged")

and in the configuration `[actions.pager]` with `enabled = true`, `dry_run = false`, and a rule that
names it. The rules (`pipeline.engine.rules`) bring the time limit, the brakes and the record of each attempt.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, ClassVar, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from pipeline.durations import Duration
from pipeline.engine.commands import Finding
from pipeline.errors import ConfigError

# The From tag of every call that hepduck places itself begins so. The calls come back over the
# mirror; on the device's leg nothing else of them survives a proxy (User-Agent does not).
OWN_TAG_PREFIX = "late-"


_TARGET = re.compile(
    r"(?P<host>\[[0-9A-Fa-f:.]+\]|[0-9.]+):(?P<port>\d{1,5});transport=(?P<transport>udp|tcp|tls|ws|wss|sctp)",
    re.ASCII,
)


class Target(NamedTuple):
    """A device's contact as the tap saw it."""

    host: str  # IPv6 in brackets, as in a URI
    port: int
    transport: str

    @property
    def uri(self) -> str:
        return f"sip:{self.host}:{self.port};transport={self.transport}"


def parse_target(value: object) -> Target | None:
    """The contact in evidence, "127.0.0.21:22142;transport=udp" (IPv6 in brackets); None when it is none."""
    found = _TARGET.fullmatch(value) if isinstance(value, str) else None
    if found is None or not 0 < int(found["port"]) < 65536:
        return None
    bracketed = found["host"].startswith("[")
    try:
        address = ipaddress.ip_address(found["host"].strip("[]"))
    except ValueError:
        return None
    if (address.version == 6) != bracketed:
        return None
    return Target(f"[{address}]" if bracketed else str(address), int(found["port"]), found["transport"])


class ActionSettings(BaseModel):
    """Settings that every action has; an action's own `Settings` adds to them.

    An action that can touch the world acts only with `enabled = true` and `dry_run = false`:
    a tap that places calls must be asked twice. In every other case the rules ask it for its `plan`.
    """

    # An error about a secret must not print the secret.
    model_config = ConfigDict(extra="forbid", hide_input_in_errors=True)

    enabled: bool = Field(False, description="the first of two yeses: may act at all")
    dry_run: bool = Field(True, description="the second of two yeses: only say what would be done")
    time_limit: Duration = Field(timedelta(seconds=30), description="longest time for one attempt")


@dataclass(frozen=True, slots=True)
class Attempt:
    """One go at one action for one finding. `attempt_id` is unique for good, for idempotency keys."""

    attempt_id: str
    rule: str
    started_us: int


@dataclass(frozen=True, slots=True)
class ActionResult:
    """How an attempt ended.

    `outcome` is one word out of the action's few (it becomes a metric label), `detail` a sentence for the
    engineer, `statuses` the SIP status codes with the time of each (microseconds since the epoch).
    """

    outcome: str
    detail: str = ""
    statuses: tuple[tuple[int, int], ...] = ()
    invite_sent_us: int | None = None


class Action:
    """Base class. `plan` and `act` run on the rules' own event loop and must not block it."""

    name: ClassVar[str]
    Settings: ClassVar[type[ActionSettings]] = ActionSettings
    # False for what only tells (log): it acts always, without brakes and without a dry run.
    touches_world: ClassVar[bool] = True
    # Actions of one family do the same thing to the same device: only one of them may, once.
    # None: the action is a family of its own.
    family: ClassVar[str | None] = None
    # The finding must name a device's contact (`evidence["target"]`), or the action does not act.
    needs_target: ClassVar[bool] = False

    def __init__(self, settings: ActionSettings) -> None:
        self.settings = settings

    @property
    def live(self) -> bool:
        """True when `act` is to be called, False when only `plan` is (dry run)."""
        return not self.touches_world or (self.settings.enabled and not self.settings.dry_run)

    async def start(self) -> None:
        """Called once, before the first `act`, only when live: open what makes the first act fast.

        `act` is called even if this failed or took more than a few seconds.
        """

    async def stop(self) -> None:
        """Called once at the end, after the last `act`, when `start` was called."""

    async def plan(self, finding: Finding) -> str:
        """What `act` would do, in words or bytes, secrets masked; must itself do nothing.

        Raises ActionError when the finding holds nothing that the action could act upon.
        """
        raise NotImplementedError

    async def act(self, finding: Finding, attempt: Attempt) -> ActionResult:
        """Do it. Cancelled at `settings.time_limit`.

        Raises ActionError for what went wrong as foreseen; the rules record any exception.
        """
        raise NotImplementedError


def build_actions(
    classes: Mapping[str, type[Action]], tables: Mapping[str, Mapping[str, Any]]
) -> dict[str, Action]:
    """Make every known action from its table `[actions.<name>]` (an absent table means the defaults).

    An action whose settings have no default (a webhook needs its URL) is left out while it has no table.
    Raises ConfigError for a table of an unknown action, and for a setting that is wrong.
    """
    for name in tables:
        if name not in classes:
            raise ConfigError(f"[actions.{name}]: no such action; there are {', '.join(sorted(classes))}")
    actions: dict[str, Action] = {}
    for name, action_class in classes.items():
        table = tables.get(name)
        if table is None and any(info.is_required() for info in action_class.Settings.model_fields.values()):
            continue
        try:
            settings = action_class.Settings.model_validate(dict(table or {}))
        except ValidationError as error:
            raise ConfigError(f"[actions.{name}] {_explain(error, action_class)}") from None
        try:
            actions[name] = action_class(settings)
        except ConfigError as error:
            raise ConfigError(f"[actions.{name}] {error}") from None
    return actions


def _explain(error: ValidationError, action_class: type[Action]) -> str:
    """The first error in one line, without the value: it may be a secret."""
    first = error.errors(include_input=False, include_url=False)[0]
    key = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        near = difflib.get_close_matches(key, action_class.Settings.model_fields, n=1)
        return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")
    return f"{key}: {first['msg'].removeprefix('Value error, ')}" if key else first["msg"]


def finding_as_json(finding: Finding) -> dict[str, Any]:
    """A finding as webhook and exec hand it out: plain JSON types only."""
    return {
        "kind": finding.kind,
        "finding_id": finding.finding_id,
        "identifier": finding.identifier,
        "ts_us": finding.ts_us,
        "severity": finding.severity,
        "call_id": finding.call_id,
        "aor": finding.aor,
        "evidence": dict(finding.evidence),
        "msg_ids": list(finding.msg_ids),
        "trusted": finding.trusted,
    }
