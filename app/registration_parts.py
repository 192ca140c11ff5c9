"""The parts of the page of registrations: a table each, and what belongs to it."""

from __future__ import annotations

import math
from typing import Any, Final

import pandas as pd
import streamlit as st

from app import data, frame, look, registration_charts
from app.frame import Frame
from pipeline.api import registrations as api
from pipeline.store import refusal_queries

ROWS: Final = 50
_IP: Final = "reg_ip"  # in the URL
_MOST_CHANGES: Final = 500
_MOST_NAMES: Final = 12  # bars in a chart of names


def registered(seen: Frame) -> None:
    """Who is registered from where with what; at the end of the range."""
    text = _search("Account, address, device", "reg_who")
    counts = data.ask(api.binding_counts, text=text, at=seen.until)
    if counts.empty:
        look.empty("Nobody like that is registered.", "`Changes` also has who was, and left.")
        return
    found = int(counts["bindings"].iloc[0])
    table = data.ask(api.bindings, text=text, at=seen.until, limit=ROWS, offset=_page(found, "reg_page"))
    shown = pd.DataFrame(
        {
            "account": _accounts(table),
            "user_agent": table["user_agent"].map(_text),
            "address": _addresses(table),
            "transport": table["transport"],
            "refreshed_at": table["refreshed_at"],
            "left": table["left_s"].map(lambda seconds: look.length(seconds * 1000)),
            "expires": table["expires_s"].map(lambda seconds: look.length(seconds * 1000)),
            "contact": table["contact"].map(_text),
        }
    )
    columns = {
        **_COMMON,
        "refreshed_at": _time("Last REGISTER", seen),
        "left": st.column_config.TextColumn("Left", help="of the lifetime that it asked for"),
        "expires": st.column_config.TextColumn("Asked for"),
        "contact": st.column_config.TextColumn("Contact", width="large"),
    }
    _table(shown, columns, "reg_bindings_table", table["call_id"])
    st.caption(f"{look.number(found)} bindings, by account. A click opens the messages of its last REGISTER.")
    left, right = st.columns(2)
    for place, by, title in ((left, "user_agent", "By User-Agent"), (right, "transport", "By transport")):
        with place:
            st.subheader(title, anchor=False)
            named = data.ask(api.binding_counts, text=text, at=seen.until, by=by, limit=_MOST_NAMES)
            look.chart(
                registration_charts.by_name(named, "bindings", "bindings"),
                f"reg_by_{by}",
                f"Bindings {title.lower()}: "
                + ", ".join(
                    f"{look.printable(row.key)} {row.bindings}" for row in named.head(3).itertuples()
                ),
            )


def changes(seen: Frame) -> None:
    """Who came, refreshed, moved and left, newest first."""
    text = _search("Account, address, device", "reg_who")
    table = data.ask(api.registrations, text=text, **seen.range, limit=_MOST_CHANGES)
    if table.empty:
        look.empty("No change like that in this range.")
        return
    shown = pd.DataFrame(
        {
            "ts": table["ts"],
            "change": table["change"],
            "account": _accounts(table),
            "user_agent": table["user_agent"].map(_text),
            "address": _addresses(table),
            "transport": table["transport"],
            "expires": table["expires_s"].map(lambda seconds: look.length(seconds * 1000)),
            "contact": table["contact"].map(_text),
        }
    )
    columns = {
        **_COMMON,
        "ts": _time("Time", seen),
        "account": st.column_config.TextColumn("Account"),
        "change": st.column_config.TextColumn(
            "Change", help="registered: anew; moved: refreshed from another address or port"
        ),
        "expires": st.column_config.TextColumn("Asked for"),
        "contact": st.column_config.TextColumn("Contact", width="large"),
    }
    _table(shown, columns, "reg_changes_table", table["call_id"])
    st.caption(f"The newest {len(table)} changes, newest first. A click opens the messages of its REGISTER.")


