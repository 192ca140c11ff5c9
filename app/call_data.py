"""What the page of one call shows: the call, for the ladder; then how it sounded."""

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

Row = dict[str, Any]


@dataclass(frozen=True)
class WholeCall:
    """A call, and its RTCP reports (`callmedia.intervals`)."""

    seen: CallView
    reports: list[Row]

    def messages(self, *, merged: bool = True) -> list[Row]:
        """Rows of table `sip`; `merged` with those of the other legs."""
        others = [row for rows in self.seen.other_legs.values() for row in rows] if merged else []
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
    seen = callview.signalling(current(store).reader, call_id)
    return WholeCall(_masked(seen) if settings().app.mask_numbers else seen, [])


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


def _masked(seen: CallView) -> CallView:
    return replace(
        seen,
        call=mask_row(seen.call) if seen.call else None,
        messages=[mask_row(row) for row in seen.messages],
        other_legs={name: [mask_row(row) for row in rows] for name, rows in seen.other_legs.items()},
        findings=[mask_row(row) for row in seen.findings],
        attempts=[mask_row(row) for row in seen.attempts],
    )
