"""Is a source of CDRs as its settings say? One row is read, and kept nowhere."""

from __future__ import annotations

from contextlib import closing
from datetime import timedelta

from pipeline.ingest.cdr import CdrError, Raw
from pipeline.ingest.cdr.csvfiles import CsvFile
from pipeline.ingest.cdr.rows import BadRowError, RowMaker
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.tables import CdrTable

LONGEST = timedelta(seconds=5)  # somebody waits for the answer


def try_source(settings: CdrSourceSettings) -> str:
    """What one row of the source says of it, in words. Raises CdrError when there is no reading it."""
    quick = settings.model_copy(update={"timeout": min(settings.timeout, LONGEST)})
    raw = CdrTable(quick).any_row() if quick.is_table else _first(CsvFile(quick, to_the_end=True))
    if raw is None:
        return f"{settings.shown}: readable, no row in it yet"
    if isinstance(raw, str):
        raise CdrError(f"{settings.shown}: {raw}")
    try:
        read = RowMaker(settings).read(raw)
    except BadRowError as error:
        raise CdrError(
            f"{settings.shown}: {raw.place}: {error}; is preset = {settings.preset!r} right?"
        ) from error
    began = f"{read.row['ts']:%Y-%m-%d %H:%M:%S} UTC"
    if read.zone_is_off and read.ahead_s is not None:
        hours = f"{abs(read.ahead_s) / 3600:.4g} h {'ahead of' if read.ahead_s > 0 else 'behind'}"
        raise CdrError(
            f"{settings.shown}: a row that starts at {began} is {hours} its uniqueid:"
            f" zone {settings.tz.key!r} is not the zone it is in"
        )
    return f"{settings.shown}: readable, a row starts at {began}"


def _first(file: CsvFile) -> Raw | str | None:
    with closing(file.chunks(None)) as chunks:
        return next((raw for chunk in chunks for raw in chunk.rows), None)
