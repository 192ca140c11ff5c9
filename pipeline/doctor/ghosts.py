"""Checks of what the detector of ghost calls needs: accounts, push devices, trusted agents, and who is armed."""

from __future__ import annotations

import json
from collections import Counter
from ipaddress import ip_address
from typing import Any

from pipeline.agents_seen import agent_name
from pipeline.doctor.diagnosis import (
    HEPDUCK,
    KAMAILIO,
    SHELL,
    Diagnosis,
    advice,
    cannot_tell,
    check,
    counted,
    lines,
    ok,
    wrong,
)
from pipeline.doctor.look import Look
from pipeline.engine.actions import OWN_TAG_PREFIX
from pipeline.protocols.uri import aor, parse_contacts
from pipeline.store.queries import Row

_MOST_DEVICES = 5_000
_SHOWN = 5
_FEW = 2

# Registrations matter for a day: a phone that sleeps registers seldom.
_DEVICES = f"""
    SELECT aor, src_ip, src_port, user_agent, contact FROM registration
    WHERE ts >= $since - INTERVAL 1 DAY AND event IN ('registered', 'refreshed')
    QUALIFY row_number() OVER (PARTITION BY aor, device ORDER BY ts DESC) = 1
    ORDER BY ts DESC LIMIT {_MOST_DEVICES}"""

# Of each call that has begun here: whom the first INVITE names, where it was sent on to, and how it ended.
_CALLS = f"""
    WITH invite AS (
        SELECT call_id, src_ip, dst_ip, dst_port, ruri_user, ruri_host, to_user, to_host, ts
        FROM sip WHERE received_at >= $since AND method = 'INVITE' AND status IS NULL AND to_tag IS NULL
            AND NOT starts_with(coalesce(from_tag, ''), '{OWN_TAG_PREFIX}')
    ),
    first AS (
        SELECT call_id, arg_min(ruri_user, ts) AS ruri_user, arg_min(ruri_host, ts) AS ruri_host,
            arg_min(to_user, ts) AS to_user, arg_min(to_host, ts) AS to_host
        FROM invite GROUP BY call_id
    ),
    sent_on AS (
        SELECT * FROM invite SEMI JOIN (SELECT call_id, dst_ip AS src_ip FROM invite) USING (call_id, src_ip)
    )
    SELECT f.call_id, f.ruri_user, f.ruri_host, f.to_user, f.to_host, s.dst_ip, s.dst_port,
        s.ruri_user AS sent_user,
        s.dst_ip IS NULL AND c.first_18x_ts IS NULL AND c.outcome IN ('canceled', 'no_answer') AS reached_nobody
    FROM first f LEFT JOIN sent_on s USING (call_id) LEFT JOIN call c USING (call_id)"""


@check("sip, registration")
def aliases(look: Look) -> Diagnosis:
    """Is every callee an account that registers? A number that the proxy rewrites needs an alias.

    It is proven where calls to the number were sent on to the address that one account's phone registered from. A
    number that rings several accounts has no alias. Calls that waited for a phone in vain may have needed one.
    """
    detector = look.late_register
    if detector is None:
        return cannot_tell("the detector late_register is off")
    accounts = _Accounts(look, detector)
    if not accounts.known:
        return cannot_tell("nobody registered")
    rung: dict[str, dict[str, set[str]]] = {}  # number -> account -> calls
    in_vain: Counter[str] = Counter()
    calls: set[str] = set()
    for row in look.rows(_CALLS):
        calls.add(row["call_id"])
        keys = _keys(row)
        if keys and not any(accounts.has(key) for key in keys):
            account = accounts.at(row["dst_ip"], row["dst_port"], row["sent_user"])
            if account is not None:
                rung.setdefault(keys[0], {}).setdefault(account, set()).add(row["call_id"])
            in_vain[keys[0]] += bool(row["reached_nobody"])
    if not calls:
        return cannot_tell("no call came")
    proven = {number: next(iter(rings.items())) for number, rings in rung.items() if len(rings) == 1}
    unknown = {number: count for number, count in in_vain.most_common() if count >= _FEW}
    if not proven and unknown:
        told = ", ".join(f"{count} to {number}" for number, count in list(unknown.items())[:_SHOWN])
        return advice(
            f"calls that waited for nobody who ever registered: {told}",
            lines(
                HEPDUCK,
                "[detectors.late_register.aliases]    # if these are numbers of accounts",
                *(f'{json.dumps(number)} = "USER@DOMAIN"' for number in unknown),
            ),
            calls=len(calls),
            unknown=unknown,
        )
    if not proven:
        return ok(
            f"{counted(len(calls), 'call')}: no number that only the proxy knows the account of",
            calls=len(calls),
        )
    table = {number: account for number, (account, _) in sorted(proven.items())}
    most = sorted(proven.items(), key=lambda item: -len(item[1][1]))[:_SHOWN]
    told = ", ".join(f"{len(ids)} to {number} ring {account}" for number, (account, ids) in most)
    written: tuple[str, ...]
    if all(number.partition("@")[0] == account.partition("@")[0] for number, account in table.items()):
        written = ("[detectors.late_register]", 'match = "user"    # where all domains share their users')
    else:
        entries = (f"{json.dumps(number)} = {json.dumps(account)}" for number, account in table.items())
        written = ("[detectors.late_register.aliases]", *entries)
    judged = wrong if any(account in accounts.woken for account in table.values()) else advice
    return judged(
        f"callees that match no account: of {counted(len(calls), 'call')} {told}; their ghost calls are not found",
        lines(HEPDUCK, *written),
        aliases=table,
        calls=sum(len(ids) for _, ids in proven.values()),
    )


