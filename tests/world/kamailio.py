"""A private Kamailio: Debian's program, a configuration of the tests, random loopback ports."""

from __future__ import annotations

import subprocess
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from world import programs
from world.ports import free_port

HERE = Path(__file__).parent
Define = str | int | None  # a string, a number, or only a name


@dataclass(frozen=True)
class Certificate:
    """PEM files for a TLS listener."""

    certificate: Path
    key: Path


class Kamailio:
    """One Kamailio with UDP, TCP and, given a certificate, TLS listeners.

    `also` are further addresses to listen on, for UDP and TCP, with the same port.
    `defines` become `-A` definitions: `{"WITH_X": None, "HEPDUCK_URI": "sip:127.0.0.1:9060", "N": 3}`.
    The log is kept in the run directory.
    """

    def __init__(
        self,
        run_dir: Path,
        *,
        config: Path = HERE / "kamailio.cfg",
        defines: Mapping[str, Define] | None = None,
        certificate: Certificate | None = None,
        also: tuple[str, ...] = (),
        address: str = "127.0.0.1",
    ) -> None:
        self.run_dir = run_dir
        run_dir.mkdir(parents=True, exist_ok=True)
        self.log_file = run_dir / "kamailio.log"
        self.address = address
        addresses = (address, *also)
        self.port = free_port(*addresses)
        # Unix socket paths are short (108 bytes), pytest's directories are not.
        self._sockets = tempfile.TemporaryDirectory(prefix="kam-")
        self._control = f"unix:{self._sockets.name}/control"
        listen = [
            f"{transport}:[{a}]:{self.port}" if ":" in a else f"{transport}:{a}:{self.port}"
            for a in addresses
            for transport in ("udp", "tcp")
        ]
        self.defines: dict[str, Define] = {"CONTROL": self._control, **(defines or {})}
        if certificate:
            self.tls_port = free_port(address)
            listen.append(f"tls:{address}:{self.tls_port}")
            self.defines |= {
                "WITH_TLS": None,
                "TLS_CERTIFICATE": str(certificate.certificate),
                "TLS_KEY": str(certificate.key),
            }
        self._argv = [
            *(programs.find("kamailio"), "-f", str(config), "-DD", "-E", "-Y", self._sockets.name),
            *("-P", f"{self._sockets.name}/pid", "-m", "64", "-M", "8"),
            *(word for socket in listen for word in ("-l", socket)),
            *(word for name, value in self.defines.items() for word in ("-A", _define(name, value))),
        ]
        self._process: subprocess.Popen[bytes] | None = None

    def proxy(self, transport: str = "udp", address: str | None = None) -> tuple[str, int]:
        """Address and port to send SIP to."""
        return address or self.address, self.tls_port if transport == "tls" else self.port

    def start(self, timeout_s: float = 15) -> Kamailio:
        """Starts it and waits until it takes commands, which is after all its sockets are open."""
        with self.log_file.open("wb") as log:
            self._process = subprocess.Popen(
                self._argv, stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline and self._process.poll() is None:
            if self._try("core.uptime").returncode == 0:
                return self
            time.sleep(0.03)
        self.stop()
        raise RuntimeError(f"Kamailio did not start:\n{self.complaints()}")

    def command(self, *words: str) -> str:
        """The answer of `kamcmd WORDS`."""
        done = self._try(*words)
        if done.returncode != 0:
            raise RuntimeError(f"kamcmd {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def log(self) -> str:
        return self.log_file.read_text(errors="replace")

    def complaints(self) -> str:
        """The log's last lines that speak of errors, or simply the last ones."""
        lines = self.log().splitlines()
        bad = [line for line in lines if "ERROR" in line or "CRITICAL" in line or "ALERT" in line]
        return "\n".join((bad or lines)[-12:])

    def stop(self) -> None:
        if self._process:
            programs.stop(self._process)
        self._sockets.cleanup()

    def __enter__(self) -> Kamailio:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.stop()

    def _try(self, *words: str) -> subprocess.CompletedProcess[str]:
        argv = [programs.find("kamcmd"), "-s", self._control, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=10, check=False)


def _define(name: str, value: Define) -> str:
    match value:
        case None:
            return name
        case int():
            return f"{name}={value}"
        case str():
            return f'{name}="{value}"'
