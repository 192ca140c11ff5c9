"""Options that several commands share, stated once."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

if TYPE_CHECKING:
    from pipeline.settings import Settings


def readable(text: str | None) -> str | None:
    """Text that the database can take: bytes of the command line that are none become `?`."""
    return text and text.encode("utf-8", "replace").decode()


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
Until = Annotated[
    str | None,
    typer.Option("--until", help='Only older: "1h" (ago), or an ISO time.', show_default=False),
]
Zone = Annotated[
    str,
    typer.Option("--zone", help="Time zone of times as given and as shown, e.g. Europe/Kyiv."),
]
Limit = Annotated[int, typer.Option("--limit", min=1, help="At most that many rows.")]
Search = Annotated[
    list[str] | None,
    typer.Argument(
        help='What to look for: a number, a part of a Call-ID, an address, "state:failed", "pdd>3s".',
        show_default=False,
    ),
]
Where = Annotated[
    str | None,
    typer.Option("--where", help='The same: for terms that begin with "-".', show_default=False),
]


class Span(NamedTuple):
    """[since, until), None being no bound, and the zone that times are shown in."""

    since: datetime | None
    until: datetime | None
    zone: tzinfo


def span(since: str | None, until: str | None = None, zone: str = "UTC") -> Span:
    """What --since, --until and --zone mean. Raises BadParameter, exit code 2."""
    where = zone_of(zone)
    return Span(_time("--since", since, where), _time("--until", until, where), where)


def zone_of(name: str) -> tzinfo:
    """The zone of that name. Raises BadParameter."""
    if name.upper() == "UTC":
        return UTC
    import zoneinfo

    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise typer.BadParameter(
            f"no time zone {name!r}: write Europe/Kyiv or UTC", param_hint="--zone"
        ) from None


def _time(option: str, text: str | None, zone: tzinfo) -> datetime | None:
    from pipeline.api.opened import moment

    try:
        return moment(text, zone)
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint=option) from None


def search_text(words: list[str] | None, where: str | None) -> str:
    """The search that arguments and --where make together."""
    return " ".join([*(words or ()), *([where] if where else ())])


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
