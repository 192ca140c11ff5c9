"""Recorded CDRs of real Asterisks, their HEP, and the truth that the relay in the middle counted."""

from __future__ import annotations

import csv
import json
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Literal

import zstandard

from pipeline.protocols.asterisk import SCALARS, STRINGS, parse_leg
from pipeline.protocols.hep import HepPacket, decode
from pipeline.protocols.leg import Leg, tie

DATA = Path(__file__).parent / "data" / "asterisk"
SESSIONS = ("r22-main", "r18", "r22-custom-legacy")
ASTERISK = "10.77.0.1"
LegName = Literal["a", "b"]
LEGS: tuple[LegName, LegName] = ("a", "b")
CODECS = {"0": "PCMU", "8": "PCMA", "9": "G722", "96": "opus", "107": "opus"}


@dataclass(frozen=True)
class Flow:
    """What the relay saw of one direction of one leg; None is not measured."""

    profile: dict[str, float]
    seen: int | None
    dropped: int | None
    jitter_mean_ms: float | None
    jitter_last_ms: float | None
    jitter_max_ms: float | None
    rtcp_seen: int | None
    rtcp_dropped: int | None


@dataclass(frozen=True, eq=False)
class Call:
    """One call: a CDR row with QoS columns, and the truth about it."""

    session: str
    number: int
    row: dict[str, str]
    truth: dict[str, str]

    def flow(self, leg: LegName, way: Literal["up", "down"]) -> Flow:
        def number(key: str, scale: float = 1.0) -> float | None:
            text = self.truth[f"{leg}_{way}_{key}"]
            return float(text) * scale if text else None

        def count(key: str) -> int | None:
            value = number(key)
            return None if value is None else int(value)

        return Flow(
            json.loads(self.truth[f"profile_{leg}_{way}"] or "{}"),
            count("seen"),
            count("dropped"),
            number("jitter_out_mean_s", 1000),
            number("jitter_out_s", 1000),
            number("jitter_out_max_s", 1000),
            count("rtcp_seen"),
            count("rtcp_dropped"),
        )

    def codec(self, leg: LegName) -> str | None:
        return CODECS.get(self.truth[f"{leg}_up_pt"] or self.truth[f"{leg}_down_pt"])

    @cached_property
    def legs(self) -> dict[LegName, Leg]:
        """As parsed, each leg by itself."""
        found: dict[LegName, Leg] = {}
        for name in LEGS:
            leg = parse_leg(columns(self.row, name), leg=name, codec=self.codec(name))
            if leg is not None:
                found[name] = leg
        return found

    @cached_property
    def tied(self) -> dict[LegName, Leg]:
        """As parsed, and tied together where both are there."""
        if len(self.legs) < 2:
            return self.legs
        a, b = tie(self.legs["a"], self.legs["b"], self.codec("a"), self.codec("b"))
        return {"a": a, "b": b}


def columns(row: dict[str, str], leg: LegName) -> dict[str, str | None]:
    """The QoS columns of one leg that the row has."""
    names = (*STRINGS, *SCALARS)
    return {name: row[f"rtcp_{leg}_{name}"] or None for name in names if f"rtcp_{leg}_{name}" in row}


def rows(session: str, table: str = "cdr_full") -> list[dict[str, str]]:
    with (DATA / session / f"{table}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@lru_cache
def truths(session: str) -> list[dict[str, str]]:
    with (DATA / session / "calls_truth.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _truth_of(session: str, row: dict[str, str], start_column: str) -> dict[str, str] | None:
    """By Call-ID, and by time where two calls share one."""
    found = [truth for truth in truths(session) if truth["callid_a"] == row["sip_callid"]]
    if not found:
        return None
    start = datetime.fromisoformat(row[start_column]).replace(tzinfo=UTC).timestamp()
    return min(found, key=lambda truth: abs(float(truth["t0"]) - start))


@lru_cache
def calls(session: str) -> tuple[Call, ...]:
    """The CDR rows that have a truth and say anything of the media. Blind transfers are left out: there the
    relay's flows are not the row's."""
    found = []
    for row in rows(session):
        truth = _truth_of(session, row, "start")
        if truth is not None and row["rtcp_a_all"] and int(truth["id"]) not in {45, 47}:
            found.append(Call(session, int(truth["id"]), row, truth))
    return tuple(found)


def call(session: str, number: int) -> Call:
    (found,) = (each for each in calls(session) if each.number == number)
    return found


def unpacked(session: str, name: str) -> bytes:
    """A zstd-compressed file of the recording."""
    with (DATA / session / f"{name}.zst").open("rb") as file:
        return zstandard.ZstdDecompressor().stream_reader(file).read()


@lru_cache
def rtcp_packets(session: str) -> tuple[HepPacket, ...]:
    """Every HEP packet of type 5."""
    return tuple(packet for packet in _hep(unpacked(session, "hep.bin")) if packet.protocol_type == 5)


def _hep(data: bytes) -> Iterator[HepPacket]:
    at = 0
    while at < len(data):
        (size,) = struct.unpack_from("!I", data, at)
        yield from decode(data[at + 4 : at + 4 + size])
        at += 4 + size
