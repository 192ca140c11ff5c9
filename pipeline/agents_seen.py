"""The capture agents heard so far: how they are called, and what is known of each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.instants import at

MAX_AGENTS = (
    1_000  # kept apart: addresses and agent ids are the sender's word, and each has a clock of its own
)
MAX_CAPTURE_IDS = 64  # counted apart in metrics
OTHERS = "others"


def agent_name(address: str, agent_id: int | None) -> str:
    """`10.0.0.5/2001`, or the address alone where it sends no capture id."""
    return address if agent_id is None else f"{address}/{agent_id}"


@dataclass(slots=True)
class AgentSeen:
    """What is known of one capture agent since the start."""

    agent_addr: str
    agent_id: int | None
    hep_version: int = 0
    by_protocol: Counter[str] = field(default_factory=Counter)  # packets: sip, rtcp, log, other
    last_seen_us: int = 0
    first_seen_us: int = 0
    skew_us: int = 0  # its timestamp behind (+) or ahead of (-) our arrival time, last seen
    trusted: bool | None = None  # before its first packet
    changed: bool = True

    @property
    def packets(self) -> int:
        """Of all protocols."""
        return self.by_protocol.total()

    @property
    def capture_id(self) -> str:
        """As a label of metrics: "none" where it sends none."""
        if self.agent_addr == OTHERS:
            return OTHERS
        return "none" if self.agent_id is None else str(self.agent_id)

    @property
    def name(self) -> str:
        """See `agent_name`."""
        return agent_name(self.agent_addr, self.agent_id)

    def row(self, node: str, now_us: int) -> dict[str, Any]:
        """A row of table `agent`."""
        return {
            "node": node,
            "agent": self.name,
            "agent_id": self.agent_id,
            "agent_addr": self.agent_addr,
            "hep_versions": str(self.hep_version),
            "trusted": self.trusted,
            "first_seen": at(self.first_seen_us),
            "last_seen": at(self.last_seen_us),
            "skew_ms": self.skew_us / 1000,
            "received": self.packets,
            "updated_at": at(now_us),
        }


class Agents:
    """`MAX_AGENTS` of them are kept apart; those that come after are `OTHERS` together."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, int | None], AgentSeen] = {}
        self._names: dict[tuple[str, int | None], str] = {}
        self.has_news = False  # an agent is new, or trusted no more or again, since `heard` was asked last

    def see(
        self,
        address: str,
        agent_id: int | None,
        *,
        protocol: str,
        hep_version: int,
        trusted: bool,
        arrival_us: int,
        skew_us: int,
    ) -> None:
        """Note a packet of this agent; `skew_us` as in `AgentSeen`."""
        key = (address, agent_id)
        agent = self._seen.get(key)
        if agent is None:
            if len(self._seen) >= MAX_AGENTS:
                key = (OTHERS, None)
            agent = self._seen.setdefault(key, AgentSeen(*key, first_seen_us=arrival_us))
        if agent.trusted != trusted:
            agent.trusted, self.has_news = trusted, True
        agent.hep_version = hep_version
        agent.by_protocol[protocol] += 1
        agent.last_seen_us = arrival_us
        agent.skew_us = skew_us
        agent.changed = True

    def name(self, address: str, agent_id: int | None) -> str:
        """See `agent_name`; `OTHERS` for who came too late to be kept apart."""
        key = (address, agent_id)
        name = self._names.get(key)
        if name is None:
            if len(self._names) >= MAX_AGENTS:
                return OTHERS
            name = self._names[key] = agent_name(address, agent_id)
        return name

    def packets(self) -> Counter[tuple[str, str]]:
        """Packets since the start by capture id (as text, "none" without) and protocol; from any thread.

        `MAX_CAPTURE_IDS` ids, those heard first, are told apart; the rest is `OTHERS`.
        """
        counted: Counter[tuple[str, str]] = Counter()
        named: set[str] = set()
        for agent in list(self._seen.values()):
            name = agent.capture_id
            if name in named or len(named) < MAX_CAPTURE_IDS:
                named.add(name)
            else:
                name = OTHERS
            for protocol, packets in list(agent.by_protocol.items()):
                counted[name, protocol] += packets
        return counted

    def heard(self) -> list[AgentSeen]:
        """Those heard since the last call."""
        self.has_news = False
        heard = [agent for agent in self._seen.values() if agent.changed]
        for agent in heard:
            agent.changed = False
        return heard
