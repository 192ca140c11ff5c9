"""A store of quality made by hand: all its figures can be worked out from what every direction is said to be here."""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from cdr_recordings import AT_ONCE
from upkeep_store import empty_store

from pipeline.store.writer import Writer

MONDAY = datetime(2026, 3, 23, tzinfo=UTC)
SPRING_FORWARD = datetime(2026, 3, 29, 1, tzinfo=UTC)  # in all of Europe
CALLS = 160
TRUNKS = ("PJSIP/north", "PJSIP/south", 'PJSIP/od"d\\')
CODECS = ("PCMA", "PCMU", "OPUS", None)
NETWORKS = {
    "198.51.100": ("198.51.100.{}", "198.51.100.0/24"),
    "203.0.113": ("203.0.113.{}", "203.0.113.0/24"),
    "v6": ("2001:db8:1:9::{}", "2001:db8:1::/48"),
}
PHONES = ("Yealink SIP-T46S 66.86.0.15", 'odd "phone" 1.0')


@dataclass(frozen=True)
class Way:
    """One direction of one leg, as it is to be counted."""

    call_id: str
    ts: datetime
    leg: str
    direction: str
    r: float | None
    loss_pct: float | None
    jitter_ms: float
    rtt_ms: float | None
    due: int
    trunk: str
    codec: str | None
    network: str | None
    account: str
    ua: str

    @property
    def enough(self) -> bool:
        return self.due >= 100

    @property
    def grounded(self) -> bool:
        return self.codec in {"PCMA", "PCMU"}


def ways() -> list[Way]:
    """Four for each call: over a week, with all kinds of figures; a twelfth too short, a fifteenth not rated."""
    draw = random.Random(7)
    made = []
    for number in range(CALLS):
        ts = MONDAY + timedelta(minutes=63 * number, seconds=draw.randrange(60))
        trunk, account, ua = draw.choice(TRUNKS), f"acc{draw.randrange(4)}", draw.choice(PHONES)
        network = draw.choice([*NETWORKS, None])
        for leg in ("a", "b"):
            codec = draw.choice(CODECS)
            rtt_ms = round(draw.expovariate(1 / 120), 3) if draw.random() < 0.9 else None
            for direction in ("incoming", "outgoing"):
                rated = draw.random() > 1 / 15
                made.append(
                    Way(
                        f"made-{number}@sip.test",
                        ts,
                        leg,
                        direction,
                        round(min(93.2, draw.gauss(80, 15)), 3) if rated else None,
                        draw.choice([0.0, 0.0, 0.1, 0.5, 1.0, round(draw.expovariate(0.4), 3)])
                        if rated
                        else None,
                        round(draw.expovariate(1 / 15), 3),
                        rtt_ms,
                        50 if number % 12 == 0 else 1000 + draw.randrange(5000),
                        trunk,
                        codec,
                        network,
                        account,
                        ua,
                    )
                )
    return made


@cache
def made_store() -> Path:
    """A store of `ways()`, made once for all that only read it."""
    path = Path(mkdtemp(prefix="hepduck-heard-")) / "store"
    fill(path, ways())
    return path


def fill(path: Path, told: list[Way]) -> None:
    """The store; besides what counts there are older revisions, second sources of the same legs, and calls that
    nothing is known of (see `COVER`)."""
    legs, cdrs, calls, messages = [], {}, {}, []
    for number, way in enumerate(told):
        lost = 0 if way.loss_pct is None else round(way.due * way.loss_pct / 100)
        end = way.ts + timedelta(seconds=way.due / 50)
        row: dict[str, Any] = {
            "call_id": way.call_id,
            "leg": way.leg,
            "direction": way.direction,
            "packets": way.due - lost,
            "lost": lost,
            "loss_pct": way.loss_pct,
            "jitter_ms": way.jitter_ms,
            "rtt_ms": way.rtt_ms,
            "codec": way.codec,
            "r_factor": way.r,
            "mos_cq": None if way.r is None or way.rtt_ms is None else mos(way.r),
            "mos_lq": None if way.r is None else mos(way.r),
            "mos_method": None
            if way.r is None
            else f"g107-simplified{'' if way.rtt_ms is not None else '-lq'}",
            "grounded": way.grounded if way.r is not None else None,
            "source": "cdr",
            "flags": "" if way.r is not None else "no_rtcp",
            "leg_call_id": f"{way.call_id}-{way.leg}",
            "endpoint": way.trunk,
            "ts": way.ts,
            "end_ts": end,
            "unit": f"cdr/made/{way.call_id}",
            "revision": 2,
        }
        legs.append(row)
        if number % 7 == 0:  # what was known before more was
            legs.append({**row, "r_factor": 1.0, "revision": 1})
        if way.network is not None:  # the same as the reports have it: by the rule the CDR is to be believed
            address = NETWORKS[way.network][0].format(number % 250 + 1)
            reported = {"source": "hep rtcp", "endpoint": None, "peer_ip": address, "reports": 5}
            if way.r is not None:
                reported |= {"r_factor": 2.0, "loss_pct": 50.0}
            legs.append({**row, **reported, "unit": f"hep/{number}"})
        cdrs[way.call_id] = {
            "call_id": way.call_id,
            "source": "made",
            "linkedid": way.call_id,
            "start_ts": way.ts,
            "end_ts": end,
            "disposition": "ANSWERED",
            "accountcode": way.account,
            "src": f"src-{way.call_id}",
            "cdr_rows": 1,
            "media_rows": 1,
            "unit": f"cdr/made/{way.call_id}",
            "revision": 2,
        }
        calls[way.call_id] = sip_call(way.call_id, way.ts, user_agent=way.ua)
        if way.direction == "incoming":
            leg_call_id = f"{way.call_id}-{way.leg}"
            status = None if way.leg == "a" else 180
            said = {
                "ts": way.ts,
                "received_at": way.ts,
                "call_id": leg_call_id,
                "method": "INVITE",
                "status": status,
            }
            messages.append({**said, "user_agent": way.ua, "msg_id": number + 1, "payload": b"INVITE"})
    extra_calls, extra_cdrs, extra_legs, ties = uncovered()
    empty_store(path)
    with Writer(path, "n1", AT_ONCE) as writer:
        for table, rows in {
            "leg_quality": legs + extra_legs,
            "cdr_call": [*cdrs.values(), *extra_cdrs],
            "call": [*calls.values(), *extra_calls],
            "call_leg": ties,
            "sip": messages,
        }.items():
            writer.append(table, rows).result(60)


