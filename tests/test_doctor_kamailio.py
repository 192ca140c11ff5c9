"""`hepduck doctor` beside real Kamailios, right ones and misconfigured ones: it names the fault, and no other.

One tap hears them all; each scene is a window of its own, with accounts of its own.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from doctor import Said
from doctor_scene import QUICK, Scene
from filled import run_in_process  # noqa: F401 - fixture
from tap import RunningTap
from world.collector import Collector
from world.phone import DESK

from pipeline.protocols.hep import decode, encode
from pipeline.store.lake import Reader

pytestmark = pytest.mark.timeout(90)


@pytest.fixture(scope="module", name="tap")
def running_tap(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningTap]:
    """The tap that hears all scenes but those that leave traces in its counters."""
    with RunningTap(tmp_path_factory.mktemp("tap"), *QUICK) as tap:
        yield tap


@pytest.fixture(scope="module")
def reader(tap: RunningTap) -> Iterator[Reader]:
    with Reader(tap.store) as reader:
        yield reader


@pytest.fixture
def scene(tap: RunningTap, reader: Reader, tmp_path: Path) -> Iterator[Scene]:
    scene = Scene(tap, tmp_path, reader)
    yield scene
    scene.close()


# -- nothing is wrong -------------------------------------------------------------------------------------


def test_a_right_mirror(scene, certificate, run_here):
    """UDP, TCP, TLS and IPv6; lost, answered and busy calls; a desk phone; another proxy on the same machine."""
    parties = scene.kamailio(certificate=certificate, also=("::1",))
    late = scene.account()
    parties.given_up_call(late)
    parties.registered(late)
    scene.traffic(parties)
    rung = [
        parties.registered(scene.account(), "tcp"),
        parties.registered(scene.account(), "tls"),
        parties.registered(scene.account(), address="::1"),
        parties.registered(scene.account(), behaviour="busy", user_agent=DESK),
    ]
    callers = [parties.sipp("uac_cancel", user="alice", callee=phone.user) for phone in rung]
    desk = parties.registered(scene.account(), behaviour="answer", user_agent=DESK)
    answered = parties.sipp("uac_answer", user="alice", callee=desk.user, wait_ms=100)
    assert answered.wait() == 0, answered.explain()
    for phone, caller in zip(rung, callers, strict=True):
        assert phone.wait_for("ACK", caller.call_id)
    scene.traffic(scene.kamailio(HEPDUCK_CAPTURE_ID=2002))
    said = scene.said()
    assert said.complaints == set(), said
    assert said["hops"].numbers["hops"] == ["tcp/IPv4", "tls/IPv4", "udp/IPv4", "udp/IPv6"]
    assert "dry run" in said["arming"].told
    done = run_here(*scene.command, "--json", cwd=scene.tap.folder)
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["check"] for row in rows] == list(said)
    assert {row["verdict"] for row in rows} == {"ok", "cannot tell"}


def test_a_mended_version(scene):
    """The version was wrong until a moment ago."""
    for version in (1, 3):
        scene.traffic(scene.kamailio(HEPDUCK_HEP_VERSION=version))
    assert scene.said().complaints == set()


# -- one fault each ---------------------------------------------------------------------------------------

CORE = 'modparam("siptrace", "trace_mode", 1)'
TWICE = "take every sip_trace() out"
# The proxies of a scene, each by what is defined for it; the fault that they share; a line that mends it.
FAULTS: dict[str, tuple[list[dict[str, int | None]], str, str]] = {
    "trace_mode 4 and 5": ([{"MIRROR_TRACE_MODE": 4}, {"MIRROR_TRACE_MODE": 5}], "raw_sip", CORE),
    "hep_mode_on 0": (
        [{"MIRROR_HEP_MODE": 0, "MIRROR_SL_ACKS": 1}],
        "raw_sip",
        'modparam("siptrace", "hep_mode_on", 1)',
    ),
    "hep_version 1": ([{"HEPDUCK_HEP_VERSION": 1}], "hep_version", 'modparam("siptrace", "hep_version", 3)'),
    "sip_trace() too": ([{"SIP_TRACE": None}], "duplicates", TWICE),
    "sip_trace() with trace_flag too": ([{"SIP_TRACE": None, "SIP_TRACE_FLAG": None}], "duplicates", TWICE),
    "sip_trace() alone": ([{"SIP_TRACE": None, "MIRROR_TRACE_MODE": 0}], "replies", CORE),
    "replies to REGISTER left out": (
        [{"MIRROR_LEAVES_OUT_REGISTERED": None}],
        "replies",
        "drop() nothing but keepalives",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault(fault, scene):
    proxies, name, mend = FAULTS[fault]
    for defines in proxies:
        scene.traffic(scene.kamailio(**defines))
    said = scene.said()
    assert said.complaints == said.wrong == {name}, said
    assert mend in said.mend(name)


def test_what_could_be_better(scene):
    """Nothing is wrong then, though there is something to say."""
    parties = scene.kamailio(MIRROR_SL_ACKS=1, HEPDUCK_HEP_VERSION=2, HEPDUCK_SKIP="OPTIONS|REGISTER")
    for _ in range(3):
        scene.traffic(parties)
    said = scene.said()
    assert said.complaints == said.advice == {"duplicates", "hep_version", "registers"}, said
    assert said.mend("duplicates") == 'modparam("siptrace", "trace_sl_acks", 0)'
    assert 'modparam("siptrace", "hep_version", 3)' in said.mend("hep_version")
    assert "must not name REGISTER" in said.mend("registers")


def test_two_proxies_of_different_versions(scene):
    new, old = scene.kamailio(), scene.kamailio(HEPDUCK_HEP_VERSION=1)
    for parties in (new, old, new):
        scene.traffic(parties)
    said = scene.said()
    assert said.complaints == said.wrong == {"mixed_versions"}, said
    assert 'modparam("siptrace", "hep_version", 3)' in said.mend("mixed_versions")


def test_hops_between_ipv4_and_ipv6(scene):
    """Behind a balancer that comes over IPv6 and says that its client is an IPv4 one: kamailio issue 3665."""
    parties = scene.kamailio(WITH_HAPROXY=None, also=("::1",))
    scene.traffic(parties)
    for n in range(2):
        line = f"PROXY TCP4 192.0.2.{7 + n} 127.0.0.1 40000 {parties.kamailio.port}\r\n"
        parties.registered(scene.account(), "tcp", address="::1", preface=line.encode())
    assert "interworking detected" in parties.kamailio.log()
    said = scene.said()
    assert said.complaints == said.wrong == {"hops"}, said
    assert "REGISTER over tcp/IPv4: " in said["hops"].told
    assert "tcp_accept_haproxy" in said.mend("hops")


def test_a_transport_left_out(scene):
    """Phones and callers over TCP are not mirrored; what Kamailio relays from and to them still tells."""
    parties = scene.kamailio(MIRROR_LEAVES_OUT_TCP=None)
    scene.traffic(parties)
    behind = parties.registered(scene.account(), "tcp")
    seen = parties.registered(scene.account())
    for _ in range(2):
        assert behind.wait_for("ACK", parties.given_up_call(behind.user))
        assert seen.wait_for("ACK", parties.given_up_call(seen.user, transport="tcp"))
    said = scene.said()
    assert said.complaints == said.wrong == {"hops"}, said
    assert "2 of" in said["hops"].told
    for side in ("caller", "callee"):
        assert f"no INVITE on the {side}'s side" in said["hops"].told


def test_a_number_that_only_the_proxy_knows(scene):
    """It rings an iPhone. With the alias that is proposed only another is left, whose calls ring nowhere."""
    parties = scene.kamailio()
    unknown = f"0{scene.number:07}"
    for _ in range(2):
        parties.given_up_call(unknown)
    phone = parties.registered(scene.account())
    number = f"+1555{scene.number:07}"
    parties.kamailio.command("htable.sets", "number", f"s:{number}", phone.user)
    assert phone.wait_for("ACK", parties.given_up_call(number))
    said = scene.said()
    assert said.complaints == said.wrong == {"aliases"}, said
    assert said.mend("aliases", "hepduck.toml").splitlines() == [
        "[detectors.late_register.aliases]",
        f'"{number}@sip.test" = "{phone.user}@sip.test"',
    ]
    settings = {"detectors.late_register.aliases": said["aliases"].numbers["aliases"]}
    said = scene.said(settings)
    assert said.complaints == said.advice == {"aliases"}, said
    assert said["aliases"].numbers["unknown"] == {f"{unknown}@sip.test": 2}


# -- faults of the way ------------------------------------------------------------------------------------


def relayed(
    scene: Scene,
    change: Callable[[bytes], bytes | None],
    capture_ids: Iterable[int] = (2001,),
    copies: int = 1,
) -> Said:
    """What right mirrors send, as it is after a relay has changed each packet, lost it, or made copies."""
    with Collector() as collector:
        for number in capture_ids:
            scene.traffic(scene.kamailio(uri=collector.uri, HEPDUCK_CAPTURE_ID=number))
        time.sleep(0.05)
        with scene.tap.connected() as sock:
            for datagram in collector.datagrams:
                if (changed := change(datagram)) is not None:
                    for _ in range(copies):
                        sock.send(changed)
    return scene.said()


def test_clocks_that_are_off(scene):
    behind_s = {2001: 7200, 2002: -30}

    def moved(datagram: bytes) -> bytes:
        (packet,) = decode(datagram)
        return encode(packet._replace(ts_us=packet.ts_us - behind_s[packet.agent_id] * 1_000_000))

    said = relayed(scene, moved, capture_ids=behind_s)
    assert said.complaints == said.wrong == {"clock"}, said
    assert said["clock"].numbers["behind_s"] == {
        f"127.0.0.1/{number}": pytest.approx(off_s, abs=1.9) for number, off_s in behind_s.items()
    }
    assert "set-ntp true" in said.mend("clock", "shell")


def test_a_network_that_loses_what_is_large(scene):
    said = relayed(scene, lambda datagram: datagram if len(datagram) < 600 else None, (2001, 2001))
    assert said.complaints == said.wrong == {"large"}, said
    assert ";transport=tcp" in said.mend("large")


def test_messages_that_are_cut_off(scene):
    def cut(datagram: bytes) -> bytes:
        (packet,) = decode(datagram)
        return encode(packet._replace(payload=packet.payload[:500]))

    said = relayed(scene, cut)
    assert said.complaints == said.wrong == {"truncated"}, said
    assert "at 500 bytes" in said["truncated"].told


def test_a_network_that_doubles_packets(scene):
    said = relayed(scene, lambda datagram: datagram, copies=2)
    assert said.complaints == said.wrong == {"duplicates"}, said
    assert "the network doubles it" in said["duplicates"].told


# -- the tap itself ---------------------------------------------------------------------------------------


def test_a_mirror_that_is_off(scene):
    """`trace_on` is 0 by default: minutes later nothing has come."""
    scene.traffic(scene.kamailio(MIRROR_ON=0))
    later = datetime.now(UTC) + timedelta(minutes=6)
    said = scene.said(now=later)
    assert said.complaints == said.wrong == {"silence"}, said
    assert 'modparam("siptrace", "trace_on", 1)' in said.mend("silence")
    assert scene.tap.address().removeprefix("udp:") in said.mend("silence")
