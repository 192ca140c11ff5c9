"""Framing of HEP3 on streams: splits anywhere, garbage anywhere, bounded memory."""

from __future__ import annotations

import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import HepStream

RECORDING = Path(__file__).parent / "data" / "kamailio" / "b_hep_tcp.hep"
FRAMES = [record.data for record in read_recording(RECORDING)]


def frame(size: int, magic: bytes = b"HEP3") -> bytes:
    return magic + size.to_bytes(2) + bytes(size - 6)


def fed(pieces: list[bytes]) -> tuple[list[bytes], HepStream]:
    stream = HepStream()
    return [found for piece in pieces for found in stream.feed(piece)], stream


def split(data: bytes, places: list[int]) -> list[bytes]:
    edges = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


def test_whole() -> None:
    frames, stream = fed([b"".join(FRAMES)])
    assert frames == FRAMES
    assert (stream.skipped_bytes, stream.resyncs, stream.pending_bytes) == (0, 0, 0)


def test_byte_by_byte() -> None:
    frames, stream = fed([bytes([byte]) for byte in b"".join(FRAMES)])
    assert frames == FRAMES
    assert (stream.skipped_bytes, stream.resyncs, stream.pending_bytes) == (0, 0, 0)


@pytest.mark.parametrize("cut", range(1, 120))
def test_trailing_data_waits_for_the_rest(cut: int) -> None:
    stream = HepStream()
    assert stream.feed(FRAMES[0] + FRAMES[1][:cut]) == [FRAMES[0]]
    assert stream.pending_bytes == cut
    assert stream.feed(FRAMES[1][cut:] + FRAMES[2]) == FRAMES[1:3]


def test_both_magics_and_all_sizes() -> None:
    sent = [frame(6), frame(65535, b"EEP3"), frame(7)]
    assert fed([b"".join(sent)])[0] == sent


@pytest.mark.parametrize(
    "garbage",
    [b"\0", b"HEP", b"HHEP", b"HEP2", b"GET / HTTP/1.1\r\n\r\n", b"HEP3\0\x05", b"EEEP", b"\xff" * 70_000],
)
def test_finds_the_next_frame_after_garbage(garbage: bytes) -> None:
    data = FRAMES[0] + garbage + FRAMES[1] + garbage + garbage + FRAMES[2]
    for pieces in ([data], split(data, list(range(0, len(data), 7)))):
        frames, stream = fed(pieces)
        assert frames == FRAMES[:3]
        assert (stream.skipped_bytes, stream.resyncs) == (3 * len(garbage), 2)


def test_a_frame_longer_than_allowed_is_garbage() -> None:
    stream = HepStream(max_frame_bytes=1000)
    assert stream.feed(frame(1001) + frame(1000)) == [frame(1000)]
    assert stream.skipped_bytes == 1001


@given(
    st.lists(st.sampled_from(FRAMES) | st.binary(max_size=40) | st.sampled_from([b"HEP3", b"EEP3\0\0"])),
    st.lists(st.integers(0, 1 << 20), max_size=30),
)
@settings(deadline=None)
def test_the_splits_change_nothing_and_no_byte_is_unaccounted_for(
    parts: list[bytes], places: list[int]
) -> None:
    data = b"".join(parts)
    whole, stream = fed([data])
    frames, split_stream = fed(split(data, places))
    assert frames == whole
    for each in (stream, split_stream):
        assert sum(map(len, frames)) + each.skipped_bytes + each.pending_bytes == len(data)
        assert each.resyncs == stream.resyncs


def test_memory_is_bounded_and_garbage_is_cheap() -> None:
    rng = random.Random(3)
    stream = HepStream()
    for piece in (rng.randbytes(1 << 20), b"HEP3\0\0" * (1 << 17), b"HEP3\xff\xff", b"HE" * (1 << 19)):
        stream.feed(piece)
        assert stream.pending_bytes <= 65535
