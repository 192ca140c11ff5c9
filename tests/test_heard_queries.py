"""Questions about how calls sounded, asked while upkeep joins files under them: row numbers of a snapshot are no
more when the next statement comes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from upkeep_store import empty_store

from pipeline.store.heard_queries import overview
from pipeline.store.lake import Reader
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

T0 = datetime(2026, 3, 23, tzinfo=UTC)
FILES = 3


def leg(number: int) -> dict[str, Any]:
    """An incoming direction; the lower the number, the worse. Every other one cannot be ranked."""
    return {
        "call_id": f"call-{number}",
        "leg": "a",
        "direction": "incoming",
        "packets": 1000,
        "lost": 0,
        "loss_pct": 0.0,
        "codec": "PCMA" if number % 2 else "OPUS",
        "r_factor": 30.0 + number,
        "mos_lq": 3.0,
        "mos_method": "g107-simplified-lq",
        "grounded": bool(number % 2),
        "source": "cdr",
        "flags": "",
        "ts": T0 + timedelta(minutes=number),
        "end_ts": T0 + timedelta(minutes=number, seconds=20),
        "unit": f"cdr/made/{number}",
        "revision": 1,
    }


class Disturbed(Reader):
    """A reader that meets upkeep after each statement."""

    def __init__(self, writer: Writer) -> None:
        super().__init__(writer.paths.root)
        self._writer = writer
        self.joined = 0

    def query(self, sql: str, parameters: Any = None) -> pa.Table:
        answer = super().query(sql, parameters)
        self.joined += self._writer.merge().files_before
        return answer


def test_the_worst_are_the_worst_whatever_upkeep_does_meanwhile(tmp_path: Path) -> None:
    settings = WriterSettings(flush_interval="0s")  # type: ignore[arg-type]
    with Writer(empty_store(tmp_path / "store"), "tap", settings) as writer:
        for file in range(FILES):
            writer.append("leg_quality", [leg(number) for number in range(file, 60, FILES)]).result(60)
        with Disturbed(writer) as reader:
            found = overview(reader, ("total", "worst", "unranked"), limit=5)
            assert reader.joined >= FILES
    assert [row["call_id"] for row in found["worst"]] == [f"call-{n}" for n in (1, 3, 5, 7, 9)]
    assert [row["call_id"] for row in found["unranked"]] == [f"call-{n}" for n in (0, 2, 4, 6, 8)]
    for row in (*found["worst"], *found["unranked"]):
        assert row["r_factor"] == 30.0 + int(row["call_id"].removeprefix("call-"))
