"""Checks of the tap itself: does it run, does anything come, is anything turned away or lost?"""

from __future__ import annotations

import json
from collections import Counter
from datetime import timedelta
from ipaddress import ip_address
from typing import Any

from pipeline.doctor.diagnosis import (
    HEPDUCK,
    KAMAILIO,
    SHELL,
    Diagnosis,
    advice,
    cannot_tell,
    check,
    lines,
    ok,
    wrong,
)
from pipeline.doctor.look import WINDOW, Look
from pipeline.instants import at

QUIET_S = 300  # a mirror that says nothing for so long is broken, or its proxy is
WARMING_UP_S = 60


@check("status.json", needs="status")
def tap(look: Look) -> Diagnosis:
    """Is a tap running?"""
    status = _status(look)
    seen = f"{at(status['updated_us']):%Y-%m-%d %H:%M:%S} UTC"
    start = lines(SHELL, f"hepduck run --store {look.store}")
    if status["state"] == "stopped":
        return advice(f"the tap was stopped at {seen}: nothing is received", start)
    if not status["alive"]:
        log = lines(SHELL, "journalctl -u hepduck -n 50    # why it ended", start.lines[0])
        return wrong(f"the tap died without a word after {seen}: nothing is received", log)
    up_s = _up_s(look)
    return ok(f"running for {_length(up_s)}, {status['received']} messages so far", up_s=round(up_s))


@check("status.json", needs="status")
def silence(look: Look) -> Diagnosis:
    """Does anything arrive? A running tap is spoken to all 5 minutes, or twice as long as it was silent today."""
    status = _status(look)
    if not look.runs:
        return cannot_tell("the tap does not run")
    heard = sum(c["received"] + c["kernel_dropped"] for c in status["listeners"].values())
    last_us = status["last_arrival_us"]
    quiet_s = _up_s(look) if last_us is None else (look.now - at(last_us)).total_seconds()
    if heard and last_us is None:
        return ok(f"{heard} datagrams came, and were turned away", datagrams=heard)
    if quiet_s < (max(QUIET_S, 2 * _usual_silence_s(look)) if last_us else WARMING_UP_S):
        if last_us is None:
            return cannot_tell(f"nothing came yet; the tap has run for {_length(quiet_s)}")
        return ok(f"the last message came {_length(quiet_s)} ago", quiet_s=round(quiet_s))
    where = " ".join(status["listeners"])
    host, _, port = next(iter(status["listeners"])).partition(":")[2].rpartition(":")
    uri = f"sip:{'HEPDUCK' if ip_address(host.strip('[]')).is_unspecified else host}:{port}"
    return wrong(
        f"nothing received on {where} for {_length(quiet_s)}",
        lines(
            KAMAILIO,
            'modparam("siptrace", "trace_on", 1)       # 0 is the default',
            'modparam("siptrace", "trace_mode", 1)     # without it only sip_trace() mirrors',
            f'modparam("siptrace", "duplicate_uri", "{uri}")',
        ),
        lines(
            SHELL,
            "kamcmd siptrace.status check              # Enabled? else: kamcmd siptrace.status on",
            f"tcpdump -ni any port {uri.rpartition(':')[2]}             # does it leave Kamailio, does it come here?",
        ),
        quiet_s=round(quiet_s),
    )


@check("status.json", needs="status")
def senders(look: Look) -> Diagnosis:
    """Is anybody turned away for the address, the connection, the certificate?"""
    reasons: Counter[str] = Counter()
    for counters in _status(look)["listeners"].values():
        reasons.update(counters["rejected"])
    told, mends = [], []
    if count := reasons["network"]:
        told.append(f"{count} datagrams or connections from outside tap.allowed_networks")
        mends.append(lines(HEPDUCK, "[tap]", 'allowed_networks = [..., "ADDRESS_OF_KAMAILIO/32"]'))
    if count := reasons["tls"]:
        told.append(f"{count} TLS handshakes that failed")
        mends.append(lines(SHELL, "openssl s_client -connect HEPDUCK:9061    # what the handshake says"))
    if count := reasons["connection_limit"]:
        told.append(f"{count} connections beyond tap.max_connections")
        mends.append(lines(HEPDUCK, "[tap]", f"max_connections = {4 * look.settings.tap.max_connections}"))
    if count := reasons["no_descriptors"]:
        told.append(f"{count} connections for want of file descriptors")
        mends.append(lines(SHELL, "systemctl edit hepduck    # [Service] LimitNOFILE=65536"))
    if not told:
        return ok("nobody was turned away")
    nothing_else = not _status(look)["stored"]
    return (wrong if nothing_else else advice)(
        f"turned away since the tap started: {', '.join(told)}", *mends, **reasons
    )


@check("status.json", needs="status")
def key(look: Look) -> Diagnosis:
    """Do all agents send the key that `tap.auth_key` asks for? Only HEP version 3 can carry one.

    Rejections from before the window do not count.
    """
    begin = look.since if look.until else look.now - WINDOW
    refused = [who for who in _status(look)["bad_keys"] if at(who["last_us"]) >= begin]
    if not refused:
        return ok("no packet was rejected for its key")
    told, mend = [], []
    for who in refused:
        version, count, agent = who["hep_version"], who["count"], who["agent_addr"]
        how = "a wrong key" if who["has_key"] else "no key"
        told.append(f"{count} packets of {agent} in HEP version {version} with {how}")
        if version < 3:
            mend.append('modparam("siptrace", "hep_version", 3)    # 1 and 2 cannot carry a key')
    mend.append(
        'modparam("siptrace", "auth_key", "...")   # as tap.auth_key; #!define HEPDUCK_AUTH_KEY "..."'
    )
    return wrong(
        f"rejected since the tap started: {'; '.join(told)}",
        lines(KAMAILIO, *dict.fromkeys(mend)),
        rejected=sum(who["count"] for who in refused),
        agents=[who["agent_addr"] for who in refused],
    )


