"""`hepduck findings`, `tail`, `call` and `sql` on a store that heard real calls and hostile ones."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from datetime import datetime
from pathlib import Path

import pytest
from filled import (
    B_CALL,
    B_REGISTER,
    STEERING_CALL,
    B,
    Run,
    filled_tap,  # noqa: F401 - a fixture
    read,
    run_in_process,  # noqa: F401 - a fixture
)
from recordings import DATA, PATHS, load
from tap import COMMAND, RunningTap, call_id_of, environment

KAMAILIO = DATA / "kamailio"
# Steers a terminal: C0 and C1 controls, and what turns the direction of text. Lines end with a bare LF.
STEERING = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def test_findings(filled: RunningTap, run_here: Run) -> None:
    rows = [json.loads(line) for line in read(filled, "findings", "--json", run=run_here).splitlines()]
    assert len(rows) == 2
    (b,) = [row for row in rows if row["call_id"] == B_CALL]
    label = load("b").label["expected"][0]
    assert (b["kind"], b["aor"], b["target"]) == ("late_register", label["aor"], label["contact"])
    assert (b["outcome"], b["evidence"]["caller_user"]) == (label["reason"], "alice")
    assert datetime.fromisoformat(b["ts"]).utcoffset() is not None
    assert b["late_ms"] == pytest.approx(1628.4, abs=0.1)  # 3.136288 - 1.507889 s, by tshark

    table = read(filled, "findings", run=run_here).splitlines()
    assert table[0].split() == "ts kind aor target outcome late_ms call_id trusted facts".split()
    assert len(table) == 3
    cells = list(csv.DictReader(io.StringIO(read(filled, "findings", "--csv", run=run_here))))
    assert {cell["call_id"] for cell in cells} == {B_CALL, call_id_of("eve")}
    assert read(filled, "findings", "--json", "--limit", 1, run=run_here).count("\n") == 1
    assert read(filled, "findings", "--json", "--kind", "nothing", run=run_here) == ""
    assert read(filled, "findings", "--json", "--since", "2100-01-01", run=run_here) == ""
    assert read(filled, "findings", "--json", "--since", "36500d", run=run_here).count("\n") == 2


def test_tail(filled: RunningTap, run_here: Run) -> None:
    lines = read(filled, "tail", run=run_here).splitlines()
    assert len(lines) == 20
    rows = [json.loads(line) for line in read(filled, "tail", "-n", 100, "--json", run=run_here).splitlines()]
    assert len(rows) == 29
    ids = [row["msg_id"] for row in rows]
    assert ids == sorted(set(ids))
    assert rows[0]["call_id"] == B_CALL
    assert (rows[0]["method"], rows[0]["src_ip"], rows[0]["src_port"]) == ("INVITE", "127.0.0.11", 24940)


def test_tail_follows(tmp_path: Path) -> None:
    """A second behind the wire, what is looked for only; a pipe that closes ends it without a word."""
    with RunningTap(tmp_path) as tap:
        tap.send(KAMAILIO / "a.hep")
        tap.settled(26)
        argv = [*COMMAND, "tail", "-n", "1", "--follow", "--json", "--store", str(tap.store)]
        argv += ["method:INVITE,REGISTER", "--where", "-code:407"]
        process = subprocess.Popen(
            argv, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        first = json.loads(process.stdout.readline())
        tap.send(B)
        followed = [json.loads(process.stdout.readline()) for _ in range(8)]
        assert [row["call_id"] for row in followed] == [B_CALL] * 4 + [B_REGISTER] * 4
        assert all(row["msg_id"] > first["msg_id"] for row in followed)
        process.stdout.close()
        tap.send(B)
        assert process.stderr is not None
        with process.stderr as stderr:
            assert stderr.read() == ""
        assert process.wait(30) in (0, 1)


def test_sql(filled: RunningTap, run_here: Run) -> None:
    def sql(query: str, *form: str) -> str:
        return read(filled, "sql", query, *form, run=run_here)

    methods = sql("SELECT method, count(*) AS n FROM sip GROUP BY 1", "--json").splitlines()
    assert {row["method"]: row["n"] for row in map(json.loads, methods)} == {
        "ACK": 2 * 3, "CANCEL": 2 * 2, "INVITE": 2 * 5, "OPTIONS": 1, "REGISTER": 2 * 4,
    }  # fmt: skip
    row = "SELECT 1 AS one, NULL AS none, 'ü' AS text, sum(n) AS sum FROM (VALUES (1), (2)) AS numbers(n)"
    assert sql(row, "--json") == '{"one": 1, "none": null, "text": "ü", "sum": 3}\n'
    assert sql(row, "--csv") == "one,none,text,sum\n1,,ü,3\n"
    assert sql(row).split() == ["one", "none", "text", "sum", "1", "-", "ü", "3"]
    assert sql("SELECT '+1' AS number", "--csv") == "number\n'+1\n"  # no formula for a spreadsheet
    assert sql("WITH x AS (FROM weird) SELECT kind FROM x", "--csv") == "kind\nhep_short\n"
    assert {"sip", "finding", "call", "weird"} <= set(read(filled, "sql", run=run_here).split())


# -- one call -------------------------------------------------------------------------------------------


Step = tuple[float, str, str, str]  # seconds, from, to, label


def steps_of(drawn: str) -> tuple[list[Step], list[str]]:
    """The arrows and the notes of a ladder, read off the drawing: between which lifelines, which way, what."""
    lines = drawn.splitlines()
    top = next(n for n, line in enumerate(lines) if re.fullmatch(r" +\|( +\|)+", line))
    names, columns = lines[top - 1].split(), [n for n, char in enumerate(lines[top]) if char == "|"]
    arrows: list[Step] = []
    notes: list[str] = []
    for line in lines[top + 1 : -1]:
        time, rest = line[:10].strip(), line[10:]
        if rest.startswith(("!! ", "=> ")):
            notes.append(f"{time} {rest}")
        elif not time:
            notes[-1] += f" {rest.strip()}"
        else:
            found = re.search(r"\|(<?)[-~]+ (\S.*?) [-~]+(>?)\|", line)
            assert found, line
            low, high = columns.index(found.start()), columns.index(found.end() - 1)
            ends = (names[high], names[low]) if found[1] else (names[low], names[high])
            assert bool(found[1]) != bool(found[3])
            arrows.append((float(time), *ends, found[2]))
    return arrows, notes


CALLER, PROXY, PHONE = "127.0.0.11:24940", "127.0.0.1:31814", "127.0.0.21:20427"
# What tshark shows of the recording, in order of the HEP times; the label says which REGISTER was late.
B_STEPS = [
    (0.000, CALLER, PROXY, "INVITE bob"),
    (0.001, PROXY, CALLER, "407 Proxy Authentication Required"),
    (0.001, CALLER, PROXY, "ACK bob x2"),
    (0.002, CALLER, PROXY, "INVITE bob"),
    (0.003, PROXY, CALLER, "100 trying -- your call is important to us"),
    (1.508, CALLER, PROXY, "CANCEL bob"),
    (1.509, PROXY, CALLER, "487 Request canceled"),
    (1.509, PROXY, CALLER, "200 ok -- no more pending branches"),
    (1.509, CALLER, PROXY, "ACK bob"),
    (3.136, PHONE, PROXY, "REGISTER bob"),
    (3.136, PROXY, PHONE, "200 OK"),
]


def assert_steps(arrows: list[Step], expected: list[Step]) -> None:
    """Long labels may be cut short, at a mark."""
    assert [step[:3] for step in arrows] == [step[:3] for step in expected]
    for (*_, drawn), (*_, label) in zip(arrows, expected, strict=True):
        assert drawn == label or ("…" in drawn and label.startswith(drawn.partition("…")[0])), drawn


def test_call(filled: RunningTap) -> None:
    """Facts, ladder, the late phone's REGISTER, the finding and what the actions said, in time order."""
    shown = read(filled, "call", B_CALL)
    assert shown.startswith(f"Call-ID  {B_CALL}\n")
    assert "alice@sip.test  to bob@sip.test" in shown
    assert re.search(r"^ended +canceled, 487 Request canceled$", shown, re.MULTILINE)
    arrows, notes = steps_of(shown)
    assert_steps(arrows, B_STEPS)
    finding, *actions = notes
    assert finding.startswith("3.136 !! GHOST CALL")
    assert f"{PHONE};transport=udp registered 1628 ms after the call was canceled" in finding
    # An hour old, so that nobody would be called even if that were armed.
    assert sorted(re.split(r"[:(]", note.partition("=> ")[2])[0].strip() for note in actions) == [
        "fake_call",
        "log",
    ]
    assert any("dry run" in note and "stale" in note for note in actions)
    assert read(filled, "call", "ae44999ea7ec") == shown  # a part of the Call-ID is enough


