"""Calls: one search, one table that the store sorts and pages, one click to a call."""

from __future__ import annotations

import math
from typing import Final

import pandas as pd
import streamlit as st

from app import calls_table, data, frame, look, search_help
from pipeline.api import calls as api
from pipeline.api import live
from pipeline.errors import SearchError

# Pills, and the state of the search that each stands for; several mean any of them.
PRESETS: Final = {
    "failed": "failed",
    "cancelled": "canceled",
    "ghost": "ghost",
    "one-way": "one_way",
    "no RTP": "no_rtp",
    "poor quality": "poor",
}
_NEWEST: Final = "-first_ts"
_TABLE: Final = "calls_table"


def main() -> None:
    """The search, and what it finds."""
    search, sort, seen = _search(), _sort(), frame.get()
    try:
        with st.spinner("Searching ..."):
            found = int(data.ask(api.count_calls, search=search, **seen.range))
            if not found:
                _nothing(search, seen)
                return
            page = _page(math.ceil(found / calls_table.PAGE_ROWS))
            first = (page - 1) * calls_table.PAGE_ROWS
            calls: pd.DataFrame = data.ask(
                api.calls, search=search, sort=sort, limit=calls_table.PAGE_ROWS, offset=first, **seen.range
            )
    except SearchError as error:
        st.error(f"{look.plain(error.why)}:")
        st.code(error.pointed(), language=None)
        return
    with st.container(horizontal=True, vertical_alignment="center", key="calls_found"):
        st.caption(f"**{found:,}** call{'s' * (found > 1)} · {seen.words}")
        _export(search, sort, seen, found)
    _table(calls, sort, seen)
    st.pagination(math.ceil(found / calls_table.PAGE_ROWS), key="page", bind="query-params")


def _search() -> str:
    """The search box, and the pills beside it, as one search."""
    with st.container(horizontal=True, vertical_alignment="center", key="calls_search"):
        typed = st.text_input(
            "Search calls",
            key="q",
            bind="query-params",
            placeholder=search_help.PLACEHOLDER,
            icon=":material/search:",
            label_visibility="collapsed",
            on_change=_first_page,
        )
        search_help.popover()
    pressed = st.pills(
        "Only calls that are",
        list(PRESETS),
        selection_mode="multi",
        key="only",
        bind="query-params",
        label_visibility="collapsed",
        on_change=_first_page,
    )
    wanted = ",".join(PRESETS[name] for name in pressed)
    return f"{typed or ''} state:{wanted}".strip() if wanted else (typed or "").strip()


def _first_page() -> None:
    st.session_state["page"] = 1


def _sort() -> str:
    """`-pdd_ms`: what the table is sorted by, as the URL has it."""
    asked = st.query_params.get("sort", _NEWEST)
    return asked if asked.removeprefix("-") in calls_table.SORTABLE else _NEWEST


def _page(pages: int) -> int:
    """The page that the control at the foot will show: there may be fewer pages than a moment ago."""
    asked = st.session_state.get("page", st.query_params.get("page", "1"))
    page = min(max(int(asked), 1), pages) if str(asked).isdigit() else 1
    if st.session_state.get("page", page) != page:
        st.session_state["page"] = page
    return page


def _table(calls: pd.DataFrame, sort: str, seen: frame.Frame) -> None:
    """The page; a click on a row opens its call, one on a heading sorts by it."""
    ids = list(calls["call_id"])
    shown = st.session_state.get("calls_shown", ids)  # what the reader saw when the click was made
    st.session_state["calls_shown"] = ids
    event = look.table(
        calls_table.written(calls, seen.zone),
        _TABLE,
        calls_table.columns(sort),
        height="content",
        on_select=_clicked,
        selection_mode=["single-cell", "single-column"],
        alt=f"{len(ids)} calls",
    )
    row = look.clicked(event)
    if row is not None and row < len(shown):
        frame.open_call(shown[row], "calls")


def _clicked() -> None:
    """A heading was clicked: sort by it, the other way round when that is so already."""
    selection = st.session_state[_TABLE]["selection"]
    if selection.get("rows") or selection.get("cells"):
        return
    before = _sort()
    column = next(iter(selection.get("columns", ())), before.removeprefix("-"))
    if column in calls_table.SORTABLE:
        st.query_params["sort"] = column if before == f"-{column}" else f"-{column}"
        _first_page()


def _export(search: str, sort: str, seen: frame.Frame, found: int) -> None:
    """The whole result, not the page."""
    store, most = data.store(), calls_table.MOST_EXPORTED
    st.download_button(
        "CSV" if found <= most else f"CSV of the first {most:,}",
        data=lambda: calls_table.as_csv(store, search, seen.range, sort, seen.zone),
        file_name=f"calls-{seen.zone.key.replace('/', '_')}.csv",
        mime="text/csv",
        icon=":material/download:",
        on_click="ignore",
        key="export_csv",
    )


def _nothing(search: str, seen: frame.Frame) -> None:
    """No call: why that may be, and what to check."""
    if search:
        look.empty(
            "No call fits.",
            f"Searched: {look.plain(seen.words)}. Is the range wide enough?",
            "Terms all hold at once: take one away. **Syntax** beside the box tells what there is.",
        )
    else:
        newest: pd.DataFrame = data.ask(live.tail, limit=1)
        last = look.time(newest["received_at"].iloc[0], seen.zone) if len(newest) else None
        look.empty(
            f"No calls in this time ({look.plain(seen.words)}).",
            f"The newest message arrived at {last}." if last else "No message has ever arrived.",
            "Is the tap running? `hepduck status` tells, and the page **Health**.",
            "Does Kamailio mirror to it? `hepduck doctor` finds what is wrong with the mirror.",
        )
    if seen.range != {"since": None, "until": None}:
        st.button("Look at all times", on_click=_all_times, key="all_times")


def _all_times() -> None:
    st.session_state["range"] = frame.ALL


main()
