"""Options that several commands share, stated once."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from pipeline.settings import Settings

ConfigFile = Annotated[
    Path | None,
    typer.Option(
        "-f",
        "--config",
        help="Configuration file [default: hepduck.toml, if there is one].",
        show_default=False,
    ),
]
NoConfig = Annotated[bool, typer.Option("--no-config", help="Read no configuration file.")]
Store = Annotated[
    Path | None,
    typer.Option("--store", help="Folder of the store [default: hepduck-data].", show_default=False),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", help="Override any setting: KEY=VALUE, VALUE as JSON or plain.", show_default=False
    ),
]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line.")]
Csv = Annotated[bool, typer.Option("--csv", help="CSV with a header line.")]
Since = Annotated[
    str | None,
    typer.Option("--since", help='Only newer: "1h", "30m", or an ISO time.', show_default=False),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most that many rows.")]


def settings_of(
    config: Path | None,
    no_config: bool,
    store: Path | None,
    set_: list[str] | None,
    extra: dict[str, Any] | None = None,
) -> tuple[Settings, dict[str, str]]:
    """The settings that the options describe, and where each value came from."""
    from pipeline.settings import load, parse_assignment

    overrides = dict(parse_assignment(text) for text in set_ or [])
    overrides |= extra or {}
    if store is not None:
        overrides["store.path"] = str(store)
    return load(config, overrides=overrides, no_file=no_config)


def store_path(store: Path | None) -> Path:
    """The store that a reading command means: the option, the environment, the file, the default."""
    return settings_of(None, False, store, None)[0].store.path
