"""`hepduck replay` and `send`: recordings and captures through the detectors, or to any collector."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli import options as opt

Files = Annotated[list[Path], typer.Argument(help="Recordings (.hep), pcap, pcapng; gzip, zstd.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(replay)
    app.command()(send)


def _speed(text: str) -> float | None:
    """`max` -> None, `1`, `1x`, `2.5x` -> the factor."""
    if text == "max":
        return None
    try:
        factor = float(text.removesuffix("x"))
    except ValueError:
        factor = 0.0
    if not 0 < factor < math.inf:
        raise typer.BadParameter(f'{text!r}: write "max", "1x" or "2.5x"')
    return factor


def replay(
    files: Files,
    as_json: opt.Json = False,
    speed: Annotated[str, typer.Option("--speed", help='"max", or a factor such as "1x".')] = "max",
    shuffle_ms: Annotated[
        int, typer.Option("--shuffle-ms", min=0, help="First permute arrival within that many ms.")
    ] = 0,
    seed: Annotated[int, typer.Option("--seed", help="Seed of the permutation.")] = 0,
    set_: opt.Set = None,
    config: opt.ConfigFile = None,
    no_config: opt.NoConfig = False,
    fail_on_findings: Annotated[
        bool, typer.Option("--fail-on-findings", help="Exit with 3 when there are any.")
    ] = False,
) -> None:
    """Run recordings and captures through the detectors and print the findings; stores nothing, acts never.

    Examples: `hepduck replay monday.hep`; `hepduck replay a.hep --json --set detectors.late_register.window=30s`
    """
    from pipeline.assemble import detectors_of
    from pipeline.ingest.captures.files import open_capture
    from pipeline.ingest.recordings import shuffle
    from pipeline.logs import configure
    from pipeline.replay import flat, in_words
    from pipeline.replay import replay as run_replay

    factor = _speed(speed)
    settings, _ = opt.settings_of(config, no_config, None, set_)
    configure(settings.log)
    recordings = [open_capture(path) for path in files]
    datagrams = (datagram for recording in recordings for datagram in recording)
    found = 0
    for finding in run_replay(
        shuffle(datagrams, shuffle_ms, seed) if shuffle_ms else datagrams,
        detectors_of(settings),
        settings=settings.engine,
        speed=factor,
    ):
        found += 1
        typer.echo(json.dumps(flat(finding)) if as_json else in_words(finding))
    for recording in recordings:
        if recording.damage:
            typer.echo(f"hepduck: {recording.damage}", err=True)
    if not as_json:
        typer.echo(f"{found} finding{'' if found == 1 else 's'}", err=True)
    if found and fail_on_findings:
        raise typer.Exit(3)


def send(
    files: Files,
    to: Annotated[str, typer.Option("--to", help="udp:HOST:PORT, tcp:HOST:PORT or tls:HOST:PORT.")],
    speed: Annotated[str, typer.Option("--speed", help='"max", or a factor such as "1x".')] = "1x",
    ca: Annotated[Path | None, typer.Option("--ca", help="TLS: PEM file of the collector's CA.")] = None,
    insecure: Annotated[bool, typer.Option("--insecure", help="TLS: believe any certificate.")] = False,
    now: Annotated[bool, typer.Option("--now", help="Move the HEP times, as if it happened now.")] = False,
    cert: Annotated[
        Path | None, typer.Option("--cert", help="TLS: our own certificate and key, PEM.")
    ] = None,
) -> None:
    """Play recordings (byte for byte) and captures (their SIP as HEP 3) to a collector, in their own time.

    Examples: `hepduck send monday.hep --to udp:127.0.0.1:9060`; `hepduck send a.hep --to tcp:[::1]:9060 --speed max`
    """
    from pipeline.ingest.send import TlsClient, send_recording

    factor = _speed(speed)
    tls = TlsClient(verify=not insecure, ca=ca, certificate=cert)
    sent = send_recording(files, to, speed="max" if factor is None else factor, tls=tls, now=now)
    for damage in sent.damage:
        typer.echo(f"hepduck: {damage}", err=True)
    typer.echo(f"sent {sent.packets} packets, {sent.bytes} bytes in {sent.seconds:.1f} s to {to}", err=True)
