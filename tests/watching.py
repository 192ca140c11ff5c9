"""To import: detectors over stories and recordings, through the real engine, in event time."""

from __future__ import annotations

import gc
import sys
from types import FunctionType, ModuleType

from pydantic import BaseModel
from story import Story, play

from pipeline.engine.commands import Finding
from pipeline.engine.engine import Detector, Engine
from pipeline.engine.events import SipEvent
from pipeline.engine.state import State


def watch(detector: Detector, events: list[SipEvent]) -> list[Finding]:
    """The findings of the detector in these events, in this order; it must not fail."""
    engine = Engine([detector])
    findings = play(events, engine)
    assert engine._failures == {}
    return findings


def told(story: Story, detector: Detector) -> list[Finding]:
    """The findings in a story, in order of time."""
    return watch(detector, sorted(story.events, key=lambda event: event.ts_us))


def held_bytes(detector: Detector) -> int:
    """What a detector remembers, without what it was told and what the engine knows."""
    seen: set[int] = set()
    todo: list[object] = [vars(detector)]
    total = 0
    while todo:
        item = todo.pop()
        if id(item) not in seen and not isinstance(item, (type, ModuleType, FunctionType, BaseModel, State)):
            seen.add(id(item))
            total += sys.getsizeof(item)
            todo += gc.get_referents(item)
    return total
