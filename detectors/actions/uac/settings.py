"""Settings that every way of placing the compensating call shares, and what the call says for a finding."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from pydantic import Field, SecretStr, field_validator, model_validator

from detectors.actions.uac import headers
from detectors.actions.uac.links import ProxyAddress
from detectors.actions.uac.messages import USER_AGENT, Script
from pipeline.durations import Duration
from pipeline.engine.actions import ActionSettings
from pipeline.engine.commands import Finding
from pipeline.errors import ConfigError

MASK = "********"  # instead of the secret, wherever a call is shown
FAMILY = "compensating_call"


class CallSettings(ActionSettings):
    """Where the call goes, who we are to the proxy, what the phone is told."""

    proxy: str = Field("sip:127.0.0.1:5060", description="SIP URI of the proxy; ;transport=tcp for TCP")
    local: str | None = Field(None, description='"IP" or "IP:PORT" to send from, as the proxy admits it')
    secret: SecretStr | None = Field(None, description="shared secret; better by environment or secret_file")
    secret_file: Path | None = Field(None, description="file that holds the shared secret")
    secret_header: str = Field("X-Late-Secret", description="header that carries the secret")
    target_header: str = Field("X-Late-Target", description="header that carries the phone's address")
    user_agent: str = Field(USER_AGENT, description="User-Agent of our calls")
    reasons: dict[str, str] = Field(
        default_factory=lambda: {
            "answered": 'SIP;cause=200;text="Call completed elsewhere"',
            "declined": 'SIP;cause=600;text="Busy Everywhere"',
        },
        description="the CANCEL's Reason (RFC 3326) by the lost call's outcome; "
        "with cause 200 the phone logs no missed call",
    )
    ring_wait: Duration = Field(timedelta(seconds=5), description="longest wait for the phone to ring")

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
            headers.configured_secret(value.get_secret_value())
        return value

    @field_validator("reasons")
    @classmethod
    def _check_reasons(cls, value: dict[str, str]) -> dict[str, str]:
        return {outcome: headers.configured(reason) for outcome, reason in value.items()}

    @model_validator(mode="after")
    def _check_one_secret(self) -> CallSettings:
        if self.secret is not None and self.secret_file is not None:
            raise ValueError("secret and secret_file are both set; set one")
        return self


def script_for(
    finding: Finding, settings: CallSettings, secret: str | None, *, offer_sdp: bool = True
) -> Script:
    """What to say for this finding, every value checked. Raises ActionError."""
    evidence = finding.evidence
    user, host = headers.aor(finding.aor)
    target = headers.target(evidence.get("target"))
    return Script(
        call_id=headers.call_id(finding.call_id),
        aor=f"sip:{user}@{host}",
        caller=headers.caller(
            evidence.get("caller_user"), evidence.get("caller_host"), evidence.get("caller_display")
        ),
        secret=None if secret is None else (settings.secret_header, secret),
        target=(settings.target_header, target.uri),
        reason=settings.reasons.get(str(evidence.get("outcome"))),
        user_agent=settings.user_agent,
        offer_sdp=offer_sdp,
    )


def read_secret(settings: CallSettings) -> str | None:
    """The shared secret from its setting or its file (the file's last line break is not part of it)."""
    if settings.secret is not None:
        return settings.secret.get_secret_value()
    if settings.secret_file is None:
        return None
    try:
        return headers.configured_secret(settings.secret_file.read_text(encoding="ascii").rstrip("\r\n"))
    except OSError as error:
        raise ConfigError(f"secret_file: {error}") from None
    except ValueError:  # its message could show the secret
        raise ConfigError(f"secret_file: {settings.secret_file}: must be one line of ASCII") from None
