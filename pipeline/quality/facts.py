"""What a refresh reads: the new rows of each table, and what is known about the names in them.

`cursor` is a cursor of the writer's connection. New rows are found by the time of their commit.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from datetime import datetime, timedelta
from typing import Any, Final

import duckdb

from pipeline.quality.cdr_calls import COLUMNS
from pipeline.quality.hep_legs import Packet, pair_name
from pipeline.quality.leg_table import COLUMNS as LEG_COLUMNS
from pipeline.quality.rating import Row
from pipeline.store.commits import Span

SLACK: Final = timedelta(minutes=1)  # clocks of the switch and of the capture agents
CUT_CALL_ID: Final = 127  # Asterisk cuts correlation ids of RTCP there (res_hep_rtcp, `char buf[128]`)
_CALL: Final = timedelta(hours=12)  # rows of one call lie within that

_CDR_COLUMNS: Final = (
    "ts node source source_row uniqueid linkedid sequence call_id call_id_b src dst clid channel dst_channel"
    " answer_ts end_ts duration_ms billsec_ms disposition accountcode".split()
    + [column for names in COLUMNS.values() for column in names.values()]
)
_LEG_COLUMNS: Final = (
    "ts node source source_row uniqueid linkedid channel leg call_id call_id_a end_ts codec rtp_dest".split()
    + list(LEG_COLUMNS.values())
)


def last_mark(cursor: duckdb.DuckDBPyConnection, node: str) -> Row | None:
    """How far this node has come: `position` as JSON text, `updated_at`."""
    found = _rows(
        cursor,
        "SELECT position, updated_at FROM quality_mark_state WHERE node = $node"
        " ORDER BY recorded_at DESC LIMIT 1",
        {"node": node},
    )
    return found[0] if found else None


# -- RTCP ------------------------------------------------------------------------------------------------

_PACKET: Final = """
    SELECT nullif(correlation_id, '') AS name,
        CASE WHEN agent_id IS NULL THEN agent_addr ELSE agent_addr || '/' || agent_id END AS agent,
        coalesce(agent_addr, '') AS agent_addr, node, epoch_us(ts) AS at_us, src_ip, src_port, dst_ip, dst_port,
        payload
    FROM rtcp"""


def any_reports(cursor: duckdb.DuckDBPyConnection) -> bool:
    """False where there are none that legs could be made of again."""
    return bool(_rows(cursor, "SELECT count(*) AS reports FROM rtcp", {})[0]["reports"])


def new_packets(cursor: duckdb.DuckDBPyConnection, new: Span) -> list[Packet]:
    """The reports that came, in order of their time."""
    sql = f"{_PACKET} WHERE {new.condition} ORDER BY ts, msg_id"
    return _packets(cursor, sql, new.parameters)


def packets_of(
    cursor: duckdb.DuckDBPyConnection, names: Collection[str], since: datetime, until: datetime
) -> list[Packet]:
    """All reports of these legs within the time, in order."""
    sql = f"""{_PACKET}
        WHERE ts >= $since AND ts <= $until AND received_at >= $received
            AND (nullif(correlation_id, '') IS NULL OR list_contains($names, correlation_id))
        ORDER BY ts, msg_id"""
    given = {"names": list(names), "since": since, "until": until, "received": since - timedelta(hours=1)}
    wanted = frozenset(names)
    return [packet for packet in _packets(cursor, sql, given) if packet.name in wanted]


def _packets(cursor: duckdb.DuckDBPyConnection, sql: str, given: dict[str, Any]) -> list[Packet]:
    packets = (Packet(**row) for row in _rows(cursor, sql, given))
    return [packet if packet.name else packet._replace(name=pair_name(packet)) for packet in packets]


# -- CDRs ------------------------------------------------------------------------------------------------


def new_cdrs(cursor: duckdb.DuckDBPyConnection, table: str, new: Span) -> list[Row]:
    """The rows of `cdr` or `cdr_leg` that came."""
    names = _CDR_COLUMNS if table == "cdr" else _LEG_COLUMNS
    return _rows(cursor, f"SELECT {', '.join(names)} FROM {table} WHERE {new.condition}", new.parameters)


def cdrs_beside(
    cursor: duckdb.DuckDBPyConnection, rows: Collection[Row], roots: Collection[str]
) -> list[Row]:
    """The rows of `cdr` that may be of the same calls as `rows`, or of the calls called `roots`."""
    ids = {row["linkedid"] for row in rows} | {row["uniqueid"] for row in rows} | set(roots)
    alone = [row for row in rows if not row["linkedid"]]
    channels = {_base(row[name]) for row in alone for name in ("channel", "dst_channel") if row[name]}
    same = ["linkedid IN (SELECT unnest($ids::VARCHAR[]))", "uniqueid IN (SELECT unnest($ids::VARCHAR[]))"]
    given: dict[str, Any] = {"ids": [name for name in ids if name]}
    if channels:
        given["channels"] = sorted(channels)
        same += [
            f"linkedid IS NULL AND regexp_replace({column}, ';[12]$', '') IN (SELECT unnest($channels::VARCHAR[]))"
            for column in ("channel", "dst_channel")
        ]
    since, until = (None, None) if roots else _span(rows)
    if since is not None:
        given |= {"since": since, "until": until}
    in_time = "" if since is None else "ts >= $since AND ts <= $until AND "
    # The wide columns are read for the rows that are found only.
    found = " UNION ".join(f"SELECT rowid FROM cdr WHERE {in_time}{condition}" for condition in same)
    return _rows(cursor, f"SELECT {', '.join(_CDR_COLUMNS)} FROM cdr WHERE rowid IN ({found})", given)


def legs_beside(cursor: duckdb.DuckDBPyConnection, roots: Collection[str]) -> list[Row]:
    """The rows of `cdr_leg` of the calls called `roots`."""
    sql = f"""SELECT {", ".join(_LEG_COLUMNS)} FROM cdr_leg
        WHERE coalesce(linkedid, uniqueid, source_row) IN (SELECT unnest($roots::VARCHAR[]))"""
    return _rows(cursor, sql, {"roots": sorted(roots)})


def present_columns(cursor: duckdb.DuckDBPyConnection, until: datetime) -> dict[str, set[str]]:
    """For each source of `cdr` the columns of media that hold anything in any row committed by then."""
    columns = [column for names in COLUMNS.values() for column in names.values()]
    counts = ", ".join(f"count({column}) AS {column}" for column in columns)
    before = Span(None, until)
    sql = f"SELECT source, {counts} FROM cdr WHERE {before.condition} GROUP BY source"
    rows = _rows(cursor, sql, before.parameters)
    found = {row.pop("source"): {name for name, count in row.items() if count} for row in rows}
    pairs = {COLUMNS["a"][name]: COLUMNS["b"][name] for name in COLUMNS["a"]}
    pairs |= {b: a for a, b in pairs.items()}
    return {source: names | {pairs[name] for name in names} for source, names in found.items()}


def units_of(cursor: duckdb.DuckDBPyConnection, source: str) -> list[str]:
    """Calls of this source that were written within the last day."""
    sql = """
        SELECT DISTINCT unit FROM cdr_call_state
        WHERE source = $source AND recorded_at >= now() - INTERVAL 1 DAY"""
    return [row["unit"] for row in _rows(cursor, sql, {"source": source})]


def _base(channel: str) -> str:
    return channel.removesuffix(";1").removesuffix(";2")


def _span(rows: Iterable[Row]) -> tuple[datetime | None, datetime | None]:
    times = [row["ts"] for row in rows if row["ts"] is not None]
    return (min(times) - _CALL, max(times) + _CALL) if times else (None, None)


# -- what is known of names ------------------------------------------------------------------------------


def sip_calls(
    cursor: duckdb.DuckDBPyConnection, call_ids: Collection[str], since: datetime | None
) -> dict[str, Row]:
    """Call-ID -> codec, src_ip, dst_ip of the calls that the tap saw; also those cut to 127 characters."""
    sql = f"""
        SELECT call_id, arg_max(codec, recorded_at) FILTER (codec IS NOT NULL) AS codec,
            arg_max(src_ip, recorded_at) AS src_ip, arg_max(dst_ip, recorded_at) AS dst_ip
        FROM call_state
        WHERE ($since IS NULL OR last_ts >= $since) AND (
            call_id IN (SELECT unnest($ids::VARCHAR[]))
            OR (length(call_id) > {CUT_CALL_ID} AND left(call_id, {CUT_CALL_ID}) IN (SELECT unnest($ids::VARCHAR[]))))
        GROUP BY call_id"""
    found = _rows(cursor, sql, {"ids": list(call_ids), "since": since and since - timedelta(hours=12)})
    return {row["call_id"]: row for row in found}


def changed_calls(cursor: duckdb.DuckDBPyConnection, new: Span) -> list[str]:
    """The Call-IDs of calls whose codec is known and whose state changed."""
    sql = f"SELECT DISTINCT call_id FROM call_state WHERE codec IS NOT NULL AND {new.condition}"
    return [row["call_id"] for row in _rows(cursor, sql, new.parameters)]


def without_codec(cursor: duckdb.DuckDBPyConnection, call_ids: Collection[str]) -> list[Row]:
    """Legs rated within the last day without a codec, for which `call_ids` may bring one: unit, source, leg_name."""
    names = [name for call_id in call_ids for name in {call_id, call_id[:CUT_CALL_ID]}]
    sql = """
        SELECT DISTINCT unit, source, leg_name FROM leg_quality_state
        WHERE codec IS NULL AND leg IS NOT NULL AND recorded_at >= now() - INTERVAL 1 DAY AND (
            leg_call_id IN (SELECT unnest($names::VARCHAR[])) OR leg_name IN (SELECT unnest($names::VARCHAR[])))"""
    return _rows(cursor, sql, {"names": names})


def x_cid_ties(cursor: duckdb.DuckDBPyConnection, new: Span) -> list[Row]:
    """INVITEs that name the call they belong to: call_id, x_cid, ts, end_ts, node."""
    sql = f"""
        SELECT call_id, any_value(x_cid) AS x_cid, min(ts) AS ts, max(ts) AS end_ts, any_value(node) AS node
        FROM sip
        WHERE x_cid IS NOT NULL AND method = 'INVITE' AND status IS NULL AND x_cid <> call_id
            AND {new.condition}
        GROUP BY call_id"""
    return _rows(cursor, sql, new.parameters)


def ties_of(cursor: duckdb.DuckDBPyConnection, names: Collection[str]) -> dict[str, list[Row]]:
    """Name -> the legs that it is the Call-ID or channel of, at whatever time; cut Call-IDs under what was cut."""
    sql = f"""
        SELECT * EXCLUDE (node, recorded_at),
            revision < max(revision) OVER (PARTITION BY unit) AS replaced
        FROM call_leg_state WHERE unit IN (
            SELECT unit FROM call_leg_state WHERE name IN (SELECT unnest($names::VARCHAR[]))
                OR (kind = 'call-id' AND length(name) > {CUT_CALL_ID}
                    AND left(name, {CUT_CALL_ID}) IN (SELECT unnest($names::VARCHAR[]))))"""
    wanted = frozenset(names)
    found: dict[str, list[Row]] = {}
    for row in _rows(cursor, sql, {"names": list(names)}):
        name = row["name"]
        if name is None or row["replaced"]:
            continue
        for known in {name, name[:CUT_CALL_ID]} & wanted:
            found.setdefault(known, []).append(row)
    return found


def sdp_calls(
    cursor: duckdb.DuckDBPyConnection,
    addresses: Collection[tuple[str, int]],
    since: datetime,
    until: datetime,
) -> list[Row]:
    """Calls whose SDP named one of the addresses in that time: sdp_ip, sdp_port, call_id, ts. RTCP has the port
    after that of RTP (RFC 3550 section 11), or the same (RFC 5761)."""
    ports = {port - offset for _, port in addresses for offset in (0, 1)}
    sql = """
        SELECT DISTINCT sdp_ip, sdp_port, call_id, max(ts) AS ts FROM sip
        WHERE ts >= $since AND ts <= $until AND received_at >= $since
            AND sdp_ip IN (SELECT unnest($ips::VARCHAR[])) AND sdp_port IN (SELECT unnest($ports::INTEGER[]))
        GROUP BY ALL"""
    given = {"ips": sorted({ip for ip, _ in addresses}), "ports": sorted(ports)}
    return _rows(cursor, sql, given | {"since": since - timedelta(minutes=20), "until": until + SLACK})


def hep_units(cursor: duckdb.DuckDBPyConnection, names: Collection[str]) -> list[Row]:
    """The legs of RTCP reports with these names: leg_name, unit, ts, end_ts."""
    sql = """
        SELECT leg_name, unit, min(ts) AS ts, max(end_ts) AS end_ts FROM leg_quality_state
        WHERE source = 'hep rtcp' AND leg_name IN (SELECT unnest($names::VARCHAR[])) GROUP BY leg_name, unit"""
    return _rows(cursor, sql, {"names": list(names)})


def hep_legs_by_ssrc(
    cursor: duckdb.DuckDBPyConnection, ssrcs: Collection[int], since: datetime, until: datetime
) -> list[Row]:
    """The legs of RTCP reports about phones with these SSRCs: remote_ssrc, leg_call_id, ts, end_ts."""
    sql = """
        SELECT remote_ssrc, leg_call_id, min(ts) AS ts, max(end_ts) AS end_ts FROM leg_quality_state
        WHERE source = 'hep rtcp' AND leg_call_id IS NOT NULL AND ts <= $until AND end_ts >= $since
            AND remote_ssrc IN (SELECT unnest($ssrcs::BIGINT[])) GROUP BY ALL"""
    return _rows(cursor, sql, {"ssrcs": list(ssrcs), "since": since, "until": until})


def unnamed_legs(
    cursor: duckdb.DuckDBPyConnection, ssrcs: Collection[int], since: datetime, until: datetime
) -> list[str]:
    """Calls of CDRs, rated within the last day, with a leg of one of these phones but without its Call-ID."""
    sql = """
        SELECT DISTINCT unit FROM leg_quality_state
        WHERE source = 'cdr' AND leg_call_id IS NULL AND recorded_at >= now() - INTERVAL 1 DAY
            AND ts <= $until AND end_ts >= $since AND remote_ssrc IN (SELECT unnest($ssrcs::BIGINT[]))"""
    return [row["unit"] for row in _rows(cursor, sql, {"ssrcs": list(ssrcs), "since": since, "until": until})]


def written_units(cursor: duckdb.DuckDBPyConnection, units: Collection[str]) -> set[str]:
    """Which of these calls of the CDRs have been written."""
    sql = "SELECT DISTINCT unit FROM cdr_call_state WHERE unit IN (SELECT unnest($units::VARCHAR[]))"
    return {row["unit"] for row in _rows(cursor, sql, {"units": list(units)})}


def _rows(cursor: duckdb.DuckDBPyConnection, sql: str, given: dict[str, Any]) -> list[Row]:
    found: list[Row] = cursor.execute(sql, given).to_arrow_table().to_pylist()
    return found
