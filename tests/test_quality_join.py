"""Calls, CDRs and reports find each other, in whatever order they come; where not, the reason is told."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from asterisk_recordings import truths
from quality_store import AGENT, Row, Store, cdr_rows, datagrams, new_store

from pipeline.ingest import Datagram
from pipeline.protocols.hep import HepPacket, decode
from pipeline.protocols.hep.encode import encode
from pipeline.quality.settings import QualitySettings

T0 = datetime(2026, 11, 22, 12, 0, tzinfo=UTC)
SMALL = "r22-custom-legacy"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with new_store(tmp_path / "store") as made:
        yield made


# -- any order -------------------------------------------------------------------------------------------


def everything(store: Store) -> list[list[Row]]:
    """All that the views say, but for the names of units and the order of sums."""
    legs = store.query("SELECT * EXCLUDE (raw) FROM leg_quality ORDER BY ALL")
    calls = store.query("SELECT * EXCLUDE (mean_r_factor) FROM call_quality ORDER BY call_id, ts")
    reasons = [
        store.query(f"SELECT reason, call_id FROM {view} ORDER BY ALL")
        for view in ("cdr_unjoined", "sip_unjoined")
    ]
    return [legs, calls, *reasons]


ORDERS = [(SMALL, "cdr_full", "-".join(order)) for order in itertools.permutations(["sip", "rtcp", "cdr"])]
# The recipe's table: no linkedid, no Call-ID of leg B.
ORDERS += [("r22-main", "cdr_extra", "cdr-sip-rtcp"), ("r22-main", "cdr_extra", "rtcp-cdr-sip")]


@cache
def in_usual_order(folder: Path, session: str, table: str) -> list[list[Row]]:
    with new_store(folder / f"{session}-{table}") as store:
        store.hear(session)
        store.refresher.run()
        store.add("cdr", cdr_rows(session, table))
        store.refresher.run()
        return everything(store)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("order")


@pytest.mark.parametrize(("session", "table", "order"), ORDERS)
def test_the_result_is_the_same_in_any_order(
    store: Store, folder: Path, session: str, table: str, order: str
) -> None:
    steps: dict[str, Callable[[], None]] = {
        "sip": lambda: store.hear(session, only=1),
        "rtcp": lambda: store.hear(session, only=5),
        "cdr": lambda: store.add("cdr", cdr_rows(session, table)),
    }
    for step in order.split("-"):
        steps[step]()
        store.refresher.run()
        store.restart()
    assert everything(store) == in_usual_order(folder, session, table)


def test_row_by_row_and_report_by_report_gives_the_same_as_all_at_once(store: Store, tmp_path: Path) -> None:
    with new_store(tmp_path / "at-once") as other:
        other.hear(SMALL)
        other.add("cdr", cdr_rows(SMALL))
        other.refresher.run()
        expected = everything(other)
    store.hear(SMALL, only=1)
    reports = list(datagrams(SMALL, 5))
    for start in range(0, len(reports), 60):
        store.hear_datagrams(reports[start : start + 60])
        store.writer.merge()  # sorts the new among the old
        store.refresher.run()
        if start == 60:
            store.restart()
    rows = cdr_rows(SMALL)[::-1]
    for start in range(0, len(rows), 5):
        store.add("cdr", rows[start : start + 5])
        store.writer.merge()
        store.refresher.run()
    assert everything(store) == expected


def test_a_pass_over_nothing_new_writes_nothing(store: Store) -> None:
    store.hear(SMALL)
    store.add("cdr", cdr_rows(SMALL))
    assert store.refresher.run()
    before = store.writer.status().stored
    assert not store.refresher.run()
    store.restart()
    assert not store.refresher.run()
    assert store.writer.status().stored == before


def test_a_pass_that_fails_is_done_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.hear(SMALL)
    store.add("cdr", cdr_rows(SMALL))
    append = store.writer.append

    def full(table: str, rows: Any) -> Any:
        if table == "cdr_call":
            raise OSError("disk full")
        return append(table, rows)

    with monkeypatch.context() as patch:
        patch.setattr(store.writer, "append", full)
        with pytest.raises(OSError, match="disk full"):
            store.refresher.run()
    assert store.refresher.run()
    assert len(store.query("FROM cdr_call")) == len(truths(SMALL))


# -- which rows are one call -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def main_calls(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Row]]:
    """Calls of r22-main by their number, from the full table and from the recipe's."""
    found = {}
    for table in ("cdr_full", "cdr_extra"):
        with new_store(tmp_path_factory.mktemp("calls") / "store") as store:
            store.hear("r22-main")
            store.refresher.run()
            store.add("cdr", cdr_rows("r22-main", table))
            store.refresher.run()
            numbers = {truth["callid_a"]: truth["id"] for truth in truths("r22-main")}
            found[table] = {numbers[row["call_id"]]: row for row in store.query("FROM cdr_call")}
    return found


