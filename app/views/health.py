"""Health: whether the numbers add up, who sends, what is wrong, how the store and the tap's jobs fare."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import streamlit as st

from app import data, frame, health_charts, health_parts, live_data, look
from app.frame import Frame
from pipeline.api import health as api

EVERY_S: Final = 2
_MS: Final = timedelta(milliseconds=1)
_SIGNS: Final = {"received": "Received", "stored": "= stored", "rejected": "+ rejected"} | {
    "shed": "+ shed",
    "kernel_dropped": "+ kernel dropped",
    "queued": "+ queued",
}
_FATE_HELP: Final = {
    "received": "Messages that reached the tap since it started; a datagram may hold several.",
    "stored": "Committed and on disk; what could not be decoded is stored too, as weird.",
    "rejected": "Turned away: not allowed to speak, or a wrong key.",
    "shed": "Let go of when hepduck could not keep up, for the reasons below: INVITE, CANCEL, REGISTER last.",
    "kernel_dropped": "Lost before hepduck: the socket's receive buffer was full.",
    "queued": "On the way to the store.",
}


def main() -> None:
    """One run of the page."""
    seen = frame.get()
    st.fragment(_tap, run_every=EVERY_S)(seen)
    _intake(seen)
    health_parts.agents(seen)
    health_parts.weird(seen)
    health_parts.store(seen)
    health_parts.jobs(seen)
    health_parts.cdr_sources(seen)
    health_parts.plugins()


# -- the tap, as it is now -------------------------------------------------------------------------------


def _tap(seen: Frame) -> None:
    status = live_data.tap_status()
    if status is None:
        look.empty(
            "No tap has run with this store.",
            "`hepduck run` starts one; a store can be filled by `hepduck import` alone.",
            "Is this the right store? `hepduck app --store DIR` names another.",
        )
        return
    _state(status, seen)
    counters = live_data.ask(api.counters)
    messages = dict(zip(counters["fate"], counters["messages"], strict=True))
    with st.grid(len(_SIGNS), min_column_width=120, key="health_fates"):
        for fate, label in _SIGNS.items():
            st.metric(label, look.number(messages[fate]), help=_FATE_HELP[fate], border=True)
    _sum(messages)
    if messages["received"]:
        told = ", ".join(f"{messages[fate]:,} {_words(fate)}" for fate in api.FATES)
        look.chart(health_charts.fates(counters), "health_sum", f"What became of the messages: {told}.")
    _pace(status)
    _losses(seen)


def _losses(seen: Frame) -> None:
    """What did not go as it should, and who sends with a wrong key."""
    losses = live_data.ask(api.losses)
    losses = losses[losses["what"] != "weird"]  # has a part of its own
    if len(losses):
        look.table(
            losses.assign(reason=losses["reason"].map(look.printable)),
            "health_losses",
            {
                "what": "What",
                "reason": "Reason",
                "count": st.column_config.NumberColumn("Count", format="localized"),
                "meaning": st.column_config.TextColumn("Meaning", width="large"),
            },
        )
    keys = live_data.ask(api.bad_keys)
    if len(keys):
        look.table(
            keys.assign(has_key=keys["has_key"].map({True: "a wrong one", False: "none"})),
            "health_bad_keys",
            {
                "agent_addr": "Sender",
                "hep_version": "HEP",
                "has_key": st.column_config.TextColumn("Key", help="HEP 1 and 2 cannot carry one"),
                "count": st.column_config.NumberColumn("Rejected", format="localized"),
                "last_at": st.column_config.DatetimeColumn(
                    "Last", format="YYYY-MM-DD HH:mm:ss", timezone=seen.zone.key
                ),
            },
        )


def _state(status: dict[str, Any], seen: Frame) -> None:
    where = ", ".join(look.plain(address) for address in status["listeners"])
    since = look.time(_at(status["started_us"]), seen.zone)
    heard = _at(status["last_arrival_us"])
    with st.container(horizontal=True, vertical_alignment="center", key="health_state"):
        if not status["alive"]:
            stopped = status["state"] == "stopped"
            last = look.time(_at(status["updated_us"]), seen.zone)
            st.badge("stopped" if stopped else "dead", icon=":material/cloud_off:", color="red")
            how = "It was stopped" if stopped else "It did not stop by itself: was it killed? It last spoke"
            st.caption(
                f"{how} at {last}. The counters are those of its run from {since}. `hepduck run` starts it."
            )
            return
        silent = datetime.now(UTC) - (heard or _at(status["started_us"]) or datetime.now(UTC))
        if silent > health_parts.SILENT:
            st.badge("silence", icon=":material/hearing_disabled:", color="orange")
            st.caption(
                f"No HEP received for {look.length(silent / _MS)} on {where}. Is Kamailio's mirror on?"
                " `hepduck doctor`"
            )
            return
        st.badge("running", icon=":material/check_circle:", color="green")
        st.caption(f"Node {look.plain(status['node'])}, since {since} ({seen.zone.key}), on {where}.")


def _sum(messages: dict[str, int]) -> None:
    """The sum is shown, not claimed."""
    fates = " + ".join(f"{messages[fate]:,} {_words(fate)}" for fate in api.FATES)
    with st.container(horizontal=True, vertical_alignment="center", key="health_adds_up"):
        if messages["unexplained"]:
            st.badge(f"{messages['unexplained']:,} unexplained", icon=":material/error:", color="red")
        else:
            st.badge("adds up", icon=":material/functions:", color="green")
        st.caption(f"{messages['received']:,} received = {fates}, since the tap started.")


def _pace(status: dict[str, Any]) -> None:
    committed = _at(status["last_commit_us"])
    told = {
        "Ingest lag": (
            look.milliseconds(status["latency_us"] / 1000),
            "From arrival to the end of detection, of the last batch.",
        ),
        "Commit age": (
            look.length((datetime.now(UTC) - committed) / _MS) if committed else look.MISSING,
            "When rows last became visible to readers; the tap writes when there is something.",
        ),
        "Flush": (look.milliseconds(status["flush_ms"]), "How long the last commit took."),
        "Followed": (
            f"{status['calls']:,} calls",
            f"And {status['devices']:,} devices, in the engine's memory.",
        ),
    }
    with st.grid(len(told), min_column_width=140, key="health_pace"):
        for label, (value, meaning) in told.items():
            st.metric(label, value, help=meaning, border=True)
    spool = status.get("spool") or {}
    if spool.get("files"):
        room = f"{spool['bytes'] / 1e6:,.1f} of {spool['allowed_bytes'] / 1e6:,.0f} MB"
        full = " There is no room for more." if spool["full"] else ""
        where = look.plain(spool["folder"])
        st.warning(f"{spool['rows']:,} rows ({room}) wait in {where} until the store takes them.{full}")
    if status["store_error"]:
        st.error(
            f"The store cannot be written ({status['store_errors']} times): {look.plain(status['store_error'])}"
        )


# -- over the range --------------------------------------------------------------------------------------


def _intake(seen: Frame) -> None:
    rate = data.ask(api.intake, **seen.range)
    st.subheader("Messages over time", anchor=False)
    if not len(rate) or not rate["received"].any():
        look.empty(
            f"Nothing came in ({look.plain(seen.words)}).",
            "Is Kamailio's mirror on? `hepduck doctor` looks at what arrives.",
            "Messages of `hepduck import` are not counted here: they came from a file.",
        )
        return
    told = ", ".join(f"{int(rate[fate].sum()):,} {_words(fate)}" for fate in api.FATES if fate in rate)
    look.chart(health_charts.intake(rate, seen.zone), "health_intake", f"Over time, {seen.words}: {told}.")
    st.caption(f"{told}; {look.plain(seen.words)}.")


def _words(fate: str) -> str:
    return fate.replace("_", " ")


def _at(us: int | None) -> datetime | None:
    return None if us is None else datetime.fromtimestamp(us / 1e6, UTC)


main()
