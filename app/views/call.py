"""One call: its facts, its ladder beside the raw message, its quality, and what to take away of it."""

from __future__ import annotations

import math
from typing import Any

import streamlit as st

from app import call_export, call_media, call_message, data, frame, look
from app.call_data import WholeCall, signalling, whole_call
from pipeline import ladder_chart
from pipeline.errors import StoreError
from pipeline.ladder import Arrow, Clock, Ladder, times

CLOCKS: dict[str, Clock] = {"since first": "first", "since previous": "previous", "time of day": "absolute"}
_LADDER_PX = 720
_MOST_COPIES = 12


def main() -> None:
    """The page of `?call_id=`."""
    call_id = st.query_params.get("call_id", "")
    if not call_id:
        look.empty(
            "No call is chosen.", "Choose one on the page **Calls**: a click on its row opens it here."
        )
        st.page_link("views/calls.py", label="Calls", icon=":material/call:")
        return
    try:
        with st.spinner("Reading the call ..."):
            call: WholeCall = data.ask(signalling, call_id=call_id)
    except StoreError as error:
        look.empty(look.plain(error), "Was it long ago? Old days may have been removed from the store.")
        return
    _facts(call)
    every_hop, merged, clock = _choices(call)
    ladder = call.ladder(merged=merged, every_hop=every_hop)
    if ladder.arrows:
        _messages(call, ladder, clock)
    else:
        look.empty(
            "No SIP message of this call was mirrored.",
            "Does the mirror see the proxy or switch that handled it?",
            "CDRs and reports of it are shown below.",
        )
    _quality(whole_call(call, data.ask))  # the browser draws the ladder meanwhile


def _facts(call: WholeCall) -> None:
    """Who, when, how it went."""
    seen, zone = call.seen, frame.get().zone
    row: dict[str, Any] = seen.call or {}
    with st.container(horizontal=True, vertical_alignment="center", key="call_title"):
        frame.way_back()
        look.title(_title(call))
        call_export.popover(call, lambda: whole_call(call, data.ask), zone)
    status = f"{row['final_status']} {row['final_reason'] or ''}" if row.get("final_status") else None
    facts = {
        "Call-ID": seen.call_id,
        "began": look.time(row.get("first_ts"), zone, "%Y-%m-%d %H:%M:%S.%f"),
        "state": row.get("outcome") or ("not ended, or its end was not seen" if row else None),
        "final reply": status,
        "PDD": look.length(row.get("pdd_ms")),
        "ring": look.length(row.get("ring_ms")),
        "talk": look.length(row.get("talk_ms")),
        "codec": row.get("codec"),
        "caller's User-Agent": row.get("user_agent"),
        "messages": look.number(row.get("messages")),
    }
    look.facts(facts)
    if seen.leg_b_of is not None:
        st.caption(f"Leg B of {look.plain(seen.leg_b_of)}: quality and CDRs are that call's.")


def _title(call: WholeCall) -> str:
    if call.seen.call:
        caller, callee = (_address(call.seen.call, side) for side in ("from", "to"))
        return f"{caller} → {callee}"
    if call.seen.messages:  # a dialogue of another kind, or a call whose INVITE was not seen
        first = call.seen.messages[0]
        return f"{first['method']} of {_address(first, 'from')}"
    return "A call that only CDRs tell of"


def _address(row: dict[str, Any], side: str) -> str:
    return f"{row[f'{side}_user'] or ''}@{row[f'{side}_host'] or ''}".strip("@")


def _choices(call: WholeCall) -> tuple[bool, bool, Clock]:
    """How the ladder is drawn; all of it in the URL."""
    with st.container(horizontal=True, vertical_alignment="center", key="call_choices"):
        clock = st.segmented_control(
            "Times",
            list(CLOCKS),
            default="since first",
            required=True,
            key="clock",
            bind="query-params",
            label_visibility="collapsed",
        )
        every_hop = st.toggle(
            "Every hop",
            key="hops",
            bind="query-params",
            help="Off: a message that a proxy passed on is one arrow, from its sender to its last receiver.",
        )
        merged = True
        if call.seen.other_legs:
            merged = st.toggle(
                "All legs",
                value=True,
                key="legs",
                bind="query-params",
                help="The switch gives each leg a Call-ID of its own; on: all legs of this call in one ladder.",
            )
    return every_hop, merged, CLOCKS[str(clock)]


def _messages(call: WholeCall, ladder: Ladder, clock: Clock) -> None:
    """The ladder, and beside it the message that is chosen in it."""
    arrows = ladder.arrows
    ids = [arrow.msg_id for arrow in arrows]
    asked = st.query_params.get("msg", "")
    at = ids.index(int(asked)) if asked.isdigit() and int(asked) in ids else 0
    part = _part(ladder, ladder.steps.index(arrows[at]))
    left, right = st.columns([3, 2], gap="small")
    with left:
        needed_px = ladder_chart.height_px(ladder, part) + 50
        with st.container(height=min(_LADDER_PX, needed_px), key="ladder_box"):
            least_px = ladder_chart.min_width_px(ladder)
            st.html(
                f"<style>.st-key-ladder [data-testid=stVegaLiteChart] {{min-width: {least_px}px}}</style>"
            )
            drawn = ladder_chart.chart(
                ladder, clock=clock, zone=frame.get().zone, selected=ids[at], shown=part
            )
            st.vega_lite_chart(
                spec=drawn.to_dict(validate=False),  # a check against the schema takes a tenth of a second
                key="ladder",
                on_select=_clicked,
                selection_mode=ladder_chart.SELECTION,
                width="stretch",
                alt=f"Ladder of {len(arrows)} messages between {len(ladder.participants)} addresses",
            )
        _parts(ladder, part)
    with right:
        rows = {row["msg_id"]: row for row in call.messages()}
        _message(ladder, at, rows)


