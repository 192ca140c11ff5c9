"""Checks of what the agents send: is it HEP, of which version, how old, how often, how whole?"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from pipeline.agents_seen import agent_name
from pipeline.doctor.diagnosis import (
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
from pipeline.doctor.look import Look
from pipeline.errors import SipError
from pipeline.protocols.sip import parse

# As text a BLOB keeps its printable ASCII; a line's end is `\x0D\x0A` in it.
_IS_SIP = r"regexp_matches(head::VARCHAR, '^(SIP/2\.0 [1-6]|[A-Z]+ (sips?|tel):)')"
_SKEWED_S = 2.0  # a second is what networks and queues may take
_TWICE_WITHIN_MS = 100  # copies of one message; a retransmission comes 500 ms later (RFC 3261 17.1.1.1)
_FEW = 3  # what happened less often may be chance
_TWICE_SHARE = 0.1
_SAMPLE = 500  # largest messages of each agent that are looked into
_CORE_MIRROR = 'modparam("siptrace", "trace_mode", 1)      # not 4 or 5: those send raw SIP'
_HEP_MODE = 'modparam("siptrace", "hep_mode_on", 1)     # 0 makes sip_trace() send raw SIP'


@check("weird, status.json")
def raw_sip(look: Look) -> Diagnosis:
    """Does an agent send plain SIP where HEP is due? Kamailio does with trace_mode 4 or 5, or hep_mode_on 0."""
    found = look.rows(
        f"""SELECT agent_addr, count(*) AS packets,
                count(*) FILTER (starts_with(head::VARCHAR, 'ACK ')) AS acks,
                (SELECT count(*) FROM sip WHERE sip.agent_addr = weird.agent_addr
                    AND received_at >= $since) AS as_hep
            FROM weird WHERE received_at >= $since AND kind = 'hep_magic' AND {_IS_SIP}
            GROUP BY agent_addr ORDER BY packets DESC"""
    )
    if found:
        told = [f"{row['packets']} from {row['agent_addr']} beside {row['as_hep']} as HEP" for row in found]
        only_acks = all(row["acks"] == row["packets"] for row in found)
        acks = 'modparam("siptrace", "trace_sl_acks", 0)   # the core mirrors these ACKs already'
        return wrong(
            f"raw SIP instead of HEP: {', '.join(told)}",
            lines(KAMAILIO, *([_HEP_MODE, acks] if only_acks else [_CORE_MIRROR, _HEP_MODE])),
            packets=sum(row["packets"] for row in found),
            agents=[row["agent_addr"] for row in found],
        )
    if skipped := _skipped(look):
        told = [f"{count} bytes on {name}" for name, count in skipped.items()]
        return wrong(
            f"not HEP version 3, since the tap started: {', '.join(told)}; on a stream raw SIP and older versions"
            " cannot be read",
            lines(KAMAILIO, _CORE_MIRROR, 'modparam("siptrace", "hep_version", 3)'),
            skipped_bytes=sum(skipped.values()),
        )
    return ok("all SIP came as HEP")


def _skipped(look: Look) -> dict[str, int]:
    """Bytes on each stream listener that were no HEP."""
    listeners = (look.status or {}).get("listeners", {})
    return {name: c["skipped_bytes"] for name, c in listeners.items() if c["skipped_bytes"]}


@check("weird")
def undecodable(look: Look) -> Diagnosis:
    """Did anything else come that cannot be read? Keepalives of CRLFs, which some mirrors copy, do not count."""
    found = look.rows(
        f"""SELECT kind, count(*) AS packets, arg_max(detail, received_at) AS detail,
                arg_max(agent_addr, received_at) AS agent_addr
            FROM weird WHERE received_at >= $since AND kind NOT IN ('sip_keepalive', 'sip_empty')
                AND NOT (kind = 'hep_magic' AND {_IS_SIP})
            GROUP BY kind ORDER BY packets DESC, kind"""
    )
    if not found:
        return ok("everything could be read")
    told = [f"{r['packets']} {r['kind']} (from {r['agent_addr']}: {r['detail']})" for r in found]
    sql = "SELECT received_at, agent_addr, kind, detail, head FROM weird ORDER BY received_at DESC LIMIT 20"
    return advice(
        f"could not be read: {'; '.join(told)}",
        lines(SHELL, f'hepduck sql "{sql}"    # who sends that, and what is it?'),
        kinds={row["kind"]: row["packets"] for row in found},
    )


@check("sip")
def hep_version(look: Look) -> Diagnosis:
    """Which HEP version does each agent speak now? 1 has no time, 1 and 2 carry no key; only 3 has all."""
    newest: dict[str, Any] = {}
    for row in _versions(look):  # ordered by their last message
        newest[row["agent_addr"]] = row
    old = [row for row in newest.values() if row["hep_version"] < 3]
    if not newest:
        return cannot_tell("no SIP message came")
    if not old:
        return ok("HEP version 3")
    told = [f"{row['agent_addr']} sends version {row['hep_version']}" for row in old]
    mend = lines(
        KAMAILIO,
        'modparam("siptrace", "hep_version", 3)    # 1 is the default; #!define HEPDUCK_HEP_VERSION 3',
    )
    agents = {row["agent_addr"]: row["hep_version"] for row in old}
    if any(row["hep_version"] == 1 for row in old):
        return wrong(
            f"{', '.join(told)}: without time, capture id and key; times are those of arrival",
            mend,
            agents=agents,
        )
    return advice(f"{', '.join(told)}: without key, capture id of 16 bits", mend, agents=agents)


@check("sip")
def mixed_versions(look: Look) -> Diagnosis:
    """Does one address send several HEP versions at the same time? A change from one to the other is fine."""
    by_agent: dict[str, list[dict[str, Any]]] = {}
    for row in _versions(look):
        by_agent.setdefault(row["agent_addr"], []).append(row)
    mixed = {}
    for agent, rows in by_agent.items():
        spans = sorted((row["first"], row["last"]) for row in rows)
        if any(before[1] > after[0] for before, after in pairwise(spans)):
            mixed[agent] = {row["hep_version"]: row["messages"] for row in rows}
    if not mixed:
        return ok("each agent speaks one version") if by_agent else cannot_tell("no SIP message came")
    told = [
        f"{agent}: {', '.join(f'{count} in version {v}' for v, count in sorted(counts.items()))}"
        for agent, counts in mixed.items()
    ]
    return wrong(
        f"several HEP versions at once from {'; '.join(told)}: two proxies, or two siptrace blocks",
        lines(KAMAILIO, 'modparam("siptrace", "hep_version", 3)    # once, and in every proxy there'),
        agents=sorted(mixed),
    )


def _versions(look: Look) -> list[dict[str, Any]]:
    return look.rows(
        """SELECT agent_addr, hep_version, count(*) AS messages, min(received_at) AS first,
               max(received_at) AS last
           FROM sip WHERE received_at >= $since GROUP BY ALL ORDER BY last, hep_version"""
    )


@check("sip")
def clock(look: Look) -> Diagnosis:
    """Does each agent's clock agree with this machine's? Told by the messages that were under way shortest."""
    found = look.rows(
        """SELECT agent_addr, agent_id, count(*) AS messages,
               quantile_cont(epoch_us(received_at) - epoch_us(ts), 0.05) / 1e6 AS behind_s
           FROM sip WHERE received_at >= $since AND hep_version > 1 GROUP BY ALL ORDER BY abs(behind_s) DESC"""
    )
    if not found:
        return cannot_tell("no agent sends a time (HEP version 1 has none)")
    off = [row for row in found if abs(row["behind_s"]) >= _SKEWED_S]
    named = {
        agent_name(row["agent_addr"], row["agent_id"]): round(row["behind_s"], 3) for row in off or found
    }
    if not off:
        return ok(f"clocks agree within {_SKEWED_S:g} s", behind_s=named)
    told = [f"{name} is {abs(s):.1f} s {'behind' if s > 0 else 'ahead'}" for name, s in named.items()]
    return wrong(
        f"{', '.join(told)}: calls are dated wrongly, and nothing acts on what looks old",
        lines(SHELL, "timedatectl set-ntp true    # on the agent and here; then: chronyc tracking"),
        behind_s=named,
    )


@check("sip")
def duplicates(look: Look) -> Diagnosis:
    """Does each message come twice? So it does with trace_mode and sip_trace() together.

    Twice is: same agent, addresses and bytes within 100 ms, for a tenth of the messages of one method.
    """
    found = look.rows(
        """SELECT method, count(*) AS messages, count(*) FILTER (gap_ms < $within) AS twins,
               count(*) FILTER (gap_ms < $within AND same_time) AS same_time
           FROM (
               SELECT method, status,
                   (epoch_us(received_at) - lag(epoch_us(received_at)) OVER same) / 1000 AS gap_ms,
                   ts = lag(ts) OVER same AND hep_version > 1 AS same_time
               FROM sip WHERE received_at >= $since
               WINDOW same AS (PARTITION BY agent_addr, agent_id, src_ip, src_port, dst_ip, dst_port,
                   md5(payload) ORDER BY received_at, msg_id))
           GROUP BY method ORDER BY twins DESC, method""",
        within=_TWICE_WITHIN_MS,
    )
    if not found:
        return cannot_tell("no SIP message came")
    often = [
        r for r in found if r["twins"] >= _FEW and r["twins"] >= _TWICE_SHARE * (r["messages"] - r["twins"])
    ]
    twins = sum(row["twins"] for row in often)
    if not often:
        return ok("each message came once", twins=sum(row["twins"] for row in found))
    told = ", ".join(f"{r['twins']} of {r['messages'] - r['twins']} {r['method']}" for r in often)
    if sum(row["same_time"] for row in often) > twins / 2:
        return wrong(
            f"the same packet came twice ({told}): the network doubles it, or two relays forward it",
            lines(SHELL, "tcpdump -ni any port 9060    # from which addresses?"),
            twins=twins,
        )
    if [row["method"] for row in often] == ["ACK"]:
        return advice(
            f"ACKs to stateless replies came twice ({told})",
            lines(KAMAILIO, 'modparam("siptrace", "trace_sl_acks", 0)'),
            twins=twins,
        )
    return wrong(
        f"messages came twice ({told}): trace_mode=1 mirrors all, and sip_trace() once more",
        lines(
            KAMAILIO,
            "# take every sip_trace() out of the routes; this line alone mirrors everything:",
            'modparam("siptrace", "trace_mode", 1)',
            "# two proxies on one machine? A number of its own for each: #!define HEPDUCK_CAPTURE_ID 2002",
        ),
        twins=twins,
    )


@check("sip")
def truncated(look: Look) -> Diagnosis:
    """Are messages cut off? Several end at the very same size, the largest that comes, before they are complete."""
    found = look.rows(
        """SELECT agent_addr, agent_id, payload, payload_bytes FROM sip WHERE received_at >= $since
           QUALIFY row_number() OVER (PARTITION BY agent_addr, agent_id ORDER BY payload_bytes DESC) <= $sample""",
        sample=_SAMPLE,
    )
    if not found:
        return cannot_tell("no SIP message came")
    largest: dict[str, int] = {}
    cut: dict[str, int] = {}
    for row in found:
        agent = agent_name(row["agent_addr"], row["agent_id"])
        size = row["payload_bytes"]
        largest[agent] = max(size, largest.get(agent, 0))
        if size == largest[agent] and _is_cut(row["payload"]):
            cut[agent] = cut.get(agent, 0) + 1
    bad = {agent: count for agent, count in cut.items() if count >= _FEW}
    if not bad:
        return ok(f"no message is cut off; the largest has {max(largest.values())} bytes")
    told = [f"{count} of {agent} at {largest[agent]} bytes" for agent, count in bad.items()]
    return wrong(
        f"messages are cut off: {', '.join(told)}",
        lines(KAMAILIO, 'modparam("siptrace", "duplicate_uri", "sip:HEPDUCK:9060;transport=tcp")'),
        agents=bad,
    )


def _is_cut(payload: bytes) -> bool:
    try:
        return not {"truncated_body", "no_end_of_headers"}.isdisjoint(parse(payload)[0].defects)
    except SipError:
        return False
