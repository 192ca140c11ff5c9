"""The command line: its help, its errors, its exit codes, and what it says of plugins and of running taps."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from filled import B_CALL, LISTED, B, Run, filled_tap, read, run_in_process  # noqa: F401 - fixtures
from recordings import PATHS
from tap import COMMAND, RunningTap, environment, hepduck

COMMANDS = {
    *("run", "check", "record", "status", "demo", "replay", "send"),
    *("calls", "call", "findings", "tail", "registrations", "sql", "quality", "detectors", "actions"),
}


def test_the_commands(tmp_path: Path) -> None:
    shown = hepduck("--help", cwd=tmp_path).stdout.partition("Commands:\n")[2]
    assert re.findall(r"^  (\w+) ", shown, re.MULTILINE) == list(
        dict.fromkeys(name.split()[0] for name in LISTED)
    )
    assert set(LISTED) >= COMMANDS
    assert hepduck(cwd=tmp_path).returncode == 2
    version = hepduck("--version", cwd=tmp_path)
    assert re.fullmatch(r"hepduck \d+\.\d+\.\d+\n", version.stdout)


@pytest.mark.parametrize("command", LISTED)
def test_help(command: str, tmp_path: Path, run_here: Run) -> None:
    """A sentence, two examples, every option explained."""
    done = run_here(*command.split(), "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    text, _, options = done.stdout.partition("\nOptions:\n")
    examples = re.findall(r"`(hepduck [^`]+)`", " ".join(text.partition("Examples: ")[2].split()))
    assert len(examples) == 2
    assert re.match(rf"hepduck {command}\b", examples[0])
    for option in re.findall(r"^  (-\S.*(?:\n {4,}.*)?)", options, re.MULTILINE):
        assert re.search(r"\S(  +|\n +)\S", option), f"{option!r} is not explained"


# -- errors ---------------------------------------------------------------------------------------------


FILES = {
    "bad.toml": 'node = "x"\n[tap\n',
    "unknown.toml": '[tap]\nlisen = ["udp:127.0.0.1:0"]\n',
    "value.toml": '[tap]\nmax_connections = "many"\n',
    "duration.toml": '[store.writer]\nflush_interval = "soon"\n',
    "detector.toml": '[detectors.late_register]\nwindw = "3s"\n',
    "detectors.toml": "[detectors.late_registr]\n",
    "action.toml": "[actions.fake_call]\nproxi = 1\n",
    "rule.toml": '[[rules.rule]]\nfinding = "late_register"\nactions = ["fake_cal"]\n',
    "not.hep": "something else\n",
}

MISTAKES: list[tuple[str, list[str]]] = [
    ("run -f bad.toml", ["bad.toml", "line 2"]),
    ("run -f unknown.toml", ["unknown.toml", "tap.lisen", "did you mean listen?"]),
    ("run -f value.toml", ["value.toml", "tap.max_connections", "integer"]),
    ("run -f duration.toml", ["duration.toml", "store.writer.flush_interval", "'soon'", '"15s"']),
    ("run -f detector.toml", ["detectors.late_register.windw", "did you mean window?"]),
    ("run -f detectors.toml", ["late_registr", "did you mean late_register?"]),
    ("run -f action.toml", ["actions.fake_call", "proxi", "did you mean proxy?"]),
    ("run -f rule.toml", ["fake_cal", "fake_call"]),
    ("run -f missing.toml", ["missing.toml", "No such file"]),
    ("run --no-config -L udp:9060", ["'udp:9060'", "udp:HOST:PORT"]),
    ("run --no-config -L tls:127.0.0.1:0", ["tap.tls_certificate"]),
    ("run --no-config --set tap.max_connections=0", ["command line", "tap.max_connections"]),
    ("run --no-config --set tap", ["KEY=VALUE"]),
    ("run --no-config --set nothing.here=1", ["unknown key nothing"]),
    ("run --no-config -l loud", ["log.level"]),
    ("run --no-config --set plugins_dir=nowhere", ["nowhere"]),
    ("status --store nowhere", ["nowhere", "hepduck run"]),
    ("findings --store nowhere", ["nowhere", "hepduck run"]),
    ("call x --store nowhere", ["nowhere"]),
    ("sql --attach --store nowhere", ["nowhere"]),
    ("call nobody@nowhere --store {store}", ["no call fits 'nobody@nowhere'"]),
    ("call call- --store {store}", ["several calls fit 'call-'", B_CALL]),
    ("replay missing.hep", ["missing.hep", "No such file"]),
    ("replay not.hep", ["not.hep", "no recording"]),
    ("send not.hep --to udp:127.0.0.1:9", ["not.hep", "no recording"]),
    ("send {b} --to 127.0.0.1:9", ["'127.0.0.1:9'", "udp:HOST:PORT"]),
    ("send {b} --to tcp:127.0.0.1:1", ["tcp:127.0.0.1:1", "refuses"]),
    ("record -o nowhere/x.hep -L udp:127.0.0.1:0", ["nowhere/x.hep", "No such file"]),
    ("sql DELETE§FROM§sip --store {store}", ["read-only"]),
    ("sql CREATE§TABLE§x§AS§SELECT§1 --store {store}", ["read-only"]),
    ("sql SELECT§1;SELECT§2 --store {store}", ["one statement"]),
    ("sql SELEC§1 --store {store}", ["syntax error"]),
    ("calls --sort pddms --store {store}", ["no column 'pddms'", "did you mean pdd_ms?"]),
    ("call {b_call} --pcap nowhere/x.pcapng --store {store}", ["nowhere/x.pcapng", "No such file"]),
]  # fmt: skip
USAGE: list[tuple[str, str]] = [
    ("", "Usage:"),
    ("frobnicate", "frobnicate"),
    ("run --frobnicate", "--frobnicate"),
    ("replay", "files"),
    ("send {b}", "--to"),
    ("findings --since yesterday --store {store}", '"1h"'),
    ("findings --limit 0 --store {store}", "--limit"),
    ("calls --until soon --store {store}", '"1h"'),
    ("calls --zone Mars/Crater --store {store}", "Europe/Kyiv"),
    ("registrations --since 1h --store {store}", "--changes"),
    ("call {b_call} --raw --json --store {store}", "one of"),
    ("replay {b} --speed fast", '"1x"'),
    ("replay {b} --speed 0", '"1x"'),
    ("replay {b} --speed nan", '"1x"'),
    ("replay {b} --speed -1", '"1x"'),
    ("send {b} --to udp:127.0.0.1:9 --speed inf", '"1x"'),
]


@pytest.fixture(scope="module")
def mistaken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with files that hold a mistake each."""
    folder = tmp_path_factory.mktemp("mistaken")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    return folder


