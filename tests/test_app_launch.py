"""`hepduck app`: where it may listen, who may sign in, and that nothing of it answers anybody else."""

from __future__ import annotations

import asyncio
import html
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import trustme
from app_store import App, AppStore, reading
from filled import Run, run_in_process  # noqa: F401 - a fixture
from tap import COMMAND, environment

from app import signin, warm
from app.launch import bind
from app.passwords import fits, password_line, read_passwords
from app.signin import SIGN_OUT, Gate, is_user
from pipeline.errors import ConfigError
from pipeline.settings import AppSettings

PASSWORD = "pä sswörd: 1"


@pytest.fixture(name="password_file", scope="module")
def file_of_passwords(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("passwords") / "passwords"
    file.write_text(f"# who may look\n\n{password_line('ann', PASSWORD)}\n{password_line('bob', 'other')}\n")
    return file


# -- the first visitor -----------------------------------------------------------------------------------


def test_getting_ready_needs_nothing(app_store: AppStore, tmp_path: Path) -> None:
    """With a store or without one; what a thread raises fails the test."""
    for store in (app_store.path, tmp_path):
        with reading(store):
            warm.start().join()


def test_no_answer_waits_for_an_ack() -> None:
    with bind("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


# -- where it may listen ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"listen": "0.0.0.0:0"}, "can be reached by others: set app.password_file, app.proxy_header or"),
        ({"listen": "[::]:0"}, "can be reached by others"),
        ({"listen": "localhost"}, "write HOST:PORT"),
        ({"listen": "127.0.0.1:70000"}, "write HOST:PORT"),
        ({"listen": "0.0.0.0:0", "proxy_header": "X-User"}, "app.proxy_header needs app.proxy_networks"),
        ({"listen": "0.0.0.0:0", "proxy_networks": '["10.0.0.0/8"]'}, "can be reached by others"),
        ({"proxy_networks": '["10.0.0.1/8"]'}, "app.proxy_networks: 10.0.0.1/8 has host bits set"),
        ({"listen": "0.0.0.0:0", "password_file": "none"}, "app.password_file none cannot be read"),
        ({"listen": "0.0.0.0:0", "password_file": "empty"}, "empty names nobody"),
        ({"listen": "0.0.0.0:0", "password_file": "plain"}, "plain, line 2: no line of a password file"),
        ({"listen": "0.0.0.0:0", "oidc_users": '["*@example.com"]'}, "app.oidc_users needs .streamlit/secrets.toml"),
        ({"oidc_users": '["*"]', "password_file": "plain"}, "one way to sign in, not password and oidc"),
        ({"tls_certificate": "none.pem"}, "app.tls_certificate none.pem: No such file or directory"),
        ({"tls_certificate": "plain"}, "app.tls_certificate plain: no certificate or key in PEM form"),
        ({"tls_key": "plain"}, "app.tls_key is set without app.tls_certificate"),
        ({"listen": "127.0.0.1:{taken}"}, "takes any free port"),
        ({"listn": "127.0.0.1:0"}, "unknown key app.listn; did you mean listen?"),
    ],
)  # fmt: skip
def test_refusals(settings: dict[str, str], says: str, tmp_path: Path, run_here: Run) -> None:
    """Exit code 2, one line that names the mend; nothing was served."""
    (tmp_path / "empty").write_text("# nobody\n")
    (tmp_path / "plain").write_text(f"{password_line('ann', PASSWORD)}\nbob:secret\n")
    with socket.create_server(("127.0.0.1", 0)) as holder:
        taken = holder.getsockname()[1]
        chosen = [f"app.{name}={value.format(taken=taken)}" for name, value in settings.items()]
        words = [word for setting in chosen for word in ("--set", setting)]
        done = run_here("app", "--no-config", "--store", tmp_path / "store", *words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


def test_without_the_apps_packages(tmp_path: Path, run_here: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "uvicorn", None)
    done = run_here("app", "--no-config", "-L", "127.0.0.1:0", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (
        2,
        "hepduck: the app needs uvicorn: pip install 'hepduck[app]'\n",
    )


def test_a_line_for_the_password_file(tmp_path: Path) -> None:
    """The command asks for the password and prints the line; the password is not in it."""
    typed = f"{PASSWORD}\n" * 2
    argv = [*COMMAND, "app", "--password-line", "ann"]
    done = subprocess.run(
        argv, cwd=tmp_path, env=environment(), input=typed, capture_output=True, text=True, check=True
    )
    file = tmp_path / "passwords"
    file.write_text(done.stdout)
    ((user, hashed),) = read_passwords(file).items()
    assert user == "ann"
    assert fits(PASSWORD, hashed)
    assert not fits(f"{PASSWORD} ", hashed)
    assert PASSWORD not in done.stdout + done.stderr
    with pytest.raises(ConfigError, match="no user name"):
        password_line("a:b", PASSWORD)


# -- the gate --------------------------------------------------------------------------------------------


async def inner(scope: Any, receive: Any, send: Any) -> None:
    """What stands behind the gate."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.accept"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"inside"})


class Browser:
    """Asks the gate from the address `peer`, and keeps its cookies."""

    def __init__(self, peer: str = "127.0.0.1", **settings: Any) -> None:
        self.peer = peer
        self.gate = Gate(inner, AppSettings(**settings))
        transport = httpx.ASGITransport(app=self.gate, client=(peer, 40000))
        self.client = httpx.AsyncClient(transport=transport, base_url="https://hepduck.test")

    def get(self, path: str, **headers: str | bytes) -> httpx.Response:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return asyncio.run(self.client.get(path, headers=named))

    def post(self, path: str, **content: Any) -> httpx.Response:
        return asyncio.run(self.client.post(path, **content))

    @property
    def hears(self) -> bool:
        """Whether the websocket opens."""
        sent: list[dict[str, Any]] = []

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        cookies = "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())
        scope = {
            "type": "websocket",
            "path": "/_stcore/stream",
            "headers": [(b"cookie", cookies.encode())],
            "client": (self.peer, 40000),
        }
        asyncio.run(self.gate(scope, None, send))  # type: ignore[arg-type]
        return [message["type"] for message in sent] == ["websocket.accept"]


def test_no_gate_on_loopback() -> None:
    assert Browser().get("/any").text == "inside"
    assert Browser().hears


def test_password(password_file: Path) -> None:
    """Nothing answers before: no page, no file, no websocket; all of it after; and not after signing out."""
    browser = Browser(password_file=password_file)
    for path in ("/", "/media/file.csv", "/_stcore/host-config", SIGN_OUT):
        asked = browser.get(path)
        assert asked.status_code == 401
        assert "inside" not in asked.text
        assert 'type="password"' in asked.text
    assert not browser.hears
    assert browser.get("/_stcore/health").text == "inside"  # for whoever watches that it is up

    for user, password in (("ann", "wrong"), ("ann", "other"), ("nobody", "other"), ("", ""), ("ann", "")):
        refused = browser.post("/sign-in", data={"user": user, "password": password})
        assert (refused.status_code, refused.headers.get("set-cookie")) == (401, None)
    browser.post("/sign-in", content=b"\xff" * 100_000)
    assert browser.get("/").status_code == 401

    let_in = browser.post("/sign-in", data={"user": "ann", "password": PASSWORD})
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=Lax"} <= set(let_in.headers["set-cookie"].split("; "))
    assert browser.get("/").text == "inside"
    assert browser.hears

    assert browser.get(SIGN_OUT).status_code == 303
    assert browser.get("/").status_code == 401


def form_of(page: httpx.Response) -> dict[str, str]:
    """The fields of a page's form that a browser sends along unasked."""
    (value,) = re.findall(r'<input name="address" type="hidden" value="([^"]*)">', page.text)
    return {"address": html.unescape(value)}


@pytest.mark.parametrize(
    "link",
    [
        "/ghosts",
        "/call?call_id=7f3a%40192.0.2.5&range=all&msg=3",
        "/calls?q=%22x%22+-trunk%3Ab%26c%3D%3Cd%3E",
        "/a%20page%2Fb?a='b",
    ],
)
def test_a_link_leads_to_its_page_by_way_of_the_sign_in(link: str, password_file: Path) -> None:
    """Also when the first password was wrong."""
    browser = Browser(password_file=password_file)
    form = form_of(browser.get(link))
    refused = browser.post("/sign-in", data={"user": "ann", "password": "wrong", **form})
    let_in = browser.post("/sign-in", data={"user": "ann", "password": PASSWORD, **form_of(refused)})
    assert let_in.headers["location"] == link
    assert browser.get(link).text == "inside"


@pytest.mark.parametrize(
    "address",
    [
        "//evil.test/",
        "//[",
        "https://[",
        "/%2Fevil.test/",
        "/ghosts ",
        "/x\\\\evil.test",
        "/%73ign-out",
        "/x/../sign-out",
        "/x%2f..%2fsign-out?a",
        "/\\evil.test/",
        "https://evil.test/",
        "javascript:alert(1)",
        "/x\r\nset-cookie: a=b",
        "/\t/evil.test",
        "/sign-in?a=b",
        SIGN_OUT,
        "/é",
        f"/{'x' * 5_000}",
        "",
    ],
)
def test_the_sign_in_leads_nowhere_else(address: str, password_file: Path) -> None:
    """Whoever made a link has no say in where it ends."""
    browser = Browser(password_file=password_file)
    data = {"user": "ann", "password": PASSWORD, "address": address}
    assert form_of(browser.post("/sign-in", data=data | {"password": "wrong"})) == {"address": "/"}
    let_in = browser.post("/sign-in", data=data)
    assert (let_in.status_code, let_in.headers["location"]) == (303, "/")


def test_an_address_stays_text_in_the_form(password_file: Path) -> None:
    address = "/a?b=1&amp=<script>'"
    page = Browser(password_file=password_file).get(address)
    assert form_of(page) == {"address": "/a?b=1&amp=%3Cscript%3E'"}
    assert "<script>" not in page.text


def test_strangers_who_try_many_passwords_cost_no_memory(
    password_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each try takes 32 MB: two at a time, fifty with those that wait, whoever asks."""
    at_once, most, lock = 0, 0, threading.Lock()

    def slow(_password: str, _hashed: str) -> bool:
        nonlocal at_once, most
        with lock:
            at_once += 1
            most = max(most, at_once)
        time.sleep(0.02)
        with lock:
            at_once -= 1
        return False

    monkeypatch.setattr(signin, "fits", slow)
    browser = Browser(password_file=password_file)

    async def storm() -> list[httpx.Response]:
        tries = ({"user": "ann", "password": str(number)} for number in range(60))
        return await asyncio.gather(*(browser.client.post("/sign-in", data=each) for each in tries))

    statuses = Counter(answer.status_code for answer in asyncio.run(storm()))
    assert statuses == {401: 50, 503: 10}
    assert most == 2


def test_a_forged_session(password_file: Path) -> None:
    """Neither made up, nor prolonged, nor from another run of the app."""
    browser = Browser(password_file=password_file)
    browser.post("/sign-in", data={"user": "ann", "password": PASSWORD})
    ((name, session),) = browser.client.cookies.items()
    until, _, signature = session.partition(".")
    for forged in ("", "x", f"{int(until) + 1}.{signature}", f"{until}.", f"{until}.{'0' * 64}", "é.ü"):
        stranger = Browser(password_file=password_file)
        assert stranger.get("/", cookie=f"{name}={forged}".encode()).status_code == 401
    assert Browser(password_file=password_file).get("/", cookie=f"{name}={session}").status_code == 401


def test_proxy() -> None:
    """Its header counts from its own address only, whatever else a stranger says of himself."""
    settings = {"proxy_header": "X-Forwarded-User", "proxy_networks": ["10.0.0.5/32", "2001:db8::/64"]}
    signed_in = {"x_forwarded_user": "ann"}
    for peer in ("10.0.0.5", "2001:db8::7"):
        assert Browser(peer, **settings).get("/", **signed_in).text == "inside"
        assert Browser(peer, **settings).get("/").status_code == 403
        assert Browser(peer, **settings).get("/", x_forwarded_user="").status_code == 403
    for peer in ("10.0.0.6", "127.0.0.1", "2001:db9::7"):
        claims = {**signed_in, "x_forwarded_for": "10.0.0.5", "x_real_ip": "10.0.0.5"}
        assert Browser(peer, **settings).get("/", **claims).status_code == 403
        assert not Browser(peer, **settings).hears


# -- OpenID Connect ----------------------------------------------------------------------------------------


def test_who_may_by_email() -> None:
    patterns = ["*@example.com", "Carol@Other.test"]
    assert is_user("Ann@Example.COM", patterns)
    assert is_user("carol@other.test", patterns)
    for email in ("ann@example.com.evil.test", "dave@other.test", "", "example.com"):
        assert not is_user(email, patterns)


@pytest.mark.parametrize(
    ("user", "may"),
    [
        ({"is_logged_in": False}, False),
        ({"is_logged_in": True, "email": "ann@example.com"}, True),
        ({"is_logged_in": True, "email": "ann@example.com", "email_verified": False}, False),
        ({"is_logged_in": True, "email": "eve@evil.test"}, False),
        ({"is_logged_in": True}, False),
    ],
)
def test_pages_are_kept_back(user: dict[str, Any], may: bool, app_store: AppStore) -> None:
    with reading(app_store.path, oidc_users=["*@example.com"]):
        app = App(user=user)
    assert bool(app.test.dataframe) == may
    assert app.test.button(key="sign_out" if user["is_logged_in"] else "sign_in")
    if not may:
        assert "<div" not in app.html()
        assert len(app.test.button) == 1


def test_a_way_out(app_store: AppStore, password_file: Path) -> None:
    """On every page, for who signed in with a password; where nobody signs in there is none."""
    with reading(app_store.path, password_file=password_file):
        assert f'<a href="{SIGN_OUT}" target="_self"' in App("health").html()
    with reading(app_store.path):
        assert "Sign out" not in App("health").html()


# -- the real thing ----------------------------------------------------------------------------------------


@pytest.fixture(name="served", scope="module")
def running_app(
    app_store: AppStore, password_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ssl.SSLContext]]:
    """The app behind a password, by HTTPS, on all addresses of this machine; the URL, and how to check who it is."""
    folder = tmp_path_factory.mktemp("served")
    authority = trustme.CA()
    own = authority.issue_cert("127.0.0.1")
    own.cert_chain_pems[0].write_to_path(str(folder / "app.pem"))
    own.private_key_pem.write_to_path(str(folder / "app.key"))
    settings = {"listen": "0.0.0.0:0", "password_file": password_file}
    settings |= {"tls_certificate": folder / "app.pem", "tls_key": folder / "app.key"}
    words = [word for name, value in settings.items() for word in ("--set", f"app.{name}={value}")]
    argv = [*COMMAND, "app", "--no-config", "--store", str(app_store.path), *words]
    process = subprocess.Popen(argv, cwd=folder, env=environment(), stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    with process.stderr as said:
        address = re.search(r"hepduck app: https://0\.0\.0\.0:(\d+), Ctrl-C", said.readline())
        assert address
        listening = {
            at.laddr.ip for at in psutil.Process(process.pid).net_connections() if at.status == "LISTEN"
        }
        assert listening == {"0.0.0.0"}
        trusting = ssl.create_default_context()
        authority.configure_trust(trusting)
        yield f"https://127.0.0.1:{address[1]}", trusting
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
        assert said.read() == ""


def test_served(served: tuple[str, ssl.SSLContext]) -> None:
    """Behind the gate stands Streamlit's page; there is no telemetry in it."""
    url, trusting = served
    with httpx.Client(base_url=url, verify=trusting) as browser:
        assert browser.get("/").status_code == 401
        assert browser.get("/_stcore/health").text == "ok"
        browser.post("/sign-in", data={"user": "ann", "password": PASSWORD})
        page = browser.get("/")
        assert (page.status_code, "<title>" in page.text) == (200, True)
        assert "server" not in page.headers
        assert browser.get("/_stcore/host-config").status_code == 200
