"""`hepduck app`: the app as a web server, on loopback unless a sign-in is configured.

Found by the command line as an entry point (`hepduck.commands`); what the server needs is imported when it starts.
"""

from __future__ import annotations

import ipaddress
import re
import signal
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from pipeline.certificates import server_context
from pipeline.cli import options as opt
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    import uvicorn

    from pipeline.settings import AppSettings, Settings

_HERE: Final = Path(__file__).parent
_LISTEN: Final = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([^:\[\]\s]+)):(\d{1,5})")
_STREAMLIT: Final[dict[str, Any]] = {
    "browser.gatherUsageStats": False,
    "client.disableDataExport": True,  # it gives cells as they are, and a spreadsheet takes some for formulas
    "client.showErrorLinks": False,
    "client.toolbarMode": "viewer",
    "global.disableWidgetStateDuplicationWarning": True,  # a new search goes back to page 1
    "runner.magicEnabled": False,
    "server.fileWatcherType": "none",
    "server.headless": True,
    "theme.base": str(_HERE / "theme.toml"),
}


def register(app: typer.Typer) -> None:
    """Add `hepduck app`."""
    app.command("app")(run)


def run(
    config: opt.ConfigFile = None,
    no_config: opt.NoConfig = False,
    store: opt.Store = None,
    set_: opt.Set = None,
    listen: Annotated[
        str | None,
        typer.Option(
            "-L", "--listen", help="HOST:PORT [default: 127.0.0.1:8501]; port 0: any.", show_default=False
        ),
    ] = None,
    password_line: Annotated[
        str | None,
        typer.Option(
            "--password-line",
            metavar="USER",
            help="Ask for a password, print a line for app.password_file, and end.",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Show the store in a web browser: calls, ladders, quality, ghost calls, live.

    Examples: `hepduck app --store /var/lib/hepduck`; `hepduck app -L 127.0.0.1:0`
    """
    if password_line is not None:
        _print_password_line(password_line)
        return
    extra = {} if listen is None else {"app.listen": listen}
    settings, _ = opt.settings_of(config, no_config, store, set_, extra)
    serve(settings)


def _print_password_line(user: str) -> None:
    from app.passwords import password_line

    password = typer.prompt(f"Password of {user}", hide_input=True, confirmation_prompt=True, err=True)
    typer.echo(password_line(user, password))


def serve(settings: Settings) -> None:
    """Serve until a signal. Raises ConfigError when it may not, or cannot, listen there."""
    host, port = _parsed(settings.app.listen)
    _require_sign_in(settings.app, host)
    _require_tls(settings.app)
    with bind(host, port) as bound:
        host, port = bound.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if settings.app.tls_certificate else "http"
        server = _server(settings, host)
        typer.echo(f"hepduck app: {scheme}://{shown}:{port}, Ctrl-C ends it", err=True)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: sys.exit(0))
        server.run(sockets=[bound])


def _require_sign_in(app: AppSettings, host: str) -> None:
    """The rule of `app.signin`: beyond loopback only with a way to sign in."""
    from app.passwords import read_passwords
    from app.signin import way_of

    way = way_of(app)
    if way == "open" and not _is_loopback(host):
        raise ConfigError(
            f"app.listen {app.listen} can be reached by others: set app.password_file, app.proxy_header or "
            "app.oidc_users, so that they sign in, or listen on 127.0.0.1"
        )
    if way == "password":
        assert app.password_file is not None
        read_passwords(app.password_file)
    if way == "oidc" and not app.secrets_file.exists():
        raise ConfigError(f"app.oidc_users needs {app.secrets_file} with the [auth] of Streamlit's st.login")


def _require_tls(app: AppSettings) -> None:
    """A certificate and its key that fit, if any are named: the server would only say so in a traceback."""
    if app.tls_certificate is None:
        if app.tls_key is not None:
            raise ConfigError("app.tls_key is set without app.tls_certificate: HTTPS needs both")
        return
    server_context("app", app.tls_certificate, app.tls_key, "tls_key")


def _parsed(listen: str) -> tuple[str, int]:
    match = _LISTEN.fullmatch(listen.strip())
    if match is None or int(match[3]) > 65535:
        raise ConfigError(f"app.listen {listen!r}: write HOST:PORT, as 127.0.0.1:8501 or [::1]:8501")
    return match[1] or match[2], int(match[3])


def _is_loopback(host: str) -> bool:
    try:
        found = {ipaddress.ip_address(info[4][0]) for info in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError, ValueError):
        return False
    return all(address.is_loopback for address in found)


def bind(host: str, port: int) -> socket.socket:
    """A socket that listens there. Raises ConfigError when that cannot be."""
    try:
        bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except (OSError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or "no valid name"
        raise ConfigError(
            f"app.listen {host}:{port}: {reason}; `hepduck app -L {host}:0` takes any free port"
        ) from error
    # What it accepts inherits this. asyncio sets it only where a socket names TCP as its protocol, which this one does
    # not: with Nagle's algorithm each answer would wait for an ACK, 40 ms.
    bound.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return bound


def _server(settings: Settings, host: str) -> uvicorn.Server:
    """Streamlit behind the gate, with our choices instead of Streamlit's defaults and the user's for other apps."""
    try:
        import uvicorn
        from starlette.middleware import Middleware
        from streamlit import App
        from streamlit.web.bootstrap import load_config_options
    except ModuleNotFoundError as error:
        raise ConfigError(f"the app needs {error.name}: pip install 'hepduck[app]'") from error

    import altair

    from app import warm
    from app.config import configure
    from app.signin import Gate

    names = ["localhost", host] if _is_loopback(host) else []  # no website gets in by a name of its own
    secrets = [str(settings.app.secrets_file.absolute())] if settings.app.oidc_users else []
    load_config_options({**_STREAMLIT, "server.allowedHosts": names, "secrets.files": secrets})
    configure(settings)
    altair.utils.schemapi.disable_debug_mode()  # charts of ours are checked by the tests, not for each visitor
    warm.start()
    return uvicorn.Server(
        uvicorn.Config(
            App(_HERE / "main.py", middleware=[Middleware(Gate, settings=settings.app)]),
            log_level="warning",
            access_log=False,
            ws="websockets-sansio",  # as Streamlit itself has it
            ws_per_message_deflate=False,
            proxy_headers=False,  # the gate judges by who really connects
            server_header=False,
            ssl_certfile=settings.app.tls_certificate,
            ssl_keyfile=settings.app.tls_key,
            timeout_graceful_shutdown=2,
        )
    )
