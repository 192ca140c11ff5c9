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
    from pipeline.api import health as health
    from pipeline.api.calls import CallLadder as CallLadder
    from pipeline.api.calls import call as call
    from pipeline.api.calls import call_states as call_states
    from pipeline.api.calls import calls as calls
    from pipeline.api.calls import count_calls as count_calls
    from pipeline.api.calls import ladder as ladder
    from pipeline.api.calls import messages as messages
    from pipeline.api.delays import ghost_rule as ghost_rule
    from pipeline.api.delays import other_windows as other_windows
    from pipeline.api.delays import register_delays as register_delays
    from pipeline.api.delays import replay_stored as replay_stored
    from pipeline.api.files import open_files as open_files
    from pipeline.api.findings import action_counts as action_counts
    from pipeline.api.findings import action_states as action_states
    from pipeline.api.findings import actions as actions
    from pipeline.api.findings import attempt_words as attempt_words
    from pipeline.api.findings import finding_kinds as finding_kinds
    from pipeline.api.findings import finding_totals as finding_totals
    from pipeline.api.findings import findings as findings
    from pipeline.api.findings import findings_over_time as findings_over_time
    from pipeline.api.ghost import GhostStory as GhostStory
    from pipeline.api.ghost import ghost_story as ghost_story
    from pipeline.api.live import message_rate as message_rate
    from pipeline.api.live import tail as tail
    from pipeline.api.opened import Store as Store
    from pipeline.api.opened import open as open
    from pipeline.api.quality import quality as quality
    from pipeline.api.quality import quality_bands as quality_bands
    from pipeline.api.quality import quality_by_hour as quality_by_hour
    from pipeline.api.quality import quality_coverage as quality_coverage
    from pipeline.api.quality import quality_methods as quality_methods
    from pipeline.api.quality import quality_over_time as quality_over_time
    from pipeline.api.quality import quality_overview as quality_overview
    from pipeline.api.quality import quality_spread as quality_spread
    from pipeline.api.quality import worst_calls as worst_calls
    from pipeline.api.registrations import binding_counts as binding_counts
    from pipeline.api.registrations import bindings as bindings
    from pipeline.api.registrations import flaps as flaps
    from pipeline.api.registrations import refresh_intervals as refresh_intervals
    from pipeline.api.registrations import registration_failures as registration_failures
    from pipeline.api.registrations import registration_rate as registration_rate
    from pipeline.api.registrations import registrations as registrations
    from pipeline.api.replaying import replay as replay
    from pipeline.api.sql import sql as sql

# The module of `pipeline.api` -> its names that are public here.
_NAMES = {
    "calls": "CallLadder call call_states calls count_calls ladder messages",
    "delays": "ghost_rule other_windows register_delays replay_stored",
    "files": "open_files",
    "findings": "action_counts action_states actions attempt_words finding_kinds finding_totals findings "
    "findings_over_time",
    "ghost": "GhostStory ghost_story",
    "live": "message_rate tail",
    "opened": "Store open",
    "quality": "quality quality_bands quality_by_hour quality_coverage quality_methods "
    "quality_over_time quality_overview quality_spread worst_calls",
    "registrations": "binding_counts bindings flaps refresh_intervals registration_failures "
    "registration_rate registrations",
    "replaying": "replay",
    "sql": "sql",
}
_HOME = {name: f"pipeline.api.{module}" for module, names in _NAMES.items() for name in names.split()}
_MODULES = {"health": "pipeline.api.health"}  # public as they are
__all__ = tuple(_HOME | _MODULES)


class _Package(ModuleType):
    """This package: `pipeline.ladder` and others are functions here, though modules have these names too."""

    def __getattribute__(self, name: str) -> object:
        if name in _HOME:
            return getattr(importlib.import_module(_HOME[name]), name)
        if name in _MODULES:
            return importlib.import_module(_MODULES[name])
        return super().__getattribute__(name)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *__all__})


sys.modules[__name__].__class__ = _Package
