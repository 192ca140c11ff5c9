"""How the app looks: colours, words, forms of numbers, charts and empty states, each stated once.

One palette (`pipeline.palette`) serves light and dark; a colour is never the only sign of anything.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from typing import Any, Final

import altair as alt
import pandas as pd
import streamlit as st

from pipeline.ladder import printable
from pipeline.palette import AMBER, BLUE, GREEN, GREY, ORANGE, RED, TEAL, VIOLET

MISSING: Final = "\N{EN DASH}"

CATEGORIES: Final = (BLUE, ORANGE, TEAL, VIOLET, GREEN, RED, AMBER, GREY)
"""For series without a meaning of their own, in this order."""

BANDS: Final = {
    "very satisfied": GREEN,
    "satisfied": TEAL,
    "some dissatisfied": AMBER,
    "many dissatisfied": ORANGE,
    "nearly all dissatisfied": RED,
    "not recommended": VIOLET,
}
"""Colours of the words that `emodel.band` gives for an R."""

PERCENTILES: Final = {"p5": RED, "p50": BLUE, "p95": GREEN}

_PUNCTUATION: Final = re.compile(r"([!-/:-@\[-`{-~])")
_LINK: Final = re.compile(r"@|://|(?<!\w)www", re.IGNORECASE)
_FONT_PX: Final = 12
_STYLE: Final = """<style>
[data-testid="stMainBlockContainer"] { padding: 4.1rem 1.2rem 2rem }
[data-testid="stMainBlockContainer"] > div > [data-testid="stVerticalBlock"] { gap: .7rem }
.st-key-frame { border-bottom: 1px solid rgba(125,136,148,.3); padding-bottom: .5rem }
.wire, .copies { font-size: .8rem; border: 1px solid rgba(125,136,148,.3); border-radius: .5rem }
.wire { margin: 0; padding: .8rem; max-height: 35rem; overflow: auto; line-height: 1.45; white-space: pre-wrap;
    overflow-wrap: anywhere }
