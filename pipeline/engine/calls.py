"""What happened to a call, as the mirror shows it, whatever order its messages came in.

A mirror sees each message once per hop, received and sent on. An INVITE on one hop is a `Leg`; its replies
are found by the same key, since a reply carries the request's topmost Via branch and CSeq and runs the
opposite way (RFC 3261 17.1.3, 18.2.2). Only such a reply counts: the mirror is taken before any check, so a
stray 200 or CANCEL is mirrored too and proves nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from pipeline.engine.events import Address, SipEvent
from pipeline.protocols.uri import aor

Outcome = Literal["canceled", "answered", "declined", "busy", "rejected", "no_answer"]
LegKey = tuple[str, str, str | None, int | None]  # requester's ip, responder's ip, branch, CSeq number

MAX_LEGS = 64  # of one call; forks beyond that are not followed
MAX_STRAYS = 64  # keys of replies (or CANCELs) that no INVITE of the call had yet; anybody can make them up
# The caller will try again with the same Call-ID: RFC 3261 22, RFC 4028 6, RFC 3329 2.3.1.
RETRIED = frozenset({401, 407, 422, 494})
# What an edge proxy answers by itself when its phone is gone: proof of nothing.
MADE_BY_EDGE = frozenset({408, 430, 477, 478, 503})


class Mark(NamedTuple):
    """When a fact was first mirrored, the stored message that proves it, and whose clock told the time."""

    ts_us: int
    msg_id: int
    agent: str


class Ending(NamedTuple):
    """How a call ended for its callee: the outcome, when, and the proof."""

    outcome: Outcome
    ts_us: int
    msg_id: int
    agent: str
    status: int | None  # of the final reply to the caller; None while only the CANCEL is known


class Facts(NamedTuple):
    """Times (event time) and result of a call, as its caller's side saw them."""

    ending: Ending | None
    invite_us: int | None
    progress_us: int | None  # first 101-199
    answer_us: int | None
    final: tuple[int, int] | None  # when, status
    caller: Address | None
    proxy: Address | None
    legs: int  # branches towards devices


@dataclass(slots=True)
class Leg:
    """One INVITE on one hop, and what came back for it."""

    src: Address
    dst: Address
    transport: str
    via_count: int
    ruri: str | None
    ruri_user: str | None
    ruri_host: str | None
    first: Mark


def leg_key(event: SipEvent) -> LegKey:
    """The key that a request and its replies share on one hop."""
    sip = event.sip
    if sip.is_request:
        return event.src[0], event.dst[0], sip.via_branch, sip.cseq
    return event.dst[0], event.src[0], sip.via_branch, sip.cseq


def mark_of(event: SipEvent) -> Mark:
    """The event as proof of a fact."""
    return Mark(event.ts_us, event.msg_id, event.agent)


def _note(marks: dict[Any, Mark], fact: object, event: SipEvent) -> bool:
    """Keep the earliest proof of each fact; whether this is it."""
    known = marks.get(fact)
    if known is not None and event.ts_us >= known.ts_us:
        return False
    marks[fact] = mark_of(event)
    return True


