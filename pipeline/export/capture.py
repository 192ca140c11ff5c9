"""Messages as a pcapng file: true times, addresses and ports, comments that say who saw each and what it proves."""

from __future__ import annotations

import io
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, Final

from dpkt import pcapng as ng

from pipeline.callview import hide_secrets as starred
from pipeline.errors import CaptureError
from pipeline.export.packets import PacketMaker
from pipeline.instants import us_of
from pipeline.ladder import build

Row = Mapping[str, Any]

SUFFIX: Final = ".pcapng"
_LINK_TYPE_RAW: Final = 101  # IPv4 and IPv6 without a link layer: nobody has to invent MAC addresses
_PACKETS_ARE_MADE: Final = (
    "SIP as it was mirrored or captured. Times, addresses, ports and messages are true; the headers of IP, UDP and "
    "TCP around them are made up, and what came over TLS or WebSocket is plain TCP here."
)
_STARRED: Final = " Credentials are starred."
_END: Final = ng.PcapngOptionLE()


def pcap_bytes(messages: Iterable[Row], findings: Iterable[Row] = (), *, hide_secrets: bool = True) -> bytes:
    """A whole pcapng file of `messages`, for a download; see `write_pcap`."""
    file = io.BytesIO()
    write_pcap(file, messages, findings, hide_secrets=hide_secrets)
    return file.getvalue()


def write_pcap(
    file: str | os.PathLike[str] | BinaryIO,
    messages: Iterable[Row],
    findings: Iterable[Row] = (),
    *,
    hide_secrets: bool = True,
) -> int:
    """Write rows of table `sip` (in the order given) to a pcapng file, and return how many.

    The rows of `findings` become comments of the messages that prove them. Payloads are written byte for byte;
    with `hide_secrets` credentials are starred, which changes no length. A file that is named is replaced when all
    is written. Raises CaptureError when it cannot be.
    """
    notes = _notes(findings)
    if isinstance(file, (str, os.PathLike)):
        with _replaced(Path(file)) as fresh:
            return _write(fresh, messages, notes, hide_secrets)
    return _write(file, messages, notes, hide_secrets)


def _write(file: BinaryIO, messages: Iterable[Row], notes: dict[int, list[str]], hide_secrets: bool) -> int:
    writer = ng.Writer(file, shb=_section(hide_secrets), idb=[_interface()])
    maker = PacketMaker()
    count = 0
    for row in messages:
        payload = starred(row["payload"]) if hide_secrets else row["payload"]
        ts_us = us_of(row["ts"])
        comment = "\n".join([*notes.get(row["msg_id"], ()), _seen_by(row)])
        ends = (row["src_ip"], row["src_port"], row["dst_ip"], row["dst_port"])
        for packet in maker.packets(row["transport"], *ends, payload):
            writer.writepkt(
                ng.EnhancedPacketBlockLE(
                    ts_high=ts_us >> 32,
                    ts_low=ts_us & 0xFFFF_FFFF,
                    pkt_data=packet,
                    opts=[_comment(comment), _END],
                )
            )
        count += 1
    return count


def _section(hide_secrets: bool) -> ng.SectionHeaderBlockLE:
    made_by = ng.PcapngOptionLE(
        code=ng.PCAPNG_OPT_SHB_USERAPPL, data=f"hepduck {version('hepduck')}".encode()
    )
    comment = _comment(_PACKETS_ARE_MADE + (_STARRED if hide_secrets else ""))
    return ng.SectionHeaderBlockLE(opts=[comment, made_by, _END])


def _interface() -> ng.InterfaceDescriptionBlockLE:
    name = ng.PcapngOptionLE(code=ng.PCAPNG_OPT_IF_NAME, data=b"hepduck")
    return ng.InterfaceDescriptionBlockLE(linktype=_LINK_TYPE_RAW, snaplen=0, opts=[name, _END])


def _comment(text: str) -> ng.PcapngOptionLE:
    return ng.PcapngOptionLE(code=ng.PCAPNG_OPT_COMMENT, text=text.encode("utf-8", "replace")[:0xFFFF])


def _notes(findings: Iterable[Row]) -> dict[int, list[str]]:
    """msg_id -> what it proves, in words."""
    notes: dict[int, list[str]] = {}
    for finding in findings:
        (note,) = build((), [finding]).steps
        for msg_id in finding["msg_ids"] or ():
            notes.setdefault(msg_id, []).append(note.label)
    return notes


def _seen_by(row: Row) -> str:
    agent = row["agent_addr"] if row["agent_id"] is None else f"{row['agent_addr']}/{row['agent_id']}"
    return f"over {row['transport'] or 'an unknown transport'}, seen by agent {agent}, node {row['node']}"


@contextmanager
def _replaced(path: Path) -> Iterator[BinaryIO]:
    """A new file, its owner's alone, that takes the place of `path` once it is whole."""
    fresh = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        made = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            with os.fdopen(made, "wb") as file:
                yield file
            fresh.replace(path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise CaptureError(f"{path} cannot be written: {error.strerror or error}") from error
