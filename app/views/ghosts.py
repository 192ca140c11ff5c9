"""Ghost calls: what was found, as it is found; what was done about it; how long woken phones take to register."""

from __future__ import annotations

import time
from typing import Final, Literal

import pandas as pd
import streamlit as st

from app import data, frame, ghost_charts, ghost_tables, look
from app.config import settings
from app.frame import Frame
from pipeline.api import delays as delays_api
from pipeline.api import findings as api
from pipeline.api.opened import Moment, Store
from pipeline.errors import HepduckError

_LIVE_S: Final = 2
_ROWS: Final = 50


def main() -> None:
    """One run of the page."""
    seen = frame.get()
    _armed(seen)
    with st.container(key="ghosts_live"):
        _live()
    _over_time(seen)
    _delays(seen)
    _other_windows(seen)
    _attempts(seen)
    _others(seen)


# -- what may act ------------------------------------------------------------------------------------------


def _armed(seen: Frame) -> None:
    """Dry run or armed, in words, above all else."""
    states: pd.DataFrame = data.ask(_action_states)
    started = states[~states["words"].str.contains("No rule starts it")]
    armed = started[started["state"].isin({"ARMED", "halted"})]
    source = started["from"].iloc[0] if len(started) else "this configuration"
    source = source if source.startswith("this") else f"the {source}"
    names = ", ".join(f"`{look.plain(name)}`" for name in armed["action"])
    if (armed["state"] == "halted").any():
        st.error(f"**Halted.** {names} would act, but the kill switch is on.", icon=":material/front_hand:")
    elif len(armed):
        st.warning(f"**Armed.** {names} acts on every ghost call, within the brakes.", icon=":material/bolt:")
    else:
        st.info(
            "**Dry run.** Nothing is sent to any phone: what would be done is only noted.",
            icon=":material/visibility:",
        )
    with st.expander(f"Every action, as {source} has it", key="ghosts_actions"):
        counts: pd.DataFrame = data.ask(api.action_counts, **seen.range)
        st.dataframe(
            ghost_tables.actions(states, counts), hide_index=True, key="ghosts_action_table", height="content"
        )
        held = counts.dropna(subset=["brake"])
        if len(held):
            st.markdown("Held by a brake:")
            st.dataframe(
                ghost_tables.brakes(held, seen.zone), hide_index=True, key="ghosts_brakes", height="content"
            )
        else:
            st.caption("No brake has held anything back in this time.")


def _action_states(*, store: Store) -> pd.DataFrame:
    return api.action_states(store=store, settings=settings())


# -- what is found, live -----------------------------------------------------------------------------------


def _newest(*, since: Moment, until: Moment, limit: int, moment: int, store: Store) -> pd.DataFrame:  # noqa: ARG001
    """`moment` makes each question another one: a kept answer would be an old one. The same below."""
    return api.findings(since=since, until=until, kind=api.GHOSTS, limit=limit, store=store)


def _totals(*, since: Moment, until: Moment, moment: int, store: Store) -> pd.DataFrame:  # noqa: ARG001
    return api.finding_totals(since=since, until=until, kind=api.GHOSTS, store=store)


@st.fragment(run_every=_LIVE_S)
def _live() -> None:
    """The newest first; asked again every other second while the page is open."""
    seen = frame.get()
    now = int(time.time() / _LIVE_S)
    found: pd.DataFrame = data.ask(_newest, **seen.range, limit=_ROWS, moment=now)
    totals: pd.DataFrame = data.ask(_totals, **seen.range, moment=now)
    if found.empty:
        look.empty(
            f"No ghost call in this time ({look.plain(seen.words)}).",
            "Good news, if REGISTERs and calls come in: see **Registrations** and **Live**.",
            "Does the mirror bring the phones' REGISTERs and the calls to them? Both are needed: `hepduck doctor`.",
            "Do the phones count as woken by a push? `hepduck detectors` shows `devices` of `late_register`.",
        )
        return
    _figures(found, totals, seen)
    ids = list(found["call_id"])
    before = st.session_state.get("ghosts_shown", ids)  # what the reader saw when the click was made
    st.session_state["ghosts_shown"] = ids
    event = look.table(
        ghost_tables.findings(found, seen.zone),
        "ghosts_table",
        ghost_tables.FINDING_COLUMNS,
        height=_height(found),
        on_select="rerun",
        selection_mode="single-cell",
        alt=f"{len(ids)} ghost calls, the newest first",
    )
    every = int(totals["findings"].iloc[0])
    newest = f"The newest {_ROWS} of {every:,}. " if every > len(found) else ""
    st.caption(f"{newest}Looks for new ones every {_LIVE_S} s. A click opens the call.")
    row = look.clicked(event)
    if row is not None and row < len(before):
        frame.open_call(before[row], "ghosts")


def _figures(found: pd.DataFrame, totals: pd.DataFrame, seen: Frame) -> None:
    every, by_outcome = totals.iloc[0], totals.iloc[1:]
    ends = ", ".join(
        f"{look.number(count)} {ghost_charts.outcome_words(outcome)}"
        for outcome, count in zip(by_outcome["outcome"], by_outcome["findings"], strict=True)
    )
    last = found["ts"].iloc[0]
    cells = {
        "Ghost calls": (look.number(every["findings"]), ends),
        "Phones": (look.number(every["phones"]), f"in {look.number(every['calls'])} calls"),
        "How late, p50": (look.length(every["late_ms_p50"]), f"p95 {look.length(every['late_ms_p95'])}"),
        "The last one": (look.time(last, seen.zone, "%H:%M:%S"), look.time(last, seen.zone, "%a %d %b %Y")),
    }
    with st.grid(4, min_column_width=150, key="ghosts_figures"):
        for name, (value, beside) in cells.items():
            st.metric(name, value, look.plain(beside), delta_color="off", delta_arrow="off", border=True)


