"""Captures and CDR files as a store of their own: to look into a trace without a tap."""

from __future__ import annotations

import os
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.api.opened import Store
from pipeline.api.opened import open as open_store

File = str | os.PathLike[str]


def open_files(
    *files: File, cdrs: Sequence[File | Mapping[str, Any]] = (), settings: Mapping[str, Any] | None = None
) -> Store:
    """Take in captures (pcap, pcapng, recordings) and CDR files, and open what they became, as `open` does.

    The store lies in a temporary folder and goes with the `Store`. A member of `cdrs` is a file of preset
    `cdr_adaptive`, or the keys of a [[cdr]] entry (`{"source": "Master.csv", "preset": "cdr_csv", "zone": ...}`).
    `settings` are overrides by their full keys (`{"detectors.late_register.window": "30s"}`). Raises CaptureError,
    CdrError, ConfigError.
    """
    from pipeline.importing import Importer  # noqa: PLC0415  a reader of a store needs none of this
    from pipeline.ingest.cdr.settings import CdrSourceSettings  # noqa: PLC0415
    from pipeline.ingest.cdr.source import CdrSource  # noqa: PLC0415
    from pipeline.logs import configure  # noqa: PLC0415
    from pipeline.quality.refresh import Refresher  # noqa: PLC0415
    from pipeline.settings import LogSettings, load  # noqa: PLC0415
    from pipeline.store.cdrs import CdrStore  # noqa: PLC0415
    from pipeline.store.settings import WriterSettings  # noqa: PLC0415
    from pipeline.store.writer import Writer  # noqa: PLC0415

    configure(LogSettings(level="warning"))
    folder = tempfile.TemporaryDirectory(prefix="hepduck-files-")
    path = Path(folder.name) / "store"
    chosen, _ = load(overrides={**(settings or {}), "store.path": str(path)}, no_file=True)
    with Importer(chosen) as importer:
        for file in files:
            importer.import_file(Path(file))
    if cdrs:
        with Writer(path, chosen.node, WriterSettings(flush_interval="0s")) as writer:
            for cdr in cdrs:
                entry = dict(cdr) if isinstance(cdr, Mapping) else {"source": os.fspath(cdr)}
                CdrSource(CdrSourceSettings.model_validate(entry), CdrStore(writer), once=True).poll()
            Refresher(writer, chosen.quality).run()
    opened = open_store(path)
    weakref.finalize(opened, folder.cleanup)
    return opened
