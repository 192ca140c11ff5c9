"""One message of a call: where and when it went, its text, and how it differs from another."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any, Final
from zoneinfo import ZoneInfo

import streamlit as st

from app import look
from pipeline.callview import hide_secrets
from pipeline.ladder import message_label, printable

Row = Mapping[str, Any]

_SHOWN_BYTES: Final = 16_000
_HEIGHT_PX: Final = 560


def text(row: Row) -> str:
    """The message as it may be shown: credentials hidden, no control characters, cut where it is very long."""
    payload = hide_secrets(row["payload"])
    shown = payload[:_SHOWN_BYTES].decode("utf-8", "replace").replace("\r\n", "\n")
    cut = len(payload) - _SHOWN_BYTES
    lines = [printable(line) for line in shown.split("\n")]
    return "\n".join([*lines, f"[{cut:,} more bytes: take the pcap]"] if cut > 0 else lines)


def show(row: Row, zone: ZoneInfo) -> None:
    """Where it went, and its text with a button that copies it."""
    hop = f"{row['src_ip']}:{row['src_port']} → {row['dst_ip']}:{row['dst_port']} {row['transport'] or ''}"
    agent = f"agent {row['agent_id']}" if row.get("agent_id") is not None else "agent"
    when = look.time(row["ts"], zone, "%H:%M:%S.%f")
    told = f"{when} · {hop} · {look.number(row['payload_bytes'])} bytes · {agent} at {row['agent_addr']}"
    st.caption(look.plain(told))
    look.wire(text(row))


def diff(first: Row, second: Row) -> None:
    """The lines in which two messages differ."""
    lines = list(
        difflib.unified_diff(
            text(first).split("\n"),
            text(second).split("\n"),
            message_label(first),
            message_label(second),
            lineterm="",
        )
    )
    if not lines:
        st.info("The two messages are the same, byte for byte.")
        return
    st.code("\n".join(lines), language="diff", wrap_lines=True, height=_HEIGHT_PX)
