"""CDR files: every shape that Asterisk and the databases write, whole, once, and followed as they grow."""

from __future__ import annotations

import csv
import gzip
import itertools
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest
from cdr_recordings import EXTRA_ROWS, FULL_ROWS, SESSIONS, ZONE, Importer, header, importer, mapping, path

from pipeline.ingest.cdr import CdrError

MASTER = path("r22-main", "Master.csv")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Importer]:
    with importer(tmp_path) as made:
        yield made


# -- shapes ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("session", SESSIONS)
def test_every_export_gives_the_same_rows(store: Importer, session: str) -> None:
    """CSV with header, MySQL's OUTFILE and PostgreSQL's COPY of one table; DuckDB reads the first one too."""
    for name in ("cdr_full.csv", "cdr_full.pg.csv"):
        assert store.source(path(session, name), once=True).poll() == FULL_ROWS[session]
    outfile = path(session, "cdr_full.outfile.csv")
    columns = header(session, "cdr_full.csv")
    assert store.source(outfile, columns=columns, once=True).poll() == FULL_ROWS[session]
    told = "ts, uniqueid, sequence, call_id, call_id_b, rtcp_a_all, rtcp_b_all, rtcp_b_all_mes, rtcp_a_rtt"
    read = store.sql(f"SELECT {told} FROM cdr WHERE source = 'cdr_full.csv' ORDER BY uniqueid, sequence")
    assert read == store.sql(f"SELECT {told} FROM cdr WHERE source = 'cdr_full.outfile.csv' ORDER BY 2, 3")
    # Through ODBC into PostgreSQL, Asterisk doubles backslashes; what stands in a table is left as it is.
    once = told.replace("call_id,", r"replace(call_id, '\\', '\') AS call_id,", 1)
    assert read == store.sql(f"SELECT {once} FROM cdr WHERE source = 'cdr_full.pg.csv' ORDER BY 2, 3")
    raw = duckdb.sql(
        f"SELECT start::TIMESTAMP AT TIME ZONE 'UTC', uniqueid, sequence, sip_callid, sip_callid_b,"
        " nullif(rtcp_a_all, ''), nullif(rtcp_b_all, ''), nullif(rtcp_b_all_mes, ''), rtcp_a_rtt"
        f" FROM read_csv('{path(session, 'cdr_full.csv')}', types={{'uniqueid': 'VARCHAR'}}) ORDER BY 2, 3"
    ).fetchall()
    assert read == raw


@pytest.mark.parametrize("session", SESSIONS)
def test_the_recipes_table(store: Importer, session: str) -> None:
    how = {"preset": "cdr_extra", "zone": ZONE, "once": True}
    assert store.source(path(session, "cdr_extra.csv"), **how).poll() == EXTRA_ROWS[session]
    assert store.source(path(session, "cdr_extra.outfile.csv"), **how).poll() == EXTRA_ROWS[session]
    assert store.source(path(session, "cdr_full.csv"), once=True).poll() == FULL_ROWS[session]
    told = "ts, uniqueid, call_id, rtcp_a_all, disposition, amaflags"
    extra, outfile, full = (
        store.sql(f"SELECT {told} FROM cdr WHERE source = ? ORDER BY ALL", name)
        for name in ("cdr_extra.csv", "cdr_extra.outfile.csv", "cdr_full.csv")
    )
    assert extra == outfile
    # A strict MariaDB refused the row of call 27 in cdr_extra only; amaflags is a number there.
    assert len(set(full) - set(extra)) == FULL_ROWS[session] - EXTRA_ROWS[session]
    assert not set(extra) - set(full)


@pytest.mark.parametrize("session", SESSIONS)
def test_master_csv(store: Importer, session: str) -> None:
    assert store.source(path(session, "Master.csv"), preset="cdr_csv").poll() == FULL_ROWS[session]
    assert store.source(path(session, "cdr_full.csv")).poll() == FULL_ROWS[session]
    told = (
        "ts, answer_ts, uniqueid, linkedid, sequence, src, dst, channel, dst_channel, disposition, amaflags"
    )
    rows = [store.sql(f"SELECT {told} FROM cdr WHERE source = ? ORDER BY ALL", name) for name in
            ("Master.csv", "cdr_full.csv")]  # fmt: skip
    assert rows[0] == rows[1]


