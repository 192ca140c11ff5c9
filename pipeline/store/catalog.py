"""The writer's side of the lake: opening the catalog read-write, registering files in one transaction."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path

import duckdb
import pyarrow as pa

from pipeline.errors import StoreError
from pipeline.store.duck import connect, quoted
from pipeline.store.migrate import migrate
from pipeline.store.parquet import remove_files, write_files
from pipeline.store.paths import StorePaths, fsync
from pipeline.store.schema import Migration, layout
from pipeline.store.serving import serve, stop_serving
from pipeline.store.settings import WriterSettings

_OPTIONS = {
    "parquet_compression": "zstd",
    "parquet_compression_level": "1",
    "parquet_row_group_size": "16384",
    "target_file_size": "256MB",
}


class Catalog:
    """The one write connection. Its main database is the catalog file itself."""

    def __init__(
        self, paths: StorePaths, node: str, settings: WriterSettings, migrations: list[Migration]
    ) -> None:
        """Open or create, migrate, clear what a crash left behind, serve readers. Raises StoreError."""
        self._paths = paths
        self._node = node
        if not paths.catalog.exists() and next(paths.files.rglob("*.parquet"), None) is not None:
            # A new catalog would know none of them, and all that it does not know is cleared away below.
            raise StoreError(
                f"{paths.catalog} is gone, and its files are there: put the catalog back, from a backup if need be, "
                f"or move {paths.files} away to begin anew"
            )
        paths.files.mkdir(exist_ok=True)
        self.connection = connect(
            paths.catalog,
            memory_limit=settings.memory_limit,
            threads=settings.threads,
            temp_directory=paths.spill,
        )
        try:
            self._attach()
            self.version = migrate(self.connection, paths, migrations, node)
            # Files of batches that were never committed; nobody else writes while we hold the lock.
            self.connection.execute("CALL ducklake_delete_orphaned_files('lake', cleanup_all => true)")
            self._endpoint = serve(self.connection, paths) if settings.serve_readers else None
        except BaseException:
            self.connection.close()
            raise

    def _attach(self) -> None:
        run = self.connection.execute
        options = (
            f"DATA_PATH {quoted(f'{self._paths.files}/')}, OVERRIDE_DATA_PATH true, "
            f"METADATA_CATALOG {quoted(self._paths.catalog.stem)}, DATA_INLINING_ROW_LIMIT 0"
        )
        run(f"ATTACH {quoted(f'ducklake:duckdb:{self._paths.catalog}')} AS lake ({options})")
        # Files are local: the kernel keeps what is read again. DuckDB would fill its memory with what merges read once.
        run("SET GLOBAL enable_external_file_cache = false")
        run("SET GLOBAL ducklake_max_retry_count = 100")
        run("SET GLOBAL ducklake_retry_wait_ms = 20")
        run("SET GLOBAL ducklake_retry_backoff = 1.3")
        for name, value in _OPTIONS.items():
            run(f"CALL lake.set_option({quoted(name)}, {quoted(value)})")
        run("USE lake")

    def last_msg_id(self) -> int:
        """The highest `msg_id` in the store, 0 when there is none."""
        row = self.connection.execute(
            "SELECT greatest((SELECT max(msg_id) FROM sip), (SELECT max(msg_id) FROM rtcp), "
            "(SELECT max(msg_id) FROM log), 0)"
        ).fetchone()
        return int(row[0]) if row else 0

    def commit(
        self,
        batch_id: str,
        tables: Mapping[str, pa.Table],
        recorded_at: datetime,
        *,
        again: bool = False,
    ) -> None:
        """Write and register all of a batch, or nothing. After a failure call it `again` with the same batch:
        a COMMIT that failed may have come through.
        """
        if again and self.has_committed(batch_id):
            return
        files: dict[str, list[Path]] = {}
        try:
            for name, rows in tables.items():
                files[name] = write_files(self._paths, name, rows, batch_id, recorded_at)
            self.register(batch_id, files)
        except BaseException:
            if not self.has_committed(batch_id):
                for written in files.values():
                    remove_files(written)
            raise

    def register(self, batch_id: str, files: Mapping[str, Sequence[Path]]) -> None:
        """Make files that `write_files` wrote part of the lake, all of them or none: table name -> files."""
        run = self.connection.execute
        try:
            run("BEGIN")
            # The snapshot remembers the batch: so a retry after an unclear COMMIT stores nothing twice.
            author, batch = quoted(self._node), quoted(batch_id)
            run(f"CALL lake.set_commit_message({author}, 'batch', extra_info => {batch})")
            for name, written in files.items():
                run(_add_files_statement(name, written))
            run("COMMIT")
        except BaseException:
            self._roll_back()
            raise

    def has_committed(self, batch_id: str) -> bool:
        """True when the batch is in the lake."""
        found = self.connection.execute(
            "SELECT count(*) FROM ducklake_snapshots('lake') WHERE commit_extra_info = ?", [batch_id]
        ).fetchone()
        return found != (0,)

    def committed(self, batch_ids: Collection[str]) -> set[str]:
        """Of these batches, and of parts of them (`ID.part`): the ids of those that are in the lake."""
        if not batch_ids:
            return set()
        found = self.connection.execute(
            "SELECT commit_extra_info FROM ducklake_snapshots('lake')"
            " WHERE list_contains(?, commit_extra_info) OR list_contains(?, split_part(commit_extra_info, '.', 1))",
            [list(batch_ids)] * 2,
        ).fetchall()
        return {str(batch_id) for (batch_id,) in found}

    def probe(self, size_bytes: int) -> None:
        """Write so much among the files, and something into the catalog: raises what a commit would of the disk."""
        file = self._paths.files / "probe"
        try:
            with file.open("wb") as probe:
                probe.write(bytes(size_bytes))
                probe.flush()
                os.fsync(probe.fileno())
        finally:
            file.unlink(missing_ok=True)
        name, value = next(iter(_OPTIONS.items()))
        self.connection.execute(f"CALL lake.set_option({quoted(name)}, {quoted(value)})")

    def _roll_back(self) -> None:
        try:
            self.connection.execute("ROLLBACK")
        except duckdb.Error:  # no transaction was open, or the connection is gone
            return

    def write_copy(self, file: Path) -> list[str]:
        """Write the catalog as it is at this moment to a new file, durably, without what was deleted from it.

        Returns the files that it names, of older snapshots too, below the folder of files.
        """
        file.unlink(missing_ok=True)
        with self.connection.cursor() as cursor:
            cursor.execute(f"ATTACH {quoted(file)} AS copied")
            try:
                cursor.execute(f"COPY FROM DATABASE {self._paths.catalog.stem} TO copied")
                named = cursor.execute("""
                    SELECT DISTINCT concat('main/', t.path, f.path) FROM copied.main.ducklake_table t JOIN (
                        SELECT table_id, path FROM copied.main.ducklake_data_file
                        UNION ALL SELECT table_id, path FROM copied.main.ducklake_delete_file
                    ) f USING (table_id)""").fetchall()
            finally:
                cursor.execute("DETACH copied")
        fsync(file)
        fsync(file.parent)
        return [str(name) for (name,) in named]

    def close(self) -> None:
        """Stop serving and close."""
        if self._endpoint is not None:
            stop_serving(self.connection, self._paths, self._endpoint)
        # A reader's session that has not ended yet keeps the database open, and would do this late.
        with suppress(duckdb.Error):
            self.connection.execute(f"CHECKPOINT {self._paths.catalog.stem}")
        self.connection.close()


def _add_files_statement(table: str, files: Sequence[Path]) -> str:
    listed = ", ".join(quoted(file) for file in files)
    partitioned = ", hive_partitioning => true, ignore_extra_columns => true"
    options = partitioned if layout(table).partition_column else ""
    return f"CALL ducklake_add_data_files('lake', {quoted(table)}, [{listed}]{options})"
