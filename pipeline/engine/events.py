"""What detectors see: SIP messages of interest and timers, both in event time; and legs, once they are rated.

Event time is the HEP timestamp (arrival time for HEP version 1, which carries none), in integer
microseconds since the epoch, UTC.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from pipeline.protocols.sip import SipMessage

if TYPE_CHECKING:
    from pipeline.engine.bindings import Registration
    from pipeline.engine.calls import Call

Address = tuple[str, int]  # ip without brackets, port


@dataclass(slots=True, eq=False)
class SipEvent:
    """One SIP message as one hop saw it, with the call or registration that it belongs to."""

    ts_us: int
    msg_id: int
    agent: str  # the capture agent: "10.0.0.5/2001"
    trusted: bool  # the agent passed a check: an auth key, or an allowed network
    transport: str  # udp, tcp, tls, ws, wss, sctp
    src: Address
    dst: Address
    sip: SipMessage
    call: Call | None = None
    registration: Registration | None = None


@dataclass(frozen=True, slots=True)
class LegRated:
    """How one leg of an answered call went, by CDRs or RTCP reports, so far or in the end. Unknown is None."""

    ts_us: int  # of the last that is known of it
    call_id: str | None
    leg: str  # a: came in; b: was dialled by the switch
    name: str | None  # what the source calls it: a channel, a correlation id
    endpoint: str | None  # of the switch: PJSIP/trunk
    peer_ip: str | None
    source: str  # cdr, leg table, hep rtcp
    seconds: float
    incoming_packets: int | None  # from the phone to the switch
    outgoing_packets: int | None
    flags: frozenset[str]  # `pipeline.protocols.leg.FLAGS`


@dataclass(frozen=True, slots=True)
class TimerFired:
    """A timer that a detector asked for is due. `ts_us` is the time it was set for."""

    name: str
    ts_us: int


Event = SipEvent | LegRated | TimerFired
