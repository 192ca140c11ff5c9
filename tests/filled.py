"""To import: the commands there are, a store that has heard something, and ways to read it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from recordings import DATA
from tap import RunningTap, environment, ghost_call, hep3, hepduck, sip

from pipeline.cli import app, main

B = DATA / "kamailio" / "b.hep"
B_CALL, B_REGISTER = "call-ae44999ea7ec4425b453@sip.test", "reg-7e3a3a4e186c4635bca3@sip.test"
HOSTILE_NAME = b"\x1b[31m"  # as long as `alice`
HOSTILE_AGENT = "\x9b31m\u202eabc".encode()  # as long as `LinphoneSDK`
STEERING_CALL = "steer\x1b[2J@sip.test"


def commands(of: typer.Typer) -> Iterator[str]:
    """`run`, `check` ..., `cdr import`: all commands of the command line."""
    for command in of.registered_commands:
        yield command.name or command.callback.__name__  # type: ignore[union-attr]
    for group in of.registered_groups:
        for name in commands(group.typer_instance):  # type: ignore[arg-type]
            yield f"{group.typer_instance.info.name} {name}"  # type: ignore[union-attr]


LISTED = list(commands(app))
Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="session", name="filled")
def filled_tap(tmp_path_factory: pytest.TempPathFactory) -> RunningTap:
    """A stopped tap that heard: recording b; a ghost call of hostile names; a message that steers terminals."""
    folder = tmp_path_factory.mktemp("filled")
    hostile = ghost_call(folder, "eve")
    data = hostile.read_bytes()
    assert len(HOSTILE_NAME) == len(b"alice") and len(HOSTILE_AGENT) == len(b"LinphoneSDK")
    hostile.write_bytes(
        data.replace(b'"alice"', b'"' + HOSTILE_NAME + b'"').replace(b"LinphoneSDK", HOSTILE_AGENT)
    )
    steering = sip(
        "OPTIONS sip:bob\x1b]0;x\x07@sip.test SIP/2.0",
        STEERING_CALL,
        "Subject: \x1b[31m",
        "User-Agent: =cmd|' /C calc'!A0\x9b",
    ).replace(b"SIP/2.0/UDP", b"SIP/2.0/\x1b[5mX")
    tap = RunningTap(folder)
    with tap:
        tap.send(B)
        tap.send(hostile)
        with tap.connected() as sock:
            sock.send(hep3(steering, ip_proto=22))  # TLS in Kamailio's spelling: the Via tells the transport
            sock.send(b"\x01")
        tap.settled(30)
        assert tap.stop() == 0
    return tap


def read(tap: RunningTap, *arguments: object, run: Run = hepduck) -> str:
    """What a reading command says on stdout; it must succeed in silence."""
    done = run(*arguments, "--store", tap.store, cwd=tap.folder)
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout


@pytest.fixture(name="run_here")
def run_in_process(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """Runs a command in this process, through its entry point: a second saved each, where there are many."""
    monkeypatch.setattr("pipeline.logs.configure", lambda _settings: None)  # it would outlive the test
    umask = os.umask(0o022)
    os.umask(umask)

    def run(*words: object, cwd: Path) -> subprocess.CompletedProcess[str]:
        argv = ["hepduck", *map(str, words)]
        monkeypatch.chdir(cwd)
        monkeypatch.setattr(sys, "argv", argv)
        for name in set(os.environ) - set(environment()):
            monkeypatch.delenv(name)
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(argv, int(ended.value.code or 0), out, err)

    yield run
    os.umask(umask)