def refused(seen: Frame, rate: pd.DataFrame) -> None:
    """Who was refused, over time and by source."""
    table = data.ask(api.registration_failures, **seen.range)
    if table.empty:
        look.empty(
            "No REGISTER was refused in this range.",
            "Challenges (401, 407) that phones answer rightly are part of every registration, and not counted.",
        )
        return
    look.chart(
        registration_charts.refusals(rate, seen.zone),
        "reg_refusals",
        f"Refused REGISTERs over time, {seen.words}; {look.number(rate['refused'].sum())} in all.",
    )
    st.caption(
        f"**scanner**: {refusal_queries.SCANNED_ACCOUNTS} accounts or more tried from one address, and hardly one let"
        f" in. **storm**: {refusal_queries.STORM_PER_MINUTE} or more in a minute. A click shows the accounts it tried."
    )
    columns = {**_REFUSALS, **_times(seen)}
    picked = _table(_refusals(table), columns, "reg_sources_table", None, hidden=("sources",))
    if picked is not None:
        st.query_params[_IP] = str(table["src_ip"].iloc[picked])
    if _IP in st.query_params:
        _tried(seen, st.query_params[_IP])


def _tried(seen: Frame, ip: str) -> None:
    """The accounts that one address tried; the address is part of the link."""
    with st.container(horizontal=True, vertical_alignment="center", key="reg_source"):
        st.subheader(f"Accounts tried from {look.plain(ip)}", anchor=False)
        st.button("Close", key="reg_close", on_click=st.query_params.pop, args=(_IP, None))
    tried = data.ask(api.registration_failures, by="account", ip=ip, **seen.range)
    columns = {**_REFUSALS, **_times(seen), "aor": st.column_config.TextColumn("Account", pinned=True)}
    hidden = ("kind", "accepted", "accounts", "sources")
    _table(_refusals(tried), columns, "reg_accounts_table", tried["call_id"], hidden=hidden)
    st.caption(f"The {len(tried)} most tried. A click opens the messages of the last try.")


def flaps(seen: Frame, table: pd.DataFrame) -> None:
    """Which phones come and go."""
    if table.empty:
        look.empty(
            "No phone flapped in this range.",
            "A phone is listed when it registered anew, or from another address, three times or more.",
        )
        return
    shown = pd.DataFrame(
        {
            "account": _accounts(table),
            "times": table["times"],
            "came_back": table["came_back"],
            "moved": table["moved"],
            "removed": table["removed"],
            "lapsed": table["lapsed"],
            "user_agent": table["user_agent"].map(_text),
            "address": _addresses(table),
            "first": table["first"],
            "last": table["last"],
            "phone": table["phone"].map(_text),
        }
    )
    columns = {
        **_COMMON,
        **_times(seen),
        "times": st.column_config.NumberColumn("Times", help="came back + moved"),
        "came_back": st.column_config.NumberColumn("Came back", help="registered anew"),
        "moved": st.column_config.NumberColumn("Moved", help="refreshed from another address or port"),
        "removed": st.column_config.NumberColumn("Un-registered"),
        "lapsed": st.column_config.NumberColumn("Lapsed", help="came back after its lifetime was over"),
        "phone": st.column_config.TextColumn("Phone", help="+sip.instance, else the User-Agent"),
    }
    _table(shown, columns, "reg_flaps_table", table["call_id"])
    st.caption(
        "The worst first. Moves at each refresh are a NAT that forgets: shorter refreshes or TCP help."
    )


def refreshes(seen: Frame) -> None:
    """How often phones refresh."""
    table = data.ask(api.refresh_intervals, **seen.range)
    table = table[table["refreshes"] > 0]
    if table.empty:
        look.empty(
            "No phone refreshed its binding in this range.", "Is the range longer than their lifetimes?"
        )
        return
    st.caption("p5 to p95 as a bar, p50 as a point; the red tick is the lifetime that was asked for.")
    look.chart(
        registration_charts.intervals(table.head(_MOST_NAMES)),
        "reg_intervals",
        "Seconds between refreshes by User-Agent: "
        + ", ".join(
            f"{look.printable(row.user_agent)} p50 {row.interval_s_p50:.0f} s"
            for row in table.head(3).itertuples()
        ),
    )
    shown = table.assign(user_agent=table["user_agent"].map(_text))
    seconds = {
        f"interval_s_{p}": st.column_config.NumberColumn(f"{p}, s", format="%.0f")
        for p in ("p5", "p50", "p95")
    }
    columns = {
        **_COMMON,
        **seconds,
        "devices": st.column_config.NumberColumn("Devices"),
        "refreshes": st.column_config.NumberColumn("Refreshes"),
        "per_minute": st.column_config.NumberColumn("Per minute", format="%.1f"),
        "expires_s_p50": st.column_config.NumberColumn("Asked for, s", format="%.0f"),
        "share_pct_p50": st.column_config.NumberColumn("Of it, %", format="%.0f", help="p50"),
        "lapsed": st.column_config.NumberColumn("Too late", help="refreshed after the lifetime was over"),
    }
    st.dataframe(shown, column_config=columns, hide_index=True, key="reg_intervals_table")


