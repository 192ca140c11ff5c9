"""`[rules]`: which finding starts which actions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta

from pydantic import BaseModel, ConfigDict, Field

from pipeline.durations import Duration
from pipeline.engine.actions import Action
from pipeline.engine.brakes import BrakeSettings
from pipeline.errors import ConfigError

ALL_OTHERS = "*"


class Rule(BaseModel):
    """One `[[rules.rule]]`: findings of this kind start these actions; `*` is every kind that no rule names."""

    model_config = ConfigDict(extra="forbid")

    finding: str
    actions: list[str]
    name: str = ""

    @property
    def title(self) -> str:
        return self.name or self.finding


class RulesSettings(BrakeSettings):
    """`[rules]`. Whether an action may act is said in its own table: `[actions.fake_call]`."""

    rule: list[Rule] = Field(
        default_factory=lambda: [
            Rule(finding="late_register", actions=["log", "fake_call"]),
            Rule(finding=ALL_OTHERS, actions=["log"]),
        ],
        description='which finding starts which actions; "*": all that no rule names',
    )
    backlog: int = Field(1000, ge=1, description="most findings under way; more are dropped and counted")
    drain: Duration = Field(timedelta(seconds=10), description="how long a stop waits for what is under way")


def check_rules(settings: RulesSettings, actions: Mapping[str, Action]) -> None:
    """Raises ConfigError when a rule names an action that is not there."""
    for rule in settings.rule:
        for name in rule.actions:
            if name not in actions:
                known = ", ".join(sorted(actions)) or "none"
                raise ConfigError(
                    f"[rules] {rule.title}: no action {name}, or it lacks settings; known: {known}"
                )


def actions_by_kind(
    settings: RulesSettings, actions: Mapping[str, Action]
) -> dict[str, list[tuple[str, Action]]]:
    """Kind of finding -> (rule, action) in the order in which they are started."""
    by_kind: dict[str, list[tuple[str, Action]]] = {ALL_OTHERS: []}
    for rule in settings.rule:
        pairs = by_kind.setdefault(rule.finding, [])
        pairs += [(rule.title, actions[name]) for name in rule.actions]
        pairs.sort(key=lambda pair: not pair[1].touches_world)  # a phone is ringing: tell nobody else first
    return by_kind
