"""One call with all that belongs to it: facts, messages, the late phone's REGISTER, findings, attempts, quality."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from typing import Any

from pipeline.errors import StoreError
from pipeline.ladder import build, printable, to_text
from pipeline.protocols.emodel import band
from pipeline.protocols.redact import Redactor
from pipeline.store import leg_queries, quality_queries, queries
from pipeline.store.lake import Reader

Row = dict[str, Any]

_REDACTOR = Redactor(["credentials"])


@dataclass(frozen=True, slots=True)
class CallView:
    """Rows of the tables `call`, `sip`, `finding`, `action_attempt`, `leg_quality`, `cdr_call`.

    `leg_b_of` is the Call-ID of the call that this one is leg B of: quality and CDRs are that call's then.
    `other_legs` are the messages of the call's other legs by Call-ID.
    """

    call_id: str
    call: Row | None
    messages: list[Row]
    findings: list[Row]
    attempts: list[Row]
    leg_b_of: str | None
    other_legs: dict[str, list[Row]]
    quality: list[Row] = field(default_factory=list)
    cdrs: list[Row] = field(default_factory=list)
    without_cdr: str | None = None  # why no CDR is joined


def view(reader: Reader, call_id: str) -> CallView:
    """Everything about a call. Raises StoreError when there is none, or when several fit a partial Call-ID."""
    return with_quality(reader, signalling(reader, call_id))


def signalling(reader: Reader, call_id: str) -> CallView:
    """The same without quality and CDRs, which `with_quality` adds."""
    seen = _signalling(reader, call_id)
    if not seen.messages and not _has_quality(reader, call_id):
        seen = _signalling(reader, _fitting(reader, call_id))
    return seen


def _signalling(reader: Reader, call_id: str) -> CallView:
    with ThreadPoolExecutor(3) as beside:  # small questions, each of which waits more than it works
        legs = beside.submit(leg_queries.legs, reader, call_id)
        found = beside.submit(_findings, reader, call_id)
        attempts = beside.submit(queries.action_attempts, reader, call_id=call_id)
        known = queries.call_rows(reader, call_id)
        call = next(iter(known), None)
        began = call["first_ts"] if call else None
        others = beside.submit(leg_queries.other_messages, reader, legs.result(), began)
        messages = queries.call_messages(reader, call_id, known)
        findings, proof = found.result()
        mirrored = {row["msg_id"] for row in messages}
        elsewhere = [row for row in proof if row["msg_id"] not in mirrored]
        return CallView(
            call_id,
            call,
            sorted([*messages, *elsewhere], key=lambda row: (row["ts"], row["msg_id"])),
            findings,
            attempts.result(),
            legs.result().of,
            others.result(),
        )


def _findings(reader: Reader, call_id: str) -> tuple[list[Row], list[Row]]:
    """The findings of a call, and the messages that prove them."""
    findings = queries.findings(reader, call_id=call_id)
    proof = sorted({msg_id for finding in findings for msg_id in finding["msg_ids"] or ()})
    return findings, queries.messages_by_id(reader, proof)


def with_quality(reader: Reader, seen: CallView) -> CallView:
    """What `signalling` gave, with quality and CDRs."""
    return replace(seen, **quality_of(reader, **quality_question(seen)))


def quality_question(seen: CallView) -> Row:
    """The arguments of `quality_of` for a call that `signalling` gave."""
    call = seen.call
    answered = (call["call_id"], call["first_ts"]) if call and call["answer_ts"] is not None else None
    return {"call_id": seen.leg_b_of or seen.call_id, "answered": answered}


def quality_of(reader: Reader, call_id: str, answered: tuple[str, datetime] | None) -> Row:
    """The fields `quality`, `cdrs` and `without_cdr` of a `CallView`.

    `answered` are Call-ID and beginning of a call that was: nobody asks of another why it has no CDR.
    """
    with ThreadPoolExecutor(1) as beside:
        quality = beside.submit(quality_queries.call_legs, reader, call_id)
        cdrs = quality_queries.call_cdrs(reader, call_id)
        why = quality_queries.why_without_cdr(reader, *answered) if answered and not cdrs else None
        return {"quality": quality.result(), "cdrs": cdrs, "without_cdr": why}


def _fitting(reader: Reader, text: str) -> str:
    """The Call-ID of the one call that the text fits."""
    fitting = queries.find_calls(reader, text=text, limit=6)
    if len(fitting) == 1:
        return str(fitting[0]["call_id"])
    if not fitting:
        raise StoreError(f"no call fits {text!r}")
    several = ", ".join(printable(row["call_id"]) for row in fitting[:5])
    raise StoreError(f"several calls fit {text!r}: {several}{' and more' if len(fitting) > 5 else ''}")


def _has_quality(reader: Reader, call_id: str) -> bool:
    """A call that only CDRs or reports tell of."""
    return bool(quality_queries.call_cdrs(reader, call_id) or quality_queries.call_legs(reader, call_id))


def as_text(seen: CallView, zone: tzinfo = UTC) -> str:
    """Facts, ladder and quality for a terminal, times in `zone`."""
    return "\n".join([*_facts(seen, zone), "", ladder_text(seen), *_quality(seen)])


def ladder_text(seen: CallView) -> str:
    """The ladder alone."""
    return to_text(build(seen.messages, seen.findings, seen.attempts))


def as_object(seen: CallView) -> Row:
    """The same as one object; payloads with credentials hidden."""
    return {
        "call_id": seen.call_id,
        "call": seen.call,
        "messages": _harmless(seen.messages),
        "other_legs": {name: _harmless(rows) for name, rows in seen.other_legs.items()},
        "findings": seen.findings,
        "attempts": seen.attempts,
        "quality": seen.quality,
        "cdrs": seen.cdrs,
        "leg_b_of": seen.leg_b_of,
        "without_cdr": seen.without_cdr,
    }


def _harmless(messages: list[Row]) -> list[Row]:
    return [{**row, "payload": hide_secrets(row["payload"])} for row in messages]


def raw_text(seen: CallView, zone: tzinfo = UTC) -> str:
    """The messages as they were on the wire, credentials hidden, harmless on a terminal; times in `zone`."""
    parts = []
    for row in seen.messages:
        text = hide_secrets(row["payload"]).decode("utf-8", "replace").replace("\r\n", "\n")
        lines = "\n".join(printable(line) for line in text.split("\n"))
        where = f"{row['src_ip']}:{row['src_port']} -> {row['dst_ip']}:{row['dst_port']} {row['transport']}"
        parts.append(f"--- {_time(row['ts'], zone)}  {printable(where)}\n{lines}")
    return "\n".join(parts) + "\n"


def hide_secrets(payload: bytes) -> bytes:
    """Credentials, the fake call's secret and SRTP keys replaced by stars, should the store have them."""
    return _REDACTOR.text(payload)


