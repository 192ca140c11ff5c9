"""What a store holds, table by table and as a whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from pipeline.durations import format_duration
from pipeline.store import queries
from pipeline.store.files import READER_CATALOG
from pipeline.store.lake import Reader
from pipeline.store.paths import StorePaths, writer_runs
from pipeline.store.settings import RetentionSettings, to_bytes
from pipeline.store.sifting import refused_files


def overview(
    reader: Reader, path: str | Path, retention: RetentionSettings, spool_dir: Path | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows for each table (`queries.info`, and how long its rows stay), and facts about the whole by name."""
    paths = StorePaths.of(path)
    kept = retention.by_table()
    tables = [
        {**row, "kept": format_duration(kept[row["table_name"]]) if row["table_name"] in kept else None}
        for row in queries.info(reader)
    ]
    (snapshots,) = reader.query(f"SELECT count(*) AS n FROM {READER_CATALOG}.ducklake_snapshot").to_pylist()
    (version,) = reader.query("SELECT max(version) AS n FROM schema_version").to_pylist()
    on_disk = [file.stat().st_size for file in paths.files.rglob("*.parquet") if file.exists()]
    disk = shutil.disk_usage(paths.root)
    spool = paths.spool(spool_dir)
    spooled = [file.stat().st_size for file in spool.glob("*.arrow") if file.exists()]
    return tables, {
        "path": str(paths.root),
        "version": version["n"],
        "tap_runs": writer_runs(paths),
        "live_bytes": sum(row["bytes"] or 0 for row in tables),
        "allowed_bytes": to_bytes(retention.max_size, disk.total),
        "files": len(on_disk),
        "files_bytes": sum(on_disk),
        "catalog_bytes": sum(
            file.stat().st_size for file in (paths.catalog, paths.catalog_log) if file.exists()
        ),
        "ledger_bytes": paths.ledger.stat().st_size if paths.ledger.exists() else 0,
        "snapshots": snapshots["n"],
        "spool": str(spool),
        "spool_files": len(spooled),
        "spool_bytes": sum(spooled),
        "spool_broken": sum(1 for _ in spool.glob("*.broken")),
        "refused_files": sum(1 for _ in refused_files(paths.refused)),
        "free_bytes": disk.free,
    }
