"""The search of calls: `alice -state:busy pdd>3s code:4xx,503 ua:"Linphone iOS"`, read into terms.

    search   = *(space | term)
    term     = ["-" | "!"] [key operator] item *("," item)     a sign excludes what the term finds; "," means or
    key      = one of KEYS
    operator = ":" | "=" | "!=" | "<" | "<=" | ">" | ">="
    item     = quoted | characters but spaces, commas, quotes  between quotes \\" and \\\\ stand for " and \\

All terms hold at once. A term without a key is looked for in all that a call is known by: numbers in any spelling,
parts of Call-IDs and names, addresses and networks, User-Agents. With `:` a part of the text will do, with `=` it
is the whole; `*` or `%` stand for any text, and the item is the whole then. Case never counts.

This module only reads; `call_search` makes SQL of the terms.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, NamedTuple, NoReturn

from pipeline.errors import SearchError

Kind = Literal["text", "state", "code", "count", "ms", "duration", "share", "score"]


class Key(NamedTuple):
    """What may stand before the operator: the kind of its values, and what it means."""

    kind: Kind
    help: str


KEYS: Final = {
    "from": Key("text", "the caller: user, displayed name, or user@host"),
    "to": Key("text", "whom the call was for: user or user@host, as in To or as dialled"),
    "user": Key("text", "either of them"),
    "callid": Key("text", "Call-ID"),
    "ip": Key("text", "address of any hop, or a network: 10.0.0.5, 10.0.0.5:5060, 10.0.0.0/8, 2001:db8::/32"),
    "ua": Key("text", "User-Agent of the caller, or of a phone that answered"),
    "state": Key("state", "how the call went: one of STATES"),
    "code": Key("code", "final status: code:486, code:4xx,503, code>=500"),
    "reason": Key("text", "reason phrase of the final status"),
    "codec": Key("text", "codec of the answer, or of a leg"),
    "trunk": Key("text", "endpoint of the switch (PJSIP/trunk), or address that a leg's media came from"),
    "account": Key("text", "account code of the CDR"),
    "method": Key("text", "a request of that method belongs to the call: REFER, UPDATE, INFO"),
    "node": Key("text", "the tap that saw it"),
    "srd": Key("duration", "session request delay (RFC 6076): INVITE to the first 18x or final reply"),
    "pdd": Key("duration", "post-dial delay: INVITE to the first 18x"),
    "ring": Key("duration", "first 18x to the answer or the end"),
    "talk": Key("duration", "answer to BYE"),
    "mos": Key("score", "MOS of the worst direction"),
    "r": Key("score", "R factor of the worst direction (ITU-T G.107)"),
    "loss": Key("share", "packet loss of the worst direction, in percent"),
    "jitter": Key("ms", "jitter of the worst direction (RFC 3550)"),
    "rtt": Key("ms", "longest round trip"),
    "messages": Key("count", "SIP messages"),
    "legs": Key("count", "branches towards devices"),
}

STATES: Final = {
    "answered": "answered",
    "canceled": "the caller gave up",
    "busy": "486 from a device",
    "declined": "6xx",
    "rejected": "another 4xx or 5xx from a device",
    "no_answer": "408 or 480 made by the proxy",
    "refused": "another 4xx or 5xx made by the proxy",
    "redirected": "3xx",
    "in_progress": "no final reply yet",
    "unfinished": "no final reply, and nothing new for five minutes",
    "talking": "answered, and no BYE yet",
    "failed": "busy, declined, rejected, no_answer or refused",
    "ghost": "a phone registered too late and rang for nothing",
    "one_way": "packets went in one direction only",
    "no_rtp": "answered, and no packet went in any direction",
    "poor": "R below 70 in a direction with enough packets to tell",
}

MAX_TERMS: Final = 50
MAX_VALUES: Final = 100  # of one term
MAX_WILDCARDS: Final = 20  # of one value

_OTHER_KEYS: Final = {"call_id": "callid", "call-id": "callid", "useragent": "ua", "status": "code"}
_OTHER_STATES: Final = {"cancelled": "canceled", "oneway": "one_way", "nortp": "no_rtp"}
_ORDERING: Final = frozenset({"<", "<=", ">", ">="})
_NO_NUMBERS: Final[frozenset[Kind]] = frozenset({"text", "state"})
_EXACT: Final[frozenset[Kind]] = frozenset({"code", "count"})  # other numbers are measured: never quite equal
_MS: Final = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
_UNITS: Final[dict[Kind, dict[str, float]]] = {
    "duration": _MS,  # a bare number would leave open whether it means ms or s
    "ms": {"": 1.0, **_MS},
    "share": {"": 1.0, "%": 1.0},
    "score": {"": 1.0},
    "count": {"": 1.0},
    "code": {"": 1.0},
}

_KEY = re.compile(r"([A-Za-z][A-Za-z_-]*)(<=|>=|!=|[:=<>])")
_SCHEME = re.compile(r"(?:sips?|tel):(?=\S)", re.IGNORECASE)
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_ITEM = re.compile(r'[^\s,"]+')
_NUMBER = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)([a-z]*|%)", re.ASCII)
_WILDCARDS = re.compile(r"[*%]+")
_CODE_CLASS = re.compile(r"([1-6])xx", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Value:
    """One item, at `start` in the text that was read. `low` and `high` are the numbers that it means, inclusive."""

    text: str
    start: int
    quoted: bool = False
    low: float | None = None
    high: float | None = None

    @property
    def is_pattern(self) -> bool:
        """Whether `*` or `%` in it stand for any text."""
        return not self.quoted and not {"*", "%"}.isdisjoint(self.text)


@dataclass(frozen=True, slots=True)
class Term:
    """What a call must be (must not, when `negated`): any of `values`. `key` None: looked for everywhere.

    `operator` is one of `: = < <= > >=`. It stands at `start:end` in the text that was read.
    """

    key: str | None
    operator: str
    values: tuple[Value, ...]
    negated: bool
    start: int
    end: int


def parse(text: str) -> tuple[Term, ...]:
    """The terms of a search, in order; none for an empty text. Raises SearchError, which points at the place."""
    return tuple(_Text(text).terms())


def is_address(text: str) -> bool:
    """Whether it is an IP address or a network."""
    try:
        ipaddress.ip_network(text, strict=False)
    except ValueError:
        return False
    return True


class _Text:
    """What is read, and how far."""

    def __init__(self, text: str) -> None:
        # Bytes of a command line that are no text become `?`; all stays in its place.
        self.text = text.encode("utf-8", "replace").decode()
        self.at = 0

    def terms(self) -> Iterator[Term]:
        """Each term in turn."""
        terms = 0
        while self.at < len(self.text):
            if self.text[self.at].isspace():
                self.at += 1
                continue
            terms += 1
            if terms > MAX_TERMS:
                self._fail(f"more than {MAX_TERMS} terms", self.at)
            yield self._term()

    def _term(self) -> Term:
        start = self.at
        negated = self.text[start] in "-!"
        self.at += negated
        key, operator = self._key()
        values = self._values(self.text[start : self.at])
        if key is not None:
            values = tuple(self._typed(key, operator, value) for value in values)
        if operator == "!=":
            negated, operator = not negated, "="
        if operator in _ORDERING and len(values) > 1:
            self._fail(f"one value after {key}{operator}", values[1].start, len(values[1].text))
        return Term(key, operator, values, negated, start, self.at)

    def _key(self) -> tuple[str | None, str]:
        """The key and its operator; no key before `bob`, `2001:db8::1`, `sip:bob@sip.test`."""
        if scheme := _SCHEME.match(self.text, self.at):
            self.at = scheme.end()
            return None, ":"
        found = _KEY.match(self.text, self.at)
        if found is None or is_address(self.text[self.at :].split(maxsplit=1)[0]):
            return None, ":"
        name, operator = found[1].lower(), found[2]
        key = _OTHER_KEYS.get(name, name)
        if key not in KEYS:
            self._fail(f"no key {found[1]!r}: {_near(name, KEYS)} (in quotes it is text)", self.at, len(name))
        if operator in _ORDERING and KEYS[key].kind in _NO_NUMBERS:
            self._fail(f"{key} is no number: write {key}:", found.start(2), len(operator))
        self.at = found.end()
        return key, operator

    def _values(self, before: str) -> tuple[Value, ...]:
        """The items from here on; `before` is what stands before the first one."""
        values = [self._value(before)]
        while self.text.startswith(",", self.at):
            self.at += 1
            values.append(self._value(","))
        if self.at < len(self.text) and not self.text[self.at].isspace():
            self._fail("expected a space here", self.at)
        if len(values) > MAX_VALUES:
            self._fail(f"more than {MAX_VALUES} values in one term", values[MAX_VALUES].start)
        return tuple(values)

    def _value(self, before: str) -> Value:
        start = self.at
        quoted = self.text.startswith('"', start)
        found = (_QUOTED if quoted else _ITEM).match(self.text, start)
        if quoted and found is None:
            self._fail("this quote is not closed", start)
        if found is None:
            self._fail(f"expected a value right after {before!r}" if before else "expected a value", start)
        self.at = found.end()
        text = re.sub(r"\\(.)", r"\1", found[1], flags=re.DOTALL) if quoted else found[0]
        if not text.strip():
            self._fail("nothing between these quotes", start, self.at - start)
        value = Value(text, start, quoted)
        if value.is_pattern and len(_WILDCARDS.findall(text)) > MAX_WILDCARDS:
            self._fail(f"more than {MAX_WILDCARDS} * in one value", start, len(text))
        return value

    def _typed(self, key: str, operator: str, value: Value) -> Value:
        """The value as the kind of its key reads it."""
        kind = KEYS[key].kind
        if kind == "text":
            return value
        if kind == "state":
            return replace(value, text=self._state(value))
        if kind == "code" and operator not in _ORDERING and (found := _CODE_CLASS.fullmatch(value.text)):
            return replace(value, low=int(found[1]) * 100.0, high=int(found[1]) * 100.0 + 99)
        number, units = _NUMBER.fullmatch(value.text.lower()), _UNITS[kind]
        if number is None or number[2] not in units:
            self._refuse(value, f"expected {_EXAMPLES[kind].format(key=key)}")
        if operator not in _ORDERING and kind not in _EXACT:
            self._refuse(value, f"{key} is measured: write {key}<{value.text} or {key}>{value.text}")
        told = float(number[1]) * units[number[2]]
        return replace(value, low=told, high=told)

    def _state(self, value: Value) -> str:
        name = value.text.lower().replace("-", "_")
        state = _OTHER_STATES.get(name, name)
        if state not in STATES:
            self._refuse(value, f"no state {value.text!r}: {_near(state, STATES)}")
        return state

    def _refuse(self, value: Value, why: str) -> NoReturn:
        self._fail(why, value.start, len(value.text) + 2 * value.quoted)

    def _fail(self, why: str, start: int, length: int = 1) -> NoReturn:
        raise SearchError(why, self.text, start, length)


_EXAMPLES: Final[dict[Kind, str]] = {
    "duration": "a duration: {key}>3s, {key}<500ms",
    "ms": "milliseconds: {key}>30ms",
    "share": "percent: {key}>2%",
    "score": "a number: {key}<3.6",
    "count": "a number: {key}>10",
    "code": "a status: {key}:486, {key}:4xx, {key}>=500",
}


def _near(name: str, known: dict[str, Key] | dict[str, str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    return f"did you mean {near[0]}?" if near else f"there are {', '.join(known)}"
