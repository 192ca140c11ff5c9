"""The tables of the page Ghost calls, as they are written there."""

from __future__ import annotations

from typing import Any, Final
from zoneinfo import ZoneInfo

import pandas as pd
import streamlit as st

from app import look
from app.ghost_charts import outcome_words
from pipeline.ladder import printable

_TIME: Final = "%Y-%m-%d %H:%M:%S.%f"
_COLUMN: Final = st.column_config.TextColumn
FINDING_COLUMNS: Final[dict[str, Any]] = {
    "late": _COLUMN(
        "late", help="From the end of the call to the phone's REGISTER", alignment="right", width=80
    ),
    "what was done": _COLUMN("what was done", width="large"),
    "the phone answered": _COLUMN("the phone answered", help="Status codes to the compensating call"),
    "phone": _COLUMN("phone", help="Where it registered from", width="medium"),
}

OTHER_COLUMNS: Final[dict[str, Any]] = {
    "about": _COLUMN("about", help="The account, the address or the trunk", width="medium"),
    "facts": _COLUMN("facts", width="large"),
}


def findings(table: pd.DataFrame, zone: ZoneInfo) -> pd.DataFrame:
    """Ghost calls, as given."""
    return pd.DataFrame(
        {
            "time": [look.time(ts, zone, _TIME) for ts in table["ts"]],
            "account": [_text(aor).removeprefix("sip:") for aor in table["aor"]],
            "caller": [_text(caller) for caller in table["caller"]],
            "call was": [_text(outcome_words(outcome)) for outcome in table["outcome"]],
            "late": [look.length(ms) for ms in table["late_ms"]],
            "what was done": [
                _text(None if look.missing(done) else done.replace("\n", "; ")) for done in table["done"]
            ],
            "the phone answered": [_text(answered) for answered in table["answered"]],
            "phone": [_text(target) for target in table["target"]],
            "User-Agent": [_text(user_agent) for user_agent in table["user_agent"]],
            "trusted": [
                "yes" if trusted else "no: nothing acts" for trusted in table["trusted"].fillna(False)
            ],
        },
        dtype="str",
    )


def others(table: pd.DataFrame, zone: ZoneInfo, *, hide_facts: bool) -> pd.DataFrame:
    """Findings of the other detectors; `hide_facts` where numbers must not be seen: they may stand anywhere there."""
    return pd.DataFrame(
        {
            "time": [look.time(ts, zone) for ts in table["ts"]],
            "finding": [_text(kind).replace("_", " ") for kind in table["kind"]],
            "severity": [_text(severity) for severity in table["severity"]],
            "about": [_text(about) for about in table["identifier"]],
            "facts": [look.MISSING if hide_facts else _text(facts) for facts in table["facts"]],
            "what was done": [
                _text(None if look.missing(done) else done.replace("\n", "; ")) for done in table["done"]
            ],
        },
        dtype="str",
    )


def actions(states: pd.DataFrame, counts: pd.DataFrame) -> pd.DataFrame:
    """What each action may do, and what it did."""
    return pd.DataFrame(
        {
            "action": [printable(name) for name in states["action"]],
            "state": states["state"],
            "which means": states["words"],
            "did": [_did(counts[counts["action"] == name]) for name in states["action"]],
            "REGISTER to INVITE, p50 / p95": [
                _latency(counts[counts["action"] == name]) for name in states["action"]
            ],
        },
        dtype="str",
    )


def brakes(held: pd.DataFrame, zone: ZoneInfo) -> pd.DataFrame:
    """What was held back, by which brake."""
    return pd.DataFrame(
        {
            "action": [printable(name) for name in held["action"]],
            "brake": [outcome.removeprefix("held_") for outcome in held["outcome"]],
            "because": held["brake"],
            "times": held["attempts"].map(look.number),
            "last": [look.time(ts, zone) for ts in held["last"]],
        },
        dtype="str",
    )


def attempts(table: pd.DataFrame, zone: ZoneInfo) -> pd.DataFrame:
    """What actions did, as given."""
    return pd.DataFrame(
        {
            "time": [look.time(ts, zone, _TIME) for ts in table["started_at"]],
            "what was done": [_text(words) for words in table["words"]],
            "dry run": ["yes" if dry_run else "no" for dry_run in table["dry_run"]],
            "REGISTER to INVITE": [look.length(ms) for ms in table["register_to_invite_ms"]],
            "phone": [_text(target) for target in table["target"]],
            "Call-ID": [_text(call_id) for call_id in table["call_id"]],
            "rule": [_text(rule) for rule in table["rule"]],
        },
        dtype="str",
    )


def _did(counts: pd.DataFrame) -> str:
    told = [
        f"{look.number(count)} {printable(str(outcome).replace('_', ' '))}"
        for outcome, count in zip(counts["outcome"], counts["attempts"], strict=True)
    ]
    return ", ".join(told) or look.MISSING


def _latency(counts: pd.DataFrame) -> str:
    known = counts.dropna(subset=["register_to_invite_ms_p50"])
    if known.empty:
        return look.MISSING
    most = known.sort_values("attempts", ascending=False).iloc[0]
    return " / ".join(look.milliseconds(most[f"register_to_invite_ms_{share}"]) for share in ("p50", "p95"))


def _text(value: Any) -> str:
    return look.MISSING if look.missing(value) or value == "" else printable(str(value))
