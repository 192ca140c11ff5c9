"""The entry of the app: sign-in, the list of pages, the frame, then the page that was asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import streamlit as st

from app import data, frame, look, signin
from app.config import settings
from pipeline.errors import HepduckError

ICON: Final = str(Path(__file__).with_name("icon.svg"))  # a :material/: one would be fetched from afar
PAGES: Final = (
    ("calls", "Calls", ":material/call:"),
    ("quality", "Quality", ":material/graphic_eq:"),
    ("ghosts", "Ghost calls", ":material/phone_missed:"),
    ("registrations", "Registrations", ":material/how_to_reg:"),
    ("live", "Live", ":material/stream:"),
    ("health", "Health", ":material/monitor_heart:"),
)


def main() -> None:
    """One run of the script."""
    st.set_page_config("hepduck", ICON, layout="wide", initial_sidebar_state="collapsed")
    look.page()
    if not signin.may_see(settings().app):
        st.stop()
    pages = [
        st.Page(f"views/{name}.py", title=title, icon=icon, url_path=name if at else "", default=not at)
        for at, (name, title, icon) in enumerate(PAGES)
    ]
    hidden = [  # the first page is found at its own name, too, not only at /
        st.Page(f"views/{name}.py", title=title, url_path=name, visibility="hidden")
        for name, title in (("call", "Call"), ("calls", "Calls"))
    ]
    page = st.navigation([*pages, *hidden], position="top")
    try:
        data.store()
    except HepduckError as error:
        look.empty(
            "There is nothing to read yet.",
            look.plain(error),
            "Is the tap running? `hepduck run` starts it, `hepduck status` says how it is.",
            "Is this the right store? `hepduck app --store DIR` names another.",
        )
        st.stop()
    frame.draw()
    page.run()


main()
