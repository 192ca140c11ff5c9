"""Batches on disk that the store does not take at the moment: bounded, in order, each exactly once.

A file is a batch: one Arrow IPC stream after the other, a table each. Its name is its place in the order and its
batch id, by which the catalog knows whether it has it. Files come by rename, so one that has its name is whole;
what a crash cut off is kept aside as `*.broken`.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import structlog

from pipeline.errors import StoreError
from pipeline.store.parquet import conform
from pipeline.store.paths import StorePaths, fsync, identity
from pipeline.store.settings import WriterSettings

_NAME: Final = re.compile(r"(\d{10})-([\w.-]+)\.arrow", re.ASCII)
_PART: Final = ".part"
_BROKEN: Final = ".broken"
_ABOUT: Final = b"hepduck"
_OPTIONS: Final = pa.ipc.IpcWriteOptions(compression="lz4")

_log = structlog.get_logger(__name__)


class BrokenFileError(StoreError):
    """A file of the spool that does not hold a whole batch."""


@dataclass(eq=False, slots=True)
class SpoolFile:
    """One batch on disk. `done`: the parts of it that the store has already, by id (see `store.sifting`)."""

    path: Path
    place: int
    batch_id: str
    rows: dict[str, int]
    bytes: int
    last_msg_id: int
    left_behind: bool  # by a run before this one
    done: set[str] = field(default_factory=set)


@dataclass(frozen=True, slots=True)
class SpoolStatus:
    """What waits on disk. `broken` files were set aside: by a crash cut off, or damaged."""

    folder: str
    files: int
    rows: int
    bytes: int
    allowed_bytes: int
    broken: int
    full: bool  # no room for the last batch
    error: str | None  # of the last write, while it fails


class Spool:
    """The files in one folder. The spooler writes them, the writer reads them; both remove what is stored."""

    def __init__(self, folder: Path, allowed_bytes: int, node: str) -> None:
        """Make the folder, and look what lies there. Raises OSError."""
        self.folder = folder
        self.allowed_bytes = allowed_bytes
        self._node = node
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._identity = identity(folder)
        self._stored: list[Path] = []  # and not yet deleted
        self.broken = 0
        for file in sorted(folder.glob(f"*{_PART}")):
            self._set_aside(file, "a crash cut it off")
        self.broken = len(list(folder.glob(f"*{_BROKEN}")))

    def left_behind(self) -> Iterator[SpoolFile]:
        """The batches of runs before this one, oldest first."""
        for path in sorted(self.folder.iterdir()):
            if (name := _NAME.fullmatch(path.name)) is None:
                continue
            try:
                about = _about(path)
                yield SpoolFile(
                    path,
                    int(name[1]),
                    name[2],
                    about["rows"],
                    path.stat().st_size,
                    about["last_msg_id"],
                    left_behind=True,
                )
            except BrokenFileError as error:
                self.set_aside(path, str(error))

    def write(self, place: int, batch_id: str, tables: Mapping[str, pa.Table]) -> SpoolFile:
        """Put a batch on disk, durably. Raises OSError; then nothing of it is there."""
        self._require_place()
        path = self.folder / f"{place:010}-{batch_id}.arrow"
        last_msg_id = write_batch(path, tables)
        rows = {name: table.num_rows for name, table in tables.items()}
        return SpoolFile(path, place, batch_id, rows, path.stat().st_size, last_msg_id, left_behind=False)

    def read(self, file: SpoolFile) -> dict[str, pa.Table]:
        """The rows of each table. Raises BrokenFileError, OSError."""
        self._require_place()
        tables = read_batch(file.path)
        try:  # of an older version, perhaps, with fewer columns
            return {name: conform(name, rows, self._node) for name, rows in tables.items()}
        except StoreError as error:
            raise BrokenFileError(str(error)) from error

    def remove(self, file: SpoolFile) -> None:
        """The store has what is in the file. One that does not go is tried again with the next."""
        self._stored.append(file.path)
        for path in list(self._stored):
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                told = "it is stored already, and a later start may store it again: delete it"
                _log.error(
                    "a file of the spool cannot be deleted", file=str(path), error=str(error), to_do=told
                )
                return
            self._stored.remove(path)

    def set_aside(self, path: Path, why: str) -> None:
        """Keep a file that is no good out of the way."""
        self._set_aside(path, why)
        self.broken += 1

    def _require_place(self) -> None:
        if identity(self.folder) != self._identity:  # another disk is mounted there now, or none
            raise OSError(
                errno.ESTALE, "it was moved, deleted or mounted over since the start", str(self.folder)
            )

    def _set_aside(self, path: Path, why: str) -> None:
        kept = path.with_name(path.name + _BROKEN)
        try:
            path.replace(kept)
        except OSError as error:
            _log.error("a broken file in the spool cannot be set aside", file=str(path), error=str(error))
            return
        _log.error(
            "a broken file in the spool was set aside, its rows are not stored", file=str(kept), why=why
        )


def spool_of(paths: StorePaths, settings: WriterSettings, node: str) -> Spool | None:
    """The spool of a store as the settings say; None when it is to have none. Raises StoreError."""
    if not settings.spool_bytes:
        return None
    folder = paths.spool(settings.spool_dir)
    try:
        return Spool(folder, settings.spool_bytes, node)
    except OSError as error:
        raise StoreError(f"the spool cannot be used (store.writer.spool_dir): {error}") from error


def write_batch(path: Path, tables: Mapping[str, pa.Table]) -> int:
    """Write a batch to a new file, durably; the highest `msg_id` in it. Raises OSError; then there is no file."""
    last_msg_id = max(map(_last_msg_id, tables.values()), default=0)
    about = {"rows": {name: rows.num_rows for name, rows in tables.items()}, "last_msg_id": last_msg_id}
    part = path.with_name(path.name + _PART)
    try:
        with pa.OSFile(str(part), "wb") as sink:
            for rows in tables.values():
                schema = rows.schema.with_metadata({_ABOUT: json.dumps(about)})
                with pa.ipc.new_stream(sink, schema, options=_OPTIONS) as out:
                    out.write_table(rows)
        fsync(part)
        part.replace(path)
        fsync(path.parent)
    except OSError:
        for left in (part, path):
            left.unlink(missing_ok=True)
        raise
    return last_msg_id


def read_batch(path: Path) -> dict[str, pa.Table]:
    """The tables of a batch. Raises BrokenFileError, OSError."""
    names = _about(path)["rows"]
    tables = {}
    try:
        with pa.OSFile(str(path)) as source:
            for name, rows in names.items():
                with pa.ipc.open_stream(source) as stream:
                    tables[name] = stream.read_all().replace_schema_metadata(None)
                if tables[name].num_rows != rows:
                    raise BrokenFileError(f"{path} holds {tables[name].num_rows} of {rows} rows of {name}")
    except (pa.ArrowException, OSError) as error:
        raise _as_broken(path, error) from error
    return tables


def _about(path: Path) -> dict[str, Any]:
    try:
        with pa.OSFile(str(path)) as source, pa.ipc.open_stream(source) as stream:
            about: dict[str, Any] = json.loads(stream.schema.metadata[_ABOUT])
    except (pa.ArrowException, OSError) as error:
        raise _as_broken(path, error) from error
    except (TypeError, KeyError, ValueError) as error:
        raise BrokenFileError(f"{path} is no batch of hepduck") from error
    return about


def _as_broken(path: Path, error: Exception) -> Exception:
    """Arrow says "short" as an OSError without a number; one with a number is the disk's."""
    if isinstance(error, FileNotFoundError) or getattr(error, "errno", None) is None:
        return BrokenFileError(f"{path} cannot be read: {error}")
    return error


def _last_msg_id(rows: pa.Table) -> int:
    if "msg_id" not in rows.column_names:
        return 0
    return int(pa.compute.max(rows.column("msg_id")).as_py() or 0)


def is_writable(folder: Path) -> bool:
    """Whether files can be made in `folder`, or in the nearest folder above it that is there."""
    while not folder.exists():
        folder = folder.parent
    return os.access(folder, os.W_OK | os.X_OK)
