"""The parts of the page of health: a table each, and what belongs to it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any, Final

import pandas as pd
import streamlit as st

from app import data, look
from app.config import settings
from app.frame import Frame
from app.hexdump import hexdump
from pipeline.api import health as api

SILENT: Final = timedelta(minutes=5)  # without a packet: worth a look
IN_TIME_MS: Final = 1000  # a clock that is off by less is right enough
_SAMPLES: Final = 20
_MS: Final = timedelta(milliseconds=1)


def agents(seen: Frame) -> None:
    """Who sends, whether it still does, and whether its clock is right."""
    st.subheader("Capture agents", anchor=False)
    agents = data.ask(api.agents, **seen.range)
    if agents.empty:
        look.empty("No agent was heard in this range.", "`all` above shows those that were heard before.")
        return
    silent_after_s = SILENT.total_seconds()
    shown = pd.DataFrame(
        {
            "agent": agents["agent"].map(look.printable),
            "state": [
                "heard" if silent_s < silent_after_s else f"silent for {look.length(silent_s * 1000)}"
                for silent_s in agents["silent_s"]
            ],
            "clock": agents["skew_ms"].map(_clock),
            "trusted": agents["trusted"].map({True: "yes", False: "no"}),
            "hep_versions": agents["hep_versions"],
            "received": agents["received"],
            "last_seen": agents["last_seen"],
            "first_seen": agents["first_seen"],
            "node": agents["node"].map(look.printable),
        }
    )
    look.table(
        shown,
        "health_agents",
        {
            "agent": st.column_config.TextColumn("Agent", help="address / capture id", pinned=True),
            "state": "State",
            "clock": st.column_config.TextColumn("Clock", help="against ours, with the way to us; last seen"),
            "trusted": st.column_config.TextColumn("Trusted", help="actions may hang on what it mirrors"),
            "hep_versions": "HEP",
            "received": st.column_config.NumberColumn("Packets", format="localized"),
            "last_seen": _time("Last seen", seen),
            "first_seen": _time("First seen", seen),
            "node": "Node",
        },
    )
    off = int((agents["skew_ms"].abs() > IN_TIME_MS).sum())
    if off:
        st.caption(
            f"{off} clock{'s are' if off > 1 else ' is'} off: run NTP there. What it sends is stored, but findings that"
            " look older than `rules.max_age` set nothing off."
        )


def weird(seen: Frame) -> None:
    """What could not be decoded, by kind, with the bytes of some of it."""
    st.subheader("What could not be decoded", anchor=False)
    kinds = data.ask(api.weird, **seen.range)
    if kinds.empty:
        look.empty("Everything could be decoded in this range.")
        return
    shown = kinds.assign(
        detail=look.MISSING if settings().app.mask_numbers else kinds["detail"].map(look.printable),
        agent_addr=kinds["agent_addr"].map(look.printable),
    )
    look.table(
        shown,
        "health_weird",
        {
            "kind": st.column_config.TextColumn("Kind", pinned=True),
            "messages": st.column_config.NumberColumn("Messages", format="localized"),
            "senders": st.column_config.NumberColumn("Senders"),
            "first": _time("First", seen),
            "last": _time("Last", seen),
            "agent_addr": "Last from",
            "detail": st.column_config.TextColumn("Last one", width="large"),
        },
    )
    if settings().app.mask_numbers:
        st.caption(
            "Samples are not shown: numbers are masked, and in these bytes nobody can tell where they are."
        )
        return
    kind = st.selectbox(
        "Show samples of",
        list(kinds["kind"]),
        index=None,
        placeholder="Show samples of a kind",
        key="health_kind",
        bind="query-params",
        label_visibility="collapsed",
        width=320,
    )
    if kind:
        _samples(data.ask(api.weird_samples, kind=kind, limit=_SAMPLES, **seen.range), seen)


def _samples(samples: pd.DataFrame, seen: Frame) -> None:
    for number, row in enumerate(samples.itertuples()):
        when = look.time(row.received_at, seen.zone, "%Y-%m-%d %H:%M:%S.%f")
        cut = f", the first {len(row.head)} shown" if row.bytes > len(row.head) else ""
        with st.expander(
            f"{when} from {look.plain(row.agent_addr)}: {row.bytes:,} bytes{cut}", expanded=not number
        ):
            st.caption(look.plain(row.detail))
            st.code(hexdump(row.head), language=None)


def store(seen: Frame) -> None:
    """How large and how old the store is, table by table."""
    st.subheader("Store", anchor=False)
    tables, disk = data.ask(api.tables), data.ask(api.disk).iloc[0]
    oldest = tables.loc[tables["table_name"] == "sip", "first"]
    age = datetime.now(UTC) - oldest.iloc[0] if len(oldest) and not look.missing(oldest.iloc[0]) else None
    with st.grid(4, min_column_width=140, key="health_store"):
        st.metric("On disk", look.size(disk["bytes"]), border=True, help=look.plain(data.folder()))
        st.metric("Free there", look.size(disk["free_bytes"]), border=True)
        st.metric(
            "SIP messages", look.number(tables.loc[tables["table_name"] == "sip", "rows"].sum()), border=True
        )
        st.metric(
            "Oldest message",
            look.length(age / _MS) if age else look.MISSING,
            border=True,
            help="By the sender's clock.",
        )
    look.table(
        tables[tables["rows"] > 0].assign(bytes=lambda shown: shown["bytes"].map(look.size)),
        "health_tables",
        {
            "table_name": st.column_config.TextColumn("Table", pinned=True),
            "rows": st.column_config.NumberColumn("Rows", format="localized"),
            "files": st.column_config.NumberColumn("Files"),
            "bytes": "Size",
            "first": _time("First", seen),
            "last": _time("Last", seen),
        },
    )


def jobs(seen: Frame) -> None:
    """What the tap does at intervals, and how the last run went."""
    jobs = data.ask(api.jobs)
    if jobs.empty:
        return
    st.subheader("Jobs", anchor=False)
    shown = jobs.assign(
        job=jobs["job"].map(look.printable),
        interval_s=jobs["interval_s"].map(lambda seconds: look.length(seconds * 1000)),
        took_ms=jobs["took_ms"].map(look.length),
        told=jobs["told"].map(_text),
        error=jobs["error"].map(_text),
    )
    look.table(
        shown,
        "health_jobs",
        {
            "job": st.column_config.TextColumn("Job", pinned=True),
            "state": "State",
            "interval_s": "Every",
            "runs": "Runs",
            "failures": "Failed",
            "began_at": _time("Last run", seen),
            "took_ms": "Took",
            "next_at": _time("Next run", seen),
            "told": st.column_config.TextColumn("Did"),
            "error": st.column_config.TextColumn("Error", width="large"),
        },
    )


def cdr_sources(seen: Frame) -> None:
    """How reading of CDRs goes."""
    st.subheader("CDR sources", anchor=False)
    sources = data.ask(api.cdr_sources)
    if sources.empty:
        look.empty(
            "No CDRs are read.",
            "A `[[cdr]]` entry in `hepduck.toml` names a table or a file of your Asterisk.",
            "`hepduck cdr import` reads one once.",
        )
        return
    shown = sources.assign(
        **{name: sources[name].map(_text) for name in ("source", "error", "warning", "node")}
    )
    look.table(
        shown[["source", "state", "imported", "refused", "updated_at", "error", "warning", "node"]],
        "health_cdr",
        {
            "source": st.column_config.TextColumn("Source", pinned=True),
            "state": "State",
            "imported": st.column_config.NumberColumn("Rows", format="localized"),
            "refused": st.column_config.NumberColumn("Refused", format="localized"),
            "updated_at": _time("Last success or change", seen),
            "error": st.column_config.TextColumn("Error", width="large"),
            "warning": st.column_config.TextColumn("Warning", width="large"),
            "node": "Node",
        },
    )


def plugins() -> None:
    """Detectors and actions, and how each stands."""
    plugins = data.ask(api.plugins)
    if plugins.empty:
        return
    st.subheader("Detectors and actions", anchor=False)
    look.table(
        plugins.map(_text)[["kind", "name", "state", "summary", "origin"]],
        "health_plugins",
        {
            "kind": "Kind",
            "name": st.column_config.TextColumn("Name"),
            "state": "State",
            "summary": st.column_config.TextColumn("What it does", width="large"),
            "origin": "From",
        },
    )


def _clock(skew_ms: float | None) -> str:
    if skew_ms is None or look.missing(skew_ms):
        return look.MISSING
    if abs(skew_ms) <= IN_TIME_MS:
        return f"right ({skew_ms:+.0f} ms)"
    return f"{look.length(abs(skew_ms))} {'behind' if skew_ms > 0 else 'ahead'}"


def _text(value: Any) -> str:
    return look.MISSING if look.missing(value) else look.printable(value)


def _time(label: str, seen: Frame) -> Any:
    return st.column_config.DatetimeColumn(label, format="YYYY-MM-DD HH:mm:ss", timezone=seen.zone.key)