def _part(ladder: Ladder, step: int) -> slice:
    """The steps that are drawn with `step`."""
    first = step - step % ladder_chart.MOST_STEPS
    return slice(first, min(first + ladder_chart.MOST_STEPS, len(ladder.steps)))


def _parts(ladder: Ladder, part: slice) -> None:
    """The way to the other parts of a long ladder: the message chosen there is their first."""
    pages = math.ceil(len(ladder.steps) / ladder_chart.MOST_STEPS)
    if pages == 1:
        return
    st.caption(f"Steps {part.start + 1} to {part.stop} of {len(ladder.steps)}")
    st.session_state["ladder_part"] = part.start // ladder_chart.MOST_STEPS + 1
    firsts = [
        next((step.msg_id for step in ladder.steps[at:] if isinstance(step, Arrow)), ladder.arrows[-1].msg_id)
        for at in range(0, len(ladder.steps), ladder_chart.MOST_STEPS)
    ]
    st.pagination(
        pages, key="ladder_part", on_change=lambda: _choose(firsts[st.session_state["ladder_part"] - 1])
    )


def _clicked() -> None:
    """A click on an arrow; one beside the arrows leaves all as it is."""
    chosen = st.session_state["ladder"]["selection"].get(ladder_chart.SELECTION)
    if chosen:
        _choose(int(chosen[0]["msg_id"]))


def _choose(msg_id: int) -> None:
    st.query_params["msg"] = str(msg_id)
    st.session_state["copy"] = "1"


def _message(ladder: Ladder, at: int, rows: dict[int, dict[str, Any]]) -> None:
    """The chosen message: step to the next, look at a copy of it, compare it with another."""
    arrows = ladder.arrows
    arrow, last = arrows[at], len(arrows) - 1
    with st.container(horizontal=True, vertical_alignment="center", key="steps"):
        for label, icon, key, target in (
            ("Previous", ":material/arrow_upward:", "K", max(at - 1, 0)),
            ("Next", ":material/arrow_downward:", "J", min(at + 1, last)),
        ):
            st.button(
                label,
                icon=icon,
                shortcut=key,
                key=f"step_{label.lower()}",
                disabled=target == at,
                on_click=_choose,
                args=(arrows[target].msg_id,),
            )
        st.caption(f"{at + 1} of {last + 1}")
    st.markdown(f"**{look.plain(arrow.label)}**")
    chosen = rows[arrow.msg_ids[_copy(arrow)]]
    other = _compared(ladder, at)
    if other is None:
        call_message.show(chosen, frame.get().zone)
    else:
        call_message.diff(chosen, rows[other])


def _copy(arrow: Arrow) -> int:
    """Which of the mirrored copies: retransmissions, and with hops collapsed the hops behind the first."""
    count = len(arrow.msg_ids)
    if count == 1:
        return 0
    options = [str(number) for number in range(1, count + 1)][:_MOST_COPIES]
    chosen = st.segmented_control(
        f"mirrored {count} times" + (f", via {', '.join(arrow.via)}" if arrow.via else ""),
        options,
        default="1",
        required=True,
        key="copy",
        bind="query-params",
    )
    return int(chosen or 1) - 1


def _compared(ladder: Ladder, at: int) -> int | None:
    """The message to compare with, if one is chosen."""
    told = {
        step.msg_id: f"{clock}  {step.text}"
        for step, clock in zip(ladder.steps, times(ladder), strict=True)
        if isinstance(step, Arrow)
    }
    told.pop(ladder.arrows[at].msg_id)
    asked = st.query_params.get("diff", "")
    options = list(told)
    chosen: int | None = st.selectbox(
        "Compare with",
        options,
        index=options.index(int(asked)) if asked.isdigit() and int(asked) in told else None,
        format_func=lambda msg_id: told[msg_id],
        placeholder="Compare with another message ...",
        key="compare",
        on_change=_compare,
        label_visibility="collapsed",
    )
    return chosen


def _compare() -> None:
    chosen = st.session_state["compare"]
    if chosen is None:
        st.query_params.pop("diff", None)
    else:
        st.query_params["diff"] = str(chosen)


def _quality(call: WholeCall) -> None:
    """How it sounded, where that is known."""
    seen, zone = call.seen, frame.get().zone
    st.subheader("Quality", anchor=False)
    if seen.quality:
        st.caption("As the switch has it: incoming is from the phone to it, outgoing to the phone.")
        every = st.toggle("Every source", key="sources", bind="query-params") if _several(call) else False
        call_media.strip(seen.quality, every_source=every)
    else:
        look.empty(
            "Nothing is known of how this call sounded.",
            "Does Asterisk report RTCP over HEP (`res_hep_rtcp`), or do its CDRs have the RTCP columns?",
            "A CDR comes a moment after the call ends: look again in a minute.",
        )
    if call.reports:
        call_media.over_time(call.reports, zone)
    st.subheader("CDRs", anchor=False)
    if seen.cdrs:
        call_media.cdrs(seen.cdrs, zone)
    else:
        st.caption(f"None{f': {look.plain(seen.without_cdr)}' if seen.without_cdr else ''}.")


def _several(call: WholeCall) -> bool:
    return any(not row["best"] for row in call.seen.quality)


main()
