"""The webhook against a real HTTP server on loopback."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from late_findings import late_finding
from pydantic import ValidationError
from world.ports import free_port

from detectors.actions.webhook import Webhook, WebhookSettings
from pipeline.engine.actions import ActionResult, Attempt, build_actions
from pipeline.errors import ConfigError

ATTEMPT = Attempt("attempt-1", "rule", 0)


class Server:
    """Answers each POST with the next of `statuses` (the last one for good); None: no answer at all."""

    def __init__(self) -> None:
        self.statuses: list[int | None] = [204]
        self.answer = b""
        self.headers: list[dict[str, str]] = []
        self.bodies: list[bytes] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                outer.headers.append({name.lower(): value for name, value in self.headers.items()})
                outer.bodies.append(self.rfile.read(int(self.headers["Content-Length"])))
                status = outer.statuses.pop(0) if len(outer.statuses) > 1 else outer.statuses[0]
                if status is None:
                    self.close_connection = True
                    return
                self.send_response(status)
                self.send_header("Content-Length", str(len(outer.answer)))
                if status in (301, 302):
                    self.send_header("Location", "/elsewhere")
                self.end_headers()
                self.wfile.write(outer.answer)

            def log_message(self, *_: object) -> None:
                pass

        self._http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/hook"
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()

    def close(self) -> None:
        self._http.shutdown()
        self._thread.join()
        self._http.server_close()


@pytest.fixture
def server() -> Iterator[Server]:
    running = Server()
    yield running
    running.close()


def post(url: str, **settings: Any) -> ActionResult:
    async def run() -> ActionResult:
        hook = Webhook(WebhookSettings(url=url, **{"backoff": "10ms", **settings}))
        try:
            return await hook.act(late_finding(caller_display="Ålice"), ATTEMPT)
        finally:
            await hook.stop()

    return asyncio.run(run())


def test_the_finding_is_posted_as_json(server: Server) -> None:
    server.statuses, server.answer = [200], b"thanks"
    assert post(server.url) == ActionResult("delivered", "200 thanks")
    (body,), (headers,) = server.bodies, server.headers
    sent = json.loads(body)
    finding = late_finding(caller_display="Ålice")
    assert sent["kind"] == "late_register"
    assert sent["finding_id"] == "finding-1"
    assert sent["call_id"] == "4f1d-lost@alice.example"
    assert sent["aor"] == "sip:bob@sip.test"
    assert sent["trusted"] is True
    assert {**sent["evidence"], "register_us": 0} == {**finding.evidence, "register_us": 0}
    assert headers["content-type"] == "application/json"
    assert headers["idempotency-key"] == "attempt-1"
    assert "authorization" not in headers
    assert "x-hepduck-signature" not in headers


def test_token_and_signature(server: Server) -> None:
    post(server.url, bearer_token="t0ken", signing_key="k3y")
    (body,), (headers,) = server.bodies, server.headers
    assert headers["authorization"] == "Bearer t0ken"
    signed = headers["x-hepduck-timestamp"].encode() + b"." + body
    assert headers["x-hepduck-signature"] == "sha256=" + hmac.new(b"k3y", signed, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("trouble", [500, 503, 429, None])
def test_trouble_is_retried_with_the_same_key(server: Server, trouble: int | None) -> None:
    server.statuses = [trouble, trouble, 204]
    assert post(server.url) == ActionResult("delivered", "204 (request 3)")
    assert len(set(server.bodies)) == 1
    assert {headers["idempotency-key"] for headers in server.headers} == {"attempt-1"}


def test_retries_have_an_end(server: Server) -> None:
    server.statuses = [500]
    assert post(server.url, retries=2) == ActionResult("refused", "500 (request 3)")
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", [400, 401, 404, 302])
def test_a_refusal_is_final(server: Server, status: int) -> None:
    server.statuses = [status]
    assert post(server.url) == ActionResult("refused", str(status))
    assert len(server.bodies) == 1


def test_of_a_long_answer_only_the_beginning_is_read(server: Server) -> None:
    server.statuses, server.answer = [200], b"x" * 50_000
    assert post(server.url).detail == "200 " + "x" * 200


def test_nobody_there() -> None:
    result = post(f"http://127.0.0.1:{free_port()}/", retries=1)
    assert result.outcome == "no_answer"
    assert "(request 2)" in result.detail


def test_a_silent_server_is_given_up() -> None:
    with socket.socket() as silent:  # the kernel takes the connection, and nobody reads it
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        result = post(f"http://127.0.0.1:{silent.getsockname()[1]}/", timeout="100ms", retries=0)
    assert result.outcome == "no_answer"


def test_the_environments_proxy_is_used_only_when_asked_for(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{free_port()}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    assert post(server.url).outcome == "delivered"
    assert post(server.url, env_proxy=True, retries=0).outcome == "no_answer"


def test_no_secret_is_shown() -> None:
    url = "https://user:passw0rd@hooks.example:8443/a/b?token=passw0rd"
    settings = WebhookSettings(url=url, bearer_token="passw0rd", signing_key="passw0rd")
    plan = asyncio.run(Webhook(settings).plan(late_finding()))
    assert plan.startswith("POST to https://hooks.example:8443/a/b?...: {")
    assert "passw0rd" not in plan
    assert "passw0rd" not in repr(settings.bearer_token) + repr(settings.signing_key)
    with pytest.raises(ValidationError) as wrong:
        WebhookSettings(url="https://h/", bearer_token="passw0rd\r\nEvil: yes")
    assert "passw0rd" not in str(wrong.value)


def test_without_its_table_there_is_no_webhook() -> None:
    assert build_actions({"webhook": Webhook}, {}) == {}
    with pytest.raises(ConfigError, match=r"\[actions\.webhook\] url: must be an http or https URL"):
        build_actions({"webhook": Webhook}, {"webhook": {"url": "file:///etc/passwd"}})


def test_settings_that_are_shown_hold_no_secret() -> None:
    """`hepduck check --dump` and `hepduck actions` print them."""
    url = "https://me:s3cret@hooks.example/ghosts?token=s3cret"
    settings = WebhookSettings.model_validate({"url": url, "bearer_token": "s3cret", "signing_key": "s3cret"})
    assert settings.url == url
    shown = settings.model_dump(mode="json")
    assert shown["url"] == "https://hooks.example/ghosts?..."
    assert "s3cret" not in json.dumps(shown)
