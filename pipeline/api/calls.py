"""Calls: the searched list, one call with all that belongs to it, its messages, its ladder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, overload

from pipeline import callview
from pipeline.api.opened import Moment, Store, current, moment, to_frame
from pipeline.ladder import Ladder, build, to_text
from pipeline.store import call_queries
from pipeline.store.call_queries import Window
from pipeline.store.schema import arrow_schema

if TYPE_CHECKING:
    import altair as alt
    import duckdb
    import pandas as pd


@overload
def calls(
    search: str = "",
    *,
    since: Moment = None,
    until: Moment = None,
    sort: str = "-first_ts",
    limit: int | None = 100,
    offset: int = 0,
    relation: Literal[False] = False,
    store: Store | None = None,
) -> pd.DataFrame: ...


@overload
def calls(
    search: str = "",
    *,
    since: Moment = None,
    until: Moment = None,
    sort: str = "-first_ts",
    limit: int | None = 100,
    offset: int = 0,
    relation: Literal[True],
    store: Store | None = None,
) -> duckdb.DuckDBPyRelation: ...


def calls(
    search: str = "",
    *,
    since: Moment = None,
    until: Moment = None,
    sort: str = "-first_ts",
    limit: int | None = 100,
    offset: int = 0,
    relation: bool = False,
    store: Store | None = None,
) -> pd.DataFrame | duckdb.DuckDBPyRelation:
    """Calls that `search` finds among those that were on in [since, until), one row each.

    | column | |
    |---|---|
    | `first_ts`, `last_ts` | first message, last news (UTC) |
    | `call_id`, `node` | Call-ID, and the tap that saw it (of several the one that saw the most) |
    | `from`, `to` | user parts, the host where there is none; `from_display`, `from_host`, `to_host` |
    | `state` | answered, canceled, busy, declined, rejected, no_answer, refused, redirected, in_progress, unfinished |
    | `ghost` | a phone registered too late and rang for nothing |
    | `final_status`, `final_reason` | of the reply that ended the INVITE |
    | `srd_ms`, `pdd_ms`, `ring_ms`, `talk_ms` | delays as RFC 6076 has them; ring and talk times |
    | `codec`, `user_agent` | of the answer; of the caller |
    | `trunk`, `account` | of the CDR; without one the switch's endpoint of leg B |
    | `r_factor`, `mos`, `mos_method` | of the worst direction of any leg; how the MOS was made |
    | `grounded` | False: a codec without published impairment was rated by a stand-in |
    | `loss_pct`, `jitter_ms`, `rtt_ms` | the worst of all directions |
    | `media` | one_way, no_rtp (answered, and not one packet), or missing: nothing odd is known |
    | `messages`, `legs` | SIP messages; branches towards devices |
    | `src_ip`, `dst_ip` | the caller's side, and whom it sent the INVITE to |

    `sort` names a column, `-` before it turns the order round; what is not known comes last. `limit=None` is all.
    With `relation` a DuckDB relation is returned. Raises SearchError (see `pipeline.store.search`), StoreError.
    """
    asked = current(store)
    window = Window(moment(since), moment(until))
    sql, parameters = call_queries.calls(asked.reader, search, window, sort=sort, limit=limit, offset=offset)
    return asked.relation(sql, parameters) if relation else asked.frame(sql, parameters)


def count_calls(
    search: str = "", *, since: Moment = None, until: Moment = None, store: Store | None = None
) -> int:
    """How many calls `search` finds among those that were on in [since, until)."""
    question = call_queries.count(search, Window(moment(since), moment(until)))
    return int(current(store).frame(*question)["calls"].iloc[0])


def call_states(
    search: str = "", *, since: Moment = None, until: Moment = None, store: Store | None = None
) -> pd.DataFrame:
    """How many calls there are of each state: `state`, `calls`, the most frequent first."""
    return current(store).frame(*call_queries.states(search, Window(moment(since), moment(until))))


def call(call_id: str, *, store: Store | None = None) -> callview.CallView:
    """All that is known of one call; a part of the Call-ID that fits one call only will do. Raises StoreError."""
    return callview.view(current(store).reader, call_id)


def messages(call_id: str, *, store: Store | None = None) -> pd.DataFrame:
    """The SIP messages of a call in order of time, with the REGISTER that its findings go by: table `sip`.

    `payload` is bytes, with credentials replaced by stars. Raises StoreError when there is no such call.
    """
    import pyarrow as pa  # noqa: PLC0415  0.1 s that the command line can do without

    found = call(call_id, store=store).messages
    rows = [{**row, "payload": callview.hide_secrets(row["payload"])} for row in found]
    return to_frame(pa.Table.from_pylist(rows, schema=arrow_schema("sip")))


def ladder(call_id: str, *, store: Store | None = None) -> CallLadder:
    """The ladder of a call, findings and actions drawn in. Raises StoreError when there is no such call."""
    return CallLadder(call(call_id, store=store))


class CallLadder:
    """The ladder of one call: `print` it, show it in a notebook, or take its `chart()`."""

    def __init__(self, seen: callview.CallView) -> None:
        self.call = seen
        self.model: Ladder = build(seen.messages, seen.findings, seen.attempts)

    @property
    def text(self) -> str:
        """For a terminal or a ticket; times in seconds from the first message."""
        return to_text(self.model)

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text  # a notebook shows this

    def chart(self, **options: Any) -> alt.LayerChart:
        """The same as an Altair chart (see `pipeline.ladder_chart`); needs `hepduck[notebooks]` or `hepduck[app]`."""
        from pipeline.ladder_chart import chart  # noqa: PLC0415

        return chart(self.model, **options)
