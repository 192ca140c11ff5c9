"""Registrations: who is registered from where with what, what changed, who was refused."""

from __future__ import annotations

from typing import Final

import pandas as pd
import streamlit as st

from app import data, frame, look, registration_charts, registration_parts
from app.frame import Frame
from pipeline.api import registrations as api

PARTS: Final = ("Registered", "Changes", "Refused", "Flapping", "Refreshes")


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
            registration_parts.changes(seen)
        case "Refused":
            registration_parts.refused(seen, refused)
        case "Flapping":
            registration_parts.flaps(seen, flapping)
        case "Refreshes":
            registration_parts.refreshes(seen)
        case _:
            registration_parts.registered(seen)


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


main()
