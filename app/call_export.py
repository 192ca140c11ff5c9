"""What to take away of a call: pcap, ladder as text or SVG, JSON, a link. Files are made when they are asked for.

Their names tell when the call began, in UTC (`Z`); what is hidden on the page is hidden in them.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import streamlit as st

from app.call_data import WholeCall
from app.export import to_json
from pipeline.callview import as_object, as_text
from pipeline.ladder_svg import to_svg

_NO_NAME = re.compile(r"[^A-Za-z0-9._-]+")


def popover(call: WholeCall, whole: Callable[[], WholeCall], zone: ZoneInfo) -> None:
    """A button that opens the list of exports; `whole` is the call with its quality, for those that tell of it."""
    name = file_name(call)
    ways: tuple[tuple[str, str, str, Callable[[], bytes | str]], ...] = (
        ("pcap", "pcapng", "application/x-pcapng", lambda: as_pcap(call)),
        ("Text", "txt", "text/plain", lambda: as_text(whole().seen, zone)),
        ("SVG", "svg", "image/svg+xml", lambda: as_svg(call, zone)),
        ("JSON", "json", "application/json", lambda: as_json(whole())),
    )
    with st.popover("Export", icon=":material/download:", key="exports"):
        for label, ending, mime, make in ways:
            st.download_button(
                label,
                data=make,
                file_name=f"{name}.{ending}",
                mime=mime,
                on_click="ignore",
                key=f"export_{ending}",
                width="stretch",
            )
        st.caption("Link to this page")
        st.code(link(), language=None, wrap_lines=True)


def file_name(call: WholeCall) -> str:
    """`call-7f3a_10.0.0.5-20261123T014300Z`: harmless in any file system."""
    began = next((row["ts"] for row in call.seen.messages), None)
    when = f"-{began.astimezone(UTC):%Y%m%dT%H%M%SZ}" if isinstance(began, datetime) else ""
    return f"call-{_NO_NAME.sub('_', call.seen.call_id)[:60].strip('_')}{when}"


def link() -> str:
    """This page's address with all that is chosen on it."""
    return f"{(st.context.url or '').partition('?')[0]}?{urlencode(st.query_params.to_dict())}"


def as_pcap(call: WholeCall) -> bytes:
    """The messages of all legs as they were stored."""
    from pipeline.export import pcap_bytes  # noqa: PLC0415  not needed to look at a call

    return pcap_bytes(sorted(call.messages(), key=lambda row: (row["ts"], row["msg_id"])), call.seen.findings)


def as_svg(call: WholeCall, zone: ZoneInfo) -> str:
    """The whole ladder, every hop, times of day in `zone`."""
    title = f"{call.seen.call_id}, times in {zone.key}"
    return to_svg(call.ladder(every_hop=True), title=title, clock="absolute", zone=zone)


def as_json(call: WholeCall) -> str:
    """As `hepduck call --json` has it, with the RTCP reports: times in UTC, payloads as text."""
    return to_json(as_object(call.seen) | {"rtcp": call.reports})
