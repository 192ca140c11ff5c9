"""Where fuzzing begins: the recordings, the RFCs' torture messages, and what earlier runs found."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import asterisk_recordings
import cdr_recordings
from fuzz_targets import SHAPES
from mutations import recorded

from pipeline.protocols import hep
from pipeline.protocols.hep import Chunk
from pipeline.protocols.hep.packet import COMPRESSED_PAYLOAD
from pipeline.store.search import KEYS, STATES

DATA = Path(__file__).parent / "data"
FOUND = DATA / "fuzz"


def seeds(target: str) -> list[bytes]:
    """The seeds of a target, each once, and its findings."""
    found = sorted(path.read_bytes() for path in (FOUND / target).glob("*"))
    return [*dict.fromkeys([*_MAKERS[target](), *found])]


def _hep() -> list[bytes]:
    vectors = json.loads((DATA / "hep" / "vectors.json").read_text())
    datagrams = [bytes.fromhex(vector["hex"]) for vector in vectors.values()]
    datagrams += recorded()[::9]
    (packet,) = hep.decode(recorded()[0])
    for compress in (zlib.compress, gzip.compress):
        packed = Chunk(0, COMPRESSED_PAYLOAD, compress(packet.payload))
        whole = hep.encode(packet._replace(payload=b"", extra=(packed,)))
        datagrams.append(whole[:4] + (len(whole) - 6).to_bytes(2) + whole[6:-6])  # no payload beside it
    return datagrams


def _stream() -> list[bytes]:
    frames = [data for data in recorded() if data.startswith(hep.HEP3_MAGICS)][:12]
    cuts = bytes((3, 255, 1, 100, 200))
    return [
        cuts + b"".join(frames[:4]),
        cuts + frames[5] + b"GET / HTTP/1.1" + frames[6],
        b"\0\xff" + frames[7],
    ]


def _sip() -> list[bytes]:
    torture = [path.read_bytes() for path in sorted(DATA.glob("**/rfc*/*.sip"))]
    payloads = [packet.payload for data in recorded()[::9] for packet in hep.decode(data)]
    return [payload for payload in [*torture, *payloads] if len(payload) < 4000]


def _rtcp() -> list[bytes]:
    packets = asterisk_recordings.rtcp_packets("r22-main")
    block = {"source_ssrc": 1, "fraction_lost": 2, "packets_lost": "-3", "highest_seq_no": 4, "ia_jitter": 5}
    media = {"MOS": 4.1, "EXPECTED_PK": 9, "SRC_IP": "192.0.2.1", "SRC_PORT": 4000, "CODEC_NAME": "PCMU"}
    xr = {"report_blocks_xr": {"id": 7, "r_factor": 93, "mos_lq": 41}, "voip_metrics": {"mos_cq": 4.2}}
    made = [{"ssrc": 9, "type": 201, "report_blocks": [block, block]}, media, {"ssrc": 9, **xr}]
    return [*(packet.payload for packet in packets[::40]), *(json.dumps(each).encode() for each in made)]


def _cdr() -> list[bytes]:
    """The head of each file, as each shape."""
    heads = []
    for path in sorted((cdr_recordings.DATA / "cdr").glob("*/*")):
        if path.suffix in {".csv", ".json", ".tsv"}:
            heads.append(b"".join(path.read_bytes().splitlines(keepends=True)[:3]))
    written = b'"2026-11-22 21:01:54",alice,bob,1795374114.7,PJSIP/a-1,3,2,9,,call@sip.test,"ssrc=1;lp=0",x\n'
    line = {"start": "2026-11-22T21:01:54+0200", "src": "alice", "uniqueid": "1795374114.7", "billsec": 3}
    heads += [written, written.replace(b",", b"\t"), json.dumps(line).encode() + b"\n"]
    return [bytes([number]) + head for head in heads for number in range(len(SHAPES))]


def _search() -> list[bytes]:
    values = ("alice", "3s", "4xx,503", '"a b"', "10.0.0.0/8", "+4930", "a*b%", "sip:bob@sip.test")
    searches = [f"{key}{sign}{value}" for key in KEYS for sign, value in zip(":=<>", values, strict=False)]
    searches += [f"-state:{state}" for state in STATES] + [
        *values,
        "alice -state:busy pdd>3s code:4xx",
        "2001:db8::1",
    ]
    return [search.encode() for search in searches]


_MAKERS = {"hep": _hep, "stream": _stream, "sip": _sip, "rtcp": _rtcp, "cdr": _cdr, "search": _search}
