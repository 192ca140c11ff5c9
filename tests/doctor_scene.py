"""A scene for tests of `hepduck doctor`: a tap, real Kamailios that mirror to it, and who talks to them."""

from __future__ import annotations

import itertools
import time
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from doctor import Said, ask
from tap import RunningTap, eventually, hep3
from world.kamailio import Kamailio
from world.parties import Parties

from pipeline.store.lake import Reader

QUICK = ("--set", "store.writer.flush_interval=50ms", "--set", "tap.receive_buffer_bytes=196608")
KEY = "mirror key"
MARKS: dict[str, Any] = {"auth_key": KEY.encode(), "agent_id": 1}
_serial = itertools.count(1)


class Scene:
    """A window of time in which one tap hears one or more Kamailios."""

    def __init__(self, tap: RunningTap, folder: Path, reader: Reader) -> None:
        self.tap = tap
        self.number = next(_serial)
        self._folder = folder / str(self.number)
        self._reader = reader
        self._stack = ExitStack()
        self._began = datetime.now(UTC)

    def kamailio(self, *, via: str = "udp", uri: str | None = None, **how: Any) -> Parties:
        """A Kamailio that mirrors to the tap (or to `uri`), and who talks to it; capital letters are defines."""
        folder = self._folder / str(next(_serial))
        defines = {name: how.pop(name) for name in list(how) if name.isupper()}
        address = self.tap.address(via).partition(":")[2]
        mirror = uri or f"sip:{address}" + ("" if via == "udp" else f";transport={via}")
        defines = {"HEPDUCK_URI": mirror, "NO_INJECT": None, **defines}
        kamailio = self._stack.enter_context(Kamailio(folder / "kamailio", defines=defines, **how))
        parties = Parties(kamailio, folder)
        self._stack.callback(parties.close)
        return parties

    def account(self) -> str:
        return f"bob{self.number}-{next(_serial)}"

    def traffic(self, parties: Parties) -> None:
        """Two phones that register, and a call that rings one of them and is given up."""
        parties.registered(self.account(), "tcp")
        callee = parties.registered(self.account())
        assert callee.wait_for("ACK", parties.given_up_call(callee.user))

    def said(self, settings: dict[str, Any] | None = None, **how: Any) -> Said:
        """What the doctor says of the scene, once the tap has stored all of it."""
        self._stack.close()
        time.sleep(0.05)  # Kamailio mirrors what it sent after it has sent it
        mark = f"end of scene {self.number}"
        with self.tap.connected() as sock:
            sock.send(hep3(b"-", protocol_type=100, correlation_id=mark.encode(), **MARKS))
        asked = "SELECT count(*) AS n FROM log WHERE correlation_id = $mark"
        eventually(lambda: self._reader.query(asked, {"mark": mark}).to_pylist()[0]["n"], mark)
        return ask(self.tap.store, settings, self._reader, since=self._began, **how)

    @property
    def command(self) -> tuple[str, ...]:
        """The same as words of the command line."""
        return ("doctor", "--no-config", "--store", str(self.tap.store), "--since", self._began.isoformat())

    def said_of_stopped(self) -> Said:
        """What he says once no tap runs any more."""
        return ask(self.tap.store, reader=self._reader, since=self._began)

    def close(self) -> None:
        self._stack.close()
