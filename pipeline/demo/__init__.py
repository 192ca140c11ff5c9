"""`hepduck demo`: a recorded ghost call, played at a real tap over real UDP, found live.

Three calls to an iPhone, recorded from a real Kamailio: one that the caller cancels, one that a desk phone
answers, both before the woken phone registers; and one that the phone is in time for, which must be left alone.
Then a quarter of an hour of an Asterisk with bad lines, so that there is quality to look at; and the web app.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from importlib import resources
from pathlib import Path
from typing import Any

from pipeline.callview import as_text, view
from pipeline.demo import asterisk
from pipeline.demo.web import WebApp
from pipeline.errors import StoreError
from pipeline.ingest.recordings import read_recording
from pipeline.ladder import message_label, printable
from pipeline.status import as_text as status_text
from pipeline.status import read_status
from pipeline.store import quality_queries, queries
from pipeline.store.lake import Reader

STORE = Path("hepduck-demo")
_CDRS = STORE / "asterisk-cdr.csv"
_MARK = "made-by-hepduck-demo"
_SPEED = 2.0
_START_S = 30.0
_STORED_S = 20.0
_RATED_S = 60.0
_SETTLED_S = 3.0
_STYLE = re.compile(r"\x1b\[[0-9;]*m")
_BOLD, _RED, _DIM, _PLAIN = "\x1b[1m", "\x1b[1;31m", "\x1b[2m", "\x1b[0m"


def run(*, stay: bool = False) -> None:
    """Run the demo. On a terminal, and with `stay`, the tap and the app go on until Ctrl-C."""
    for number in (signal.SIGINT, signal.SIGTERM):  # also when started where Ctrl-C is ignored
        signal.signal(number, signal.default_int_handler)
    _fresh_store()
    asterisk.write_header(_CDRS)
    with (STORE / "tap.log").open("w") as log:
        tap = subprocess.Popen(_tap_command(), stderr=log)
    app: WebApp | None = None
    try:
        address, stream = _wait_for_addresses(tap)
        _say(f"A tap listens on {address}; its store is ./{STORE}/. It is told to place no call (dry run).")
        with Reader(STORE) as reader:
            seen = _Watcher(reader)
            folder = resources.files("pipeline.demo") / "recordings"
            for recording in sorted(folder.iterdir(), key=lambda item: item.name):
                if recording.name.endswith(".hep"):
                    _play(recording, address, seen)
            _explain(reader, seen.sent)
            _hear_asterisk(reader, stream)
        app = WebApp(STORE)
        stay = stay or sys.stdout.isatty()
        again = "" if stay else f" It ends now; `hepduck app --store {STORE}` starts it again."
        _say(f"All of it in a web browser: {app.url} answers.{again}")
        _try_next()
        if stay:
            app.open_browser()
            _say(f"Tap (pid {tap.pid}) and app go on at {app.url}; Ctrl-C ends them.")
            while tap.poll() is None:  # a wait without end may miss a Ctrl-C that comes just before it
                time.sleep(0.2)
    except KeyboardInterrupt:
        pass
    finally:
        if app is not None:
            app.close()
        if tap.poll() is None:
            tap.send_signal(signal.SIGTERM)
            tap.wait(30)


def _tap_command() -> list[str]:
    cdrs = [{"source": str(_CDRS), "name": "asterisk", "interval": "1s", "jitter": "0s"}]
    settings = {"cdr": json.dumps(cdrs), "quality.interval": "1s"}
    run = [sys.executable, "-m", "pipeline", "run", "--no-config", "--store", str(STORE)]
    listeners = ("-L", "udp:127.0.0.1:0", "-L", "tcp:127.0.0.1:0")
    return [*run, *listeners, *(word for pair in settings.items() for word in ("--set", "=".join(pair)))]


def _fresh_store() -> None:
    if STORE.exists():
        if not (STORE / _MARK).exists():
            raise StoreError(f"./{STORE} exists and is not from an earlier demo: move it away first")
        shutil.rmtree(STORE)
    STORE.mkdir()
    (STORE / _MARK).touch()


def _wait_for_addresses(tap: subprocess.Popen[bytes]) -> tuple[str, str]:
    """Where it listens: UDP, and TCP, which loses nothing when all comes at once."""
    give_up_s = time.monotonic() + _START_S
    while time.monotonic() < give_up_s and tap.poll() is None:
        try:
            udp, tcp = sorted(read_status(STORE)["listeners"], reverse=True)
            return udp, tcp
        except StoreError:
            time.sleep(0.1)
    raise StoreError(f"the tap did not start; {STORE / 'tap.log'} says why")


class _Watcher:
    """Prints what arrives in the store, as it arrives."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._last = 0
        self.messages = 0
        self.sent = 0

    def look(self) -> None:
        for row in queries.tail(self._reader, after_msg_id=self._last, limit=1000):
            self._last = row["msg_id"]
            self.messages += 1
            hop = f"{row['src_ip']}:{row['src_port']} -> {row['dst_ip']}:{row['dst_port']}"
            print(f"  {row['ts']:%H:%M:%S.%f}"[:-3], f"{hop:<38}", printable(message_label(row)), flush=True)


