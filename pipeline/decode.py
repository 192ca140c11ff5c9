"""From raw datagrams to rows for the store and events for detectors: one pass, no Python object survives it
but the events of interest.

This is the reference of the hot path. A compiled decoder may take its place behind the same two methods,
`decode` and `take`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pyarrow as pa
import structlog

from pipeline.agents_seen import MAX_AGENTS, OTHERS, Agents, AgentSeen
from pipeline.engine.events import SipEvent
from pipeline.errors import DecodeError
from pipeline.ingest import Datagram
from pipeline.protocols.hep import HepPacket
from pipeline.protocols.hep import decode as decode_hep
from pipeline.protocols.hep.packet import PROTOCOL_TYPE_LOG as LOG
from pipeline.protocols.hep.packet import PROTOCOL_TYPE_SIP as SIP
from pipeline.protocols.hep.packet import PROTOCOL_TYPES_QUALITY as QUALITY
from pipeline.protocols.redact import Redactor
from pipeline.protocols.sip import SipMessage, parse
from pipeline.store.schema import arrow_schema

log = structlog.get_logger(__name__)

DAY_US = 86_400_000_000
WEIRD_HEAD_BYTES = 256
BUGS_LOGGED = 10
METHODS = frozenset(
    "INVITE ACK BYE CANCEL OPTIONS REGISTER PRACK SUBSCRIBE NOTIFY PUBLISH INFO REFER MESSAGE UPDATE".split()
)
# One message a datagram; on a stream several may follow each other. TLS, WS and WSS the Via must tell.
_IS_DATAGRAM = {"udp": True, "sctp": True, "tcp": False}

_PROTOCOLS = {SIP: "sip", LOG: "log", **dict.fromkeys(QUALITY, "rtcp")}

# The order in which rows are made; what the store's table has beyond it stays NULL here.
_HEAD = "ts received_at node agent_id agent_addr src_ip src_port dst_ip dst_port correlation_id".split()
_ROW_COLUMNS = {
    "sip": (
        "ts received_at node agent_id agent_addr hep_version transport src_ip src_port dst_ip dst_port "
        "call_id correlation_id method status reason cseq from_user from_host from_display from_tag "
        "to_user to_host to_tag ruri_user ruri_host via_branch contact expires user_agent reason_header "
        "x_cid sdp_ip sdp_port sdp_codecs payload payload_bytes msg_id"
    ).split(),
    "rtcp": [*_HEAD, "payload", "payload_bytes", "packet_type", "msg_id"],
    "log": [*_HEAD, "payload", "payload_bytes", "packet_type", "msg_id"],
    "weird": "ts received_at node agent_addr kind detail head bytes".split(),
}

Admit = Callable[[Datagram, HepPacket], bool | None]
"""Whether a packet's agent is trusted; None: the packet is rejected."""


def admit_all(datagram: Datagram, _packet: HepPacket) -> bool:
    """For recordings: whoever has the file has made sure of it."""
    return datagram.trusted


class BadKey(NamedTuple):
    """Packets of one agent and HEP version with a wrong key, or with none."""

    agent_addr: str
    hep_version: int
    has_key: bool


@dataclass(slots=True)
class Refused:
    """How often, and when last (arrival time)."""

    count: int = 0
    last_us: int = 0


@dataclass(slots=True)
class Counts:
    """Messages by fate so far. A datagram that holds several counts as many."""

    unpacked: int = 0  # messages beyond the first of their datagram
    rejected: Counter[str] = field(default_factory=Counter)
    bad_keys: dict[BadKey, Refused] = field(default_factory=dict)  # who is rejected for `bad_key`
    weird: Counter[str] = field(default_factory=Counter)
    defects: Counter[str] = field(default_factory=Counter)  # of messages that were stored all the same
    messages: Counter[tuple[str, str]] = field(default_factory=Counter)  # method, status class or "request"


