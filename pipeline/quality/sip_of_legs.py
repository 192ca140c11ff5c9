"""What SIP and the reports know of the legs of CDRs: the codec by Call-ID, the Call-ID by SSRC."""

from __future__ import annotations

from collections.abc import Collection

import duckdb

from pipeline.quality import facts
from pipeline.quality.cdr_calls import remote_ssrc_of
from pipeline.quality.cdr_groups import CdrGroup, end_of
from pipeline.quality.rating import Row


def codecs_of(
    cursor: duckdb.DuckDBPyConnection, rows: Collection[Row], columns: Collection[str]
) -> dict[str, str]:
    """Call-ID -> codec, of the Call-IDs in these columns."""
    call_ids = {row[column] for row in rows for column in columns if row[column]}
    times = [row["ts"] for row in rows if row["ts"] is not None]
    if not call_ids:
        return {}
    calls = facts.sip_calls(cursor, call_ids, min(times) if times else None)
    return {call_id: row["codec"] for call_id, row in calls.items() if row["codec"]}


class SsrcBook:
    """Phones' SSRCs of legs without a Call-ID -> the Call-IDs of the reports about them, where there is just one."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, groups: Collection[CdrGroup]) -> None:
        wanted = {
            ssrc
            for group in groups
            for row in group.rows
            for column in ("rtcp_a_all", "rtcp_b_all")
            if (ssrc := remote_ssrc_of(row[column]))
        }
        times = [row["ts"] for group in groups for row in group.rows if row["ts"] is not None]
        self.found: list[Row] = []  # of leg_quality
        if wanted and times:
            until = max(end_of(row) for group in groups for row in group.rows if row["ts"])
            self.found = facts.hep_legs_by_ssrc(cursor, wanted, min(times) - facts.SLACK, until + facts.SLACK)
        self._by_ssrc: dict[int, list[Row]] = {}
        for row in self.found:
            self._by_ssrc.setdefault(row["remote_ssrc"], []).append(row)

    def of(self, group: CdrGroup) -> dict[int, str]:
        """SSRC -> Call-ID, of reports that were made during the call."""
        timed = [row for row in group.rows if row["ts"] is not None]
        if not timed or not self._by_ssrc:
            return {}
        since = min(row["ts"] for row in timed) - facts.SLACK
        until = max(end_of(row) for row in timed) + facts.SLACK
        named: dict[int, str] = {}
        for row in timed:
            for column in ("rtcp_a_all", "rtcp_b_all"):
                ssrc = remote_ssrc_of(row[column]) or 0
                fitting = {
                    leg["leg_call_id"]
                    for leg in self._by_ssrc.get(ssrc, ())
                    if leg["ts"] <= until and leg["end_ts"] >= since
                }
                if len(fitting) == 1:
                    named[ssrc] = fitting.pop()
        return named