def _play(recording: Any, address: str, seen: _Watcher) -> None:
    title = recording.name.removesuffix(".hep").partition("-")[2].replace("-", " ")
    _say(f"A call to an iPhone, {title}: played as HEP, twice as fast as it was recorded.")
    with resources.as_file(recording) as path:
        seen.sent += sum(1 for _ in read_recording(path))  # each holds one message
        command = ["send", str(path), "--to", address, "--speed", str(_SPEED), "--now"]
        sender = subprocess.Popen([sys.executable, "-m", "pipeline", *command], stderr=subprocess.DEVNULL)
        while sender.poll() is None:
            seen.look()
            time.sleep(0.2)
    give_up_s = time.monotonic() + _STORED_S
    while seen.messages < seen.sent and time.monotonic() < give_up_s:
        time.sleep(0.1)
        seen.look()


def _explain(reader: Reader, sent: int) -> None:
    give_up_s = time.monotonic() + _STORED_S
    while not (attempts := queries.action_attempts(reader)) and time.monotonic() < give_up_s:
        time.sleep(0.2)
    findings = list(reversed(queries.findings(reader)))
    for index, finding in enumerate(findings):
        _say(
            f"{_RED}GHOST CALL{_PLAIN}{_BOLD} {finding['aor']} at {finding['target']} registered "
            f"{finding['late_ms']:.0f} ms after the call was {finding['outcome']}: it rings, and nobody tells it."
        )
        for attempt in attempts:
            if attempt["finding_id"] == finding["finding_id"] and attempt["action"] == "fake_call":
                _print_plan(attempt["detail"] or "", short=index > 0)
    if findings:
        _say("The first of them as a ladder (`hepduck call`):")
        print(as_text(view(reader, findings[0]["call_id"])))
    _say("The third call reached the phone in time: no finding. The counters add up:")
    while (status := read_status(STORE))["stored"] < sent and time.monotonic() < give_up_s:
        time.sleep(0.1)  # it is written once a second
    print(status_text(status))


def _hear_asterisk(reader: Reader, address: str) -> None:
    """A quarter of an hour of RTCP reports and CDRs at once, and what became of them."""
    heard = STORE / "asterisk.hep"
    sent = asterisk.write_moved(heard, _CDRS)
    _say(
        f"An Asterisk with bad lines: {sent} messages and reports of its last quarter of an hour, and its CDRs."
    )
    command = ["send", str(heard), "--to", address, "--speed", "max"]
    subprocess.run([sys.executable, "-m", "pipeline", *command], stderr=subprocess.DEVNULL, check=False)
    for row in _rated(reader):
        _print(
            f"  {row['calls']} calls with a known quality: R {row['r_p5']:.1f} for the worst twentieth of the "
            f"directions, {row['r_p50']:.1f} in the middle; loss up to {row['loss_pct_p95']:.1f} % for 95 %."
        )


def _rated(reader: Reader) -> list[dict[str, Any]]:
    """The figures, once they change no more: CDRs and reports are taken in, and tied together, by jobs of the tap."""
    give_up_s = time.monotonic() + _RATED_S
    found: list[dict[str, Any]] = []
    same_since_s = time.monotonic()
    while (now_s := time.monotonic()) < give_up_s:
        before, found = found, quality_queries.figures(reader)
        if found != before or not found or not _is_from_both(reader):
            same_since_s = now_s
        elif now_s - same_since_s >= _SETTLED_S:
            break
        time.sleep(0.5)
    return found


def _is_from_both(reader: Reader) -> bool:
    sql = "SELECT count(DISTINCT source) AS sources FROM leg_quality WHERE call_id IS NOT NULL"
    return bool(reader.query(sql)["sources"][0].as_py() == 2)


def _try_next() -> None:
    here = os.path.relpath(Path(sys.executable).parent / "hepduck")
    _say("Try next:")
    for command in (
        f"{here} findings --store {STORE}",
        f"{here} calls state:ghost,poor --store {STORE}",
        f"{here} quality --worst 5 --store {STORE}",
        f"{here} sql 'SELECT method, status, count(*) FROM sip GROUP BY ALL' --store {STORE}",
        f"{here} sql --attach --store {STORE}      # the lines for your own DuckDB",
        f"{here} actions                               # and how to arm the fake call: README.md",
    ):
        print(f"  {command}")


def _print_plan(plan: str, *, short: bool) -> None:
    lines = [printable(line) for line in plan.splitlines()]
    if short:
        lines = [line for line in lines if line.startswith(("INVITE", "CANCEL", "Call-ID", "Reason"))]
    _print(f"{_DIM}  What fake_call would send (dry run{', in short' if short else ''}):{_PLAIN}")
    for line in lines:
        _print(f"    {line}")


def _say(text: str) -> None:
    _print(f"\n{_BOLD}{text}{_PLAIN}")


def _print(text: str) -> None:
    print(text if sys.stdout.isatty() and "NO_COLOR" not in os.environ else _STYLE.sub("", text), flush=True)
