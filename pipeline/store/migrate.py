"""Bringing a lake to the newest shape: numbered SQL, all in one transaction."""

from __future__ import annotations

import duckdb

from pipeline.errors import StoreError
from pipeline.store.paths import StorePaths, fsync
from pipeline.store.schema import Migration, read_migrations


def store_version(connection: duckdb.DuckDBPyConnection) -> int:
    """The number of the last migration applied to the attached lake; 0 for a new one."""
    known = connection.execute(
        "SELECT count(*) FROM duckdb_tables() WHERE database_name = 'lake' AND table_name = 'schema_version'"
    ).fetchone()
    if known == (0,):
        return 0
    row = connection.execute("SELECT coalesce(max(version), 0) FROM lake.schema_version").fetchone()
    return int(row[0]) if row else 0


def migrate(
    connection: duckdb.DuckDBPyConnection, paths: StorePaths, migrations: list[Migration], node: str
) -> int:
    """Apply what is missing and return the version. Raises StoreError for a store newer than this code."""
    newest = len(migrations)
    version = require_known(connection, paths, newest)
    if version == newest:
        return version
    connection.execute("BEGIN")
    try:
        for migration in migrations[version:]:
            connection.execute(migration.sql)
            connection.execute(
                "INSERT INTO lake.schema_version VALUES (?, ?, ?, now())",
                [migration.version, migration.name, node],
            )
        folder = paths.table_folder("schema_version")
        for file in folder.iterdir():  # DuckDB does not fsync the Parquet files that it writes
            fsync(file)
        fsync(folder)
        connection.execute("COMMIT")
    except duckdb.Error as error:
        connection.execute("ROLLBACK")
        raise StoreError(f"cannot bring the store at {paths.root} to version {newest}: {error}") from error
    return newest


def require_known(connection: duckdb.DuckDBPyConnection, paths: StorePaths, newest: int) -> int:
    """The version of the attached lake. Raises StoreError for one that is newer than this code."""
    version = store_version(connection)
    if version > newest:
        raise StoreError(
            f"the store at {paths.root} has version {version}, and this hepduck knows only up to {newest}: "
            "install a newer one"
        )
    return version


def require_newest(connection: duckdb.DuckDBPyConnection, paths: StorePaths) -> None:
    """Raises StoreError when the attached lake is of another version than the one that this code reads."""
    newest = len(read_migrations())
    version = require_known(connection, paths, newest)
    if version < newest:
        raise StoreError(
            f"the store at {paths.root} has version {version}, and this hepduck reads version {newest}: "
            f"a start of its tap, or `hepduck store compact --store {paths.root}`, brings it up to date"
        )
