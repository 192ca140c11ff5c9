"""The newest messages, and how many come when."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from pipeline.api.opened import Moment, Store, current, moment
from pipeline.durations import step_of
from pipeline.store import message_queries

if TYPE_CHECKING:
    import pandas as pd


def tail(
    search: str = "",
    *,
    until: Moment = None,
    span: timedelta = message_queries.SPAN,
    limit: int = 100,
    store: Store | None = None,
) -> pd.DataFrame:
    """The SIP messages that arrived last, newest first, at most `limit` and none older than `span` before the newest.

    `search` is the grammar of calls (`pipeline.store.search`) put to single messages: method, code, ip, from, to, user,
    callid, ua, reason, node, or a text without a key; `code` of replies, `method` of requests and their replies.
    `until`: as it was then. Columns as table `sip` without what is parsed of bodies and without `payload`.
    Raises SearchError, which points at the place.
    """
    asked = current(store)
    question = message_queries.tail(asked.reader, search=search, until=moment(until), span=span, limit=limit)
    return asked.frame(*question)


def message_rate(
    search: str = "",
    *,
    since: Moment = None,
    until: Moment = None,
    steps: int = 200,
    store: Store | None = None,
) -> pd.DataFrame:
    """Messages over time of arrival, steps without any included: `at` (the step's start), `step_s` (its length),
    `messages`, of these `requests`, `invites` and `registers` (requests), `failures` (final replies from 400 on but
    for challenges). `per_second` is messages by `step_s`; the first and last step may be cut by the window.
    """
    asked = current(store)
    end = moment(until) or datetime.now(UTC)
    start = moment(since) or message_queries.first_arrival(asked.reader) or end
    step_s = step_of(end - start, steps)
    found = asked.frame(*message_queries.message_rate(since=start, until=end, step_s=step_s, search=search))
    return found.assign(step_s=step_s, per_second=found["messages"] / step_s)
