"""`hepduck import`: captures and recordings into the store, whole, once, at their own time, as the tap would."""

from __future__ import annotations

import gzip
import json
import os
import re
import signal
import socket
import struct
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from filled import B_CALL, B_REGISTER, B, Run, filled_tap, run_in_process  # noqa: F401 - fixtures
from pcap_maker import (
    ALICE,
    ALICE6,
    PROXY,
    PROXY6,
    RAW,
    T0_US,
    Seen,
    datagram,
    ethernet,
    fragments,
    segment,
    sip,
    timed,
    tshark_sip,
    write_pcap,
)
from quality_store import datagrams
from recordings import load
from tap import COMMAND, RunningTap, environment, eventually, hep3

from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import decode
from pipeline.store.lake import open_reader
from pipeline.store.paths import StorePaths, WriterLock

Row = dict[str, Any]
SUMS = re.compile(
    r"(?P<file>.+): (?P<packets>\d+) packets = (?P<carriers>\d+) with SIP or HEP"
    r"(?: \+ (?P<ignored>\d+) ignored \((?P<ignored_kinds>.*?)\))?(?: \+ (?P<weird>\d+) weird \(.*?\))?\n"
    r"  (?P<messages>\d+) messages = (?P<stored>.*?); findings: (?P<findings>.*)\n"
)


# Captures are of a day that is longer ago each day; one test below is about that.
FOR_EVER = [
    word
    for table in ("sip", "rtcp", "log", "weird", "registration", "finding")
    for word in ("--set", f"store.retention.{table}=0s")
]


@pytest.fixture(name="imported")
def importer(run_here: Run, tmp_path: Path) -> Any:
    """Imports files into the store of the test; what it says on stderr."""

    def run(*files: object, code: int = 0) -> str:
        done = run_here(
            "import", *files, "--no-config", "--store", tmp_path / "store", *FOR_EVER, cwd=tmp_path
        )
        assert (done.returncode, done.stdout) == (code, ""), done.stderr
        return done.stderr

    return run


@contextmanager
def asking(store: Path) -> Iterator[Callable[[str], list[Row]]]:
    """Asks several questions of one connection: to open one takes longer than to answer."""
    with open_reader(store) as reader:
        yield lambda sql: reader.execute(sql).to_arrow_table().to_pylist()


def rows(store: Path, sql: str) -> list[Row]:
    with asking(store) as ask:
        return ask(sql)


def stored(store: Path) -> list[Seen]:
    """The messages in the store, as captures show them."""
    return [
        Seen(
            round(row["ts"].timestamp() * 1_000_000),
            (row["src_ip"], row["src_port"]),
            (row["dst_ip"], row["dst_port"]),
            row["payload"],
        )
        for row in rows(store, "FROM sip ORDER BY ts, msg_id")
    ]


def mixed_frames() -> list[bytes]:
    """SIP over UDP, in fragments, and over TCP; a packet that is neither, and pieces that never come together."""
    long = sip("long", body=b"v=0\r\n" * 400)
    stream = sip("t1") + sip("t2")
    return [
        datagram(ALICE, PROXY, sip("u")),
        *fragments(ALICE6, PROXY6, long, 1_024, 7),
        segment(ALICE, PROXY, 1, stream[:300]),
        segment(ALICE, PROXY, 301, stream[300:]),
        datagram(ALICE, ("198.51.100.1", 40_000), bytes.fromhex("80001234") + bytes(168)),
        datagram(PROXY, ALICE, sip("unreadable").replace(b" sip:bob@example.com", b"", 1)),
        *fragments(ALICE, PROXY, long, 512, 9)[:2],
    ]


def test_what_is_stored_is_what_tshark_sees(imported: Any, tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "x.pcap", timed(map(ethernet, mixed_frames())))
    said = imported(path)
    expected = [seen for seen in tshark_sip(path) if b"unreadable" not in seen.payload]
    assert stored(tmp_path / "store") == expected
    assert len(expected) == 4

    sums = SUMS.match(said)
    assert sums, said
    assert int(sums["packets"]) == len(mixed_frames())
    assert int(sums["packets"]) == sum(int(sums[name]) for name in ("carriers", "ignored", "weird"))
    assert sums["ignored_kinds"] == "1 rtp"
    assert (sums["messages"], sums["stored"]) == ("5", "4 sip + 1 weird (1 sip_start_line)")
    assert "fragments are missing: a filter on ports" in said

    store = tmp_path / "store"
    with asking(store) as ask:
        weird = ask("SELECT kind, ts, received_at, node FROM weird ORDER BY ts")
        (file,) = ask("SELECT * FROM imported_file")
        begins = ask(
            "SELECT DISTINCT split_part(batch_id, '-', 1) AS file, received_at = ts AS own_time FROM sip"
        )
    assert [row["kind"] for row in weird] == ["sip_start_line", "ip_fragment_incomplete"]
    assert {row["node"] for row in weird} == {f"{socket.gethostname()}/import"}
    assert (file["name"], file["bytes"], file["packets"], file["messages"]) == (
        "x.pcap",
        path.stat().st_size,
        len(mixed_frames()),
        4,
    )
    assert json.loads(file["weird"]) == {"sip_start_line": 1, "ip_fragment_incomplete": 2}
    assert begins == [{"file": file["sha256"][:16], "own_time": True}]


