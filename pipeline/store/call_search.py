"""Terms of a search as an SQL condition: nothing that the user typed becomes SQL, it is bound.

The condition is about one row `c` of calls as `call_queries` lays them out, and asks its other tables there (`worst`,
`leg`, `cdr`, `said`, `ghosts`) by Call-ID. What is not known of a call never matches, so a term with a minus keeps it.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, NamedTuple

from pipeline.store.search import Term, Value, is_address, parse

POOR_R: Final = 70.0  # below it many users are dissatisfied (ITU-T G.109)

# What a call is known by, for terms without a key.
_FROM = ("c.from_user", "c.from_display", "c.from_user || '@' || c.from_host")
_TO = ("c.to_user", "c.ruri_user", "c.to_user || '@' || c.to_host")
_TEXTS: Final = {
    "from": _FROM,
    "to": _TO,
    "user": (*_FROM, *_TO),
    "callid": ("c.call_id",),
    "reason": ("c.final_reason",),
    "node": ("c.node",),
    None: ("c.call_id", *_FROM, *_TO, "c.user_agent"),
}
_NUMBERS: Final = {
    "from": ("c.from_user", "c.from_display"),
    "to": ("c.to_user", "c.ruri_user"),
    "user": ("c.from_user", "c.from_display", "c.to_user", "c.ruri_user"),
    None: ("c.from_user", "c.to_user", "c.ruri_user"),
}
# Texts that other tables have: table, column; a call is found when any of its rows there matches.
_ELSEWHERE: Final = {
    "ua": (("said", "user_agent"),),
    "codec": (("leg", "codec"),),
    "trunk": (("leg", "endpoint"), ("peer", "peer_ip"), ("cdr", "trunk")),
    "account": (("cdr", "accountcode"),),
    "method": (("said", "request"),),
}
_OF_CALL: Final = {"ua": ("c.user_agent",), "codec": ("c.codec",)}
_MEASURES: Final = {
    "code": "c.final_status",
    **{f"{name}": f"c.{name}_ms" for name in ("srd", "pdd", "ring", "talk")},
    **{"messages": "c.messages", "legs": "c.legs"},
}
_QUALITY: Final = {"mos": "mos", "r": "r_factor", "loss": "loss_pct", "jitter": "jitter_ms", "rtt": "rtt_ms"}
_STATES: Final = {
    "talking": "c.outcome = 'answered' AND c.end_ts IS NULL",
    "failed": "c.state IN ('busy', 'declined', 'rejected', 'no_answer', 'refused')",
    "ghost": "c.call_id IN (SELECT call_id FROM ghosts)",
    "one_way": "c.call_id IN (SELECT call_id FROM worst WHERE one_way)",
    "no_rtp": "c.outcome = 'answered' AND c.call_id IN (SELECT call_id FROM worst WHERE packets = 0)",
    "poor": f"c.call_id IN (SELECT call_id FROM worst WHERE sure_r_factor < {POOR_R})",
}
NUMBER_FORM = re.compile(r"[+(]?[\d\s().\-/]+")
_FEWEST_DIGITS = 3
_WHOLE_DIGITS = 7  # with fewer, a number that is the end of another is not the same
_PREFIX = re.compile(r"^[+(]*0{0,2}")
_ENDPOINT = re.compile(r"\[?([0-9a-f.:]+?)\]?:(\d{1,5})", re.IGNORECASE | re.ASCII)
_ADDRESSES = (("src_ip", "src_port"), ("dst_ip", "dst_port"))


class Condition(NamedTuple):
    """An SQL condition and the values that are bound to its parameters `$s0`, `$s1` ..."""

    sql: str
    parameters: dict[str, Any]


EVERY: Final = Condition("true", {})


def compile_search(search: str | Iterable[Term]) -> Condition:
    """The condition that all terms hold. Raises SearchError when `search` is text that cannot be read."""
    terms = parse(search) if isinstance(search, str) else search
    bound = Bound()
    parts = [_term(term, bound) for term in terms]
    return Condition(" AND ".join(parts) or "true", bound.parameters)


class Bound:
    """Takes values, gives their names."""

    def __init__(self) -> None:
        self.parameters: dict[str, Any] = {}

    def __call__(self, value: object) -> str:
        name = f"s{len(self.parameters)}"
        self.parameters[name] = value
        return f"${name}"


def _term(term: Term, bound: Bound) -> str:
    any_of = " OR ".join(f"({_value(term, value, bound)})" for value in term.values)
    return f"{'NOT ' if term.negated else ''}coalesce({any_of}, false)"


def _value(term: Term, value: Value, bound: Bound) -> str:
    key = term.key
    if key == "state":
        return _STATES.get(value.text) or f"c.state = {bound(value.text)}"
    if key in _MEASURES:
        return compared(_MEASURES[key], term.operator, value, bound)
    if key in _QUALITY:
        return f"c.call_id IN (SELECT call_id FROM worst WHERE {compared(_QUALITY[key], term.operator, value, bound)})"
    if key == "ip" or (key is None and is_address(value.text)):
        return _address(value, bound)
    whole = term.operator == "=" or value.is_pattern
    alike = likeness(value, whole, bound)
    parts = [alike(text) for text in (*_TEXTS.get(key, ()), *_OF_CALL.get(key or "", ()))]
    parts += [
        f"c.call_id IN (SELECT call_id FROM {table} WHERE {alike(column)})"
        for table, column in _ELSEWHERE.get(key or "", ())
    ]
    if key in _NUMBERS and not value.is_pattern and NUMBER_FORM.fullmatch(value.text):
        parts += numbers(_NUMBERS[key], value.text, whole, bound)
    return " OR ".join(parts)


def compared(column: str, operator: str, value: Value, bound: Bound) -> str:
    """The condition that a number is as the value says."""
    if operator in ("<", "<=", ">", ">="):
        return f"{column} {operator} {bound(value.low)}"
    return f"{column} BETWEEN {bound(value.low)} AND {bound(value.high)}"


def likeness(value: Value, whole: bool, bound: Bound) -> Callable[[str], str]:
    """What makes the condition that a column is like the value."""
    if value.is_pattern:
        # No LIKE: its time grows with the power of the wildcards, and a caller chooses his Call-ID.
        name = bound(".*".join(map(re.escape, re.split(r"[*%]+", value.text))))
        return lambda column: f"regexp_full_match(lower({column}), lower({name}), 's')"
    name = bound(value.text)
    if whole:
        return lambda column: f"lower({column}) = lower({name})"
    return lambda column: f"contains(lower({column}), lower({name}))"


def numbers(columns: Iterable[str], text: str, whole: bool, bound: Bound) -> Iterator[str]:
    """Columns that hold the same number: +49 30 1234567, 0049301234567 and 0301234567 are spelt differently only.

    The country code may be missing on either side, so a number of seven digits or more is also the same as one that
    ends with it.
    """
    digits = re.sub(r"\D", "", _PREFIX.sub("", text), flags=re.ASCII)
    if len(digits) < _FEWEST_DIGITS:
        return
    name = bound(digits)
    for column in columns:
        stored = f"ltrim(translate({column}, '+-() ./', ''), '0')"
        ends = f"(length({stored}) >= {_WHOLE_DIGITS} AND ends_with({name}, {stored}))"
        if not whole:
            yield f"contains({stored}, {name}) OR {ends}"
        elif len(digits) >= _WHOLE_DIGITS:
            yield f"ends_with({stored}, {name}) OR {ends}"
        else:
            yield f"{stored} = {name}"


def _address(value: Value, bound: Bound) -> str:
    """Any hop of any message of the call."""
    tests = [one_address(value, ip, port, bound) for ip, port in _ADDRESSES]
    return f"c.call_id IN (SELECT call_id FROM said WHERE {' OR '.join(tests)})"


def one_address(value: Value, ip: str, port: str, bound: Bound) -> str:
    """The condition that a column of addresses, with one of ports, has that address, or lies in that network."""
    if is_address(value.text):
        network = ipaddress.ip_network(value.text, strict=False)
        if network.num_addresses == 1:
            return f"{ip} = {bound(str(network.network_address))}"
        first, last = _comparable(network[0]), _comparable(network[-1])
        return f"{_COMPARABLE[network.version].format(ip=ip)} BETWEEN {bound(first)} AND {bound(last)}"
    endpoint = None if value.quoted else _ENDPOINT.fullmatch(value.text)
    if endpoint and is_address(endpoint[1]):
        address = str(ipaddress.ip_address(endpoint[1]))
        return f"{ip} = {bound(address)} AND {port} = {bound(int(endpoint[2]))}"
    return likeness(value, False, bound)(ip)


def _comparable(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int | str:
    """The address as something that runs as addresses do; `_COMPARABLE` says the same in SQL."""
    return int(address) if address.version == 4 else address.exploded


_COMPARABLE: Final = {
    4: "list_reduce(list_transform(string_split({ip}, '.'), lambda part: TRY_CAST(part AS UBIGINT)), "
    "lambda sum, part: sum * 256 + part)",
    # Zeros that :: leaves out are put in, then each group is made four digits.
    6: "CASE WHEN {ip} LIKE '%:%' THEN array_to_string(list_transform(string_split(trim(replace({ip}, '::', ':' || "
    "repeat('0:', 8 - length(list_filter(string_split({ip}, ':'), lambda part: part <> '')))), ':'), ':'), "
    "lambda part: lpad(part, 4, '0')), ':') END",
}
