"""Values as they may leave the app: JSON that says all, CSV that no spreadsheet takes for formulas."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import pandas as pd

from app.look import missing
from pipeline.ladder import printable

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_BOM = b"\xef\xbb\xbf"  # or Excel reads UTF-8 as something else


def to_json(value: Any) -> str:
    """Times in ISO 8601 with their zone, bytes as text where they are text, else as hex; ASCII only."""
    return json.dumps(value, default=_plain, ensure_ascii=True, indent=1)


def csv_lines(frames: Iterable[pd.DataFrame], columns: Sequence[str]) -> bytes:
    """A CSV file of frames with these columns, the header first; times in ISO 8601, unknown values empty."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\r\n")
    writer.writerow(columns)
    for frame in frames:
        for row in frame[list(columns)].itertuples(index=False, name=None):
            writer.writerow([cell(value) for value in row])
    return _BOM + file.getvalue().encode("utf-8", "replace")


def cell(value: Any) -> Any:
    """A value as a CSV cell: text without control characters, and with a quote before what looks like a formula."""
    if missing(value):
        return ""
    if isinstance(value, datetime):
        return value.isoformat()
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if value.startswith(_FORMULA) else text


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError:
            return value.hex()
    if isinstance(value, Decimal):
        return float(value)
    return str(value)