@pytest.mark.parametrize("table", ["cdr_full", "cdr_extra"])
@pytest.mark.parametrize(
    ("number", "rows", "billed_s", "disposition", "what"),
    [
        ("1", 1, 16, "ANSWERED", "answered, one Dial"),
        ("45", 2, 26, "ANSWERED", "transfer by the caller: the second row is leg B's own"),
        ("47", 2, 26, "ANSWERED", "transfer by the callee: the first row has no Call-ID"),
        ("50", 2, 16, "ANSWERED", "fork: the second answers"),
        ("52", 2, 0, "NO ANSWER", "fork: nobody answers"),
        ("54", 2, 16, "ANSWERED", "hunt"),
        ("56", 2, 16, "ANSWERED", "through a Local channel"),
        ("60", 2, 0, "BUSY", "the dialplan goes on after Dial"),
        ("68", 3, 0, "NO ANSWER", "dead host: also a row of the B channel"),
        ("73", 2, 0, "NO ANSWER", "early media"),
    ],
)
def test_rows_of_one_call(
    main_calls: dict[str, dict[str, Row]],
    table: str,
    number: str,
    rows: int,
    billed_s: int,
    disposition: str,
    what: str,
) -> None:
    call = main_calls[table][number]
    assert (call["cdr_rows"], call["disposition"]) == (rows, disposition), what
    assert abs(call["billsec_ms"] / 1000 - billed_s) <= 1.5, what


def test_both_call_ids_and_the_trunk_of_a_call(main_calls: dict[str, dict[str, Row]]) -> None:
    truth = {row["id"]: row for row in truths("r22-main")}
    for number in ("1", "17", "68", "88"):
        full, extra = main_calls["cdr_full"][number], main_calls["cdr_extra"][number]
        assert full["call_id"] == extra["call_id"] == truth[number]["callid_a"]
        assert full["call_id_b"] == truth[number]["callid_b"]
        assert full["trunk"] == "PJSIP/ep"
    with_media = [number for number, call in main_calls["cdr_extra"].items() if call["media_rows"] > 0]
    by_ssrc = [number for number in with_media if main_calls["cdr_extra"][number]["call_id_b"]]
    assert len(by_ssrc) > 50, (
        "the recipe's table has no Call-ID of leg B: the reports have it, under its SSRC"
    )
    for number in set(by_ssrc) - {"45", "47"}:  # transferred: leg B is another one in the end
        assert main_calls["cdr_extra"][number]["call_id_b"] == truth[number]["callid_b"]


def cdr(number: int, at: datetime = T0, **more: Any) -> Row:
    """A row of an answered call of 20 s."""
    return {
        "ts": at,
        "source": "asterisk",
        "source_row": f"row{number}",
        "uniqueid": f"{int(at.timestamp())}.{number}",
        "call_id": f"call-{number}@phone.test",
        "src": "100",
        "dst": "200",
        "channel": f"PJSIP/phone-{number:08x}",
        "dst_channel": f"PJSIP/trunk-{number + 1:08x}",
        "duration_ms": 20_000,
        "billsec_ms": 18_000,
        "disposition": "ANSWERED",
        "imported_at": datetime.now(UTC),
        **more,
    }


def sip_call(call_id: str, at: datetime = T0, seconds: float = 20, **more: Any) -> Row:
    """A call as the tap saw it."""
    end = at + timedelta(seconds=seconds)
    times = {"first_ts": at, "last_ts": end, "invite_ts": at, "answer_ts": at, "end_ts": end}
    return {"call_id": call_id, "messages": 6, "outcome": "answered", "updated_at": end, **times, **more}


def test_a_channel_name_that_comes_again_ties_nothing(store: Store) -> None:
    """After a restart Asterisk counts its channels anew."""
    later = T0 + timedelta(minutes=10)
    store.add(
        "cdr", [cdr(1), cdr(2, later, channel="PJSIP/trunk-00000002", dst_channel="PJSIP/phone-00000001")]
    )
    store.refresher.run()
    assert len(store.query("FROM cdr_call")) == 2


