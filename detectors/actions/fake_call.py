"""The compensating call by our own SIP UAC: the phone gets the INVITE it waits for, and its CANCEL.

The call goes through the operator's proxy, which alone can reach the phone's connection and which admits
it by our source address and a secret header (`deploy/kamailio`). It carries the lost call's Call-ID, so
that the phone knows it for the call that the push announced, and a From tag by which the mirror's
copies are recognised as our own.
"""

from __future__ import annotations

import time
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, field_validator, model_validator

from detectors.actions.uac import headers
from detectors.actions.uac.call import CompensatingCall, Patience
from detectors.actions.uac.endpoint import Endpoint
from detectors.actions.uac.links import ProxyAddress, connected_udp_socket, make_link, party_of
from detectors.actions.uac.messages import USER_AGENT, Script
from detectors.actions.uac.transactions import Timers
from pipeline.durations import Duration
from pipeline.engine.actions import Action, ActionResult, ActionSettings, Attempt
from pipeline.engine.commands import Finding
from pipeline.errors import ConfigError

MASK = "********"


class FakeCallSettings(ActionSettings):
    """`[actions.fake_call]`"""

    proxy: str = Field("sip:127.0.0.1:5060", description="SIP URI of the proxy; ;transport=tcp for TCP")
    local: str | None = Field(None, description='"IP" or "IP:PORT" to send from, as the proxy admits it')
    secret: SecretStr | None = Field(None, description="shared secret; better by environment or secret_file")
    secret_file: Path | None = Field(None, description="file that holds the shared secret")
    secret_header: str = Field("X-Late-Secret", description="header that carries the secret")
    target_header: str = Field("X-Late-Target", description="header that carries the phone's address")
    user_agent: str = Field(USER_AGENT, description="User-Agent of our calls")
    sdp: Literal["audio", "none"] = Field("audio", description="the INVITE's offer")
    reasons: dict[str, str] = Field(
        default_factory=lambda: {
            "answered": 'SIP;cause=200;text="Call completed elsewhere"',
            "declined": 'SIP;cause=600;text="Busy Everywhere"',
        },
        description="the CANCEL's Reason (RFC 3326) by the lost call's outcome; "
        "with cause 200 the phone logs no missed call",
    )
    ring_wait: Duration = Field(timedelta(seconds=5), description="longest wait for the phone to ring")
    cancel_after: Duration = Field(timedelta(0), description="from the phone's ringing to the CANCEL")
    t1: Duration = Field(timedelta(milliseconds=500), description="RFC 3261 timer T1; 64 T1 is the patience")
    t2: Duration = Field(timedelta(seconds=4), description="RFC 3261 timer T2")
    t4: Duration = Field(timedelta(seconds=5), description="RFC 3261 timer T4")
    timer_d: Duration = Field(timedelta(seconds=32), description="RFC 3261 timer D")
    # The worst call: no reply until timer B, then none to the CANCEL until timer F.
    time_limit: Duration = Field(timedelta(seconds=75), description="longest time for one attempt")

    @field_validator("proxy")
    @classmethod
    def _check_proxy(cls, value: str) -> str:
        ProxyAddress.parse(value)
        return value

    @field_validator("local")
    @classmethod
    def _check_local(cls, value: str | None) -> str | None:
        if value is not None:
            headers.local_address(value)
        return value

    @field_validator("secret_header", "target_header")
    @classmethod
    def _check_header_name(cls, value: str) -> str:
        return headers.header_name(value)

    @field_validator("user_agent")
    @classmethod
    def _check_user_agent(cls, value: str) -> str:
        return headers.configured(value)

    @field_validator("secret")
    @classmethod
    def _check_secret(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            headers.configured(value.get_secret_value())
        return value

    @field_validator("reasons")
    @classmethod
    def _check_reasons(cls, value: dict[str, str]) -> dict[str, str]:
        return {outcome: headers.configured(reason) for outcome, reason in value.items()}

    @model_validator(mode="after")
    def _check_one_secret(self) -> FakeCallSettings:
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("secret and secret_file are both set; set one")
        return self


class FakeCall(Action):
    """INVITE with the lost call's Call-ID, wait for ringing, CANCEL. Outcomes: see `uac.call`."""

    name = "fake_call"
    Settings = FakeCallSettings
    family = "compensating_call"
    needs_target = True

    def __init__(self, settings: FakeCallSettings) -> None:
        super().__init__(settings)
        self.settings: FakeCallSettings = settings
        self._secret = read_secret(settings)
        self._proxy = ProxyAddress.parse(settings.proxy)
        self._local = headers.local_address(settings.local) if settings.local is not None else None
        self._patience = Patience(settings.ring_wait.total_seconds(), settings.cancel_after.total_seconds())
        self._timers = Timers(
            t1=settings.t1.total_seconds(),
            t2=settings.t2.total_seconds(),
            t4=settings.t4.total_seconds(),
            d=settings.timer_d.total_seconds(),
        )
        self._endpoint: Endpoint | None = None

    async def start(self) -> None:
        await self._ready().link.open()

    async def stop(self) -> None:
        if self._endpoint is not None:
            await self._endpoint.close()
            self._endpoint = None

    async def plan(self, finding: Finding) -> str:
        """The INVITE and the CANCEL as they would go out, the secret masked. Sends nothing."""
        script = self.script(finding, MASK)
        with await connected_udp_socket(
            self._proxy, None if self._local is None else (self._local[0], 0)
        ) as sock:
            party = party_of(sock, self._proxy.transport)
        invite, cancel = bytes(script.invite(party)), bytes(script.cancel(party))
        return f"to {self._proxy}:\n{invite.decode()}\nand as soon as the phone rings:\n{cancel.decode()}"

    async def act(self, finding: Finding, _attempt: Attempt) -> ActionResult:
        script = self.script(finding, self._secret)
        call = CompensatingCall(self._ready(), script, self._patience, now_us=lambda: time.time_ns() // 1000)
        report = await call.run()
        return ActionResult(report.outcome, report.detail, tuple(report.statuses), report.invite_sent_us)

    def script(self, finding: Finding, secret: str | None) -> Script:
        """What to say for this finding, every value checked. Raises ActionError."""
        evidence = finding.evidence
        user, host = headers.aor(finding.aor)
        target = headers.target(evidence.get("target"))
        extra = [(self.settings.target_header, target.uri)]
        if secret is not None:
            extra.insert(0, (self.settings.secret_header, secret))
        return Script(
            call_id=headers.call_id(finding.call_id),
            aor=f"sip:{user}@{host}",
            caller=headers.caller(
                evidence.get("caller_user"), evidence.get("caller_host"), evidence.get("caller_display")
            ),
            target=target,
            reason=self.settings.reasons.get(str(evidence.get("outcome"))),
            extra=tuple(extra),
            user_agent=self.settings.user_agent,
            offer_sdp=self.settings.sdp == "audio",
        )

    def _ready(self) -> Endpoint:
        if self._endpoint is None:
            self._endpoint = Endpoint(make_link(self._proxy, self._local), self._timers)
        return self._endpoint


def read_secret(settings: FakeCallSettings) -> str | None:
    """The shared secret from its setting or its file (the file's last line break is not part of it)."""
    if settings.secret is not None:
        return settings.secret.get_secret_value()
    if settings.secret_file is None:
        return None
    try:
        return headers.configured(settings.secret_file.read_text(encoding="ascii").rstrip("\r\n"))
    except OSError as error:
        raise ConfigError(f"[actions.fake_call] secret_file: {error}") from None
    except ValueError:  # its message could show the secret
        raise ConfigError(
            f"[actions.fake_call] secret_file: {settings.secret_file}: must be one line of ASCII"
        ) from None
