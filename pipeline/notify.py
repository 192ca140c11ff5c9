"""What systemd is told of the tap, by the protocol of sd_notify(3). Without a service manager all is silence."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping


class ServiceManager:
    """Says when the tap is ready, alive, reloading and stopping; never waits and never fails."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        address = environment.get("NOTIFY_SOCKET", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def ready(self) -> None:
        """Start-up, or reloading, is over."""
        self._say("READY=1")

    def alive(self, status: str) -> None:
        """The loop turns (feeds the watchdog); `status` is what `systemctl status` shows."""
        self._say("WATCHDOG=1", f"STATUS={' '.join(status.split())}")

    def reloading(self) -> None:
        """SIGHUP is being followed; `ready` ends it."""
        self._say("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """What is queued is being drained."""
        self._say("STOPPING=1")

    def _say(self, *lines: str) -> None:
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.sendto("\n".join(lines).encode(), socket.MSG_DONTWAIT, self._address)
