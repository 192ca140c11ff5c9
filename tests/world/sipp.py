"""Runs sipp with one of our scenarios and reads what it sent and received from its message log."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path

from world import programs
from world.ports import free_port
from world.sip import Seen, Transcript, new_call_id

SCENARIOS = Path(__file__).parent / "sipp"
# "----- 2026-11-22 21:30:00.123456" / "UDP message sent [512] bytes:" / blank / the message
_ENTRY = re.compile(
    r"^-{20,} (?P<date>\S+)\s+(?P<clock>\d\d:\d\d:\d\d\.\d+)\s*\n"
    r"\w+ message (?P<way>sent|received) .*?\n\n(?P<text>.*?)(?=^-{20,} \d{4}-|\Z)",
    re.MULTILINE | re.DOTALL,
)


class Sipp:
    """One sipp process that plays `scenario` once.

    `wait_ms` is the scenario's pause (`@WAIT_MS@`), `out_of_call` a second scenario for calls that arrive at
    the same socket, `keys` the scenario's own words (`[ua]`). The files are kept in `run_dir`.
    """

    def __init__(
        self,
        run_dir: Path,
        proxy: tuple[str, int],
        scenario: str,
        *,
        user: str,
        callee: str | None = None,
        address: str = "127.0.0.11",
        transport: str = "udp",
        call_id: str | None = None,
        wait_ms: int = 300,
        out_of_call: str | None = None,
        keys: Mapping[str, str] | None = None,
        timeout_s: int = 40,
    ) -> None:
        run_dir.mkdir(parents=True, exist_ok=True)
        self.call_id = call_id or new_call_id()
        self.address, self.port = address, free_port(address)
        self._log = run_dir / "messages.log"
        self._output = run_dir / "output.txt"

        def ready(name: str) -> str:
            text = (SCENARIOS / f"{name}.xml").read_text().replace("@WAIT_MS@", str(wait_ms))
            copy = run_dir / f"{name}.xml"
            copy.write_text(text)
            return str(copy)

        argv = [
            *(programs.find("sipp"), f"{proxy[0]}:{proxy[1]}", "-sf", ready(scenario), "-m", "1", "-nostdin"),
            *("-i", address, "-p", str(self.port), "-t", {"udp": "u1", "tcp": "t1"}[transport]),
            "-pause_msg_ign",  # a 180 that the proxy's workers let the 200 overtake
            *("-s", callee or user, "-au", user, "-ap", f"pw-{user}", "-cid_str", self.call_id),
            *("-timeout", f"{timeout_s}s", "-trace_msg", "-message_file", str(self._log)),
            *("-trace_err", "-error_file", str(run_dir / "errors.log")),
            *(
                word
                for name, value in {"user": user, **(keys or {})}.items()
                for word in ("-key", name, value)
            ),
        ]
        if out_of_call:
            argv += ["-oocsf", ready(out_of_call)]
        with self._output.open("wb") as output:
            self._process = subprocess.Popen(
                argv,
                stdout=output,
                stderr=output,
                stdin=subprocess.DEVNULL,
                cwd=run_dir,
                start_new_session=True,
            )

    def wait(self, timeout_s: float = 30) -> int:
        """Waits for the scenario's end: 0 when all went as written in it."""
        return self._process.wait(timeout_s)

    @property
    def transcript(self) -> Transcript:
        """What it has sent and received so far."""
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        transcript = Transcript()
        for entry in _ENTRY.finditer(text):
            at = datetime.fromisoformat(f"{entry['date']} {entry['clock']}").timestamp()
            message = entry["text"].strip("\n").replace("\r\n", "\n").replace("\n", "\r\n")
            transcript.messages.append(Seen(at, entry["way"] == "sent", message + "\r\n"))
        return transcript

    def explain(self) -> str:
        """Why it failed, as far as sipp says."""
        return self._output.read_text(errors="replace")[-1500:]

    def close(self) -> None:
        programs.stop(self._process)
