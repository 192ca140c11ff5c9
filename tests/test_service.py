"""The running tap as a whole: what is sent is found, stored once, and accounted for, whatever happens to it."""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import subprocess
import time
from collections import Counter
from functools import cache
from pathlib import Path

import psutil
import pytest
import trustme
from recordings import ALIASES, DATA, PATHS, Owed, load
from tap import PATIENCE_S, RunningTap, call_id_of, eventually, ghost_call, hep3, hepduck, sip

from pipeline.ingest.recordings import RecordingWriter, read_recording
from pipeline.ingest.restamp import restamp

KAMAILIO = DATA / "kamailio"
NAMES = [path.stem for path in sorted(KAMAILIO.glob("*.hep"))]
APART_US = 60_000_000  # between two recordings: more than any window
B = KAMAILIO / "b.hep"


# -- every recording through real sockets ----------------------------------------------------------------


def payload_of(data: bytes) -> bytes:
    """The payload of a HEP packet as Kamailio writes it: the last chunk, or what follows the fixed head."""
    if data.startswith(b"HEP3"):
        at = 6
        while data[at + 2 : at + 4] != b"\x00\x0f":
            at += int.from_bytes(data[at + 4 : at + 6])
        return data[at + 6 :]
    return data[28:] if data[0] == 2 else data[16:]


labelled = cache(load)


