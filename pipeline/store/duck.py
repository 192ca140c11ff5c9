"""DuckDB connections with the extensions of the store, from the installed wheels: nothing is downloaded."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import duckdb

from pipeline.errors import StoreError

EXTENSIONS = ("ducklake", "quack", "httpfs")  # quack needs httpfs on both ends, for its HTTP and its crypto


_HOLDER = re.compile(r"lock is held in (.+?) \(PID (\d+)\)")


class CatalogHeldError(StoreError):
    """Another program has the file open; the message says which, where DuckDB tells."""


def quoted(text: str | Path) -> str:
    """`text` as an SQL string: for the statements that take no parameters."""
    return "'" + str(text).replace("'", "''") + "'"


def load_statements() -> list[str]:
    """The LOAD statements for the extensions: from the wheels, else as installed by the user."""
    return [f"LOAD {quoted(file) if (file := _wheel_file(name)) else name}" for name in EXTENSIONS]


def _wheel_file(name: str) -> Path | None:
    """The extension inside its wheel `duckdb-extension-NAME`, loaded in place: no home folder needed."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or not spec.submodule_search_locations:
        return None
    folder = Path(spec.submodule_search_locations[0]) / "extensions" / f"v{duckdb.__version__}"
    file = folder / f"{name}.duckdb_extension"
    return file if file.is_file() else None


def connect(
    database: str | Path, *, memory_limit: str, threads: int, temp_directory: Path
) -> duckdb.DuckDBPyConnection:
    """A connection with limits set and extensions loaded. Raises StoreError with the mend."""
    try:
        connection = duckdb.connect(
            str(database),
            config={
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                # Checking 90 MB of signatures takes a third of a second each time; who can change the wheels
                # can change this line as well.
                "allow_unsigned_extensions": all(map(_wheel_file, EXTENSIONS)),
                "memory_limit": memory_limit,
                "threads": threads,
                "temp_directory": str(temp_directory),
                "preserve_insertion_order": False,
            },
        )
    except duckdb.Error as error:
        raise _cannot_open(database, error) from error
    try:
        for statement in load_statements():
            connection.execute(statement)
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
    except duckdb.Error as error:
        connection.close()
        raise StoreError(
            f"an extension of DuckDB {duckdb.__version__} is missing: install the wheels "
            f"{', '.join('duckdb-extension-' + name for name in EXTENSIONS)} of that version ({error})"
        ) from error
    return connection


def _cannot_open(database: str | Path, error: duckdb.Error) -> StoreError:
    if "lock" not in str(error).lower():
        return StoreError(f"cannot open {database}: {error}")
    holder = _HOLDER.search(str(error))
    program = f"another program ({holder[1]}, pid {holder[2]})" if holder else f"another program ({error})"
    return CatalogHeldError(f"{database} is open in {program}: close it there first")
