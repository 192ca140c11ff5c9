"""Codecs: RFC 3551's payload types and clocks, and the impairments with their sources."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.protocols import codecs, sdp
from pipeline.protocols.codecs import impairment, lookup


@pytest.mark.parametrize(
    ("name", "expected", "clock_rate_hz"),
    [
        (0, "PCMU", 8000),
        ("8", "PCMA", 8000),
        (9, "G722", 8000),  # samples at 16 kHz, counts at 8: an error of RFC 1890 that was kept
        (18, "G729", 8000),
        (4, "G723", 8000),
        ("PCMU/8000", "PCMU", 8000),
        ("pcma/8000/1", "PCMA", 8000),
        ("ulaw", "PCMU", 8000),
        ("alaw", "PCMA", 8000),
        ("opus", "OPUS", 48000),
        ("opus/48000/2", "OPUS", 48000),
        ("Opus/16000", "OPUS", 48000),  # RFC 7587: always 48000, whatever it samples
        ("G722/16000", "G722", 8000),  # what some phones offer, RFC 3551 notwithstanding
        ("speex/16000", "SPEEX", 16000),
        ("speex32", "SPEEX", 32000),
        ("slin16", "L16", 16000),
        ("L16/44100/2", "L16", 44100),
        ("AMR-WB/16000", "AMR-WB", 16000),
        ("G729A", "G729", 8000),
        ("SILK/24000", "SILK", 24000),  # unknown, but its clock came with it
    ],
)
def test_lookup(name: str | int, expected: str, clock_rate_hz: int) -> None:
    codec = lookup(name)
    assert codec is not None
    assert (codec.name, codec.clock_rate_hz) == (expected, clock_rate_hz)


@pytest.mark.parametrize("name", [None, "", "99", 96, 127, "SILK", "SILK/x", "/8000", "SILK/0", "²"])
def test_lookup_of_what_nobody_knows(name: str | int | None) -> None:
    assert lookup(name) is None


@given(st.text(max_size=30) | st.integers())
def test_lookup_never_raises(name: str | int) -> None:
    codec = lookup(name)
    assert codec is None or codec.clock_rate_hz > 0


def test_static_payload_types_agree_with_sdp() -> None:
    for payload_type, (name, clock_rate_hz) in codecs.STATIC_PAYLOAD_TYPES.items():
        if payload_type > 18:
            continue  # video
        described = sdp.parse(f"v=0\r\nm=audio 4000 RTP/AVP {payload_type}\r\n".encode())
        assert described.codecs == f"{name}/{clock_rate_hz}"


@pytest.mark.parametrize(
    ("name", "ie", "bpl", "grounded"),
    [
        ("PCMU", 0, 25.1, True),
        ("PCMA", 0, 25.1, True),
        ("G729", 11, 19.0, True),
        ("G723", 15, 16.1, True),
        ("GSM-EFR", 5, 10.0, True),
        ("GSM", 20, 10.0, False),
        ("G726-32", 7, 4.3, False),
        ("G722", 5, 7.1, False),
        ("opus", 0, 25.1, False),
        ("iLBC/8000", 0, 25.1, False),
        ("SILK/24000", 0, 25.1, False),
        (None, 0, 25.1, False),
    ],
)
def test_impairment(name: str | None, ie: float, bpl: float, grounded: bool) -> None:
    found = impairment(lookup(name))
    assert (found.ie, found.bpl, found.grounded) == (ie, bpl, grounded)
    assert found.source


def test_settings_of_impairment() -> None:
    no_plc = impairment(lookup("PCMA"), plc=False)
    assert (no_plc.ie, no_plc.bpl, no_plc.grounded) == (0, 4.3, True)
    no_vad = impairment(lookup("G729"), vad=False)
    assert (no_vad.ie, no_vad.bpl) == (10, 19.0)
    assert impairment(lookup("G729"), plc=False).bpl == 19.0
