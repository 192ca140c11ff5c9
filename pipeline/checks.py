"""`hepduck check`: everything that can be known to be wrong before the tap runs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import BaseModel

from pipeline.assemble import actions_of, detectors_of
from pipeline.engine.rule_settings import check_rules
from pipeline.errors import HepduckError, StoreError
from pipeline.ingest.cdr.trial import try_source
from pipeline.ingest.tap import Tap
from pipeline.metrics import try_listen
from pipeline.settings import Settings
from pipeline.store.lake import open_reader
from pipeline.store.migrate import require_known
from pipeline.store.paths import StorePaths, writer_runs
from pipeline.store.schema import read_migrations
from pipeline.store.spool import is_writable

_LOGIN = re.compile(r"(?<=://)[^/?#\s]*@")


class Check(NamedTuple):
    """One thing that was looked at."""

    what: str
    ok: bool
    detail: str


def run_checks(settings: Settings) -> list[Check]:
    """All checks, in the order in which a start would meet them."""
    return [
        _try("detectors", lambda: _names(detectors_of(settings))),
        _try("actions", lambda: _actions(settings)),
        _try("listen", lambda: _listen(settings)),
        _try("metrics", lambda: try_listen(settings.metrics)),
        _try("store", lambda: _store(settings.store.path)),
        _try("spool", lambda: _spool(settings)),
        *(_try(f"cdr {source.name}", partial(try_source, source)) for source in settings.cdr),
    ]


def dump_settings(settings: Settings, sources: dict[str, str]) -> Iterator[tuple[str, Any, str]]:
    """Every setting, plugins included: dotted key, value (secrets masked), source."""
    tables = settings.model_dump(mode="json")
    tables["detectors"] = {d.name: _table(d) for d in detectors_of(settings)}
    tables["actions"] = {a.name: _table(a) for a in actions_of(settings).values()}
    for key, value in _leaves(tables, ""):
        source = next((s for k, s in sources.items() if key == k or key.startswith(f"{k}.")), "default")
        yield key, without_password(value), source


def without_password(value: Any) -> Any:
    """A setting as it may be shown: of a URL, not who logs in there (fields for secrets mask themselves)."""
    return _LOGIN.sub("***@", value) if isinstance(value, str) else value


def _table(part: Any) -> dict[str, Any]:
    settings = getattr(part, "settings", None)
    return settings.model_dump(mode="json") if isinstance(settings, BaseModel) else {}


def _leaves(table: dict[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in table.items():
        if isinstance(value, dict) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _try(what: str, look: Callable[[], str]) -> Check:
    try:
        return Check(what, True, look())
    except (HepduckError, OSError) as error:
        return Check(what, False, str(error))


def _names(parts: list[Any]) -> str:
    return ", ".join(part.name for part in parts) or "none"


def _actions(settings: Settings) -> str:
    actions = actions_of(settings)
    check_rules(settings.rules, actions)
    armed = [name for name, action in actions.items() if action.live and action.touches_world]
    return f"armed: {', '.join(armed)}" if armed else "all in dry run; nothing will be sent"


def _listen(settings: Settings) -> str:
    tap = Tap(settings.tap, lambda _batch: None)  # binds, receives nothing
    warnings = tap.warnings()
    tap.stop()
    return "; ".join([" ".join(str(address) for address in tap.addresses), *warnings])


def _spool(settings: Settings) -> str:
    how, paths = settings.store.writer, StorePaths.of(settings.store.path)
    if not how.spool_bytes:
        return "none (store.writer.spool_bytes = 0): what the store does not take is lost once memory is full"
    folder = paths.spool(how.spool_dir)
    if not is_writable(folder):
        raise StoreError(f"{folder} cannot be written (store.writer.spool_dir)")
    return f"{folder}, up to {how.spool_bytes / 1e6:.0f} MB"


def _store(path: Path) -> str:
    paths = StorePaths.of(path)
    if writer_runs(paths):
        raise StoreError(f"another hepduck is writing to {paths.root}")
    if not is_writable(paths.root):
        raise StoreError(f"{paths.root} cannot be written")
    if not paths.catalog.exists():
        return f"{paths.root} (will be made)"
    newest = len(read_migrations())
    with open_reader(paths.root, of_any_version=True) as reader:
        version = require_known(reader, paths, newest)
    return str(paths.root) if version == newest else f"{paths.root} (version {version}, will become {newest})"