def test_twice_is_once(imported: Any, tmp_path: Path) -> None:
    """Whatever its name, and however it is packed; also within one command."""
    path = write_pcap(tmp_path / "x.pcap", timed(mixed_frames()), RAW)
    (tmp_path / "y.gz").write_bytes(gzip.compress(path.read_bytes()))
    assert SUMS.match(imported(path))
    once = stored(tmp_path / "store")
    again = imported(path, tmp_path / "y.gz", path).splitlines()
    assert len(again) == 2  # a file that is named twice is one
    assert all(": imported already, at " in line for line in again)
    assert stored(tmp_path / "store") == once


def test_files_that_share_their_times(imported: Any, tmp_path: Path) -> None:
    """Two captures of one moment: both stay, and every message has an id of its own, of its own time."""
    for name in ("one", "two"):
        frames = [datagram(ALICE, PROXY, sip(f"{name}{number}")) for number in range(50)]
        imported(write_pcap(tmp_path / name, timed(frames, step_us=2), RAW))
    (row,) = rows(
        tmp_path / "store",
        "SELECT count(*) AS messages, count(DISTINCT msg_id) AS ids,"
        " max(abs(msg_id - epoch_us(received_at))) AS apart_us FROM sip",
    )
    assert (row["messages"], row["ids"]) == (100, 100)
    assert row["apart_us"] <= 100


def test_a_recording_comes_in_as_the_tap_hears_it(imported: Any, filled: RunningTap, tmp_path: Path) -> None:
    """The same columns, calls, registrations and findings; and it never acts."""
    said = imported(B)
    assert "14 packets = 14 with SIP or HEP\n  14 messages = 14 sip; findings: 1 late_register" in said
    ours = "node, recorded_at, received_at, updated_at, agent_addr, msg_id, msg_ids, batch_id, evidence"
    with asking(tmp_path / "store") as ask, asking(filled.store) as ask_live:
        for table in ("sip", '"call"', "registration", "finding"):
            known = [row["column_name"] for row in ask(f"DESCRIBE {table}") if row["column_name"] not in ours]
            asked = f"""SELECT {", ".join(known)} FROM {table}
                WHERE call_id IN ('{B_CALL}', '{B_REGISTER}') ORDER BY ALL"""
            assert ask(asked) == ask_live(asked) != [], table
        (owed,) = load("b").expected
        assert ask("SELECT call_id, aor, target, outcome FROM finding") == [
            {"call_id": owed.call_id, "aor": owed.aor, "target": owed.target, "outcome": owed.outcome}
        ]
        assert ask("FROM action_attempt") == []


def test_what_the_next_prune_would_drop_is_said(run_here: Run, tmp_path: Path) -> None:
    """And it does drop it: the rows that were named, and no others."""
    (tmp_path / "hepduck.toml").write_text(
        '[store.retention]\nsip = "1h"\nregistration = "0s"\nfinding = "0s"\n'
    )
    done = run_here("import", B, "--store", "store", cwd=tmp_path)
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == (
        f'hepduck: {B}: 14 rows of sip are older than store.retention.sip = "1h": the next prune drops them; '
        '"0s" there keeps them for ever'
    )
    pruned = run_here("store", "prune", "--store", "store", "--json", cwd=tmp_path).stdout
    dropped = [(row["table"], row["rows"]) for row in map(json.loads, pruned.splitlines())]
    assert dropped == [("sip", 14)]
    as_json = run_here("import", B, "--store", "two", "--json", cwd=tmp_path)
    assert json.loads(as_json.stdout)["older_than_retention"] == {"sip": 14}
    assert as_json.stderr.startswith("hepduck: ")


