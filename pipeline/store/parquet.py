"""Rows to Parquet files: conforming to a table's schema, sorting, cutting by day, writing durably.

Written by pyarrow and not by DuckDB's INSERT: a third of the CPU, and DuckDB does not fsync its Parquet
files, so that after a power cut the catalog would name files that are empty.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from pipeline.errors import StoreError
from pipeline.store.paths import StorePaths, fsync
from pipeline.store.schema import Layout, arrow_schema, layout, low_cardinality

_ROW_GROUP_ROWS = 16_384
_BLOOM_FALSE_POSITIVES = 0.01


def conform(name: str, rows: pa.Table | Sequence[Mapping[str, Any]], node: str) -> pa.Table:
    """`rows` with exactly the columns and types of table `name`; missing columns are NULL, `node` is filled.

    Times may be given as aware datetimes or as integer microseconds since the epoch; JSON as text or as
    mappings and lists. Raises StoreError for a column or value that the table cannot hold: here, in the
    caller's hands, so that nothing unwritable ever enters the queue.
    """
    schema = arrow_schema(name)
    try:
        given = rows.column_names if isinstance(rows, pa.Table) else {key for row in rows for key in row}
        if unknown := set(given) - set(schema.names):
            raise StoreError(f"table {name} has no column {', '.join(sorted(unknown))}")
        table = rows if isinstance(rows, pa.Table) else _from_rows(rows, given, schema)
        return pa.table(
            [_column(table, field, node) for field in schema],
            schema=schema,
        )
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        raise StoreError(f"rows that table {name} cannot hold: {error}") from error


def latest(table_name: str, rows: pa.Table) -> pa.Table:
    """Of the rows of a table of states: the last one of each key. Rows of other tables: all."""
    key = layout(table_name).latest_by
    if not key:
        return rows
    numbered = rows.select(key).append_column("row", pa.array(range(rows.num_rows), pa.int64()))
    return rows.take(numbered.group_by(list(key)).aggregate([("row", "max")]).column("row_max"))


def write_files(
    paths: StorePaths, table_name: str, rows: pa.Table, batch_id: str, recorded_at: datetime
) -> list[Path]:
    """Write `rows` (as `conform` makes them) to one file per day, durably, and return the files.

    Nothing reads them before they are registered with the catalog. On an error the files of this call
    are removed again.
    """
    how = layout(table_name)
    rows = _stamp(rows, batch_id, recorded_at)
    if how.sort_by:
        rows = rows.sort_by([(column, "ascending") for column in how.sort_by])
    written: list[Path] = []
    try:
        for folder, part in _by_day(paths.table_folder(table_name), rows, how):
            _make_folder(folder, paths.files)
            file = folder / f"{batch_id}.parquet"
            written.append(file)
            _write_file(file, part, how)
            fsync(file)
            fsync(folder)
    except BaseException:
        remove_files(written)
        raise
    return written


def remove_files(files: Sequence[Path]) -> None:
    """Remove files that were never registered, as far as they are there."""
    for file in files:
        try:
            file.unlink(missing_ok=True)
        except OSError:  # the next start clears what is left
            continue


def _from_rows(rows: Sequence[Mapping[str, Any]], names: Collection[str], schema: pa.Schema) -> pa.Table:
    arrays = {}
    for name in names:
        values = [row.get(name) for row in rows]
        kind = schema.field(name).type
        if kind == pa.json_():
            values = [_json_text(value) for value in values]
        arrays[name] = pa.array(values, kind)
    return pa.table(arrays)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, default=str, separators=(",", ":"))


def _column(table: pa.Table, field: pa.Field, node: str) -> pa.ChunkedArray:
    if field.name in table.column_names:
        return table.column(field.name).cast(field.type)
    if field.name == "node":
        return pa.chunked_array([pa.repeat(node, table.num_rows)])
    return pa.chunked_array([pa.nulls(table.num_rows, field.type)])


def _stamp(rows: pa.Table, batch_id: str, recorded_at: datetime) -> pa.Table:
    """Fill what only the writer knows."""
    moment = pa.scalar(recorded_at, pa.timestamp("us", "UTC"))
    for name, value in (("batch_id", batch_id), ("recorded_at", moment)):
        if name in rows.column_names:
            at = rows.schema.get_field_index(name)
            rows = rows.set_column(at, rows.schema.field(at), pa.repeat(value, rows.num_rows))
    if "received_at" in rows.column_names:
        at = rows.schema.get_field_index("received_at")
        filled = pc.fill_null(rows.column(at), moment)
        rows = rows.set_column(at, rows.schema.field(at), filled)
    return rows


def _by_day(folder: Path, rows: pa.Table, how: Layout) -> Iterator[tuple[Path, pa.Table]]:
    """The rows of each day of the partition column, with the folder that DuckLake would give them."""
    if how.partition_column is None:
        yield folder, rows
        return
    days = rows.column(how.partition_column).cast(pa.timestamp("us")).cast(pa.date32())
    distinct = days.unique().to_pylist()
    for day in distinct:
        part = rows if len(distinct) == 1 else rows.filter(pc.equal(days, day))
        yield folder / f"year={day.year}" / f"month={day.month}" / f"day={day.day}", part


def _make_folder(folder: Path, root: Path) -> None:
    """Make `folder` under `root`, and make the names of new folders durable."""
    if folder.is_dir():
        return
    if folder != root:
        _make_folder(folder.parent, root)
    folder.mkdir(exist_ok=True)
    fsync(folder.parent)


def _write_file(file: Path, rows: pa.Table, how: Layout) -> None:
    bloom = None
    if how.bloom_column is not None:
        distinct = pc.count_distinct(rows.column(how.bloom_column)).as_py()
        bloom = {how.bloom_column: {"ndv": max(distinct, 1), "fpp": _BLOOM_FALSE_POSITIVES}}
    pq.write_table(
        rows,
        file,
        row_group_size=_ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=1,
        use_dictionary=[name for name in rows.column_names if low_cardinality(name)],
        bloom_filter_options=bloom,
    )
