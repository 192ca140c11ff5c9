"""SIGHUP: rules, brakes and detectors as the configuration says now; everything else needs a restart and is named.

What is wrong is refused as a whole: the tap goes on with what it had, and one line of the log says why. Actions
keep the settings of the start: nothing gets armed by a signal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import structlog
from pydantic import BaseModel

from pipeline.assemble import detectors_of
from pipeline.errors import HepduckError
from pipeline.settings import Settings

if TYPE_CHECKING:
    from pipeline.service import Service

log = structlog.get_logger(__name__)

_LIVE = ("rules", "detectors")


def reload(service: Service, read: Callable[[], Settings]) -> bool:
    """Take over what `read` gives now; to be called in the service's loop. False when it was refused."""
    old = service.settings
    try:
        new = read()
        detectors = detectors_of(new)
        service.engine.check(detectors)
        service.rules.reconfigure(new.rules)
    except (HepduckError, OSError) as error:
        log.error("configuration not reloaded, all stays as it was", error=str(error))
        return False
    replaced = service.engine.replace(detectors)
    changed = list(changed_keys(old, new))
    log.info(
        "configuration reloaded",
        changed=[key for key in changed if key.split(".")[0] in _LIVE],
        detectors_started_anew=replaced,
        needs_restart=[key for key in changed if key.split(".")[0] not in _LIVE],
    )
    service.settings = old.model_copy(update={name: getattr(new, name) for name in _LIVE})
    return True


def changed_keys(old: BaseModel, new: BaseModel, prefix: str = "") -> Iterator[str]:
    """The dotted keys whose values differ; secrets are compared, never shown."""
    for name in type(old).model_fields:
        before, after = getattr(old, name), getattr(new, name)
        if isinstance(before, BaseModel) and type(before) is type(after):
            yield from changed_keys(before, after, f"{prefix}{name}.")
        elif before != after:
            yield f"{prefix}{name}"