def test_a_call_that_one_file_begins_and_another_ends(imported: Any, run_here: Run, tmp_path: Path) -> None:
    """In one command or in two, its row is that of the whole; and nothing is found twice."""
    data = B.read_bytes()
    ends, at = [], 8
    while at < len(data):
        at += 14 + struct.unpack_from("!I", data, at + 10)[0]
        ends.append(at)
    (tmp_path / "1.hep").write_bytes(data[: ends[6]])
    (tmp_path / "2.hep").write_bytes(data[:8] + data[ends[6] :])
    asked = """SELECT (SELECT list(c) FROM (SELECT * EXCLUDE (updated_at) FROM "call") c) AS calls,
        (SELECT list(finding_id) FROM finding) AS findings"""
    imported(B)
    whole = rows(tmp_path / "store", asked)
    assert len(whole[0]["calls"]) == len(whole[0]["findings"]) == 1

    one, two = tmp_path / "one", tmp_path / "two"
    both = run_here("import", "2.hep", "1.hep", "--no-config", "--store", one, cwd=tmp_path)
    assert both.returncode == 0
    for name in ("1.hep", "2.hep"):
        assert run_here("import", name, "--no-config", "--store", two, cwd=tmp_path).returncode == 0
    for store in (one, two):
        assert rows(store, asked) == whole


def test_a_store_that_a_tap_writes_to_is_refused(imported: Any, tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "x.pcap", timed(mixed_frames()), RAW)
    (tmp_path / "store").mkdir()
    lock = WriterLock(StorePaths.of(tmp_path / "store"))
    said = imported(path, code=2)
    lock.release()
    assert said == (
        f"hepduck: another hepduck (pid {os.getpid()}) is writing to {tmp_path / 'store'}: stop it first, import "
        "into another store (--store), or play the file at it with `hepduck send`\n"
    )


def test_one_bad_file_among_good_ones(imported: Any, tmp_path: Path) -> None:
    """Each is named once, with the place; the others are imported; what could be read of it is, too."""
    good = write_pcap(tmp_path / "good.pcap", timed([datagram(ALICE, PROXY, sip("good"))]), RAW)
    broken = write_pcap(tmp_path / "broken.pcap", timed([datagram(ALICE, PROXY, sip("broken"))]), RAW)
    size = broken.stat().st_size
    broken.write_bytes(broken.read_bytes() + b"\xff" * 40)
    (tmp_path / "foreign.txt").write_text("dear diary")
    said = imported(broken, "foreign.txt", "nowhere.pcap", good, code=2).splitlines()
    assert "hepduck: foreign.txt is no recording, pcap or pcapng: it starts with b'dear dia'" in said
    assert "hepduck: nowhere.pcap cannot be read: No such file or directory" in said
    assert f"hepduck: {broken}: broken at byte {size + 16}: it claims 4294967295 bytes there" in said
    assert len(said) == 2 + 2 * 2 + 1
    assert {seen.payload for seen in stored(tmp_path / "store")} == {sip("good"), sip("broken")}


def test_a_file_that_is_cut_short_and_one_that_has_grown(imported: Any, tmp_path: Path) -> None:
    """A killed tcpdump is nothing to complain about; a file that grew since would bring its beginning twice."""
    path = write_pcap(tmp_path / "x.pcap", timed(mixed_frames()), RAW)
    data = path.read_bytes()
    path.write_bytes(data[:-5])
    assert f"{path}: the packet at byte" in imported(path)
    before = stored(tmp_path / "store")
    path.write_bytes(data)
    said = imported(path, code=2)
    assert re.fullmatch(
        rf"hepduck: {path} has grown since it was imported at .* UTC: those {len(data) - 5} .*\n", said
    )
    assert stored(tmp_path / "store") == before != []


def test_killed_in_the_middle_and_run_again(imported: Any, tmp_path: Path) -> None:
    """Nothing of it stays, and then everything is there once."""
    count = 12_000
    with (tmp_path / "big.hep").open("wb") as file:
        file.write(b"HEPREC01")
        for number in range(count):
            data = hep3(sip(f"c{number}", "OPTIONS"), ts_us=T0_US + number)
            file.write(struct.pack("!QHI", (T0_US + number) * 1_000, 5_060, len(data)) + data)
    store = tmp_path / "store"
    command = [*COMMAND, "import", "big.hep", "--no-config", "--store", str(store)]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stderr=subprocess.DEVNULL) as process:
        eventually(
            lambda: list(store.glob("files/main/sip/**/*.parquet")) or process.poll() is not None,
            "messages on the disk",
        )
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    asked = """SELECT count(*) AS messages, count(DISTINCT call_id) AS calls,
        (SELECT count(*) FROM imported_file) AS files FROM sip"""
    assert rows(store, asked) == [{"messages": 0, "calls": 0, "files": 0}]
    assert f"{count} messages = {count} sip" in imported("big.hep")
    assert "imported already" in imported("big.hep")
    assert rows(store, asked) == [{"messages": count, "calls": count, "files": 1}]