def test_call_that_was_answered(tmp_path: Path) -> None:
    """As tshark shows it: the desk phone answers, hangs up; then the iPhone comes."""
    caller, proxy, desk, phone = (
        "127.0.0.11:24336", "127.0.0.1:25425", "127.0.0.22:24518", "127.0.0.21:24561",
    )  # fmt: skip
    with RunningTap(tmp_path) as tap:
        tap.send(PATHS["c2"])
        tap.settled(26)
        tap.stop()
    arrows, notes = steps_of(read(tap, "call", "call-05074112d85740f794db@sip.test"))
    assert_steps(
        arrows,
        [
            (0.000, caller, proxy, "INVITE bob"),
            (0.002, proxy, caller, "407 Proxy Authentication Required"),
            (0.002, caller, proxy, "ACK bob x2"),
            (0.002, caller, proxy, "INVITE bob"),
            (0.006, proxy, caller, "100 trying -- your call is important to us"),
            (0.007, desk, proxy, "100 Trying"),  # mirrored before its own INVITE
            (0.008, proxy, desk, "INVITE bob"),
            (0.008, desk, proxy, "180 Ringing"),
            (0.009, proxy, caller, "180 Ringing"),
            (0.812, desk, proxy, "200 OK"),
            (0.813, caller, proxy, "ACK bob"),
            (0.813, proxy, caller, "200 OK"),
            (0.814, proxy, desk, "ACK bob"),
            (1.320, caller, proxy, "BYE bob"),
            (1.323, proxy, desk, "BYE bob"),
            (1.323, desk, proxy, "200 OK"),
            (1.323, proxy, caller, "200 OK"),
            (3.489, phone, proxy, "REGISTER bob"),
            (3.491, proxy, phone, "200 OK"),
        ],
    )
    assert "3.491 !! GHOST CALL" in notes[0]


