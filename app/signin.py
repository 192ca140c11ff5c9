"""Who may look. On loopback everybody on this machine; elsewhere only who has signed in, by one of three ways.

A password file and a reverse proxy's header are judged by `Gate`, before anything of the app answers: pages, the
websocket, downloads. OpenID Connect is Streamlit's own (`st.login`); there `may_see` keeps the pages back.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import hmac
import html
import posixpath
import secrets
import time
from collections.abc import Mapping, Sequence
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address, ip_network
from typing import TYPE_CHECKING, Any, Final, Literal
from urllib.parse import parse_qs, quote, unquote

from app.passwords import fits, read_passwords
from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

    from pipeline.settings import AppSettings

Way = Literal["open", "password", "proxy", "oidc"]

SIGN_OUT: Final = "/sign-out"
_SIGN_IN: Final = "/sign-in"
_OPEN_PATHS: Final = ("/_stcore/health",)  # for whoever watches that the app is up
_COOKIE: Final = "hepduck_session"
_SESSION_S: Final = 12 * 3600
_MAX_FORM_BYTES: Final = 16_384
_MAX_ADDRESS_CHARS: Final = 4_000  # in the form each may take three
_TRIES_AT_ONCE: Final = 2  # strangers can ask as often as they like
_MOST_TRIES: Final = 50  # with those that wait


# -- the ways --------------------------------------------------------------------------------------------


def way_of(app: AppSettings) -> Way:
    """The way that is configured. Raises ConfigError for half a way, and for two."""
    ways: list[Way] = []
    if app.password_file is not None:
        ways.append("password")
    if app.proxy_header is not None:
        if not app.proxy_networks:
            raise ConfigError("app.proxy_header needs app.proxy_networks: anybody could send that header")
        ways.append("proxy")
    if app.oidc_users:
        ways.append("oidc")
    if len(ways) > 1:
        raise ConfigError(f"app: one way to sign in, not {' and '.join(ways)}")
    return ways[0] if ways else "open"


def is_user(email: str, patterns: Sequence[str]) -> bool:
    """Whether an email is one of `oidc_users`, whatever the case."""
    return any(fnmatch.fnmatchcase(email.lower(), pattern.lower()) for pattern in patterns)


def may_see(app: AppSettings) -> bool:
    """Inside a page: whether this session may go on. Shows how to sign in when it may not."""
    if way_of(app) != "oidc":
        return True  # `Gate` has judged, or there is none
    import streamlit as st  # noqa: PLC0415  the launcher reads settings first

    if not st.user.is_logged_in:
        st.title("hepduck")
        st.button("Sign in", on_click=st.login, type="primary", key="sign_in")
        return False
    email = str(st.user.get("email", ""))
    if st.user.get("email_verified", True) is not False and is_user(email, app.oidc_users):
        return True
    st.error("This account may not look at hepduck: its email is not among `app.oidc_users`.")
    st.button("Sign out", on_click=st.logout, key="sign_out")
    return False


def sign_out_link(app: AppSettings) -> None:
    """Inside a page: the way out, for who signed in here."""
    import streamlit as st  # noqa: PLC0415  as above

    way = way_of(app)
    if way == "password":  # the gate's own page: it takes the session's cookie away
        st.html(f'<a href="{SIGN_OUT}" target="_self" style="font-size:.85rem">Sign out</a>', width="content")
    elif way == "oidc":
        st.button("Sign out", on_click=st.logout, type="tertiary", key="sign_out")


# -- the gate --------------------------------------------------------------------------------------------


class Gate:
    """ASGI middleware in front of the whole app."""

    def __init__(self, app: ASGIApp, settings: AppSettings) -> None:
        self._app = app
        self._way = way_of(settings)
        self._header = (settings.proxy_header or "").lower().encode()
        self._networks = [ip_network(network) for network in settings.proxy_networks]
        self._passwords = read_passwords(settings.password_file) if settings.password_file else {}
        self._secure = "; Secure" if settings.tls_certificate else ""
        self._tries = asyncio.Semaphore(_TRIES_AT_ONCE)
        self._trying = 0
        self._key = secrets.token_bytes(32)  # who signed in before a restart does so again

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in {"http", "websocket"} or self._may_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008, "reason": "sign in first"})
        elif self._way == "proxy":
            await _answer(send, 403, _page("This app is reached through its sign-in proxy only."))
        elif scope["path"] == _SIGN_IN and scope["method"] == "POST":
            await self._sign_in(receive, send)
        elif scope["path"] == SIGN_OUT and self._has_session(dict(scope["headers"])):
            await self._answer_with(send, "", 0)
        else:
            await _answer(send, 401, _form(_address(scope)))

    def _may_pass(self, scope: Scope) -> bool:
        if self._way in {"open", "oidc"} or scope["path"] in _OPEN_PATHS:
            return True
        headers = dict(scope["headers"])
        if self._way == "proxy":
            peer = ip_address(scope["client"][0])
            return bool(headers.get(self._header)) and any(peer in network for network in self._networks)
        return scope["path"] != SIGN_OUT and self._has_session(headers)

    def _has_session(self, headers: Mapping[bytes, bytes]) -> bool:
        try:
            cookie = SimpleCookie(headers.get(b"cookie", b"").decode("latin-1")).get(_COOKIE)
        except CookieError:
            return False
        until, _, signature = (cookie.value if cookie else "").partition(".")
        good = until.isdigit() and hmac.compare_digest(signature.encode(), self._signed(until).encode())
        return good and int(until) > time.time()

    def _signed(self, until: str) -> str:
        return hmac.new(self._key, until.encode(), hashlib.sha256).hexdigest()

    async def _sign_in(self, receive: Receive, send: Send) -> None:
        form = parse_qs((await _body(receive)).decode("utf-8", "replace"))
        user, password, address = (form.get(name, [""])[0] for name in ("user", "password", "address"))
        known = self._passwords.get(user) or next(
            iter(self._passwords.values())
        )  # takes as long for strangers
        if self._trying >= _MOST_TRIES:
            await _answer(send, 503, _form(address, "Too many are signing in. Try again in a moment."))
            return
        self._trying += 1
        try:
            async with self._tries:
                judged = await asyncio.to_thread(fits, password, known)
        finally:
            self._trying -= 1
        right = judged and user in self._passwords
        if not right:
            await _answer(send, 401, _form(address, "That is not right."))
            return
        until = str(int(time.time()) + _SESSION_S)
        await self._answer_with(send, f"{until}.{self._signed(until)}", _SESSION_S, _inside(address))

    async def _answer_with(self, send: Send, session: str, seconds: int, address: str = "/") -> None:
        """On to a page, with a session or with none any more."""
        cookie = f"{_COOKIE}={session}; Max-Age={seconds}; Path=/; HttpOnly; SameSite=Lax{self._secure}"
        await _answer(send, 303, b"", [(b"location", address.encode()), (b"set-cookie", cookie.encode())])


async def _body(receive: Receive) -> bytes:
    body, more = b"", True
    while more and len(body) <= _MAX_FORM_BYTES:
        message = await receive()
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body[:_MAX_FORM_BYTES]


async def _answer(send: Send, status: int, body: bytes, headers: Sequence[tuple[bytes, bytes]] = ()) -> None:
    fixed: list[tuple[bytes, Any]] = [
        (b"content-type", b"text/html; charset=utf-8"),
        (b"cache-control", b"no-store"),
        (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'; form-action 'self'"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": [*fixed, *headers]})
    await send({"type": "http.response.body", "body": body})


def _address(scope: Scope) -> str:
    """Path and query of what was asked for: a ticket's link leads to its page also by way of the sign-in."""
    path = scope.get("raw_path") or quote(scope["path"]).encode()
    return (path + b"?" + scope["query_string"] if scope["query_string"] else path).decode("latin-1")


