"""The legs that RTCP reports are coming in for: kept in memory while they last, read again from the store when a
late fact (a codec, a CDR that ties them) changes what was made of them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

import duckdb

from pipeline.instants import at
from pipeline.quality import facts
from pipeline.quality.hep_legs import PAUSE_US, Homes, LegReports, Packet
from pipeline.quality.rating import LegName, Place, Row, leg_rows
from pipeline.quality.settings import QualitySettings

_FORGET_US: Final = 600_000_000  # after the last report: its CDR has come by then
_MAX_LEGS: Final = 50_000
_WARM_UP: Final = timedelta(hours=1)  # of reports are read again after a start


class HepBook:
    """Every leg that is reported on now, by name."""

    def __init__(self, settings: QualitySettings) -> None:
        self._settings = settings
        self._homes = Homes(settings.switch_addresses)
        self._legs: dict[str, LegReports] = {}
        self._newest_us = 0

    def clear(self) -> None:
        """Forget all: the next reports of each leg bring the ones before along, from the store."""
        self._legs.clear()

    def take(
        self, cursor: duckdb.DuckDBPyConnection, packets: list[Packet], *, cold: bool
    ) -> list[LegReports]:
        """Take new reports in and return the legs that they are about. `cold`: the reports before may be unknown."""
        if not packets:
            return []
        if cold:
            since = at(packets[0].at_us)
            names = {packet.name for packet in packets} - self._legs.keys()
            earlier = facts.packets_of(cursor, names, since - _WARM_UP, at(packets[-1].at_us))
            packets = sorted({*packets, *earlier}, key=lambda packet: packet.at_us)
        for packet in packets:
            self._homes.see(packet)
        names = {packet.name for packet in packets}
        by_sdp = {
            name: leg.sdp_call_id for name in names if (leg := self._legs.get(name)) and leg.sdp_call_id
        }
        codecs = _codecs(cursor, names, by_sdp, packets)
        touched = self._feed(packets, codecs, self._legs)
        for leg in touched:
            leg.sdp_call_id = by_sdp.get(leg.name)
        self._forget()
        return touched

    def again(self, cursor: duckdb.DuckDBPyConnection, names: Collection[str]) -> list[LegReports]:
        """The legs of these names that were written before, with what is known now."""
        units = facts.hep_units(cursor, names)
        if not units:
            return []
        known = {row["leg_name"] for row in units}
        since, until = min(row["ts"] for row in units), max(row["end_ts"] for row in units)
        kept = [leg for name in known if (leg := self._legs.get(name)) and leg.codec is not None]
        rest = known - {leg.name for leg in kept} | {row["leg_name"] for row in units if _ended(row, kept)}
        packets = facts.packets_of(cursor, rest, since, until) if rest else []
        by_sdp: dict[str, str] = {}
        codecs = _codecs(cursor, rest, by_sdp, packets)
        for packet in packets:
            self._homes.see(packet)
        read: dict[str, LegReports] = {}
        legs = self._feed(packets, codecs, read)
        for name, leg in read.items():
            leg.sdp_call_id = by_sdp.get(name)
            if name in self._legs:
                self._legs[name] = leg
        units_read = {leg.unit for leg in legs}
        return legs + [leg for leg in kept if leg.unit not in units_read]

    def _feed(
        self, packets: Iterable[Packet], codecs: Mapping[str, str], legs: dict[str, LegReports]
    ) -> list[LegReports]:
        touched: dict[str, LegReports] = {}
        for packet in packets:
            self._newest_us = max(self._newest_us, packet.at_us)
            leg = legs.get(packet.name)
            if leg is None or abs(packet.at_us - leg.last_us) > PAUSE_US:
                home = self._homes.of(packet)
                if home is None:
                    continue  # which way it looks nobody knows
                leg = legs[packet.name] = LegReports(packet, home, codecs.get(packet.name))
            leg.feed(packet)
            touched[leg.unit] = leg
        return list({id(leg): leg for leg in touched.values()}.values())

    def _forget(self) -> None:
        old_us = self._newest_us - _FORGET_US
        for name in [name for name, leg in self._legs.items() if leg.last_us < old_us]:
            del self._legs[name]
        while len(self._legs) > _MAX_LEGS:
            del self._legs[next(iter(self._legs))]


def _ended(unit: Row, kept: Collection[LegReports]) -> bool:
    """An earlier use of a name that is in memory for a later one."""
    return any(leg.name == unit["leg_name"] and leg.unit != unit["unit"] for leg in kept)


def _codecs(
    cursor: duckdb.DuckDBPyConnection,
    names: Collection[str],
    by_sdp: dict[str, str],
    packets: Sequence[Packet],
) -> dict[str, str]:
    """Name -> codec: by Call-ID, also a cut one, and by the legs that CDRs tie the name to. Names that nobody
    knows are looked for in the SDP, and what is found there added to `by_sdp`: name -> Call-ID."""
    if not names or not packets:
        return {}
    since = at(packets[0].at_us)
    ties = {name: rows for name, rows in facts.ties_of(cursor, names).items() if rows}
    full = {row["leg_call_id"] for rows in ties.values() for row in rows if row["leg_call_id"]}
    calls = facts.sip_calls(cursor, {*names, *full}, since)
    cut = {call_id[: facts.CUT_CALL_ID] for call_id in calls}
    unknown = set(names) - ties.keys() - cut - by_sdp.keys()
    by_sdp |= _by_sdp(cursor, [packet for packet in packets if packet.name in unknown])
    if by_sdp:
        calls |= facts.sip_calls(cursor, set(by_sdp.values()), since)
    known = {call_id: row["codec"] for call_id, row in calls.items() if row["codec"]}
    known |= {call_id[: facts.CUT_CALL_ID]: codec for call_id, codec in known.items()}
    known |= {name: known[call_id] for name, call_id in by_sdp.items() if call_id in known}
    for name, rows in ties.items():
        found = next((known[row["leg_call_id"]] for row in rows if row["leg_call_id"] in known), None)
        if found is not None:
            known.setdefault(name, found)
    return known


def _by_sdp(cursor: duckdb.DuckDBPyConnection, packets: Sequence[Packet]) -> dict[str, str]:
    """Name -> Call-ID of the call whose SDP named an address of the leg last before its first report."""
    if not packets:
        return {}
    legs: dict[str, tuple[int, set[tuple[str, int]]]] = {}
    for packet in packets:
        _, addresses = legs.setdefault(packet.name, (packet.at_us, set()))
        addresses |= {(packet.src_ip, packet.src_port), (packet.dst_ip, packet.dst_port)}
    every = {address for _, addresses in legs.values() for address in addresses}
    found = facts.sdp_calls(cursor, every, at(packets[0].at_us), at(packets[-1].at_us))
    named: dict[str, str] = {}
    for name, (first_us, addresses) in legs.items():
        began = at(first_us) + facts.SLACK
        fitting = [
            row
            for row in found
            if row["ts"] <= began
            and {(row["sdp_ip"], row["sdp_port"]), (row["sdp_ip"], row["sdp_port"] + 1)} & addresses
        ]
        if fitting:
            named[name] = max(fitting, key=lambda row: row["ts"])["call_id"]
    return named


# -- where they belong -----------------------------------------------------------------------------------


def place_legs(
    cursor: duckdb.DuckDBPyConnection, legs: Collection[LegReports]
) -> list[tuple[LegReports, Place]]:
    """The call and the leg of each: by correlation id as Call-ID (whole, or cut to 127 characters), by channel
    through the CDRs, by address through the SDP of a call of that time. Who is leg A the CDRs say, or X-CID; else
    leg B is what the switch itself called."""
    if not legs:
        return []
    names = {leg.name for leg in legs}
    first = at(min(leg.first_us for leg in legs))
    ties = facts.ties_of(cursor, names)
    calls = facts.sip_calls(cursor, names, first)
    cut = {call_id[: facts.CUT_CALL_ID]: call_id for call_id in calls if len(call_id) > facts.CUT_CALL_ID}
    by_sdp = {leg.name: leg.sdp_call_id for leg in legs if leg.sdp_call_id}
    if by_sdp:
        ties |= facts.ties_of(cursor, set(by_sdp.values()))
        calls |= facts.sip_calls(cursor, set(by_sdp.values()), first)
    return [(leg, _place(leg, ties, calls, cut, by_sdp)) for leg in legs]


def _place(
    leg: LegReports,
    ties: Mapping[str, list[Row]],
    calls: Mapping[str, Row],
    cut: Mapping[str, str],
    by_sdp: Mapping[str, str],
) -> Place:
    began, ended = at(leg.first_us), at(leg.last_us)
    named = ties.get(leg.name, [])
    tie = _nearest((tie for tie in named if tie["kind"] == "channel"), began, ended)
    call_id: str | None = leg.name
    joined_by: str | None = None
    if tie is not None:
        call_id, joined_by = tie["leg_call_id"], "channel"
    else:
        if leg.name in calls:
            joined_by = "call-id"
        elif leg.name in cut:
            call_id, joined_by = cut[leg.name], "call-id-127"
        elif leg.name in by_sdp:
            call_id, joined_by = by_sdp[leg.name], "sdp"
        tie = _nearest([*named, *ties.get(call_id or "", [])], began, ended)
        if tie is not None and joined_by is None:
            call_id, joined_by = tie["name"], "call-id" if tie["name"] == leg.name else "call-id-127"
        elif joined_by is None and " " in leg.name:
            call_id = None  # a pair of addresses is no Call-ID
    leg_call_id = call_id
    call = calls.get(call_id or "")
    name: LegName = "a"
    if tie is not None:
        call_id, name = tie["call_id"] or call_id, "b" if tie["leg"] == "b" else "a"
    elif call is not None and call["src_ip"] == leg.home and call["dst_ip"] != leg.home:
        name = "b"
    return Place(
        unit=leg.unit,
        source="hep rtcp",
        leg=name,
        call_id=call_id,
        leg_call_id=leg_call_id,
        ts=began,
        end_ts=ended,
        node=leg.node,
        leg_name=leg.name,
        endpoint=None if tie is None else tie["endpoint"],
        peer_ip=leg.peer_ip,
        joined_by=joined_by,
    )


def _nearest(ties: Iterable[Row], began: datetime, ended: datetime) -> Row | None:
    """The tie whose call was on at that time: names come again. Of several the CDR's word counts most."""
    order = {"cdr": 0, "leg table": 1, "x-cid": 2, "ssrc": 3}
    fitting = [
        tie
        for tie in ties
        if (tie["ts"] is None or tie["ts"] <= ended + facts.SLACK)
        and (tie["end_ts"] is None or tie["tied_by"] == "x-cid" or tie["end_ts"] >= began - facts.SLACK)
    ]
    return min(fitting, key=lambda tie: (tie["call_id"] is None, order.get(tie["tied_by"], 9)), default=None)


def rate_legs(
    placed: Iterable[tuple[LegReports, Place]], settings: QualitySettings, revision: int
) -> list[Row]:
    """Rows of `leg_quality_state`."""
    rows: list[Row] = []
    for reports, place in placed:
        leg = reports.leg()
        if leg is not None:
            rows += leg_rows(
                leg,
                place,
                reports.codec,
                settings,
                revision,
                raw=reports.raw(),
                reports=reports.reports,
                rated=reports.rated(),
            )
    return rows
