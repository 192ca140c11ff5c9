"""Registrations: who is registered from where with what, what changed, who comes and goes, who was refused.

`pipeline.store.registration_queries` says what a binding is, `refusal_queries` what a refusal is.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from pipeline.api.opened import Moment, Store, current, moment
from pipeline.durations import step_of
from pipeline.store import refusal_queries, registration_queries

if TYPE_CHECKING:
    import pandas as pd

    from pipeline.store.queries import Source


def bindings(
    text: str = "",
    *,
    at: Moment = None,
    account: str | None = None,
    limit: int = 100,
    offset: int = 0,
    store: Store | None = None,
) -> pd.DataFrame:
    """Who is registered at that time (without one: now): a row for each device of each account, by account.

    | column | |
    |---|---|
    | `aor`, `device` | the account (`sip:bob@sip.test`); its +sip.instance, else where it sends from |
    | `user_agent`, `contact`, `instance` | as the device sent them |
    | `src_ip`, `src_port`, `transport` | where the device sends from |
    | `refreshed_at`, `expires_s`, `left_s` | its last REGISTER, the lifetime that asked for, what is left of it |
    | `call_id`, `node` | of that REGISTER; the tap that saw it |

    `text` is looked for, whatever the case, in account, device, address, contact and User-Agent.
    """
    asked = current(store)
    question = registration_queries.bindings(
        asked.reader, at=moment(at), account=account, text=text or None, limit=limit, offset=offset
    )
    return asked.frame(*question)


def binding_counts(
    text: str = "",
    *,
    at: Moment = None,
    by: str | None = None,
    limit: int = 100,
    store: Store | None = None,
) -> pd.DataFrame:
    """How many are registered at that time: `key`, `bindings`, `accounts`, `addresses`.

    `by`: user_agent, transport, address or account, the most frequent first; without it one row, or none when nobody
    is registered. Raises StoreError for another `by`.
    """
    asked = current(store)
    question = registration_queries.binding_counts(
        asked.reader, at=moment(at), by=by, text=text or None, limit=limit
    )
    return asked.frame(*question)


def registrations(
    text: str = "",
    *,
    since: Moment = None,
    until: Moment = None,
    account: str | None = None,
    limit: int = 100,
    offset: int = 0,
    store: Store | None = None,
) -> pd.DataFrame:
    """Changes of bindings in [since, until), newest first.

    `ts`, `aor`, `device`, `change` (registered: anew; refreshed; moved: refreshed from another address; removed), and
    the other columns of `bindings` but for `refreshed_at` and `left_s`.
    """
    asked = current(store)
    question = registration_queries.changes(
        asked.reader,
        since=moment(since),
        until=moment(until),
        account=account,
        text=text or None,
        limit=limit,
        offset=offset,
    )
    return asked.frame(*question)


def registration_rate(
    *,
    since: Moment = None,
    until: Moment = None,
    account: str | None = None,
    steps: int = 200,
    store: Store | None = None,
) -> pd.DataFrame:
    """Over time, in at most about `steps` steps: `at` (the step's start), `bindings` (registered at its end), and how
    many `registered` anew, `refreshed`, `moved`, were `removed`, `expired` within it."""
    asked = current(store)
    start, end = _window(asked.reader, since, until)
    step_s = step_of(end - start, steps)
    return asked.frame(
        *registration_queries.by_step(asked.reader, since=start, until=end, step_s=step_s, account=account)
    )


def flaps(
    *,
    since: Moment = None,
    until: Moment = None,
    at_least: int = registration_queries.FLAPS,
    limit: int = 100,
    store: Store | None = None,
) -> pd.DataFrame:
    """Phones that came back, or came from elsewhere, at least so often in [since, until), the worst first.

    | column | |
    |---|---|
    | `aor`, `phone`, `user_agent` | the account; +sip.instance, else the User-Agent |
    | `times`, `per_hour` | `came_back` + `moved`; that, by the time between first and last |
    | `came_back` | registered anew after a removal or an expiry, or with a new contact |
    | `moved` | refreshed from another address or port |
    | `removed`, `lapsed` | un-registered; registered again only after the lifetime was over |
    | `addresses`, `first`, `last` | IP addresses; first and last change |
    | `src_ip`, `src_port`, `transport`, `call_id` | of the last REGISTER |
    """
    asked = current(store)
    question = registration_queries.flaps(
        asked.reader, since=moment(since), until=moment(until), at_least=at_least, limit=limit
    )
    return asked.frame(*question)


def refresh_intervals(
    *, since: Moment = None, until: Moment = None, limit: int = 100, store: Store | None = None
) -> pd.DataFrame:
    """How often phones refresh, by User-Agent, the most refreshes first.

    `user_agent`, `devices`, `refreshes`, `per_minute`, seconds between two as `interval_s_p5`, `_p50`, `_p95`,
    `expires_s_p50` (asked for), `share_pct_p50` (of the lifetime, when the refresh came), `lapsed` (came too late).
    """
    asked = current(store)
    question = registration_queries.refresh_intervals(
        asked.reader, since=moment(since), until=moment(until), limit=limit
    )
    return asked.frame(*question)


def registration_failures(
    *,
    by: str = "source",
    ip: str | None = None,
    since: Moment = None,
    until: Moment = None,
    limit: int = 100,
    store: Store | None = None,
) -> pd.DataFrame:
    """REGISTERs that were refused in [since, until), by source or by account, the most first; from `ip` only, if given.

    A challenge that the phone then answered rightly is no failure.

    | column | |
    |---|---|
    | `src_ip` or `aor`, `kind` | source address or account; of a source: scanner, storm, or refused |
    | `refused` | how many: `unauthorized` (401, 407), `forbidden` (403), `not_found` (404), `other`, `unanswered` |
    | `accounts`, `sources`, `tried` | how many; up to five of the accounts |
    | `user_agent`, `user_agents` | the most frequent; how many |
    | `per_minute_max`, `first`, `last` | of the busiest minute; times |
    | `accepted` | REGISTERs that the same source got accepted |
    | `call_id` | of the last one |
    """
    asked = current(store)
    question = refusal_queries.refusals(
        asked.reader, by=by, ip=ip, since=moment(since), until=moment(until), limit=limit
    )
    return asked.frame(*question)


def registration_failure_rate(
    *, since: Moment = None, until: Moment = None, steps: int = 200, store: Store | None = None
) -> pd.DataFrame:
    """Refused REGISTERs over time: `at` (the step's start), `refused`, of these `unauthorized`, `forbidden`,
    `not_found`, `other`, `unanswered`, and from how many `sources`."""
    asked = current(store)
    start, end = moment(since) or refusal_queries.first_message(asked.reader), moment(until)
    end = end or datetime.now(UTC)
    start = min(start or end, end)
    step_s = step_of(end - start, steps)
    return asked.frame(*refusal_queries.refusals_by_step(asked.reader, since=start, until=end, step_s=step_s))


def _window(source: Source, since: Moment, until: Moment) -> tuple[datetime, datetime]:
    """The bounds, else those of what is known."""
    start, end = moment(since), moment(until)
    known = registration_queries.span(source) if start is None or end is None else None
    end = end or datetime.now(UTC)
    return start or (known[0] if known and known[0] < end else end), end