def test_master_csv_with_any_of_its_options(store: Importer, tmp_path: Path) -> None:
    """The columns as cdr_csv.c writes them, cut from a file that has them all: 16, 17, 17, 18, 19, 20, 20, 21."""
    rows = list(csv.reader(MASTER.read_text().splitlines()))
    added = {"uniqueid": [16], "userfield": [17], "newcdrcolumns": [18, 19, 20]}
    for chosen in itertools.product((False, True), repeat=3):
        options = dict(zip(added, chosen, strict=True))
        taken = [*range(16), *(at for name, columns in added.items() if options[name] for at in columns)]
        file = tmp_path / f"{'+'.join(name for name, is_on in options.items() if is_on)}.csv"
        with file.open("w", newline="") as cut:
            writer = csv.writer(cut, quoting=csv.QUOTE_ALL, lineterminator="\n")
            for row in rows:
                row[17] = 'a, "user\'s" field'
                writer.writerow([row[at] for at in taken])
        assert store.source(file, preset="cdr_csv").poll() == 103
        counted = store.sql(
            "SELECT count(uniqueid), count(userfield), count(linkedid), count(sequence), count(DISTINCT source_row)"
            " FROM cdr WHERE source = ?",
            file.name,
        )
        told = [options[name] for name in ("uniqueid", "userfield", "newcdrcolumns", "newcdrcolumns")]
        assert counted == [(*(103 * is_on for is_on in told), 103)]


def test_cdr_custom_cut_at_1023_bytes(store: Importer) -> None:
    """What stands before the cut is whole; the cell in which it falls is gone."""
    source = store.source(
        path("r22-main", "Qos.csv"),
        preset="cdr_custom",
        columns=mapping("r22-main", "Qos.csv"),
        zone=ZONE,
    )
    assert source.poll() == 103
    assert source.status.warning is None
    assert store.source(path("r22-main", "cdr_full.csv")).poll() == 103
    lines = path("r22-main", "Qos.csv").read_bytes().splitlines()
    assert store.sql("SELECT count(*) FROM cdr WHERE defects = 'cut'") == [
        (sum(len(line) == 1023 for line in lines),)
    ]
    strings = [f"rtcp_{leg}_all{more}" for leg in "ab" for more in ("", "_jitter", "_loss", "_rtt", "_mes")]
    for column in ("call_id", "call_id_b", *strings):
        wrong = f"""
            SELECT q.uniqueid, q.{column}, f.{column} FROM cdr q JOIN cdr f USING (uniqueid, sequence)
            WHERE q.source = 'Qos.csv' AND f.source = 'cdr_full.csv'
                AND q.{column} IS DISTINCT FROM f.{column}
                AND (q.{column} IS NOT NULL OR q.defects IS DISTINCT FROM 'cut')"""
        assert store.sql(wrong) == [], column
    assert store.sql("SELECT count(rtcp_a_all_loss) FROM cdr WHERE source = 'Qos.csv'")[0][0] >= 70


def test_cdr_custom_that_is_not_cut(store: Importer) -> None:
    columns = mapping("r22-custom-legacy", "QosLegacy.csv")
    legacy = path("r22-custom-legacy", "QosLegacy.csv")
    source = store.source(legacy, preset="cdr_custom", columns=columns, zone=ZONE)
    assert source.poll() == 16
    assert store.sql("SELECT count(*), count(defects), count(rtcp_b_rtt) FROM cdr") == [(16, 0, 8)]
    written = [row[-1] for row in csv.reader(legacy.read_text().splitlines())]
    kept = [json.loads(row[0])["epoch"] for row in store.sql("SELECT extra FROM cdr")]
    assert sorted(kept) == sorted(written)


def test_json_and_tsv_of_the_advanced_writer(store: Importer) -> None:
    assert store.source(path("r22-main", "qos_adv.json"), preset="cdr_custom", zone=ZONE).poll() == 103
    tsv = store.source(
        path("r22-main", "qos_adv.tsv"), preset="cdr_custom", columns=mapping("r22-main", "qos_adv.tsv")
    )
    assert tsv.poll() == 103
    assert store.source(path("r22-main", "cdr_full.csv")).poll() == 103
    # The TSV writes the offset with the start, the end as seconds since the epoch, disposition as a number.
    for name in ("qos_adv.json", "qos_adv.tsv"):
        wrong = f"""
            SELECT * FROM cdr q JOIN cdr f USING (uniqueid, sequence)
            WHERE q.source = '{name}' AND f.source = 'cdr_full.csv' AND (
                q.ts != f.ts OR abs(date_diff('ms', q.end_ts, f.end_ts)) > 1000
                OR q.call_id IS DISTINCT FROM f.call_id OR q.disposition != f.disposition
                OR (q.rtcp_a_all IS DISTINCT FROM f.rtcp_a_all))"""
        assert store.sql(wrong) == [], name
    json_lines = path("r22-main", "qos_adv.json").read_bytes().splitlines()
    cut = sum(len(line) == 1023 for line in json_lines)
    assert store.sql("SELECT count(*) FROM cdr WHERE source = 'qos_adv.json' AND defects = 'cut'") == [(cut,)]


