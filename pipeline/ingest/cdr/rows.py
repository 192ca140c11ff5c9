"""A row of a source -> a row of the store's table `cdr` or `cdr_leg`, with its key.

The key says which row of its source it is: (uniqueid, sequence, start) where there are all three, else
(linkedid or uniqueid, channel, dstchannel, start, lastapp); of a leg its uniqueid, since a handler that runs
twice after a transfer writes the same leg twice. `start` enters as it stands, so that a corrected time zone
makes no new rows.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

from pipeline.ingest.cdr import Raw
from pipeline.ingest.cdr.columns import ColumnMap
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.values import (
    Converter,
    amaflags,
    call_id,
    disposition,
    epoch_of,
    in_utc,
    integer,
    milliseconds,
    moment,
    number,
    text,
)

Row = dict[str, Any]

_QUARTER_S = 900  # every time zone is a multiple of it away from UTC
_ZONE_SLACK_S = 5  # the first CDR of a call starts with its channel

_TEXTS = (
    "clid src dst dcontext channel accountcode peeraccount uniqueid linkedid userfield codec rtp_dest leg"
)
# Our name of a source's column -> the store's column and what its values mean; all others are times.
_MEANING: dict[str, tuple[str, Converter]] = {
    **{name: (name, text) for name in _TEXTS.split()},
    "dstchannel": ("dst_channel", text),
    "lastapp": ("last_app", text),
    "lastdata": ("last_data", text),
    "duration": ("duration_ms", milliseconds),
    "billsec": ("billsec_ms", milliseconds),
    "disposition": ("disposition", disposition),
    "amaflags": ("amaflags", amaflags),
    "sequence": ("sequence", integer),
    "sip_callid": ("call_id", call_id),
    "sip_callid_b": ("call_id_b", call_id),
    "call_id": ("call_id", call_id),
    "call_id_a": ("call_id_a", call_id),
    "hangup_cause": ("hangup_cause", integer),
    **{
        f"rtcp_{leg}{what}": (f"rtcp_{leg}{what}", text)
        for leg in ("", "a_", "b_")
        for what in ("all", "all_jitter", "all_loss", "all_rtt", "all_mes")
    },
    **{
        f"rtcp_{leg}_{what}": (f"rtcp_{leg}_{what}", integer if what.endswith("ploss") else number)
        for leg in "ab"
        for what in ("txjitter", "rxjitter", "txploss", "rxploss", "rtt")
    },
}
_TIMES = {"start": "ts", "answer": "answer_ts", "end": "end_ts", "ended_at": "end_ts"}


class BadRowError(ValueError):
    """A row that says too little or nonsense; the message says what."""


@dataclass(frozen=True, slots=True)
class ReadRow:
    """A row for the store, and by how much its start is ahead of its uniqueid (None: not comparable)."""

    row: Row
    ahead_s: float | None

    @property
    def zone_is_off(self) -> bool:
        """The start differs from the uniqueid as a wrong time zone makes it differ."""
        if self.ahead_s is None:
            return False
        quarters = round(self.ahead_s / _QUARTER_S)
        return quarters != 0 and abs(self.ahead_s - quarters * _QUARTER_S) <= _ZONE_SLACK_S


class RowMaker:
    """Makes the store's rows of one source."""

    def __init__(self, settings: CdrSourceSettings) -> None:
        self.target = settings.shape.target
        self._columns: ColumnMap = settings.column_map
        self._zone: ZoneInfo = settings.tz
        self._source = settings.name
        self._is_leg = self.target == "cdr_leg"
        self._ours: dict[str, str | None] = {}

    def read(self, raw: Raw) -> ReadRow:
        """The row for the store, without `imported_at`. Raises BadRowError."""
        row: Row = {}
        times: dict[str, Any] = {}
        extra: Row = {}
        for name, value in raw.values.items():
            if value is None or value == "":
                continue
            ours = self._our_name(name)
            if ours is None:
                extra[name] = _plain(value)
            elif ours in _TIMES:
                times[ours] = value
            else:
                column, meaning = _MEANING[ours]
                try:
                    row[column] = meaning(value)
                except (ValueError, ArithmeticError, TypeError):
                    raise BadRowError(f"{name} = {_shown(value)}") from None
        return self._finish(row, times, extra, ["cut"] if raw.cut else [])

    def _our_name(self, name: str) -> str | None:
        try:
            return self._ours[name]
        except KeyError:
            return self._ours.setdefault(name, self._columns.ours(name))

    def _finish(self, row: Row, times: Mapping[str, Any], extra: Row, defects: list[str]) -> ReadRow:
        epoch_s = epoch_of(row.get("uniqueid"))
        began = None if epoch_s is None else datetime.fromtimestamp(epoch_s, UTC)
        stood: dict[str, datetime] = {}
        for ours, value in times.items():
            try:
                if (time := moment(value)) is None:
                    continue
                row[_TIMES[ours]] = in_utc(time, self._zone, epoch_s)
                stood[ours] = time
            except (ValueError, ArithmeticError, TypeError):
                raise BadRowError(f"{ours} = {_shown(value)} is no time") from None
        ahead_s = None
        if self._is_leg:
            if began is None:
                raise BadRowError("a leg needs its uniqueid")
            row["ts"] = began
        elif "ts" not in row:
            if began is None:
                raise BadRowError("no start and no uniqueid")
            row["ts"] = began
            defects.append("no_start")
        elif epoch_s is not None:
            ahead_s = row["ts"].timestamp() - epoch_s
        if "uniqueid" not in row and "channel" not in row:
            raise BadRowError("no uniqueid and no channel")
        made = ReadRow(row, ahead_s)
        if made.zone_is_off:
            defects.append("zone")
        _forget_defaults(row)
        row["source"] = self._source
        row["source_row"] = self._key(row, stood.get("start"))
        row["defects"] = " ".join(defects) or None
        row["extra"] = extra or None
        return made

    def _key(self, row: Row, start: datetime | None) -> str:
        if self._is_leg:
            return str(row["uniqueid"])
        began = start.isoformat(" ") if start else ""
        if row.get("uniqueid") and row.get("sequence") is not None and began:
            return f"{row['uniqueid']}/{row['sequence']}/{began}"
        names = ("channel", "dst_channel", "last_app")
        first = row.get("linkedid") or row.get("uniqueid") or ""
        return "/".join([first, began, *(row.get(name) or "" for name in names)])


def _forget_defaults(row: Row) -> None:
    """The recipe's loss columns are NOT NULL DEFAULT 0: a 0 says something only if the handler came past it.

    It sets the round-trip time last, and the CDR may go out before that.
    """
    for leg in "ab":
        if row.get(f"rtcp_{leg}_rtt") is None:
            for name in (f"rtcp_{leg}_txploss", f"rtcp_{leg}_rxploss"):
                if row.get(name) == 0:
                    row[name] = None


def _plain(value: Any) -> Any:
    """A value as JSON types."""
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, float | Decimal):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, datetime):
        return value.isoformat(" ")
    return text(value)


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."
