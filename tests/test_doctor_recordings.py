"""`hepduck doctor` on recordings: a real Kamailio's mirror in many scenes, and a real Asterisk's reports and CDRs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import timedelta
from pathlib import Path

from doctor import ALWAYS, Said, ask, store_of
from quality_store import Row, cdr_rows, datagrams, new_store
from recordings import ALIASES, PATHS

from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import HepPacket, decode, encode

# Mirrors that were set up wrongly on purpose: `test_doctor_kamailio` has them live.
WRONG = {"b_both", "d_both", "b_hep1", "b_hep2"}
RTCP, SIP = 5, 1
SMALL = "r18"
CDR_CHECKS = ("rtcp", "cdr_calls", "cdr_zone")


def heard(path: Path, names: Iterable[str]) -> Said:
    """What the doctor says of a store that heard these recordings when they were made."""
    with store_of(path, (datagram for name in names for datagram in read_recording(PATHS[name]))):
        pass
    return ask(path, {"detectors.late_register.aliases": ALIASES}, since=ALWAYS)


def test_a_busy_minute_is_healthy(tmp_path: Path) -> None:
    """Ten thousand datagrams of real load: nothing is wrong, but Kamailio sent ACKs to stateless replies twice."""
    said = heard(tmp_path, ["mix"])
    assert (said.wrong, said.advice) == (set(), {"duplicates"}), said
    assert said.mend("duplicates") == 'modparam("siptrace", "trace_sl_acks", 0)'


def test_odd_calls_are_not_the_mirrors_fault(tmp_path: Path) -> None:
    """Forks, edges, dead phones, IPv6, TLS, forged messages: fifty scenes, each mirrored as it should be."""
    names = sorted(PATHS.keys() - WRONG - {"mix"})
    assert len(names) > 45
    said = heard(tmp_path, names)
    assert said.wrong == set(), said
    assert said.advice <= {"duplicates", "push_devices"}, said


# -- Asterisk ---------------------------------------------------------------------------------------------


def asterisk(
    path: Path,
    session: str,
    cdrs: list[Row],
    change: Callable[[HepPacket], HepPacket | None] = lambda packet: packet,
    settings: dict[str, object] | None = None,
) -> Said:
    """What the doctor says of a store with these CDRs, which heard the session's HEP as `change` makes it."""
    sent = []
    for datagram in datagrams(session):
        (packet,) = decode(datagram.data)
        changed = change(packet)
        if changed is not None:
            sent.append(datagram._replace(arrival_us=packet.ts_us, data=encode(changed)))
    with new_store(path) as store:
        store.hear_datagrams(sorted(sent, key=lambda datagram: datagram.arrival_us))
        store.add("cdr", cdrs)
        store.refresher.run()
    return ask(path, settings, since=ALWAYS)


def test_a_whole_asterisk(tmp_path: Path) -> None:
    """SIP, RTCP and CDRs of 88 calls find each other."""
    said = asterisk(tmp_path, "r22-main", cdr_rows("r22-main"))
    assert said.wrong == set(), said
    assert all(said[name].verdict == "ok" for name in CDR_CHECKS), said


def test_reports_and_cdrs_whose_calls_are_not_mirrored(tmp_path: Path) -> None:
    """`res_hep_rtcp` without `res_hep_pjsip`."""
    said = asterisk(
        tmp_path, SMALL, cdr_rows(SMALL), lambda packet: packet if packet.protocol_type == RTCP else None
    )
    assert said.wrong == {"rtcp", "cdr_calls"}, said
    assert "res_hep_pjsip.so" in said.mend("rtcp", "modules.conf")
    assert "capture_address" in said.mend("cdr_calls", "hep.conf")


def test_reports_that_name_channels(tmp_path: Path) -> None:
    """`uuid_type=channel`."""
    rows = cdr_rows(SMALL)
    legs = [(row["call_id"], row["channel"]) for row in rows]
    legs += [(row["call_id_b"], row["dst_channel"]) for row in rows]
    channels = {call_id[:127]: channel for call_id, channel in legs if call_id and channel}

    def named_by_channel(packet: HepPacket) -> HepPacket:
        if packet.protocol_type != RTCP:
            return packet
        return packet._replace(
            correlation_id=channels.get(packet.correlation_id[:127], "PJSIP/gone-00000001")
        )

    said = asterisk(tmp_path, SMALL, rows, named_by_channel)
    assert said.wrong == {"rtcp"}, said
    assert "name a channel and not a Call-ID" in said["rtcp"].told
    assert "uuid_type = call-id" in said.mend("rtcp", "hep.conf")


def test_cdrs_without_call_id(tmp_path: Path) -> None:
    """A dialplan without the handler that writes it."""
    nameless = [{**row, "call_id": None, "call_id_b": None} for row in cdr_rows(SMALL)]
    said = asterisk(tmp_path, SMALL, nameless, lambda packet: packet if packet.protocol_type == SIP else None)
    assert said.wrong == {"cdr_calls"}, said
    assert "have no Call-ID" in said["cdr_calls"].told
    assert "hepduck-cdr-qos,leg_a" in said.mend("cdr_calls", "extensions.conf")


def test_reports_without_call_id_and_a_wrong_zone(tmp_path: Path) -> None:
    """As an agent that cannot correlate sends them. The CDRs' times are Kyiv's, two hours ahead of UTC in winter."""
    rows = [{**row, "ts": row["ts"] + timedelta(hours=2)} for row in cdr_rows(SMALL)]
    source = {"source": "Master.csv", "name": "asterisk", "zone": "UTC"}
    said = asterisk(
        tmp_path, SMALL, rows, lambda packet: packet._replace(correlation_id=None), settings={"cdr": [source]}
    )
    assert {"rtcp", "cdr_zone"} <= said.wrong, said
    assert "name no call" in said["rtcp"].told
    assert said["cdr_zone"].numbers["quarters_of_hours"] == {"asterisk": 8}
    zone, _, rest = said.mend("cdr_zone", "hepduck.toml").splitlines()[-1].partition("    # ")
    assert zone.startswith('zone = "Europe/')
    assert "now UTC; Asterisk was at UTC+02:00 then" in rest