def _inside(address: str) -> str:
    """The address if it is one within this app, else the start: who made a link has no say in where it ends."""
    is_plain = address.isascii() and address.isprintable() and not set(address) & set(' \\"<>')
    if not is_plain or len(address) > _MAX_ADDRESS_CHARS or not address.startswith("/"):
        return "/"
    path = unquote(address.partition("?")[0].partition("#")[0])
    ends_elsewhere = path.startswith("//") or posixpath.normpath(path) in {_SIGN_IN, SIGN_OUT}
    return "/" if ends_elsewhere else address


def _form(address: str, wrong: str = "") -> bytes:
    return _page(
        wrong,
        f'<form method="post" action="{_SIGN_IN}"><label>User<input name="user" autocomplete="username" autofocus>'
        '</label><label>Password<input name="password" type="password" autocomplete="current-password"></label>'
        f'<input name="address" type="hidden" value="{html.escape(_inside(address))}">'
        "<button>Sign in</button></form>",
    )


def _page(words: str, more: str = "") -> bytes:
    style = (
        ":root{color-scheme:light dark;font:16px system-ui,sans-serif}"
        "body{max-width:20rem;margin:20vh auto;padding:1rem}"
        "label,input,button{display:block;width:100%;box-sizing:border-box;margin:.3rem 0;font:inherit}"
        "input,button{padding:.5rem}"
    )
    return (
        '<!doctype html><html lang="en"><meta name="viewport" content="width=device-width"><title>hepduck</title>'
        f'<style>{style}</style><h1>hepduck</h1><p role="alert">{html.escape(words)}</p>{more}</html>'
    ).encode()
