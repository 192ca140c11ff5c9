"""A store with a long history: `python benchmarks/history.py STORE [--messages 10000000] [--days 14]`.

One recorded session of a real Kamailio (calls, registrations, ghost calls) and one of a real Asterisk (CDRs, RTCP)
are taken in once, as the tap takes them in. What they became is then stored over and over, each pass with times,
Call-IDs and users of its own, until there are `--messages` SIP messages, spread over the last `--days`. (Files come
out smaller than real ones: tags, branches and SDP of one pass are those of the next, and compress.)
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

sys.path.insert(0, str(Path(__file__).parents[1]))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from asterisk_recordings import SESSIONS
from quality_store import cdr_rows, new_store

from benchmarks.machine import describe
from benchmarks.traffic import MIX
from detectors.late_register import LateRegister
from pipeline.decode import Decoder
from pipeline.engine.engine import Engine
from pipeline.engine.rows import call_row, finding_row, registration_row
from pipeline.ingest.recordings import read_recording
from pipeline.store.parquet import conform
from pipeline.store.retention import drop_replaced
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

NODE = "bench"
PASSES_A_BATCH = 5
MERGE_EVERY = 60  # batches: once a minute in a running tap
IDS = {
    *("call_id", "call_id_b", "leg_call_id", "correlation_id", "x_cid", "name", "unit", "finding_id"),
    *("linkedid", "uniqueid", "source_row", "channel", "dst_channel"),
}
USERS = {"from_user", "to_user", "ruri_user", "src", "dst"}
STATES = ("leg_quality_state", "cdr_call_state", "call_leg_state", "call_state")
Tables = dict[str, pa.Table]


def kamailio() -> Tables:
    """Rows of the recorded calls and registrations, with what the detector found."""
    engine = Engine([LateRegister()], None)
    decoder = Decoder(NODE, engine.interest)
    findings, registrations, calls = [], [], {}
    arrival_us = 0
    for datagram in read_recording(MIX):
        arrival_us = datagram.arrival_us
        found = [*engine.tick(arrival_us), *engine.handle(decoder.decode([datagram]), arrival_us)]
        findings += [finding_row(finding, NODE) for finding in found]
        for call in engine.state.changed_calls.values():
            calls[call.call_id] = call_row(call, NODE, arrival_us)
        engine.state.changed_calls.clear()
        registrations += [registration_row(made, event, NODE) for made, event in engine.state.registered]
        engine.state.registered.clear()
    rows = {"call_state": list(calls.values()), "registration": registrations, "finding": findings}
    return decoder.take() | {table: conform(table, made, NODE) for table, made in rows.items()}


def asterisk() -> Tables:
    """Rows of the recorded reports and CDRs, rated and joined."""
    session = SESSIONS[0]
    with tempfile.TemporaryDirectory() as folder, new_store(Path(folder) / "store") as store:
        store.hear(session)
        store.add("cdr", cdr_rows(session))
        store.refresher.run()
        store.writer.flush()
        with store.writer.cursor() as cursor:
            cursor.execute("USE lake")
            return {
                table: cursor.execute(f"SELECT * FROM {table}").to_arrow_table()
                for table in ("sip", "rtcp", "cdr", *STATES)
            }


class Session:
    """The rows of one session, ready to be stored again at another time under other names."""

    def __init__(self, tables: Tables) -> None:
        self.tables = {name: _cut(table) for name, table in tables.items() if table.num_rows}
        self.messages = self.tables["sip"].num_rows
        self.began = pc.min(self.tables["sip"]["ts"])

    def again(self, number: int, at: datetime) -> Tables:
        """The tables as if the session had begun at `at`."""
        shift = pc.subtract(pa.scalar(at, pa.timestamp("us", "UTC")), self.began)
        return {name: _again(table, number, shift) for name, table in self.tables.items()}


def _cut(table: pa.Table) -> pa.Table:
    """Payloads cut where their Call-ID begins; what arrived, arrived when it was sent."""
    if "received_at" in table.column_names:
        table = table.set_column(table.column_names.index("received_at"), "received_at", table["ts"])
    if "via_branch" not in table.column_names:  # not the messages
        return table
    heads, tails = [], []
    for payload, call_id in zip(table["payload"].to_pylist(), table["call_id"].to_pylist(), strict=True):
        head, found, tail = payload.partition((call_id or "").encode()) if call_id else (payload, b"", b"")
        heads.append(head)
        tails.append(found + tail)
    at = table.column_names.index("payload")
    return table.set_column(at, "payload", pa.array(heads, pa.binary())).append_column(
        "_tail", pa.array(tails, pa.binary())
    )


def _again(table: pa.Table, number: int, shift: pa.DurationScalar) -> pa.Table:
    columns = {}
    for field in table.schema:
        column = table[field.name]
        if pa.types.is_timestamp(field.type) and field.name != "recorded_at":
            column = pc.add(column, shift)
        elif field.name == "msg_id":
            column = pc.add(pc.cast(table["received_at"], pa.int64()), pc.cast(shift, pa.int64()))
            column = pc.add(
                column, pa.array(range(table.num_rows), pa.int64())
            )  # some share their microsecond
        elif field.name in IDS and pa.types.is_string(field.type):
            column = pc.binary_join_element_wise(f"{number}-", column, "")
        elif field.name in USERS:
            column = pc.binary_join_element_wise(column, f"{number % 5000}", "")
        elif field.name == "aor":
            column = pc.replace_substring(column, "sip:", f"sip:{number % 5000}.", max_replacements=1)
        elif field.name == "payload" and "_tail" in table.column_names:
            column = pc.binary_join_element_wise(column, f"{number}-".encode(), table["_tail"], b"")
        columns[field.name] = column
    columns.pop("_tail", None)
    return pa.table(columns)


def fill(path: Path, messages: int, days: float) -> int:
    """Make the store; how many messages it got."""
    sessions = [Session(kamailio()), Session(asterisk())]
    passes = max(1, round(messages / sum(session.messages for session in sessions)))
    period = timedelta(days=days) / passes
    begin = datetime.now(UTC) - timedelta(days=days)
    stored = 0
    with Writer(
        path, NODE, WriterSettings(flush_interval="0s", flush_rows=10**6, serve_readers=False)
    ) as writer:
        for batch, first in enumerate(range(0, passes, PASSES_A_BATCH), 1):
            made: dict[str, list[pa.Table]] = {}
            for number in range(first, min(first + PASSES_A_BATCH, passes)):
                for session in sessions:
                    for name, table in session.again(number, begin + number * period).items():
                        made.setdefault(name, []).append(table)
                    stored += session.messages
            for name, parts in made.items():
                assert writer.put(name, pa.concat_tables(parts, promote_options="default"))
            writer.flush(600)
            if batch % MERGE_EVERY == 0:
                writer.merge()
        writer.merge()
        with writer.tending() as cursor:  # once an hour in a running tap
            drop_replaced(writer, cursor)
    return stored


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("store", type=Path)
    parser.add_argument("--messages", type=int, default=10_000_000)
    parser.add_argument("--days", type=float, default=14)
    given = parser.parse_args()
    print(describe())
    began = time.monotonic()
    stored = fill(given.store, given.messages, given.days)
    size = sum(file.stat().st_size for file in given.store.rglob("*.parquet"))
    print(f"{stored} messages in {time.monotonic() - began:.0f} s, {size / 2**30:.2f} GiB on disk")


if __name__ == "__main__":
    main()
