"""Rows on stdout: a table for people, JSON lines or CSV for programs."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from decimal import Decimal
from typing import Any

import typer

from pipeline.ladder import CONTROL, printable

Row = Mapping[str, Any]


def print_rows(
    rows: Sequence[Row],
    columns: Sequence[str] | None,
    *,
    as_json: bool = False,
    as_csv: bool = False,
    plain: bool = False,
    header: bool = True,
    zone: tzinfo = UTC,
) -> None:
    """Print `rows`; `columns` (all when None) says which and in which order. `plain`: one line a row, no box.
    Without `header` a table or CSV goes on where another ended.

    Times are shown in `zone`; where it is not UTC, with their offset.
    """
    names = list(columns) if columns is not None else list(rows[0] if rows else ())
    if as_json:
        for row in rows:
            typer.echo(_json({name: _plain(row[name], zone) for name in (columns or row)}))
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        if header:
            writer.writerow(names)
        writer.writerows([_csv_cell(row[name], zone) for name in names] for row in rows)
    elif plain:
        for row in rows:
            typer.echo("  ".join(_cell(row[name], zone) for name in names))
    else:
        _print_table([[_cell(row[name], zone) for name in names] for row in rows], names, header)


def _print_table(cells: list[list[str]], names: list[str], header: bool) -> None:
    widths = [max([len(name), *(len(line[i]) for line in cells)]) for i, name in enumerate(names)]
    lines = [names, *cells] if header else cells
    for line in lines:
        typer.echo("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())
    if not cells:
        typer.echo("(no rows)", err=True)


def _json(value: Any) -> str:
    """One line; text as it is, but for what steers a terminal."""
    return CONTROL.sub(lambda match: f"\\u{ord(match[0]):04x}", json.dumps(value, ensure_ascii=False))


def _plain(value: Any, zone: tzinfo) -> Any:
    """A value as JSON types: times in ISO 8601, bytes as text where they are, else hex."""
    if isinstance(value, Mapping):
        return {str(name): _plain(item, zone) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, zone) for item in value]
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, datetime):
        value = (value if value.tzinfo is None else value.astimezone(zone)).isoformat()
    elif isinstance(value, bytes | bytearray):
        value = _text_or_hex(bytes(value))
    elif isinstance(value, Decimal):  # what DuckDB's sum() gives
        value = int(value) if value == value.to_integral_value() else float(value)
    elif isinstance(value, float) and math.isinf(value):
        value = str(value)  # JSON has no such number
    return value if isinstance(value, bool | int | float | str) else str(value)


def _text_or_hex(value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.hex()


def _cell(value: Any, zone: tzinfo) -> str:
    plain = _plain(value, zone)
    if plain is None:
        return "-"
    if isinstance(plain, float):
        return f"{plain:g}" if plain.is_integer() else f"{plain:.3f}"
    if isinstance(value, datetime):
        here = datetime.fromisoformat(plain)
        offset = "" if zone is UTC else here.isoformat()[-6:]
        return f"{here:%Y-%m-%d %H:%M:%S}.{here.microsecond // 1000:03d}{offset}"
    return printable(json.dumps(plain) if isinstance(plain, (dict, list)) else plain)


def _csv_cell(value: Any, zone: tzinfo) -> Any:
    plain = _plain(value, zone)
    if plain is None:
        return ""
    text = json.dumps(plain) if isinstance(plain, (dict, list)) else plain
    if not isinstance(text, str):
        return text
    text = "\n".join(printable(line) for line in text.replace("\r\n", "\n").split("\n"))
    # A spreadsheet takes such a cell for a formula.
    return "'" + text if text[:1] in {"=", "+", "-", "@"} else text
