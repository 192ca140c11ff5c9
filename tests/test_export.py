"""`hepduck export`, `pipeline.export`: what is stored, as captures that tshark reads, and that come back unchanged."""

from __future__ import annotations

import subprocess
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from filled import Run, run_in_process  # noqa: F401 - a fixture
from pcap_maker import (
    ALICE,
    ALICE6,
    PROXY,
    PROXY6,
    RAW,
    T0_US,
    Seen,
    datagram,
    fragments,
    segment,
    sip,
    timed,
    tshark_sip,
    write_pcap,
)
from recordings import PATHS, load
from tap import COMMAND, hep3, hepduck

from pipeline.errors import CaptureError
from pipeline.export import Selection, export_pcap, pcap_bytes
from pipeline.export import write_pcap as export_rows
from pipeline.ingest import Datagram
from pipeline.ingest.recordings import RecordingWriter
from pipeline.store.lake import Reader, open_reader

Row = dict[str, Any]
RECORDED = [PATHS[name] for name in ("b", "edge", "b_hep_tcp", "i", "b_tls")]
T0 = datetime.fromtimestamp(T0_US / 1e6, UTC)
SECRET = "0123456789abcdef0123456789abcdef"
TLS_SIP = sip("tls", "OPTIONS").replace(b"SIP/2.0/TCP", b"SIP/2.0/TLS")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of recordings of a real Kamailio over UDP, TCP and TLS, and of a capture of both families."""
    folder = tmp_path_factory.mktemp("export")
    credentials = f'Authorization: Digest username="alice", response="{SECRET}"'
    long = sip("long", body=b"v=0\r\n" * 400)
    frames = [
        datagram(ALICE, PROXY, sip("register", "REGISTER", b"", credentials)),
        *fragments(ALICE6, PROXY6, long, 1_024, 7),
        *(
            segment(ALICE6, PROXY6, 1 + at, (long + long)[at : at + 900])
            for at in range(0, 2 * len(long), 900)
        ),
        segment(PROXY, ALICE, 1, sip("back", "BYE")),
    ]
    capture = write_pcap(folder / "x.pcap", timed(frames), RAW)
    with RecordingWriter(folder / "tls.hep") as writer:
        packet = hep3(TLS_SIP, ip_proto=22, dst=("198.51.100.1", 5061), ts_us=T0_US + 500_000)
        writer.write([Datagram(T0_US + 500_000, "127.0.0.1", 1, "file", True, packet)])
    files = [capture, folder / "tls.hep", *RECORDED]
    options = ("--set", 'store.redact=["message_bodies"]', "--no-config", "--store", folder / "store")
    done = hepduck("import", *files, *options, cwd=folder)
    assert done.returncode == 0, done.stderr
    return folder / "store"


def rows(store: Path, sql: str = "FROM sip ORDER BY ts, msg_id") -> list[Row]:
    with open_reader(store) as reader:
        found: list[Row] = reader.execute(sql).to_arrow_table().to_pylist()
        return found


def seen(messages: Iterable[Row]) -> list[Seen]:
    return [
        Seen(
            round(row["ts"].timestamp() * 1_000_000),
            (row["src_ip"], row["src_port"]),
            (row["dst_ip"], row["dst_port"]),
            row["payload"],
        )
        for row in messages
    ]


def fields(path: Path, *names: str, only: str = "") -> list[list[str]]:
    """What tshark shows of each frame."""
    command = [
        "tshark",
        "-n",
        "-r",
        str(path),
        "-T",
        "fields",
        *(part for name in names for part in ("-e", name)),
    ]
    command += [part for layer in ("ip", "udp", "tcp") for part in ("-o", f"{layer}.check_checksum:TRUE")]
    command += ["-Y", only] if only else []
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return [line.split("\t") for line in run.stdout.splitlines()]


def row(number: int, payload: bytes, **other: Any) -> Row:
    """A message as table `sip` has it, `number` ms after the others."""
    ends = {"src_ip": ALICE[0], "src_port": ALICE[1], "dst_ip": PROXY[0], "dst_port": PROXY[1]}
    agent = {"node": "n1", "agent_addr": "192.0.2.9", "agent_id": 2001}
    when = {"ts": T0 + timedelta(milliseconds=number), "msg_id": number}
    return {**when, **ends, **agent, "transport": "udp", "payload": payload, **other}


def test_round_trip(store: Path, run_here: Run, tmp_path: Path) -> None:
    """Exported and imported again: not a byte, not a microsecond, not an address has changed."""
    how = ("--store", store, "--with-secrets")
    out = tmp_path / "all.pcapng"
    done = run_here("export", out, *how, cwd=tmp_path)
    count = len(rows(store))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", f"{count} messages in {out}\n")
    again = tmp_path / "again"
    options = ("--set", "store.redact=[]", "--no-config", "--store", again)
    assert run_here("import", out, *options, cwd=tmp_path).returncode == 0
    assert Counter(seen(rows(again))) == Counter(seen(rows(store)))
    (file,) = rows(again, "FROM imported_file")
    assert (file["packets"], file["messages"], file["weird"]) == (count, count, "{}")


def test_tshark_reads_every_message(store: Path, run_here: Run, tmp_path: Path) -> None:
    """As many frames as messages, all of them SIP, with checksums and sequence numbers that are right."""
    out = tmp_path / "all.pcapng"
    assert run_here("export", out, "--store", store, "--with-secrets", cwd=tmp_path).returncode == 0
    assert tshark_sip(out) == seen(rows(store))
    frames = fields(
        out, "udp.checksum.status", "tcp.checksum.status", "ip.checksum.status", "_ws.col.Protocol"
    )
    assert len(frames) == len(rows(store))
    assert {status for frame in frames for status in frame[:3]} == {"", "1"}
    assert {frame[3] for frame in frames} == {"SIP", "SIP/SDP"}
    assert (
        fields(
            out, "frame.number", only="tcp.analysis.flags or _ws.malformed or _ws.expert.severity >= error"
        )
        == []
    )
    transports = Counter("tcp" if tcp else "udp" for (tcp,) in fields(out, "tcp.stream"))
    told = Counter("udp" if row["transport"] == "udp" else "tcp" for row in rows(store))
    assert transports == told
    assert min(told.values()) > 3


def test_comments(store: Path, run_here: Run, tmp_path: Path) -> None:
    """What each message proves, who saw it, and that the headers are made up."""
    out = tmp_path / "b.pcapng"
    (owed,) = load("b_tls").expected
    done = run_here("export", out, "--call", owed.call_id, "--store", store, cwd=tmp_path)
    assert done.returncode == 0
    (finding,) = rows(store, f"FROM finding WHERE call_id = '{owed.call_id}'")
    proof = {
        round(message["ts"].timestamp() * 1e6)
        for message in rows(store)
        if message["msg_id"] in finding["msg_ids"]
    }
    commented = {
        round(float(time) * 1e6): text for time, text in fields(out, "frame.time_epoch", "frame.comment")
    }
    assert proof
    assert {time for time, text in commented.items() if text.startswith("GHOST CALL: ")} == proof
    told = {round(message["ts"].timestamp() * 1e6): message["transport"] for message in rows(store)}
    assert {told[time] for time in commented} == {"udp", "tls"}
    for time, text in commented.items():
        assert f"over {told[time]}, seen by agent 127.0.0.1/2001, node " in text
    about = subprocess.run(["capinfos", str(out)], capture_output=True, text=True, check=True).stdout
    assert "Capture comment:     SIP as it was mirrored or captured." in about
    assert "Credentials are starred." in about
    assert "Capture application: hepduck" in about


def test_secrets_are_starred_unless_told_otherwise(store: Path, run_here: Run, tmp_path: Path) -> None:
    """Star for byte: tshark reads the rest as if nothing had happened."""
    stored = [message for message in rows(store) if SECRET.encode() in message["payload"]]
    assert len(stored) == 1
    for options, value in (((), "*" * len(SECRET)), (("--with-secrets",), SECRET)):
        out = tmp_path / "x.pcapng"
        wanted = ("--messages", "method:REGISTER", "callid:register")
        assert run_here("export", out, *wanted, "--store", store, *options, cwd=tmp_path).returncode == 0
        assert fields(out, "sip.auth.digest.response", "sip.auth.username") == [[f'"{value}"', '"alice"']]
        (message,) = tshark_sip(out)
        assert len(message.payload) == len(stored[0]["payload"])


def test_what_a_selection_takes(store: Path) -> None:
    """Calls whole, with the late phone's REGISTER that proves the finding; messages by themselves; some time."""

    def taken(path: Path, selection: Selection) -> list[Seen]:
        with Reader(store) as reader:
            count = export_pcap(reader, path, selection, hide_secrets=False)
        found = tshark_sip(path)
        assert len(found) == count
        return found

    everything = rows(store)
    path = store.parent / "selected.pcapng"
    (owed,) = load("b_tls").expected
    calls = taken(path, Selection(f"callid:{owed.call_id}"))
    (finding,) = rows(store, f"FROM finding WHERE call_id = '{owed.call_id}'")
    expected = [
        row for row in everything if row["call_id"] == owed.call_id or row["msg_id"] in finding["msg_ids"]
    ]
    assert calls == seen(expected)
    assert any(b"\r\nCSeq: 2 REGISTER" in one.payload or one.payload.startswith(b"REGISTER") for one in calls)

    registers = Selection("method:REGISTER code:200", single=True)
    assert taken(path, registers) == seen(
        row for row in everything if (row["method"], row["status"]) == ("REGISTER", 200)
    )
    since, until = everything[10]["ts"], everything[30]["ts"]
    assert taken(path, Selection("", since, until)) == seen(
        row for row in everything if since <= row["ts"] < until
    )
    ghosts = taken(path, Selection("state:ghost"))
    assert {finding["call_id"] for finding in rows(store, "FROM finding")} == {
        row["call_id"] for row in everything if seen([row])[0] in ghosts and row["method"] == "INVITE"
    }


