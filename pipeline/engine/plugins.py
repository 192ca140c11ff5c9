"""Finding detectors and actions by name: entry points of installed packages, then files in a folder.

A plugin is a class with a `name` and a `Settings` model. In a folder, each `*.py` file (not starting with an
underscore) is one plugin module; every class in it with `on_event` is a detector, with `act` an action.
"""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Iterator
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from pipeline.errors import ConfigError

DETECTORS, ACTIONS = "hepduck.detectors", "hepduck.actions"
_METHOD = {DETECTORS: "on_event", ACTIONS: "act"}


class Plugin(NamedTuple):
    """A detector or an action that was found: its class, and the package or file that brought it."""

    name: str
    cls: type[Any]
    origin: str

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (inspect.getdoc(self.cls) or "").partition("\n")[0]


def find(group: str, folder: Path | None = None) -> dict[str, Plugin]:
    """All plugins of `group` (`DETECTORS` or `ACTIONS`) by name; a file in the folder wins over a package.

    Raises ConfigError that names the plugin which cannot be loaded.
    """
    found: dict[str, Plugin] = {}
    for point in sorted(entry_points(group=group), key=lambda point: point.name):
        origin = point.dist.name if point.dist else point.value
        try:
            cls = point.load()
        except Exception as error:
            raise ConfigError(f"plugin {point.name} of {origin} cannot be loaded: {error}") from error
        found[cls.name] = Plugin(cls.name, cls, origin)
    if folder is not None:
        for plugin in _in_folder(group, folder):
            found[plugin.name] = plugin
    return found


def _in_folder(group: str, folder: Path) -> Iterator[Plugin]:
    if not folder.is_dir():
        raise ConfigError(f"plugins_dir {folder} is no folder")
    for path in sorted(folder.glob("[!_]*.py")):
        module = _load(path)
        for _, member in inspect.getmembers(module, inspect.isclass):
            cls: Any = member
            if cls.__module__ == module.__name__ and _is_plugin(cls, group):
                yield Plugin(cls.name, cls, str(path))


def _is_plugin(cls: type[Any], group: str) -> bool:
    return isinstance(getattr(cls, "name", None), str) and callable(getattr(cls, _METHOD[group], None))


def _load(path: Path) -> ModuleType:
    name = f"hepduck_plugin_{path.stem}"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise ConfigError(f"plugin {path} cannot be loaded: {type(error).__name__}: {error}") from error
    return module
