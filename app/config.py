"""The settings that the app runs with."""

from __future__ import annotations

from pipeline.settings import Settings, load

_configured: list[Settings] = []


def configure(settings: Settings | None) -> None:
    """What `hepduck app` was started with; None: what the file and the environment say."""
    _configured[:] = [settings] if settings is not None else []


def settings() -> Settings:
    """The settings of this process."""
    if not _configured:
        _configured.append(load()[0])
    return _configured[0]
