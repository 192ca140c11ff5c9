"""`hepduck run`, `check`, `record`, `status`: the tap itself."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from pipeline.cli import options as opt

if TYPE_CHECKING:
    from pipeline.settings import Settings
    from pipeline.status import Status

Listen = Annotated[
    list[str] | None,
    typer.Option(
        "-L", "--listen", help="udp:HOST:PORT, tcp:..., tls:...; may be repeated.", show_default=False
    ),
]
Level = Annotated[
    str | None, typer.Option("-l", "--level", help="debug, info, warning, error.", show_default=False)
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(run)
    app.command()(check)
    app.command()(record)
    app.command()(status)
    app.command()(demo)


def _extra(listen: list[str] | None, level: str | None) -> dict[str, Any]:
    extra: dict[str, Any] = {}
    if listen:
        extra["tap.listen"] = listen
    if level:
        extra["log.level"] = level
    return extra


def run(
    config: opt.ConfigFile = None,
    no_config: opt.NoConfig = False,
    listen: Listen = None,
    store: opt.Store = None,
    set_: opt.Set = None,
    level: Level = None,
    record_to: Annotated[
        Path | None, typer.Option("--record", help="Also write what arrives to this recording.")
    ] = None,
) -> None:
    """Run the tap in the foreground: receive HEP, find ghost calls, store everything.

    SIGTERM drains and ends it; SIGHUP reads the rules, brakes and detectors of the configuration again.

    Examples: `hepduck run -L udp:0.0.0.0:9060 --store /var/lib/hepduck`; `hepduck run -f hepduck.toml`
    """
    from pipeline.ingest.recordings import RecordingWriter
    from pipeline.logs import configure
    from pipeline.metrics import serve
    from pipeline.notify import ServiceManager
    from pipeline.reload import reload
    from pipeline.service import Service

    def read() -> Settings:
        return opt.settings_of(config, no_config, store, set_, _extra(listen, level))[0]

    def end(*_: object) -> None:
        manager.stopping()
        service.stop()

    def follow() -> None:
        manager.reloading()
        reload(service, read)
        manager.ready()

    manager = ServiceManager()
    settings = read()
    configure(settings.log)
    os.umask(0o077)  # messages are nobody else's business, also where the folder is not ours
    writer = RecordingWriter(record_to) if record_to is not None else None
    service = Service(settings, record_to=writer)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    signal.signal(signal.SIGHUP, lambda *_: service.ask(follow))
    service.every_second = lambda status: manager.alive(in_one_line(status))
    close_metrics = serve(settings.metrics, service)
    try:
        service.start()
        manager.ready()
        service.loop()
    finally:
        close_metrics()
        if writer is not None:
            writer.close()


def in_one_line(status: Status) -> str:
    """The status as `systemctl status` shows it."""
    found = ", ".join(f"{count} {kind}" for kind, count in status.findings.items()) or "no findings"
    rejected = f"{status.rejected} rejected, " if status.rejected else ""
    return f"{status.received} messages received, {rejected}{status.dropped} lost, {status.queued} queued; {found}"


def check(
    config: opt.ConfigFile = None,
    no_config: opt.NoConfig = False,
    store: opt.Store = None,
    set_: opt.Set = None,
    dump: Annotated[bool, typer.Option("--dump", "-D", help="Print every setting and its source.")] = False,
    as_json: opt.Json = False,
) -> None:
    """Check the configuration: it is read, plugins load, ports are free, the store can be written.

    Examples: `hepduck check -f hepduck.toml`; `hepduck check --dump`
    """
    from pipeline.checks import dump_settings, run_checks

    settings, sources = opt.settings_of(config, no_config, store, set_)
    if dump:
        for key, value, source in dump_settings(settings, sources):
            typer.echo(
                json.dumps({"key": key, "value": value, "source": source})
                if as_json
                else f"{key} = {json.dumps(value)}    # {source}"
            )
        return
    results = run_checks(settings)
    for result in results:
        if as_json:
            typer.echo(json.dumps(result._asdict()))
        else:
            typer.echo(f"{'ok  ' if result.ok else 'FAIL'}  {result.what}: {result.detail}")
    if not all(result.ok for result in results):
        raise typer.Exit(2)


def record(
    output: Annotated[
        Path, typer.Option("-o", "-O", "--output", help="Recording to write (.hep or .hep.zst).")
    ],
    listen: Listen = None,
    config: opt.ConfigFile = None,
    no_config: opt.NoConfig = False,
    set_: opt.Set = None,
    seconds: Annotated[float | None, typer.Option("--seconds", help="Stop after that long.")] = None,
) -> None:
    """Write what arrives to a recording, byte for byte, and do nothing else.

    Examples: `hepduck record -o monday.hep.zst`; `hepduck record -L tcp:127.0.0.1:9060 -o a.hep --seconds 60`
    """
    from pipeline.ingest.recordings import RecordingWriter
    from pipeline.ingest.tap import Tap

    settings, _ = opt.settings_of(config, no_config, None, set_, _extra(listen, None))
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    # The port first: when it is in use, an older recording of that name stays.
    tap = Tap(settings.tap, lambda batch: writer.write(batch))  # noqa: PLW0108 - there is no writer yet
    try:
        with RecordingWriter(output) as writer, tap:
            where = " ".join(str(address) for address in tap.addresses)
            typer.echo(f"recording {where} to {output}; Ctrl-C ends it", err=True)
            stop.wait(seconds)
    finally:
        tap.stop()
    typer.echo(f"{writer.records} datagrams in {output}", err=True)


def status(store: opt.Store = None, as_json: opt.Json = False) -> None:
    """Show what the running tap says of itself: what became of all it received, and that it adds up.

    Examples: `hepduck status`; `hepduck status --store /var/lib/hepduck --json`
    """
    from pipeline.status import as_text, read_status

    current = read_status(opt.store_path(store))
    typer.echo(json.dumps(current) if as_json else as_text(current))
    if not current["alive"] and current["state"] == "running":
        typer.echo("hepduck: the tap is not running any more and did not stop by itself", err=True)
        sys.exit(1)


def demo(
    stay: Annotated[bool, typer.Option("--stay", help="Keep the tap running at the end.")] = False,
) -> None:
    """Play recorded ghost calls at a tap on this machine and show what it finds.

    Examples: `hepduck demo`; `hepduck demo --stay`
    """
    from pipeline.demo import run as run_demo

    run_demo(stay=stay)