def test_a_row_that_makes_another_call_of_earlier_rows_replaces_it(store: Store) -> None:
    """The transferred part came first: it was a call of its own until its beginning came."""
    second = cdr(
        7, T0 + timedelta(seconds=20), channel="PJSIP/trunk-00000002", dst_channel="PJSIP/c-00000009"
    )
    store.add("cdr", [second])
    store.refresher.run()
    assert [row["call_id"] for row in store.query("FROM cdr_call")] == ["call-7@phone.test"]
    store.add("cdr", [cdr(1)])
    store.refresher.run()
    (call,) = store.query("FROM cdr_call")
    assert (call["call_id"], call["cdr_rows"], call["billsec_ms"]) == ("call-1@phone.test", 2, 38_000)
    assert len(store.query("FROM call_quality")) == 1


def test_a_call_that_two_sources_tell_of_counts_once(store: Store) -> None:
    store.add("cdr", [cdr(1), cdr(1, source="copy", call_id=None)])
    store.refresher.run()
    (call,) = store.query("FROM call_quality")
    assert (call["call_id"], call["cdr_source"]) == ("call-1@phone.test", "asterisk")


def test_a_call_id_used_again_is_another_call(store: Store) -> None:
    """Calls 76 and 77: each has its own legs."""
    store.hear("r22-main")
    store.add("cdr", cdr_rows("r22-main"))
    store.refresher.run()
    first, second = store.query("FROM call_quality WHERE call_id = 'dup-call-id-1@testbed' ORDER BY ts")
    assert (first["in_sip"], second["in_sip"]) == (False, True), (
        "the call as the tap knows it is the last one"
    )
    assert second["ts"] - first["ts"] > timedelta(minutes=2)
    assert first["directions"] >= 4
    assert second["directions"] >= 4
    assert second["worst_loss_pct"] > 3
    assert first["worst_loss_pct"] is None, "shorter than a report interval"


# -- reasons ---------------------------------------------------------------------------------------------


def reasons(store: Store, view: str) -> dict[str, str]:
    return {row["call_id"]: row["reason"] for row in store.query(f"SELECT call_id, reason FROM {view}")}


def test_why_a_cdr_has_no_call(store: Store) -> None:
    long_id = "a-very-long-call-id-of-a-session-border-controller-0001@sbc.test"
    store.add("agent", [{"agent": AGENT, "agent_addr": AGENT, "first_seen": T0 - timedelta(days=30)}])
    store.add(
        "call",
        [
            sip_call("call-1@phone.test"),
            sip_call("call-2@phone.test", T0 + timedelta(hours=3)),
            sip_call("leg-b-of-3@switch.test"),
            sip_call(long_id),
            sip_call("oldest@phone.test", T0 - timedelta(days=7)),
        ],
    )
    store.add(
        "cdr",
        [
            cdr(1),
            cdr(2),
            cdr(3, call_id_b="leg-b-of-3@switch.test"),
            cdr(4, call_id=long_id[:40]),
            cdr(5, T0 - timedelta(days=20)),
            cdr(6, T0 - timedelta(days=40)),
            cdr(7),
            cdr(8, call_id=None),
        ],
    )
    store.refresher.run()
    assert reasons(store, "cdr_unjoined") == {
        "call-2@phone.test": "reused Call-ID out of time",
        "call-3@phone.test": "B leg only",
        long_id[:40]: "cut Call-ID",
        "call-5@phone.test": "outside retention",
        "call-6@phone.test": "mirror started later",
        "call-7@phone.test": "Call-ID unknown to the tap",
        None: "no Call-ID in the CDR",
    }


def test_why_a_call_has_no_cdr(store: Store) -> None:
    long_id = "a-very-long-call-id-of-a-session-border-controller-0001@sbc.test"
    store.add(
        "call",
        [
            sip_call("call-1@phone.test", dst_ip="10.0.0.1", src_ip="10.0.0.2"),
            sip_call("call-2@phone.test", T0 + timedelta(hours=3)),
            sip_call("from-the-switch@switch.test", src_ip="10.0.0.1", dst_ip="10.0.0.3"),
            sip_call(long_id),
            sip_call("just-ended@phone.test", T0 + timedelta(hours=1)),
            sip_call("long-ago@phone.test", T0 - timedelta(days=7)),
            sip_call("never-dialled@phone.test"),
        ],
    )
    store.add("cdr", [cdr(1), cdr(2), cdr(4, call_id=long_id[:40]), cdr(9, T0 + timedelta(minutes=1))])
    store.refresher.run()
    assert reasons(store, "sip_unjoined") == {
        "call-2@phone.test": "reused Call-ID out of time",
        "from-the-switch@switch.test": "B leg only",
        long_id: "cut Call-ID",
        "just-ended@phone.test": "no CDR yet",
        "long-ago@phone.test": "outside retention",
        "never-dialled@phone.test": "Call-ID unknown to the CDRs",
    }


