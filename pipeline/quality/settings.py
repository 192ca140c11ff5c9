"""Settings `[quality]`: how legs are rated, what ties them, and the daily report."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import BaseModel, ConfigDict, Field, field_validator

from pipeline.durations import Duration
from pipeline.protocols.codecs import lookup
from pipeline.protocols.emodel import DelayModel


class QualitySettings(BaseModel):
    """Everything about voice quality but the sources of the CDRs."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    enabled: bool = Field(True, description="rate legs while the tap runs")
    interval: Duration = Field(
        timedelta(seconds=10), description="take in new CDRs and reports that often", gt=timedelta(0)
    )
    delay_model: DelayModel = Field(
        "simplified", description="Id of the E-model: simplified, or full (G.107)"
    )
    conceal_loss: bool = Field(True, description="phones conceal lost packets of G.711: Bpl 25.1, else 4.3")
    ptime_ms: float = Field(20.0, gt=0, le=200, description="length of a packet")
    assume_codec: str | None = Field(None, description="codec of legs that nobody names, for example PCMA")
    switch_addresses: list[str] = Field(
        default_factory=list, description="media addresses of the switch; empty: learnt from the reports"
    )
    tie_x_cid: bool = Field(
        True, description="a call whose INVITE has X-CID is leg B of the call with that Call-ID"
    )
    report_dir: Path | None = Field(None, description="folder for the daily report; empty: no report")
    report_at: str = Field(
        "03:00", pattern=r"^([01]\d|2[0-3]):[0-5]\d$", description="when the report of the day before is made"
    )
    report_zone: str = Field("UTC", description="time zone of the report's day, for example Europe/Kyiv")

    @field_validator("assume_codec")
    @classmethod
    def _known_codec(cls, name: str | None) -> str | None:
        if name is not None and lookup(name) is None:
            raise ValueError(f"{name!r} is no codec that is known here; write for example PCMA")
        return name

    @field_validator("report_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise ValueError(f"{name!r} is no time zone; write for example Europe/Kyiv") from error
        return name
