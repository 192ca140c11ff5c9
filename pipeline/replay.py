"""Recordings through the detectors, without a tap or a store: same code, same findings as live."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from pipeline.decode import Decoder
from pipeline.engine.commands import Finding
from pipeline.engine.engine import Detector, Engine
from pipeline.engine.state import StateSettings
from pipeline.ingest import Datagram
from pipeline.instants import at
from pipeline.ladder import printable

BATCH = 256  # datagrams decoded at once when nobody waits for them


def replay(
    datagrams: Iterable[Datagram],
    detectors: Sequence[Detector],
    *,
    settings: StateSettings | None = None,
    speed: float | None = None,
) -> Iterator[Finding]:
    """The findings in `datagrams` (in arrival order), each as soon as it is raised.

    The recorded arrival times take the part of the wall clock, so the speed of the replay changes nothing:
    None is as fast as possible, 1.0 the original pace.
    """
    engine = Engine(detectors, settings)
    decoder = Decoder("replay", engine.interest)
    began_s: float | None = None
    first_us = 0

    def wait_until(us: int) -> None:
        assert speed is not None
        assert began_s is not None
        time.sleep(max(0.0, began_s + (us - first_us) / 1e6 / speed - time.monotonic()))

    for datagram in datagrams:
        if speed is not None:
            if began_s is None:
                began_s, first_us = time.monotonic(), datagram.arrival_us
            while (due_us := engine.clocks.next_due_us()) is not None and due_us < datagram.arrival_us:
                wait_until(due_us)  # a finding is due when it is due, not when the next message comes
                yield from engine.tick(due_us)
            wait_until(datagram.arrival_us)
        yield from engine.tick(datagram.arrival_us)
        yield from engine.handle(decoder.decode([datagram]), datagram.arrival_us)
        if decoder.pending >= BATCH:
            decoder.take()  # rows are of no use here, of calls and registrations neither
            engine.state.changed_calls.clear()
            engine.state.registered.clear()
    yield from engine.finish()


def flat(finding: Finding) -> dict[str, Any]:
    """A finding as one flat object of plain JSON types: its own fields, then its evidence."""
    return {
        "kind": finding.kind,
        "finding_id": finding.finding_id,
        "ts_us": finding.ts_us,
        "severity": finding.severity,
        "call_id": finding.call_id,
        "aor": finding.aor,
        "trusted": finding.trusted,
        **finding.evidence,
        "msg_ids": list(finding.msg_ids),
    }


def in_words(finding: Finding) -> str:
    """A finding in one line for people."""
    when = at(finding.ts_us).isoformat(timespec="milliseconds")
    facts = finding.evidence
    if finding.kind != "late_register":
        return printable(f"{when}  {finding.kind}  {finding.identifier}")
    return printable(
        f"{when}  ghost call: {finding.aor} at {facts['target']} registered {facts['late_ms']:.0f} ms "
        f"after {finding.call_id} was {facts['outcome']}"
    )
