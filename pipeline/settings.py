"""The whole configuration: `hepduck.toml`, the environment (`HEPDUCK_TAP__AUTH_KEY=...`), the command line.

Unknown keys are refused with the nearest known name; every value knows where it came from. With no file at
all the defaults do the main job.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import socket
import tomllib
from collections.abc import Iterator, Mapping
from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Any, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator

from pipeline.engine.rule_settings import RulesSettings
from pipeline.engine.state import StateSettings
from pipeline.errors import ConfigError
from pipeline.ingest.cdr.settings import CdrSourceSettings, with_names_of_their_own
from pipeline.ingest.tap import TapSettings
from pipeline.protocols.redact import EVERYTHING, Redacted
from pipeline.quality.settings import QualitySettings
from pipeline.store.settings import RetentionSettings, UpkeepSettings, WriterSettings

DEFAULT_FILE = Path("hepduck.toml")
_PREFIX = "HEPDUCK_"


class StoreSettings(UpkeepSettings):
    """Where the lake lies, how it is written, and what is kept."""

    model_config = ConfigDict(extra="forbid")

    path: Path = Field(Path("hepduck-data"), description="folder of the store")
    redact: list[Redacted] = Field(
        list(EVERYTHING), description="starred before it is stored: credentials, message_bodies"
    )
    retention: RetentionSettings = Field(default_factory=RetentionSettings, description="how long rows stay")
    writer: WriterSettings = Field(default_factory=WriterSettings, description="how it is written")


class MetricsSettings(BaseModel):
    """Prometheus endpoint; off unless `listen` is set."""

    model_config = ConfigDict(extra="forbid")

    listen: str | None = Field(None, description='"127.0.0.1:9096"; empty: no endpoint')


class AppSettings(BaseModel):
    """The web app of `hepduck app`. On an address that others can reach it wants a sign-in, one of three."""

    model_config = ConfigDict(extra="forbid")

    listen: str = Field("127.0.0.1:8501", description="HOST:PORT; port 0: any that is free")
    password_file: Path | None = Field(
        None, description="sign-in: lines that `hepduck app --password-line USER` prints"
    )
    proxy_header: str | None = Field(
        None, description='sign-in by a reverse proxy: its header with the user, "X-Forwarded-User"'
    )
    proxy_networks: list[str] = Field(
        default=[], description='where that proxy connects from, "10.0.0.5/32"; others are refused'
    )
    oidc_users: list[str] = Field(
        default=[], description='sign-in by OpenID Connect: emails that may, "*@example.com"'
    )
    secrets_file: Path = Field(
        Path(".streamlit/secrets.toml"), description="its [auth] says how to reach the OpenID provider"
    )
    tls_certificate: Path | None = Field(None, description="PEM; serve HTTPS")
    tls_key: Path | None = Field(None, description="PEM; the certificate's private key")
    mask_numbers: bool = Field(
        False, description="show and export telephone numbers without their last digits"
    )

    @field_validator("proxy_networks")
    @classmethod
    def _are_networks(cls, networks: list[str]) -> list[str]:
        return [str(ip_network(network)) for network in networks]


class LogSettings(BaseModel):
    """Logs go to stderr: JSON when that is no terminal."""

    model_config = ConfigDict(extra="forbid")

    level: str = Field(
        "info", description="debug, info, warning or error", pattern="^(debug|info|warning|error)$"
    )
    format: str = Field("auto", description="text, json or auto", pattern="^(text|json|auto)$")


class Settings(BaseModel):
    """Everything that can be set, by section."""

    model_config = ConfigDict(extra="forbid")

    node: str = Field(default_factory=socket.gethostname, description="this tap's name, on every row")
    plugins_dir: Path | None = Field(None, description="folder of further detectors and actions")
    tap: TapSettings = Field(default_factory=TapSettings)
    store: StoreSettings = Field(default_factory=StoreSettings)
    engine: StateSettings = Field(default_factory=StateSettings)
    rules: RulesSettings = Field(default_factory=RulesSettings)
    metrics: MetricsSettings = Field(default_factory=MetricsSettings)
    log: LogSettings = Field(default_factory=LogSettings)
    app: AppSettings = Field(default_factory=AppSettings)
    cdr: Annotated[list[CdrSourceSettings], AfterValidator(with_names_of_their_own)] = Field(
        default=[], description="tables and files with call detail records, one [[cdr]] each"
    )
    quality: QualitySettings = Field(default_factory=QualitySettings)
    # Plugins bring the models of their own tables; they are read when the plugins are loaded.
    detectors: dict[str, dict[str, Any]] = Field(default_factory=dict, description="a table for each")
    actions: dict[str, dict[str, Any]] = Field(default_factory=dict, description="a table for each")


def load(
    file: Path | None = None, *, overrides: Mapping[str, Any] | None = None, no_file: bool = False
) -> tuple[Settings, dict[str, str]]:
    """The settings, and for every key that was set where its value came from.

    `overrides` maps dotted keys to values (`{"tap.auth_key": "s3cret"}`) and wins over all else. Raises
    ConfigError with one line that names the place and the mend.
    """
    table: dict[str, Any] = {}
    sources: dict[str, str] = {}
    path = file or (DEFAULT_FILE if DEFAULT_FILE.exists() and not no_file else None)
    if path is not None and not no_file:
        table = _read(path)
        sources |= dict.fromkeys(_leaves(table), str(path))
    for key, name in sorted(_environment().items()):
        _require_section(key, name)
        _put(table, key, _list_or_table(os.environ[name]))
        sources[key] = f"${name}"
    for key, value in (overrides or {}).items():
        _put(table, key, value)
        sources[key] = "command line"
    try:
        return Settings.model_validate(table), sources
    except ValidationError as error:
        raise ConfigError(explain(error, Settings, _place(error, sources))) from error


def parse_assignment(text: str) -> tuple[str, Any]:
    """`detectors.late_register.window="30s"`: the key, and the value as JSON (or as it stands)."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {text}: write KEY=VALUE, for example detectors.late_register.window=30s")
    try:
        return key.strip(), json.loads(value)
    except ValueError:
        return key.strip(), value


