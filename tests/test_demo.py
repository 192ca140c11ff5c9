"""`hepduck demo` as a newcomer runs it, in an empty folder."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest
from asterisk_recordings import rows, truths
from recordings import load
from tap import COMMAND, environment, eventually, hepduck

from pipeline.ingest.recordings import read_recording

ROOT = Path(__file__).parents[1]
GHOST = re.compile(r"^GHOST CALL (\S+) at (\S+) registered \d+ ms after the call was (\w+)", re.MULTILINE)

PLAYED = sorted((ROOT / "pipeline" / "demo" / "recordings").glob("*.hep"))
Staying = tuple["subprocess.Popen[str]", Path]

# The demo plays b (canceled), c (answered elsewhere) and d (in time); the first two have a late phone.
B, C, D = (load(name).label for name in ("b", "c", "d"))


def processes_of(folder: Path) -> list[str]:
    """Command lines of processes that work in `folder`."""
    found = []
    for process in psutil.process_iter(["cwd", "cmdline"]):
        if process.info["cwd"] and Path(process.info["cwd"]) == folder:
            found.append(" ".join(process.info["cmdline"] or []))
    return found


@pytest.fixture(scope="module", name="staying", autouse=True)
def demo_that_stays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Staying]:
    """`hepduck demo --stay` in a folder of its own, from the first test on: most of its time is waiting."""
    folder = tmp_path_factory.mktemp("staying")
    argv = [*COMMAND, "demo", "--stay"]
    with (folder / "errors").open("w") as errors:
        process = subprocess.Popen(
            argv, cwd=folder, env=environment(), stdout=subprocess.PIPE, stderr=errors, text=True
        )
    yield process, folder
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(30)


@pytest.mark.timeout(240)
def test_the_demo(tmp_path: Path) -> None:
    done = hepduck("demo", cwd=tmp_path, timeout_s=200)
    shown = done.stdout
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    assert processes_of(tmp_path) == []

    # Two ghost calls, live, with what would be sent to each; none for the phone that was in time.
    assert GHOST.findall(shown) == [
        (owed["aor"], owed["contact"], owed["reason"]) for owed in (*B["expected"], *C["expected"])
    ]  # fmt: skip
    call_ids = [owed["call_id"] for owed in (*B["expected"], *C["expected"])]
    plans = re.split(r"What fake_call would send \(dry run", shown)[1:]
    assert len(plans) == 2
    for call_id, plan in zip(call_ids, plans, strict=True):
        assert {call_id} == set(
            re.findall(r"^ +Call-ID: (\S+)$", plan.partition("GHOST CALL")[0], re.MULTILINE)
        )
        assert re.search(r"^ +INVITE sip:\S+ SIP/2.0$", plan, re.MULTILINE)
        assert re.search(r"^ +CANCEL sip:\S+ SIP/2.0$", plan, re.MULTILINE)
    assert "Call completed elsewhere" not in plans[0].partition("GHOST CALL")[0]  # the caller gave up
    assert 'Reason: SIP;cause=200;text="Call completed elsewhere"' in plans[1]
    in_time = next(event["call_id"] for event in D["events"] if event["event"] == "call")
    assert in_time not in shown

    # Messages as they came, the ladder with the finding in it, and counters that add up.
    sent = sum(1 for path in PLAYED for _ in read_recording(path))
    lines = re.findall(r"^  \d\d:\d\d:\d\d\.\d{3} \S+:\d+ -> \S+:\d+ +\S", shown, re.MULTILINE)
    assert len(lines) == sent
    assert re.search(r"^ +[\d.]+ !! GHOST CALL: ", shown, re.MULTILINE)
    assert re.search(
        rf"{sent} received = {sent} stored \+ 0 rejected \+ 0 shed \+ 0 kernel_dropped \+ 0 queued +\(adds up\)",
        shown,
    )
    assert re.search(r"^findings +2 late_register$", shown, re.MULTILINE)

    # Then Asterisk's calls: at least those that have media in a CDR, at most all there were. And the app, which has
    # answered and is gone again.
    rated = re.search(
        r"^  (\d+) calls with a known quality: R [\d.]+ for the worst twentieth", shown, re.MULTILINE
    )
    assert rated
    in_cdrs = {row["sip_callid"] for row in rows("r22-main") if row["rtcp_a_all"]}
    # On a busy machine the last calls may still be on their way to being rated.
    assert 0.9 * len(in_cdrs) <= int(rated[1]) <= len(truths("r22-main"))
    address = re.search(
        r"^All of it in a web browser: (http://127\.0\.0\.1:\d+) answers", shown, re.MULTILINE
    )
    assert address
    with pytest.raises(httpx.ConnectError):
        httpx.get(address[1])

    # The commands to try next work, here.
    tries = shown.partition("Try next:\n")[2].splitlines()
    assert len(tries) >= 4
    for command in tries:
        ran = subprocess.run(
            command,
            shell=True,
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (ran.returncode, ran.stderr) == (0, ""), f"{command}: {ran.stderr}"
        assert ran.stdout

    # And again: its own store is made anew, somebody else's is left alone.
    (tmp_path / "hepduck-demo" / "made-by-hepduck-demo").unlink()
    refused = hepduck("demo", cwd=tmp_path)
    assert refused.returncode == 2
    assert "move it away first" in refused.stderr
    assert (tmp_path / "hepduck-demo" / "status.json").exists()


@pytest.mark.timeout(120)
def test_the_demo_can_stay(staying: Staying) -> None:
    """Tap and app go on until Ctrl-C, which ends both in order."""
    process, folder = staying
    assert process.stdout is not None
    with process.stdout as stdout:
        goes_on = re.compile(r"^Tap \(pid (\d+)\) and app go on at (http://\S+);")
        pid, url = next(found.groups() for line in stdout if (found := goes_on.search(line)))
        assert psutil.Process(int(pid)).is_running()
        assert httpx.get(f"{url}/_stcore/health").text == "ok"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0
    eventually(lambda: processes_of(folder) == [], "the end of the tap and of the app")
    status = json.loads((folder / "hepduck-demo" / "status.json").read_text())
    assert (status["state"], status["unexplained"]) == ("stopped", 0)
    asterisk = ROOT / "pipeline" / "demo" / "recordings" / "asterisk" / "heard.hep.zst"
    sent = sum(1 for path in (*PLAYED, asterisk) for _ in read_recording(path))
    assert (status["received"], status["stored"]) == (sent, sent)
