"""One call with all that belongs to it: facts, messages, the late phone's REGISTER, findings, attempts."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from pipeline.errors import StoreError
from pipeline.ladder import build, printable, to_text
from pipeline.store import queries
from pipeline.store.lake import Reader

Row = dict[str, Any]

_SECRET = re.compile(
    rb"(?im)^((?:proxy-)?authorization|x-late-secret)([ \t]*:[ \t]*)[^\r\n]*(?:\r?\n[ \t]+[^\r\n]*)*"
)
_CRYPTO = re.compile(rb"(?m)^(a=crypto:\S+ \S+ )[^\r\n]*")


@dataclass(frozen=True, slots=True)
class CallView:
    """Rows of the tables `call`, `sip`, `finding`, `action_attempt`."""

    call_id: str
    call: Row | None
    messages: list[Row]
    findings: list[Row]
    attempts: list[Row]


def view(reader: Reader, call_id: str) -> CallView:
    """Everything about a call. Raises StoreError when there is none, or when several fit a partial Call-ID."""
    messages = queries.call_messages(reader, call_id)
    if not messages:
        fitting = queries.find_calls(reader, text=call_id, limit=6)
        if len(fitting) != 1:
            several = ", ".join(printable(row["call_id"]) for row in fitting[:5])
            more = " and more" if len(fitting) > 5 else ""
            raise StoreError(
                f"several calls fit {call_id!r}: {several}{more}" if fitting else f"no call fits {call_id!r}"
            )
        call_id = fitting[0]["call_id"]
        messages = queries.call_messages(reader, call_id)
    findings = queries.findings(reader, call_id=call_id)
    proof = sorted({msg_id for finding in findings for msg_id in finding["msg_ids"] or ()})
    known = {row["msg_id"] for row in messages}
    elsewhere = [row for row in queries.messages_by_id(reader, proof) if row["msg_id"] not in known]
    return CallView(
        call_id,
        queries.call_row(reader, call_id),
        sorted([*messages, *elsewhere], key=lambda row: (row["ts"], row["msg_id"])),
        findings,
        queries.action_attempts(reader, call_id=call_id),
    )


def as_text(seen: CallView) -> str:
    """Facts and ladder for a terminal."""
    return "\n".join([*_facts(seen), "", to_text(build(seen.messages, seen.findings, seen.attempts))])


def as_object(seen: CallView) -> Row:
    """The same as one object; payloads with credentials hidden."""
    messages = [{**row, "payload": hide_secrets(row["payload"])} for row in seen.messages]
    return {
        "call_id": seen.call_id,
        "call": seen.call,
        "messages": messages,
        "findings": seen.findings,
        "attempts": seen.attempts,
    }


def raw_text(seen: CallView) -> str:
    """The messages as they were on the wire, credentials hidden, harmless on a terminal."""
    parts = []
    for row in seen.messages:
        text = hide_secrets(row["payload"]).decode("utf-8", "replace").replace("\r\n", "\n")
        lines = "\n".join(printable(line) for line in text.split("\n"))
        where = f"{row['src_ip']}:{row['src_port']} -> {row['dst_ip']}:{row['dst_port']} {row['transport']}"
        parts.append(f"--- {_time(row['ts'])}  {printable(where)}\n{lines}")
    return "\n".join(parts) + "\n"


def hide_secrets(payload: bytes) -> bytes:
    """Credentials, the fake call's secret and SRTP keys replaced by stars."""
    return _CRYPTO.sub(rb"\1***", _SECRET.sub(rb"\1\2***", payload))


def _facts(seen: CallView) -> list[str]:
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
    lines.append(f"began    {_time(call['first_ts'])}")
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


def _time(ts: datetime) -> str:
    return ts.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] + " UTC"
