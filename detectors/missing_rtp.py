"""Answered calls that nobody heard: no media in one direction, or in both.

A firewall, a NAT, a wrong address in SDP: signalling is fine and the phone is silent. What CDRs and RTCP reports
say of a leg comes when the call is over or well under way, so this finding is for the engineer, not for the call.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, Field

from detectors.watcher import Watcher
from pipeline.durations import Duration
from pipeline.engine.commands import Command, Finding
from pipeline.engine.events import LegRated, SipEvent

_DAY_US = 86_400_000_000


class MissingRtpSettings(BaseModel):
    """Settings of the detector `missing_rtp`."""

    model_config = ConfigDict(extra="forbid")

    min_length: Duration = Field(timedelta(seconds=10), description="shorter legs prove nothing")
    no_rtp: bool = Field(
        False,
        description="report legs without any packet, too; not where phones talk directly (direct_media)",
    )
    ignore_endpoints: list[str] = Field(
        [], description='endpoints of the switch where it is right so: "PJSIP/announcements"'
    )


class MissingRtp(Watcher):
    """Finds answered calls without media, one way (kind `one_way_rtp`) or both (`no_rtp`)."""

    name: ClassVar[str] = "missing_rtp"
    Settings: ClassVar[type[BaseModel]] = MissingRtpSettings
    interest: ClassVar[frozenset[str]] = frozenset()

    def __init__(self, settings: MissingRtpSettings | None = None) -> None:
        self.settings = settings or MissingRtpSettings()
        self._min_seconds = self.settings.min_length.total_seconds()
        self._ignored = frozenset(self.settings.ignore_endpoints)

    def on_event(self, event: SipEvent) -> Iterable[Command]:  # noqa: ARG002 - signalling is fine
        """Of no interest."""
        return ()

    def on_leg(self, leg: LegRated) -> Iterable[Command]:
        """A leg was rated."""
        kind = _kind(leg)
        if kind is None or (kind == "no_rtp" and not self.settings.no_rtp):
            return ()
        if leg.seconds < self._min_seconds or leg.endpoint in self._ignored:
            return ()
        silent = {"incoming": leg.incoming_packets, "outgoing": leg.outgoing_packets}
        return (
            Finding(
                kind=kind,
                identifier=f"{leg.call_id}|{leg.leg}|{leg.name}",
                ts_us=leg.ts_us,
                call_id=leg.call_id,
                evidence={
                    "leg": leg.leg,
                    "leg_name": leg.name,
                    "endpoint": leg.endpoint,
                    "peer_ip": leg.peer_ip,
                    "seconds": round(leg.seconds, 1),
                    "silent": [direction for direction, packets in silent.items() if not packets],
                    "incoming_packets": leg.incoming_packets,
                    "outgoing_packets": leg.outgoing_packets,
                    "source": leg.source,
                },
                suppress_for_us=_DAY_US,  # it is rated again whenever a report comes
                trusted=leg.source != "hep rtcp",
            ),
        )


def _kind(leg: LegRated) -> str | None:
    """What is missing, where both directions are known."""
    if leg.incoming_packets is None or leg.outgoing_packets is None:
        return "one_way_rtp" if "one_way" in leg.flags else None
    if not leg.incoming_packets and not leg.outgoing_packets:
        return "no_rtp"
    return "one_way_rtp" if not leg.incoming_packets or not leg.outgoing_packets else None