@check("status.json", needs="status")
def receive_buffer(look: Look) -> Diagnosis:
    """Did the system grant the receive buffers that were asked for? Smaller ones lose bursts."""
    buffers = _status(look)["receive_buffers"]
    if not buffers:
        return ok("no UDP listener")
    small = {name: b for name, b in buffers.items() if b["granted_bytes"] < b["asked_bytes"]}
    if not small:
        return ok(", ".join(f"{name}: {b['granted_bytes']} bytes" for name, b in buffers.items()))
    asked = max(b["asked_bytes"] for b in small.values())
    granted = ", ".join(
        f"{name}: {b['granted_bytes']} of {b['asked_bytes']} bytes" for name, b in small.items()
    )
    return advice(
        f"receive buffer too small ({granted}): bursts will be lost",
        lines(
            SHELL,
            f"sysctl -w net.core.rmem_max={asked}",
            f"echo net.core.rmem_max={asked} > /etc/sysctl.d/90-hepduck.conf    # for the next boot",
            "systemctl restart hepduck",
        ),
        asked_bytes=asked,
    )


@check("status.json, ingest_minute", needs="status")
def drops(look: Look) -> Diagnosis:
    """Was anything lost: by the kernel, or in hepduck's own queues?"""
    total: Counter[str] = Counter(_status(look)["dropped_by_reason"])
    if not total.total():
        return ok("nothing was lost since the tap started")
    recent = _recent_drops(look, total)
    reasons = ", ".join(f"{count} {reason}" for reason, count in (recent or total).items() if count)
    mends = []
    if total["kernel"]:
        size = 2 * look.settings.tap.receive_buffer_bytes
        mends += [
            lines(HEPDUCK, "[tap]", f"receive_buffer_bytes = {size}"),
            lines(SHELL, f"sysctl -w net.core.rmem_max={size}"),
            lines(KAMAILIO, '#!define HEPDUCK_SKIP "OPTIONS|NOTIFY"    # keepalives need not be mirrored'),
        ]
    if total.total() > total["kernel"]:
        size = 2 * look.settings.engine.queue_datagrams
        mends.append(
            lines(HEPDUCK, "[engine]", f"queue_datagrams = {size}    # for bursts; else a faster disk")
        )
    if not recent.total():
        return advice(f"lost since the tap started, but not of late: {reasons}", *mends, **total)
    return wrong(f"lost: {reasons}", *mends, **recent)


@check("status.json", needs="status")
def parts(look: Look) -> Diagnosis:
    """Do the tap's own parts work: detectors, jobs, the store?"""
    status = _status(look)
    troubles = [f"detector {name} was switched off after failures" for name in status["detectors_off"]]
    troubles += [f"job {job['job']}: {job['error']}" for job in status["jobs"] if job["error"]]
    if status["store_error"]:
        troubles.append(f"store: {status['store_error']}")
    if status["rules_dropped"]:
        troubles.append(f"{status['rules_dropped']} findings found the rules' backlog full")
    if not troubles:
        return ok("detectors, jobs and store work")
    return wrong("; ".join(troubles), lines(SHELL, "journalctl -u hepduck    # the whole story"))


def _recent_drops(look: Look, total: Counter[str]) -> Counter[str]:
    """Those of the window, and those that no minute tells of yet: rows are up to 10 s late."""
    started = at(_status(look)["started_us"])
    recent: Counter[str] = Counter()
    written: Counter[str] = Counter()
    for row in look.rows(
        "SELECT minute, shed FROM ingest_minute WHERE shed IS NOT NULL AND minute >= $from",
        **{"from": min(started, look.since).replace(second=0, microsecond=0)},
    ):
        shed = {reason: int(count) for reason, count in json.loads(row["shed"]).items()}
        if row["minute"] >= look.since.replace(second=0, microsecond=0):
            recent.update(shed)
        if row["minute"] >= started.replace(second=0, microsecond=0):
            written.update(shed)
    return +(recent + (total - written))


def _usual_silence_s(look: Look) -> float:
    """The longest silence of the last day, to the minute."""
    found = look.row(
        """SELECT max(epoch(minute) - epoch(before)) AS gap_s FROM (
               SELECT minute, lag(minute) OVER (ORDER BY minute) AS before FROM ingest_minute
               WHERE received > 0 AND minute >= $from)""",
        **{"from": look.now - timedelta(days=1)},
    )
    return float(found["gap_s"] or 0)


def _status(look: Look) -> dict[str, Any]:
    assert look.status is not None
    return look.status


def _up_s(look: Look) -> float:
    started_us: int = _status(look)["started_us"]
    return (look.now - at(started_us)).total_seconds()


def _length(seconds: float) -> str:
    """`40 s`, `12 min`, `5 h`, `3 d`."""
    for size, unit in ((86_400, "d"), (3_600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.0f} s"
