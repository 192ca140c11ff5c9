"""The command `hepduck`. Data goes to stdout, talk to stderr; exit codes: 0 ok, 1 failure, 2 usage or
configuration, 3 findings (only with --fail-on-findings), 130 interrupted.
"""

from __future__ import annotations

import sys
from importlib.metadata import entry_points

import typer

from pipeline.cli import (
    calls,
    capturing,
    cdr,
    doctoring,
    plugins,
    quality,
    reading,
    replaying,
    running,
    store,
)
from pipeline.errors import HepduckError, SearchError

app = typer.Typer(
    name="hepduck",
    help="HEP/SIP capture analytics: ghost calls stopped live, call quality, investigation in DuckDB.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (running, replaying, capturing, calls, reading, cdr, quality, plugins, doctoring, store):
    module.register(app)
for point in sorted(entry_points(group="hepduck.commands"), key=lambda point: point.name):
    point.load()(app)  # what other packages add, as the app does: a function that takes `app`


def _version(value: bool) -> None:
    if value:
        from importlib.metadata import version

        typer.echo(f"hepduck {version('hepduck')}")
        raise typer.Exit


@app.callback()
def _options(
    _version_wanted: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version and exit."
    ),
) -> None:
    """HEP/SIP capture analytics: ghost calls stopped live, call quality, investigation in DuckDB."""


def main() -> None:
    """Run the command line; errors that hepduck raises on purpose are one line, never a traceback."""
    try:
        app()
    except SearchError as error:
        typer.echo(f"hepduck: {error}\n{error.pointed()}", err=True)
        sys.exit(2)
    except HepduckError as error:
        typer.echo(f"hepduck: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # no right to read the store, no room on the disk
        typer.echo(f"hepduck: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
