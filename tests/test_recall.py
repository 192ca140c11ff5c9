"""Killed in the middle of a call and started again: the race that spans it is found, once, and no phone is wronged."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from datetime import timedelta
from typing import Any

import pytest
from recordings import ALIASES, PATHS, Recording, disagreement, load
from store_rows import QUIET

from detectors.late_register import LateRegister, LateRegisterSettings
from pipeline.decode import Decoder
from pipeline.engine.commands import Finding
from pipeline.engine.engine import Engine
from pipeline.engine.rows import at, call_row, finding_row
from pipeline.ingest import Datagram
from pipeline.ingest.recordings import read_recording
from pipeline.recall import recall
from pipeline.store.writer import Writer

RECORDINGS = [name for name, path in PATHS.items() if path.parent.name == "kamailio" and name != "mix"]
HOUR = timedelta(hours=1)
REACHED_BEFORE_THE_END = ["d", "d2"]  # the phone rang, and registers again after the end: it is owed nothing


class Tap:
    """What of a tap matters here: one life of it after the other, on one store under one name."""

    def __init__(self, writer: Writer, node: str) -> None:
        writer.node = node
        self.writer = writer
        self.findings: list[Finding] = []
        self.start()

    def start(self) -> None:
        self.engine = Engine([LateRegister(LateRegisterSettings(aliases=ALIASES))])
        self.decoder = Decoder(
            self.writer.node,
            self.engine.interest,
            lambda _datagram, _packet: True,
            last_msg_id=self.last_id(),
        )

    def last_id(self) -> int:
        with self.writer.cursor() as cursor:
            return int(cursor.execute("SELECT coalesce(max(msg_id), 0) FROM lake.sip").fetchall()[0][0])

    def hear(self, datagrams: Sequence[Datagram]) -> None:
        for datagram in datagrams:
            self._raise(self.engine.tick(datagram.arrival_us))
            self._raise(self.engine.handle(self.decoder.decode([datagram]), datagram.arrival_us))
        for table, rows in self.decoder.take().items():
            self.writer.put(table, rows)
        now_us = datagrams[-1].arrival_us
        self.append("agent", [agent.row(self.writer.node, now_us) for agent in self.decoder.agents()])
        calls = self.engine.state.changed_calls
        self.append("call", [call_row(call, self.writer.node, now_us) for call in calls.values()])
        self.writer.flush()

    def restart(self, now_us: int, **changes: Any) -> None:
        """Killed, and started again at `now_us` of the recording's time."""
        self.start()
        now = at(now_us)
        assert now
        how = {"lookback": HOUR, "most": 100_000} | changes
        self._raise(recall(self.engine, self.writer, now=now, **how))

    def end(self) -> list[Finding]:
        self._raise(self.engine.finish())
        return self.findings

    def _raise(self, findings: list[Finding]) -> None:
        self.findings += findings
        self.append("finding", [finding_row(finding, self.writer.node) for finding in findings])

    def append(self, table: str, rows: list[dict[str, Any]]) -> None:
        if rows:
            self.writer.append(table, rows)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Writer]:
    with Writer(tmp_path_factory.mktemp("recall") / "store", "n1", QUIET) as made:
        yield made


def heard(name: str) -> tuple[Recording, list[Datagram]]:
    return load(name), list(read_recording(PATHS[name]))


@pytest.mark.parametrize("name", RECORDINGS)
def test_a_race_that_spans_a_restart_is_found_once(writer: Writer, name: str) -> None:
    """Killed twice, at any two moments, with all that was heard before in the store."""
    recording, datagrams = heard(name)
    first, second = sorted(random.Random(name).sample(range(1, len(datagrams)), 2))
    tap = Tap(writer, f"twice-{name}")
    tap.hear(datagrams[:first])
    for since, until in ((first, second), (second, len(datagrams))):
        tap.restart(datagrams[since].arrival_us)
        tap.hear(datagrams[since:until])
    assert not disagreement(recording, tap.end()), (first, second)


def test_what_an_agent_told_ahead_of_its_time_is_found_once(writer: Writer) -> None:
    """Its clock is ahead by more than the restart takes: the finding lies in the future then."""
    recording, datagrams = heard("b")
    tap = Tap(writer, "ahead")
    tap.hear(datagrams)
    tap.end()
    tap.writer.flush()
    found_us = tap.findings[0].ts_us
    tap.restart(found_us - 1_000_000)
    assert not disagreement(recording, tap.end())


@pytest.mark.parametrize("name", REACHED_BEFORE_THE_END)
def test_a_phone_that_was_reached_while_nobody_listened_is_left_alone(writer: Writer, name: str) -> None:
    """The INVITE to the phone and its ringing fell into the gap; that it answers the CANCEL is all that shows it."""
    recording, datagrams = heard(name)
    cancelled = next(i for i, arrived in enumerate(recording.arrived) if arrived.event.sip.method == "CANCEL")
    (aor,) = {entry["aor"].removeprefix("sip:") for entry in recording.label["must_not"]}
    phone = {entry["contact"].partition(":")[0] for entry in recording.label["must_not"]}
    sent_on = next(
        i
        for i, (_, event) in enumerate(recording.arrived)
        if event.sip.method == "INVITE" and event.dst[0] in phone
    )
    assert sent_on < cancelled, aor
    times = [arrived.at_us for arrived in recording.arrived]
    tap = Tap(writer, f"gap-{name}")
    tap.hear([datagram for datagram in datagrams if datagram.arrival_us < times[sent_on]])
    after = [datagram for datagram in datagrams if datagram.arrival_us >= times[cancelled]]
    tap.restart(after[0].arrival_us)
    tap.hear(after)
    assert tap.end() == []


def test_what_is_remembered_has_bounds(writer: Writer) -> None:
    """The newest messages only, and nothing of a time that no longer matters."""
    _, datagrams = heard("b")
    tap = Tap(writer, "bounds")
    tap.hear(datagrams)
    tap.end()
    tap.writer.flush()
    last_us = datagrams[-1].arrival_us
    tap.restart(last_us, most=0)
    assert not tap.engine.state.calls
    assert not tap.engine.state.devices
    tap.restart(last_us + 14 * 3_600_000_000)
    assert not tap.engine.state.calls
    tap.restart(last_us)
    assert tap.engine.state.calls
    tap.end()
    assert len(tap.findings) == 1, "and nothing is found twice"
