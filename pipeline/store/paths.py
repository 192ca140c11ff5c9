"""Where the parts of a store lie, and the lock that says whether a tap is writing to it."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import StoreError

# Readers hold the lock for a moment; so long, too, may a tap have made its file and not taken it.
LOCK_WAIT_S = 2.0


@dataclass(frozen=True, slots=True)
class StorePaths:
    """The files and folders of a store."""

    root: Path

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> StorePaths:
        """The store at `path`, made absolute: DuckLake keeps the path of its files in the catalog."""
        return cls(Path(path).expanduser().resolve())

    @property
    def catalog(self) -> Path:
        """The DuckDB file that says which Parquet files make up the lake."""
        return self.root / "catalog.duckdb"

    @property
    def catalog_log(self) -> Path:
        """What DuckDB has not yet written into the catalog itself."""
        return self.root / "catalog.duckdb.wal"

    @property
    def fresh_catalog(self) -> Path:
        """A catalog that is being written to take the place of the other."""
        return self.root / "catalog.duckdb.new"

    @property
    def control(self) -> Path:
        """The socket on which the running tap takes orders about its store (mode 0600)."""
        return self.root / "control.sock"

    @property
    def files(self) -> Path:
        """The folder of the Parquet files."""
        return self.root / "files"

    @property
    def spill(self) -> Path:
        """Where the writer's DuckDB may spill."""
        return self.root / "spill"

    @property
    def refused(self) -> Path:
        """Rows that the store can never hold, for somebody to look at."""
        return self.root / "refused"

    def spool(self, elsewhere: Path | None = None) -> Path:
        """Where batches wait that the store does not take: in it, or in a folder of its own `elsewhere`."""
        if elsewhere is None:
            return self.root / "spool"
        return elsewhere.expanduser().resolve() / "-".join(self.root.parts[1:])

    @property
    def lock(self) -> Path:
        """Held exclusively by the writer as long as it lives; holds its process id."""
        return self.root / "writer.lock"

    @property
    def reader_file(self) -> Path:
        """Endpoint and token for readers while a tap runs (mode 0600)."""
        return self.root / "reader.json"

    @property
    def ledger(self) -> Path:
        """The action ledger."""
        return self.root / "ledger.sqlite"

    def table_folder(self, table: str) -> Path:
        """The folder of a table's Parquet files."""
        return self.files / "main" / table


class WriterLock:
    """The exclusive lock of the one writer. The kernel drops it when the process ends, however it ends."""

    def __init__(self, paths: StorePaths, wait_s: float = LOCK_WAIT_S) -> None:
        """Take the lock, or raise StoreError naming the process that holds it.

        Readers hold it shared for the moment of copying a catalog: hence `wait_s`.
        """
        fd = os.open(paths.lock, os.O_RDWR | os.O_CREAT, 0o600)
        os.utime(fd)  # see `writer_begins`
        deadline = time.monotonic() + wait_s
        while not _try_lock(fd, fcntl.LOCK_EX):
            if time.monotonic() > deadline:
                holder = os.pread(fd, 32, 0).decode("ascii", "replace").strip() or "unknown"
                os.close(fd)
                raise StoreError(f"another hepduck (pid {holder}) is writing to {paths.root}")
            time.sleep(0.05)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        self._fd = fd

    def release(self) -> None:
        """Let another writer in."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class QuietStore:
    """Keeps a writer out while a catalog is copied: `with QuietStore(...) as quiet`; False when one runs."""

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths
        self._fd = -1

    def __enter__(self) -> bool:
        try:
            self._fd = os.open(self._paths.lock, os.O_RDONLY)
        except FileNotFoundError:
            return True
        return _try_lock(self._fd, fcntl.LOCK_SH)

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)


def writer_runs(paths: StorePaths) -> bool:
    """True while a tap holds the store."""
    with QuietStore(paths) as quiet:
        return not quiet


def writer_begins(paths: StorePaths) -> bool:
    """True where a tap may be about to hold the store: it makes the lock's file a moment before it locks it."""
    try:
        return abs(time.time() - paths.lock.stat().st_mtime) < LOCK_WAIT_S
    except OSError:
        return False


def require_store(paths: StorePaths) -> None:
    """Raises StoreError where there is no store, and no tap that is about to make one."""
    if not (paths.catalog.exists() or writer_runs(paths) or writer_begins(paths)):
        raise StoreError(f"there is no store at {paths.root}: `hepduck run` makes one")


def fsync(path: Path) -> None:
    """Make a file's bytes, or a folder's names, durable."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def identity(path: Path) -> tuple[int, int]:
    """What stays with a file or folder that is moved: device and inode. Raises OSError."""
    found = path.stat()
    return found.st_dev, found.st_ino


def catalog_stamp(paths: StorePaths) -> tuple[object, object]:
    """What tells the catalog and its log from what they were before."""
    return _stamp(paths.catalog), _stamp(paths.catalog_log)


def copy_catalog(paths: StorePaths, copy: Path, *, attempts: int | None = None) -> None:
    """Copy catalog and log as they stood together; again, `attempts` times at most, while somebody writes to them.

    Also a tap that has let go of the store may still be folding the log into the catalog: a session of a reader that
    had not ended kept its database open for a moment longer. Raises OSError.
    """
    copied_log = copy.with_name(paths.catalog_log.name)
    before, made = None, 0
    while made != attempts and (now := catalog_stamp(paths)) != before:
        before, made = now, made + 1
        shutil.copyfile(paths.catalog, copy)
        copied_log.unlink(missing_ok=True)
        with suppress(FileNotFoundError):
            shutil.copyfile(paths.catalog_log, copied_log)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        file = path.stat()
    except FileNotFoundError:
        return None
    return file.st_ino, file.st_mtime_ns, file.st_size


def wait_until_closed(files: Collection[Path], patience_s: float) -> None:
    """Wait until this process has none of `files` open. Raises StoreError when one stays open for longer."""
    give_up_s = time.monotonic() + patience_s
    while still := _open_files() & {str(file) for file in files}:
        if time.monotonic() > give_up_s:
            raise StoreError(
                f"{', '.join(sorted(still))} is still in use, perhaps by a reader: try again later"
            )
        time.sleep(0.02)


def _open_files() -> set[str]:
    names = set()
    for fd in Path("/proc/self/fd").iterdir():
        with suppress(OSError):  # closed since
            names.add(str(fd.readlink()))
    return names


def _try_lock(fd: int, kind: int) -> bool:
    try:
        fcntl.flock(fd, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
