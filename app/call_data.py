"""What the page of one call shows: the call with its other legs, for the ladder; then how it sounded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from app.config import settings
from pipeline import callview
from pipeline.api.opened import Store, current
from pipeline.callmedia import intervals
from pipeline.callview import CallView
from pipeline.ladder import Ladder, build
from pipeline.privacy import mask_row
from pipeline.store.leg_queries import other_legs
from pipeline.store.queries import call_messages

Row = dict[str, Any]


@dataclass(frozen=True)
class WholeCall:
    """A call with the messages of its other legs, by Call-ID, and its RTCP reports (`callmedia.intervals`)."""

    seen: CallView
    other_legs: dict[str, list[Row]]
    reports: list[Row]

    def messages(self, *, merged: bool = True) -> list[Row]:
        """Rows of table `sip`; `merged` with those of the other legs."""
        others = [row for rows in self.other_legs.values() for row in rows] if merged else []
        known = {row["msg_id"] for row in self.seen.messages}
        return [*self.seen.messages, *(row for row in others if row["msg_id"] not in known)]

    def ladder(self, *, merged: bool = True, every_hop: bool = False) -> Ladder:
        """The ladder, with findings and actions drawn in."""
        seen = self.seen
        return build(self.messages(merged=merged), seen.findings, seen.attempts, collapse_hops=not every_hop)


def signalling(call_id: str, *, store: Store | None = None) -> WholeCall:
    """What the ladder is drawn from: a call without quality, CDRs and reports, numbers masked where configured.

    Raises StoreError when there is none.
    """
    reader = current(store).reader
    seen = callview.signalling(reader, call_id)
    began = seen.call["first_ts"] if seen.call else next((row["ts"] for row in seen.messages), None)
    others = other_legs(reader, seen.call_id, seen.leg_b_of or seen.call_id, began)
    found = WholeCall(seen, {name: call_messages(reader, name) for name in others}, [])
    return _masked(found) if settings().app.mask_numbers else found


def heard(
    call_id: str, answered: tuple[str, datetime] | None, *, store: Store | None = None
) -> tuple[Row, list[Row]]:
    """What `signalling` leaves out: fields of a `CallView` (see `callview.quality_of`), and reports."""
    reader = current(store).reader
    fields = callview.quality_of(reader, call_id, answered)
    reports = intervals(reader, fields["quality"])
    if settings().app.mask_numbers:
        fields["cdrs"] = [mask_row(row) for row in fields["cdrs"]]
    return fields, reports


def whole_call(call: WholeCall, ask: Callable[..., Any]) -> WholeCall:
    """What `signalling` gave, with the rest; `ask` puts the question to the store."""
    seen = call.seen
    fields, reports = ask(heard, **callview.quality_question(seen))
    return replace(call, seen=replace(seen, **fields), reports=reports)


def _masked(call: WholeCall) -> WholeCall:
    seen = call.seen
    return replace(
        call,
        seen=replace(
            seen,
            call=mask_row(seen.call) if seen.call else None,
            messages=[mask_row(row) for row in seen.messages],
            findings=[mask_row(row) for row in seen.findings],
            attempts=[mask_row(row) for row in seen.attempts],
        ),
        other_legs={name: [mask_row(row) for row in rows] for name, rows in call.other_legs.items()},
    )