def _keys(row: Row) -> list[str]:
    """Whom a call names: Request-URI, then To. A tel: number has no host."""
    named = ((row["ruri_user"], row["ruri_host"]), (row["to_user"], row["to_host"]))
    return [key for user, host in named if (key := aor(user, host) or user)]


class _Accounts:
    """Who registers, and from where; compared as `late_register` compares them."""

    def __init__(self, look: Look, detector: Any) -> None:
        self._by_user = detector.settings.match == "user"
        self._aliases = {self._key(number) for number in detector.settings.aliases}
        self.known: set[str] = set()
        self.woken: set[str] = set()  # those with a push device
        self._at: dict[tuple[str, int], dict[str, set[str]]] = {}
        for row in look.rows(_DEVICES):
            account = row["aor"].removeprefix("sip:")
            contacts = parse_contacts(row["contact"])
            self.known.add(self._key(account))
            users = {c.address.user for c in contacts if c.address and c.address.user}
            self._at.setdefault((row["src_ip"], row["src_port"]), {}).setdefault(account, set()).update(users)
            if detector.is_push_device(row["user_agent"], contacts):
                self.woken.add(account)

    def has(self, key: str) -> bool:
        """Whether a callee is an account, or has an alias."""
        key = self._key(key)
        return key in self.known or key in self._aliases or key.removeprefix("+") in self._aliases

    def at(self, ip: str | None, port: int | None, user: str | None) -> str | None:
        """The only account that registered from there; of several the one with a contact of that user."""
        here = self._at.get((ip or "", port or 0), {})
        named = [account for account, users in here.items() if user in users]
        fitting = named or list(here)
        return fitting[0] if len(fitting) == 1 else None

    def _key(self, account: str) -> str:
        return account.partition("@")[0] + "@" if self._by_user else account


@check("registration")
def push_devices(look: Look) -> Diagnosis:
    """Is any device known to be woken by a push? Only such devices can ring for a call that is over."""
    detector = look.late_register
    if detector is None:
        return cannot_tell("the detector late_register is off")
    devices = look.rows(_DEVICES)
    if not devices:
        return cannot_tell("nobody registered")
    contacts = [parse_contacts(row["contact"]) for row in devices]
    push = [
        detector.is_push_device(row["user_agent"], c) for row, c in zip(devices, contacts, strict=True)
    ].count(True)
    if push:
        return ok(f"{push} of {len(devices)} devices are woken by a push", devices=len(devices), push=push)
    agents = Counter(row["user_agent"] or "no User-Agent" for row in devices)
    seen = ", ".join(f"{count} {agent}" for agent, count in agents.most_common(_SHOWN))
    return advice(
        f"none of {len(devices)} devices is woken by a push, by its Contact or User-Agent ({seen}):"
        " no ghost call can be found",
        lines(
            HEPDUCK,
            "[detectors.late_register.devices]",
            'user_agent = "YourApp.*iOS"    # what the app that gets VoIP pushes calls itself',
        ),
        lines(
            "app",
            "Contact: <sip:bob@...;pn-provider=apns;pn-param=TEAM.BUNDLE.voip;pn-prid=TOKEN>    # RFC 8599",
        ),
        devices=len(devices),
        push=0,
    )