def test_raw_messages_without_credentials(filled: RunningTap, run_here: Run) -> None:
    """As on the wire; what proves a password is starred, in the JSON form too."""
    raw = read(filled, "call", B_CALL, "--raw", run=run_here)
    assert raw.count("\n--- ") + raw.startswith("--- ") == 12
    assert "INVITE sip:bob@sip.test SIP/2.0\nVia: SIP/2.0/UDP 127.0.0.11:24940;rport;branch=" in raw
    assert '\nProxy-Authorization: Digest username="alice"' in raw
    assert '\nAuthorization: Digest username="bob"' in raw
    as_json = read(filled, "call", B_CALL, "--json", run=run_here)
    shown = json.loads(as_json)
    assert shown["call"]["outcome"] == "canceled"
    assert len(shown["messages"]) == 12
    assert "Proxy-Authorization: Digest " in shown["messages"][4]["payload"]
    proofs = re.findall(rb'response="(\w{32})"', B.read_bytes())
    assert len(proofs) >= 2
    for text in (raw, as_json.replace('\\"', '"')):
        assert set(re.findall(r'response="([^"]*)"', text)) == {"*" * 32}
        assert not [proof for proof in proofs if proof.decode() in text]


READERS = [
    ("findings",), ("findings", "--json"), ("findings", "--csv"),
    ("tail",), ("tail", "--json"),
    ("call", call_id_of("eve")), ("call", call_id_of("eve"), "--raw"), ("call", call_id_of("eve"), "--json"),
    ("call", STEERING_CALL, "--raw"),
    ("sql", "FROM sip"), ("sql", "FROM sip", "--json"), ("sql", "FROM sip", "--csv"),
    ("sql", "FROM weird", "--csv"), ("sql", "FROM finding", "--csv"), ("sql", "FROM registration"),
]  # fmt: skip


@pytest.mark.parametrize("arguments", READERS, ids=" ".join)
def test_nothing_from_the_wire_steers_the_terminal(
    arguments: tuple[str, ...], filled: RunningTap, run_here: Run
) -> None:
    done = run_here(*arguments, "--store", filled.store, cwd=filled.folder)
    assert (done.returncode, done.stderr) == (0, "")
    shown = done.stdout
    assert not STEERING.search(shown), STEERING.search(shown)
    assert len(shown) > 20
    if "--csv" in arguments:  # nor does a cell turn into a formula
        assert not [cell for row in csv.reader(io.StringIO(shown)) for cell in row if cell[:1] in {"=", "@"}]
