"""`hepduck doctor` beside taps in trouble: keys that do not fit, garbage, losses, a death, and one that is armed."""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from doctor_scene import KEY, QUICK, Scene
from filled import run_in_process  # noqa: F401 - fixture
from tap import RunningTap
from world.phone import DESK
from world.ports import free_port

from pipeline.store.lake import Reader

pytestmark = pytest.mark.timeout(90)


@pytest.fixture
def own_scene(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    """Makes a scene with a tap of its own."""
    with ExitStack() as stack:

        def make(*options: str, **how: Any) -> Scene:
            tap = stack.enter_context(RunningTap(tmp_path / "own", *QUICK, *options, **how))
            scene = Scene(tap, tmp_path, stack.enter_context(Reader(tap.store)))
            stack.callback(scene.close)
            return scene

        yield make


def test_keys_that_do_not_fit(own_scene):
    """First the right one, of desk phones only; then none, a wrong one, and a version that cannot carry any."""
    asked_bytes = 2**31 - 1  # more than any system grants
    scene = own_scene(
        *("--set", f"tap.receive_buffer_bytes={asked_bytes}"), variables={"HEPDUCK_TAP__AUTH_KEY": KEY}
    )
    parties = scene.kamailio(HEPDUCK_AUTH_KEY=KEY)
    phone = parties.registered(scene.account(), user_agent=DESK)
    assert phone.wait_for("ACK", parties.given_up_call(phone.user))
    said = scene.said()
    assert said.complaints == said.advice == {"push_devices", "receive_buffer"}, said
    assert f"1 {DESK}" in said["push_devices"].told
    assert "[detectors.late_register.devices]" in said.mend("push_devices", "hepduck.toml")
    assert f"sysctl -w net.core.rmem_max={asked_bytes}" in said.mend("receive_buffer", "shell")

    for defines in ({}, {"HEPDUCK_AUTH_KEY": "guess"}, {"HEPDUCK_HEP_VERSION": 2}):
        scene.kamailio(**defines).registered(scene.account())
    scene.tap.wait_for(lambda status: status["rejected"] == 12, "12 rejected packets")
    said = scene.said()
    assert said.wrong == {"key"}, said
    for words in ("version 3 with no key", "version 3 with a wrong key", "version 2 with no key"):
        assert f"4 packets of 127.0.0.1 in HEP {words}" in said["key"].told
    assert "since the tap started" in said["key"].told
    assert 'modparam("siptrace", "auth_key", "...")' in said.mend("key")
    assert 'modparam("siptrace", "hep_version", 3)' in said.mend("key")


def test_raw_sip_on_a_stream(own_scene):
    """Its connection is trusted no more. The tap is stopped then, and tells of its agents."""
    scene = own_scene(listen=["udp:127.0.0.1:0", "tcp:127.0.0.1:0"])
    scene.traffic(scene.kamailio(via="tcp", MIRROR_TRACE_MODE=5))
    scene.said()
    assert scene.tap.stop() == 0
    said = scene.said_of_stopped()
    assert (said.wrong, said.advice) == ({"raw_sip"}, {"tap", "trust"}), said
    assert "since the tap started" in said["raw_sip"].told
    assert "bytes on tcp:127.0.0.1" in said["raw_sip"].told
    assert 'modparam("siptrace", "trace_mode", 1)' in said.mend("raw_sip")
    assert "auth_key" in said.mend("trust", "hepduck.toml")


def test_losses_and_a_death(own_scene, run_here):
    scene = own_scene("--set", "tap.receive_buffer_bytes=4096")
    parties = scene.kamailio()
    os.kill(scene.tap.pid, signal.SIGSTOP)
    scene.traffic(parties)
    os.kill(scene.tap.pid, signal.SIGCONT)
    scene.tap.wait_for(lambda status: status["dropped_by_reason"]["kernel"], "losses")
    said = scene.said()
    assert "drops" in said.wrong, said
    assert " kernel" in said["drops"].told
    assert "receive_buffer_bytes" in said.mend("drops", "hepduck.toml")
    scene.tap.kill()
    dead = scene.said_of_stopped()
    assert "tap" in dead.wrong
    assert "hepduck run --store" in dead.mend("tap", "shell")
    done = run_here(*scene.command, cwd=scene.tap.folder)
    assert (done.returncode, done.stderr) == (1, "")
    assert re.search(r"^WRONG +tap +the tap died.*\n +shell:\n +journalctl", done.stdout, re.MULTILINE)


def test_an_armed_tap_that_is_not_let_in(own_scene, start_kamailio, meet):
    """Its secret is not the proxy's."""
    port = free_port()
    kamailio = start_kamailio(defines={"HEPDUCK_URI": f"sip:127.0.0.1:{port}", "HEPDUCK_SECRET": "theirs"})
    call = {
        "enabled": "true",
        "dry_run": "false",
        "proxy": f"sip:127.0.0.1:{kamailio.port}",
        "secret": "ours",
    }
    options = [word for key, value in call.items() for word in ("--set", f"actions.fake_call.{key}={value}")]
    scene = own_scene(*options, listen=[f"udp:127.0.0.1:{port}"])
    parties, late = meet(kamailio), scene.account()
    parties.given_up_call(late)
    parties.registered(late)
    scene.tap.wait_for(
        lambda status: any(row["action"] == "fake_call" for row in status["actions"]), "a call"
    )
    said = scene.said()
    assert said.complaints == said.wrong == {"compensating_call"}, said
    assert "HEPDUCK_SECRET" in said.mend("compensating_call")
    assert said["arming"].told.startswith("ARMED: fake_call; 1 finding;")
