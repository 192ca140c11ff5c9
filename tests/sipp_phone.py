"""The real sipp as a phone, for tests: an implementation of SIP that is not ours."""

from __future__ import annotations

import socket
import subprocess
import time
from pathlib import Path

from world import programs
from world.ports import family, free_port

SCENARIOS = Path(__file__).parent / "data" / "sipp"


class SippPhone:
    """One call at `uri`, answered by a scenario of `data/sipp`. `finished` is True when it went to its end."""

    def __init__(self, scenario: str, *, host: str = "127.0.0.1", tcp: bool = False) -> None:
        self.scenario, self.host, self.tcp = scenario, host, tcp
        self.port = free_port(host)

    @property
    def uri(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"sip:{host}:{self.port}" + (";transport=tcp" if self.tcp else "")

    def __enter__(self) -> SippPhone:
        argv = [programs.find("sipp"), "-sf", str(SCENARIOS / f"{self.scenario}.xml"), "-i", self.host]
        argv += ["-p", str(self.port), "-mi", self.host, "-ci", "127.0.0.1", "-m", "1", "-nostdin"]
        argv += ["-bind_local", "-t", "t1" if self.tcp else "u1", "-timeout", "20s", "-timeout_error"]
        argv += ["-callid_slash_ign"]
        self._process = subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        end = time.monotonic() + 10
        while not self._listens():
            assert self._process.poll() is None, "sipp did not start"
            assert time.monotonic() < end
            time.sleep(0.01)
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait()

    def finished(self) -> bool:
        return self._process.wait(20) == 0

    def _listens(self) -> bool:
        kind = socket.SOCK_STREAM if self.tcp else socket.SOCK_DGRAM
        with socket.socket(family(self.host), kind) as probe:
            try:
                probe.bind((self.host, self.port))
            except OSError:
                return True
        return False