def words_of(line: str, store: Path) -> list[str]:
    return [word.replace("§", " ") for word in line.format(b=B, b_call=B_CALL, store=store).split()]


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line(
    line: str, words: list[str], mistaken: Path, filled: RunningTap, run_here: Run
) -> None:
    """On stderr, saying what and where; exit code 2."""
    done = run_here(*words_of(line, filled.store), cwd=mistaken)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    (said,) = done.stderr.splitlines()
    assert said.startswith("hepduck: ")
    for word in words:
        assert word in said
    assert not (mistaken / "hepduck-data").exists()


@pytest.mark.parametrize(("line", "word"), USAGE, ids=[line for line, _ in USAGE])
def test_wrong_usage(line: str, word: str, mistaken: Path, filled: RunningTap, run_here: Run) -> None:
    done = run_here(*words_of(line, filled.store), cwd=mistaken)
    assert done.returncode == 2
    assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_port_in_use_costs_no_recording(tmp_path: Path) -> None:
    """An older one of that name stays."""
    older = tmp_path / "older.hep"
    older.write_bytes(B.read_bytes())
    with RunningTap(tmp_path) as tap:
        done = hepduck("record", "-o", older, "-L", tap.address(), cwd=tmp_path)
    assert done.returncode == 2
    assert "in use" in done.stderr
    assert older.read_bytes() == B.read_bytes()


