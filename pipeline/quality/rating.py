"""From a leg as a source tells it to the two rows of `leg_quality`: the only place where legs are rated."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pipeline.protocols.codecs import Codec, impairment, lookup
from pipeline.protocols.emodel import Quality, assess
from pipeline.protocols.leg import Direction, Leg
from pipeline.quality.settings import QualitySettings

Row = dict[str, Any]
LegName = Literal["a", "b"]
Source = Literal["cdr", "leg table", "hep rtcp"]


@dataclass(frozen=True, slots=True)
class Place:
    """Which leg of which call it is that was measured, when, and who says so."""

    unit: str
    source: Source
    leg: LegName
    call_id: str | None
    leg_call_id: str | None
    ts: datetime | None
    end_ts: datetime | None
    node: str | None
    leg_name: str | None = None
    endpoint: str | None = None
    peer_ip: str | None = None
    joined_by: str | None = None


def leg_rows(
    leg: Leg,
    place: Place,
    codec: str | None,
    settings: QualitySettings,
    revision: int,
    *,
    raw: str | None = None,
    reports: tuple[int | None, int | None] = (None, None),
    rated: tuple[Quality | None, Quality | None] = (None, None),
) -> list[Row]:
    """Two rows of table `leg_quality_state`: incoming and outgoing.

    `reports` are counts for each direction; `rated` is what the phone itself said of each (RTCP XR), used where
    the E-model has nothing to go by.
    """
    known = lookup(codec)
    flags = " ".join(sorted(leg.flags))
    shared = {
        "call_id": place.call_id,
        "leg": place.leg,
        "source": place.source,
        "codec": None if known is None else known.name,
        "clock_rate": None if known is None else known.clock_rate_hz,
        "rtt_ms": leg.rtt_ms,
        "rtt_max_ms": leg.rtt_max_ms,
        "flags": flags,
        "leg_call_id": place.leg_call_id,
        "leg_name": place.leg_name,
        "endpoint": place.endpoint,
        "peer_ip": place.peer_ip,
        "ssrc": leg.ssrc,
        "remote_ssrc": leg.remote_ssrc,
        "joined_by": place.joined_by,
        "ts": place.ts,
        "end_ts": place.end_ts,
        "node": place.node,
        "raw": raw,
        "unit": place.unit,
        "revision": revision,
    }
    return [
        shared | _direction("incoming", leg.incoming, leg, known, settings, reports[0], rated[0]),
        shared | _direction("outgoing", leg.outgoing, leg, known, settings, reports[1], rated[1]),
    ]


def nothing_left(unit: str, revision: int) -> Row:
    """The last row of a unit that is no more."""
    return {"unit": unit, "revision": revision}


def _direction(
    name: str,
    way: Direction,
    leg: Leg,
    codec: Codec | None,
    settings: QualitySettings,
    reports: int | None,
    told: Quality | None,
) -> Row:
    assumed = codec or lookup(settings.assume_codec)
    quality = assess(
        way.loss_pct,
        impairment(assumed, plc=settings.conceal_loss),
        rtt_ms=leg.rtt_ms,
        jitter_ms=way.jitter_ms,
        ptime_ms=settings.ptime_ms,
        model=settings.delay_model,
    )
    quality = quality or told
    return {
        "direction": name,
        "packets": way.packets,
        "lost": way.lost,
        "loss_pct": way.loss_pct,
        "jitter_ms": way.jitter_ms,
        "jitter_max_ms": way.jitter_max_ms,
        "reports": reports,
        "r_factor": quality and quality.r_factor,
        "mos_cq": quality and quality.mos_cq,
        "mos_lq": quality and quality.mos_lq,
        "mos_method": quality and quality.mos_method,
        "grounded": quality and quality.grounded,
    }
