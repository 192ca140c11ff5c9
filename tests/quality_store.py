"""Stores made of the recorded Asterisk sessions: what the tap heard, and the CDRs, in any order."""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pyarrow as pa
from asterisk_recordings import rows, unpacked
from store_rows import QUIET

from pipeline.decode import Decoder
from pipeline.engine.engine import Engine
from pipeline.engine.rows import call_row
from pipeline.ingest import Datagram
from pipeline.protocols.asterisk import SCALARS, STRINGS
from pipeline.protocols.hep import decode
from pipeline.quality.refresh import Refresher
from pipeline.quality.settings import QualitySettings
from pipeline.store.writer import Writer

Row = dict[str, Any]
TAP = "n1"
AGENT = "192.0.2.9"  # not the switch's own address: which that is the reports must tell


class Store:
    """A store that is written and read in one process."""

    def __init__(self, path: Path, settings: QualitySettings | None = None) -> None:
        self.path = path
        self.settings = settings
        self.writer = Writer(path, TAP, QUIET)
        self.refresher = Refresher(self.writer, settings)

    def query(self, sql: str, **given: Any) -> list[Row]:
        with self.writer.cursor() as cursor:
            cursor.execute("USE lake")
            found: list[Row] = cursor.execute(sql, given or None).to_arrow_table().to_pylist()
            return found

    def restart(self) -> None:
        """As after a stop: nothing is remembered but what is stored."""
        self.refresher = Refresher(self.writer, self.settings)

    def hear(self, session: str, *, only: int | None = None) -> None:
        """Everything that Asterisk sent over HEP (or `only` that HEP type), as the running tap takes it in."""
        self._put(_decoded(session, only))

    def hear_datagrams(self, heard: list[Datagram]) -> None:
        """The same with datagrams of one's own."""
        self._put(_decode(heard))

    def _put(self, decoded: _Decoded) -> None:
        for table, batch in decoded.tables.items():
            assert self.writer.put(table, batch)
        self.writer.append("agent", decoded.agents)
        self.writer.append("call", decoded.calls)
        self.writer.flush()

    def add(self, table: str, added: list[Row]) -> None:
        future = self.writer.append(table, added)
        self.writer.flush()
        future.result()


@contextmanager
def new_store(path: Path, settings: QualitySettings | None = None) -> Iterator[Store]:
    """A store for the time of a test."""
    store = Store(path, settings)
    try:
        yield store
    finally:
        store.writer.stop()


class _Decoded(NamedTuple):
    tables: dict[str, pa.Table]
    agents: list[Row]
    calls: list[Row]


def _decode(heard: list[Datagram]) -> _Decoded:
    engine = Engine([], None)
    decoder = Decoder(TAP, engine.interest)
    calls: dict[str, Row] = {}
    for datagram in heard:
        engine.handle(decoder.decode([datagram]), datagram.arrival_us)
        for call in engine.state.changed_calls.values():
            calls[call.call_id] = call_row(call, TAP, datagram.arrival_us)
        engine.state.changed_calls.clear()
    agents = [agent.row(TAP, heard[-1].arrival_us) for agent in decoder.agents()]
    return _Decoded(decoder.take(), agents, list(calls.values()))


@lru_cache
def _decoded(session: str, only: int | None) -> _Decoded:
    return _decode(list(datagrams(session, only)))


def datagrams(session: str, only: int | None = None) -> Iterator[Datagram]:
    """What the session sent, arriving now."""
    now_us = time.time_ns() // 1000
    data, at = unpacked(session, "hep.bin"), 0
    while at < len(data):
        (size,) = struct.unpack_from("!I", data, at)
        payload = data[at + 4 : at + 4 + size]
        at += 4 + size
        (packet,) = decode(payload)
        if only is None or packet.protocol_type == only:
            yield Datagram(now_us, AGENT, 9060, "udp", True, payload)


# -- CDRs as rows of the store ---------------------------------------------------------------------------


def cdr_rows(session: str, table: str = "cdr_full", source: str = "asterisk") -> list[Row]:
    """The recorded CDRs as an importer stores them; `cdr_extra` in local time and with its columns only."""
    zone = ZoneInfo("UTC" if table == "cdr_full" else "Europe/Kyiv")
    return [cdr_row(row, zone, source, number) for number, row in enumerate(rows(session, table))]


def cdr_row(row: Mapping[str, str], zone: ZoneInfo, source: str, number: int) -> Row:
    """One row; empty is NULL, and so are scalars that a default filled in."""

    def text(name: str) -> str | None:
        return row.get(name) or None

    def moment(name: str) -> datetime | None:
        return (
            datetime.fromisoformat(row[name]).replace(tzinfo=zone)
            if row.get(name, "0000")[:4] > "1970"
            else None
        )

    start = moment("start" if "start" in row else "calldate")
    assert start is not None
    made: Row = {
        "ts": start,
        "source": source,
        "source_row": f"{number}",
        "uniqueid": text("uniqueid"),
        "linkedid": text("linkedid"),
        "sequence": int(row["sequence"]) if text("sequence") else None,
        "call_id": text("sip_callid"),
        "call_id_b": text("sip_callid_b"),
        "src": text("src"),
        "dst": text("dst"),
        "clid": text("clid"),
        "channel": text("channel"),
        "dst_channel": text("dstchannel"),
        "answer_ts": moment("answer") if "answer" in row else None,
        "end_ts": moment("end") if "end" in row else None,
        "duration_ms": round(float(row["duration"]) * 1000),
        "billsec_ms": round(float(row["billsec"]) * 1000),
        "disposition": row["disposition"],
        "accountcode": text("accountcode"),
        "imported_at": datetime.now(UTC),
    }
    for leg in ("a", "b"):
        for name in STRINGS:
            made[f"rtcp_{leg}_{name}"] = text(f"rtcp_{leg}_{name}")
        written = text(f"rtcp_{leg}_rtt") is not None
        for name in SCALARS:
            value = text(f"rtcp_{leg}_{name}")
            kept = float(value) if value is not None and (written or float(value)) else None
            made[f"rtcp_{leg}_{name}"] = int(kept) if kept is not None and "loss" in name else kept
    return made
