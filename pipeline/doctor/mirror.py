"""Checks of what the mirror shows and what it leaves out: replies, methods, hops, large messages."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pipeline.agents_seen import agent_name
from pipeline.doctor.diagnosis import (
    KAMAILIO,
    SHELL,
    Diagnosis,
    Mend,
    advice,
    cannot_tell,
    check,
    lines,
    ok,
    wrong,
)
from pipeline.doctor.look import Look
from pipeline.engine.actions import OWN_TAG_PREFIX
from pipeline.engine.calls import MADE_BY_EDGE
from pipeline.store.queries import Row

_SILENT_SHARE = 0.05  # replies that come all the same, by another way, do not make it whole
_ENOUGH = 10  # requests without any reply that need no proof
_FEW = 2  # calls, or requests that prove their reply; one may have been lost on the way
_LOST_SHARE = 0.2
_ALL_MESSAGES = (
    "# take sip_trace() out of the routes: without the flag of trace_flag it copies received requests only",
    'modparam("siptrace", "trace_mode", 1)         # every message, received and sent',
    "# and drop() nothing but keepalives in event_route[siptrace:msg]",
)


@dataclass(slots=True)
class _Count:
    requests: int = 0
    answered: int = 0
    proven: int = 0  # of the others those whose sender went on as one who has the reply
    orphans: int = 0  # replies without their request

    def add(self, row: Row) -> None:
        self.requests += row["requests"]
        self.answered += row["answered"]
        self.proven += row["proven"]
        self.orphans += row["orphans"]

    @property
    def lacks_replies(self) -> bool:
        return self.proven >= _FEW and self.answered <= _SILENT_SHARE * self.requests

    @property
    def hides_replies(self) -> bool:
        return self.proven >= _FEW and self.proven >= _LOST_SHARE * self.requests

    @property
    def lacks_requests(self) -> bool:
        return not self.requests and self.orphans > _FEW


# A reply has its request's Call-ID, CSeq and topmost branch, which differs from hop to hop (RFC 3261 17.1.3). That
# an unseen reply was sent is proven by the ACK under the INVITE's own branch (17.1.1.3), and for a REGISTER by its
# nonce, which came in a challenge, unless the next hop gave no answer, or by the answer that the next hop gave.
# Keepalives do not count: Kamailio's own are not mirrored while their replies are (kamailio issue 3136), and those of
# scanners stay unanswered.
_TRANSACTIONS = f"""
    WITH of_hop AS (
        SELECT call_id, method, cseq, coalesce(via_branch, '') AS branch, status, transport, payload,
            contains(src_ip, ':') AS ipv6, received_at
        FROM sip WHERE received_at >= $since - INTERVAL 1 MINUTE
            AND method IN ('INVITE', 'ACK', 'BYE', 'CANCEL', 'REGISTER')
    ),
    request AS (
        SELECT call_id, method, cseq, branch, any_value(transport) AS transport, any_value(ipv6) AS ipv6,
            bool_or(method = 'REGISTER' AND contains(lower(payload::VARCHAR), 'nonce=')) AS has_nonce,
            max(received_at) AS last
        FROM of_hop WHERE status IS NULL AND method <> 'ACK' GROUP BY ALL
    ),
    ack AS (SELECT DISTINCT call_id, cseq, branch FROM of_hop WHERE status IS NULL AND method = 'ACK'),
    reply AS (
        SELECT call_id, method, cseq, branch, any_value(transport) AS transport, any_value(ipv6) AS ipv6,
            max(received_at) AS last
        FROM of_hop WHERE status IS NOT NULL GROUP BY ALL
    ),
    elsewhere AS (  -- of a REGISTER, on any of its hops
        SELECT call_id, cseq, bool_or(status NOT IN ({", ".join(map(str, sorted(MADE_BY_EDGE)))})) AS answered
        FROM of_hop WHERE method = 'REGISTER' AND status >= 200 GROUP BY ALL
    )
    SELECT method, coalesce(q.transport, p.transport) AS transport, coalesce(q.ipv6, p.ipv6) AS ipv6,
        count(q.last) AS requests,
        count(*) FILTER (q.last IS NOT NULL AND p.last IS NOT NULL) AS answered,
        count(*) FILTER (p.last IS NULL AND CASE method WHEN 'REGISTER' THEN coalesce(e.answered, has_nonce)
            WHEN 'INVITE' THEN a.branch IS NOT NULL ELSE false END) AS proven,
        count(*) FILTER (q.last IS NULL) AS orphans
    FROM request q FULL JOIN reply p USING (call_id, method, cseq, branch)
        LEFT JOIN ack a USING (call_id, cseq, branch)
        LEFT JOIN elsewhere e USING (call_id, cseq)
    WHERE coalesce(greatest(q.last, p.last), q.last, p.last) >= $since
    GROUP BY ALL ORDER BY ALL"""


@check("sip")
def replies(look: Look) -> Diagnosis:
    """Does the mirror show requests and their replies? Without the 200 nobody knows who is registered."""
    rows = look.rows(_TRANSACTIONS)
    total = _sum(rows)
    if not total.requests and not total.orphans:
        return cannot_tell("neither calls nor registrations came")
    mend = lines(KAMAILIO, *_ALL_MESSAGES)
    if _is_one_sided(total):
        if not total.orphans:
            told = f"only requests are mirrored: {total.requests}, and not one reply"
        elif not total.requests:
            told = f"only replies are mirrored: {total.orphans}, and not one request"
        else:
            told = (
                f"only one direction is mirrored: {total.requests} requests without their reply,"
                f" {total.orphans} replies without their request"
            )
        return wrong(told, mend, requests=total.requests, orphans=total.orphans)
    methods = {method: _sum(r for r in rows if r["method"] == method) for method in _methods(rows)}
    silent = {method: count for method, count in methods.items() if count.lacks_replies}
    if silent:
        told = ", ".join(f"{count.requests} {method}" for method, count in silent.items())
        return wrong(
            f"replies are missing from the mirror: of {told} {_answered(silent)} have one",
            mend,
            methods=sorted(silent),
        )
    lonely = {method: count.orphans for method, count in methods.items() if count.lacks_requests}
    if lonely and not _lost_invites(look):
        told = ", ".join(f"{count} to {method}" for method, count in lonely.items())
        return wrong(f"requests are missing from the mirror: replies {told}", mend, methods=sorted(lonely))
    return ok(
        f"{total.answered} of {total.requests} requests have their reply",
        requests=total.requests,
        answered=total.answered,
    )


def _answered(counts: dict[str, _Count]) -> str:
    answered = sum(count.answered for count in counts.values())
    return str(answered) if answered else "none"


def _is_one_sided(total: _Count) -> bool:
    lacks_replies = total.lacks_replies or (not total.answered and total.requests >= _ENOUGH)
    return lacks_replies or total.lacks_requests


def _sum(rows: Iterable[Row]) -> _Count:
    total = _Count()
    for row in rows:
        total.add(row)
    return total


def _methods(rows: Iterable[Row]) -> list[str]:
    return sorted({row["method"] for row in rows if row["method"]})


# A proxy that stays in the path says so in Record-Route. So the INVITE that it relayed is its own when the header
# names where it comes from, and a reply was relayed by it when the header names who sends it (RFC 3261 16.6, 16.7).
_RELAYED = rf"""
    WITH invite AS (
        SELECT call_id, status, from_tag, to_tag, src_ip, dst_ip, contact, transport, received_at,
            regexp_extract(payload::VARCHAR, '(?i)\\x0ARecord-Route *:([^\\]*)', 1) AS record_route
        FROM sip WHERE method = 'INVITE' AND received_at >= $since - INTERVAL 5 MINUTE
    ),
    relay AS (
        SELECT call_id, src_ip AS own, any_value(contact) AS contact, bool_or(status IS NULL) AS sent,
            bool_or(status IS NOT NULL) AS relayed_reply
        FROM invite
        WHERE regexp_matches(record_route, '(^|[^0-9.])' || regexp_escape(src_ip) || '($|[^0-9.])')
            AND received_at >= $since
            AND (status BETWEEN 101 AND 299 OR (status IS NULL AND to_tag IS NULL))
            AND NOT starts_with(coalesce(from_tag, ''), '{OWN_TAG_PREFIX}')
        GROUP BY ALL
    )
    SELECT own, count(*) AS calls,
        count(*) FILTER (relayed_reply AND NOT out) AS not_sent,
        count(*) FILTER (sent AND NOT came) AS not_received,
        arg_max(contact, relayed_reply AND NOT out) AS contact
    FROM (
        SELECT *, EXISTS (FROM invite i WHERE i.call_id = relay.call_id AND i.status IS NULL
                AND i.src_ip = own) AS out,
            EXISTS (FROM invite i WHERE i.call_id = relay.call_id AND i.status IS NULL AND i.dst_ip = own) AS came
        FROM relay)
    GROUP BY own ORDER BY own"""


@check("sip")
def hops(look: Look) -> Diagnosis:
    """Are hops of one transport or IP version left out of the mirror? Kamailio leaves out those of mixed version.

    So it is when the senders of a fifth of the requests go on as those who have a reply that never showed, or when
    relayed INVITEs show on one side of the proxy only.
    """
    rows = look.rows(_TRANSACTIONS)
    total = _sum(rows)
    if not total.requests and not total.orphans:
        return cannot_tell("neither calls nor registrations came")
    if _is_one_sided(total):
        return cannot_tell("the mirror is one-sided (see replies)")
    if _lost_invites(look):
        return cannot_tell("large messages are lost (see large)")
    by_hop: dict[tuple[str, bool, str], _Count] = {}
    for row in rows:
        by_hop.setdefault((row["transport"], row["ipv6"], row["method"]), _Count()).add(row)
    told = [
        f"{method} over {_hop(transport, ipv6)}: {count.requests} requests, {count.answered} with a reply"
        for (transport, ipv6, method), count in by_hop.items()
        if count.hides_replies and not _sum(r for r in rows if r["method"] == method).lacks_replies
    ]
    for row in look.rows(_RELAYED):
        for way, side in (("not_sent", "callee"), ("not_received", "caller")):
            if row[way] >= _FEW and row[way] >= _LOST_SHARE * row["calls"]:
                at = f" ({row['contact']})" if way == "not_sent" and row["contact"] else ""
                told.append(
                    f"{row[way]} of {row['calls']} calls through {row['own']}"
                    f" show no INVITE on the {side}'s side{at}"
                )
    if not told:
        seen = sorted({_hop(transport, ipv6) for transport, ipv6, _ in by_hop})
        return ok(f"hops over {', '.join(seen)} are there", hops=seen)
    return wrong(f"hops are missing from the mirror: {'; '.join(told)}", *_unmixed(), missing=told)


def _hop(transport: str | None, ipv6: bool) -> str:
    return f"{transport or 'unknown transport'}/{'IPv6' if ipv6 else 'IPv4'}"


def _unmixed() -> Sequence[Mend]:
    return (
        lines(
            SHELL,
            "grep 'interworking detected' /var/log/syslog    # Kamailio says so when it leaves a hop out",
        ),
        lines(
            KAMAILIO,
            "# behind a balancer with tcp_accept_haproxy=yes: one listen socket for each IP version of the clients,",
            "listen=tcp:IPV4_OF_KAMAILIO:5060     # the balancer's backend for IPv4 clients",
            "listen=tcp:[IPV6_OF_KAMAILIO]:5060   # and for IPv6 clients",
            "# and in event_route[siptrace:msg] no drop() by Via: a transport left out hides its phones",
        ),
    )


@check("sip")
def registers(look: Look) -> Diagnosis:
    """Are there any REGISTERs? Ghost calls are found by them; a proxy for trunks only has none."""
    found = look.row(
        """SELECT count(*) FILTER (method = 'REGISTER') AS registers, count(*) FILTER (method = 'INVITE') AS invites
           FROM sip WHERE received_at >= $since AND status IS NULL"""
    )
    if found["registers"]:
        return ok(f"{found['registers']} REGISTER requests", **found)
    if found["invites"] <= _FEW:
        return cannot_tell("neither REGISTERs nor calls came")
    return advice(
        f"{found['invites']} INVITEs and not one REGISTER: ghost calls cannot be found",
        lines(
            KAMAILIO,
            '#!define HEPDUCK_SKIP "OPTIONS|NOTIFY"         # must not name REGISTER',
            'modparam("siptrace", "trace_mode", 1)         # at the registrar; not sip_trace() for calls only',
        ),
        **found,
    )


@check("sip")
def large(look: Look) -> Diagnosis:
    """Do the large messages come? A network that drops IP fragments lets through all but INVITE and SDP."""
    largest = look.row("SELECT max(payload_bytes) AS bytes FROM sip WHERE received_at >= $since")["bytes"]
    if largest is None:
        return cannot_tell("no SIP message came")
    lost = _lost_invites(look)
    if not lost:
        return ok(f"calls have their INVITEs; the largest message has {largest} bytes", largest_bytes=largest)
    told = [
        f"of {row['calls']} calls of {agent_name(row['agent_addr'], row['agent_id'])} {row['lost']} have no INVITE,"
        f" though replies, ACK and CANCEL are there; no message has more than {row['largest']} bytes"
        for row in lost
    ]
    return wrong(
        f"large messages are lost on the way: {'; '.join(told)}",
        lines(
            KAMAILIO,
            'modparam("siptrace", "duplicate_uri", "sip:HEPDUCK:9060;transport=tcp")    # needs no fragments',
        ),
        lost=sum(row["lost"] for row in lost),
    )


def _lost_invites(look: Look) -> list[Row]:
    """The agents that show calls without their INVITE, but with its replies and with later requests."""
    found = look.rows(
        """WITH of_call AS (
               SELECT agent_addr, agent_id, call_id, bool_or(method = 'INVITE' AND status IS NULL) AS has_invite,
                   bool_or(method = 'INVITE' AND status IN (100, 401, 407)) AS begins_here,
                   bool_or(method IN ('ACK', 'CANCEL', 'BYE') AND status IS NULL) AS has_others,
                   max(payload_bytes) AS largest
               FROM sip WHERE received_at >= $since GROUP BY ALL
           )
           SELECT agent_addr, agent_id, max(largest) AS largest,
               count(*) FILTER (begins_here AND has_others) AS calls,
               count(*) FILTER (begins_here AND has_others AND NOT has_invite) AS lost
           FROM of_call GROUP BY ALL ORDER BY ALL"""
    )
    return [row for row in found if row["lost"] >= _FEW and row["lost"] >= _LOST_SHARE * row["calls"]]
