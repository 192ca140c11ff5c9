"""What `hepduck doctor` says, for tests of it: its verdicts by name, and stores made of recordings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

from store_rows import QUIET

from pipeline.decode import Decoder
from pipeline.doctor import Diagnosis, Look, Verdict, examine
from pipeline.engine.engine import Engine
from pipeline.engine.rows import call_row, registration_row
from pipeline.ingest import Datagram
from pipeline.settings import load
from pipeline.store.lake import Reader
from pipeline.store.writer import Writer

TAP = "n1"
ALWAYS = timedelta(days=3650)


class Said(dict[str, Diagnosis]):
    """The diagnoses by the names of their checks."""

    def __repr__(self) -> str:
        return "\n".join(f"{d.verdict.value}: {name}: {d.told}" for name, d in self.items())

    def named(self, verdict: Verdict) -> set[str]:
        return {name for name, diagnosis in self.items() if diagnosis.verdict is verdict}

    @property
    def wrong(self) -> set[str]:
        return self.named(Verdict.WRONG)

    @property
    def advice(self) -> set[str]:
        return self.named(Verdict.ADVICE)

    @property
    def complaints(self) -> set[str]:
        """All that is not content."""
        return self.wrong | self.advice

    def mend(self, name: str, where: str = "kamailio.cfg") -> str:
        """The lines that mend it there."""
        return "\n".join(line for mend in self[name].mends if mend.where == where for line in mend.lines)


def ask(
    store: Path, settings: Mapping[str, Any] | None = None, reader: Reader | None = None, **how: Any
) -> Said:
    """What the doctor says of a store; `settings` by dotted key, `how` as `Look` takes it."""
    configured, _ = load(None, no_file=True, overrides={"store.path": str(store), **(settings or {})})
    with Look(store, configured, reader=reader, **how) as look:
        said = Said((check.name, diagnosis) for check, diagnosis in examine(look))
    failed = [d.told for d in said.values() if d.told.startswith("the check failed")]
    assert not failed, failed
    return said


@contextmanager
def store_of(path: Path, datagrams: Iterable[Datagram]) -> Iterator[Writer]:
    """A store that heard these datagrams when they say they arrived; no tap runs."""
    engine = Engine([], None)
    decoder = Decoder(TAP, engine.interest)
    calls: dict[str, dict[str, Any]] = {}
    now_us = 0
    for datagram in datagrams:
        now_us = datagram.arrival_us
        engine.tick(now_us)
        engine.handle(decoder.decode([datagram]), now_us)
        calls |= {call.call_id: call_row(call, TAP, now_us) for call in engine.state.changed_calls.values()}
        engine.state.changed_calls.clear()
    registrations = [registration_row(r, event, TAP) for r, event in engine.state.registered]
    with Writer(path, TAP, QUIET) as writer:
        for table, rows in decoder.take().items():
            assert writer.put(table, rows)
        writer.append("call", list(calls.values()))
        writer.append("registration", registrations)
        writer.append("agent", [agent.row(TAP, now_us) for agent in decoder.agents()])
        writer.flush()
        yield writer
