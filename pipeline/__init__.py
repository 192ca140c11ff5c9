"""hepduck from Python: open a store, ask it, get DataFrames.

    import pipeline as hd

    hd.open("/var/lib/hepduck")
    hd.calls("state:failed pdd>3s", since="1h")
    hd.ladder("7f3a@10.0.0.5")

See `pipeline.api`. Names are loaded when they are asked for, so that importing one part of the package stays quick.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pipeline.api.calls import CallLadder as CallLadder
    from pipeline.api.calls import call as call
    from pipeline.api.calls import call_states as call_states
    from pipeline.api.calls import calls as calls
    from pipeline.api.calls import count_calls as count_calls
    from pipeline.api.calls import ladder as ladder
    from pipeline.api.calls import messages as messages
    from pipeline.api.opened import Store as Store
    from pipeline.api.opened import open as open
    from pipeline.api.replaying import replay as replay
    from pipeline.api.sql import sql as sql

# The module of `pipeline.api` -> the names that are public here.
_NAMES = {
    "calls": ("CallLadder", "call", "call_states", "calls", "count_calls", "ladder", "messages"),
    "opened": ("Store", "open"),
    "replaying": ("replay",),
    "sql": ("sql",),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
__all__ = tuple(_HOME)


class _Package(ModuleType):
    """This package: `pipeline.ladder` and others are functions here, though modules have these names too."""

    def __getattribute__(self, name: str) -> object:
        home = _HOME.get(name)
        if home is None:
            return super().__getattribute__(name)
        return getattr(importlib.import_module(f"pipeline.api.{home}"), name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *_HOME})


sys.modules[__name__].__class__ = _Package