@dataclass(slots=True, eq=False)
class Call:
    """All INVITE transactions of one Call-ID, initial ones only."""

    call_id: str
    agent: str
    first_us: int
    last_us: int
    trusted: bool = True
    messages: int = 0
    from_user: str | None = None
    from_host: str | None = None
    from_display: str | None = None
    to_user: str | None = None
    to_host: str | None = None
    ruri_user: str | None = None
    user_agent: str | None = None
    codec: str | None = None
    legs: dict[LegKey, Leg] = field(default_factory=dict)
    replies: dict[LegKey, dict[int, Mark]] = field(default_factory=dict)
    cancels: dict[LegKey, Mark] = field(default_factory=dict)
    cancels_accepted: dict[LegKey, Mark] = field(default_factory=dict)
    reasons: dict[int, str] = field(default_factory=dict)  # reason phrases as first seen
    bye: Mark | None = None
    crowded: bool = False  # more was sent under this Call-ID than is followed: whom it reached is not known
    heard_in_part: bool = False  # the tap was not there for some of it
    sides: tuple[dict[LegKey, Leg], dict[LegKey, Leg]] | None = None  # of the legs as they are now
    settled: Facts | None = None  # what is left once the messages are forgotten

    def add(self, event: SipEvent) -> bool:
        """Take one message in; True when it says something new about the call's fate."""
        self.messages += 1
        self.first_us = min(self.first_us, event.ts_us)
        self.last_us = max(self.last_us, event.ts_us)
        sip = event.sip
        method = sip.method
        if method == "INVITE":
            if not sip.is_request:
                return self._add_reply(event)
            if sip.to_tag is None:  # with a To tag it changes a dialog that stands (RFC 3261 14)
                return self._add_invite(event)
        elif method == "CANCEL":
            self.trusted = self.trusted and event.trusted
            if sip.is_request or (sip.status is not None and 200 <= sip.status < 300):
                return self._add_cancel(event, self.cancels if sip.is_request else self.cancels_accepted)
        elif method == "BYE" and sip.is_request and self.bye is None:
            self.bye = mark_of(event)
        return False

    def _add_invite(self, event: SipEvent) -> bool:
        key = leg_key(event)
        if key in self.legs:
            return False  # a retransmission, or the other node's copy of the same hop
        if len(self.legs) >= MAX_LEGS:
            self.crowded = True
            return False
        self.sides = None
        sip = event.sip
        self.trusted = self.trusted and event.trusted
        self.legs[key] = Leg(
            event.src,
            event.dst,
            event.transport,
            sip.via_count,
            sip.ruri,
            sip.ruri_user,
            sip.ruri_host,
            mark_of(event),
        )
        if self.from_user is None:
            self.from_user, self.from_host, self.from_display = sip.from_user, sip.from_host, sip.from_display
            self.to_user, self.to_host = sip.to_user, sip.to_host
        if sip.via_count <= self.hops_before:  # as the caller's side sent it
            self.ruri_user = sip.ruri_user
            self.user_agent = sip.user_agent or self.user_agent
        return True

    def _add_cancel(self, event: SipEvent, table: dict[LegKey, Mark]) -> bool:
        key = leg_key(event)
        if self._has_room(table, key):
            _note(table, key, event)
            return True
        return False

    def _add_reply(self, event: SipEvent) -> bool:
        sip = event.sip
        if sip.status is None:
            return False
        key = leg_key(event)
        if not self._has_room(self.replies, key):
            return False
        marks = self.replies.setdefault(key, {})
        fresh = sip.status not in marks
        first = _note(marks, sip.status, event)
        if first and sip.status >= 200:
            self.trusted = self.trusted and event.trusted
        if sip.reason:
            self.reasons.setdefault(sip.status, sip.reason)
        if fresh and 180 <= sip.status < 300 and sip.sdp_codecs and self.codec is None:
            self.codec = sip.sdp_codecs.split(",", 1)[0]
        return fresh

    def _has_room(self, table: Collection[LegKey], key: LegKey) -> bool:
        # Replies may be mirrored before their own request, so some that belong to no leg are kept.
        if key in table or key in self.legs or len(table) < MAX_LEGS + MAX_STRAYS:
            return True
        self.crowded = True
        return False

    # -- who stands where ------------------------------------------------------------------------------

    @property
    def hops_before(self) -> int:
        """Via headers on the INVITE as the caller's side sent it: the fewest of all its legs."""
        return min((leg.via_count for leg in self.legs.values()), default=0)

    def caller_legs(self) -> dict[LegKey, Leg]:
        """The legs on which the caller's side sent the INVITE in."""
        return self._sides()[0]

    def device_legs(self) -> dict[LegKey, Leg]:
        """The legs on which it was sent on, towards devices."""
        return self._sides()[1]

    def _sides(self) -> tuple[dict[LegKey, Leg], dict[LegKey, Leg]]:
        if self.sides is None:
            callers: dict[LegKey, Leg] = {}
            devices: dict[LegKey, Leg] = {}
            self.sides = callers, devices
            before = self.hops_before
            # With topology hiding all legs have one Via: then the sender of this one received another.
            received = Counter(leg.dst for leg in self.legs.values())
            for key, leg in self.legs.items():
                sent_on = leg.via_count > before or received[leg.src] > (leg.src == leg.dst)
                (devices if sent_on else callers)[key] = leg
        return self.sides

    def callee_keys(self) -> set[str]:
        """user@domain of the Request-URI and To of the initial INVITE and of every copy sent on."""
        named = {(leg.ruri_user, leg.ruri_host) for leg in self.legs.values()} | {
            (self.to_user, self.to_host)
        }
        # A tel: URI has a number and no host: it is its own key, to be found as an alias.
        return {key for user, host in named if (key := aor(user, host) or user)}

    # -- what became of it -----------------------------------------------------------------------------

    def ending(self) -> Ending | None:
        """The outcome, or None while there is none (or none that a callee would care about).

        An answer always wins: a CANCEL that crosses a 200 changes nothing (RFC 3261 9.2). Otherwise the
        first final fact by event time does.
        """
        facts: list[Ending] = []
        for key in self.caller_legs():
            finals = {s: m for s, m in self.replies.get(key, {}).items() if s >= 200 and s not in RETRIED}
            for status, mark in finals.items():
                if 200 <= status < 300:
                    return Ending("answered", *mark, status)
                outcome = self._outcome_of(status)
                if outcome is not None:
                    facts.append(Ending(outcome, *mark, status))
            cancel = self.cancels.get(key)
            if cancel is not None and (key in self.cancels_accepted or 487 in finals):
                facts.append(Ending("canceled", *cancel, 487 if 487 in finals else None))
        return min(facts, key=lambda fact: fact.ts_us, default=None)

    def began_us(self, agent: str) -> int:
        """When the first INVITE came in, told by the clock of `agent` if that saw it."""
        firsts = [leg.first for leg in self.caller_legs().values()]
        seen = [first.ts_us for first in firsts if first.agent == agent]
        return min(seen or [first.ts_us for first in firsts], default=self.first_us)

    def _outcome_of(self, status: int) -> Outcome | None:
        if status == 487:
            return "canceled"
        if status >= 600:
            return "declined"
        if status < 400:
            return None  # a redirection sends the caller elsewhere
        if any(status in self.replies.get(key, ()) for key in self.device_legs()):
            return "busy" if status == 486 else "rejected"
        return "no_answer" if status in {408, 480} else None

    def answered_by(self) -> Address | None:
        """The device that sent the 2xx, seen at the hop farthest from the caller."""
        answered = [
            leg
            for key, leg in self.device_legs().items()
            if any(200 <= status < 300 for status in self.replies.get(key, ()))
        ]
        return max(answered, key=lambda leg: leg.via_count).dst if answered else None

    def replied_legs(self) -> Iterator[tuple[Leg, Collection[int]]]:
        """The legs that brought anything back, with the statuses that came."""
        for key, leg in self.legs.items():
            statuses = self.replies.get(key)
            if statuses:
                yield leg, statuses

    def stray_replies_from(self) -> set[str]:
        """Addresses that answered an INVITE of this call that was not heard."""
        return {key[1] for key in self.replies if key not in self.legs}

    def facts(self) -> Facts:
        """The times and the result of the call so far."""
        if self.settled is not None:
            return self.settled
        legs = self.caller_legs()
        replies = [(s, m) for key in legs for s, m in self.replies.get(key, {}).items() if s not in RETRIED]
        # A challenged INVITE is sent again: delays are those of the request that was let in.
        last_cseq = max((key[3] or 0 for key in legs), default=0)
        invites = [leg.first.ts_us for key, leg in legs.items() if (key[3] or 0) == last_cseq]
        finals = [(mark.ts_us, status) for status, mark in replies if status >= 200]
        return Facts(
            ending=self.ending(),
            invite_us=min(invites, default=None),
            progress_us=min((mark.ts_us for status, mark in replies if 100 < status < 200), default=None),
            answer_us=min((mark.ts_us for status, mark in replies if 200 <= status < 300), default=None),
            final=min(finals, default=None),
            caller=next((leg.src for leg in legs.values()), None),
            proxy=next((leg.dst for leg in legs.values()), None),
            legs=len(self.device_legs()),
        )

    def settle(self) -> None:
        """Give the memory of a call back whose fate is sealed; its facts and parties stay."""
        self.settled = self.facts()
        self.legs, self.replies, self.cancels, self.cancels_accepted = {}, {}, {}, {}
        self.sides = None
