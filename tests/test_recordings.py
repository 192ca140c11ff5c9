"""Recording files: what is written is read, also after a crash; what is none is refused."""

from __future__ import annotations

import signal
import stat
import struct
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from pipeline.errors import CaptureError
from pipeline.ingest.recordings import Datagram, RecordingWriter, read_recording, shuffle

KAMAILIO = Path(__file__).parent / "data" / "kamailio"
RECORDS = list(read_recording(KAMAILIO / "edge.hep"))


def test_reads_the_documented_format(tmp_path: Path) -> None:
    path = tmp_path / "x.hep"
    path.write_bytes(b"HEPREC01" + struct.pack("!QHI", 1_795_374_442_174_410_999, 15099, 4) + b"HEP3")
    assert list(read_recording(path)) == [
        Datagram(1_795_374_442_174_410, "127.0.0.1", 15099, "file", True, b"HEP3")
    ]


@pytest.mark.parametrize("name", ["x.hep", "x.hep.zst"])
def test_what_is_written_is_read(name: str, tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / name) as writer:
        writer.write(RECORDS[:3])
        writer.flush()
        writer.write(RECORDS[3:])
    assert writer.records == len(RECORDS)
    recording = read_recording(tmp_path / name)
    assert list(recording) == RECORDS
    assert recording.damage is None


def test_zstd_is_known_by_its_magic_not_its_name(tmp_path: Path) -> None:
    with RecordingWriter(tmp_path / "x.hep.zst") as writer:
        writer.write(RECORDS)
    packed = (tmp_path / "x.hep.zst").rename(tmp_path / "x.hep")
    assert packed.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"
    assert packed.stat().st_size < (KAMAILIO / "edge.hep").stat().st_size / 2
    assert list(read_recording(packed)) == RECORDS


def test_a_new_recording_is_its_owners_alone(tmp_path: Path) -> None:
    RecordingWriter(tmp_path / "a.hep").close()
    assert stat.S_IMODE((tmp_path / "a.hep").stat().st_mode) == 0o600


def test_an_empty_recording(tmp_path: Path) -> None:
    RecordingWriter(tmp_path / "x.hep").close()
    recording = read_recording(tmp_path / "x.hep")
    assert list(recording) == []
    assert recording.damage is None


def test_a_file_cut_anywhere_gives_every_whole_record(tmp_path: Path) -> None:
    data = (KAMAILIO / "edge.hep").read_bytes()
    ends = [8]
    for record in RECORDS:
        ends.append(ends[-1] + 14 + len(record.data))
    assert ends[-1] == len(data)
    path = tmp_path / "cut.hep"
    for size in {*ends, *(end + more for end in ends[:-1] for more in (1, 13, 14, 15, 500))}:
        path.write_bytes(data[:size])
        recording = read_recording(path)
        whole = sum(end <= size for end in ends) - 1
        assert list(recording) == RECORDS[:whole]
        if size in ends:
            assert recording.damage is None
        else:
            assert recording.damage == (
                f"{path}: the record at byte {ends[whole]} is cut short; all before it were read"
            )


def test_a_zstd_file_cut_anywhere_gives_a_prefix(tmp_path: Path) -> None:
    path = tmp_path / "cut.hep.zst"
    with RecordingWriter(path) as writer:
        for record in RECORDS:
            writer.write([record])
            writer.flush()
    data = path.read_bytes()
    longest = 0
    for size in range(len(data) // 4, len(data), 37):
        path.write_bytes(data[:size])
        found = list(read_recording(path))
        assert found == RECORDS[: len(found)]
        assert len(found) >= longest
        longest = len(found)
    assert longest > len(RECORDS) // 2


@pytest.mark.parametrize("name", ["crash.hep", "crash.hep.zst"])
def test_kill_9_leaves_what_was_flushed(name: str, tmp_path: Path) -> None:
    program = """if True:
        import sys
        from pipeline.ingest.recordings import RecordingWriter, read_recording
        writer = RecordingWriter(sys.argv[2])
        writer.write(read_recording(sys.argv[1]))
        writer.flush()
        print("flushed", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", program, str(KAMAILIO / "edge.hep"), str(tmp_path / name)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "flushed\n"
        process.send_signal(signal.SIGKILL)
    assert list(read_recording(tmp_path / name)) == RECORDS


def test_a_length_beyond_reason_is_damage(tmp_path: Path) -> None:
    path = tmp_path / "x.hep"
    path.write_bytes(b"HEPREC01" + struct.pack("!QHI", 1, 1, 0xFFFFFFFF) + bytes(100))
    recording = read_recording(path)
    assert list(recording) == []
    assert recording.damage == f"{path}: the record at byte 8 claims 4294967295 bytes"


@pytest.mark.parametrize(
    "content", [b"", b"HEPREC0", b"\xd4\xc3\xb2\xa1 a pcap", b"\x28\xb5\x2f\xfd broken zstd"]
)
def test_what_is_no_recording_is_refused_by_name(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "other.bin"
    path.write_bytes(content)
    with pytest.raises(CaptureError, match=r"other\.bin"):
        read_recording(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CaptureError, match=r"nowhere\.hep cannot be read: No such file"):
        read_recording(tmp_path / "nowhere.hep")
    with pytest.raises(CaptureError, match=r"cannot be written: No such file"):
        RecordingWriter(tmp_path / "nowhere" / "x.hep")


def test_an_older_file_stays_until_there_is_something_to_record(tmp_path: Path) -> None:
    """Whoever opened it may yet fail to bind a port, and never come to recording."""
    path = tmp_path / "a.hep"
    path.write_bytes(b"of yesterday")
    writer = RecordingWriter(path)
    assert path.read_bytes() == b"of yesterday"
    writer.write(RECORDS[:1])
    writer.close()
    assert list(read_recording(path)) == RECORDS[:1]


def test_a_full_disk_is_told_in_one_way() -> None:
    """Whether it is noticed when writing, when flushing, or at the end."""
    full = Path("/dev/full")
    for end in (RecordingWriter.flush, RecordingWriter.close):
        writer = RecordingWriter(full)
        with pytest.raises(CaptureError, match="/dev/full cannot be written: No space left on device"):
            end(writer)
        with suppress(CaptureError):
            writer.close()
        writer.close()


def test_shuffle() -> None:
    within = shuffle(RECORDS, within_ms=20, seed=7)
    assert sorted(record.data for record in within) == sorted(record.data for record in RECORDS)
    assert within == sorted(within, key=lambda record: record.arrival_us)
    original = {record.data: record.arrival_us for record in RECORDS}
    delays_us = [record.arrival_us - original[record.data] for record in within]
    assert all(0 <= delay_us <= 20_000 for delay_us in delays_us)
    assert [record.data for record in within] != [record.data for record in RECORDS]
    assert within == shuffle(RECORDS, within_ms=20, seed=7) != shuffle(RECORDS, within_ms=20, seed=8)
    assert shuffle(RECORDS, within_ms=0, seed=7) == RECORDS
