"""Registrations: who is registered from where with what, what changed, who was refused."""

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
PARTS: Final = ("Registered", "Changes", "Refused", "Flapping", "Refreshes")
_MOST_NAMES: Final = 12  # bars in a chart of names


def main() -> None:
    """One run of the page."""
    seen = frame.get()
    with st.spinner("Counting registrations", show_time=True):
        rate = data.ask(api.registration_rate, **seen.range)
        refused = data.ask(api.registration_failure_rate, **seen.range)
        flapping = data.ask(api.flaps, **seen.range)
        counts = data.ask(api.binding_counts, at=seen.until)
    if counts.empty and not rate.drop(columns="at").to_numpy().any() and not refused["refused"].any():
        _nothing(seen)
        return
    _figures(seen, counts, refused, flapping)
    _charts(seen, rate)
    part = st.segmented_control(
        "Part",
        PARTS,
        default=PARTS[0],
        required=True,
        key="reg_part",
        bind="query-params",
        label_visibility="collapsed",
    )
    match part:
        case "Changes":
            _changes(seen)
        case "Refused":
            _refused(seen, refused)
        case "Flapping":
            _flaps(seen, flapping)
        case "Refreshes":
            _refreshes(seen)
        case _:
            _registered(seen)


def _nothing(seen: Frame) -> None:
    look.empty(
        f"No REGISTER in this range ({look.plain(seen.words)}).",
        "Is the range long enough? Phones refresh every few minutes to every hour.",
        "Does the mirror bring REGISTERs? **Live** with `method:REGISTER` shows them as they come.",
        "Does the proxy that phones register with mirror at all? `hepduck doctor` looks at what arrives.",
    )


def _figures(seen: Frame, counts: pd.DataFrame, refused: pd.DataFrame, flapping: pd.DataFrame) -> None:
    now = counts.iloc[0] if len(counts) else {"bindings": 0, "accounts": 0, "addresses": 0}
    with st.grid(4, min_column_width=140, key="reg_figures"):
        st.metric(
            "Registered now" if seen.until is None else "Registered at the end",
            look.number(now["bindings"]),
            help="Bindings: devices of accounts, by accepted REGISTERs and the lifetime that they asked for.",
            border=True,
        )
        st.metric(
            "Accounts",
            look.number(now["accounts"]),
            help=f"From {look.number(now['addresses'])} addresses.",
            border=True,
        )
        st.metric(
            "REGISTERs refused",
            look.number(refused["refused"].sum()),
            help="In the range; a challenge that the phone then answered rightly is none.",
            border=True,
        )
        st.metric(
            "Flapping phones",
            look.number(len(flapping)),
            help="Registered anew, or from another address, three times or more in the range.",
            border=True,
        )


def _charts(seen: Frame, rate: pd.DataFrame) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("Registered over time", anchor=False)
        last = look.number(rate["bindings"].iloc[-1]) if len(rate) else "0"
        look.chart(
            registration_charts.registered(rate, seen.zone),
            "reg_bindings",
            f"Bindings over time, {seen.words}; {last} at the end.",
        )
    with right:
        st.subheader("Changes", help="Refreshes from the same address are left out.", anchor=False)
        total = {name: look.number(rate[name].sum()) for name in registration_charts.CHANGES}
        told = ", ".join(f"{count} {name}" for name, count in total.items())
        if any(rate[name].any() for name in registration_charts.CHANGES):
            look.chart(
                registration_charts.changes(rate, seen.zone),
                "reg_changes",
                f"Changes over time, {seen.words}: {told}.",
            )
        else:
            st.caption("Nobody came, moved or left in this range.")


# -- the parts -------------------------------------------------------------------------------------------


def _registered(seen: Frame) -> None:
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
            "user_agent": table["user_agent"].map(look.printable),
            "address": _addresses(table),
            "transport": table["transport"],
            "refreshed_at": table["refreshed_at"],
            "left": table["left_s"].map(lambda seconds: look.length(seconds * 1000)),
            "expires": table["expires_s"].map(lambda seconds: look.length(seconds * 1000)),
            "contact": table["contact"].map(look.printable),
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
    st.caption(f"{look.number(found)} bindings, by account. A row opens the messages of its last REGISTER.")
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


def _changes(seen: Frame) -> None:
    text = _search("Account, address, device", "reg_who")
    table = data.ask(api.registrations, text=text, **seen.range, limit=ROWS * 10)
    if table.empty:
        look.empty("No change like that in this range.")
        return
    shown = pd.DataFrame(
        {
            "ts": table["ts"],
            "change": table["change"],
            "account": _accounts(table),
            "user_agent": table["user_agent"].map(look.printable),
            "address": _addresses(table),
            "transport": table["transport"],
            "expires": table["expires_s"].map(lambda seconds: look.length(seconds * 1000)),
            "contact": table["contact"].map(look.printable),
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
    st.caption(f"The newest {len(table)} changes, newest first. A row opens the messages of its REGISTER.")


def _refused(seen: Frame, rate: pd.DataFrame) -> None:
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
        f" in. **storm**: {refusal_queries.STORM_PER_MINUTE} or more in a minute. A row shows the accounts it tried."
    )
    picked = _table(
        _refusals(table), {**_REFUSALS, **_times(seen)}, "reg_sources_table", None, hidden=("sources",)
    )
    if picked is None:
        return
    ip = str(table["key"].iloc[picked])
    st.subheader(f"Accounts tried from {look.plain(ip)}", anchor=False)
    tried = data.ask(api.registration_failures, by="account", ip=ip, **seen.range)
    _table(
        _refusals(tried),
        {**_REFUSALS, **_times(seen), "key": st.column_config.TextColumn("Account", pinned=True)},
        "reg_accounts_table",
        tried["call_id"],
        hidden=("kind", "accepted", "accounts", "sources"),
    )
    st.caption(f"The {len(tried)} most tried. A row opens the messages of the last try.")


def _flaps(seen: Frame, table: pd.DataFrame) -> None:
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
            "user_agent": table["user_agent"].map(look.printable),
            "address": _addresses(table),
            "first": table["first"],
            "last": table["last"],
            "phone": table["phone"].map(look.printable),
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


def _refreshes(seen: Frame) -> None:
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
    shown = table.assign(user_agent=table["user_agent"].map(look.printable))
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
    "key": st.column_config.TextColumn("Source", pinned=True),
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
    """Show a table whose rows can be picked: with `call_ids` that opens the Call page, else the row is returned."""
    event = st.dataframe(
        shown,
        column_config=columns,
        column_order=[name for name in shown.columns if name not in hidden],
        hide_index=True,
        on_select="rerun",
        selection_mode="single-row",
        key=key,
    )
    rows = [row for row in event.selection.rows if row < len(shown)]
    if not rows:
        return None
    if call_ids is not None and not look.missing(call_ids.iloc[rows[0]]):
        st.switch_page("views/call.py", query_params=frame.query(call_id=str(call_ids.iloc[rows[0]])))
    return int(rows[0])


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
    return table["aor"].str.removeprefix("sip:").map(look.printable)


def _addresses(table: pd.DataFrame) -> pd.Series:
    """`192.0.2.1:5060`, `[2001:db8::1]:5060`."""
    ip = table["src_ip"].map(lambda ip: f"[{ip}]" if ":" in str(ip) else str(ip))
    return ip + ":" + table["src_port"].astype(str)


def _refusals(table: pd.DataFrame) -> pd.DataFrame:
    names = [*_REFUSALS, "first", "last"]
    return table.assign(
        key=table["key"].map(look.printable), user_agent=table["user_agent"].map(look.printable)
    )[names]


main()
