"""Telephone numbers masked: where a message has them, and nowhere else."""

from __future__ import annotations

import pandas as pd
import pytest

from pipeline.privacy import mask_frame, mask_number, mask_payload, mask_row, mask_text

MESSAGE = """INVITE sip:+4930123456789@10.0.0.1:50600;user=phone SIP/2.0
Via: SIP/2.0/UDP 10.77.1.75:50607;branch=z9hG4bK1234567890
From: "030 1234567" <sip:0301234567@sip.test>;tag=1234567890
To: 15551234567 <SIPS:15551234567@sip.test>
Contact: <sip:7075@10.0.0.1:22403;ob>
CSeq: 1234567 INVITE
P-Asserted-Identity: <tel:+1-555-123-4567;phone-context=example.com>
Diversion: <sip:(555)123.4567@sip.test>;counter=1
Call-ID: 1234567890@10.0.0.1
Session-ID: 12345678901234567890123456789012
Content-Length: 1234567

o=- 1234567890 1234567890 IN IP4 10.0.0.1
"""
HIDDEN = {
    "sip:+4930123456789@": "sip:+493012345xxxx@",
    '"030 1234567" <sip:0301234567@': '"030 123xxxx" <sip:030123xxxx@',
    "15551234567 <SIPS:15551234567@": "1555123xxxx <SIPS:1555123xxxx@",
    "tel:+1-555-123-4567;": "tel:+1-555-123-xxxx;",
    "sip:(555)123.4567@": "sip:(555)123.xxxx@",
}


def test_a_message() -> None:
    """Numbers of users lose their last four digits; ports, tags, branches, CSeq, lengths and times stay."""
    expected = MESSAGE
    for number, masked in HIDDEN.items():
        assert number in expected
        expected = expected.replace(number, masked)
    assert mask_text(MESSAGE) == expected
    assert len(expected) == len(MESSAGE)
    binary = MESSAGE.encode() + bytes(range(128, 256))
    assert mask_payload(binary) == expected.encode() + bytes(range(128, 256))


@pytest.mark.parametrize(
    ("value", "masked"),
    [
        ("15551234567", "1555123xxxx"),
        ("+49 (30) 123-4567", "+49 (30) 123-xxxx"),
        ("12345", "1xxxx"),
        ("7075", "7075"),  # an extension, not a number
        ("alice", "alice"),
        ("user12345678", "user12345678"),
        ("sip:15551234@sip.test", "sip:1555xxxx@sip.test"),
        ("15551234@sip.test", "1555xxxx@sip.test"),
        ("INVITE 15551234567 x2", "INVITE 1555123xxxx x2"),
        ("200 OK", "200 OK"),
        ("", ""),
    ],
)
def test_values(value: str, masked: str) -> None:
    assert mask_text(value) == masked
    assert mask_number(value) == (masked if value[:1] in ("+", "1") and "@" not in value else value)


def test_rows_and_tables() -> None:
    """Only columns that may hold numbers are looked at."""
    row = {
        "from": "15551234567",
        "call_id": "15551234567",
        "ts": 15551234567,
        "to": None,
        "payload": b"sip:15551234@x",
    }
    masked = {**row, "from": "1555123xxxx", "payload": b"sip:1555xxxx@x"}
    assert mask_row(row) == masked
    frame = pd.DataFrame([row])
    assert mask_frame(frame).to_dict("records") == [masked]
    assert frame["from"][0] == "15551234567"


@pytest.mark.timeout(20)
@pytest.mark.parametrize("unit", ["1", "1-", "1   ", "sip:", "sip:1", '"1 ', ": 1 ", "1 " * 20 + "<"])
def test_a_text_made_to_be_tried_again_and_again(unit: str) -> None:
    """60 kB of it: work that grew with the square of the length would not end in time."""
    text = unit * (60_000 // len(unit))
    assert len(mask_text(text)) == len(text)
