"""The compensating call by sipp, for those who run it already and want to see its scenario do the work.

One sipp process for each call, started from an argument list (no shell), with the scenario
`invite_cancel.xml` of this folder. Its control port is on loopback, its media ports are on the local address;
it is killed at the time limit. `fake_call` does the same without a process, and sooner.
"""

from __future__ import annotations

import os
import socket
import tempfile
from dataclasses import dataclass
from datetime import timedelta
from importlib import resources
from pathlib import Path

from pydantic import Field

from detectors.actions.exec import run_program
from detectors.actions.uac import headers
from detectors.actions.uac.call import judge
from detectors.actions.uac.links import ProxyAddress, connected_udp_socket, party_of
from detectors.actions.uac.messages import Script
from detectors.actions.uac.settings import FAMILY, MASK, CallSettings, read_secret, script_for
from pipeline.durations import Duration
from pipeline.engine.actions import Action, ActionResult, Attempt
from pipeline.engine.commands import Finding
from pipeline.errors import ActionError, ConfigError

_SCENARIO = "invite_cancel.xml"
_TRACE = "messages.csv"
_MARGIN_S = 5  # between sipp's own time limit and ours


class SippSettings(CallSettings):
    """`[actions.sipp]`"""

    program: str = Field("sipp", description="name on the PATH, or path, of sipp 3.6 or later")
    time_limit: Duration = Field(timedelta(seconds=45), description="then sipp is killed")


class Sipp(Action):
    """INVITE, wait for ringing, CANCEL, by sipp. Outcomes as fake_call's."""

    name = "sipp"
    Settings = SippSettings
    family = FAMILY
    needs_target = True

    def __init__(self, settings: SippSettings) -> None:
        super().__init__(settings)
        self.settings: SippSettings = settings
        self._secret = read_secret(settings)
        self._proxy = ProxyAddress.parse(settings.proxy)
        self._local = headers.local_address(settings.local) if settings.local is not None else None
        if settings.time_limit.total_seconds() <= _MARGIN_S:
            raise ConfigError(f"time_limit: must be above {_MARGIN_S}s")

    async def plan(self, finding: Finding) -> str:
        script = script_for(finding, self.settings, None if self._secret is None else MASK)
        argv = self._argv(script, await self._local_end(), Path(_SCENARIO))
        return f"run {argv} with in the file secret: {_secret_line(script)}"

    async def act(self, finding: Finding, _attempt: Attempt) -> ActionResult:
        script = script_for(finding, self.settings, self._secret)
        local = await self._local_end()
        scenario = resources.files("detectors.actions").joinpath(_SCENARIO)
        with (
            tempfile.TemporaryDirectory(prefix="hepduck-sipp-") as folder,
            resources.as_file(scenario) as path,
        ):
            Path(folder, "secret").write_text(
                _secret_line(script), encoding="ascii"
            )  # the folder is ours alone
            status, output = await run_program(
                self._argv(script, local, path),
                stdin=b"",
                environment={"PATH": os.environ.get("PATH", ""), "TERM": "dumb"},
                keep_bytes=2000,
                cwd=folder,
            )
            trace = read_trace(Path(folder, _TRACE))
        if trace.invite_sent_us is None:
            raise ActionError(f"sipp sent nothing (exit status {status}): {_last_words(output)}")
        outcome, detail = _outcome(trace)
        return ActionResult(outcome, detail, tuple(trace.statuses), trace.invite_sent_us)

    def _argv(self, script: Script, local: tuple[str, int], scenario: Path) -> list[str]:
        host, port = local
        proxy = f"[{self._proxy.host}]" if ":" in self._proxy.host else self._proxy.host
        limit_s = int(self.settings.time_limit.total_seconds()) - _MARGIN_S
        reason = (
            f"Reason: {script.reason}" if script.reason is not None else f"User-Agent: {script.user_agent}"
        )
        keys = {
            "aor": script.aor.removeprefix("sip:"),
            "caller": script.caller,
            "tag": script.tag,
            "agent": script.user_agent,
            "target_line": ": ".join(script.target),
            "cancel_line": reason,
        }
        return [
            self.settings.program,
            f"{proxy}:{self._proxy.port}",
            *("-sf", str(scenario), "-m", "1", "-nostdin"),
            *("-t", "t1" if self._proxy.transport == "TCP" else "u1"),
            *("-i", host, "-bind_local", "-p", str(port)),
            *("-mi", host, "-ci", "127.0.0.1"),
            *("-timeout", f"{limit_s}s", "-timeout_error"),
            *("-recv_timeout", str(int(self.settings.ring_wait.total_seconds() * 1000))),
            *("-default_behaviors", "all,-abortunexp,-bye"),
            # sipp's own: %u and the like in a Call-ID are codes, a /// in it cuts off what stands before.
            *("-cid_str", script.call_id.replace("%", "%%"), "-callid_slash_ign"),
            *(word for key, value in keys.items() for word in ("-key", key, value)),
            *("-trace_shortmsg", "-shortmessage_file", _TRACE),
        ]

    async def _local_end(self) -> tuple[str, int]:
        """(ip, port) for sipp to send from; a free port, since sipp would begin its search at 5060."""
        if self._local is not None and self._local[1]:
            return self._local
        with await connected_udp_socket(self._proxy, self._local) as sock:
            party = party_of(sock, self._proxy.transport)
        if self._proxy.transport == "TCP":
            family = socket.AF_INET6 if party.host.startswith("[") else socket.AF_INET
            with socket.socket(family, socket.SOCK_STREAM) as sock:
                sock.bind((party.host.strip("[]"), 0))
                return party.host.strip("[]"), sock.getsockname()[1]
        return party.host.strip("[]"), party.port


