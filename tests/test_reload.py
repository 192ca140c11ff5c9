"""SIGHUP and sd_notify: a real tap under a socket of our own, as systemd would run it."""

from __future__ import annotations

import json
import re
import signal
import socket
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tap import RunningTap, call_id_of, eventually, ghost_call

from pipeline.notify import ServiceManager
from pipeline.reload import changed_keys
from pipeline.settings import Settings

BEFORE = """
[[rules.rule]]
finding = "late_register"
actions = ["log"]
"""
AFTER = """
[rules]
max_per_minute = 7

[[rules.rule]]
finding = "late_register"
actions = ["log", "fake_call"]

[detectors.register_scan]
accounts = 3

[tap]
max_connections = 9
"""


class Manager:
    """What systemd would hear."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="notify-")  # socket paths are short
        self.address = f"{self._folder.name}/socket"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(self.address)
        self.heard: list[str] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._folder.cleanup()

    def _listen(self) -> None:
        while said := self._socket.recv(4096):
            self.heard.append(said.decode())


@pytest.fixture
def manager() -> Iterator[Manager]:
    made = Manager()
    yield made
    made.close()


def logged(tap: RunningTap, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in tap.log().splitlines() if line.startswith("{")]
    return [line for line in lines if line["event"] == event]


def test_a_life_under_systemd(tmp_path: Path, manager: Manager) -> None:
    """Ready; alive each second; new rules on SIGHUP; a broken file changes nothing; stopping."""
    file = tmp_path / "hepduck.toml"
    file.write_text(BEFORE)
    variables = {"NOTIFY_SOCKET": manager.address}
    with RunningTap(tmp_path, configuration=file, variables=variables) as tap:
        eventually(lambda: "READY=1" in manager.heard, "ready")
        alive = eventually(lambda: [h for h in manager.heard if "WATCHDOG=1" in h], "a sign of life")
        assert re.fullmatch(
            r"WATCHDOG=1\nSTATUS=\d+ messages received, 0 lost, \d+ queued; no findings", alive[0]
        )
        options = ["--speed", "8x", "--now"]
        tap.send(ghost_call(tmp_path, "ann"), options=options)
        tap.wait_for(lambda status: sum(row["count"] for row in status["actions"]) == 1, "the log's line")

        file.write_text(AFTER)
        tap.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
        (line,) = eventually(lambda: logged(tap, "configuration reloaded"), "the reload")
        assert line["changed"] == ["rules.max_per_minute", "rules.rule", "detectors"]
        assert line["detectors_started_anew"] == ["register_scan"]
        assert line["needs_restart"] == ["tap.max_connections"]
        eventually(lambda: manager.heard.count("READY=1") == 2, "that reloading is over")
        told = [h.partition("\n")[0] for h in manager.heard if "WATCHDOG" not in h]
        assert told == ["READY=1", "RELOADING=1", "READY=1"]

        for broken, said in (
            ("[rules\n", "no valid TOML"),
            ('[[rules.rule]]\nfinding = "late_register"\nactions = ["fake_cal"]\n', "no action fake_cal"),
            ("[detectors.register_scan]\naccount = 3\n", "did you mean accounts?"),
            ('[detectors.late_register]\nwindow = "1h"\n', "needs a restart"),
        ):
            known = len(logged(tap, "configuration not reloaded, all stays as it was"))
            file.write_text(broken)
            tap.process.send_signal(signal.SIGHUP)  # type: ignore[union-attr]
            lines = eventually(
                lambda known=known: logged(tap, "configuration not reloaded, all stays as it was")[known:],
                "the refusal",
            )
            assert len(lines) == 1
            assert said in lines[0]["error"]

        tap.send(ghost_call(tmp_path, "eva"), options=options)
        tap.wait_for(lambda status: sum(row["count"] for row in status["actions"]) == 3, "log and fake call")
        assert tap.stop() == 0
        acted = tap.rows("SELECT call_id, action FROM action_attempt")
        assert {(row["call_id"], row["action"]) for row in acted} == {
            (call_id_of("ann"), "log"),
            (call_id_of("eva"), "log"),
            (call_id_of("eva"), "fake_call"),
        }
    assert "STOPPING=1" in manager.heard


def test_sockets_of_every_kind_and_none() -> None:
    """An abstract one; one where nobody listens; none: never an error."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0hepduck-test-notify")
        ServiceManager({"NOTIFY_SOCKET": "@hepduck-test-notify"}).ready()
        assert listening.recv(100) == b"READY=1"
    for environment in ({"NOTIFY_SOCKET": "@hepduck-test-notify"}, {"NOTIFY_SOCKET": "/nowhere"}, {}):
        ServiceManager(environment).alive("two\nlines")


def test_a_changed_secret_is_named_and_not_shown() -> None:
    old = Settings.model_validate({"tap": {"auth_key": "one"}})
    new = Settings.model_validate({"tap": {"auth_key": "two"}, "cdr": []})
    assert list(changed_keys(old, new)) == ["tap.auth_key"]
