"""Audio codecs as RTP names them: clock rates (RFC 3551 and each payload format), and Ie and Bpl of the E-model.

The clock rate is what RTP timestamps and RTCP jitter count in, not the sampling rate: G.722 samples at
16 kHz and counts at 8000 Hz (RFC 3551 section 4.5.2); Opus counts at 48000 Hz whatever it samples
(RFC 7587 section 4.1), so its jitter read at 8000 Hz comes out six times too big.

`grounded` says whether the pair (Ie, Bpl) is published for this codec. Where it is not, a stand-in keeps the
figures going: to be marked as such, and to be kept out of rankings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

Band = Literal["narrowband", "wideband", "fullband"]

_G113: Final = "ITU-T G.113 Appendix I, table I.4"
_STAND_IN: Final = "no published pair; stand-in: G.711 with concealment"
_NO_BPL: Final = "Ie of ITU-T G.113 Appendix I; no published Bpl, stand-in: that of G.711 without concealment"


@dataclass(frozen=True, slots=True)
class Impairment:
    """Ie and Bpl of ITU-T G.107 (narrowband scale), and where they are from."""

    ie: float
    bpl: float
    grounded: bool
    source: str


@dataclass(frozen=True, slots=True)
class Codec:
    """One payload format. `name` is the encoding name of its `a=rtpmap`, in capitals."""

    name: str
    clock_rate_hz: int
    band: Band
    impairment: Impairment


G711_PLC: Final = Impairment(0, 25.1, True, f"{_G113}: G.711 with the concealment of G.711 Appendix I")
G711_NO_PLC: Final = Impairment(0, 4.3, True, f"{_G113}: G.711 without concealment")
UNKNOWN: Final = Impairment(0, 25.1, False, _STAND_IN)
"""For a codec that is not known at all."""

_G729: Final = Impairment(11, 19.0, True, f"{_G113}: G.729A with silence suppression (Annex B)")
_G729_NO_VAD: Final = Impairment(
    10, 19.0, False, f"Ie: {_G113}; Bpl: that of G.729A with silence suppression"
)
_G723: Final = Impairment(15, 16.1, True, f"{_G113}: G.723.1 at 6.3 kbit/s with silence suppression")
_GSM_EFR: Final = Impairment(5, 10.0, True, f"{_G113}: GSM-EFR")
_GSM: Final = Impairment(20, 10.0, False, "as SIP3 has it: Ie 20, Bpl that of GSM-EFR")
_G722: Final = Impairment(5, 7.1, False, "no narrowband row in G.113; stand-in as SIP3 has it")


def _of_g113(ie: float) -> Impairment:
    return Impairment(ie, 4.3, False, _NO_BPL)


_CODECS: Final = {
    codec.name: codec
    for codec in (
        Codec("PCMU", 8000, "narrowband", G711_PLC),
        Codec("PCMA", 8000, "narrowband", G711_PLC),
        Codec("G729", 8000, "narrowband", _G729),
        Codec("G723", 8000, "narrowband", _G723),
        Codec("GSM", 8000, "narrowband", _GSM),
        Codec("GSM-EFR", 8000, "narrowband", _GSM_EFR),
        Codec("G726-40", 8000, "narrowband", _of_g113(2)),
        Codec("G726-32", 8000, "narrowband", _of_g113(7)),
        Codec("G726-24", 8000, "narrowband", _of_g113(25)),
        Codec("G726-16", 8000, "narrowband", _of_g113(50)),
        Codec("G728", 8000, "narrowband", _of_g113(7)),
        Codec("ILBC", 8000, "narrowband", UNKNOWN),  # RFC 3952
        Codec("SPEEX", 8000, "narrowband", UNKNOWN),  # RFC 5574: 8000, 16000 or 32000, as its rtpmap says
        Codec("AMR", 8000, "narrowband", UNKNOWN),  # RFC 4867
        Codec("AMR-WB", 16000, "wideband", UNKNOWN),  # RFC 4867
        Codec("EVS", 16000, "wideband", UNKNOWN),  # 3GPP TS 26.445 annex A
        Codec("G722", 8000, "wideband", _G722),
        Codec("L16", 44100, "fullband", UNKNOWN),  # or as its rtpmap says
        Codec("OPUS", 48000, "fullband", UNKNOWN),
    )
}

_ALIASES: Final = {  # Asterisk's and SIPp's words for the same things
    "ULAW": "PCMU",
    "MULAW": "PCMU",
    "G711U": "PCMU",
    "ALAW": "PCMA",
    "G711A": "PCMA",
    "G711": "PCMA",
    "G729A": "G729",
    "G729B": "G729",
    "G723.1": "G723",
    "G726": "G726-32",
    "SPEEX16": "SPEEX/16000",
    "SPEEX32": "SPEEX/32000",
    "SLIN": "L16/8000",
    "SLIN16": "L16/16000",
    "SLIN44": "L16/44100",
    "SLIN48": "L16/48000",
}

STATIC_PAYLOAD_TYPES: Final = {
    0: ("PCMU", 8000),
    3: ("GSM", 8000),
    4: ("G723", 8000),
    5: ("DVI4", 8000),
    6: ("DVI4", 16000),
    7: ("LPC", 8000),
    8: ("PCMA", 8000),
    9: ("G722", 8000),
    10: ("L16", 44100),
    11: ("L16", 44100),
    12: ("QCELP", 8000),
    13: ("CN", 8000),
    14: ("MPA", 90000),
    15: ("G728", 8000),
    16: ("DVI4", 11025),
    17: ("DVI4", 22050),
    18: ("G729", 8000),
    25: ("CELB", 90000),
    26: ("JPEG", 90000),
    28: ("NV", 90000),
    31: ("H261", 90000),
    32: ("MPV", 90000),
    33: ("MP2T", 90000),
    34: ("H263", 90000),
}
"""Payload type to encoding name and clock rate in Hz: RFC 3551 section 6, tables 4 and 5."""

_MAX_CLOCK_RATE_HZ: Final = 192_000


def lookup(name: str | int | None) -> Codec | None:
    """The codec called `name`, or None where nothing is known of it. Never raises.

    `name` is an `rtpmap` encoding ("opus/48000/2", "PCMA"), Asterisk's word ("ulaw"), or a static payload
    type (0, "18"). A clock rate that comes with the name counts, except where the payload format fixes another.
    """
    if name is None:
        return None
    text = str(name).strip().upper()
    if text.isascii() and text.isdigit() and len(text) <= 3:
        static = STATIC_PAYLOAD_TYPES.get(int(text))
        if static is None:
            return None
        text = f"{static[0]}/{static[1]}"
    encoding, _, rest = _ALIASES.get(text, text).partition("/")
    encoding, _, alias_rate = _ALIASES.get(encoding, encoding).partition("/")
    known = _CODECS.get(encoding)
    rate_hz = _rate_hz(rest.partition("/")[0]) or _rate_hz(alias_rate)
    if known is None:
        return Codec(encoding, rate_hz, "narrowband", UNKNOWN) if rate_hz and encoding else None
    if rate_hz and encoding in {"SPEEX", "L16"}:
        return Codec(encoding, rate_hz, "narrowband" if rate_hz == 8000 else "wideband", UNKNOWN)
    return known


def impairment(codec: Codec | None, *, plc: bool = True, vad: bool = True) -> Impairment:
    """Ie and Bpl of `codec`; of `UNKNOWN` for None.

    `plc` is whether the ends conceal lost packets of G.711: every modern endpoint does. `vad=False` is G.729
    with `annexb=no`; without that word Annex B holds (RFC 4856 section 2.1.9).
    """
    if codec is None:
        return UNKNOWN
    if codec.name in {"PCMU", "PCMA"} and not plc:
        return G711_NO_PLC
    if codec.name == "G729" and not vad:
        return _G729_NO_VAD
    return codec.impairment


def _rate_hz(text: str) -> int | None:
    if not (text.isascii() and text.isdigit() and len(text) <= 6):
        return None
    rate = int(text)
    return rate if 0 < rate <= _MAX_CLOCK_RATE_HZ else None
