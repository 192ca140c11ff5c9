"""`hepduck cdr import` and `cdr sources`: call detail records from tables and files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import options as opt

if TYPE_CHECKING:
    from pipeline.ingest.cdr.settings import CdrSourceSettings

_cdr = typer.Typer(
    name="cdr", help="Call detail records of a switch: read them, see how reading goes.", no_args_is_help=True
)

_SOURCE_COLUMNS = ("source", "state", "imported", "refused", "error", "warning", "updated_at")
Source = Annotated[
    str,
    typer.Argument(help="A file, or mysql://USER:PASSWORD@HOST/DATABASE?table=NAME, or postgresql://..."),
]
Preset = Annotated[
    str,
    typer.Option(
        "--preset",
        help="cdr_extra, cdr_adaptive, cdr_csv, cdr_custom, freepbx or leg_qos: what columns mean.",
    ),
]
Zone = Annotated[
    str, typer.Option("--zone", help="Time zone of the times in it, e.g. Europe/Kyiv; Asterisk's own.")
]
Columns = Annotated[
    str | None,
    typer.Option(
        "--columns",
        help="Names in the order of a file without header (a,b,c, or the mapping of cdr_custom.conf), "
        "or their=ours,... for names of your own.",
        show_default=False,
    ),
]
Table = Annotated[
    str | None,
    typer.Option("--table", help="The table, where the URL has no ?table=.", show_default=False),
]
Name = Annotated[
    str | None,
    typer.Option(
        "--name", help="What the rows' source is called [default: from SOURCE].", show_default=False
    ),
]
Format = Annotated[str, typer.Option("--format", help="auto, csv, tsv, outfile or json.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_cdr)


@_cdr.command("import")
def import_(
    source: Source,
    preset: Preset = "cdr_adaptive",
    zone: Zone = "UTC",
    columns: Columns = None,
    store: opt.Store = None,
    table: Table = None,
    name: Name = None,
    file_format: Format = "auto",
    as_json: opt.Json = False,
) -> None:
    """Read a CDR table or file once, from its start; rows that are stored already are left out.

    The store must not be in use by `hepduck run`: give that one a [[cdr]] entry instead.

    Examples: `hepduck cdr import cdr_extra.csv --preset cdr_extra --zone Europe/Kyiv`;
    `hepduck cdr import "mysql://reader:secret@db/asteriskcdrdb?table=cdr" --preset freepbx`
    """
    from pipeline.cli.output import print_rows
    from pipeline.ingest.cdr import CdrError
    from pipeline.ingest.cdr.source import CdrSource
    from pipeline.logs import configure
    from pipeline.quality.refresh import Refresher
    from pipeline.settings import LogSettings
    from pipeline.store.cdrs import CdrStore
    from pipeline.store.settings import WriterSettings
    from pipeline.store.writer import Writer

    given = {"source": _with_table(source, table), "preset": preset, "zone": zone, "format": file_format}
    given |= {key: value for key, value in (("columns", columns), ("name", name)) if value is not None}
    how = _source_settings(given)
    settings, _ = opt.settings_of(None, False, store, None)
    configure(LogSettings(level="error"))  # what is wrong is said below, once
    at_once = WriterSettings(flush_interval="0s")  # each chunk waits for its commit
    with Writer(settings.store.path, settings.node, at_once) as writer:
        reading = CdrSource(how, CdrStore(writer), once=True)
        try:
            rows = reading.poll()
        except CdrError as error:
            reading.fail(str(error))
            raise
        Refresher(writer, settings.quality).run()
    warning = reading.status.warning
    if reading.refusals:
        raise CdrError(f"{how.name}: {warning}; {rows} rows stored")
    if as_json:
        print_rows([{"source": how.name, "rows": rows, "warning": warning}], None, as_json=True)
    else:
        typer.echo(f"{rows} new rows from {how.name}")
    if warning:
        typer.echo(f"hepduck: {how.name}: {warning}", err=True)


@_cdr.command("sources")
def sources(store: opt.Store = None, as_json: opt.Json = False, as_csv: opt.Csv = False) -> None:
    """Show how each source of CDRs is doing: the running tap's own words where one runs.

    Examples: `hepduck cdr sources`; `hepduck cdr sources --json`
    """
    from pipeline.cli.output import print_rows
    from pipeline.errors import StoreError
    from pipeline.status import read_status
    from pipeline.store.lake import Reader

    path = opt.store_path(store)
    with Reader(path) as reader:
        found = reader.query(
            f"SELECT {', '.join(_SOURCE_COLUMNS)} FROM cdr_source ORDER BY source"
        ).to_pylist()
    rows: dict[str, dict[str, Any]] = {row["source"]: row for row in found}
    try:
        status = read_status(path)
    except StoreError:  # no tap ever ran: what imports left is all there is
        status = {"alive": False}
    if status["alive"]:
        for live in status["cdr_sources"]:
            told = {key: live[key] for key in _SOURCE_COLUMNS[:-1]}
            rows[live["source"]] = {**told, "updated_at": live["polled_at"]}
    print_rows(list(rows.values()), _SOURCE_COLUMNS, as_json=as_json, as_csv=as_csv)


def _with_table(source: str, table: str | None) -> str:
    if table is None or "://" not in source:
        return source
    from urllib.parse import quote

    return f"{source}{'&' if '?' in source else '?'}table={quote(table)}"


def _source_settings(given: dict[str, Any]) -> CdrSourceSettings:
    """The settings that the options describe. Raises ConfigError in one line."""
    from pydantic import ValidationError

    from pipeline.errors import ConfigError
    from pipeline.ingest.cdr.settings import CdrSourceSettings
    from pipeline.settings import explain

    try:
        return CdrSourceSettings.model_validate(given)
    except ValidationError as error:
        raise ConfigError(explain(error, CdrSourceSettings, "cdr import")) from error