def _facts(seen: CallView, zone: tzinfo) -> list[str]:
    call = seen.call
    lines = [f"Call-ID  {printable(seen.call_id)}"]
    if call is None:
        return lines
    display = f'"{call["from_display"]}" ' if call["from_display"] else ""
    lines.append(
        printable(
            f"from     {display}{call['from_user']}@{call['from_host']}  to {call['to_user']}@{call['to_host']}"
        )
    )
    lines.append(f"began    {_time(call['first_ts'], zone)}")
    status = f", {call['final_status']:.0f} {call['final_reason'] or ''}" if call["final_status"] else ""
    lines.append(printable(f"ended    {call['outcome'] or 'not yet, or unseen'}{status}"))
    lasted = [
        f"{name} {call[column] / 1000:.1f} s"
        for name, column in (("PDD", "pdd_ms"), ("ring", "ring_ms"), ("talk", "talk_ms"))
        if call[column] is not None
    ]
    if lasted:
        lines.append(f"lasted   {', '.join(lasted)}")
    return lines


# -- quality -----------------------------------------------------------------------------------------------


def _quality(seen: CallView) -> list[str]:
    """The strip under the ladder: the preferred record of each leg and direction, then what the CDRs say."""
    best = [row for row in seen.quality if row["best"]]
    lines = []
    if seen.leg_b_of is not None:
        lines.append(f"leg B of {printable(seen.leg_b_of)}")
    if best:
        lines.append("quality  as the switch has it: incoming is from the phone")
        lines += _columns([_leg_cells(row) for row in best])
    for cdr in seen.cdrs:
        billed = f"billed {cdr['billsec_ms'] / 1000:.1f} s" if cdr["billsec_ms"] is not None else "not billed"
        parts = [cdr["disposition"], billed, cdr["accountcode"] and f"account {cdr['accountcode']}"]
        parts += [cdr["dst_channel"] and f"to {cdr['dst_channel']}", f"of {cdr['source']}"]
        rows = f"{cdr['cdr_rows']} row{'s' if cdr['cdr_rows'] > 1 else ''}"
        lines.append(printable(f"CDR      {', '.join(part for part in [*parts, rows] if part)}"))
    if seen.without_cdr is not None:
        lines.append(f"CDR      none: {seen.without_cdr}")
    return [*lines, ""] if lines else []


def _leg_cells(row: Row) -> list[str]:
    """One line of the strip; what is not known is a dash."""

    def number(column: str, form: str, unit: str = "") -> str:
        return "-" if row[column] is None else f"{row[column]:{form}}{unit}"

    method = "CQ" if row["mos_cq"] is not None else "LQ"
    mos = row["mos_cq"] if row["mos_cq"] is not None else row["mos_lq"]
    words = "-" if row["r_factor"] is None else band(row["r_factor"])
    if row["r_factor"] is not None and not row["grounded"]:
        words += ", by a stand-in"
    where = " ".join(part for part in (row["source"], row["endpoint"] or row["peer_ip"]) if part)
    return [
        f"  {row['leg']} {row['direction']}",
        f"R {number('r_factor', '.1f')}",
        "MOS -" if mos is None else f"MOS-{method} {mos:.2f}",
        words,
        f"loss {number('loss_pct', '.2f', ' %')} ({number('lost', 'd')} packets)",
        f"jitter {number('jitter_ms', '.1f', ' ms')} (max {number('jitter_max_ms', '.1f')})",
        f"rtt {number('rtt_ms', '.1f', ' ms')}",
        row["codec"] or "codec -",
        printable(where),
        row["flags"] or "",
    ]


def _columns(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]


def _time(ts: datetime, zone: tzinfo) -> str:
    here = ts.astimezone(zone)
    return f"{here:%Y-%m-%d %H:%M:%S}.{here.microsecond // 1000:03d} {here:%Z}"