@check("agent", needs=None)
def trust(look: Look) -> Diagnosis:
    """Does somebody vouch for the agents? Findings from agents without key or allowed address never act."""
    agents = look.rows(
        "SELECT agent_addr, agent_id, trusted FROM agent WHERE last_seen >= $since ORDER BY ALL"
    )
    if not agents:
        return cannot_tell("agents are listed 10 s after they were first heard")
    doubted = [agent for agent in agents if not agent["trusted"]]
    if not doubted:
        return ok(f"{counted(len(agents), 'agent')}, all trusted", agents=len(agents))
    names = [agent_name(agent["agent_addr"], agent["agent_id"]) for agent in doubted]
    told = f"nobody vouches for {', '.join(names)}: what is found by them never acts"
    addresses = sorted({agent["agent_addr"] for agent in doubted})
    if all(ip_address(address).is_loopback for address in addresses):
        return (wrong if look.armed else advice)(
            f"{told}; something else than HEP came from there over the same connection (see raw_sip)",
            lines(
                HEPDUCK, "[tap]", 'auth_key = "..."    # then only those who know it are heard, and trusted'
            ),
            lines(KAMAILIO, 'modparam("siptrace", "auth_key", "...")'),
            agents=names,
        )
    nets = ", ".join(f'"{address}/{ip_address(address).max_prefixlen}"' for address in addresses)
    return (wrong if look.armed else advice)(
        told,
        lines(HEPDUCK, "[tap]", f'auth_key = "..."              # or: allowed_networks = [{nets}]'),
        lines(KAMAILIO, 'modparam("siptrace", "auth_key", "...")    # #!define HEPDUCK_AUTH_KEY "..."'),
        agents=names,
    )


@check("status.json, action_attempt, finding", needs=None)
def arming(look: Look) -> Diagnosis:
    """May actions act, or is it a dry run? Says also what came of it in the window."""
    findings = look.row("SELECT count(*) AS n FROM finding WHERE ts >= $since")["n"]
    attempts = look.rows(
        "SELECT outcome, count(*) AS n FROM action_attempt WHERE started_at >= $since AND NOT dry_run"
        " AND action = ANY($armed) GROUP BY ALL ORDER BY n DESC",
        armed=look.armed,
    )
    outcomes = {row["outcome"]: row["n"] for row in attempts}
    numbers = {"findings": findings, "armed": look.armed, "outcomes": outcomes}
    if not look.armed:
        return ok(f"dry run: {counted(findings, 'finding')}, nothing is sent to anybody", **numbers)
    came = ", ".join(f"{count} {outcome}" for outcome, count in outcomes.items()) or "nothing to do"
    told = f"ARMED: {', '.join(look.armed)}; {counted(findings, 'finding')}; {came}"
    stop = look.store / "STOP"
    if stop.exists():
        return advice(
            f"{told}; but {stop} is there and holds everything", lines(SHELL, f"rm {stop}"), **numbers
        )
    return ok(told, **numbers)


@check("action_attempt", needs=None)
def compensating_call(look: Look) -> Diagnosis:
    """Does the proxy let the compensating calls through? Its refusals tell which line is missing."""
    found = look.rows(
        """SELECT (sip_statuses -> -1 ->> 'status')::INTEGER AS status, count(*) AS calls FROM action_attempt
           WHERE started_at >= $since AND NOT dry_run AND action IN ('fake_call', 'sipp')
               AND NOT starts_with(outcome, 'held_') GROUP BY ALL ORDER BY calls DESC"""
    )
    if not found:
        return cannot_tell("no compensating call was placed")
    refused = {row["status"]: row["calls"] for row in found if row["status"] in _REFUSALS}
    total = sum(row["calls"] for row in found)
    silent = sum(row["calls"] for row in found if row["status"] is None)
    if not refused and silent < _FEW:
        return ok(f"{counted(total, 'compensating call')} let through", calls=total)
    told = [f"{count} with {status}" for status, count in refused.items()]
    mends = [lines(KAMAILIO, *_REFUSALS[status]) for status in refused]
    if silent >= _FEW:
        told.append(f"{silent} without any answer")
        mends.append(lines(HEPDUCK, "[actions.fake_call]", 'proxy = "sip:ADDRESS_OF_KAMAILIO:5060"'))
    return wrong(
        f"of {counted(total, 'compensating call')} Kamailio refused {', '.join(told)}", *mends, calls=total
    )


_REFUSALS: dict[int, tuple[str, ...]] = {
    403: ('#!define HEPDUCK_SECRET "..."    # as in actions.fake_call.secret_file',),
    401: (
        "route(HEPDUCK);                  # before authentication",
        '#!define HEPDUCK_SRC "ADDRESS_OF_HEPDUCK"',
    ),
    407: (
        "route(HEPDUCK);                  # before authentication",
        '#!define HEPDUCK_SRC "ADDRESS_OF_HEPDUCK"',
    ),
    404: (
        '#!define HEPDUCK_LOCATION "location"    # the table that save() is given',
        '#!define HEPDUCK_AOR "$ru"              # the account as save() stores it',
    ),
}
