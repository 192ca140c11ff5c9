"""Live: the newest messages as they arrive, and how many there are."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pandas as pd
import streamlit as st

from app import frame, health_parts, live_data, look
from pipeline.api import live as api
from pipeline.errors import SearchError
from pipeline.store.message_queries import MESSAGE_KEYS, SPAN, compile_message_search

EVERY_S: Final = 2
ROWS: Final = (50, 100, 200, 500)
_BEHIND: Final = timedelta(seconds=2)  # a message is stored by then
_STEPS: Final = 120  # of five seconds in ten minutes
_TABLE: Final = "live_table"
_RATES: Final = {
    "messages": ("Messages / min", "SIP messages on each hop, as mirrored."),
    "invites": ("INVITEs / min", "INVITE requests; one call has one for each hop and branch."),
    "registers": ("REGISTERs / min", "REGISTER requests."),
    "failures": ("Failures / min", "Final replies from 400 on, without challenges (401, 407)."),
}


def main() -> None:
    """One run of the page."""
    with st.container(horizontal=True, vertical_alignment="center", key="live_controls"):
        search = st.text_input(
            "Filter",
            key="live_q",
            bind="query-params",
            placeholder="method:REGISTER  code:4xx  ip:10.0.0.0/8  user:bob  callid:7f3a",
            icon=":material/filter_alt:",
            label_visibility="collapsed",
        )
        _syntax()
        rows = st.segmented_control(
            "Rows",
            ROWS,
            default=ROWS[1],
            required=True,
            key="live_rows",
            bind="query-params",
            label_visibility="collapsed",
        )
        paused = st.toggle("Pause", key="live_paused", bind="query-params")
    try:
        compile_message_search(search or "")
    except SearchError as error:
        st.error(f"{look.plain(error.why)}:")
        st.code(error.pointed(), language=None)
        return
    shown = st.fragment(_shown, run_every=None if paused else EVERY_S)
    shown(search or "", int(rows or ROWS[1]), _paused_at(paused))


def _paused_at(paused: bool) -> datetime | None:
    """When the tail was stopped, kept in the URL, so that a link shows what was seen; None while it runs."""
    if not paused:
        st.query_params.pop("live_at", None)
        return None
    try:
        return datetime.fromisoformat(st.query_params["live_at"]).astimezone(UTC)
    except (KeyError, ValueError):
        now = datetime.now(UTC)
        st.query_params["live_at"] = now.isoformat()
        return now


def _shown(search: str, rows: int, paused_at: datetime | None) -> None:
    """What moves: state, rates, messages."""
    _follow_click()
    zone = frame.get().zone
    status = live_data.tap_status()
    table = live_data.ask(api.tail, search=search, until=paused_at, limit=rows)
    newest = table["received_at"].iloc[0].to_pydatetime() if len(table) else None
    running = bool(status and status["alive"])
    _state(status, newest, paused_at, zone)
    end = paused_at or (datetime.now(UTC) if running else newest)
    if end is not None:
        until = _whole_steps(end, all_there=end == newest)
        _rates(live_data.ask(api.message_rate, search=search, since=until - SPAN, until=until, steps=_STEPS))
    if table.empty:
        _nothing(search, status)
        return
    _messages(table, zone)


def _state(
    status: dict[str, Any] | None, newest: datetime | None, paused_at: datetime | None, zone: Any
) -> None:
    with st.container(horizontal=True, vertical_alignment="center", key="live_state"):
        if paused_at is not None:
            st.badge("paused", icon=":material/pause:", color="orange")
            st.caption(f"As it was at {look.time(paused_at, zone)}; nothing is asked until you go on.")
            return
        if not status or not status["alive"]:
            st.badge("no tap is running", icon=":material/cloud_off:", color="red")
            last = look.time(newest, zone) if newest else "never"
            st.caption(f"`hepduck run` starts one. The newest message arrived: {last} ({zone.key}).")
            return
        heard_us = status["last_arrival_us"]
        silent = timedelta(microseconds=status["updated_us"] - heard_us) if heard_us else None
        where = ", ".join(look.plain(address) for address in status["listeners"])
        if silent is None or silent > health_parts.SILENT:
            how_long = look.length(silent / timedelta(milliseconds=1)) if silent else None
            st.badge("silence", icon=":material/hearing_disabled:", color="orange")
            st.caption(
                (f"No HEP received in {how_long}" if how_long else "No HEP received since the tap started")
                + f" on {where}. Is Kamailio's mirror on? `hepduck doctor`"
            )
            return
        st.badge("live", icon=":material/sensors:", color="green")
        last = look.time(newest, zone, "%H:%M:%S.%f") if newest else look.MISSING
        st.caption(f"Newest at {last}, {zone.key}; every {EVERY_S} s, a second behind the wire. On {where}.")


def _whole_steps(end: datetime, *, all_there: bool) -> datetime:
    """The end of the last step before `end` that is stored in full; of the one after it when nothing more comes."""
    step = SPAN / _STEPS
    past = (end - (timedelta(0) if all_there else _BEHIND)) - datetime(1970, 1, 1, tzinfo=UTC)
    return datetime(1970, 1, 1, tzinfo=UTC) + step * (past // step + all_there)


def _rates(rate: pd.DataFrame) -> None:
    steps_a_minute = 60 / int(rate["step_s"].iloc[0])
    minute = rate.tail(round(steps_a_minute))
    with st.grid(len(_RATES), min_column_width=150, key="live_rates"):
        for name, (label, told) in _RATES.items():
            st.metric(
                label,
                look.number(minute[name].sum()),
                help=f"{told} In the last minute; the line is the last ten.",
                border=True,
                chart_data=[float(count) * steps_a_minute for count in rate[name]],
                chart_type="area",
            )


def _messages(table: pd.DataFrame, zone: Any) -> None:
    """The newest on top; a click opens the messages of its Call-ID."""
    st.session_state["live_shown"] = list(table["call_id"])
    shown = pd.DataFrame(
        {
            "at": [look.time(at, zone, "%H:%M:%S.%f") for at in table["received_at"]],
            "message": [
                _message(*told) for told in table[["method", "status", "reason"]].itertuples(index=False)
            ],
            "hop": _end(table, "src") + "  →  " + _end(table, "dst"),
            "over": table["transport"],
            "from": _text(table["from_user"]),
            "to": _text(table["to_user"]),
            "call_id": _text(table["call_id"]),
            "user_agent": _text(table["user_agent"]),
        }
    )
    look.table(
        shown,
        _TABLE,
        {
            "at": st.column_config.TextColumn(f"Arrived ({zone.key})", width=150),
            "message": st.column_config.TextColumn("Message", width=190),
            "hop": st.column_config.TextColumn("Hop", width=300),
            "over": st.column_config.TextColumn("Over", width=55),
            "from": st.column_config.TextColumn("From", width=110),
            "to": st.column_config.TextColumn("To", width=110),
            "call_id": st.column_config.TextColumn("Call-ID", width=220),
            "user_agent": st.column_config.TextColumn("User-Agent", width=220),
        },
        height=560,
        on_select="rerun",
        selection_mode="single-cell",
        alt=f"The newest {len(table)} messages",
    )
    st.caption(
        f"The newest {len(table)} of the last {SPAN // timedelta(minutes=1)} minutes, newest first, whatever the range"
        " above. A click opens the message's call."
    )


def _follow_click() -> None:
    """A click means a row as it was when it was made: by now others have come."""
    selection = st.session_state.get(_TABLE, {}).get("selection", {})
    chosen = [*selection.get("rows", ()), *(row for row, _ in selection.get("cells", ()))]
    shown = st.session_state.get("live_shown", [])
    if chosen and chosen[0] < len(shown) and not look.missing(shown[chosen[0]]):
        frame.open_call(shown[chosen[0]], "live")


def _nothing(search: str, status: dict[str, Any] | None) -> None:
    if search:
        look.empty(
            "No message fits.",
            f"Only the last {SPAN // timedelta(minutes=1)} minutes before the newest message are looked at.",
            "Terms all hold at once: take one away. **Keys** beside the box tells what there is.",
        )
    else:
        where = ", ".join(look.plain(address) for address in status["listeners"]) if status else None
        look.empty(
            "No SIP message has arrived yet.",
            f"Does Kamailio's mirror point at {where}?"
            if where
            else "Does a tap run? `hepduck run` starts it.",
            "`hepduck doctor` looks at what arrives, and says what is wrong with the mirror.",
        )


def _syntax() -> None:
    with st.popover("Keys", icon=":material/help:", key="live_keys"):
        st.markdown(
            "As in the search of calls, put to single messages: "
            + ", ".join(f"`{key}`" for key in MESSAGE_KEYS)
            + ". `method:INVITE` finds requests and their replies, `code:4xx` replies only; `-` excludes, a comma"
            " means or, all terms hold at once. A text without a key is looked for in users, Call-ID and User-Agent."
        )


def _message(method: Any, status: Any, reason: Any) -> str:
    """`REGISTER`, `401 Unauthorized (REGISTER)`."""
    if look.missing(status):
        return look.printable(method)
    told = "" if look.missing(reason) else f" {look.printable(reason)}"
    return f"{status}{told} ({look.printable(method)})"


def _end(table: pd.DataFrame, end: str) -> pd.Series:
    ip = table[f"{end}_ip"].map(lambda ip: f"[{ip}]" if ":" in str(ip) else str(ip))
    return ip + ":" + table[f"{end}_port"].astype(str)


def _text(column: pd.Series) -> pd.Series:
    return column.map(lambda text: look.MISSING if look.missing(text) else look.printable(text))


main()