def test_without_any_cdr_every_call_waits_for_its_own(store: Store) -> None:
    store.add("call", [sip_call("call-1@phone.test")])
    store.refresher.run()
    assert reasons(store, "sip_unjoined") == {"call-1@phone.test": "no CDR yet"}


def test_leg_b_is_tied_by_the_cdr_or_by_the_header(store: Store) -> None:
    store.add("call", [sip_call(f"{name}@sip.test") for name in ("a1", "b1", "a2", "b2")])
    invite = {"method": "INVITE", "ts": T0, "received_at": datetime.now(UTC), "msg_id": 1}
    store.add("sip", [{**invite, "call_id": "b2@sip.test", "x_cid": "a2@sip.test"}])
    store.add("cdr", [cdr(1, call_id="a1@sip.test", call_id_b="b1@sip.test")])
    store.refresher.run()
    assert {row["call_id"] for row in store.query("FROM call_quality")} == {"a1@sip.test", "a2@sip.test"}
    ties = {
        row["name"]: row["tied_by"]
        for row in store.query("FROM call_leg WHERE kind = 'call-id' AND leg = 'b'")
    }
    assert ties == {"b1@sip.test": "cdr", "b2@sip.test": "x-cid"}


def test_the_header_can_be_left_out(tmp_path: Path) -> None:
    with new_store(tmp_path / "store", QualitySettings(tie_x_cid=False)) as store:
        store.add(
            "sip",
            [{"call_id": "b@sip.test", "x_cid": "a@sip.test", "method": "INVITE", "ts": T0, "msg_id": 1}],
        )
        store.refresher.run()
        assert store.query("FROM call_leg") == []


# -- reports ---------------------------------------------------------------------------------------------


def renamed(session: str, name: Callable[[HepPacket], str | None]) -> list[Datagram]:
    """The session's RTCP with other correlation ids."""
    changed = []
    for datagram in datagrams(session, 5):
        (packet,) = decode(datagram.data)
        changed.append(datagram._replace(data=encode(packet._replace(correlation_id=name(packet)))))
    return changed


def by_leg(store: Store) -> dict[tuple[Any, ...], Any]:
    rows = store.query("FROM leg_quality WHERE source = 'hep rtcp'")
    names = ("call_id", "leg", "direction", "leg_call_id")
    told = ("packets", "lost", "jitter_ms", "rtt_ms", "codec", "endpoint")
    return {tuple(row[n] for n in names): tuple(row[n] for n in told) for row in rows}


def test_channel_names_find_their_call_through_the_cdr(store: Store, tmp_path: Path) -> None:
    """`uuid_type=channel` of res_hep_rtcp: reports come under the name of the channel."""
    channels = {}
    for row in cdr_rows(SMALL):
        channels |= {row["call_id"]: row["channel"], row["call_id_b"]: row["dst_channel"]}
    with new_store(tmp_path / "by-call-id") as other:
        for each, heard in (
            (store, renamed(SMALL, lambda p: channels.get(p.correlation_id or ""))),
            (other, None),
        ):
            each.hear(SMALL, only=1)
            if heard is None:
                each.hear(SMALL, only=5)
            else:
                each.hear_datagrams([d for d in heard if decode(d.data)[0].correlation_id])
            each.refresher.run()
            each.add("cdr", cdr_rows(SMALL))
            each.refresher.run()
        expected = {key: value for key, value in by_leg(other).items() if channels.get(key[3]) is not None}
        assert by_leg(store) == expected
    joined = store.query("SELECT DISTINCT joined_by FROM leg_quality WHERE source = 'hep rtcp'")
    assert [row["joined_by"] for row in joined] == ["channel"]
    assert len(expected) > 30


