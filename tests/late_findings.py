"""Findings as the detector `late_register` yields them."""

from __future__ import annotations

import time
from typing import Any

from pipeline.engine.commands import Finding


def late_finding(**changes: Any) -> Finding:
    """A lost call from alice to bob's phone, just now; `changes` replace fields of the finding or its evidence."""
    now_us = time.time_ns() // 1000
    fields: dict[str, Any] = {
        "kind": "late_register",
        "identifier": "f1",
        "ts_us": now_us,
        "call_id": "4f1d-lost@alice.example",
        "aor": "sip:bob@sip.test",
        "finding_id": "finding-1",
    }
    evidence: dict[str, Any] = {
        "caller_user": "alice",
        "caller_host": "sip.test",
        "caller_display": "Alice",
        "contact": "sip:bob@10.11.12.13:5060",
        "target": "127.0.0.21:22142;transport=udp",
        "device": "urn:uuid:0001",
        "outcome": "canceled",
        "register_us": now_us,
    }
    for name, value in changes.items():
        (fields if name in fields or name == "trusted" else evidence)[name] = value
    evidence["call_id"], evidence["aor"] = fields["call_id"], fields["aor"]
    return Finding(**fields, evidence=evidence)
