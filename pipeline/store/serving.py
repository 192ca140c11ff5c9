"""Serving the catalog to readers in other processes, through DuckDB's `quack` extension.

Loopback only, a random token per start in a file that only the owner can read, and on the server's side a
guard that lets pass what a reader needs and nothing else: SELECTs from named tables, and the few table
functions that DuckLake's reader calls; none that could touch files or change anything. The guard judges
the tree that DuckDB's own parser makes of a statement.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
from contextlib import suppress

import duckdb

from pipeline.errors import StoreError
from pipeline.store.duck import quoted
from pipeline.store.paths import StorePaths

# The table functions that DuckLake's reader calls.
_HARMLESS_FUNCTIONS = frozenset({"duckdb_tables", "duckdb_views", "duckdb_secrets", "duckdb_functions"})
_ATTEMPTS = 5


def serve(connection: duckdb.DuckDBPyConnection, paths: StorePaths) -> str:
    """Serve readers from this process, write the reader file, and return the endpoint."""
    _install_guard(connection)
    token = secrets.token_urlsafe(32)
    for _ in range(_ATTEMPTS):  # the port may be taken between asking for a free one and using it
        endpoint = f"quack:127.0.0.1:{_free_port()}"
        try:
            connection.execute(f"CALL quack_serve({quoted(endpoint)}, token = {quoted(token)})")
            break
        except duckdb.IOException as error:
            refused = error
    else:
        raise StoreError(f"cannot serve readers on loopback: {refused}") from refused
    _write_reader_file(paths, {"endpoint": endpoint, "token": token, "pid": os.getpid()})
    return endpoint


def stop_serving(connection: duckdb.DuckDBPyConnection, paths: StorePaths, endpoint: str) -> None:
    """Take the reader file away and stop the server."""
    paths.reader_file.unlink(missing_ok=True)
    with suppress(duckdb.Error):  # a database that broke down stops serving with it
        connection.execute(f"CALL quack_stop({quoted(endpoint)})")


def _install_guard(connection: duckdb.DuckDBPyConnection) -> None:
    allowed = ", ".join(quoted(name) for name in sorted(_HARMLESS_FUNCTIONS))
    connection.execute("ATTACH IF NOT EXISTS ':memory:' AS guard")
    table_function = """'"type":"TABLE_FUNCTION".*?"function_name":"([^"]*)"'"""
    table_name = """'"table_name":"([^"]*)"'"""
    connection.execute(f"""
        CREATE OR REPLACE MACRO guard.main.only_reads(tree) AS
            tree->>'error' = 'false'
            AND len(regexp_extract_all(tree::VARCHAR, {table_function}, 1)
                .list_filter(f -> f NOT IN ({allowed}))) = 0
            AND len(regexp_extract_all(tree::VARCHAR, {table_name}, 1)
                .list_filter(t -> NOT regexp_full_match(t, '[A-Za-z_][A-Za-z0-9_]*'))) = 0""")
    connection.execute("""
        CREATE OR REPLACE MACRO guard.main.may_run(connection_id, query) AS
            guard.main.only_reads(json_serialize_sql(query::VARCHAR))""")
    connection.execute("SET GLOBAL quack_authorization_function = 'guard.main.may_run'")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_reader_file(paths: StorePaths, content: dict[str, object]) -> None:
    fresh = paths.reader_file.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(fd, "w", encoding="utf-8") as file:
        json.dump(content, file)
    fresh.replace(paths.reader_file)