@pytest.mark.parametrize(
    "command",
    ["tail --follow --lines 1 --store {store}", "replay {b} {later} --speed 8x"],
    ids=["tail", "replay"],
)
def test_interrupted(command: str, filled: RunningTap) -> None:
    """Ctrl-C ends with 130, without a word."""
    words = command.format(b=B, later=PATHS["g"], store=filled.store).split()
    process = subprocess.Popen(
        [*COMMAND, *words],
        cwd=filled.folder,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stdout.readline()  # it is at work
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (130, b"")


# -- plugins, status, DuckDB ----------------------------------------------------------------------------


def test_detectors_and_actions(tmp_path: Path) -> None:
    """What there is, in which state, with every setting and what it means."""
    (tmp_path / "hepduck.toml").write_text(
        "[detectors.late_register]\nwindow = '20s'\n"
        "[actions.fake_call]\nenabled = true\ndry_run = false\nsecret = 'geheim'\n"
    )
    done = hepduck("detectors", cwd=tmp_path)
    assert done.returncode == 0
    assert "late_register (on; from hepduck)\n" in done.stdout
    assert '  window = "20s"    # latest REGISTER after the end of the call\n' in done.stdout
    settings = [line for line in done.stdout.splitlines() if line.startswith("  ") and " = " in line]
    assert len(settings) > 30
    for line in settings:
        assert "    # " in line, f"{line!r} is not explained"
    listed = map(json.loads, hepduck("detectors", "--json", cwd=tmp_path).stdout.splitlines())
    row = {row["name"]: row for row in listed}["late_register"]
    assert (row["name"], row["state"], row["settings"]["window"]) == ("late_register", "on", "20s")

    rows = {
        row["name"]: row
        for row in map(json.loads, hepduck("actions", "--json", cwd=tmp_path).stdout.splitlines())
    }
    assert {"log", "fake_call", "webhook", "exec"} <= set(rows)
    states = {name: rows[name]["state"] for name in ("log", "fake_call", "webhook")}
    assert states == {"log": "on", "fake_call": "ARMED", "webhook": "lacks settings"}
    shown = hepduck("actions", cwd=tmp_path).stdout
    assert "url = (must be set)" in shown
    assert "geheim" not in shown
    off = hepduck("detectors", "--json", cwd=tmp_path, HEPDUCK_DETECTORS__LATE_REGISTER__ENABLED="false")
    states = {row["name"]: row["state"] for row in map(json.loads, off.stdout.splitlines())}
    assert states["late_register"] == "off"


def test_status(tmp_path: Path) -> None:
    """Of a running tap, a stopped one, and one that was killed."""
    with RunningTap(tmp_path) as tap:
        tap.send(B)
        tap.settled(14)
        shown = read(tap, "status")
        assert shown.startswith(f"hepduck running, pid {tap.pid}, ")
        assert (
            "14 received = 14 stored + 0 rejected + 0 shed + 0 kernel_dropped + 0 queued   (adds up)" in shown
        )
        assert re.search(r"^findings +1 late_register$", shown, re.MULTILINE)
        assert re.search(r"^action +fake_call \(dry run\): 1 dry_run$", shown, re.MULTILINE)
        running = json.loads(read(tap, "status", "--json"))
        assert (running["state"], running["alive"], running["stored"]) == ("running", True, 14)
        tap.kill()
        killed = hepduck("status", "--store", tap.store, cwd=tmp_path)
        assert killed.returncode == 1
        assert killed.stdout.startswith("hepduck DEAD")
        assert len(killed.stderr.splitlines()) == 1
        as_json = hepduck("status", "--json", "--store", tap.store, cwd=tmp_path)
        assert (as_json.returncode, json.loads(as_json.stdout)["alive"]) == (1, False)
        tap.start()
        assert tap.stop() == 0
        assert read(tap, "status").startswith("hepduck stopped, ")


def in_duckdb(lines: str, query: str) -> str:
    """The lines typed into a DuckDB of its own, then a query; what that says."""
    script = (
        "import sys, duckdb\n"
        "connection = duckdb.connect()\n"
        "for statement in sys.stdin.read().split(';\\n'):\n"
        "    if statement.strip(): rows = connection.execute(statement).fetchall()\n"
        "print('', rows, sep='\\n')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script],
        input=f"{lines}{query};\n",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]  # above it DuckDB draws the progress of a slow query


def test_your_own_duckdb(filled: RunningTap) -> None:
    """The lines of `sql --attach` are all it takes: while no tap runs, and live."""
    query = "SELECT count(*), count(DISTINCT msg_id) FROM sip"
    assert in_duckdb(read(filled, "sql", "--attach"), query) == "[(29, 29)]"
    tap = RunningTap(filled.folder)
    with tap:
        lines = read(tap, "sql", "--attach")
        assert in_duckdb(lines, query) == "[(29, 29)]"
        tap.send(B)
        tap.settled(14)
        assert in_duckdb(lines, query) == "[(43, 43)]"
