"""Lines of CDR files to cells: cdr_csv and cdr_custom, exports, MySQL's OUTFILE, Asterisk's JSON and TSV.

Asterisk's cdr_custom (from 20.19, 22.9 and 23.3 on) cuts each record at 1023 bytes, in the middle of
whatever stands there, and keeps the newline. So its files must be read line by line: a quote that stays open
ends with its line, and the last cell is dropped. In exports a quoted cell may go on in the next line.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from typing import Any, Literal

Format = Literal["csv", "tsv", "outfile", "json"]

CUT_BYTES = 1023  # asterisk: main/cdrel_custom writes through a buffer of 1024
_NULL = "\ue000NULL"  # stands for \N while csv takes the backslashes away; from the private-use area
_OUTFILE_NULL = re.compile(r"(?:(?<=,)|^)\\N(?=,|$)")
_ESCAPE = re.compile(r'\\(["\\/bfnrt]|u[0-9a-fA-F]{4})|\\')


class BadLineError(ValueError):
    """A line that is no record; the message says why."""


class OpenLineError(BadLineError):
    """A record that is not complete at the end of its line: it may go on in the next one."""


def cells_of(line: str, kind: Format, *, is_cut: bool = False) -> list[str | None]:
    """The cells of a line of CSV, TSV or OUTFILE; of one that Asterisk cut without the cell that was cut.

    Raises OpenLineError for a quote that stays open in a line that is not cut, BadLineError for garbage.
    """
    if kind == "outfile":
        return _outfile_cells(line)
    delimiter = "\t" if kind == "tsv" else ","
    try:
        cells = next(csv.reader([line], delimiter=delimiter, strict=True), [])
    except csv.Error as error:
        if "unexpected end" not in str(error):
            raise BadLineError(str(error)) from None
        if not is_cut:
            raise OpenLineError("a quote stays open") from None
        return [*next(csv.reader([line], delimiter=delimiter))[:-1]]
    return [*(cells[:-1] if is_cut and not line.endswith('"') else cells)]


def object_of(line: str, *, is_cut: bool = False) -> dict[str, Any]:
    """The object in a line of JSON; of one that Asterisk cut without the member that was cut.

    Raises BadLineError.
    """
    # Asterisk does not escape backslashes: those that mean nothing stand for themselves.
    line = _ESCAPE.sub(lambda escape: escape[0] if escape[1] else r"\\", line)
    try:
        return _flat(_loaded(line, is_cut))
    except RecursionError:
        raise BadLineError("no JSON: nested too deeply") from None


def _loaded(line: str, is_cut: bool) -> dict[str, Any]:
    try:
        found: Any = json.loads(line)
    except ValueError as error:
        if not is_cut or not line.startswith("{"):
            raise BadLineError(f"no JSON: {error}") from None
        found = _members(line)
    if not isinstance(found, dict):
        raise BadLineError("no JSON object")
    if "\\u" in line:  # half of a surrogate pair is no text that could be stored
        whole: dict[str, Any] = json.loads(json.dumps(found, ensure_ascii=False).encode("utf-8", "replace"))
        return whole
    return found


def _flat(found: dict[str, Any]) -> dict[str, Any]:
    """With what is nested as text."""
    return {
        name: json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else value
        for name, value in found.items()
    }


def guess_format(lines: Sequence[str]) -> Format:
    """What the first lines of a file look like."""
    lines = [line for line in lines if line.strip()]
    if not lines:
        return "csv"
    if lines[0].startswith("{"):
        return "json"
    if lines[0].count("\t") >= 2 and lines[0].count("\t") > lines[0].count(","):
        return "tsv"
    readable = {kind: sum(_is_readable(line, kind) for line in lines) for kind in ("csv", "outfile")}
    if any(_OUTFILE_NULL.search(line) for line in lines) or readable["outfile"] > readable["csv"]:
        return "outfile"
    return "csv"


def _is_readable(line: str, kind: Format) -> bool:
    try:
        cells_of(line, kind, is_cut=len(line.encode()) == CUT_BYTES)
    except BadLineError:
        return False
    return True


def _outfile_cells(line: str) -> list[str | None]:
    """A newline inside a cell is written as a backslash and the newline itself."""
    if (len(line) - len(line.rstrip("\\"))) % 2:
        raise OpenLineError("a backslash stands before the end of the line")
    line = _OUTFILE_NULL.sub(_NULL, line) if r"\N" in line else line
    lines = [f"{part}\n" for part in line.split("\n")]
    lines[-1] = lines[-1][:-1]
    try:
        cells = next(csv.reader(lines, escapechar="\\", doublequote=False, strict=True), [])
    except csv.Error as error:
        kind = OpenLineError if "unexpected end" in str(error) else BadLineError
        raise kind(str(error)) from None
    return [None if cell == _NULL else cell for cell in cells]


def _members(line: str) -> dict[str, Any]:
    """The whole members of a flat JSON object that breaks off."""
    decoder = json.JSONDecoder()
    found: dict[str, Any] = {}
    at = 1
    while True:
        try:
            name, at = decoder.raw_decode(line, at)
            value, at = decoder.raw_decode(line, at + 1)
        except ValueError:
            return found
        if line[at : at + 1] != ",":  # a number may go on behind the cut
            return found
        found[str(name)] = value
        at += 1
