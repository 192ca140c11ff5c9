"""A store of recorded ghost calls: what the detector finds in them, and attempts of actions made by hand."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cdr_recordings import AT_ONCE
from recordings import PATHS
from upkeep_store import empty_store

from detectors.late_register import LateRegister
from pipeline.decode import Decoder
from pipeline.engine.engine import Engine
from pipeline.engine.rows import call_row, finding_row, registration_row
from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import decode
from pipeline.store.writer import Writer

# Canceled, answered elsewhere; 17 s after the end, so outside the window; in time; two phones late.
SCENES = ("b", "c", "g", "d", "p")
_STATUS = re.compile(rb"SIP/2\.0 (\d+)")


@dataclass(frozen=True)
class Told:
    """When things happened in a scene, by its messages alone: first INVITE, end of the call, REGISTERs accepted."""

    invite: datetime
    ended: datetime
    registered: dict[str, datetime]  # by Call-ID of the REGISTER

    @property
    def late_ms(self) -> dict[str, float]:
        return {
            call_id: (at - self.ended) / timedelta(milliseconds=1) for call_id, at in self.registered.items()
        }


def label(scene: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(PATHS[scene].with_suffix(".json").read_text())
    return found


def told(scene: str) -> Told:
    """Read from the bytes: the call's first INVITE, its 487 or 200, and the 200 of each REGISTER after the INVITE."""
    invites, ends, registered = [], [], {}
    for datagram in read_recording(PATHS[scene]):
        (packet,) = decode(datagram.data)
        at = datetime.fromtimestamp((packet.ts_us or 0) / 1e6, UTC)
        head = packet.payload.partition(b"\r\n\r\n")[0]
        status = _STATUS.match(head)
        cseq = re.search(rb"(?im)^CSeq\s*:\s*\d+\s+(\w+)", head)
        call_id = re.search(rb"(?im)^(?:Call-ID|i)\s*:\s*(\S+)", head)
        if cseq is None or call_id is None:
            continue
        method = cseq[1].decode()
        if method == "INVITE" and status is None:
            invites.append(at)
        elif method == "INVITE" and status and status[1] in {b"487", b"200"}:
            ends.append(at)
        elif method == "REGISTER" and status and status[1] == b"200" and invites:
            registered.setdefault(call_id[1].decode(), at)
    return Told(min(invites), min(ends), registered)


def fill(path: Path, scenes: tuple[str, ...] = SCENES, attempts: tuple[dict[str, Any], ...] = ()) -> None:
    """What the tap makes of the scenes; each attempt is of the finding of its `scene`."""
    calls: dict[str, Any] = {}
    registrations, findings, messages = [], [], []
    found_in = {}
    for scene in scenes:
        engine, decoder = Engine([LateRegister()], None), Decoder("tap", frozenset())
        decoder = Decoder("tap", engine.interest)
        raised, arrival_us = [], 0
        for datagram in read_recording(PATHS[scene]):
            arrival_us = datagram.arrival_us
            raised += [*engine.tick(arrival_us), *engine.handle(decoder.decode([datagram]), arrival_us)]
        raised += engine.finish()
        findings += [finding_row(finding, "tap") for finding in raised]
        found_in[scene] = raised
        for call in engine.state.changed_calls.values():
            calls[call.call_id] = call_row(call, "tap", arrival_us)
        registrations += [registration_row(made, event, "tap") for made, event in engine.state.registered]
        messages.append(decoder.take())
    rows = []
    for number, attempt in enumerate(attempts):
        made = dict(attempt)
        finding = found_in[made.pop("scene")][0]
        at = datetime.fromtimestamp(finding.ts_us / 1e6, UTC)
        of_it = {
            "finding_id": finding.finding_id,
            "call_id": finding.call_id,
            "device": finding.evidence["device"],
        }
        of_it |= {"target": finding.evidence["target"], "rule": "late_register", "attempt_id": f"a{number}"}
        rows.append({"started_at": at, "ended_at": at, "detail": "", "sip_statuses": [], **of_it, **made})
    empty_store(path)
    with Writer(path, "tap", AT_ONCE) as writer:
        for tables in messages:
            for table, batch in tables.items():
                assert writer.put(table, batch)
        for table, made_rows in {
            "call": list(calls.values()),
            "registration": registrations,
            "finding": findings,
            "action_attempt": rows,
        }.items():
            writer.append(table, made_rows).result(60)