.copies { padding: .1rem .6rem; color: inherit; background: none; backdrop-filter: blur(4px); cursor: pointer }
.st-key-wire { position: relative }
.st-key-wire > :has(.copies) { position: absolute; top: .5rem; right: 1rem; width: auto; z-index: 1 }
</style>"""
# Where a browser lets no page write to the clipboard (without HTTPS), the text is marked, for Ctrl-C.
_COPY: Final = """<button type="button" class="copies">Copy</button>
<script>
for (const button of document.querySelectorAll("button.copies")) button.onclick = async () => {
    const wire = document.querySelector("pre.wire");
    try {
        await navigator.clipboard.writeText(wire.textContent);
        button.textContent = "Copied";
    } catch {
        getSelection().selectAllChildren(wire);
        button.textContent = "Marked: Ctrl-C";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
};
</script>"""


# -- text and numbers ------------------------------------------------------------------------------------


def missing(value: Any) -> bool:
    """True for None, NaN, NaT and pandas' NA."""
    return value is None or (isinstance(value, float) and math.isnan(value)) or str(value) in {"NaT", "<NA>"}


def plain(text: object) -> str:
    """Text from the wire as it may stand in Markdown (labels, captions): no mark-up, no control characters, no links.

    Markdown makes links of bare addresses, however they are escaped: a word joiner (invisible) keeps it from that.
    """
    return _PUNCTUATION.sub(r"\\\1", _LINK.sub("\\g<0>\N{WORD JOINER}", printable(text)))


def number(value: Any, decimals: int = 0, unit: str = "") -> str:
    """`1,234.5 ms`; a dash for what is not known."""
    if missing(value):
        return MISSING
    return f"{value:,.{decimals}f}" + (f" {unit}" if unit else "")


def r_factor(value: Any) -> str:
    """R with one decimal."""
    return number(value, 1)


def mos(value: Any) -> str:
    """MOS with two decimals."""
    return number(value, 2)


def percent(value: Any) -> str:
    """A share with two decimals."""
    return number(value, 2, "%")


def milliseconds(value: Any) -> str:
    """Milliseconds with one decimal."""
    return number(value, 1, "ms")


def length(ms: Any) -> str:
    """A length in words: `870 ms`, `12.3 s`, `4 min 05 s`, `2 h 07 min`, `3 d 4 h`."""
    if missing(ms):
        return MISSING
    if abs(ms) < 1000:
        return f"{ms:.0f} ms"
    seconds = ms / 1000
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"


def size(value: Any) -> str:
    """Bytes in words: `1.5 MB` (powers of 1000)."""
    if missing(value):
        return MISSING
    step = min(int(math.log10(value) // 3), 4) if value >= 1 else 0
    return f"{value / 1000**step:,.{1 if step else 0}f} {('B', 'kB', 'MB', 'GB', 'TB')[step]}"


def time(value: Any, zone: tzinfo, form: str = "%Y-%m-%d %H:%M:%S") -> str:
    """A time in `zone`; with `%f` in the form, down to milliseconds."""
    if missing(value):
        return MISSING
    local: datetime = value.astimezone(zone)
    return local.strftime(form.replace("%f", f"{local.microsecond // 1000:03d}"))


# -- places, states and notes ------------------------------------------------------------------------------------


def page() -> None:
    """Spacing of every page: dense, as lists of calls want it."""
    st.html(_STYLE)


def empty(what: str, *checks: str) -> None:
    """Nothing to show: what is missing, and what to check (Markdown of our own, no text from the wire)."""
    with st.container(border=True):
        st.markdown(f"**{what}**")
        if checks:
            st.markdown("\n".join(f"- {check}" for check in checks))


def title(text: object) -> None:
    """A heading of text from the wire."""
    st.html(f'<div style="font-size:1.25rem;font-weight:600;overflow-wrap:anywhere">{_html(text)}</div>')


def facts(told: Mapping[str, object]) -> None:
    """Small named values side by side, as many in a row as fit; what is not known is left out."""
    known = {name: value for name, value in told.items() if not missing(value) and value not in ("", MISSING)}
    cells = "".join(
        f'<div><div style="font-size:.8rem;opacity:.7">{_html(name)}</div>'
        f'<div style="overflow-wrap:anywhere">{_html(value)}</div></div>'
        for name, value in known.items()
    )
    st.html(f'<div style="display:flex;flex-wrap:wrap;gap:.5rem 1.6rem">{cells}</div>')


def wire(text: str) -> None:
    """Text from the wire, line by line, with a button that copies it; one on a page.

    Streamlit's `st.code` colours hundreds of languages, all of which a browser would load to show plain text.
    """
    lines = "\n".join(_html(line) for line in text.split("\n"))
    with st.container(key="wire"):
        st.html(_COPY, unsafe_allow_javascript=True)  # nothing of it is from the wire
        st.html(f'<pre class="wire">\n{lines}</pre>')  # HTML drops that first line break


def _html(text: object) -> str:
    """Text from the wire as HTML shows it: no mark-up, and nothing that becomes a link."""
    return html.escape(printable(text))


# -- tables ----------------------------------------------------------------------------------------------


def table(shown: pd.DataFrame, key: str, columns: Mapping[str, Any], **options: Any) -> Any:
    """Show a table, dense, with a dash for what is not known; what was chosen in it."""
    return st.dataframe(
        shown,
        key=key,
        column_config=columns,
        hide_index=True,
        row_height=30,
        placeholder=MISSING,
        **options,
    )


def clicked(event: Any) -> int | None:
    """The row of a `table` that was clicked on, as it was numbered when it was drawn."""
    return next(iter([*event.selection.rows, *(row for row, _ in event.selection.cells)]), None)


# -- charts ----------------------------------------------------------------------------------------------


def colours(names: Sequence[str], of: dict[str, str]) -> alt.Scale:
    """A scale with a fixed colour for each of `names`."""
    return alt.Scale(domain=list(names), range=[of.get(name, GREY) for name in names])


def as_it_is(channel: Any, column: str, kind: str = "N") -> Any:
    """A channel that takes a column's values as they are; a condition costs more to build than the rest of a chart."""
    return channel(f"{column}:{kind}", scale=None, legend=None)


def chart(drawn: alt.Chart | alt.LayerChart | alt.FacetChart, key: str, alt_text: str, **options: Any) -> Any:
    """Show a chart at the width of its place; `alt_text` says in words what it shows."""
    styled = drawn.configure_axis(
        labelFontSize=_FONT_PX, titleFontSize=_FONT_PX, titleFontWeight="normal", gridOpacity=0.5
    ).configure_legend(labelFontSize=_FONT_PX, titleFontSize=_FONT_PX, orient="top", title=None)
    spec = styled.to_dict(validate=False)  # a check against the schema takes longer than all else
    return st.vega_lite_chart(spec=spec, key=key, alt=alt_text, width="stretch", **options)
