"""What RTCP reports tell over time, against what each report says of itself and what the relay counted."""

from __future__ import annotations

import json
from typing import Any

import pytest
from app_store import SESSION, AppStore
from asterisk_recordings import ASTERISK, rtcp_packets, truths

from pipeline.callmedia import intervals
from pipeline.store.lake import Reader
from pipeline.store.quality_queries import call_legs

TRUTHS = {truth["callid_a"]: truth for truth in truths(SESSION) if truth["callid_b"] and truth["a_up_seen"]}


@pytest.fixture(name="told", scope="module")
def intervals_of_all_calls(app_store: AppStore) -> dict[str, list[dict[str, Any]]]:
    """By Call-ID."""
    with Reader(app_store.path) as reader:
        return {call_id: intervals(reader, call_legs(reader, call_id)) for call_id in TRUTHS}


def reported() -> list[tuple[int, str, float, int]]:
    """Time, direction, fraction lost in percent and jitter of every report in the recording, read as plain JSON:
    what Asterisk sends is about what came in."""
    found = []
    for packet in rtcp_packets(SESSION):
        for block in json.loads(packet.payload)["report_blocks"]:
            direction = "incoming" if packet.src_ip == ASTERISK else "outgoing"
            found.append(
                (packet.ts_us or 0, direction, block["fraction_lost"] * 100 / 256, block["ia_jitter"])
            )
    return found


def test_each_is_a_report(told: dict[str, list[dict[str, Any]]]) -> None:
    """Its loss is the fraction that the reporter itself gave, up to the steps of 1/256 that RFC 3550 gives it in."""
    reports = {(at_us, direction): (loss_pct, jitter) for at_us, direction, loss_pct, jitter in reported()}
    compared = 0
    for rows in told.values():
        for row in rows:
            loss_pct, jitter = reports[round(row["ts"].timestamp() * 1e6), row["direction"]]
            if row["loss_pct"] is not None:
                assert row["loss_pct"] == pytest.approx(loss_pct, abs=1.0)
                compared += 1
            if row["jitter_ms"] is not None:
                assert row["jitter_ms"] == pytest.approx(jitter / 8, abs=0.01)  # of 8000 Hz
    assert compared > 50


def test_as_lossy_as_the_relay_made_it(told: dict[str, list[dict[str, Any]]]) -> None:
    """Mean over the call, from the phone to the switch."""
    compared = 0
    for call_id, rows in told.items():
        losses = [row["loss_pct"] for row in rows if (row["leg"], row["direction"]) == ("a", "incoming")]
        known = [loss for loss in losses if loss is not None]
        truth = TRUTHS[call_id]
        if len(known) >= 3:
            share_pct = 100 * int(truth["a_up_dropped"]) / int(truth["a_up_seen"])
            assert sum(known) / len(known) == pytest.approx(share_pct, abs=2.5)
            compared += 1
    assert compared >= 5


def test_round_trips_are_the_phones(told: dict[str, list[dict[str, Any]]]) -> None:
    """Told by its reports only: what the switch says of itself ends at the tap beside it. At least the delay that
    the relay added on the way there and back."""
    compared = 0
    for call_id, rows in told.items():
        truth = TRUTHS[call_id]
        delays_ms = sum(
            json.loads(truth[f"profile_a_{way}"] or "{}").get("delay", 0) for way in ("up", "down")
        )
        for row in rows:
            if row["direction"] == "incoming":
                assert row["rtt_ms"] is None
            elif row["leg"] == "a" and row["rtt_ms"] is not None:
                assert row["rtt_ms"] >= delays_ms - 1
                compared += 1
    assert compared > 10


def test_calls_without_reports(app_store: AppStore) -> None:
    with Reader(app_store.path) as reader:
        assert intervals(reader, call_legs(reader, "nobody@nowhere")) == []
