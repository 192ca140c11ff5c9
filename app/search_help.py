"""What may be typed into the search of calls, told by the grammar itself."""

from __future__ import annotations

import streamlit as st

from pipeline.store.search import KEYS, STATES

PLACEHOLDER = "number, Call-ID, IP or network, or terms: state:failed  pdd>3s  -code:486"
_EXAMPLES = {
    "4930123456": "the number, however it is spelt",
    "10.0.0.0/8": "any hop in that network",
    'ua:"Linphone iOS" -state:answered': "a User-Agent, and not answered",
    "pdd>3s code:4xx,503": "both at once; a comma means or",
    "mos<3.6 trunk:provider": "sounded bad on one trunk",
}


def popover() -> None:
    """A button that opens the keys, their meaning, and examples."""
    with st.popover("Syntax", icon=":material/help:", key="search_help"):
        st.markdown(
            "Terms with spaces between all hold; `-` before a term excludes; `:` finds a part, `=` the whole, "
            "`*` stands for any text, and quotes hold spaces together."
        )
        st.markdown(_table("example", _EXAMPLES))
        st.markdown(_table("key", {name: key.help for name, key in KEYS.items()}))
        st.markdown(_table("state", STATES))


def _table(what: str, rows: dict[str, str]) -> str:
    lines = [f"| {what} | finds |", "|---|---|", *(f"| `{name}` | {text} |" for name, text in rows.items())]
    return "\n".join(lines)