def test_credentials_are_starred_as_they_are_live(run_here: Run, tmp_path: Path) -> None:
    header = 'Authorization: Digest username="alice", response="0123456789abcdef0123456789abcdef"'
    path = write_pcap(
        tmp_path / "x.pcap", timed([datagram(ALICE, PROXY, sip("a", "REGISTER", b"", header))]), RAW
    )
    for options, visible in (((), False), (("--set", "store.redact=[]"), True)):
        store = tmp_path / f"store{len(options)}"
        done = run_here("import", path, "--no-config", "--store", store, *options, cwd=tmp_path)
        assert done.returncode == 0
        (seen,) = stored(store)
        assert (b"0123456789abcdef" in seen.payload) == visible
        assert b'username="alice"' in seen.payload


def test_quality_of_what_happened_long_ago(imported: Any, tmp_path: Path) -> None:
    """Reports in a file are as old as they are, and are rated all the same, after newer ones as well."""
    frames, times = [], []
    for heard in datagrams("r18"):
        (packet,) = decode(heard.data)
        assert packet.ts_us is not None
        frames.append(datagram(("192.0.2.9", 9_060), ("192.0.2.10", 9_060), heard.data))
        times.append(packet.ts_us)
    newer = [(max(times) + 90 * 86_400_000_000, datagram(ALICE, PROXY, sip("newer")))]
    imported(write_pcap(tmp_path / "newer.pcap", newer, RAW))
    old = sorted(zip(times, frames, strict=True), key=lambda packet: packet[0])
    said = imported(write_pcap(tmp_path / "old.pcap", old, RAW))
    sums = SUMS.match(said)
    assert sums is not None
    assert re.fullmatch(r"\d+ rtcp \+ \d+ sip", sums["stored"])
    (row,) = rows(tmp_path / "store", "SELECT count(*) AS legs, max(ts) AS last FROM leg_quality")
    assert row["legs"] > 0
    assert row["last"].timestamp() * 1_000_000 <= max(times)


def test_json(run_here: Run, tmp_path: Path) -> None:
    path = write_pcap(tmp_path / "x.pcap", timed(mixed_frames()), RAW)
    how = ("--no-config", "--store", tmp_path / "store", "--json")
    done = run_here("import", path, *how, cwd=tmp_path)
    told = json.loads(done.stdout)
    assert (done.returncode, done.stderr) == (0, "")
    packets = told["carriers"] + sum(told["ignored"].values()) + sum(told["weird_packets"].values())
    assert told["packets"] == packets == len(mixed_frames())
    assert told["messages"] == sum(told["stored"].values()) + sum(told["weird_messages"].values()) == 5
    assert (told["file"], told["already_imported"], told["damage"]) == (str(path), None, None)
    again = json.loads(run_here("import", path, *how, cwd=tmp_path).stdout)
    assert again["already_imported"] is not None


def test_captures_are_replayed_and_sent_like_recordings(run_here: Run, tmp_path: Path) -> None:
    """The SIP in them as HEP version 3, with the packets' own addresses."""
    packets = [decode(heard.data)[0] for heard in read_recording(B)]
    frames = [
        (
            packet.ts_us or 0,
            datagram((packet.src_ip, packet.src_port), (packet.dst_ip, packet.dst_port), packet.payload),
        )
        for packet in packets
    ]
    path = write_pcap(tmp_path / "b.pcap", frames, RAW)
    found = run_here("replay", path, "--json", "--no-config", cwd=tmp_path)
    (owed,) = load("b").expected
    assert [json.loads(line)["call_id"] for line in found.stdout.splitlines()] == [owed.call_id]

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as collector:
        collector.bind(("127.0.0.1", 0))
        to = f"udp:127.0.0.1:{collector.getsockname()[1]}"
        done = run_here("send", path, "--to", to, "--speed", "max", cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "")
        received = [decode(collector.recv(65_536))[0] for _ in packets]
    addressed = [(*packet[2:7], packet.version, packet.payload) for packet in received]
    assert addressed == [(*packet[2:7], 3, packet.payload) for packet in packets]