def test_addresses_find_their_call_through_the_sdp(store: Store, tmp_path: Path) -> None:
    """Agents that do not know the Call-ID: what the SDP of a call of that time named is its media."""
    with new_store(tmp_path / "by-call-id") as other:
        for each in (store, other):
            each.hear(SMALL, only=1)
        store.hear_datagrams(renamed(SMALL, lambda _: None))
        other.hear(SMALL, only=5)
        for each in (store, other):
            each.refresher.run()
        assert by_leg(store) == by_leg(other)
    joined = store.query("SELECT DISTINCT joined_by FROM leg_quality")
    assert [row["joined_by"] for row in joined] == ["sdp"]


def test_a_call_id_cut_at_127_characters_is_its_calls(store: Store) -> None:
    truth = next(row for row in truths("r22-main") if row["id"] == "74")
    store.hear("r22-main")
    store.refresher.run()
    rows = store.query("FROM leg_quality WHERE joined_by = 'call-id-127'")
    assert {(row["call_id"], row["leg"], row["leg_name"]) for row in rows} == {
        (truth["callid_a"], "a", truth["callid_a"][:127])
    }
    store.add("cdr", cdr_rows("r22-main"))
    store.refresher.run()
    (call,) = store.query("FROM call_quality WHERE call_id = $call_id", call_id=truth["callid_a"])
    assert (call["in_sip"], call["in_cdr"], call["quality_sources"]) == (True, True, "cdr")


def test_without_cdrs_leg_b_is_what_the_switch_called(store: Store) -> None:
    store.hear(SMALL)
    store.refresher.run()
    ids = {leg: {row[f"callid_{leg}"] for row in truths(SMALL)} for leg in ("a", "b")}
    rows = store.query("FROM leg_quality")
    assert {row["peer_ip"].split(".")[2] for row in rows} == {"1", "2"}
    for row in rows:
        if row["call_id"] in ids["a"] | ids["b"]:
            assert row["call_id"] in ids[row["leg"]]
        assert row["peer_ip"].startswith("10.77.1." if row["leg"] == "a" else "10.77.2.")


# -- the table of legs -----------------------------------------------------------------------------------


def leg_rows(session: str) -> list[Row]:
    """The table `leg_qos` as that Asterisk would have written it: each leg its own row."""
    made = []
    for row in cdr_rows(session):
        uniqueid = row["uniqueid"] or ""
        for leg, call_id, channel in (
            ("a", row["call_id"], row["channel"]),
            ("b", row["call_id_b"], row["dst_channel"]),
        ):
            if not (row[f"rtcp_{leg}_all"] and call_id and row["call_id"]):
                continue
            made.append(
                {
                    "ts": row["ts"],
                    "source": "legs",
                    "source_row": f"{uniqueid}{leg}",
                    "uniqueid": f"{uniqueid}{leg}",
                    "linkedid": row["linkedid"],
                    "channel": channel,
                    "leg": leg,
                    "call_id": call_id,
                    "call_id_a": row["call_id"],
                    "end_ts": row["end_ts"],
                    "codec": "ulaw",
                    "rtp_dest": "10.77.1.1:4000",
                    "imported_at": datetime.now(UTC),
                    **{
                        f"rtcp_{name}": row[f"rtcp_{leg}_{name}"] for name in ("all", "all_jitter", "all_rtt")
                    },
                }
            )
    return made


def test_the_table_of_legs_says_the_same_as_the_cdr_and_is_preferred(store: Store) -> None:
    rows = cdr_rows(SMALL)
    whole = [row for row in rows if row["rtcp_b_all_rtt"] and row["rtcp_b_all_jitter"]]
    store.add("cdr", whole)
    store.add(
        "cdr_leg", [row for row in leg_rows(SMALL) if row["linkedid"] in {r["linkedid"] for r in whole}]
    )
    store.refresher.run()
    columns = "call_id, leg, direction, leg_call_id, packets, lost, loss_pct"
    cdr_says = store.query(f"SELECT {columns} FROM leg_quality WHERE source = 'cdr' ORDER BY ALL")
    legs_say = store.query(f"SELECT {columns} FROM leg_quality WHERE source = 'leg table' ORDER BY ALL")
    assert cdr_says == legs_say
    assert len(legs_say) > 20
    best = store.query(
        "SELECT DISTINCT source, codec, grounded FROM leg_quality_best WHERE r_factor IS NOT NULL"
    )
    assert best == [{"source": "leg table", "codec": "PCMU", "grounded": True}]
    assert json.loads(store.query("FROM leg_quality WHERE source = 'leg table'")[0]["raw"])["all"]
