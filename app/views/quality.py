"""Quality: how many calls it is known of, how they sounded, what they went through, which were the worst."""

from __future__ import annotations

from typing import Any, Final

import pandas as pd
import streamlit as st

from app import data, frame, look, quality_charts, quality_tables
from app.config import settings
from app.frame import Frame
from pipeline.api import health
from pipeline.api import quality as api
from pipeline.protocols.emodel import band

Report = dict[str, pd.DataFrame]

GROUPS: Final = {
    "trunk": "trunk",
    "codec": "codec",
    "User-Agent": "ua",
    "account": "account",
    "network": "network",
}
"""What the selector says, also in the URL, and what the store is asked by."""

_ADVICE: Final = {
    "the phone sent no RTCP reports": "Phones that send no RTCP tell nothing of what they hear: can it be switched on?",
    "too short for an RTCP report": "Reports come every five seconds or so: a shorter call has none.",
    "its CDR holds nothing of media": "`deploy/asterisk/` has the dialplan that writes media figures into the CDR.",
    "no CDRs are read, and no reports came": "Point hepduck at Asterisk's CDRs (`[[cdr]]`), or mirror `res_hep_rtcp`.",
    "no CDR: no CDR yet": "CDRs are written when a call ends; `hepduck cdr sources` says how far they were read.",
    "no CDR: Call-ID unknown to the CDRs": "They never came to the switch, or its CDR has no Call-ID of theirs.",
    "no CDR: cut Call-ID": "The CDR's column is too short for the Call-ID: make it VARCHAR(255).",
}
_WORST_ROWS: Final = 25


def main() -> None:
    """One run of the page."""
    seen = frame.get()
    words = _grouping_asked()
    with st.spinner("Looking through the calls ...", show_time=True):
        cover: pd.DataFrame = data.ask(api.quality_coverage, **seen.range)
    if not cover["audible"].any():
        _nothing(seen, cover)
        return
    _coverage(cover)
    with st.spinner("Working out the figures ...", show_time=True):
        report: Report = data.ask(
            api.quality_overview,
            **seen.range,
            by=GROUPS[words],
            zone=seen.zone.key,
            limit=_WORST_ROWS,
            conceal_loss=settings().quality.conceal_loss,
            unranked=False,
        )
    if not report["total"]["rated"].iloc[0]:
        look.empty(
            "None of these calls could be rated.",
            "The bars above say why.",
            "`hepduck cdr sources` and the page **Health** say how the sources of quality are doing.",
        )
        return
    _figures(report)
    _over_time(seen, report)
    _when_and_how_good(seen, report)
    _spread(report)
    _breakdown(report["by"], words)
    _worst(seen, report)
    _methods(report["methods"])


def _grouping_asked() -> str:
    """What the selector further down says, which is drawn only after the figures are there."""
    asked = st.session_state.get("by", st.query_params.get("by", "trunk"))
    return asked if asked in GROUPS else "trunk"


def _nothing(seen: Frame, cover: pd.DataFrame) -> None:
    silent = int(cover["calls"].sum()) if len(cover) else 0
    look.empty(
        f"No call that could be heard in this time ({look.plain(seen.words)}).",
        f"{silent:,} calls were seen, none of them answered." if silent else "No call was seen at all.",
        "Is the range wide enough? CDRs bring calls at their own time, recorded ones days ago.",
        "Does quality come in? Mirror Asterisk's `res_hep_rtcp`, or name its CDRs: `hepduck cdr import`.",
    )


def _coverage(cover: pd.DataFrame) -> None:
    st.subheader("Of how many calls it is known", anchor=False)
    audible = cover[cover["audible"]]
    total, rated = int(audible["calls"].sum()), int(audible.loc[audible["why"] == "rated", "calls"].sum())
    silent = int(cover.loc[~cover["audible"], "calls"].sum())
    share = look.number(100 * rated / total, 0, "%")
    st.markdown(
        f"**{rated:,} of {total:,} calls ({share})** that could be heard have quality. "
        f"{silent:,} more were not answered: there was nothing to hear."
    )
    _failing_sources()
    if rated == total:
        return
    ordered = pd.concat([audible[audible["why"] == "rated"], audible[audible["why"] != "rated"]])
    look.chart(
        quality_charts.reasons(ordered),
        "quality_coverage",
        "; ".join(f"{why}: {calls}" for why, calls in zip(ordered["why"], ordered["calls"], strict=True)),
    )
    advice = [f"- **{why}**: {_ADVICE[why]}" for why in ordered["why"] if why in _ADVICE]
    if advice:
        with st.expander("What to do about the others", key="quality_advice"):
            st.markdown("\n".join(advice))