def test_nothing_fits(store: Path, run_here: Run, tmp_path: Path) -> None:
    out = tmp_path / "x.pcapng"
    done = run_here("export", out, "callid:nobody", "--store", store, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (1, f"0 messages in {out}\nhepduck: nothing fits\n")
    for words in (
        ["--call", "nobody@nowhere"],
        ["state:odd"],
        ["--messages", "pdd>3s"],
        ["--call", "a", "x"],
    ):
        done = run_here("export", out, *words, "--store", store, cwd=tmp_path)
        assert done.returncode == 2, words
        assert done.stderr.startswith(("hepduck: ", "Usage: ")), words


def test_to_standard_output(store: Path, tmp_path: Path) -> None:
    """For `| wireshark -k -i -`."""
    command = [*COMMAND, "export", "-", "--store", str(store), "--with-secrets"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=True)
    (tmp_path / "piped.pcapng").write_bytes(done.stdout)
    assert tshark_sip(tmp_path / "piped.pcapng") == seen(rows(store))


# -- messages of one's own -------------------------------------------------------------------------------


def test_messages_that_fill_more_than_a_packet(tmp_path: Path) -> None:
    """More than UDP can hold goes as TCP, in two segments at one time."""
    sizes = {n: sip(f"m{n}", body=b"x" * n) for n in (65_000, 65_200, 65_290, 65_320, 65_321)}
    messages = [row(n, payload) for n, payload in enumerate(sizes.values())]
    messages += [row(10 + n, payload, transport="tcp") for n, payload in enumerate(sizes.values())]
    path = tmp_path / "long.pcapng"
    assert export_rows(path, messages) == 10
    assert tshark_sip(path) == seen(messages)
    assert max(len(message["payload"]) for message in messages) > 65_507
    assert any(
        len(segments.split(",")) == 2 for (segments,) in fields(path, "tcp.segment", only="tcp.segment")
    )


def test_addresses_of_two_families_and_odd_transports(tmp_path: Path) -> None:
    """A proxy between IPv4 and IPv6 (the IPv4 address goes as RFC 4291 maps it); SCTP becomes UDP, WebSocket TCP."""
    messages = [
        row(0, sip("mixed"), dst_ip=PROXY6[0]),
        row(1, sip("sctp"), transport="sctp"),
        row(2, sip("wss"), transport="wss"),
        row(3, sip("none"), transport=None, agent_id=None),
    ]
    path = tmp_path / "odd.pcapng"
    export_rows(path, messages)
    mapped = [
        one if one.dst != PROXY6 else one._replace(src=("::ffff:192.0.2.11", ALICE[1]))
        for one in seen(messages)
    ]
    mapped[0] = seen(messages)[0]._replace(src=("::ffff:192.0.2.11", ALICE[1]), dst=(PROXY6[0], PROXY[1]))
    assert tshark_sip(path) == mapped
    assert [tcp != "" for (tcp,) in fields(path, "tcp.stream")] == [False, False, True, False]


def test_a_truncated_message_does_not_swallow_its_neighbours(tmp_path: Path) -> None:
    """On a stream Content-Length rules: what lies about it goes as a datagram."""
    cut = sip("cut", body=b"v=0\r\n" * 20)[:-30]
    messages = [row(n, payload, transport="tcp") for n, payload in enumerate([sip("a"), cut, sip("b")])]
    path = tmp_path / "cut.pcapng"
    export_rows(path, messages)
    assert tshark_sip(path) == seen(messages)
    assert [tcp != "" for (tcp,) in fields(path, "tcp.stream")] == [True, False, True]


def test_bytes_for_a_download(tmp_path: Path) -> None:
    messages = [row(0, sip("a"))]
    export_rows(tmp_path / "a.pcapng", messages)
    assert pcap_bytes(messages) == (tmp_path / "a.pcapng").read_bytes()


def test_an_older_file_stays_when_writing_fails(tmp_path: Path) -> None:
    """And its folder is left as it was."""
    path = tmp_path / "a.pcapng"
    path.write_bytes(b"older")

    def messages() -> Iterable[Row]:
        yield row(0, sip("a"))
        raise RuntimeError("the reader died")

    with pytest.raises(RuntimeError, match="the reader died"):
        export_rows(path, messages())
    assert path.read_bytes() == b"older"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(CaptureError, match=r"nowhere/a\.pcapng cannot be written: No such file"):
        export_rows(tmp_path / "nowhere" / "a.pcapng", [])
