"""Checks of reports on media and of call detail records: do they find their calls?"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo, available_timezones

from pipeline.doctor.diagnosis import (
    ASTERISK_HEP,
    DIALPLAN,
    HEPDUCK,
    Diagnosis,
    Mend,
    advice,
    cannot_tell,
    check,
    counted,
    lines,
    ok,
    wrong,
)
from pipeline.doctor.look import Look
from pipeline.store.queries import Row

_FEW = 3
_MANY_SHARE = 0.5
_SOME_SHARE = 0.05
_RTCP_CALL_ID = 127  # characters of a Call-ID in Asterisk's RTCP packets; the rest is cut
_NEWEST_CDRS = 1_000
_QUARTER_S = 900  # every time zone is a multiple of it away from UTC
_ZONES_SHOWN = 3
_UUID_TYPE = "uuid_type = call-id    ; [general]; then: module reload res_hep.so"


@check("rtcp, sip, leg_quality")
def rtcp(look: Look) -> Diagnosis:
    """Do RTCP reports name their call, by a Call-ID that the mirror knows?"""
    found = look.row(
        f"""WITH known AS (
                SELECT DISTINCT left(call_id, {_RTCP_CALL_ID}) AS name FROM sip
                WHERE received_at >= $since - INTERVAL 4 HOUR
            ),
            report AS (SELECT nullif(correlation_id, '') AS name FROM rtcp WHERE received_at >= $since)
            SELECT count(*) AS reports,
                count(*) FILTER (report.name IS NULL) AS nameless,
                count(*) FILTER (known.name IS NULL AND regexp_matches(report.name, '^[A-Za-z]+/.+-[0-9a-f]{{8}}$'))
                    AS channels,
                count(*) FILTER (known.name IS NOT NULL) AS known
            FROM report LEFT JOIN known ON left(report.name, {_RTCP_CALL_ID}) = known.name"""
    )
    total, nameless, channels = found["reports"], found["nameless"], found["channels"]
    if not total:
        return cannot_tell("no RTCP report came", **found)
    few = max(_FEW, _SOME_SHARE * total)
    saved = look.row(
        "SELECT count(*) AS n FROM leg_quality WHERE source = 'hep rtcp' AND call_id IS NOT NULL"
        " AND ts >= $since AND joined_by IN ('channel', 'sdp')"
    )["n"]
    anyway = f"; {saved} legs were found by channel or SDP all the same" if saved else ""
    if nameless >= few:
        return wrong(
            f"{nameless} of {total} RTCP reports name no call{anyway}",
            lines(ASTERISK_HEP, _UUID_TYPE),
            lines("captagent, heplify", "RTCP needs the SIP of its call: capture both on one machine"),
            **found,
        )
    if channels >= few:
        return wrong(
            f"{channels} of {total} RTCP reports name a channel and not a Call-ID{anyway}",
            lines(ASTERISK_HEP, _UUID_TYPE),
            **found,
        )
    unknown = total - nameless - channels - found["known"]
    if unknown > _MANY_SHARE * total and unknown >= _FEW:
        return wrong(
            f"{unknown} of {total} RTCP reports name calls that no SIP message tells of{anyway}",
            lines("modules.conf", "load = res_hep_pjsip.so    ; Asterisk's SIP, beside res_hep_rtcp.so"),
            **found,
        )
    return ok(f"{found['known']} of {total} RTCP reports name a call on the mirror", **found)


@check("cdr_source, status.json", needs=None)
def cdr_sources(look: Look) -> Diagnosis:
    """Can the sources of CDRs be read?"""
    sources = {
        row["source"]: row
        for row in look.rows("SELECT source, state, error, warning, imported, refused FROM cdr_source")
    }
    if look.runs and look.status:
        sources |= {row["source"]: row for row in look.status["cdr_sources"]}
    failing = {name: row["error"] for name, row in sources.items() if row["state"] == "failing"}
    if failing:
        told = "; ".join(f"{name}: {error}" for name, error in failing.items())
        return wrong(
            f"cannot be read: {told}",
            lines(HEPDUCK, *(_entry(name) for name in failing), "# then: hepduck check"),
            sources=sorted(failing),
        )
    refused = {name: row["refused"] for name, row in sources.items() if row["refused"]}
    if refused:
        told = "; ".join(f"{name}: {count} ({sources[name]['warning']})" for name, count in refused.items())
        return advice(
            f"rows that cannot be read: {told}", lines(HEPDUCK, *map(_entry, refused)), refused=refused
        )
    if not sources:
        return cannot_tell("no source of CDRs was ever read")
    rows = sum(row["imported"] or 0 for row in sources.values())
    return ok(
        f"{counted(rows, 'row')} from {counted(len(sources), 'source')}", rows=rows, sources=sorted(sources)
    )


def _entry(name: str) -> str:
    return f'[[cdr]]    # name = "{name}": its source, preset, columns'


@check("cdr_call, cdr_unjoined")
def cdr_calls(look: Look) -> Diagnosis:
    """Do CDRs find their calls on the mirror by their Call-ID?"""
    total = look.row("SELECT count(*) AS n FROM cdr_call WHERE start_ts >= $since")["n"]
    if not total:
        return cannot_tell("no CDR of this time is there")
    reasons = {
        row["reason"]: row["calls"]
        for row in look.rows(
            "SELECT reason, count(*) AS calls FROM cdr_unjoined WHERE start_ts >= $since GROUP BY ALL"
        )
    }
    joined = total - sum(reasons.values())
    told = f"of {total} calls of the CDRs"
    for reason, (words, *mends) in _UNJOINED.items():
        count = reasons.get(reason, 0)
        if count >= _FEW and count > _MANY_SHARE * total:
            return wrong(f"{told} {count} {words}", *mends, calls=total, joined=joined, reasons=reasons)
    if reasons.get("cut Call-ID", 0) >= _FEW:
        return advice(
            f"{told} {reasons['cut Call-ID']} have a Call-ID that was cut off",
            lines("SQL", "ALTER TABLE cdr MODIFY sip_callid varchar(255)"),
            calls=total,
            joined=joined,
            reasons=reasons,
        )
    return ok(f"{told} {joined} are on the mirror", calls=total, joined=joined, reasons=reasons)


_UNJOINED: dict[str, tuple[str, Mend]] = {
    "no Call-ID in the CDR": (
        "have no Call-ID",
        lines(
            DIALPLAN,
            "same => n,Set(CHANNEL(hangup_handler_push)=hepduck-cdr-qos,leg_a,1)    ; deploy/asterisk/cdr-qos",
            "; which does Set(CDR(sip_callid)=${CHANNEL(pjsip,call-id)}); in hepduck.toml: columns = {...}",
        ),
    ),
    "Call-ID unknown to the tap": (
        "have a Call-ID that the mirror never showed",
        lines(
            ASTERISK_HEP,
            "enabled = yes                  ; [general]: mirror this Asterisk too",
            "capture_address = HEPDUCK:9060 ; with res_hep_pjsip.so loaded",
        ),
    ),
    "B leg only": (
        "are on the mirror with leg B only",
        lines(ASTERISK_HEP, "capture_address = HEPDUCK:9060    ; or mirror the proxy in front of Asterisk"),
    ),
}

# A uniqueid begins with the time in UTC; a call on the mirror has its own.
_AHEAD = f"""
    WITH newest AS (
        SELECT source, ts, call_id, try_cast(regexp_extract(uniqueid, '(\\d{{9,10}})\\.\\d+$', 1) AS BIGINT) AS epoch_s
        FROM cdr QUALIFY row_number() OVER (PARTITION BY source ORDER BY imported_at DESC, ts DESC) <= {_NEWEST_CDRS}
    ),
    seen AS (SELECT call_id, min(first_ts) AS first_ts FROM call GROUP BY call_id HAVING count(*) = 1),
    ahead AS (
        SELECT n.source, n.ts,
            coalesce(epoch(n.ts) - n.epoch_s, epoch(n.ts) - epoch(s.first_ts)) AS ahead_s
        FROM newest n LEFT JOIN seen s USING (call_id)
    )
    SELECT source, count(ahead_s) AS compared, max(ts) AS newest,
        round(median(ahead_s) / {_QUARTER_S})::INTEGER AS quarters,
        count(*) FILTER (abs(ahead_s) > {_QUARTER_S} / 2
            AND round(ahead_s / {_QUARTER_S}) = (SELECT round(median(ahead_s) / {_QUARTER_S}) FROM ahead a
                WHERE a.source = ahead.source)) AS off
    FROM ahead GROUP BY source ORDER BY source"""


@check("cdr, call", needs=None)
def cdr_zone(look: Look) -> Diagnosis:
    """Is each source read in the time zone that it was written in? A wrong one is off by whole hours."""
    found = [row for row in look.rows(_AHEAD) if row["compared"] >= _FEW]
    if not found:
        return cannot_tell("no CDR with a uniqueid, or with a call on the mirror")
    bad = [row for row in found if row["quarters"] and row["off"] > _MANY_SHARE * row["compared"]]
    if not bad:
        return ok("times agree with uniqueids and the mirror", compared=sum(row["compared"] for row in found))
    told = ", ".join(
        f"{_hours(row)} in {row['off']} of {row['compared']} rows of {row['source']}" for row in bad
    )
    return wrong(
        f"times of CDRs are off: {told}",
        *(lines(HEPDUCK, "[[cdr]]", f'name = "{row["source"]}"', _zone_line(look, row)) for row in bad),
        quarters_of_hours={row["source"]: row["quarters"] for row in bad},
    )


def _hours(row: Row) -> str:
    return f"{abs(row['quarters']) / 4:g} h {'ahead' if row['quarters'] > 0 else 'behind'}"


def _zone_line(look: Look, row: Row) -> str:
    now = {source.name: source.tz for source in look.settings.cdr}.get(row["source"])
    if now is None:
        return 'zone = "..."    # the one that Asterisk runs in: timedatectl there'
    when: datetime = row["newest"]
    due = (when.astimezone(now).utcoffset() or timedelta()) + timedelta(seconds=row["quarters"] * _QUARTER_S)
    fitting = _zones(when, due)
    more = f", as in {', '.join(fitting)}" if fitting else ""
    return f'zone = "{next(iter(fitting), "...")}"    # now {now.key}; Asterisk was at UTC{_signed(due)} then{more}'


def _zones(when: datetime, offset: timedelta) -> Sequence[str]:
    """A few zones with that offset then; this machine's own first, if it is one."""
    own = re.sub(r".*/zoneinfo/", "", str(Path("/etc/localtime").resolve()))
    names = sorted(
        available_timezones(), key=lambda name: (name != own, not name.startswith("Europe/"), name)
    )
    cities = (name for name in names if "/" in name and not name.startswith(("Etc/", "SystemV/", "US/")))
    fitting = (name for name in cities if when.astimezone(ZoneInfo(name)).utcoffset() == offset)
    return [name for name, _ in zip(fitting, range(_ZONES_SHOWN), strict=False)]


def _signed(offset: timedelta) -> str:
    minutes = round(offset.total_seconds() / 60)
    return f"{'-' if minutes < 0 else '+'}{abs(minutes) // 60:02}:{abs(minutes) % 60:02}"
