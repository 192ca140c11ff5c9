"""One `[[cdr]]` entry of the configuration: a table or a file, and what its columns mean."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit
from zoneinfo import ZoneInfo

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from pipeline.durations import Duration
from pipeline.ingest.cdr.columns import PRESETS, ColumnMap, Preset, column_list

_SCHEMES = ("mysql", "mariadb", "postgresql", "postgres")
_ROTATED = re.compile(r"(\.\d+|[-.]\d{8}(\d{2})*)?(\.gz)?$")


class CdrSourceSettings(BaseModel):
    """Where CDRs come from. `source` is a file, or `mysql://user@host/database?table=cdr` (`postgresql://`).

    Table and column names come from here only, never from data; a read-only account is enough.
    """

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="path of a file, or mysql://... or postgresql://... with ?table=NAME")
    name: str = Field("", description="what rows and status call it [default: from the source]")
    preset: Literal["cdr_extra", "cdr_adaptive", "cdr_csv", "cdr_custom", "freepbx", "leg_qos"] = Field(
        "cdr_adaptive", description="a well-known shape of table or file"
    )
    columns: dict[str, str] = Field(default={}, description='their names -> ours: {callid = "sip_callid"}')
    order: list[str] = Field(default=[], description="columns of a file without header, in their names")
    zone: str = Field("UTC", description='time zone of the times in it: "Europe/Kyiv"')
    password: SecretStr | None = Field(None, description="of the database, so that the URL needs none")
    format: Literal["auto", "csv", "tsv", "outfile", "json"] = Field(
        "auto", description="of a file; outfile: SELECT ... INTO OUTFILE of MySQL"
    )
    interval: Duration = Field(timedelta(seconds=30), description="time between polls")
    jitter: Duration = Field(timedelta(seconds=3), description="each poll is early or late by up to that")
    overlap: Duration = Field(
        timedelta(hours=2), description="tables: each poll looks back that far, for calls that ended since"
    )
    sweep_overlap: Duration = Field(
        timedelta(hours=25), description="tables: each sweep does; longer than the longest call"
    )
    sweep_interval: Duration = Field(timedelta(hours=1), description="tables: time between sweeps")
    timeout: Duration = Field(timedelta(seconds=60), description="longest wait for the database")

    @model_validator(mode="before")
    @classmethod
    def _read_columns(cls, given: Any) -> Any:
        """`columns` may be a table (names), a list (order), or either in one line: `a=src,b=dst` or `a,b`."""
        if not isinstance(given, dict):
            return given
        columns = given.get("columns")
        if isinstance(columns, str):
            pairs = [part.strip().partition("=") for part in columns.split(",")]
            if all(equals and ours[:1] != ">" for _, equals, ours in pairs):
                return {**given, "columns": {theirs: ours for theirs, _, ours in pairs}}
            columns = column_list(columns)
        if isinstance(columns, list):
            return {**given, "columns": {}, "order": columns}
        return given

    @field_validator("source")
    @classmethod
    def _names_a_table(cls, source: str) -> str:
        scheme, _, rest = source.partition("://")
        if not rest:
            if not source.strip():
                raise ValueError("write the path of a file, or mysql://... or postgresql://...")
            return source
        if scheme not in _SCHEMES:
            raise ValueError(f"{scheme}://: known are {', '.join(f'{s}://' for s in _SCHEMES)}, and files")
        try:
            parts = urlsplit(source)
            _ = parts.port
        except ValueError:
            raise ValueError("no URL; write mysql://user:password@host:port/database?table=NAME") from None
        if not dict(parse_qsl(parts.query)).get("table"):
            raise ValueError("name the table: add ?table=NAME to the URL")
        return source

    @field_validator("zone")
    @classmethod
    def _is_a_zone(cls, zone: str) -> str:
        try:
            ZoneInfo(zone)
        except (KeyError, OSError, ValueError):  # no such zone, a folder of zones, a path
            raise ValueError(f'{zone!r} is no time zone; write for example "Europe/Kyiv" or "UTC"') from None
        return zone

    @field_validator("columns")
    @classmethod
    def _are_known(cls, columns: dict[str, str], info: ValidationInfo) -> dict[str, str]:
        known = PRESETS[info.data.get("preset", "cdr_adaptive")].fields
        for theirs, ours in columns.items():
            if ours not in known:
                raise ValueError(f"{theirs} = {ours!r}: known are {', '.join(known)}")
        return columns

    @model_validator(mode="after")
    def _has_a_name(self) -> CdrSourceSettings:
        self.name = self.name or self._default_name()
        return self

    @field_serializer("source")
    def _without_password(self, source: str) -> str:
        return self.shown if self.is_table else source

    @property
    def is_table(self) -> bool:
        """A table in a database, not a file."""
        return "://" in self.source

    @property
    def shape(self) -> Preset:
        """What the preset says."""
        return PRESETS[self.preset]

    @property
    def column_map(self) -> ColumnMap:
        """Their names -> ours."""
        return ColumnMap(self.shape, self.columns)

    @property
    def tz(self) -> ZoneInfo:
        """The zone of times that name none."""
        return ZoneInfo(self.shape.zone or self.zone)

    @property
    def path(self) -> Path:
        """The file."""
        return Path(self.source).expanduser()

    @property
    def shown(self) -> str:
        """The source without its password."""
        parts = urlsplit(self.source)
        user, at, host = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=user.partition(":")[0] + at + host)) if at else self.source

    @property
    def table(self) -> str:
        """The table's name, perhaps with its schema."""
        return dict(parse_qsl(urlsplit(self.source).query))["table"]

    @property
    def url(self) -> str:
        """The database's URL with the password, without our own parameters."""
        parts = urlsplit(self.source)
        query = [(key, value) for key, value in parse_qsl(parts.query) if key != "table"]
        return urlunsplit(parts._replace(query=urlencode(query)))

    def _default_name(self) -> str:
        """A rotated file keeps the name of the one it was: the same rows must keep the same name."""
        if not self.is_table:
            return _ROTATED.sub("", self.path.name) or self.path.name
        parts = urlsplit(self.source)
        port = f":{parts.port}" if parts.port else ""
        return f"{parts.hostname or 'localhost'}{port}{parts.path}.{self.table}"


def with_names_of_their_own(sources: list[CdrSourceSettings]) -> list[CdrSourceSettings]:
    """The sources as they are; ValueError when two have one name, since rows are known by it."""
    names = [source.name for source in sources]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"two sources are called {name!r}: give them a name each")
    return sources
