"""Which column of a source is what: Asterisk's names for the fields of a CDR, and ready presets.

A source's columns are mapped to the names below (those of `CHANNEL()`/`CDR()` and of the well-known recipe
"call quality parameters in Asterisk CDR"); what has no such name is kept in `extra` under its own.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType

_QOS = "rtcp_{0}_all rtcp_{0}_all_jitter rtcp_{0}_all_loss rtcp_{0}_all_rtt"
_SCALARS = "rtcp_{0}_txjitter rtcp_{0}_rxjitter rtcp_{0}_txploss rtcp_{0}_rxploss rtcp_{0}_rtt"
_LEG_COLUMNS = f"{_QOS} {_SCALARS}"

# struct ast_cdr of Asterisk's include/asterisk/cdr.h, then the recipe's variables with both legs' Call-IDs.
CDR_FIELDS = tuple(
    f"""
    start answer end clid src dst dcontext channel dstchannel lastapp lastdata duration billsec disposition
    amaflags accountcode peeraccount uniqueid linkedid userfield sequence sip_callid sip_callid_b
    {_LEG_COLUMNS.format("a")} rtcp_a_all_mes {_LEG_COLUMNS.format("b")} rtcp_b_all_mes
    """.split()
)

# The table leg_qos of deploy/asterisk.
LEG_FIELDS = tuple(
    """
    ended_at uniqueid linkedid channel leg call_id call_id_a codec rtp_dest hangup_cause
    rtcp_all rtcp_all_jitter rtcp_all_loss rtcp_all_rtt rtcp_all_mes
    """.split()
)

# cdr_csv.c, build_csv_record: 16 columns always, the others by its options.
_CSV_BASE = tuple(
    """
    accountcode src dst dcontext clid channel dstchannel lastapp lastdata start answer end duration billsec
    disposition amaflags
    """.split()
)
_CSV_NEW = ("peeraccount", "linkedid", "sequence")
_UNIQUEID = re.compile(r"(?:.+-)?\d{9,}\.\d+")


@dataclass(frozen=True, slots=True)
class Preset:
    """A well-known shape: the table it fills, its names where they differ, its columns where no header is."""

    target: str = "cdr"  # table of the store: cdr or cdr_leg
    renamed: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))  # theirs -> ours
    order: tuple[str, ...] = ()
    time: str = "start"  # our name of the column that tables are polled by
    zone: str | None = None  # where the shape itself fixes it
    by_count: bool = False  # lines of one file may differ in their number of columns (cdr_csv)

    @property
    def fields(self) -> tuple[str, ...]:
        """What columns can be mapped to."""
        return LEG_FIELDS if self.target == "cdr_leg" else CDR_FIELDS


_CALLDATE = MappingProxyType({"calldate": "start"})

PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        # The recipe's table, in the order of its CREATE TABLE.
        "cdr_extra": Preset(
            renamed=_CALLDATE,
            order=tuple(
                f"""
                calldate clid src dst dcontext channel dstchannel lastapp lastdata duration billsec disposition
                amaflags accountcode uniqueid userfield sip_callid
                {_LEG_COLUMNS.format("a")} {_LEG_COLUMNS.format("b")}
                """.split()
            ),
        ),
        # A table made for cdr_adaptive_odbc or cdr_pgsql: columns are named as the fields.
        "cdr_adaptive": Preset(
            order=tuple(
                """
                accountcode src dst dcontext clid channel dstchannel lastapp lastdata start answer end duration
                billsec disposition amaflags userfield uniqueid linkedid peeraccount sequence
                """.split()
            )
        ),
        "cdr_csv": Preset(order=(*_CSV_BASE, "uniqueid", "userfield", *_CSV_NEW), by_count=True),
        "cdr_custom": Preset(),  # the columns are those of its mapping
        "freepbx": Preset(
            renamed=_CALLDATE,
            order=tuple(
                """
                calldate clid src dst dcontext channel dstchannel lastapp lastdata duration billsec disposition
                amaflags accountcode uniqueid userfield did recordingfile cnum cnam outbound_cnum outbound_cnam
                dst_cnam linkedid peeraccount sequence
                """.split()
            ),
        ),
        "leg_qos": Preset(target="cdr_leg", order=LEG_FIELDS, time="ended_at", zone="UTC"),
    }
)


@dataclass(frozen=True, slots=True)
class ColumnMap:
    """Their names -> ours, for one source. Case does not matter in theirs."""

    preset: Preset
    given: Mapping[str, str]  # from the configuration; wins over the preset

    def ours(self, name: str) -> str | None:
        """Our name of their column; None: it goes to `extra`."""
        key = name.lower()
        for theirs, ours in self.given.items():
            if theirs.lower() == key:
                return ours
        key = self.preset.renamed.get(key, key)
        return key if key in self.preset.fields else None

    def theirs(self, field_name: str) -> str:
        """Their name of one of our fields, as it is written where it is stated."""
        for stated in (self.given, self.preset.renamed):
            for theirs, ours in stated.items():
                if ours == field_name:
                    return theirs
        return field_name

    def is_header(self, cells: Sequence[str]) -> bool:
        """True for a line of column names: nothing but names, and at least three that are known."""
        names = [cell.strip() for cell in cells]
        if not all(re.fullmatch(r"[A-Za-z_][\w .()-]*", name) for name in names):
            return False
        return sum(self.ours(name) is not None for name in names) >= 3


def csv_columns(cells: Sequence[str]) -> tuple[str, ...] | None:
    """The columns of one line of cdr_csv by their number and content; None when it has no such shape.

    16 is the base; `loguniqueid` and `loguserfield` add one each, `newcdrcolumns` three.
    """
    new = _CSV_NEW if len(cells) >= 19 else ()
    left = len(cells) - len(_CSV_BASE) - len(new)
    if not 0 <= left <= 2:
        return None
    middle: tuple[str, ...] = ("uniqueid", "userfield")[:left]
    if left == 1 and not _UNIQUEID.fullmatch(cells[len(_CSV_BASE)]):
        middle = ("userfield",)
    return (*_CSV_BASE, *middle, *new)


def column_list(text: str) -> list[str]:
    """Column names from a list with commas, or from a line of cdr_custom.conf as it stands there.

    `${CSV_QUOTE(${CDR(clid)})},${CDR(src)},${EPOCH}` -> clid, src, epoch; `start(%FT%T%z),sip_callid(uservar)`
    -> start, sip_callid. Raises ValueError for an empty name.
    """
    names = []
    for part in _split(text):
        inner = re.search(r"CDR\(\s*(\w+)", part) or re.search(r"\$\{\s*(\w+)\s*\}", part)
        name = inner[1] if inner else part.partition("(")[0].strip()
        if not name:
            raise ValueError(f"a column has no name in {text!r}")
        names.append(name.lower())
    return names


def _split(text: str) -> list[str]:
    """Split at commas outside of brackets."""
    parts, depth = [""], 0
    for char in text.rpartition("=>")[2]:
        depth += (char in "({") - (char in ")}")
        if char == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += char
    return parts