@dataclass(slots=True)
class Trace:
    """What sipp sent and received, from its message trace."""

    statuses: list[tuple[int, int]]  # replies to the INVITE with their times
    invite_sent_us: int | None = None
    cancelled: bool = False


def read_trace(path: Path) -> Trace:
    """Lines split by tabs: date, time, seconds since the epoch, S or R, Call-ID, `CSeq:1 INVITE`, message."""
    trace = Trace([])
    if not path.exists():
        return trace
    for line in path.read_text("utf-8", "replace").splitlines():
        fields = line.split("\t")
        if len(fields) < 7:
            continue
        at_us, direction, method, first = round(float(fields[2]) * 1e6), fields[3], fields[5], fields[6]
        if direction == "S" and first.startswith("INVITE ") and trace.invite_sent_us is None:
            trace.invite_sent_us = at_us
        elif direction == "S" and first.startswith("CANCEL "):
            trace.cancelled = True
        elif direction == "R" and method.endswith("INVITE") and first.startswith("SIP/2.0 "):
            trace.statuses.append((int(first.split(" ")[1]), at_us))
    return trace


def _outcome(trace: Trace) -> tuple[str, str]:
    final = next((status for status, _ in trace.statuses if status >= 200), None)
    ringing = any(100 < status < 200 for status, _ in trace.statuses)
    if final is None:
        if not trace.statuses:
            return "timeout", "the proxy never replied"
        return ("timeout" if ringing else "not_delivered"), "no final reply to the INVITE"
    if final < 300:
        return "answered", "the phone took the call; BYE was sent"
    return judge(final, ringing=ringing, cancelled=trace.cancelled)


def _secret_line(script: Script) -> str:
    """The header line for the scenario's file; an INVITE without a secret repeats a harmless header."""
    return ": ".join(script.secret) if script.secret is not None else "Supported: replaces"


def _last_words(output: str) -> str:
    """The last line of sipp's screen that says something."""
    lines = [line.strip() for line in output.splitlines() if any(mark.isalnum() for mark in line)]
    return lines[-1] if lines else "no output"