def test_a_call_id_with_everything_in_it(store: Importer) -> None:
    """Call 75's Call-ID holds quotes, a backslash, brackets; JSON and OUTFILE each spoil it in their own way."""
    truth = [
        row["callid_a"]
        for row in csv.DictReader(path("r22-main", "calls_truth.csv").read_text().splitlines())
        if row["id"] == "75"
    ]
    for name, how in (
        ("cdr_extra.csv", {"preset": "cdr_extra"}),
        ("cdr_extra.outfile.csv", {"preset": "cdr_extra"}),
        ("Qos.csv", {"preset": "cdr_custom", "columns": mapping("r22-main", "Qos.csv")}),
        ("qos_adv.json", {"preset": "cdr_custom"}),
        ("qos_adv.tsv", {"preset": "cdr_custom", "columns": mapping("r22-main", "qos_adv.tsv")}),
    ):
        store.source(path("r22-main", name), **how).poll()
        told = store.sql("SELECT call_id FROM cdr WHERE source = ? AND uniqueid = '1795374431.128'", name)
        assert told == [(truth[0],)], name


# -- growing ---------------------------------------------------------------------------------------------


def test_a_file_that_grows_byte_by_byte(store: Importer, tmp_path: Path) -> None:
    """However a write is torn, each line is taken once it is whole."""
    file, data = tmp_path / "Master.csv", MASTER.read_bytes()[:3000]
    file.touch()
    source = store.source(file, preset="cdr_csv")
    for end in range(0, len(data), 97):
        with file.open("ab") as out:
            out.write(data[max(end - 97, 0) : end])
        source.poll()
        store.assert_once(data[: max(end, 0)].count(b"\n"))
    assert source.status.refused == 0


def test_a_last_line_that_is_not_complete_waits(store: Importer, tmp_path: Path) -> None:
    lines = MASTER.read_bytes().splitlines(keepends=True)
    file = tmp_path / "Master.csv"
    file.write_bytes(b"".join(lines[:10]) + lines[10][:60])
    assert store.source(file, preset="cdr_csv").poll() == 10
    # Nobody writes to it any more: what is not whole is no row, and no error either.
    assert store.source(file, preset="cdr_csv", once=True).poll() == 0
    file.write_bytes(b"".join(lines[:11]).rstrip(b"\n"))
    assert store.source(file, preset="cdr_csv").poll() == 0
    assert store.source(file, preset="cdr_csv", once=True).poll() == 1
    store.assert_once(11)


@pytest.mark.parametrize("how", ["rename", "rename and compress", "copy and truncate", "date in the name"])
def test_rotation_loses_and_repeats_nothing(store: Importer, tmp_path: Path, how: str) -> None:
    """Lines written after the last poll and before the rotation are read from the old file."""
    lines = MASTER.read_bytes().splitlines(keepends=True)
    file = tmp_path / "Master.csv"
    file.write_bytes(b"".join(lines[:40]))
    source = store.source(file, preset="cdr_csv")
    assert source.poll() == 40
    with file.open("ab") as out:
        out.write(b"".join(lines[40:60]))
    if how == "copy and truncate":
        shutil.copy(file, tmp_path / "Master.csv.1")
        os.truncate(file, 0)
    elif how == "date in the name":
        file.rename(tmp_path / "Master-20261122.csv")
    else:
        file.rename(tmp_path / "Master.csv.1")
    if how == "rename and compress":
        with gzip.open(tmp_path / "Master.csv.1.gz", "wb") as packed:
            packed.write((tmp_path / "Master.csv.1").read_bytes())
        (tmp_path / "Master.csv.1").unlink()
    with file.open("ab") as out:
        out.write(b"".join(lines[60:80]))
    assert source.poll() == 40
    with file.open("ab") as out:
        out.write(b"".join(lines[80:]))
    assert source.poll() == 23
    store.assert_once(103)
    assert source.status.warning is None


def test_a_file_that_was_replaced_is_read_again_and_that_is_said(store: Importer, tmp_path: Path) -> None:
    lines = MASTER.read_bytes().splitlines(keepends=True)
    file = tmp_path / "Master.csv"
    file.write_bytes(b"".join(lines[:40]))
    source = store.source(file, preset="cdr_csv")
    assert source.poll() == 40
    file.unlink()
    with pytest.raises(CdrError, match="no such file"):
        source.poll()
    file.write_bytes(b"".join(lines[30:60]))
    assert source.poll() == 20
    assert source.status.warning == "the file was replaced, and the old one is not beside it"
    assert source.poll() == 0
    assert source.status.warning is None
    store.assert_once(60)


