"""What stands on every page: the time range and the zone of all times, both in the URL."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, NoReturn
from zoneinfo import ZoneInfo, available_timezones

import streamlit as st

from app import signin
from app.config import settings

RANGES: Final = {
    "15m": timedelta(minutes=15),
    "1h": timedelta(hours=1),
    "6h": timedelta(hours=6),
    "24h": timedelta(hours=24),
    "7d": timedelta(days=7),
}
ALL, ABSOLUTE, DEFAULT = "all", "from-to", "24h"
BROWSER: Final = "browser"
_EARLIEST: Final = datetime(2000, 1, 1)  # noqa: DTZ001  the widgets know no zones
_LATEST: Final = datetime(2100, 1, 1)  # noqa: DTZ001
_CAME_FROM: Final = "came_from"
_STEP_S: Final = 10  # a relative range moves on in such steps, so that answers can be kept


@dataclass(frozen=True)
class Frame:
    """What every page shows: `[since, until)`, None for no bound, and the zone in which all times are shown."""

    since: datetime | None
    until: datetime | None
    zone: ZoneInfo
    words: str

    @property
    def range(self) -> dict[str, datetime | None]:
        """`since` and `until` as arguments."""
        return {"since": self.since, "until": self.until}


def get() -> Frame:
    """The frame of this run, for a page."""
    frame: Frame = st.session_state["frame"]
    return frame


def query(**more: str) -> dict[str, str]:
    """The parameters of a link to another page: range and zone go along by themselves."""
    return more


def open_call(call_id: object, page: str) -> NoReturn:
    """Go to a call from the page of that name, and remember the way back: the browser's own forgets what was asked."""
    st.session_state[_CAME_FROM] = page, st.query_params.to_dict()
    st.switch_page("views/call.py", query_params={"call_id": str(call_id)})


def way_back() -> None:
    """A link to the page where the call was chosen, as it was then."""
    if _CAME_FROM not in st.session_state:
        return
    page, asked = st.session_state[_CAME_FROM]
    st.page_link(
        f"views/{page}.py", label=f"Back to {page}", icon=":material/arrow_back:", query_params=asked
    )


def draw() -> None:
    """Show the selectors and keep what they say for `get`."""
    browser = _browser_zone()
    with st.container(horizontal=True, vertical_alignment="bottom", key="frame"):
        chosen = st.segmented_control(
            "Time range",
            [*RANGES, ALL, ABSOLUTE],
            default=DEFAULT,
            required=True,
            key="range",
            bind="query-params",
            label_visibility="collapsed",
            on_change=_settle,
        )
        zone_name = st.selectbox(
            "Time zone",
            _zones(),
            format_func=lambda name: f"{browser} (browser)" if name == BROWSER else name,
            key="zone",
            bind="query-params",
            label_visibility="collapsed",
            width=240,
        )
        signin.sign_out_link(settings().app)
    zone = ZoneInfo(browser if zone_name == BROWSER else zone_name)
    st.session_state["frame"] = _absolute(zone) if chosen == ABSOLUTE else _relative(str(chosen), zone)


def _relative(chosen: str, zone: ZoneInfo) -> Frame:
    if chosen == ALL:
        return Frame(None, None, zone, f"all times, shown in {zone.key}")
    now = datetime.now(UTC)
    now -= timedelta(seconds=now.timestamp() % _STEP_S)
    return Frame(now - RANGES[chosen], None, zone, f"last {chosen}, times in {zone.key}")


def _absolute(zone: ZoneInfo) -> Frame:
    """From and until as the reader's own clock shows them: the widgets know no zones."""
    with st.container(horizontal=True, vertical_alignment="bottom", key="frame_from_to"):
        since, until = _moment("From", _EARLIEST, "from"), _moment("Until", _LATEST, "until")
    if since >= until:
        st.warning("**From** must be before **Until**.")
        st.stop()
    words = f"{since:%Y-%m-%d %H:%M} to {until:%Y-%m-%d %H:%M}, {zone.key}"
    return Frame(since.replace(tzinfo=zone), until.replace(tzinfo=zone), zone, words)


def _moment(label: str, default: datetime, key: str) -> datetime:
    chosen: datetime = st.datetime_input(
        label,
        default,
        min_value=_EARLIEST,
        max_value=_LATEST,
        key=key,
        bind="query-params",
        step=60,
        width=220,
    )
    return chosen


def _settle() -> None:
    """A link to fixed times must mean the same everywhere and always: it names its zone, and both times. Streamlit
    leaves what a widget begins with out of links, so that is nothing that anybody would choose."""
    if st.session_state["range"] != ABSOLUTE:
        return
    if st.session_state["zone"] == BROWSER:
        st.session_state["zone"] = _browser_zone()
    now = datetime.now(ZoneInfo(st.session_state["zone"]))
    today = now.replace(hour=0, minute=0, second=0, microsecond=0, tzinfo=None)
    for key, at in (("from", today), ("until", today + timedelta(days=1))):
        st.session_state[key] = at
        st.query_params[key] = at.isoformat(timespec="minutes")  # it does not follow a widget's first value


def _browser_zone() -> str:
    named = st.context.timezone
    return named if named in available_timezones() else "UTC"


@st.cache_resource
def _zones() -> list[str]:
    places = sorted(name for name in available_timezones() if "/" in name and not name.startswith("Etc/"))
    return [BROWSER, "UTC", *places]