# -- over time, delays, windows ----------------------------------------------------------------------------


def _over_time(seen: Frame) -> None:
    table: pd.DataFrame = data.ask(api.findings_over_time, **seen.range, kind=api.GHOSTS, zone=seen.zone.key)
    if table.empty:
        return
    st.subheader("Over time", anchor=False)
    look.chart(
        ghost_charts.rate(table, seen.zone),
        "ghosts_rate",
        f"{table['findings'].sum()} ghost calls, {seen.words}.",
    )


def _delays(seen: Frame) -> None:
    with st.spinner("Measuring how long phones take ...", show_time=True):
        table: pd.DataFrame = data.ask(_register_delays, **seen.range)
    phones = int(table["phones"].sum())
    st.subheader("How long woken phones take", anchor=False)
    if not phones:
        st.caption("No phone that a push wakes registered within a minute after a call to it began.")
        return
    rule = delays_api.ghost_rule(settings())
    window_s = rule.window_s if rule else None
    look.chart(
        ghost_charts.delays(table, window_s),
        "ghosts_delays",
        f"From INVITE to REGISTER of {phones} phones"
        + (f"; the window is {window_s:g} s." if window_s is not None else "."),
    )
    told = "From the call's INVITE, with which the proxy sends the push, to the phone's REGISTER."
    if window_s is not None:
        within = int(table.loc[table["high_s"] <= window_s, "phones"].sum())
        share = look.number(100 * within / phones, 1, "%")
        told += (
            f" {share} of {phones:,} came within {window_s:g} s: so many would be found even if the caller had hung "
            "up at once."
        )
    st.caption(told)


def _register_delays(*, since: Moment, until: Moment, store: Store) -> pd.DataFrame:
    return delays_api.register_delays(since=since, until=until, settings=settings(), store=store)


def _other_windows(seen: Frame) -> None:
    st.subheader(
        "What another window would have found",
        help="The stored messages of all calls that may be concerned are run through the detector again, with its "
        "other settings as they are. A longer window finds more, and calls phones that have stopped ringing.",
        anchor=False,
    )
    if not st.toggle("Replay the stored messages", key="what_if", bind="query-params"):
        st.caption("Takes some seconds in a busy time.")
        return
    try:
        with st.spinner("Replaying ...", show_time=True):
            table: pd.DataFrame = data.ask(_windows, **seen.range)
    except HepduckError as error:
        look.empty(
            "This time is too much to replay.",
            look.plain(error),
            "Choose a shorter range above: an hour will do to compare windows.",
        )
        return
    rule = delays_api.ghost_rule(settings())
    if not table["found"].any():
        st.caption("No window finds a ghost call in this time.")
        return
    look.chart(
        ghost_charts.other_windows(table, rule.window_s if rule else None),
        "ghosts_windows",
        "; ".join(f"{w:g} s: {n}" for w, n in zip(table["window_s"], table["found"], strict=True)),
    )


def _windows(*, since: Moment, until: Moment, store: Store) -> pd.DataFrame:
    rule = delays_api.ghost_rule(settings())
    mine = {rule.window_s} if rule else set()
    return delays_api.other_windows(
        sorted({*map(float, delays_api.WINDOWS_S), *mine}),
        since=since,
        until=until,
        settings=settings(),
        most=delays_api.MOST_REPLAYED,
        store=store,
    )


# -- what was done -----------------------------------------------------------------------------------------


def _attempts(seen: Frame) -> None:
    with st.expander("Every attempt, with what the phone answered", key="ghosts_attempts"):
        table: pd.DataFrame = data.ask(api.actions, **seen.range, limit=_ROWS)
        if table.empty:
            st.caption("No action was started in this time.")
        else:
            look.table(
                ghost_tables.attempts(table, seen.zone), "ghosts_attempt_table", {}, height=_height(table)
            )


# -- what other detectors found ----------------------------------------------------------------------------


def _others(seen: Frame) -> None:
    """Floods, scans, fraud, silence: nothing acts on them but what a rule says."""
    st.subheader("Other findings", anchor=False)
    found: pd.DataFrame = data.ask(api.findings, **seen.range, other_than=api.GHOSTS, limit=_ROWS)
    if found.empty:
        st.caption("None in this time. `hepduck detectors` shows what is looked for.")
        return
    event = look.table(
        ghost_tables.others(found, seen.zone, hide_facts=settings().app.mask_numbers),
        "ghosts_others",
        ghost_tables.OTHER_COLUMNS,
        height=_height(found),
        on_select="rerun",
        selection_mode="single-cell",
        alt=f"{len(found)} findings of other kinds, the newest first",
    )
    newest = f"The newest {_ROWS}. " if len(found) == _ROWS else ""
    st.caption(f"{newest}A click opens the call, where there is one.")
    row = look.clicked(event)
    if row is not None and row < len(found) and not look.missing(call_id := found["call_id"].iloc[row]):
        frame.open_call(call_id, "ghosts")


def _height(table: pd.DataFrame) -> int | Literal["content"]:
    return "content" if len(table) <= 12 else 420


main()
