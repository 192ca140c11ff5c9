"""Stores as older versions left them: only the tables and columns of that version, in the catalog and in the files,
with a call, its REGISTER, a ghost call, a CDR and the quality of its leg, as far as that version had room for them.

`python old_store.py PATH` upgrades one, and waits before each step: it prints the version that comes next and goes on
when it is given a line.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from pipeline.store.catalog import Catalog
from pipeline.store.parquet import conform
from pipeline.store.paths import StorePaths
from pipeline.store.schema import Migration, base_table, parse_tables, read_migrations
from pipeline.store.settings import WriterSettings

QUIET = WriterSettings(serve_readers=False)
T0 = datetime(2026, 3, 23, 9, 30, tzinfo=UTC)
CALL, REGISTER = "old-call@sip.test", "old-register@sip.test"
CODES = ((None, "INVITE"), (180, "INVITE"), (None, "CANCEL"), (487, "INVITE"))

SHIPPED = read_migrations()
NEWEST = len(SHIPPED)
CDRS_SINCE, QUALITY_SINCE, COUNTS_SINCE = 2, 3, 6


def _message(number: int, status: int | None, method: str) -> dict[str, Any]:
    start_line = f"{method} sip:bob@sip.test SIP/2.0" if status is None else f"SIP/2.0 {status} x"
    ends = (("192.0.2.5", 5060), ("192.0.2.1", 5060))
    src, dst = ends if status is None else ends[::-1]
    return {
        **{"ts": T0 + timedelta(seconds=number), "received_at": T0 + timedelta(seconds=number)},
        **{
            "call_id": CALL,
            "method": method,
            "status": status,
            "cseq": 1,
            "msg_id": number + 1,
            "hep_version": 3,
        },
        **{"from_user": "alice", "from_host": "sip.test", "to_user": "bob", "to_host": "sip.test"},
        **{"src_ip": src[0], "src_port": src[1], "dst_ip": dst[0], "dst_port": dst[1], "transport": "udp"},
        "payload": f"{start_line}\r\nCall-ID: {CALL}\r\nCSeq: 1 {method}\r\n\r\n".encode(),
    }


def rows() -> dict[str, list[dict[str, Any]]]:
    """What callers of the store name -> rows."""
    end = T0 + timedelta(seconds=3)
    return {
        "sip": [_message(number, *code) for number, code in enumerate(CODES)],
        "call": [
            {
                **{"call_id": CALL, "first_ts": T0, "last_ts": end, "invite_ts": T0, "end_ts": end},
                **{"from_user": "alice", "to_user": "bob", "outcome": "canceled", "messages": len(CODES)},
            }
        ],
        "registration": [
            {"ts": end, "aor": "sip:bob@sip.test", "device": "d1", "event": "registered", "call_id": REGISTER}
            | {"contact": "<sip:bob@192.0.2.9:5060>", "src_ip": "192.0.2.9", "src_port": 5060, "expires": 600}
        ],
        "finding": [
            {"finding_id": "f1", "kind": "late_register", "identifier": "i1", "ts": end, "call_id": CALL}
            | {"severity": "warning", "trusted": True, "late_ms": 1628.0, "evidence": {}, "msg_ids": [1, 2]}
        ],
        "action_attempt": [
            {"attempt_id": "a1", "finding_id": "f1", "action": "fake_call", "call_id": CALL, "dry_run": True}
            | {"started_at": end, "ended_at": end, "outcome": "dry_run", "sip_statuses": []}
        ],
        "cdr": [
            {"ts": T0, "source": "asterisk", "source_row": "1", "call_id": CALL, "linkedid": "17.1"}
            | {"src": "alice", "dst": "bob", "disposition": "NO ANSWER", "end_ts": end, "imported_at": T0}
        ],
        "cdr_call": [
            {"call_id": CALL, "source": "asterisk", "linkedid": "17.1", "start_ts": T0, "end_ts": end}
            | {"unit": "cdr/asterisk/17.1", "revision": 1, "cdr_rows": 1, "src": "alice", "dst": "bob"}
        ],
        "leg_quality": [
            {"call_id": CALL, "leg": "a", "direction": way, "source": "cdr", "codec": "PCMA", "ts": T0}
            | {
                "r_factor": r,
                "mos_lq": 4.0,
                "mos_method": "g107-simplified-lq",
                "grounded": True,
                "flags": "",
            }
            | {"packets": 1000, "lost": 0, "unit": "cdr/asterisk/17.1", "revision": 1, "end_ts": end}
            for way, r in (("incoming", 80.0), ("outgoing", 60.0))
        ],
        "sip_minute": [{"minute": T0, "method": "x", "messages": len(CODES), "bytes": 200, "counted_to": T0}],
    }


def make_old_store(path: Path, version: int) -> StorePaths:
    """A store as the program of that version left it."""
    paths = StorePaths.of(path)
    paths.root.mkdir()
    catalog = Catalog(paths, "n1", QUIET, SHIPPED[:version])
    there = parse_tables(SHIPPED[:version])
    if version < CDRS_SINCE:
        del there["cdr"]  # nobody wrote it then
    tables = {
        base_table(name): conform(name, given, "n1").select(list(there[base_table(name)]))
        for name, given in rows().items()
        if base_table(name) in there
    }
    catalog.commit("batch-1", tables, T0)
    catalog.close()
    return paths


class _Step:
    """A migration that waits where the upgrade comes to it."""

    def __init__(self, shipped: Migration) -> None:
        self.version, self.name = shipped.version, shipped.name
        self._sql = shipped.sql

    @property
    def sql(self) -> str:
        print(self.version, flush=True)
        sys.stdin.readline()
        return self._sql


if __name__ == "__main__":
    steps: Any = [_Step(migration) for migration in SHIPPED]
    Catalog(StorePaths.of(Path(sys.argv[1])), "n1", QUIET, steps).close()
