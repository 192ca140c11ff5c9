"""Reading the lake: `open_reader(path)` gives a locked-down connection, whether a tap runs or not.

While a tap runs, its process serves the catalog on loopback (see `serving`) and readers read the Parquet
files themselves. While none runs, readers attach a private copy of the catalog file: an open reader on
the file itself would keep the tap from starting.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from pipeline.errors import StoreError
from pipeline.store.duck import connect, load_statements, quoted
from pipeline.store.migrate import require_newest
from pipeline.store.paths import (
    QuietStore,
    StorePaths,
    catalog_stamp,
    copy_catalog,
    require_store,
    writer_runs,
)

if TYPE_CHECKING:
    import pyarrow as pa

_RETRY_WAIT_S = 0.1
_ATTEMPTS = 3


def open_reader(
    path: str | os.PathLike[str],
    *,
    timeout_s: float = 10.0,
    memory_limit: str = "1GB",
    threads: int = 2,
    of_any_version: bool = False,
) -> duckdb.DuckDBPyConnection:
    """A read-only connection whose current database is the lake at `path`.

    It can read the store's Parquet files and nothing else of the file system; settings are locked, but for
    the time zone. Each statement sees the newest committed rows while a tap runs. Raises StoreError when
    there is no store, when it is of another version than this code's (unless `of_any_version`), or when it cannot be
    attached within `timeout_s`.
    """
    paths = StorePaths.of(path)
    deadline = time.monotonic() + timeout_s
    while True:
        require_store(paths)
        connection = _new_connection(memory_limit, threads)
        try:
            if _attach_copy(connection, paths) or _attach_served(connection, paths):
                if not of_any_version:
                    require_newest(connection, paths)
                _lock_down(connection, paths)
                return connection
            reason = "the tap is starting or stopping"
        except duckdb.Error as error:
            reason = str(error)
        connection.close()
        if time.monotonic() > deadline:
            raise StoreError(f"cannot read the store at {paths.root}: {reason}")
        time.sleep(_RETRY_WAIT_S)


def attach_lines(path: str | os.PathLike[str]) -> list[str]:
    """The lines to type into a DuckDB shell or notebook of the same DuckDB version to read the lake.

    They hold while the tap keeps running, or keeps not running: ask again after it started or stopped.
    """
    paths = StorePaths.of(path)
    require_store(paths)
    served = read_reader_file(paths) if writer_runs(paths) else None
    if served is None and not paths.catalog.exists():
        raise StoreError(f"the tap is making the store at {paths.root}: ask again in a moment")
    lines = [f"{statement};" for statement in load_statements()]
    if served is None:
        lines.append("-- close this before the tap starts: DuckDB locks the file")
        lines.append(_attach_statement(f"ducklake:{paths.catalog}", paths) + ";")
    else:
        lines.append(_secret_statement(served) + ";")
        lines.append(_attach_statement(f"ducklake:{served['endpoint']}", paths) + ";")
    return [*lines, "USE lake;"]


def read_reader_file(paths: StorePaths) -> dict[str, Any] | None:
    """What the running tap wrote for readers (endpoint, token, pid), or None when there is nothing whole."""
    try:
        served = json.loads(paths.reader_file.read_text("utf-8"))
    except (OSError, ValueError):
        return None
    return served if isinstance(served, dict) and {"endpoint", "token"} <= served.keys() else None


class Reader:
    """A reader that lives long: opens again when the tap starts, stops, or upkeep takes a file away.

    Several threads may ask at once; each question has a cursor of its own.
    """

    def __init__(self, path: str | os.PathLike[str], **options: Any) -> None:
        self._paths = StorePaths.of(path)
        self._options = options
        self._lock = threading.Lock()
        self._seen = _state(self._paths)
        self._connection = open_reader(path, **options)

    @property
    def connection(self) -> duckdb.DuckDBPyConnection:
        """The connection of the moment."""
        return self._connection

    def reopen(self) -> None:
        """Attach afresh: to the running tap, or to the newest catalog."""
        self._seen = _state(self._paths)
        # The old connection is dropped, not closed: another thread may still be reading from it.
        self._connection = open_reader(self._paths.root, **self._options)

    def query(self, sql: str, parameters: Any = None) -> pa.Table:
        """The whole result of `sql`. Tried again on a fresh attachment when the one in use went stale: the tap
        may stop, start or be killed between any two packets of an answer."""
        stale = None
        for attempt in range(_ATTEMPTS):
            connection = self._fresh(stale)
            try:
                cursor = connection.cursor()
                cursor.execute("USE lake")  # a cursor does not inherit it
                return cursor.execute(sql, parameters).to_arrow_table()
            except duckdb.Error as error:
                if attempt == _ATTEMPTS - 1 or not _went_stale(error):
                    raise
                stale = connection
        raise AssertionError("unreachable")

    def _fresh(self, stale: duckdb.DuckDBPyConnection | None) -> duckdb.DuckDBPyConnection:
        """The connection of the moment, opened again when the store changed hands or it is the `stale` one."""
        with self._lock:
            if self._connection is stale or _state(self._paths) != self._seen:
                self.reopen()
            return self._connection

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _state(paths: StorePaths) -> object:
    """What an attachment depends on: a running tap, or else the catalog and its log as they are."""
    return "live" if writer_runs(paths) else catalog_stamp(paths)


def _went_stale(error: duckdb.Error) -> bool:
    """Whether the attachment broke, not the statement. What broke while an answer is fetched comes as an
    InvalidInputException that quotes what is beneath: the server that died, or a transaction that was aborted, which
    no SELECT alone does."""
    if isinstance(error, duckdb.InvalidInputException):
        return "IO Error" in str(error) or "TransactionContext Error" in str(error)
    return isinstance(error, (duckdb.IOException, duckdb.HTTPException, duckdb.ConnectionException))


def _new_connection(memory_limit: str, threads: int) -> duckdb.DuckDBPyConnection:
    return connect(":memory:", memory_limit=memory_limit, threads=threads, temp_directory=_spill_folder())


def _spill_folder() -> Path:
    """A folder for DuckDB to make, use and remove, inside one that only the owner can read."""
    shared = Path(tempfile.gettempdir()) / f"hepduck-{os.getuid()}"
    shared.mkdir(mode=0o700, exist_ok=True)
    found = shared.lstat()
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        shared = Path(tempfile.mkdtemp(prefix="hepduck-"))  # somebody else was there first
    return shared / f"{os.getpid()}-{uuid.uuid4().hex}"


def _attach_copy(connection: duckdb.DuckDBPyConnection, paths: StorePaths) -> bool:
    """Attach a copy of the catalog, taken while no tap can start; False when one runs, or has made none yet."""
    with tempfile.TemporaryDirectory(prefix="hepduck-catalog-") as folder:
        copy = Path(folder) / paths.catalog.name
        with QuietStore(paths) as quiet:
            if not quiet or not paths.catalog.exists():
                return False
            copy_catalog(paths, copy)
        connection.execute(_attach_statement(f"ducklake:{copy}", paths))
        connection.execute("SELECT count(*) FROM lake.schema_version")  # all is read before the copy goes
    return True


def _attach_served(connection: duckdb.DuckDBPyConnection, paths: StorePaths) -> bool:
    """Attach through the running tap; False when it has not said yet where it serves."""
    served = read_reader_file(paths)
    if served is None:
        return False
    connection.execute(_secret_statement(served))
    connection.execute(_attach_statement(f"ducklake:{served['endpoint']}", paths))
    return True


def _attach_statement(source: str, paths: StorePaths) -> str:
    # The path of the files is given anew: a store may have been moved, or mounted elsewhere.
    options = f"READ_ONLY, DATA_PATH {quoted(f'{paths.files}/')}, OVERRIDE_DATA_PATH true"
    return f"ATTACH {quoted(source)} AS lake ({options})"


def _secret_statement(served: dict[str, Any]) -> str:
    endpoint, token = str(served["endpoint"]), str(served["token"])
    return f"CREATE SECRET (TYPE quack, TOKEN {quoted(token)}, SCOPE {quoted(endpoint)})"


def _lock_down(connection: duckdb.DuckDBPyConnection, paths: StorePaths) -> None:
    """From here on: the lake, its Parquet files, the time zone, and nothing else."""
    connection.execute("USE lake")
    connection.execute(f"SET allowed_directories = [{quoted(f'{paths.files}/')}]")
    connection.execute("SET enable_external_access = false")
    connection.execute("SET allowed_configs = ['TimeZone']")
    connection.execute("SET lock_configuration = true")