def _failing_sources() -> None:
    """CDR sources that cannot be read at the moment: calls may lack their quality for that."""
    sources: pd.DataFrame = data.ask(health.cdr_sources)
    for row in sources[sources["state"] == "failing"].itertuples():
        st.warning(
            f"CDRs of **{look.plain(row.source)}** cannot be read: {look.plain(row.error)}",
            icon=":material/sync_problem:",
        )


def _figures(report: Report) -> None:
    total = report["total"].to_dict("records")[0]
    low = int(report["bands"].loc[report["bands"]["r_from"] < 70, "directions"].sum())
    with st.grid(4, min_column_width=150, key="quality_figures"):
        for share, words in (("p50", "Half sound better"), ("p5", "The worst twentieth sounds worse")):
            r = total[f"r_{share}"]
            st.metric(
                f"R, percentile {share.removeprefix('p')}",
                look.r_factor(r),
                f"MOS {look.mos(total[f'mos_{share}'])}",
                delta_color="off",
                delta_arrow="off",
                help=f"{words}. Users are: {band(r)}.",
                border=True,
            )
        st.metric(
            "Directions below R 70",
            look.number(100 * low / total["rated"], 1, "%"),
            f"{low:,} of {total['rated']:,}",
            delta_color="off",
            delta_arrow="off",
            help="Many users, or nearly all, are dissatisfied there. A leg has two directions.",
            border=True,
        )
        st.metric(
            "Calls rated",
            f"{total['calls']:,}",
            f"{total['directions']:,} directions",
            delta_color="off",
            delta_arrow="off",
            help=f"{total['enough']:,} directions had packets enough to be ranked, {total['grounded']:,} a codec whose "
            "impairment is published.",
            border=True,
        )


def _over_time(seen: Frame, report: Report) -> None:
    table = report["over_time"]
    step = look.length(1000 * int(table["step_s"].iloc[0]))
    st.subheader(
        "R over time",
        help=f"Percentiles of R in steps of {step}; hollow points: fewer than {api.FEW} directions. "
        "R is the E-model's (ITU-T G.107), the words are those of G.109.",
        anchor=False,
    )
    look.chart(
        quality_charts.over_time(table, seen.zone),
        "quality_over_time",
        f"Percentiles of R in steps of {step}, {seen.words}; lowest p5: {look.r_factor(table['r_p5'].min())}.",
    )


def _when_and_how_good(seen: Frame, report: Report) -> None:
    left, right = st.columns(2)
    with left:
        st.subheader("How satisfied users are", help="Directions of legs by band of R.", anchor=False)
        told = zip(report["bands"]["band"], report["bands"]["directions"], strict=True)
        look.chart(
            quality_charts.bands(report["bands"]),
            "quality_bands",
            "; ".join(f"{name}: {count}" for name, count in told),
        )
    with right:
        st.subheader(
            "By hour and weekday",
            help=f"Percentile 5 of R, in {seen.zone.key}; in brackets: fewer than {api.FEW} directions.",
            anchor=False,
        )
        look.chart(
            quality_charts.by_hour(report["by_hour"]),
            "quality_by_hour",
            f"Percentile 5 of R for each hour of the week in {seen.zone.key}.",
        )


def _spread(report: Report) -> None:
    st.subheader(
        "Loss, jitter, round trip",
        help="Loss up to 1 % is good and up to 3 % fair; jitter up to 30 and 50 ms; round trip up to 300 and 600 ms "
        "(half of it is the way to the ear: ITU-T G.114).",
        anchor=False,
    )
    with st.grid(3, min_column_width=300, key="quality_spread"):
        for figure, (name, *_) in quality_charts.LIMITS.items():
            rows = report["spread"][report["spread"]["figure"] == figure]
            counted = int(rows["directions"].sum())
            if counted:
                look.chart(
                    quality_charts.spread(report["spread"], figure),
                    f"quality_{figure}",
                    f"{name} of {counted} directions.",
                )
            else:
                st.caption(f"No {name} is known.")


