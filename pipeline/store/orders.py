"""What can be asked of a store as a whole: carried out by the running tap, or here while none runs.

Each order takes plain values and gives plain values: they go through the tap's socket.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from pipeline.store import upkeep
from pipeline.store.backup import back_up
from pipeline.store.control import ask, is_served
from pipeline.store.files import live_files
from pipeline.store.forget import forget
from pipeline.store.paths import StorePaths
from pipeline.store.retention import drop_replaced, prune
from pipeline.store.schema import tables
from pipeline.store.settings import RetentionSettings, WriterSettings
from pipeline.store.writer import Writer

_QUIET = WriterSettings(serve_readers=False)


def orders_of(writer: Writer, retention: RetentionSettings) -> Mapping[str, Callable[..., Any]]:
    """Name -> what carries it out."""
    return {
        "compact": partial(_compact, writer),
        "prune": partial(_prune, writer, retention),
        "backup": partial(_backup, writer),
        "forget": partial(_forget, writer),
    }


def carry_out(
    path: str | os.PathLike[str], node: str, retention: RetentionSettings, order: str, **arguments: Any
) -> Any:
    """Have the tap that runs with the store carry out an order, or do so here when none runs.

    Raises StoreError; ConfigError for arguments that make no sense.
    """
    paths = StorePaths.of(path)
    if is_served(paths):
        return ask(paths, order, **arguments)
    with Writer(paths.root, node, _QUIET) as writer:
        writer.flush()  # an order is about all that was acknowledged, also what a run left in the spool
        return orders_of(writer, retention)[order](**arguments)


def _compact(writer: Writer) -> dict[str, int]:
    """Drop every state that was replaced, write again what lost rows, join all files that are small."""
    with writer.tending() as cursor:
        before = live_files(cursor, writer.paths)
        drop_replaced(writer, cursor)
        for table in tables():
            upkeep.rewrite(cursor, writer.paths, table)
    writer.merge()
    with writer.tending() as cursor:
        upkeep.expire(cursor)
        deleted = upkeep.clean_up(cursor)
        after = live_files(cursor, writer.paths)
    return {
        "files_before": len(before),
        "files_after": len(after),
        "bytes_before": sum(file.bytes for file in before),
        "bytes_after": sum(file.bytes for file in after),
        "files_deleted": deleted,
    }


def _prune(writer: Writer, retention: RetentionSettings, *, dry_run: bool = False) -> list[dict[str, Any]]:
    dropped = [asdict(each) for each in prune(writer, retention, dry_run=dry_run)]
    if not dry_run:
        with writer.tending() as cursor:
            upkeep.expire(cursor)
            upkeep.clean_up(cursor)
    return dropped


def _backup(writer: Writer, *, target: str) -> dict[str, Any]:
    return asdict(back_up(writer, Path(target)))


def _forget(writer: Writer, *, whom: str, dry_run: bool = False) -> dict[str, Any]:
    return asdict(forget(writer, whom, dry_run=dry_run))
