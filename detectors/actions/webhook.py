"""POST the finding as JSON to a URL.

The body is signed when a `signing_key` is set: `X-Hepduck-Signature: sha256=HEX`, the HMAC-SHA256 over
`X-Hepduck-Timestamp`, a full stop, and the body. `Idempotency-Key` is the attempt's id, also in retries.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import time
from datetime import timedelta
from typing import Annotated
from urllib.parse import urlsplit

import httpx
from pydantic import Field, PlainSerializer, SecretStr, field_validator

from pipeline.durations import Duration
from pipeline.engine.actions import Action, ActionResult, ActionSettings, Attempt, finding_as_json
from pipeline.engine.commands import Finding

_ANSWER_BYTES = 200  # of the answer, for the attempt's detail


def shown_url(url: str) -> str:
    """The URL without what may be secret in it: user, password, query."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}" + ("?..." if parts.query else "")


class WebhookSettings(ActionSettings):
    """`[actions.webhook]`"""

    url: Annotated[str, PlainSerializer(shown_url, when_used="json")] = Field(
        description="http or https URL to POST to"
    )
    bearer_token: SecretStr | None = Field(None, description="sent as Authorization: Bearer")
    signing_key: SecretStr | None = Field(None, description="key of the HMAC-SHA256 signature")
    timeout: Duration = Field(timedelta(seconds=5), description="longest time for one request")
    retries: int = Field(3, ge=0, le=10, description="after a 5xx, a 429 or no answer")
    backoff: Duration = Field(timedelta(milliseconds=500), description="before the first retry; then doubled")
    verify_tls: bool = Field(True, description="check the server's certificate")
    env_proxy: bool = Field(False, description="use HTTP_PROXY and its like from the environment")

    @field_validator("url")
    @classmethod
    def _check_url(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("must be an http or https URL")
        return value

    @field_validator("bearer_token")
    @classmethod
    def _check_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not (
            value.get_secret_value().isascii() and value.get_secret_value().isprintable()
        ):
            raise ValueError("must be printable ASCII")
        return value


class Webhook(Action):
    """POST the finding as JSON."""

    name = "webhook"
    Settings = WebhookSettings

    def __init__(self, settings: WebhookSettings) -> None:
        super().__init__(settings)
        self.settings: WebhookSettings = settings
        self._client: httpx.AsyncClient | None = None

    async def stop(self) -> None:
        if self._client is not None:
            await self._client.aclose()
            self._client = None

    async def plan(self, finding: Finding) -> str:
        return f"POST to {shown_url(self.settings.url)}: {_body(finding).decode()}"

    async def act(self, finding: Finding, attempt: Attempt) -> ActionResult:
        body = _body(finding)
        pause_s = self.settings.backoff.total_seconds()
        for go in range(1, self.settings.retries + 2):
            try:
                status, answer = await self._post(body, attempt)
            except httpx.TransportError as error:
                outcome, detail = "no_answer", f"{type(error).__name__}: {error}"
            else:
                outcome = "delivered" if status < 300 else "refused"
                detail = f"{status} {answer}".strip()
                if status < 500 and status != 429:
                    break
            if go <= self.settings.retries:
                await asyncio.sleep(pause_s)
                pause_s *= 2
        return ActionResult(outcome, f"{detail} (request {go})" if go > 1 else detail)

    async def _post(self, body: bytes, attempt: Attempt) -> tuple[int, str]:
        client = self._client = self._client or httpx.AsyncClient(
            timeout=self.settings.timeout.total_seconds(),
            verify=self.settings.verify_tls,
            trust_env=self.settings.env_proxy,
        )
        headers = self._headers(body, attempt)
        async with client.stream("POST", self.settings.url, content=body, headers=headers) as response:
            answer = b""
            async for part in response.aiter_raw(_ANSWER_BYTES):
                answer += part
                if len(answer) >= _ANSWER_BYTES:
                    break
        return response.status_code, answer[:_ANSWER_BYTES].decode("utf-8", "replace")

    def _headers(self, body: bytes, attempt: Attempt) -> dict[str, str]:
        headers = {"Content-Type": "application/json", "Idempotency-Key": attempt.attempt_id}
        if self.settings.bearer_token is not None:
            headers["Authorization"] = f"Bearer {self.settings.bearer_token.get_secret_value()}"
        if self.settings.signing_key is not None:
            timestamp = str(int(time.time()))
            key = self.settings.signing_key.get_secret_value().encode()
            digest = hmac.new(key, f"{timestamp}.".encode() + body, hashlib.sha256).hexdigest()
            headers |= {"X-Hepduck-Timestamp": timestamp, "X-Hepduck-Signature": f"sha256={digest}"}
        return headers


def _body(finding: Finding) -> bytes:
    return json.dumps(finding_as_json(finding), default=str).encode()
