"""Old recordings as if they happened now: the HEP timestamps moved, all else as it was."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pipeline.errors import HepError
from pipeline.ingest import Datagram
from pipeline.protocols.hep import decode, encode


def restamp(datagrams: Iterable[Datagram], start_us: int, *, speed: float = 1.0) -> Iterator[Datagram]:
    """The datagrams with the first one arriving at `start_us` and the spacing divided by `speed`.

    HEP times move with the arrival times, so what was mirrored out of order stays so. What cannot be
    decoded is passed on as it is.
    """
    first_us: int | None = None
    for datagram in datagrams:
        if first_us is None:
            first_us = datagram.arrival_us
        arrival_us = start_us + round((datagram.arrival_us - first_us) / speed)
        yield datagram._replace(arrival_us=arrival_us, data=_moved(datagram, arrival_us))


def _moved(datagram: Datagram, arrival_us: int) -> bytes:
    try:
        packets = decode(datagram.data, now_us=datagram.arrival_us)
    except HepError:
        return datagram.data
    moved = []
    for packet in packets:
        behind_us = datagram.arrival_us - (packet.ts_us or datagram.arrival_us)
        moved.append(encode(packet._replace(ts_us=arrival_us - behind_us), packet.version))
    return b"".join(moved)