class Decoder:
    """Turns datagrams into events at once, and keeps the rows until they are taken as Arrow tables."""

    def __init__(
        self,
        node: str,
        interest: Collection[str],
        admit: Admit = admit_all,
        *,
        last_msg_id: int = 0,
        is_taken: Callable[[int], bool] | None = None,
        redactor: Redactor | None = None,
    ) -> None:
        """`is_taken` says whether a message of the store has that id, where times may be those of the past."""
        self._node = node
        self._is_taken = is_taken
        self._redact = redactor or Redactor()
        self._interest = frozenset(interest)
        self._admit = admit
        self._last_id = last_msg_id
        self._made = 0  # messages that became a row or were rejected
        self._rows: dict[str, list[tuple[Any, ...]]] = {"sip": [], "rtcp": [], "log": [], "weird": []}
        self._agents = Agents()
        self.counts = Counts()

    @property
    def pending(self) -> int:
        """Rows not yet taken."""
        return sum(len(rows) for rows in self._rows.values())

    def decode(self, datagrams: Iterable[Datagram]) -> list[SipEvent]:
        """The events of interest in `datagrams`; every message becomes a row, undecodable ones in `weird`."""
        events: list[SipEvent] = []
        for datagram in datagrams:
            before = self._made
            try:
                self._datagram(datagram, events)
            except DecodeError as error:
                self._weird(datagram, datagram.arrival_us, error.kind, error.detail, datagram.data)
            except Exception as error:  # a bug of ours must cost one datagram, not the tap
                if self.counts.weird["bug"] < BUGS_LOGGED:
                    log.exception("decoder failed", head=datagram.data[:WEIRD_HEAD_BYTES].hex())
                self._weird(datagram, datagram.arrival_us, "bug", repr(error), datagram.data)
            self.counts.unpacked += self._made - before - 1
        return events

    def _datagram(self, datagram: Datagram, events: list[SipEvent]) -> None:
        for packet in decode_hep(datagram.data, now_us=datagram.arrival_us):
            trusted = self._admit(datagram, packet)
            if trusted is None:
                self._reject(datagram, packet)
            else:
                self._packet(datagram, packet, trusted, events)

    def _reject(self, datagram: Datagram, packet: HepPacket) -> None:
        self.counts.rejected["bad_key"] += 1
        self._made += 1
        who = BadKey(datagram.agent_addr, packet.version, packet.auth_key is not None)
        if who not in self.counts.bad_keys and len(self.counts.bad_keys) >= MAX_AGENTS:
            who = BadKey(OTHERS, *who[1:])
        refused = self.counts.bad_keys.setdefault(who, Refused())
        refused.count += 1
        refused.last_us = datagram.arrival_us

    def take(self) -> dict[str, pa.Table]:
        """The rows since the last call, as one Arrow table for each table of the store that got any."""
        tables = {}
        for name, rows in self._rows.items():
            if rows:
                tables[name] = _to_arrow(name, rows)
                rows.clear()
        if "sip" in tables:
            self._count(tables["sip"])
        return tables

    @property
    def has_agent_news(self) -> bool:
        """Whether an agent is new, or trusted no more or again, since `agents` was asked last."""
        return self._agents.has_news

    def agent_packets(self) -> Counter[tuple[str, str]]:
        """See `Agents.packets`."""
        return self._agents.packets()

    def agents(self) -> list[AgentSeen]:
        """The capture agents heard since the last call."""
        return self._agents.heard()

    def _count(self, sip: pa.Table) -> None:
        counted = sip.group_by(["method", "status"]).aggregate([([], "count_all")])
        for row in counted.to_pylist():
            method = (
                row["method"] if row["method"] in METHODS else "other"
            )  # a label must not be the sender's
            status_class = f"{row['status'] // 100}xx" if row["status"] else "request"
            self.counts.messages[method, status_class] += row["count_all"]

    # -- one packet ------------------------------------------------------------------------------------

    def _packet(self, datagram: Datagram, packet: HepPacket, trusted: bool, events: list[SipEvent]) -> None:
        arrival_us = datagram.arrival_us
        ts_us = packet.ts_us
        if ts_us is None or ts_us > arrival_us + DAY_US:  # none sent, or a clock nobody can live by
            ts_us = max(arrival_us, self._last_id + 1)  # one read gives one time to many: keep their order
        kind = packet.protocol_type
        self._agents.see(
            datagram.agent_addr,
            packet.agent_id,
            protocol=_PROTOCOLS.get(kind, "other"),
            hep_version=packet.version,
            trusted=trusted,
            arrival_us=arrival_us,
            skew_us=arrival_us - ts_us,
        )
        if packet.defects:
            self.counts.defects.update(packet.defects)
        if kind == SIP:
            self._sip(datagram, packet, trusted, ts_us, events)
        elif kind in QUALITY or kind == LOG:
            if kind == LOG:
                packet = packet._replace(payload=self._redact.text(packet.payload))
            self._rows["log" if kind == LOG else "rtcp"].append(self._report(datagram, packet, ts_us))
        else:
            self._weird(datagram, ts_us, "hep_protocol_type", f"type {kind}", packet.payload)

    def _sip(
        self, datagram: Datagram, packet: HepPacket, trusted: bool, ts_us: int, events: list[SipEvent]
    ) -> None:
        transport = packet.transport
        try:
            messages: Sequence[SipMessage] = parse(packet.payload, datagram=_IS_DATAGRAM.get(transport or ""))
        except DecodeError as error:
            self._weird(datagram, ts_us, error.kind, error.detail, packet.payload)
            return
        rows = self._rows["sip"]
        agent = self._agents.name(datagram.agent_addr, packet.agent_id)
        for sip in messages:
            msg_id = self._next_id(datagram.arrival_us)
            if sip.defects:
                self.counts.defects.update(sip.defects)
            hop = transport or sip.via_transport or "tls"
            rows.append(
                (
                    ts_us,
                    datagram.arrival_us,
                    self._node,
                    packet.agent_id,
                    datagram.agent_addr,
                    packet.version,
                    hop,
                    packet.src_ip,
                    packet.src_port,
                    packet.dst_ip,
                    packet.dst_port,
                    sip.call_id,
                    packet.correlation_id,
                    sip.method,
                    sip.status,
                    sip.reason,
                    sip.cseq,
                    sip.from_user,
                    sip.from_host,
                    sip.from_display,
                    sip.from_tag,
                    sip.to_user,
                    sip.to_host,
                    sip.to_tag,
                    sip.ruri_user,
                    sip.ruri_host,
                    sip.via_branch,
                    sip.contact,
                    sip.expires,
                    sip.user_agent,
                    sip.reason_header,
                    sip.x_cid,
                    sip.sdp_ip,
                    sip.sdp_port,
                    sip.sdp_codecs,
                    self._redact.message(sip),
                    len(sip.payload),
                    msg_id,
                )
            )
            if sip.method in self._interest:
                src, dst = (packet.src_ip, packet.src_port), (packet.dst_ip, packet.dst_port)
                events.append(SipEvent(ts_us, msg_id, agent, trusted, hop, src, dst, sip))

    # -- rows ------------------------------------------------------------------------------------------

    def _report(self, datagram: Datagram, packet: HepPacket, ts_us: int) -> tuple[Any, ...]:
        return (
            ts_us,
            datagram.arrival_us,
            self._node,
            packet.agent_id,
            datagram.agent_addr,
            packet.src_ip,
            packet.src_port,
            packet.dst_ip,
            packet.dst_port,
            packet.correlation_id,
            packet.payload,
            len(packet.payload),
            packet.protocol_type,
            self._next_id(datagram.arrival_us),
        )

    def _weird(self, datagram: Datagram, ts_us: int, kind: str, detail: str, data: bytes) -> None:
        self._made += 1
        self.counts.weird[kind] += 1
        self._rows["weird"].append(
            (
                ts_us,
                datagram.arrival_us,
                self._node,
                datagram.agent_addr,
                kind,
                detail,
                self._redact.text(data[: 2 * WEIRD_HEAD_BYTES])[:WEIRD_HEAD_BYTES],
                len(data),
            )
        )

    def _next_id(self, arrival_us: int) -> int:
        """Unique and ordered, also over restarts: the arrival time, or one more than the last."""
        self._made += 1
        self._last_id = max(self._last_id + 1, arrival_us)
        while self._is_taken is not None and self._is_taken(self._last_id):
            self._last_id += 1
        return self._last_id


def _to_arrow(table: str, rows: list[tuple[Any, ...]]) -> pa.Table:
    schema = arrow_schema(table)
    made = dict(zip(_ROW_COLUMNS[table], zip(*rows, strict=True), strict=True))
    columns = [
        pa.array(made[item.name], type=item.type) if item.name in made else pa.nulls(len(rows), item.type)
        for item in schema
    ]
    return pa.Table.from_arrays(columns, schema=schema)
