"""`hepduck store`: what a store holds, keeping it small and whole, copying it, erasing a person from it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli import options as opt

_store = typer.Typer(
    name="store",
    help="The store as a whole: what it holds, keeping it small and whole, a copy, erasing a person.",
    no_args_is_help=True,
)

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.add_typer(_store)


def _order(store: Path | None, order: str, **arguments: Any) -> Any:
    """Have it done by the running tap, or here."""
    from pipeline.logs import configure
    from pipeline.settings import LogSettings
    from pipeline.store.orders import carry_out
    from pipeline.store.paths import StorePaths, require_store

    settings, _ = opt.settings_of(None, False, store, None)
    configure(LogSettings(level="error"))
    require_store(StorePaths.of(settings.store.path))
    return carry_out(settings.store.path, settings.node, settings.store.retention, order, **arguments)


def _size(size_bytes: int) -> str:
    """`216.4 GB`, in powers of ten as disks are sold."""
    power = min((len(str(size_bytes)) - 1) // 3, 4)
    return (
        f"{size_bytes / 1000**power:.1f} {['B', 'kB', 'MB', 'GB', 'TB'][power]}"
        if power
        else f"{size_bytes} B"
    )


@_store.command()
def info(store: opt.Store = None, as_json: opt.Json = False, as_csv: opt.Csv = False) -> None:
    """Show what each table holds: rows, files, bytes, first and last time, how long they stay; and the whole.

    Examples: `hepduck store info`; `hepduck store info --json`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store.lake import Reader
    from pipeline.store.overview import overview

    settings, _ = opt.settings_of(None, False, store, None)
    with Reader(settings.store.path) as reader:
        how = settings.store
        tables, whole = overview(reader, how.path, how.retention, how.writer.spool_dir)
    print_rows(tables, None, as_json=as_json, as_csv=as_csv)
    if as_json:
        print_rows([whole], None, as_json=True)
    elif not as_csv:
        typer.echo()
        for name, value in whole.items():
            typer.echo(f"{name:<14} {_size(value) if name.endswith('_bytes') else value}")


@_store.command()
def compact(store: opt.Store = None, as_json: opt.Json = False) -> None:
    """Join small files, and drop states that newer ones replaced. The running tap does so by itself, bit by bit.

    Examples: `hepduck store compact`; `hepduck store compact --store /var/lib/hepduck`
    """
    from pipeline.cli.output import print_rows

    print_rows([_order(store, "compact")], None, as_json=as_json)


@_store.command()
def prune(store: opt.Store = None, dry_run: DryRun = False, as_json: opt.Json = False) -> None:
    """Drop rows that are older than [store.retention] says, and the oldest messages of a store that is too large.

    The running tap does so by itself. Files go once no reader can still use them, ten minutes later.

    Examples: `hepduck store prune --dry-run`; `hepduck store prune --json`
    """
    from pipeline.cli.output import print_rows

    columns = ["table", "reason", "rows", "files", "bytes"]
    print_rows(_order(store, "prune", dry_run=dry_run), columns, as_json=as_json)


@_store.command()
def check(store: opt.Store = None, as_json: opt.Json = False) -> None:
    """Look whether the store is whole: its files are there and hold what the catalog says, no message is there twice,
    the action ledger can be read. Exit code 1 when not.

    Examples: `hepduck store check`; `hepduck store check --json`
    """
    import json
    from dataclasses import asdict

    from pipeline.store.check import check_store

    whole = True
    for result in check_store(opt.store_path(store)):
        whole = whole and result.ok
        told = f"{'ok  ' if result.ok else 'FAIL'}  {result.what}: {result.detail}"
        typer.echo(json.dumps(asdict(result)) if as_json else told)
    if not whole:
        raise typer.Exit(1)


@_store.command()
def backup(
    target: Annotated[
        Path, typer.Argument(help="A folder that is not there yet; on the same disk it is quick.")
    ],
    store: opt.Store = None,
    as_json: opt.Json = False,
) -> None:
    """Copy the store as it is at one moment, while the tap runs. The copy is a store: read it with --store, or put
    it back in place of the other while no tap runs.

    Examples: `hepduck store backup /backup/monday`; `hepduck sql "FROM call" --store /backup/monday`
    """
    from pipeline.cli.output import print_rows

    print_rows([_order(store, "backup", target=str(target.absolute()))], None, as_json=as_json)


@_store.command()
def forget(
    whom: Annotated[str, typer.Argument(help="A number (+4930123456) or an address (sip:bob@sip.test).")],
    store: opt.Store = None,
    dry_run: DryRun = False,
    as_json: opt.Json = False,
) -> None:
    """Erase a person for good: every row about a number or an address, and every row of the calls that they took part
    in, from all tables, files, older snapshots and the action ledger.

    Numbers are meant with and without + or 00 before them, in any domain. CDRs know no domains: there the user alone
    counts. What is elsewhere (backups, recordings, reports, the sources of CDRs) is not touched, but named on stderr.

    Examples: `hepduck store forget sip:bob@sip.test --dry-run`; `hepduck store forget +4930123456`
    """
    from pipeline.cli.output import print_rows
    from pipeline.store.forget import out_of_reach
    from pipeline.store.paths import StorePaths
    from pipeline.store.person import Person

    settings, _ = opt.settings_of(None, False, store, None)
    Person.of(whom)  # before a store is opened, or a tap asked
    done = _order(store, "forget", whom=whom, dry_run=dry_run)
    rows = [{"table": table, "rows": count} for table, count in done["rows"].items()]
    print_rows(rows, ["table", "rows"], as_json=as_json)
    paths, sources = StorePaths.of(settings.store.path), [source.name for source in settings.cdr]
    spool = paths.spool(settings.store.writer.spool_dir)
    for place in out_of_reach(paths, spool, settings.quality.report_dir, sources):
        typer.echo(f"not touched: {place}", err=True)