# -- what they share -------------------------------------------------------------------------------------

_COMMON: Final[dict[str, Any]] = {
    "account": st.column_config.TextColumn("Account", pinned=True),
    "user_agent": st.column_config.TextColumn("User-Agent", width="medium"),
    "address": st.column_config.TextColumn("Address"),
    "transport": st.column_config.TextColumn("Over", width="small"),
}
_REFUSALS: Final[dict[str, Any]] = {
    "src_ip": st.column_config.TextColumn("Source", pinned=True),
    "kind": st.column_config.TextColumn("Looks like"),
    "refused": st.column_config.NumberColumn("Refused"),
    "unauthorized": st.column_config.NumberColumn("401/407"),
    "forbidden": st.column_config.NumberColumn("403"),
    "not_found": st.column_config.NumberColumn("404"),
    "other": st.column_config.NumberColumn("Other"),
    "unanswered": st.column_config.NumberColumn("No reply"),
    "accepted": st.column_config.NumberColumn("Accepted", help="REGISTERs from there that were let in"),
    "accounts": st.column_config.NumberColumn("Accounts", help="tried"),
    "sources": st.column_config.NumberColumn("Sources"),
    "per_minute_max": st.column_config.NumberColumn("Busiest minute"),
    "user_agent": st.column_config.TextColumn("User-Agent", width="medium", help="the most frequent"),
}


def _table(
    shown: pd.DataFrame,
    columns: dict[str, Any],
    key: str,
    call_ids: pd.Series | None,
    hidden: tuple[str, ...] = (),
) -> int | None:
    """Show a table whose rows can be clicked: with `call_ids` that opens the Call page, else the row is returned."""
    event = look.table(
        shown,
        key,
        columns,
        column_order=[name for name in shown.columns if name not in hidden],
        on_select="rerun",
        selection_mode="single-cell",
    )
    row = look.clicked(event)
    if row is None or row >= len(shown):
        return None
    if call_ids is not None and not look.missing(call_ids.iloc[row]):
        frame.open_call(call_ids.iloc[row], "registrations")
    return row


def _search(label: str, key: str) -> str:
    return (
        st.text_input(label, key=key, bind="query-params", type="search", placeholder=label) or ""
    ).strip()


def _page(found: int, key: str) -> int:
    """The offset of the page that is chosen; a page that is no more is the last one."""
    pages = max(1, math.ceil(found / ROWS))
    if st.session_state.get(key, 1) > pages:
        st.session_state[key] = pages
    if pages == 1:
        return 0
    return (st.pagination(pages, key=key, bind="query-params") - 1) * ROWS


def _time(label: str, seen: Frame) -> Any:
    return st.column_config.DatetimeColumn(label, format="YYYY-MM-DD HH:mm:ss", timezone=seen.zone.key)


def _times(seen: Frame) -> dict[str, Any]:
    return {"first": _time("First", seen), "last": _time("Last", seen)}


def _accounts(table: pd.DataFrame) -> pd.Series:
    return table["aor"].str.removeprefix("sip:").map(_text)


def _addresses(table: pd.DataFrame) -> pd.Series:
    """`192.0.2.1:5060`, `[2001:db8::1]:5060`."""
    ip = table["src_ip"].map(lambda ip: f"[{ip}]" if ":" in str(ip) else str(ip))
    return ip + ":" + table["src_port"].astype(str)


def _refusals(table: pd.DataFrame) -> pd.DataFrame:
    names = [name for name in (*_REFUSALS, "aor", "first", "last") if name in table]
    shown = table[names].assign(user_agent=table["user_agent"].map(_text))
    if "aor" in shown:
        shown = shown.assign(aor=_accounts(table))
        return shown[["aor", *(name for name in names if name != "aor")]]
    return shown


def _text(value: Any) -> str:
    return look.MISSING if look.missing(value) else look.printable(value)
