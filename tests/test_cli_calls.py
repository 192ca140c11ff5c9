"""`hepduck calls`, `call`, `registrations` and searches, on a store that heard real calls and hostile ones."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest
from filled import (
    B_CALL,
    Run,
    filled_tap,  # noqa: F401 - a fixture
    read,
    run_in_process,  # noqa: F401 - a fixture
)
from tap import RunningTap, call_id_of, environment

from pipeline.store.call_queries import COLUMNS

EVE_CALL = call_id_of("eve")
PHONE_CONTACT = (
    '<sip:bob@127.0.0.21:20427;transport=udp>;+sip.instance="<urn:uuid:6c1e9f7a-0d3c-4c56-9d0a-1f2b3c4d5e01>"'
)


def objects(text: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in text.splitlines()]


def test_calls(filled: RunningTap, run_here: Run) -> None:
    """Times and delays are those that tshark shows of the recording."""
    shown = read(filled, "calls", "to:bob", run=run_here)
    assert [re.split(r"  +", line.rstrip()) for line in shown.splitlines()] == [
        [
            *("first_ts", "from", "to", "state", "ghost", "final_status", "pdd_ms", "ring_ms", "talk_ms"),
            *("r_factor", "mos", "loss_pct", "trunk", "call_id"),
        ],
        [
            *("2026-11-22 19:51:16.380", "alice", "bob", "canceled", "True", "487", "-", "-", "-"),
            *("-", "-", "-", "-", B_CALL),
        ],
    ]
    (row,) = objects(read(filled, "calls", "--json", "--where", "-to:eve", run=run_here))
    assert tuple(row) == COLUMNS
    assert (row["call_id"], row["final_reason"], row["user_agent"]) == (
        B_CALL,
        "Request canceled",
        "LinphoneAndroid/5.2.4 (Pixel 7) LinphoneSDK/5.3.20",
    )
    assert row["srd_ms"] == pytest.approx(1506.6, abs=0.1)  # 1.508974 - 0.002340 s
    assert (row["pdd_ms"], row["r_factor"], row["trunk"], row["media"]) == (None, None, None, None)

    cells = list(csv.DictReader(io.StringIO(read(filled, "calls", "--sort", "to", "--csv", run=run_here))))
    assert [cell["call_id"] for cell in cells] == [B_CALL, EVE_CALL]
    assert list(cells[0]) == list(COLUMNS)
    assert (cells[0]["ghost"], cells[0]["talk_ms"]) == ("True", "")


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["state:ghost", "127.0.0.11", "--where", "-to:bob"], 1),
        (["--since", "2026-11-22T21:51", "--until", "2026-11-22T21:52", "--zone", "Europe/Kyiv"], 2),
        (["--until", "2026-11-22T19:51:16.380953+00:00"], 0),
        (["--since", "36500d", "--until", "2026-11-22T19:51:16.380954+00:00"], 2),
    ],
)
def test_how_many_there_are(filled: RunningTap, run_here: Run, words: list[str], count: int) -> None:
    assert read(filled, "calls", *words, "--count", run=run_here) == f"{count}\n"


def test_talk_goes_to_stderr(filled: RunningTap, run_here: Run) -> None:
    done = run_here("calls", "--limit", 1, "--json", "--store", filled.store, cwd=filled.folder)
    assert (done.returncode, done.stdout.count("\n")) == (0, 1)
    assert done.stderr == "the first 1 only: --limit shows more, --count tells how many\n"


@pytest.mark.parametrize("command", ["calls", "tail"])
def test_a_search_that_cannot_be_read_is_shown_where(filled: RunningTap, run_here: Run, command: str) -> None:
    done = run_here(command, "alice", "sate:busy", "--store", filled.store, cwd=filled.folder)
    assert (done.returncode, done.stdout) == (2, "")
    said, line, mark = done.stderr.splitlines()
    assert said.startswith("hepduck: no key 'sate': did you mean state?")
    assert (line, mark) == ("alice sate:busy", "      ^^^^")


# -- one call --------------------------------------------------------------------------------------------


def test_the_ladder_alone(filled: RunningTap, run_here: Run) -> None:
    whole = read(filled, "call", B_CALL, run=run_here)
    ladder = read(filled, "call", B_CALL, "--ladder", run=run_here)
    assert ladder in whole
    assert ladder.splitlines()[0].split() == ["127.0.0.11:24940", "127.0.0.1:31814", "127.0.0.21:20427"]
    assert "GHOST CALL" in ladder


def test_times_in_another_zone(filled: RunningTap, run_here: Run) -> None:
    """In words for people, with their offset for programs; the same moment."""
    zone = ("--zone", "Asia/Kolkata")  # half an hour off
    assert "began    2026-11-23 01:21:16.380 IST\n" in read(filled, "call", B_CALL, *zone, run=run_here)
    assert read(filled, "call", B_CALL, "--raw", *zone, run=run_here).startswith(
        "--- 2026-11-23 01:21:16.380 IST  127.0.0.11:24940 -> 127.0.0.1:31814 udp\n"
    )
    (here,) = objects(read(filled, "findings", "bob@", "--json", *zone, run=run_here))
    (there,) = objects(read(filled, "findings", "BOB@", "--json", run=run_here))
    assert str(here["ts"]).endswith("+05:30") and str(there["ts"]).endswith("+00:00")
    assert datetime.fromisoformat(str(here["ts"])) == datetime.fromisoformat(str(there["ts"]))


def test_the_capture_of_a_call(filled: RunningTap, run_here: Run, tmp_path: Path) -> None:
    """tshark reads what is stored: times, addresses, messages, bytes."""
    pcap = tmp_path / "call.pcapng"
    done = run_here("call", B_CALL, "--pcap", pcap, "--store", filled.store, cwd=filled.folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"12 messages in {pcap}\n")
    fields = ["frame.time_epoch", "ip.src", "udp.srcport", "ip.dst", "udp.dstport", "sip.CSeq.method"]
    fields += ["sip.Status-Code", "udp.payload"]
    command = ["tshark", "-n", "-r", str(pcap), "-d", "udp.port==1-65535,sip", "-T", "fields"]
    command += [part for field in fields for part in ("-e", field)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    query = f"""
        SELECT epoch_us(ts) AS us, src_ip, src_port, dst_ip, dst_port, method, coalesce(status::VARCHAR, '') AS status,
            lower(hex(payload)) AS payload
        FROM sip WHERE call_id = '{B_CALL}' OR (method = 'REGISTER' AND to_user = 'bob' AND msg_id IN
            (SELECT unnest(msg_ids) FROM finding WHERE call_id = '{B_CALL}'))
        ORDER BY ts, msg_id"""
    stored = [
        [str(value) for value in row.values()]
        for row in objects(read(filled, "sql", query, "--json", run=run_here))
    ]
    seen = [line.split("\t") for line in run.stdout.splitlines()]
    assert len(seen) == len(stored) == 12
    for one, other in zip(seen, stored, strict=True):
        assert [str(round(float(one[0]) * 1e6)), *one[1:]] == other
    assert "GHOST CALL" in read(filled, "call", B_CALL, "--ladder", "--pcap", pcap, run=quiet(run_here))


def quiet(run: Run) -> Run:
    """Without what was said on stderr."""

    def silent(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        done = run(*words, cwd=cwd)
        return subprocess.CompletedProcess(done.args, done.returncode, done.stdout, "")

    return silent


# -- registrations, findings, messages, SQL --------------------------------------------------------------


def test_registrations(filled: RunningTap, run_here: Run) -> None:
    """Ten minutes from the REGISTER of 19:51:19.517 on; tshark shows its Contact and `Expires: 600`."""
    at = ("--until", "2026-11-22T19:55:00")
    (row,) = objects(read(filled, "registrations", "sip:bob@", *at, "--json", run=run_here))
    assert (row["aor"], row["src_ip"], row["src_port"], row["transport"]) == (
        "sip:bob@sip.test", "127.0.0.21", 20427, "udp",
    )  # fmt: skip
    assert (row["contact"], row["expires_s"], row["left_s"]) == (PHONE_CONTACT, 600, 379)
    late = run_here(
        "registrations", "--until", "2026-11-22T20:02", "--store", filled.store, cwd=filled.folder
    )
    assert (late.returncode, late.stderr) == (0, "(no rows)\n")
    changes = objects(read(filled, "registrations", "--changes", "--since", "36500d", "--json", run=run_here))
    assert [(row["change"], row["aor"]) for row in changes] == [
        ("registered", "sip:bob@sip.test"),
        ("registered", "sip:eve@sip.test"),
    ]


def test_findings_of_a_time_and_with_a_text(filled: RunningTap, run_here: Run) -> None:
    def found(*words: str) -> list[object]:
        rows = objects(read(filled, "findings", *words, "--json", run=run_here))
        return sorted(str(row["call_id"]) for row in rows)

    assert found("AE44999ea7ec") == [B_CALL]
    assert found("127.0.0.21:20427", "--until", "2026-11-22T19:51:19.5") == []
    assert found("--until", "2026-11-22T19:51:19.6", "--since", "2026-11-22T19:51:19.5") == [B_CALL, EVE_CALL]


def test_tail_of_what_is_looked_for(filled: RunningTap, run_here: Run) -> None:
    def methods(*words: str) -> list[tuple[object, object]]:
        rows = objects(read(filled, "tail", "-n", 100, *words, "--json", run=run_here))
        return [(row["method"], row["status"]) for row in rows]

    assert methods("method:CANCEL", "to:bob") == [("CANCEL", None), ("CANCEL", 200)]
    assert methods("--where", "-method:INVITE,ACK,CANCEL,REGISTER") == [("OPTIONS", None)]
    assert len(methods("127.0.0.21")) == 9
    cells = list(csv.DictReader(io.StringIO(read(filled, "tail", "method:CANCEL", "--csv", run=run_here))))
    assert [(cell["to_user"], cell["status"]) for cell in cells] == [
        ("bob", ""),
        ("bob", "200"),
        ("eve", ""),
        ("eve", "200"),
    ]


def test_sql_with_columns_of_one_name(filled: RunningTap, run_here: Run) -> None:
    query = "SELECT 1 AS a, 2 AS a, 'infinity'::DOUBLE AS b, 12345678901234567890123::HUGEINT AS c, NULL::INT AS d"
    assert (
        read(filled, "sql", query, "--csv", run=run_here) == "a,a_1,b,c,d\n1,2,inf,12345678901234567890123,\n"
    )
    (row,) = objects(read(filled, "sql", query, "--json", run=run_here))
    assert row == {"a": 1, "a_1": 2, "b": "inf", "c": 12345678901234567890123, "d": None}
    when = "SELECT TIMESTAMPTZ '2026-01-01 00:00:00+00' AS at"
    assert read(filled, "sql", when, "--zone", "Asia/Tokyo", run=run_here).split() == [
        "at",
        "2026-01-01",
        "09:00:00.000+09:00",
    ]


@pytest.mark.parametrize("command", ["call", "calls", "registrations", "sql"])
def test_bytes_of_the_command_line_that_are_no_text(filled: RunningTap, run_here: Run, command: str) -> None:
    word = "SELECT '\udcff'" if command == "sql" else "\udcff\udcff"  # as Python hands them over
    done = run_here(command, word, "--store", filled.store, cwd=filled.folder)
    assert done.returncode == (2 if command == "call" else 0)
    assert "\udcff" not in done.stdout + done.stderr


# -- the shell itself ------------------------------------------------------------------------------------


def test_bash_completes_commands_and_options() -> None:
    """The script that `--show-completion` prints, in a real bash."""
    script = """
eval "$("$HEPDUCK" --show-completion)"
complete -p hepduck
complete_as_typed() {
    COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
    _hepduck_completion "$HEPDUCK"
    echo "${COMPREPLY[*]}"
}
complete_as_typed hepduck reg
complete_as_typed hepduck cdr ""
complete_as_typed hepduck call --p
"""
    run = subprocess.run(
        ["bash", "--norc", "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**environment(), "HEPDUCK": str(Path(sys.executable).with_name("hepduck"))},
    )
    registered, *completed = run.stdout.splitlines()
    assert "_hepduck_completion" in registered
    assert completed == ["registrations", "import sources", "--pcap"]
