"""The tables of the store, read from the migrations: the SQL there states each column once.

`columns("sip")` gives names and SQL types, `arrow_schema("sip")` the same for pyarrow, `layout("sip")` how
its files are laid out. Nothing here opens a database.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING

from pipeline.errors import StoreError

if TYPE_CHECKING:
    import pyarrow as pa

_MIGRATION_NAME = re.compile(r"(\d{4})_(\w+)\.sql")
_COMMENT = re.compile(r"--[^\n]*")
_DROP_TABLE = re.compile(r"DROP TABLE (\w+);")
_CREATE_TABLE = re.compile(r"CREATE TABLE (\w+) \((.*?)\n\s*\);", re.DOTALL)
_ADD_COLUMN = re.compile(r"ALTER TABLE (\w+) ADD COLUMN (\w+) ([A-Z]+(?:\[\])?)")
_COLUMN = re.compile(r"(\w+) ([A-Z]+(?:\[\])?),?")

# Columns with few distinct values, whatever their table: worth a dictionary in Parquet. The others would
# only cost the CPU to find that out.
_LOW_CARDINALITY = frozenset(
    {
        *("node", "agent", "agent_id", "agent_addr", "hep_version", "hep_versions", "transport", "direction"),
        *("src_ip", "dst_ip", "dst_port", "method", "status", "reason", "from_host", "to_host", "ruri_host"),
        *("user_agent", "reason_header", "sdp_ip", "sdp_codecs", "batch_id", "kind", "severity", "outcome"),
        *(
            "final_status",
            "final_reason",
            "codec",
            "event",
            "expires",
            "action",
            "rule",
            "source",
            "packet_type",
        ),
        *("disposition", "leg", "dry_run", "trusted"),
    }
)


@dataclass(frozen=True, slots=True)
class Migration:
    """One numbered SQL file."""

    version: int
    name: str
    sql: str


@dataclass(frozen=True, slots=True)
class Layout:
    """How the files of a table are laid out, and how its rows grow old.

    `latest_by`: the table holds states; of several rows of one batch with the same key the last one is kept.
    `age_column`: when a row came, for retention; never the sender's own time where there is another.
    `state_key`, `state_version`: of the rows with the same key only those of the highest version count.
    """

    sort_by: tuple[str, ...] = ()
    bloom_column: str | None = None
    partition_column: str | None = None
    latest_by: tuple[str, ...] = ()
    age_column: str = "recorded_at"
    state_key: tuple[str, ...] = ()
    state_version: str = "recorded_at"


def _messages(by: str) -> Layout:
    return Layout((by, "ts"), bloom_column=by, partition_column="received_at", age_column="received_at")


def _states(key: tuple[str, ...]) -> Layout:
    return Layout(latest_by=key, state_key=key)


def _units(name: str, time: str) -> Layout:
    return Layout(
        (name, time),
        bloom_column=name,
        partition_column="recorded_at",
        state_key=("unit",),
        state_version="revision",
    )


_LAYOUTS = {
    "sip": _messages("call_id"),
    "rtcp": _messages("correlation_id"),
    "log": _messages("correlation_id"),
    "weird": Layout(("received_at",), partition_column="received_at", age_column="received_at"),
    "call_state": replace(
        _states(("node", "call_id")),
        sort_by=("call_id", "first_ts"),
        bloom_column="call_id",
        partition_column="recorded_at",
    ),
    "agent_state": _states(("node", "agent")),
    "registration": Layout(("aor", "ts"), age_column="ts"),
    "leg_quality_state": _units("call_id", "ts"),
    "cdr_call_state": _units("call_id", "start_ts"),
    "call_leg_state": _units("name", "ts"),
    "quality_mark_state": Layout(state_key=("node",)),
    "cdr_source_state": Layout(state_key=("node", "source")),
    "cdr": Layout(age_column="imported_at"),
    "cdr_leg": Layout(age_column="imported_at"),
    "finding": Layout(age_column="ts"),
    "action_attempt": Layout(age_column="started_at"),
    "ingest_minute": Layout(age_column="minute"),
    "quality_hour_state": Layout(state_key=("hour",)),
    "schema_version": Layout(age_column="applied_at"),
}

# What callers name, and the table of states behind the view of that name.
_STATES = {
    "call": "call_state",
    "agent": "agent_state",
    "leg_quality": "leg_quality_state",
    "cdr_call": "cdr_call_state",
    "call_leg": "call_leg_state",
    "quality_mark": "quality_mark_state",
    "quality_hour": "quality_hour_state",
}


def base_table(name: str) -> str:
    """The table that rows for `name` go to: `call` is a view of the latest rows of `call_state`."""
    return _STATES.get(name, name)


def layout(table: str) -> Layout:
    """How the files of `table` are laid out."""
    return _LAYOUTS.get(table, Layout())


def low_cardinality(column: str) -> bool:
    """True for columns that are stored with a dictionary."""
    return column in _LOW_CARDINALITY


def read_migrations(folder: resources.abc.Traversable | None = None) -> list[Migration]:
    """The migrations in `folder` (the shipped ones by default), in order, numbered from 1 without a gap."""
    folder = folder or resources.files(f"{__package__}.migrations")
    found = [
        Migration(int(match[1]), match[2], entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if (match := _MIGRATION_NAME.fullmatch(entry.name))
    ]
    found.sort(key=lambda migration: migration.version)
    if [migration.version for migration in found] != list(range(1, len(found) + 1)):
        raise StoreError(f"the migrations in {folder} are not numbered 1, 2, 3 ...")
    return found


def parse_tables(migrations: list[Migration]) -> dict[str, dict[str, str]]:
    """Table name -> column name -> SQL type, after all of `migrations`."""
    tables: dict[str, dict[str, str]] = {}
    for migration in migrations:
        sql = _COMMENT.sub("", migration.sql)
        for name in _DROP_TABLE.findall(sql):
            tables.pop(name, None)
        for name, body in _CREATE_TABLE.findall(sql):
            tables[name] = dict(_COLUMN.findall(body))
        for name, column, sql_type in _ADD_COLUMN.findall(sql):
            tables[name][column] = sql_type
    return tables


@cache
def tables() -> dict[str, dict[str, str]]:
    """Table name -> column name -> SQL type, as shipped."""
    return parse_tables(read_migrations())


def columns(table: str) -> dict[str, str]:
    """Column name -> SQL type of `table` or of the states behind a view. Raises StoreError when unknown."""
    try:
        return tables()[base_table(table)]
    except KeyError:
        raise StoreError(f"the store has no table {table!r}") from None


@cache
def arrow_schema(table: str) -> pa.Schema:
    """The pyarrow schema of `table`: what `Writer.put` takes, and what its Parquet files hold."""
    return to_arrow(columns(table))


def to_arrow(sql_columns: dict[str, str]) -> pa.Schema:
    """The pyarrow schema of columns given as name -> SQL type."""
    import pyarrow as pa  # noqa: PLC0415  pyarrow costs 0.1 s to import; `hepduck --help` does without

    types = {
        "VARCHAR": pa.string(),
        "BLOB": pa.binary(),
        "BOOLEAN": pa.bool_(),
        "INTEGER": pa.int32(),
        "BIGINT": pa.int64(),
        "BIGINT[]": pa.list_(pa.int64()),
        "DOUBLE": pa.float64(),
        "TIMESTAMPTZ": pa.timestamp("us", "UTC"),
        "JSON": pa.json_(),
    }
    return pa.schema([pa.field(name, types[sql_type]) for name, sql_type in sql_columns.items()])
