"""`hepduck doctor`: what is wrong with the mirror, and the line to change."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated

import typer

from pipeline.cli import options as opt


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(doctor)


def doctor(
    config: opt.ConfigFile = None,
    no_config: opt.NoConfig = False,
    store: opt.Store = None,
    set_: opt.Set = None,
    since: Annotated[
        str, typer.Option("--since", help='What to look at: "15m" before the newest message, or an ISO time.')
    ] = "15m",
    as_json: opt.Json = False,
) -> None:
    """Say what is wrong in Kamailio's, Asterisk's or hepduck's configuration, and which line to change.

    Looks at what arrived and at the tap, running or not; changes nothing. Exit code 0: nothing is wrong (there
    may be advice), 1: something is wrong, 2: there is no store, or the configuration cannot be read.

    Examples: `hepduck doctor`; `hepduck doctor --since 1h --json | jq 'select(.verdict == "wrong")'`
    """
    from pipeline.cli.output import print_rows
    from pipeline.doctor import Look, Verdict, examine
    from pipeline.doctor.report import as_rows, as_text

    settings, _ = opt.settings_of(config, no_config, store, set_)
    with Look(settings.store.path, settings, _window(since)) as look:
        told = list(examine(look))
        if as_json:
            print_rows(as_rows(told), None, as_json=True)
        else:
            typer.echo(as_text(look, told))
    if any(diagnosis.verdict is Verdict.WRONG for _, diagnosis in told):
        raise typer.Exit(1)


def _window(text: str) -> timedelta | datetime:
    from pipeline.api.opened import moment
    from pipeline.durations import parse_duration

    try:
        length = parse_duration(text)
        assert isinstance(length, timedelta)
    except ValueError:
        try:
            when = moment(text)
        except ValueError:
            raise typer.BadParameter(f'{text!r}: write "15m", "1h", or an ISO time') from None
        assert when is not None
        return when
    return length
