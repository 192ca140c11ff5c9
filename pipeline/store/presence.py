"""Are the catalog and the folder of files still those that were opened? DuckDB itself would go on writing into a
file that has no name any more, and all of it would be gone at the next start."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import StoreError
from pipeline.store.paths import StorePaths, identity


class CatalogDeletedError(StoreError):
    """The catalog's file is gone for good: only the open connection still has what was in it."""


class Presence:
    """What the catalog and the folder of files were when the catalog was opened."""

    def __init__(self, paths: StorePaths) -> None:
        self._paths = paths
        self._catalog = identity(paths.catalog)
        self._files = identity(paths.files)

    def check(self) -> None:
        """Raises CatalogDeletedError, or StoreError that says what is where it should not be."""
        if (files := _identity(self._paths.files)) != self._files:
            raise StoreError(_told(self._paths.files, files is None, "the folder of files"))
        catalog = _identity(self._paths.catalog)
        if catalog == self._catalog:
            return
        if catalog is None and (held := self._held()) is not None:
            name, links = held
            if not links:
                raise CatalogDeletedError(f"{self._paths.catalog} was deleted")
            raise StoreError(f"{self._paths.catalog} was moved to {name}: move it back")
        raise StoreError(_told(self._paths.catalog, catalog is None, "the catalog"))

    def is_held(self) -> bool:
        """True while this process has the file of the catalog open, whatever its name is."""
        return self._held() is not None

    def _held(self) -> tuple[str, int] | None:
        """The name and the number of links of the open file of the catalog."""
        for number in Path("/proc/self/fd").iterdir():
            try:
                found = os.stat(number)  # noqa: PTH116  follows the link also where the name is gone
                if (found.st_dev, found.st_ino) == self._catalog:
                    return str(number.readlink()), found.st_nlink
            except OSError:  # closed since
                continue
        return None


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        return identity(path)
    except FileNotFoundError:
        return None


def _told(path: Path, gone: bool, what: str) -> str:
    if gone:
        return f"{path} is gone: put {what} back; until then nothing is stored there"
    return f"{path} is another one than at the start: put {what} back, or restart the tap to go on with the new one"
