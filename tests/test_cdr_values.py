"""What single columns and values of a CDR mean, and how sources are configured."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from cdr_recordings import mapping
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pipeline.errors import ConfigError
from pipeline.ingest.cdr import Raw
from pipeline.ingest.cdr.columns import CDR_FIELDS, LEG_FIELDS, PRESETS, column_list
from pipeline.ingest.cdr.lines import BadLineError, cells_of, guess_format, object_of
from pipeline.ingest.cdr.rows import BadRowError, RowMaker
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.values import amaflags, disposition, epoch_of, in_utc, integer, milliseconds, moment
from pipeline.settings import load
from pipeline.store import schema

KYIV = ZoneInfo("Europe/Kyiv")


def maker(**settings: Any) -> RowMaker:
    return RowMaker(CdrSourceSettings.model_validate({"source": "some.csv", **settings}))


# -- values ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "meant"),
    [
        (None, None),
        ("", None),
        ("0000-00-00 00:00:00", None),
        ("1970-01-01 00:00:00", None),  # cdr_adaptive_odbc with usegmtime, unanswered
        (datetime(1970, 1, 1), None),  # noqa: DTZ001  a database's
        (0, None),
        ("2026-11-22 21:01:54", datetime(2026, 11, 22, 21, 1, 54)),  # noqa: DTZ001
        ("2026-11-22T21:01:54+0200", datetime(2026, 11, 22, 21, 1, 54, tzinfo=timezone(timedelta(hours=2)))),
        ("1795374131.230375", datetime(2026, 11, 22, 19, 2, 11, 230375, tzinfo=UTC)),
        (Decimal(1795374131), datetime(2026, 11, 22, 19, 2, 11, tzinfo=UTC)),
    ],
)
def test_times(value: object, meant: datetime | None) -> None:
    assert moment(value) == meant


@pytest.mark.parametrize("value", ["2026-00-10", "infinity", "yesterday", "9999-12-31 23:00:00", 10**18])
def test_times_that_are_none(value: object) -> None:
    with pytest.raises((ValueError, OverflowError)):
        moment(value)


def test_the_hour_that_happens_twice_is_told_by_the_uniqueid() -> None:
    """2026-10-25 04:00 EEST becomes 03:00 EET: 03:30 is 00:30 or 01:30 UTC."""
    half_past = datetime(2026, 10, 25, 3, 30)  # noqa: DTZ001  which one it is is the question
    first, second = datetime(2026, 10, 25, 0, 30, tzinfo=UTC), datetime(2026, 10, 25, 1, 30, tzinfo=UTC)
    assert in_utc(half_past, KYIV, int(first.timestamp())) == first
    assert in_utc(half_past, KYIV, int(second.timestamp())) == second
    assert in_utc(half_past, KYIV, int(second.timestamp()) - 1) == second
    assert in_utc(half_past, KYIV, None) == first


@pytest.mark.parametrize(
    ("value", "ms"),
    [("16", 16000), (16.292025, 16292), (Decimal("0.000525"), 1), ("", None), (None, None), (-1, None),
     ("nan", None), (0, 0), ("1e300", None)],
)  # fmt: skip
def test_seconds_become_milliseconds(value: object, ms: int | None) -> None:
    assert milliseconds(value) == ms


def test_numbers_of_asterisk_in_words() -> None:
    """cdr.h: AST_CDR_NOANSWER 0, FAILED 2, BUSY 4, ANSWERED 8, CONGESTION 16, CANCEL 32."""
    words = ["NO ANSWER", "FAILED", "BUSY", "ANSWERED", "CONGESTION", "CANCEL"]
    assert [disposition(number) for number in (0, 2, 4, 8, 16, "32")] == words
    assert disposition("ANSWERED") == "ANSWERED"
    assert [amaflags(number) for number in (0, 1, 2, "3", "BILLING")] == [
        None, "OMIT", "BILLING", "DOCUMENTATION", "BILLING",
    ]  # fmt: skip


def test_uniqueids() -> None:
    told = {"1795374114.0": 1795374114, "pbx-1-1795374114.77": 1795374114, "x": None, "7.1": None, "": None}
    assert {text: epoch_of(text) for text in told} == told


def test_numbers_too_large_for_the_store_cost_their_row() -> None:
    with pytest.raises(ValueError, match="too large"):
        integer(2**63)
    with pytest.raises(BadRowError, match="sequence"):
        maker().read(Raw({"uniqueid": "1795374114.0", "sequence": str(2**70)}, "line 1"))


@given(st.dictionaries(
    st.sampled_from([*CDR_FIELDS, "whatever"]),
    st.none() | st.text(max_size=20) | st.integers() | st.floats() | st.decimals() | st.binary(max_size=9)
    | st.datetimes() | st.booleans() | st.timedeltas(),
))  # fmt: skip
def test_no_value_breaks_the_reading_of_rows(values: dict[str, Any]) -> None:
    """Whatever stands in a row: it is a row that the store can hold, or it is refused with a reason."""
    from pipeline.store.parquet import conform  # noqa: PLC0415

    try:
        row = maker().read(Raw(values, "here")).row
    except BadRowError:
        return
    conform("cdr", [row], "n1")


@given(st.text(max_size=200), st.sampled_from(["csv", "tsv", "outfile"]), st.booleans())
def test_no_line_breaks_the_reading_of_lines(line: str, kind: Any, is_cut: bool) -> None:
    for read in (lambda: cells_of(line, kind, is_cut=is_cut), lambda: object_of(line, is_cut=is_cut)):
        try:
            read()
        except BadLineError:
            continue
    guess_format([line])


# -- columns ---------------------------------------------------------------------------------------------


def test_every_field_has_its_column_in_the_store() -> None:
    """Nothing that a preset knows by name is lost or lands in `extra`."""
    for target, fields in (("cdr", CDR_FIELDS), ("cdr_leg", LEG_FIELDS)):
        preset = "leg_qos" if target == "cdr_leg" else "cdr_adaptive"
        held = schema.columns(target)
        for name in fields:
            values = {"uniqueid": "1795374114.0", name: "1795374114.0"}
            if name in ("sequence", "hangup_cause") or name.endswith("ploss"):
                values[name] = "7"
            row = maker(preset=preset).read(Raw(values, "here")).row
            assert row["extra"] is None, name
            assert row.keys() <= held.keys(), name


def test_freepbx() -> None:
    """The columns of FreePBX's asteriskcdrdb.cdr; what is its own is kept."""
    values = dict.fromkeys(PRESETS["freepbx"].order, "x") | {
        "calldate": "2026-11-22 21:01:54",
        "uniqueid": "1795374114.0",
        "duration": "16",
        "billsec": "16",
        "amaflags": "3",
        "sequence": "4",
    }
    row = maker(preset="freepbx", zone="Europe/Kyiv").read(Raw(values, "here")).row
    assert row["ts"] == datetime(2026, 11, 22, 19, 1, 54, tzinfo=UTC)
    own = "did recordingfile cnum cnam outbound_cnum outbound_cnam dst_cnam".split()
    assert list(row["extra"]) == own


