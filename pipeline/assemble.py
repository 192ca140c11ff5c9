"""From settings to parts: the detectors and actions that the configuration asks for."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from pipeline.engine.actions import Action, build_actions
from pipeline.engine.engine import Detector
from pipeline.engine.plugins import ACTIONS, DETECTORS, find
from pipeline.errors import ConfigError
from pipeline.settings import Settings, explain


def detectors_of(settings: Settings) -> list[Detector]:
    """All detectors found, with the settings of their tables; `enabled = false` leaves one out."""
    return build_detectors(settings.detectors, settings.plugins_dir)


def build_detectors(
    tables: Mapping[str, Mapping[str, Any]], plugins_dir: Path | None = None
) -> list[Detector]:
    """Raises ConfigError for the table of an unknown detector and for a wrong setting."""
    plugins = find(DETECTORS, plugins_dir)
    for name in tables:
        if name not in plugins:
            near = difflib.get_close_matches(name, plugins, n=1)
            known = f"did you mean {near[0]}?" if near else f"there are {', '.join(sorted(plugins))}"
            raise ConfigError(f"detectors.{name}: no such detector; {known}")
    detectors: list[Detector] = []
    for name, plugin in plugins.items():
        table = dict(tables.get(name, {}))
        if table.pop("enabled", True) in (False, "false"):
            continue
        model = plugin.cls.Settings
        try:
            detectors.append(plugin.cls(model.model_validate(table)))
        except ValidationError as error:
            raise ConfigError(explain(error, model, "configuration", f"detectors.{name}")) from error
    return detectors


def actions_of(settings: Settings) -> dict[str, Action]:
    """All actions found, made from their tables `[actions.NAME]`."""
    classes = {name: plugin.cls for name, plugin in find(ACTIONS, settings.plugins_dir).items()}
    return build_actions(classes, settings.actions)
