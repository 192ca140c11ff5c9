"""What the engine knows of calls and registrations, as rows for the store."""

from __future__ import annotations

from typing import Any

from pipeline.engine.bindings import Registration
from pipeline.engine.calls import Call
from pipeline.engine.commands import Finding
from pipeline.instants import at


def _between_ms(start_us: int | None, end_us: int | None) -> float | None:
    """A duration in ms; None unless both ends exist, in this order."""
    return None if start_us is None or end_us is None or end_us < start_us else (end_us - start_us) / 1000


def call_row(call: Call, node: str, now_us: int) -> dict[str, Any]:
    """A row of table `call`. Delays as RFC 6076: SRD to the first 18x or final, PDD to the first 18x."""
    facts = call.facts()
    ending = facts.ending
    bye_us = call.bye.ts_us if call.bye else None
    final_us, final_status = facts.final or (None, None)
    end_us = bye_us or (ending.ts_us if ending and ending.outcome != "answered" else None)
    if end_us is None and facts.answer_us is None:
        end_us = final_us
    ring_end_us = facts.answer_us or end_us
    return {
        "call_id": call.call_id,
        "node": node,
        "first_ts": at(call.first_us),
        "last_ts": at(call.last_us),
        "from_user": call.from_user,
        "from_host": call.from_host,
        "from_display": call.from_display,
        "to_user": call.to_user,
        "to_host": call.to_host,
        "ruri_user": call.ruri_user,
        "outcome": ending.outcome if ending else None,
        "invite_ts": at(facts.invite_us),
        "first_18x_ts": at(facts.progress_us),
        "answer_ts": at(facts.answer_us),
        "end_ts": at(end_us),
        "final_status": final_status,
        "final_reason": call.reasons.get(final_status) if final_status is not None else None,
        "srd_ms": _between_ms(facts.invite_us, facts.progress_us or final_us),
        "pdd_ms": _between_ms(facts.invite_us, facts.progress_us),
        "ring_ms": _between_ms(facts.progress_us, ring_end_us),
        "talk_ms": _between_ms(facts.answer_us, bye_us),
        "legs": facts.legs,
        "messages": call.messages,
        "user_agent": call.user_agent,
        "codec": call.codec,
        "src_ip": facts.caller[0] if facts.caller else None,
        "dst_ip": facts.proxy[0] if facts.proxy else None,
        "updated_at": at(now_us),
    }


def registration_row(registration: Registration, event: str, node: str) -> dict[str, Any]:
    """A row of table `registration`; `event` is registered, refreshed, removed or expired."""
    (ip, port), transport = registration.source
    ts_us = registration.accepted.ts_us if registration.accepted else registration.first.ts_us
    if event == "expired":
        ts_us += registration.expires_s * 1_000_000
    return {
        "ts": at(ts_us),
        "node": node,
        "aor": f"sip:{registration.aor}",
        "device": registration.identity,
        "instance": registration.instance,
        "contact": registration.asked.contact,
        "src_ip": ip,
        "src_port": port,
        "transport": transport,
        "user_agent": registration.asked.user_agent,
        "expires": 0 if event == "removed" else registration.expires_s,
        "event": event,
        "status": registration.status,
        "call_id": registration.call_id,
    }


def finding_row(finding: Finding, node: str) -> dict[str, Any]:
    """A row of table `finding`."""
    evidence = dict(finding.evidence)
    return {
        "finding_id": finding.finding_id,
        "node": node,
        "kind": finding.kind,
        "identifier": finding.identifier,
        "ts": at(finding.ts_us),
        "severity": finding.severity,
        "call_id": finding.call_id,
        "aor": finding.aor,
        "target": evidence.get("target"),
        "outcome": evidence.get("outcome"),
        "late_ms": evidence.get("late_ms"),
        "trusted": finding.trusted,
        "evidence": evidence,
        "msg_ids": list(finding.msg_ids),
    }
