"""Telephone numbers as they may be shown: without their last digits, where `app.mask_numbers` says so.

A number is 5 to 25 digits, with the usual marks between them; its last four become `x`. Nothing changes its
length, so a masked message is as long as the one on the wire. What merely looks like a number (a port, a CSeq, a
tag) stays: numbers are looked for in user parts of URIs, in `tel:` URIs and in displayed names only.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    import pandas as pd

HIDDEN_DIGITS: Final = 4
COLUMNS: Final = frozenset(
    {
        *("from", "to", "user", "from_user", "to_user", "ruri_user", "from_display", "contact", "aor"),
        *("src", "dst", "clid", "caller", "callee", "identifier", "label"),
    }
)
"""Columns of tables whose values may hold a number."""

_MARKS = r"[\s().\-/]"
_NUMBER = rf"\+?\(?(?:\d{_MARKS}{{0,3}}){{4,24}}\d"
_WHOLE = re.compile(rf"\s*{_NUMBER}\s*")
_URI_USER = re.compile(
    rf"(?<![\w.])(?P<before>(?:sips?|tel):)(?P<number>{_NUMBER})(?=[@;?>,\s]|$)", re.IGNORECASE
)
_ADDRESS = re.compile(rf"(?P<before>^)(?P<number>{_NUMBER})(?=@)")  # a whole value: an AOR without its scheme
_DISPLAYED = re.compile(rf"(?P<before>\")(?P<number>{_NUMBER})(?=\")")
_UNQUOTED = re.compile(rf"(?P<before>:[ \t]*)(?P<number>{_NUMBER})(?=[ \t]*<)")
_REQUEST = re.compile(rf"(?P<before>^[A-Z]+ )(?P<number>{_NUMBER})(?=$| x\d+$)")
_DIGIT = re.compile(r"\d")


def mask_number(text: str) -> str:
    """A text that is a number as a whole, without its last digits; any other as it is."""
    return _masked(text) if _WHOLE.fullmatch(text) else text


def mask_text(text: str) -> str:
    """A SIP message, a URI, a ladder's label: every number in it masked, the length kept."""
    for pattern in (_URI_USER, _ADDRESS, _DISPLAYED, _UNQUOTED, _REQUEST):
        text = pattern.sub(lambda found: found["before"] + _masked(found["number"]), text)
    return mask_number(text)


def mask_payload(payload: bytes) -> bytes:
    """The same for bytes; those that are no text stay as they are."""
    return mask_text(payload.decode("latin-1")).encode("latin-1")


def mask_value(column: str, value: Any) -> Any:
    """A value of a table: masked where its column may hold numbers, or is a payload."""
    if column == "payload" and isinstance(value, bytes):
        return mask_payload(value)
    return mask_text(value) if column in COLUMNS and isinstance(value, str) else value


def mask_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row with each of its values as `mask_value` has it."""
    return {name: mask_value(name, value) for name, value in row.items()}


def mask_frame(frame: pd.DataFrame) -> pd.DataFrame:
    """A table with each of its values as `mask_value` has it; the frame given stays as it is."""
    masked = {
        column: frame[column].map(lambda value, column=column: mask_value(column, value))
        for column in frame.columns
        if column in COLUMNS or column == "payload"
    }
    return frame.assign(**masked)


def _masked(number: str) -> str:
    digits = [found.start() for found in _DIGIT.finditer(number)][-HIDDEN_DIGITS:]
    return "".join("x" if at in digits else sign for at, sign in enumerate(number))
