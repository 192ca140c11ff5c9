"""Questions about the newest messages, and how many came when; the search of calls is put to messages here.

Both look at the time of arrival (`received_at`), newest first, and at a short span of it, so that they stay quick
however much is stored. No payloads.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

from pipeline.errors import SearchError
from pipeline.store.call_queries import Question
from pipeline.store.call_search import NUMBER_FORM, Bound, Condition, compared, likeness, numbers, one_address
from pipeline.store.queries import Source, rows_of
from pipeline.store.search import Term, Value, is_address, parse

SPAN: Final = timedelta(minutes=10)  # how far back from the newest message a tail is looked for
FEWEST_STEP_S: Final = 1

_COLUMNS: Final = (
    "msg_id, ts, received_at, node, agent_addr, agent_id, transport, src_ip, src_port, dst_ip, dst_port, method,"
    " status, reason, from_user, to_user, ruri_user, call_id, cseq, user_agent, payload_bytes"
)
_FROM: Final = ("from_user", "from_display", "from_user || '@' || from_host")
_TO: Final = ("to_user", "ruri_user", "to_user || '@' || to_host")
_TEXTS: Final[dict[str | None, tuple[str, ...]]] = {
    "from": _FROM,
    "to": _TO,
    "user": (*_FROM, *_TO),
    "callid": ("call_id",),
    "ua": ("user_agent",),
    "reason": ("reason",),
    "method": ("method",),  # of a reply: of the request that it answers
    "node": ("node",),
    None: ("call_id", *_FROM, *_TO, "user_agent"),
}
_NUMBERS: Final[dict[str | None, tuple[str, ...]]] = {
    "from": ("from_user",),
    "to": ("to_user", "ruri_user"),
    "user": ("from_user", "to_user", "ruri_user"),
    None: ("from_user", "to_user", "ruri_user"),
}
MESSAGE_KEYS: Final = tuple(sorted([*(key for key in _TEXTS if key), "ip", "code"]))
"""The keys of `pipeline.store.search` that mean something for one message."""


def tail(
    source: Source,
    *,
    search: str = "",
    until: datetime | None = None,
    span: timedelta = SPAN,
    limit: int = 100,
) -> Question:
    """The messages that arrived last, at most `limit`, newest first; of the `span` before the newest one.

    `until`: as it was then. Raises SearchError, which points at the place in `search`.
    """
    condition = compile_message_search(search)
    newest = newest_arrival(source, until)
    sql = f"""
        SELECT {_COLUMNS} FROM sip
        WHERE received_at >= $since AND received_at <= $newest AND {condition.sql}
        ORDER BY msg_id DESC LIMIT $limit"""
    asked = {"since": newest and newest - span, "newest": newest, "limit": limit}
    return Question(sql, {**asked, **condition.parameters})


def newest_arrival(source: Source, until: datetime | None = None) -> datetime | None:
    """When the newest SIP message arrived (not after `until`); None where there is none."""
    sql = "SELECT max(received_at) AS at FROM sip WHERE ($until IS NULL OR received_at <= $until)"
    newest: datetime | None = rows_of(source, sql, {"until": until})[0]["at"]
    return newest


def first_arrival(source: Source) -> datetime | None:
    """When the first message that is stored arrived; None where there is none."""
    first: datetime | None = rows_of(source, "SELECT min(received_at) AS at FROM sip")[0]["at"]
    return first


def message_rate(*, since: datetime, until: datetime, step_s: int, search: str = "") -> Question:
    """Messages in each step of `step_s` seconds of arrival in [since, until), also where there were none.

    Columns: at (the step's start), messages, requests, invites (INVITE requests), registers (REGISTER requests),
    failures (final replies from 400 on, without challenges 401 and 407). Steps lie on multiples of `step_s`.
    """
    condition = compile_message_search(search)
    sql = f"""
        WITH counted AS (
            SELECT time_bucket(to_seconds($step_s), received_at) AS at, count(*) AS messages,
                count(*) FILTER (status IS NULL) AS requests,
                count(*) FILTER (status IS NULL AND method = 'INVITE') AS invites,
                count(*) FILTER (status IS NULL AND method = 'REGISTER') AS registers,
                count(*) FILTER (status >= 400 AND status NOT IN (401, 407)) AS failures
            FROM sip WHERE received_at >= $since AND received_at < $until AND {condition.sql}
            GROUP BY ALL
        ),
        steps AS (
            SELECT unnest(generate_series(time_bucket(to_seconds($step_s), $since::TIMESTAMPTZ),
                $until::TIMESTAMPTZ - INTERVAL 1 MICROSECOND, to_seconds($step_s))) AS at
        )
        SELECT s.at, coalesce(messages, 0) AS messages, coalesce(requests, 0) AS requests,
            coalesce(invites, 0) AS invites, coalesce(registers, 0) AS registers, coalesce(failures, 0) AS failures
        FROM steps s LEFT JOIN counted c ON s.at = c.at ORDER BY s.at"""
    asked = {"since": since, "until": until, "step_s": max(step_s, FEWEST_STEP_S)}
    return Question(sql, {**asked, **condition.parameters})


def compile_message_search(search: str) -> Condition:
    """The condition that a row of `sip` holds all terms. Raises SearchError, also for keys that only calls have."""
    bound = Bound()
    parts = [_term(term, search, bound) for term in parse(search)]
    return Condition(" AND ".join(parts) or "true", bound.parameters)


def _term(term: Term, search: str, bound: Bound) -> str:
    if term.key not in _TEXTS and term.key not in MESSAGE_KEYS:
        why = f"{term.key} is of calls, messages have {', '.join(MESSAGE_KEYS)}"
        raise SearchError(why, search, term.start, term.end - term.start)
    any_of = " OR ".join(f"({_value(term, value, bound)})" for value in term.values)
    return f"{'NOT ' if term.negated else ''}coalesce({any_of}, false)"


def _value(term: Term, value: Value, bound: Bound) -> str:
    if term.key == "code":
        return compared("status", term.operator, value, bound)
    if term.key == "ip" or (term.key is None and is_address(value.text)):
        return " OR ".join(one_address(value, f"{at}_ip", f"{at}_port", bound) for at in ("src", "dst"))
    whole = term.operator == "=" or value.is_pattern
    alike = likeness(value, whole, bound)
    parts = [alike(text) for text in _TEXTS[term.key]]
    if term.key in _NUMBERS and not value.is_pattern and NUMBER_FORM.fullmatch(value.text):
        parts += numbers(_NUMBERS[term.key], value.text, whole, bound)
    return " OR ".join(parts)