def one_after_the_other(names: list[str], folder: Path) -> list[Path]:
    """The recordings with their times moved, so that they follow each other and end a minute ago.

    They were recorded closer together than the window, with the same accounts: played into one tap as
    they are, phones of one would be late for calls of another.
    """
    folder.mkdir()
    spans = {name: [r.arrival_us for r in read_recording(PATHS[name])] for name in names}
    lengths_us = {name: times[-1] - times[0] + APART_US for name, times in spans.items()}
    start_us = time.time_ns() // 1000 - sum(lengths_us.values())
    moved = []
    for name in names:
        originals = list(read_recording(PATHS[name]))
        records = list(restamp(originals, start_us))
        assert [payload_of(r.data) for r in records] == [payload_of(r.data) for r in originals]
        moved.append(folder / f"{name}.hep")
        with RecordingWriter(moved[-1]) as writer:
            writer.write(records)
        start_us += lengths_us[name]
    return moved


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1 with its key, and beside it the CA as `ca.pem`."""
    folder = tmp_path_factory.mktemp("certificate")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    return folder / "server.pem"


@pytest.mark.parametrize("via", ["udp", "tcp", "tls"])
def test_every_labelled_recording(via: str, tmp_path: Path, certificate: Path) -> None:
    """One tap for each transport gets them all, as fast as they can be sent."""
    # Versions 1 and 2 of HEP have no framing; version 1 has no time either, so it happens when it is played.
    timed = [name for name in NAMES if name != "b_hep1" and (via == "udp" or name != "b_hep2")]
    untimed = ["b_hep1"] if via == "udp" else []
    paths = one_after_the_other(timed, tmp_path / "moved")
    sent = [record.data for path in paths for record in read_recording(path)]
    labels = [labelled(name) for name in timed + untimed]
    due = Counter(owed for label in labels for owed in label.expected)
    tolerated = Counter(owed for label in labels for owed in label.tolerated)

    settings = [
        *("--set", f"detectors.late_register.aliases={json.dumps(ALIASES)}"),
        *("--set", f"tap.tls_certificate={certificate}"),
        *("--set", "store.redact=[]"),
    ]
    with RunningTap(tmp_path, *settings, listen=[f"{via}:127.0.0.1:0"]) as tap:
        # Where the system grants no big receive buffer, UDP at full speed would lose some in the kernel.
        slow = via == "udp" and "receive buffer" in tap.log()
        speed = "50x" if slow else "max"
        options = ["--speed", speed, "--ca", str(certificate.with_name("ca.pem"))]
        tap.send(*paths, via=via, options=options)
        for name in untimed:
            tap.settled(len(sent))
            tap.send(PATHS[name], via=via, options=options)
            sent += [record.data for record in read_recording(PATHS[name])]
        status = tap.settled(len(sent))
        assert (status["received"], status["stored"]) == (len(sent), len(sent))
        assert status["rejected"] == status["dropped"] == 0
        assert not status["weird"]
        assert tap.stop() == 0

        found = Counter(
            Owed(row["call_id"], row["aor"], row["target"], row["outcome"])
            for row in tap.rows("SELECT * FROM finding")
        )
        assert not due - found, "missing"
        assert not found - due - tolerated, "not owed"
        assert tap.status()["findings"] == {"late_register": found.total()}  # type: ignore[index]
        stored = tap.rows("SELECT msg_id, payload FROM sip")
        assert len({row["msg_id"] for row in stored}) == len(sent)
        assert Counter(row["payload"] for row in stored) == Counter(map(payload_of, sent))


# -- who may speak, and who is believed ------------------------------------------------------------------


def test_the_agents_key(tmp_path: Path) -> None:
    """Without the right key nothing is taken in, and everything is counted."""
    with RunningTap(tmp_path, variables={"HEPDUCK_TAP__AUTH_KEY": "right"}) as tap:
        with tap.connected() as sock:
            for number, key in enumerate([b"right", b"wrong", b"", None, b"right\0", b"righ", b"right"]):
                sock.send(hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", f"{number}@key"), auth_key=key))
        tap.send(B)  # a ghost call of an agent without a key
        status = tap.settled(7 + 14)
        assert status["stored"] == 2
        assert status["rejected_by_reason"] == {"bad_key": 5 + 14}
        assert status["findings"] == {}
        assert sorted(row["call_id"] for row in tap.rows("SELECT call_id FROM sip")) == ["0@key", "6@key"]
        assert tap.rows("SELECT trusted FROM agent") in ([], [{"trusted": True}])


def test_who_is_not_vouched_for_makes_nobody_ring(tmp_path: Path) -> None:
    """With neither key nor networks set, only what loopback agents mirror may set off a call."""
    addresses = [a.address for of in psutil.net_if_addrs().values() for a in of if a.family == socket.AF_INET]
    foreign = next((address for address in addresses if not address.startswith("127.")), None)
    assert foreign, "this test needs an address besides the loopback ones"
    armed = {"enabled": True, "dry_run": False}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as proxy:
        proxy.bind(("127.0.0.1", 0))
        proxy.settimeout(PATIENCE_S)
        armed["proxy"] = f"sip:127.0.0.1:{proxy.getsockname()[1]}"
        options = [f"--set=actions.fake_call.{key}={json.dumps(value)}" for key, value in armed.items()]
        with RunningTap(tmp_path, *options, listen=[f"udp:{foreign}:0", "udp:127.0.0.1:0"]) as tap:
            at_foreign, at_loopback = tap.addresses
            for user, address in (("eve", at_foreign), ("ann", at_loopback)):
                path = ghost_call(tmp_path, user)
                done = hepduck("send", path, "--to", address, "--speed", "8x", "--now", cwd=tmp_path)
                assert done.returncode == 0, done.stderr
            # Eve's call was found first, so nothing for her can come after Ann's.
            invite = proxy.recv(65535).decode()
            assert invite.startswith("INVITE ")
            assert f"Call-ID: {call_id_of('ann')}" in invite.split("\r\n")
            held = {"action": "fake_call", "outcome": "held_untrusted", "dry_run": False, "count": 1}
            tap.wait_for(lambda status: held in status["actions"], "the brake")
            tap.settled(28)
            found = eventually(
                lambda: len(rows := tap.rows("SELECT call_id, trusted FROM finding")) == 2 and rows,
                "both findings",
            )
            assert {row["call_id"]: row["trusted"] for row in found} == {
                call_id_of("eve"): False,
                call_id_of("ann"): True,
            }
            attempts = tap.rows(
                f"SELECT action, outcome FROM action_attempt WHERE call_id = '{call_id_of('eve')}'"
            )
            assert {row["action"]: row["outcome"] for row in attempts} == {
                "log": "logged",
                "fake_call": "held_untrusted",
            }


# -- what is no SIP --------------------------------------------------------------------------------------


def test_reports_and_log_lines_have_tables_of_their_own(tmp_path: Path) -> None:
    report = b'{"type":200,"ssrc":1,"report_count":1,"report_blocks":[]}'
    line = b"INFO: <core>: a line of Kamailio's log"
    with RunningTap(tmp_path) as tap:
        with tap.connected() as sock:
            sock.send(hep3(report, protocol_type=5, correlation_id=b"call-1@sip.test"))
            sock.send(hep3(line, protocol_type=100, correlation_id=b"call-2@sip.test"))
        assert tap.settled(2)["stored"] == 2
        what = "correlation_id, packet_type, payload, payload_bytes, src_ip, src_port, agent_id, agent_addr"
        for table, call_id, kind, payload in (
            ("rtcp", "call-1@sip.test", 5, report),
            ("log", "call-2@sip.test", 100, line),
        ):
            assert tap.rows(f"SELECT {what} FROM {table}") == [
                {
                    "correlation_id": call_id,
                    "packet_type": kind,
                    "payload": payload,
                    "payload_bytes": len(payload),
                    "src_ip": "127.0.0.21",
                    "src_port": 5062,
                    "agent_id": 2001,
                    "agent_addr": "127.0.0.1",
                }
            ]


def test_what_cannot_be_decoded_is_kept(tmp_path: Path) -> None:
    """A row in `weird` with its kind, and the first 256 bytes of what was there."""
    no_sip = b"GET /" + bytes(range(256)) * 2
    cut = hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", "cut@weird"))[:120]
    sent = {
        "hep_short": (b"\x01", b"\x01"),
        "hep_magic": (b"GET / HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n\r\n"),
        "hep_chunk_overrun": (cut, cut),
        "sip_start_line": (hep3(no_sip), no_sip),
        "sip_keepalive": (hep3(b"\r\n\r\n"), b"\r\n\r\n"),
        "hep_protocol_type": (hep3(b"what", protocol_type=77), b"what"),
    }
    with RunningTap(tmp_path) as tap:
        with tap.connected() as sock:
            for datagram, _ in sent.values():
                sock.send(datagram)
        status = tap.settled(len(sent))
        assert status["weird"] == dict.fromkeys(sent, 1)
        assert status["stored"] == len(sent)
        rows = tap.rows("SELECT kind, head, bytes, agent_addr FROM weird")
        assert {row["kind"]: (row["head"], row["bytes"], row["agent_addr"]) for row in rows} == {
            kind: (data[:256], len(data), "127.0.0.1") for kind, (_, data) in sent.items()
        }


# -- how it ends, and begins again -----------------------------------------------------------------------


def options_messages(count: int, name: str) -> list[bytes]:
    return [hep3(sip("OPTIONS sip:bob@sip.test SIP/2.0", f"{number}@{name}")) for number in range(count)]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_stores_what_was_received(number: signal.Signals, tmp_path: Path) -> None:
    messages = options_messages(5000, "stop")
    with RunningTap(tmp_path) as tap:
        with tap.connected() as sock:
            for message in messages:
                sock.send(message)
        os.kill(tap.pid, number)
        assert tap.stop() == 0
        status = tap.status()
        assert status is not None
        assert (status["state"], status["queued"], status["received"]) == ("stopped", 0, len(messages))
        assert status["stored"] == len(messages) - status["dropped_by_reason"]["kernel"]
        (row,) = tap.rows("SELECT count(*) AS rows, count(DISTINCT call_id) AS calls FROM sip")
        assert row == {"rows": status["stored"], "calls": status["stored"]}


def test_a_stop_waits_for_a_finding_that_is_held(tmp_path: Path) -> None:
    """The REGISTER that decided it came in; the hold for late messages is not over."""
    with RunningTap(tmp_path, "--set", "detectors.late_register.reorder=600ms") as tap:
        tap.send(ghost_call(tmp_path, "ann"), options=["--speed", "max", "--now"])
        assert tap.stop() == 0
        assert [row["call_id"] for row in tap.rows("SELECT call_id FROM finding")] == [call_id_of("ann")]


def test_a_restart_goes_on(tmp_path: Path) -> None:
    """Same store: all is there, and ids stay unique and in order."""
    tap = RunningTap(tmp_path)
    for name in ("first", "second", "third"):
        with tap:
            with tap.connected() as sock:
                for message in options_messages(50, name):
                    sock.send(message)
            tap.settled(50)
            if name == "second":
                tap.kill()
            else:
                assert tap.stop() == 0
    rows = tap.rows("SELECT msg_id, call_id FROM sip ORDER BY msg_id")
    expected = [f"{number}@{name}" for name in ("first", "second", "third") for number in range(50)]
    assert [row["call_id"] for row in rows] == expected
    assert len({row["msg_id"] for row in rows}) == len(rows)


def assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """One line on stderr that says what is wrong, and exit code 2."""
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("hepduck: ")
    for word in words:
        assert word in line


@pytest.mark.parametrize("via", ["udp", "tcp"])
def test_a_port_in_use(via: str, tmp_path: Path) -> None:
    """Says so, names the mend, and leaves no store behind."""
    kind = socket.SOCK_DGRAM if via == "udp" else socket.SOCK_STREAM
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        if via == "tcp":
            taken.listen()
        address = f"{via}:127.0.0.1:{taken.getsockname()[1]}"
        done = hepduck("run", "--no-config", "--store", "store", "-L", address, cwd=tmp_path)
    assert_refused(done, address, "in use")
    assert not (tmp_path / "store").exists()


def test_two_taps_on_one_store(tmp_path: Path) -> None:
    with RunningTap(tmp_path) as tap:
        done = hepduck("run", "--no-config", "--store", tap.store, "-L", "udp:127.0.0.1:0", cwd=tmp_path)
        assert_refused(done, f"pid {tap.pid}", str(tap.store))
        done = hepduck("check", "--no-config", "--store", tap.store, cwd=tmp_path)
        assert done.returncode == 2
        assert "FAIL  store: another hepduck is writing" in done.stdout
        tap.send(B)
        assert tap.settled(14)["stored"] == 14


def test_a_status_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """Nor does a full disk, which is the likelier reason."""
    with RunningTap(tmp_path) as tap:
        address = tap.address()
        (tap.store / "status.json.new").mkdir()
        done = hepduck("send", B, "--to", address, "--speed", "max", cwd=tmp_path)
        assert done.returncode == 0
        eventually(lambda: tap.rows("SELECT count(*) AS n FROM sip") == [{"n": 14}], "the messages")
        eventually(lambda: "status" in tap.log(), "a word about it in the log")
        (tap.store / "status.json.new").rmdir()
        assert tap.settled(14)["stored"] == 14
        assert tap.stop() == 0


def test_a_recording_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    """Its file system may be full, or gone: here a pipe that nobody reads any more."""
    pipe = tmp_path / "pipe.hep"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with RunningTap(tmp_path, "--record", str(pipe)) as tap:
        tap.send(B)
        sent = 14
        assert eventually(lambda: select.select([reader], [], [], 0)[0], "a record")
        assert os.read(reader, 8) == b"HEPREC01"
        os.close(reader)
        while "recording given up" not in tap.log():
            tap.send(B)
            sent += 14
        tap.send(B)
        assert tap.settled(sent + 14)["stored"] == sent + 14
        assert tap.log().count("Broken pipe") == 1
        assert tap.stop() == 0