def test_the_position_outlives_a_restart(store: Importer, tmp_path: Path) -> None:
    lines = MASTER.read_bytes().splitlines(keepends=True)
    file = tmp_path / "Master.csv"
    file.write_bytes(b"".join(lines[:40]))
    store.source(file, preset="cdr_csv").poll()
    again = store.again()
    try:
        # What was read is not read again: garbage put in its place, of the same length, is not seen.
        with file.open("r+b") as out:
            out.seek(5000)
            out.write(b"#" * 500)
            out.seek(0, os.SEEK_END)
            out.write(b"".join(lines[40:]))
        source = again.source(file, preset="cdr_csv")
        assert source.poll() == 63
        assert (source.status.imported, source.status.refused) == (103, 0)
        again.assert_once(103)
    finally:
        again.writer.stop()


def test_a_position_that_was_lost_costs_nothing(store: Importer, tmp_path: Path) -> None:
    """Rows committed, the state after them not, as after a crash between both: all is read again, none stored."""
    file = tmp_path / "Master.csv"
    shutil.copy(MASTER, file)
    store.source(file, preset="cdr_csv").poll()
    with store.writer.cursor() as cursor:
        cursor.execute("DELETE FROM lake.cdr_source_state")
    assert store.source(file, preset="cdr_csv").poll() == 0
    store.assert_once(103)


# -- garbage ---------------------------------------------------------------------------------------------


def test_garbage_between_lines_costs_only_itself(store: Importer, tmp_path: Path) -> None:
    lines = MASTER.read_bytes().splitlines(keepends=True)
    garbage = [
        b'"an open quote\n',
        b"nothing\n",
        b"\x00\xff\xfe\x01,\n",
        b'"a"b,"c"\n',
        b",".join([b'""'] * 21) + b"\n",
        lines[3].replace(b"2026-11-22", b"2026-13-45"),
        lines[4].replace(b",16,16,", b",sixteen,16,"),
        b"," * 20 + b"\n",
    ]
    file = tmp_path / "Master.csv"
    with file.open("wb") as out:
        for number, line in enumerate(lines):
            out.write(line)
            if number % 10 == 0 and garbage:
                out.write(garbage.pop())
                out.write(b"\n \n")
    source = store.source(file, preset="cdr_csv")
    assert source.poll() == 103
    assert source.status.refused == 8
    assert source.status.state == "ok"
    assert source.status.warning.startswith("8 refused, the first: line 2: ")  # type: ignore[union-attr]
    assert source.poll() == 0
    assert source.status.refused == 8
    store.assert_once(103)


def test_a_cell_with_line_ends_in_an_export(store: Importer, tmp_path: Path) -> None:
    userfield = 'first\nsecond, with "quotes"\r\nthird'
    rows = [
        {"uniqueid": f"17953741{n}.0", "start": f"2026-11-22 19:0{n}:00", "channel": "a", "userfield": text}
        for n, text in enumerate(["plain", userfield, "", userfield])
    ]
    doubled, outfile = tmp_path / "export.csv", tmp_path / "outfile.csv"
    with doubled.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    escaped = userfield.replace('"', '\\"').replace("\n", "\\\n")
    with outfile.open("w", newline="") as file:
        for row in rows:
            text = escaped if row["userfield"] == userfield else row["userfield"] or "\\N"
            quoted = text if text == "\\N" else f'"{text}"'
            file.write(f'"{row["uniqueid"]}","{row["start"]}","a",{quoted}\n')
    assert store.source(doubled).poll() == 4
    assert store.source(outfile, columns="uniqueid,start,channel,userfield").poll() == 4
    for name in ("export.csv", "outfile.csv"):
        told = store.sql("SELECT userfield FROM cdr WHERE source = ? ORDER BY ts", name)
        assert [row[0] for row in told] == ["plain", userfield, None, userfield], name


def test_files_that_cannot_be_read(store: Importer, tmp_path: Path) -> None:
    for name, content, message in (
        ("nothing.csv", None, "no such file"),
        ("custom.csv", b"a,b,c\n", "has no header line: name its columns"),
        (".", None, "not a file"),
        ("broken.csv.gz", b"\x1f\x8b no gzip", r"broken\.csv\.gz: "),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(CdrError, match=message):
            store.source(tmp_path / name, preset="cdr_custom").poll()


def test_a_rotated_file_has_the_name_of_the_one_it_was(store: Importer, tmp_path: Path) -> None:
    for name in ("Master.csv", "Master.csv.1", "Master.csv-20261122", "Master.csv.2.gz"):
        data = MASTER.read_bytes()
        (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
        store.source(tmp_path / name, preset="cdr_csv", once=True).poll()
    store.assert_once(103)
