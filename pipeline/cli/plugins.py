"""`hepduck detectors` and `hepduck actions`: what there is, what it can be told, what it is told."""

from __future__ import annotations

import json
from typing import Any

import typer

from pipeline.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(detectors)
    app.command()(actions)


def detectors(
    config: opt.ConfigFile = None, no_config: opt.NoConfig = False, as_json: opt.Json = False
) -> None:
    """List the detectors with their settings.

    Examples: `hepduck detectors`; `hepduck detectors -f hepduck.toml --json`
    """
    from pipeline.assemble import build_detectors
    from pipeline.engine.plugins import DETECTORS, find

    settings, _ = opt.settings_of(config, no_config, None, None)
    made = {d.name: d for d in build_detectors(settings.detectors, settings.plugins_dir)}
    for plugin in find(DETECTORS, settings.plugins_dir).values():
        detector: Any = made.get(plugin.name)
        _print(plugin, "on" if detector else "off", getattr(detector, "settings", None), "detectors", as_json)


def actions(
    config: opt.ConfigFile = None, no_config: opt.NoConfig = False, as_json: opt.Json = False
) -> None:
    """List the actions with their settings, and whether they may act.

    Examples: `hepduck actions`; `hepduck actions -f hepduck.toml --json`
    """
    from pipeline.assemble import actions_of
    from pipeline.engine.plugins import ACTIONS, find
    from pipeline.status import action_state

    settings, _ = opt.settings_of(config, no_config, None, None)
    made = actions_of(settings)
    for plugin in find(ACTIONS, settings.plugins_dir).values():
        action = made.get(plugin.name)
        settings_of = action.settings if action else None
        _print(plugin, action_state(action), settings_of, "actions", as_json)


def _print(plugin: Any, state: str, settings: Any, table: str, as_json: bool) -> None:
    from pipeline.checks import without_password

    dumped = settings.model_dump(mode="json") if settings is not None else {}
    values = {name: without_password(value) for name, value in dumped.items()}
    if as_json:
        row = {"name": plugin.name, "state": state, "origin": plugin.origin, "summary": plugin.summary}
        typer.echo(json.dumps({**row, "settings": values}))
        return
    typer.echo(
        f"{plugin.name} ({state}; from {plugin.origin})\n  {plugin.summary}\n  [{table}.{plugin.name}]"
    )
    for name, field in plugin.cls.Settings.model_fields.items():
        value = json.dumps(values[name]) if name in values else _default(field)
        typer.echo(f"  {name} = {value}" + (f"    # {field.description}" if field.description else ""))
    typer.echo("")


def _default(field: Any) -> str:
    if field.is_required():
        return "(must be set)"
    default = field.get_default(call_default_factory=True)
    return json.dumps(default, default=str)