def test_columns_from_the_configuration_of_cdr_custom() -> None:
    assert column_list(mapping("r22-custom-legacy", "QosLegacy.csv"))[-1] == "epoch"
    assert column_list(mapping("r22-main", "Qos.csv"))[:3] == ["clid", "src", "dst"]
    assert column_list("Qos.csv => ${CSV_QUOTE(${CDR(clid)})},${CDR(src,u)}") == ["clid", "src"]
    assert column_list("start(%FT%T%z),end(double),sip_callid(uservar)") == ["start", "end", "sip_callid"]


def test_columns_of_ones_own() -> None:
    mine = maker(columns={"Sip_Call": "sip_callid", "userfield": "sip_callid_b"})
    values = {"SIP_CALL": "a@b", "userfield": "c@d", "UniqueID": "1795374114.0", "Other": "1"}
    row = mine.read(Raw(values, "here")).row
    assert (row["call_id"], row["call_id_b"], row["extra"]) == ("a@b", "c@d", {"Other": "1"})


# -- settings --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": ""}, "write the path of a file"),
        ({"source": "oracle://x"}, "known are mysql://"),
        ({"source": "mysql://x/y"}, "name the table"),
        ({"source": "mysql://x:port/y?table=z"}, "no URL"),
        ({"zone": "Kyiv"}, "no time zone"),
        ({"zone": "../UTC"}, "no time zone"),
        ({"preset": "asterisk"}, "cdr_extra"),
        ({"columns": {"a": "b"}}, "known are start"),
        ({"interval": "often"}, "no duration"),
    ],
)
def test_settings_that_are_wrong(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        CdrSourceSettings.model_validate({"source": "some.csv", **settings})


def test_sources_in_the_configuration_file(tmp_path: Path) -> None:
    file = tmp_path / "hepduck.toml"
    entry = '[[cdr]]\nsource = "mysql://reader:s3cret@db/asterisk?table=cdr"\npreset = "freepbx"\n'
    file.write_text(entry)
    (source,) = load(file)[0].cdr
    assert (source.name, source.table, source.preset) == ("db/asterisk.cdr", "cdr", "freepbx")
    assert source.url == "mysql://reader:s3cret@db/asterisk"
    assert "s3cret" not in str(load(file)[0].model_dump(mode="json"))
    file.write_text(entry + entry)
    with pytest.raises(ConfigError, match="two sources are called 'db/asterisk.cdr'"):
        load(file)
    file.write_text(entry + "inteval = '5s'\n")
    with pytest.raises(ConfigError, match=r"unknown key cdr\.0\.inteval; did you mean interval\?"):
        load(file)
