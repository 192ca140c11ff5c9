"""What the RTCP reports of a call tell over time: loss, jitter and round trip of each leg and direction.

The same reports and the same arithmetic as the legs' quality (`pipeline.quality.hep_legs`), interval by interval.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import timedelta
from typing import Any, Final

from pipeline.errors import RtcpError
from pipeline.instants import at
from pipeline.protocols.rtcp import parse
from pipeline.protocols.rtcp_intervals import Intervals
from pipeline.protocols.rtcp_report import Report
from pipeline.store.queries import Row, Source, rows_of

_SOURCE: Final = "hep rtcp"
_SLACK: Final = timedelta(seconds=1)
_CLOCKS_APART: Final = timedelta(hours=1)  # at most, of an agent and the tap
_MAX_REPORTS: Final = 20_000  # of one leg: a day of them
_REPORTS: Final = """
    SELECT epoch_us(ts) AS at_us, agent_addr, src_ip, dst_ip, payload FROM rtcp
    WHERE ts >= $since AND ts <= $until AND received_at >= $arrived_since
        AND coalesce(nullif(correlation_id, ''), array_to_string(
            list_sort([src_ip || ':' || src_port, dst_ip || ':' || dst_port]), ' ')) = $name
    ORDER BY ts, msg_id LIMIT $limit"""


def intervals(source: Source, legs: Iterable[Mapping[str, Any]]) -> list[Row]:
    """What each report adds to the one before: leg, direction, ts, loss_pct, jitter_ms, rtt_ms; None: not told.

    `legs` are rows of `leg_quality`; those that were not made of RTCP over HEP tell nothing here.
    """
    told = {row["unit"]: row for row in legs if row["source"] == _SOURCE and row["leg_name"]}
    return [interval for row in told.values() for interval in _of_leg(source, row)]


def _of_leg(source: Source, row: Mapping[str, Any]) -> list[Row]:
    given = {"name": row["leg_name"], "limit": _MAX_REPORTS}
    given |= {"since": row["ts"] - _SLACK, "until": row["end_ts"] + _SLACK}
    given["arrived_since"] = row["ts"] - _CLOCKS_APART
    clock_hz = row["clock_rate"]
    # Asterisk reads Opus timestamps at 8000 Hz: its own jitter is nonsense, whatever it is divided by.
    incoming = Intervals(None if row["codec"] == "OPUS" else clock_hz)
    outgoing: Intervals | None = None
    told: list[Row] = []
    for packet in rows_of(source, _REPORTS, given):
        by_phone = packet["src_ip"] == row["peer_ip"]
        if outgoing is None:
            switch = packet["dst_ip"] if by_phone else packet["src_ip"]
            outgoing = Intervals(clock_hz, own_clock=packet["agent_addr"] == switch)
        about, own = (outgoing, incoming) if by_phone else (incoming, outgoing)
        for report in _parsed(packet["payload"]):
            if report.sender is not None:
                own.sent(report.sender, packet["at_us"])
            one = report.block and about.received(report.block, packet["at_us"])
            if one:
                told.append(
                    {
                        "leg": row["leg"],
                        "direction": "outgoing" if by_phone else "incoming",
                        "ts": at(one.at_us),
                        "loss_pct": one.loss_pct,
                        "jitter_ms": one.jitter_ms,
                        "rtt_ms": one.rtt_ms if by_phone else None,  # what the switch says ends at the tap
                    }
                )
    return told


def _parsed(payload: bytes) -> list[Report]:
    """Nothing of what cannot be read: the leg's own row counts that."""
    try:
        return parse(payload)
    except RtcpError:
        return []