COVER = {
    "the phone sent no RTCP reports": 3,
    "too short for an RTCP report": 2,
    "the reports do not tell the loss": 1,
    "its CDR holds nothing of media": 4,
    "no CDR: Call-ID unknown to the CDRs": 5,
    "no CDR: no CDR yet": 6,
    "not answered": 7,
}
"""Calls besides the rated ones, by what is to be said of them; each began on the first Tuesday, but for those whose CDR
may still come."""


def uncovered() -> tuple[list[Any], list[Any], list[Any], list[Any]]:
    """Rows of calls, CDRs, legs and ties for `COVER`."""
    calls, cdrs, legs, ties = [], [], [], []
    tuesday = MONDAY + timedelta(days=1)
    flags = {
        "the phone sent no RTCP reports": "no_rtcp short",
        "too short for an RTCP report": "short",
        "the reports do not tell the loss": "",
    }
    for why, count in COVER.items():
        for number in range(count):
            call_id = f"{why.replace(' ', '-')}-{number}@sip.test"
            ts = tuesday + timedelta(minutes=number)
            if why == "no CDR: no CDR yet":
                ts += timedelta(days=30)
            calls.append(sip_call(call_id, ts, answered=why != "not answered"))
            if why in flags:
                shared = {"call_id": call_id, "leg": "a", "source": "hep rtcp", "flags": flags[why], "ts": ts}
                legs += [
                    {**shared, "direction": way, "end_ts": ts, "unit": f"hep/{call_id}", "revision": 1}
                    for way in ("incoming", "outgoing")
                ]
            elif why == "its CDR holds nothing of media":
                known = {
                    "call_id": call_id,
                    "source": "made",
                    "linkedid": call_id,
                    "start_ts": ts,
                    "end_ts": ts,
                }
                more = {"disposition": "ANSWERED", "cdr_rows": 1, "media_rows": 0, "revision": 1}
                cdrs.append({**known, **more, "unit": f"cdr/made/{call_id}"})
    # Leg B of the first call of all, as SIP has it: no call of its own.
    calls.append(sip_call("leg-b@sip.test", MONDAY))
    tied = {
        "name": "leg-b@sip.test",
        "kind": "call-id",
        "call_id": "made-0@sip.test",
        "leg": "b",
        "ts": MONDAY,
    }
    ties.append({**tied, "unit": "x-cid/leg-b@sip.test", "revision": 1})
    return calls, cdrs, legs, ties


def sip_call(
    call_id: str, ts: datetime, *, answered: bool = True, user_agent: str | None = None
) -> dict[str, Any]:
    """A call on the mirror, of a minute."""
    end = ts + timedelta(minutes=1)
    return {
        "call_id": call_id,
        "first_ts": ts,
        "last_ts": end,
        "from_user": "alice",
        "to_user": "bob",
        "invite_ts": ts,
        "answer_ts": ts + timedelta(seconds=2) if answered else None,
        "end_ts": end,
        "outcome": "answered" if answered else "canceled",
        "messages": 6,
        "user_agent": user_agent,
    }


def mos(r: float) -> float:
    """ITU-T G.107 annex B, as printed there."""
    if r <= 0:
        return 1.0
    if r >= 100:
        return 4.5
    return max(1.0, 1 + 0.035 * r + r * (r - 60) * (100 - r) * 7e-6)
