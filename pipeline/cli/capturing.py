"""`hepduck import` and `export`: captures into the store and out of it."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli import options as opt

if TYPE_CHECKING:
    from collections import Counter

    from rich.progress import Progress, TaskID

    from pipeline.importing import Imported
    from pipeline.store.settings import RetentionSettings

_PROGRESS_AFTER_S = 2.0


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command("import")(import_)
    app.command()(export)


def import_(
    files: Annotated[
        list[Path], typer.Argument(help="pcap, pcapng or recordings (.hep), plain, gzip or zstd.")
    ],
    store: opt.Store = None,
    as_json: opt.Json = False,
    set_: opt.Set = None,
    config: opt.ConfigFile = None,
    no_config: opt.NoConfig = False,
) -> None:
    """Store the messages of captures, at their own time, with what the detectors find in them; acts never.

    A file is stored whole, and only once; what two files show is stored twice. The store must not be in use by
    `hepduck run`. What is older than [store.retention] keeps is stored, too, but the next prune drops it: a warning
    says so.

    Examples: `hepduck import monday.pcap`; `hepduck import /var/spool/trace*.pcapng.gz --store ./investigation`
    """
    from pipeline.cli.output import print_rows
    from pipeline.errors import CaptureError
    from pipeline.importing import Importer
    from pipeline.ingest.captures.files import begins_us
    from pipeline.logs import configure
    from pipeline.settings import LogSettings

    settings, _ = opt.settings_of(config, no_config, store, set_)
    configure(LogSettings(level="error"))  # what is wrong is said below, once
    failed = False

    def fail(error: CaptureError) -> None:
        nonlocal failed
        failed = True
        typer.echo(f"hepduck: {error}", err=True)

    begins: dict[Path, int] = {}
    for path in files:
        try:
            begins[path] = begins_us(path)
        except CaptureError as error:
            fail(error)
    if begins:
        with Importer(settings) as importer:
            for path in sorted(begins, key=lambda path: begins[path]):
                try:
                    with _Bar(path) as bar:
                        done = importer.import_file(path, bar.show)
                except CaptureError as error:
                    fail(error)
                    continue
                if as_json:
                    print_rows([done.as_json()], None, as_json=True)
                else:
                    typer.echo(_in_words(done), err=True)
                if done.too_old:
                    typer.echo(f"hepduck: {_too_old(done, settings.store.retention)}", err=True)
                if done.damage is not None:
                    typer.echo(f"hepduck: {done.damage}", err=True)
                    failed = failed or not done.cut_short
    if failed:
        raise typer.Exit(2)


def export(
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help='pcapng file to write; "-": standard output.')
    ],
    search: opt.Search = None,
    where: opt.Where = None,
    call_id: Annotated[
        str | None,
        typer.Option("--call", help="Only this call: its Call-ID, or a part of it.", show_default=False),
    ] = None,
    single: Annotated[
        bool, typer.Option("--messages", help="SEARCH is about messages (method:REGISTER), not calls.")
    ] = False,
    since: opt.Since = None,
    until: opt.Until = None,
    zone: opt.Zone = "UTC",
    with_secrets: Annotated[
        bool, typer.Option("--with-secrets", help="Leave credentials as they are stored.")
    ] = False,
    store: opt.Store = None,
) -> None:
    """Write messages to a pcapng file for Wireshark or sngrep: all of a time, of calls, or of one call.

    A search finds calls, and takes them whole. Credentials are starred, byte for byte, unless told otherwise.

    Examples: `hepduck export ghosts.pcapng state:ghost --since 24h`; `hepduck export - --since 10m | wireshark -k -i -`
    """
    from pipeline import callview
    from pipeline.export import Selection, export_pcap, write_pcap
    from pipeline.store.lake import Reader

    text, span = opt.search_text(search, where), opt.span(since, until, zone)
    if call_id is not None and (text or single or since or until):
        raise typer.BadParameter("takes the whole call: no search and no time beside it", param_hint="--call")
    file = sys.stdout.buffer if str(output) == "-" else output
    hide = not with_secrets
    with Reader(opt.store_path(store)) as reader:
        if call_id is not None:
            seen = callview.view(reader, call_id)
            count = write_pcap(file, seen.messages, seen.findings, hide_secrets=hide)
        else:
            selection = Selection(text, span.since, span.until, single)
            count = export_pcap(reader, file, selection, hide_secrets=hide)
    typer.echo(f"{count} message{'' if count == 1 else 's'} in {output}", err=True)
    if not count:
        typer.echo("hepduck: nothing fits", err=True)
        raise typer.Exit(1)


class _Bar:
    """A bar on stderr, for people, once it has taken long enough."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._due_s = time.monotonic() + _PROGRESS_AFTER_S
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> _Bar:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, read_bytes: int, all_bytes: int) -> None:
        if self._progress is None:
            if time.monotonic() < self._due_s or not sys.stderr.isatty():
                return
            from rich.console import Console
            from rich.progress import Progress

            self._progress = Progress(console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self._path.name, total=all_bytes)
        assert self._task is not None
        self._progress.update(self._task, completed=read_bytes)


def _in_words(done: Imported) -> str:
    """The sums of a file, and that they add up."""
    if done.before is not None:
        return f"{done.path}: imported already, at {done.before:%Y-%m-%d %H:%M:%S} UTC"
    counts = done.counts
    packets = [f"{counts.carriers} with SIP or HEP", *_share(counts.ignored, "ignored")]
    packets += _share(counts.weird, "weird")
    messages = [f"{count} {table}" for table, count in sorted(done.stored.items())] or ["0 stored"]
    messages += _share(done.weird_messages, "weird")
    found = ", ".join(f"{count} {kind}" for kind, count in done.findings.items()) or "none"
    lines = [
        f"{done.path}: {counts.packets} packets = {' + '.join(packets)}",
        f"  {done.messages} messages = {' + '.join(messages)}; findings: {found}",
    ]
    if counts.cut:
        lines.append(f"  {counts.cut} packets are cut: capture with a snap length of 0 (tcpdump -s 0)")
    if counts.weird["ip_fragment_incomplete"]:
        lines.append(
            "  fragments are missing: a filter on ports leaves out all but the first; "
            "add `or (ip[6:2] & 0x1fff != 0)` to it"
        )
    if done.steps_back:
        lines.append("  its packets are not in order of time: reordercap puts them in order")
    return "\n".join(lines)


def _too_old(done: Imported, retention: RetentionSettings) -> str:
    kept = retention.model_dump(mode="json")
    told = [
        f'{count} rows of {table} are older than store.retention.{table} = "{kept[table]}"'
        for table, count in done.too_old.items()
    ]
    return f'{done.path}: {", ".join(told)}: the next prune drops them; "0s" there keeps them for ever'


def _share(counts: Counter[str], what: str) -> list[str]:
    if not counts:
        return []
    kinds = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    return [f"{counts.total()} {what} ({kinds})"]
