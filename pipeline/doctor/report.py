"""The doctor's report, for people and for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pipeline.doctor.diagnosis import Check, Diagnosis, Verdict, counted
from pipeline.doctor.look import Look
from pipeline.ladder import printable

Told = Sequence[tuple[Check, Diagnosis]]

_MARKS = {Verdict.WRONG: "WRONG", Verdict.ADVICE: "advice", Verdict.OK: "ok", Verdict.CANNOT_TELL: "?"}
_NAME_WIDTH = 18


def as_text(look: Look, told: Told) -> str:
    """What is wrong first, with its mend; then advice; then one line for each check that is content."""
    out = [_head(look), ""]
    for verdict in Verdict:
        found = [(check, diagnosis) for check, diagnosis in told if diagnosis.verdict is verdict]
        for check, diagnosis in found:
            out.append(f"{_MARKS[verdict]:<7} {check.name:<{_NAME_WIDTH}} {printable(diagnosis.told)}")
            for mend in diagnosis.mends:
                out.append(f"          {mend.where}:")
                out += [f"              {printable(line)}" for line in mend.lines]
            if diagnosis.mends:
                out.append("")
        if found and out[-1]:
            out.append("")
    counts = ((sum(d.verdict is verdict for _, d in told), verdict.value) for verdict in Verdict)
    out.append(", ".join(f"{count} {word}" for count, word in counts))
    return "\n".join(out)


def as_rows(told: Told) -> list[dict[str, Any]]:
    """One object for each check: check, verdict, told, numbers, mends, about, looks_at."""
    return [
        {
            "check": check.name,
            "verdict": diagnosis.verdict.value,
            "told": diagnosis.told,
            "numbers": dict(diagnosis.numbers),
            "mends": [{"where": mend.where, "lines": list(mend.lines)} for mend in diagnosis.mends],
            "about": check.about,
            "looks_at": check.looks_at,
        }
        for check, diagnosis in told
    ]


def _head(look: Look) -> str:
    if look.until is None:
        return f"{look.store}: no message in it"
    seen = look.row(
        "SELECT count(*) AS messages, count(DISTINCT (agent_addr, agent_id)) AS agents"
        " FROM sip WHERE received_at >= $since"
    )
    return (
        f"{look.store}, {look.since:%Y-%m-%d %H:%M:%S} to {look.until:%Y-%m-%d %H:%M:%S} UTC:"
        f" {counted(seen['messages'], 'SIP message')} of {counted(seen['agents'], 'agent')}"
    )