def explain(error: ValidationError, model: type[BaseModel], place: str, prefix: str = "") -> str:
    """The first error of a validation in one line: place, key, what is wrong, and the nearest known name."""
    first = error.errors(include_url=False, include_input=False)[0]
    path = [str(part) for part in first["loc"]]
    key = ".".join([*([prefix] if prefix else []), *path])
    if first["type"] == "extra_forbidden":
        known = _known(model, path[:-1])
        near = difflib.get_close_matches(path[-1], known, n=1)
        mend = f"did you mean {near[0]}?" if near else f"known here: {', '.join(sorted(known))}"
        return f"{place}: unknown key {key}; {mend}"
    message = first["msg"].removeprefix("Value error, ")
    more = f" (and {error.error_count() - 1} more)" if error.error_count() > 1 else ""
    return f"{place}: {key}: {message}{more}"


def _environment() -> dict[str, str]:
    """Dotted key -> name of each variable that is ours."""
    return {
        name[len(_PREFIX) :].lower().replace("__", "."): name
        for name in os.environ
        if name.upper().startswith(_PREFIX)
    }


def _list_or_table(text: str) -> Any:
    """A list or table written as JSON; all else stays text, which fields of any other type can read."""
    if text.lstrip()[:1] in {"[", "{"}:
        with contextlib.suppress(ValueError):
            return json.loads(text)
    return text


def _require_section(key: str, name: str) -> None:
    """An `HEPDUCK_TAP_AUTH_KEY` that nobody reads would leave the tap open to all."""
    if key.partition(".")[0] in Settings.model_fields:
        return
    known = [known.upper().replace(".", "__") for known in _keys(Settings)]
    near = difflib.get_close_matches(name[len(_PREFIX) :].upper(), known, n=1)
    mend = f"did you mean {_PREFIX}{near[0]}?" if near else "`hepduck check --dump` lists all keys"
    raise ConfigError(f"${name}: unknown key {key}; {mend}")


def _keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """All dotted keys of a model."""
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _keys(field.annotation, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}"


def _place(error: ValidationError, sources: dict[str, str]) -> str:
    """Where the first error of a validation was written."""
    wrong = ".".join(str(part) for part in error.errors(include_url=False, include_input=False)[0]["loc"])
    return next(
        (
            place
            for key, place in reversed(sources.items())
            if f"{wrong}.".startswith(f"{key}.") or key.startswith(f"{wrong}.")
        ),
        "configuration",
    )


def _read(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror or error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: no valid TOML: {error}") from error


def _leaves(table: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in table.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"


def _put(table: dict[str, Any], key: str, value: Any) -> None:
    """Set one dotted key; tables grow as needed."""
    *parents, last = key.split(".")
    for parent in parents:
        child = table.get(parent)
        table[parent] = table = child if isinstance(child, dict) else {}
    table[last] = value


def _known(model: type[BaseModel], path: list[str]) -> list[str]:
    for part in path:
        if part.isdigit():  # a place in a list of tables
            continue
        field = model.model_fields.get(part)
        annotation = field.annotation if field else None
        annotation = next(iter(get_args(annotation)), annotation)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)