def _breakdown(table: pd.DataFrame, words: str) -> None:
    st.subheader(
        "What they went through",
        help="The lowest percentile 5 first, those of few directions last. A click shows the calls, the worst first.",
        anchor=False,
    )
    st.segmented_control(
        "By",
        list(GROUPS),
        default="trunk",
        required=True,
        key="by",
        bind="query-params",
        label_visibility="collapsed",
    )
    ranked, by = quality_tables.ranked(table), GROUPS[words]
    if ranked["r_p5"].notna().any():
        look.chart(
            quality_charts.by_key(ranked),
            "quality_by",
            "; ".join(
                f"{look.printable(key)}: R p5 {look.r_factor(r)}"
                for key, r in zip(ranked["key"].head(15), ranked["r_p5"], strict=False)
            ),
        )
    chosen = _click(
        quality_tables.breakdown(ranked, words),
        f"quality_table_{by}",
        [None if key == "-" else key for key in ranked["key"]],
        quality_tables.breakdown_columns(words),
        f"{len(ranked)} rows by {words}",
    )
    if chosen is not None:
        r = ranked.loc[ranked["key"] == chosen, "r_p5"].iloc[0]
        search = api.search_for(by, chosen, 70 if pd.notna(r) and r < 70 else None)
        st.switch_page("views/calls.py", query_params={"q": search, "sort": "r_factor"})


def _worst(seen: Frame, report: Report) -> None:
    st.subheader(
        "Worst calls",
        help="By their worst direction. Ranked are those of at least 100 packets (or two RTCP reports) whose codec "
        "has a published impairment. A click opens the call.",
        anchor=False,
    )
    worst, made = report["worst"], report["methods"]
    if worst.empty:
        st.caption("No call had packets enough, and a codec with a published impairment, to be ranked.")
    else:
        _calls(worst, "quality_worst", seen)
    others = (made["directions"] > made["enough"]) | (~made["grounded"] & made["codec"].notna())
    if others.any() and st.toggle("Also those that are not ranked", key="unranked", bind="query-params"):
        st.caption("Too short, or of a codec without published impairment: R is a guess there.")
        unranked = data.ask(api.worst_calls, **seen.range, limit=_WORST_ROWS, ranked=False)
        _calls(unranked, "quality_unranked", seen)


def _calls(table: pd.DataFrame, key: str, seen: Frame) -> None:
    ids = [None if look.missing(call_id) else str(call_id) for call_id in table["call_id"]]
    chosen = _click(
        quality_tables.worst(table, seen.zone), key, ids, quality_tables.WORST_COLUMNS, f"{len(ids)} calls"
    )
    if chosen is not None:
        frame.open_call(chosen, "quality")


def _methods(table: pd.DataFrame) -> None:
    with st.expander("How each MOS was made", key="quality_methods"):
        st.markdown(
            "R is worked out by the E-model (ITU-T G.107) from loss, delay and the codec's impairment (`Ie`, `Bpl`), "
            "and turned into MOS once, at the end. **CQ** is conversational quality, with the delay; **LQ** is "
            "listening quality, where no round trip was known. It sees what RTCP sees: packets that came too late for "
            "the jitter buffer are lost to the ear and not counted."
        )
        st.dataframe(
            quality_tables.methods(table), hide_index=True, key="quality_methods_table", height="content"
        )


def _click(shown: Any, key: str, values: list[str | None], columns: dict[str, Any], alt: str) -> str | None:
    """Show a table; the value of the row that was clicked on, as the reader saw it."""
    before = st.session_state.get(f"{key}_shown", values)
    st.session_state[f"{key}_shown"] = values
    event = look.table(
        shown,
        key,
        columns,
        height="content",
        on_select="rerun",
        selection_mode="single-cell",
        alt=alt,
    )
    row = look.clicked(event)
    return before[row] if row is not None and row < len(before) else None


main()
