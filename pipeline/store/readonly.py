"""What counts as reading: judged by the tree that DuckDB's own parser makes of a statement.

A lake attached READ_ONLY refuses most changes, but some of DuckLake's functions delete files before they
find out, and COPY may write where readers must be able to read.
"""

from __future__ import annotations

import json
import re

import duckdb

from pipeline.errors import StoreError

# What may stand before a SELECT, or before the name of a table, without changing anything.
_ASKING = re.compile(r"\s*(EXPLAIN(\s+ANALYZE)?|DESCRIBE|SUMMARIZE|SHOW)\s+(?=\S)", re.IGNORECASE)
_TABLE_NAME = re.compile(r"(ALL\s+TABLES|[\w.]+)\s*;?\s*", re.IGNORECASE)
_FUNCTION = re.compile(r'"function_name":"([^"]*)"')
# DuckLake's functions that write, with or without their prefix; and those that run SQL hidden in a string.
_BARRED = frozenset(
    {
        *("add_data_files", "cleanup_old_files", "commit", "delete_orphaned_files", "expire_snapshots"),
        *(
            "flush_inlined_data",
            "merge_adjacent_files",
            "rewrite_data_files",
            "set_commit_message",
            "set_option",
        ),
        *("query", "query_table", "json_execute_serialized_sql"),
    }
)


def require_reading(sql: str) -> None:
    """Let pass one SELECT (also WITH, FROM), or EXPLAIN, DESCRIBE, SUMMARIZE, SHOW of one or of a table.

    Raises StoreError for anything else, with what the parser says of a statement that it cannot read.
    """
    asked = _ASKING.sub("", sql, count=1)
    if asked != sql and _TABLE_NAME.fullmatch(asked):
        return
    with duckdb.connect() as parser:
        row = parser.execute("SELECT json_serialize_sql(?::VARCHAR)", [asked]).fetchone()
    tree = str(row[0]) if row else ""
    parsed = json.loads(tree)
    if parsed["error"]:
        syntax = parsed["error_type"] == "parser"
        raise StoreError(
            str(parsed["error_message"]) if syntax else "the store is read-only here: SELECT only"
        )
    if len(parsed["statements"]) != 1:
        raise StoreError("one statement at a time")
    for name in _FUNCTION.findall(tree.lower()):
        if name.removeprefix("ducklake_") in _BARRED or name.startswith("quack_"):
            raise StoreError(f"the store is read-only here: {name} is not")
