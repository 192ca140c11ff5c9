"""The search of calls: what is read, where mistakes are shown, that nothing typed becomes SQL, and what is found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from store_rows import QUIET

from pipeline.api.calls import call_states, calls, count_calls
from pipeline.api.opened import Store
from pipeline.errors import SearchError, StoreError
from pipeline.store import call_queries
from pipeline.store.call_search import compile_search
from pipeline.store.schema import tables
from pipeline.store.search import KEYS, MAX_TERMS, MAX_VALUES, STATES, parse
from pipeline.store.writer import Writer

# -- reading ---------------------------------------------------------------------------------------------


def read(text: str) -> list[str]:
    """The terms in one spelling: sign, key, operator, values."""
    return [
        f"{'-' * term.negated}{term.key or ''}{term.operator}{'|'.join(value.text for value in term.values)}"
        for term in parse(text)
    ]


@pytest.mark.parametrize(
    ("text", "terms"),
    [
        ("", []),
        (" \t ", []),
        ("alice", [":alice"]),
        ("alice  bob", [":alice", ":bob"]),
        ('"alice cooper"', [":alice cooper"]),
        ('"say \\"hi\\" \\\\o/"', [':say "hi" \\o/']),
        ("-alice !bob", ["-:alice", "-:bob"]),
        ("a,b", [":a|b"]),
        ('from:alice,"bob c"', ["from:alice|bob c"]),
        ("FROM=Alice", ["from=Alice"]),
        ("from!=alice -from!=bob", ["-from=alice", "from=bob"]),
        ("call-id:x status:486", ["callid:x", "code:486"]),
        ("state:cancelled,No-RTP,one-way", ["state:canceled|no_rtp|one_way"]),
        ("+49-30.123(4)", [":+49-30.123(4)"]),
        ("sip:bob@sip.test TEL:+4930", [":bob@sip.test", ":+4930"]),
        ("2001:db8::1 dead:beef::/32", [":2001:db8::1", ":dead:beef::/32"]),
        ("10.0.0.1:5060", [":10.0.0.1:5060"]),
        ("7f3a:1@10.0.0.5", [":7f3a:1@10.0.0.5"]),
        ("a=b", None),
        ('"a=b"', [":a=b"]),
        ("code>=500", ["code>=500"]),
    ],
)
def test_reading(text: str, terms: list[str] | None) -> None:
    if terms is None:
        with pytest.raises(SearchError, match="no key 'a'"):
            parse(text)
    else:
        assert read(text) == terms


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("code:486", 486, 486),
        ("code:4xx", 400, 499),
        ("pdd>3s", 3000, 3000),
        ("ring<=500ms", 500, 500),
        ("talk<1.5m", 90_000, 90_000),
        ("talk>1h", 3_600_000, 3_600_000),
        ("jitter>30", 30, 30),
        ("jitter>30ms", 30, 30),
        ("loss>2%", 2, 2),
        ("loss>0.5", 0.5, 0.5),
        ("r<70", 70, 70),
        ("MOS<3.6", 3.6, 3.6),
        ("messages=7", 7, 7),
    ],
)
def test_numbers_and_units(text: str, low: float, high: float) -> None:
    ((value,),) = (term.values for term in parse(text))
    assert (value.low, value.high) == (low, high)


@pytest.mark.parametrize(
    ("text", "marked", "words"),
    [
        ("stat:busy", "stat", ["no key 'stat'", "did you mean state?"]),
        ("alice xyzzy:1", "xyzzy", ["no key 'xyzzy'", "there are from, to, user"]),
        ("state:bsy", "bsy", ["no state 'bsy'", "did you mean busy?"]),
        ("state:ghost,bsy", "bsy", ["no state 'bsy'"]),
        ("pdd>3", "3", ["pdd>3s"]),
        ("pdd>3 s", "3", ["pdd>3s"]),
        ("pdd>3d", "3d", ["pdd>3s"]),
        ("talk:5s", "5s", ["talk<5s or talk>5s"]),
        ("mos<good", "good", ["mos<3.6"]),
        ("code:4x", "4x", ["code:4xx"]),
        ("code>4xx", "4xx", ["code>=500"]),
        ("code>486,500", "500", ["one value after code>"]),
        ("from>3", ">", ["from is no number: write from:"]),
        ("bob from: x", " ", ["value right after 'from:'"]),
        ("bob from:", "", ["value right after 'from:'"]),
        ("-", "", ["value right after '-'"]),
        ("a,,b", ",", ["value right after ','"]),
        ("a,", "", ["value right after ','"]),
        ('from:"bob', '"', ["quote is not closed"]),
        ('ua:"a"b', "b", ["expected a space"]),
        ('ab"c"', '"', ["expected a space"]),
        ('""', '""', ["nothing between"]),
        ("x " * MAX_TERMS + "y", "y", [f"more than {MAX_TERMS} terms"]),
        ("x," * MAX_VALUES + "y", "y", [f"more than {MAX_VALUES} values"]),
    ],
)  # fmt: skip
def test_mistakes_are_shown_where_they_are(text: str, marked: str, words: list[str]) -> None:
    with pytest.raises(SearchError) as caught:
        parse(text)
    error = caught.value
    assert text[error.start : error.start + error.length] == marked
    assert f"at column {error.start + 1} of the search" in str(error)
    for word in words:
        assert word in str(error)
    line, mark = error.pointed().splitlines()
    assert line == text
    assert mark == " " * error.start + "^" * error.length


# -- nothing typed becomes SQL ---------------------------------------------------------------------------

WORD = re.compile(r"\$s\d+|[a-z_][\w.]*|'[^']*'|\d+", re.IGNORECASE)
TEXT_KEYS = [name for name, key in KEYS.items() if key.kind == "text"]
VALUES = ["x", "x*", "1.2.3.4", "1.2.3.4:5", "1.0.0.0/8", "::1", "fe80::/10", "+49301", "+493012345"]
# Whatever SQL consists of: made of one harmless search for each key, operator and kind of value.
HARMLESS = [
    "",
    *(f"{key}{sign}{value}" for key in TEXT_KEYS for sign in ":=" for value in VALUES),
    *(f"{sign}{value}" for sign in ("", "-") for value in VALUES),
    *(f"state:{state}" for state in STATES),
    *(f"{key}{sign}1{'ms' * (of.kind == 'duration')}" for key, of in KEYS.items() for sign in ("<", "<=", ">", ">=")
      if of.kind not in ("text", "state")),
    *("code:1xx", "messages:1", "legs=1"),
]  # fmt: skip
KNOWN = {word for search in HARMLESS for word in WORD.findall(compile_search(search).sql)}
ANY = st.text(st.characters(), max_size=12)  # with lone surrogates
QUOTED = ANY.filter(str.strip).map(lambda text: '"' + re.sub(r'(["\\])', r"\\\1", text) + '"')
TERM = st.one_of(
    ANY,
    st.tuples(
        st.sampled_from(["", "-", "!"]),
        st.sampled_from(["", *(f"{key}{sign}" for key in KEYS for sign in (":", "=", "!=", "<", ">="))]),
        st.lists(
            st.one_of(QUOTED, ANY, st.sampled_from([*VALUES, *STATES, "3s", "4xx"])), min_size=1, max_size=3
        ).map(",".join),
    ).map("".join),
)


@pytest.fixture(scope="module")
def empty() -> duckdb.DuckDBPyConnection:
    """The tables that a condition is about, without rows."""
    connection = duckdb.connect()
    known = tables()
    for name, of, more in (
        ("c", "call_state", ", NULL::VARCHAR AS state"),
        ("said", "sip", ", method AS request"),
        ("leg", "leg_quality_state", ""),
        ("peer", "leg_quality_state", ""),
        ("cdr", "cdr_call_state", ""),
        ("worst", "leg_quality_state", ", 0.0 AS mos, 0.0 AS sure_r_factor, false AS one_way"),
        ("ghosts", "finding", ""),
    ):
        columns = ", ".join(f"NULL::{kind} AS {column}" for column, kind in known[of].items())
        connection.execute(f"CREATE TABLE {name} AS SELECT {columns}{more} LIMIT 0")
    return connection


@settings(max_examples=250, deadline=None)
@given(st.lists(TERM, max_size=4).map(" ".join))
def test_any_text_is_read_or_refused_and_its_values_are_bound(
    empty: duckdb.DuckDBPyConnection, text: str
) -> None:
    refused: SearchError | None = None
    try:
        condition = compile_search(text)
    except SearchError as error:
        refused = error
    if refused:
        assert 0 <= refused.start <= len(text)
        assert refused.length >= 1
        assert "\n" not in str(refused)
        return
    words = set(WORD.findall(condition.sql))
    assert {word for word in words if not word.startswith("$")} <= KNOWN
    assert {word[1:] for word in words if word.startswith("$")} == set(condition.parameters)
    sql = f"SELECT count(*) FROM c WHERE {condition.sql}"
    assert empty.execute(sql, condition.parameters).fetchall() == [(0,)]


# -- finding ---------------------------------------------------------------------------------------------

T0 = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
NOW = datetime.now(UTC) + timedelta(hours=1)  # a call of now is still one when this file's turn comes
Row = dict[str, object]


def state(n: int, from_user: str, to_user: str, **more: object) -> Row:
    """What is known of call `n`, which began `n` minutes after noon and lasted half a minute."""
    began = T0 + timedelta(minutes=n)
    return {
        **{"call_id": f"c{n}@sip.test", "first_ts": began, "last_ts": began + timedelta(seconds=30)},
        **{"from_user": from_user, "to_user": to_user, "from_host": "sip.test", "to_host": "sip.test"},
        **{"messages": n, "node": "n1"},
        **more,
    }  # fmt: skip


def direction(call: int, leg: str, way: str, r: float | None, **more: object) -> Row:
    began = T0 + timedelta(minutes=call)
    return {
        **{"call_id": f"c{call}@sip.test", "leg_call_id": f"c{call}@sip.test", "leg": leg, "direction": way},
        **{"r_factor": r, "grounded": r and True, "packets": 1000, "lost": 0, "loss_pct": 0.0, "codec": "PCMU"},
        **{"ts": began, "end_ts": began, "unit": f"{call}{leg}", "revision": 1, "source": "cdr", "flags": ""},
        **more,
    }  # fmt: skip


ENDED = {"end_ts": T0 + timedelta(hours=1)}
ANSWERED = {"outcome": "answered", "final_status": 200, "final_reason": "OK"}
STATES_BEFORE = [
    state(1, "alice", "+4930123456", messages=1),
    state(7, "ivan", "judy", outcome="busy", node="n2"),
]
CALLS = [
    state(1, "alice", "+4930123456", from_display="Alice O'Hara", user_agent="Linphone iOS/5.2", codec="PCMA",
          pdd_ms=250.0, ring_ms=4000.0, talk_ms=60_000.0, srd_ms=250.0, legs=1, messages=12, **ANSWERED, **ENDED),
    state(2, "004930123456", "bob", outcome="canceled", final_status=487, final_reason="Request Terminated",
          pdd_ms=3500.0, legs=2),
    state(3, "030123456", "100_%", outcome="busy", final_status=486, final_reason="Busy Here", ring_ms=100.0),
    state(4, "carol", "112", final_status=503, final_reason="Service Unavailable"),
    state(5, "bob", "dave", final_status=301, final_reason="Moved Permanently"),
    state(6, "erin", "dave", first_ts=NOW, last_ts=NOW),
    state(7, "ivan", "judy"),
    state(8, "frank", "dave", ruri_user="bobby", talk_ms=5.0, **ANSWERED),
    state(9, "grace", "dave", outcome="declined", final_status=603, node="n2"),
    state(9, "grace", "dave", outcome="declined", final_status=603, messages=2),
    state(10, "heidi", "dave", from_display="* heidi *", **ANSWERED, **ENDED),
    state(11, "heidi", "dave", **ANSWERED, **ENDED),
]  # fmt: skip
MESSAGES: list[tuple[int, Row]] = [
    (1, {"method": "INVITE", "src_ip": "10.0.0.5", "src_port": 5060, "dst_ip": "10.0.0.1", "dst_port": 5060}),
    (1, {"method": "INVITE", "src_ip": "10.0.0.1", "src_port": 5060, "dst_ip": "2001:db8::7", "dst_port": 5061}),
    (1, {"method": "INVITE", "status": 200, "src_ip": "2001:db8::7", "dst_ip": "10.0.0.1", "user_agent": "Yealink T46",
         "src_port": 5061, "dst_port": 5060}),
    (2, {"method": "INVITE", "src_ip": "10.0.0.55", "src_port": 5060, "dst_ip": "192.168.1.1", "dst_port": 50605}),
    (3, {"method": "REFER", "src_ip": "fe80::1", "dst_ip": "10.128.0.1"}),
    (4, {"method": "REFER", "status": 202, "src_ip": "1.2.3.4", "dst_ip": "::1"}),
]  # fmt: skip
LEGS = [
    direction(1, "a", "incoming", 93.2, mos_cq=4.41, jitter_ms=1.0, rtt_ms=20.0, peer_ip="10.0.0.5"),
    direction(1, "a", "outgoing", 85.0, mos_cq=4.19, loss_pct=1.5, jitter_ms=35.0, rtt_ms=20.0, codec="PCMA"),
    # leg B of call 1 is call 11
    direction(1, "b", "incoming", 66.0, mos_cq=3.4, mos_method="g107", leg_call_id="c11@sip.test", loss_pct=4.0,
              endpoint="PJSIP/carrier", flags="one_way"),
    direction(8, "a", "incoming", 40.0, mos_lq=2.1, packets=20),  # too few to tell
    direction(8, "a", "outgoing", None, packets=None, loss_pct=None, mos_lq=None),
    direction(10, "a", "incoming", None, packets=0, loss_pct=None),
    direction(10, "a", "outgoing", None, packets=0, loss_pct=None, codec=None),
]  # fmt: skip


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    path = tmp_path_factory.mktemp("search") / "store"
    with Writer(path, "n1", QUIET) as writer:
        tables: list[tuple[str, list[Row]]] = [("call", STATES_BEFORE), ("call", CALLS)]
        told = {
            call: {"call_id": f"c{call}@sip.test", "ts": T0 + timedelta(minutes=call)} for call, _ in MESSAGES
        }
        tables += [
            (
                "sip",
                [
                    {**told[call], "received_at": NOW, "msg_id": n, **row}
                    for n, (call, row) in enumerate(MESSAGES)
                ],
            )
        ]
        billed = {
            "call_id": "c1@sip.test",
            "call_id_b": "c11@sip.test",
            "start_ts": T0,
            "unit": "u",
            "revision": 1,
        }
        tables += [("cdr_call", [{**billed, "trunk": "PJSIP/out", "accountcode": "acme", "cdr_rows": 1}])]
        ghost = {"kind": "late_register", "call_id": "c2@sip.test", "ts": T0 + timedelta(minutes=3)}
        tables += [
            ("leg_quality", LEGS),
            ("finding", [ghost, {**ghost, "kind": "other", "call_id": "c1@sip.test"}]),
        ]
        for table, rows in tables:
            added = writer.append(table, rows)
            writer.flush()
            added.result()
    with Store(path) as opened:
        yield opened


def number_of(call_id: str) -> int:
    return int(call_id[1 : call_id.index("@")])


def picked(store: Store, search: str, **asked: Any) -> list[str]:
    """The Call-IDs of the page, before anything is fetched for it."""
    return list(call_queries.calls(store.reader, search, **asked).parameters["call_id"])


EVERY = set(range(1, 12))


@pytest.mark.parametrize(
    ("search", "numbers"),
    [
        ("", EVERY),
        # numbers in any spelling
        ("+4930123456", {1, 2, 3}),
        ("004930123456", {1, 2, 3}),
        ("030123456", {1, 2, 3}),
        ('"+49 (30) 123-456"', {1, 2, 3}),
        ("30123", {1, 2, 3}),
        ("to:+4930123456", {1}),
        ("from:+4930123456", {2, 3}),
        ("user=4930123456", {1, 2, 3}),
        ("to:112", {4}),
        ("to=12", set()),
        ("12", {1, 2, 3, 4}),  # too short for a number: a part of any text
        # words
        ("bob", {2, 5, 8}),
        ("BOB", {2, 5, 8}),
        ("to=bob", {2}),
        ("to:bob", {2, 8}),
        ("from:bob", {5}),
        ("sip:bob@sip.test", {2, 5}),
        ("o'hara", {1}),
        ("linphone", {1}),
        ("c1@", {1}),
        ("callid=c1@sip.test", {1}),
        ("callid:c1", {1, 10, 11}),
        ("node:n2", {9}),
        ("reason:busy", {3}),
        # wildcards stand for the whole; elsewhere they are letters
        ("to=b*b", {2}),
        ("to:b*", {2, 8}),
        ("from=%", EVERY),
        ("to:+49%", {1}),
        ('to:"_%"', {3}),
        ("to:*0_*", {3}),
        ('"* heidi *"', {10}),
        # either, all, none
        ("from:alice,carol", {1, 4}),
        ("to:dave from:frank,grace", {8, 9}),
        ("-to:dave -from:alice", {2, 3, 4, 7}),
        ("from!=alice to!=dave", {2, 3, 4, 7}),
        # addresses of any hop
        ("10.0.0.5", {1}),
        ("ip:10.0.0.5", {1}),
        ("ip:10.0.0.", {1, 2}),
        ("ip:10.0.0.5:5060", {1}),
        ("ip:10.0.0.5:5061", set()),
        ("ip:[2001:db8::7]:5061", {1}),
        ("2001:DB8:0::7", {1}),
        ("10.0.0.0/8", {1, 2, 3}),
        ("10.0.0.0/25 -10.0.0.55", {1}),
        ("10.128.0.0/9", {3}),
        ("0.0.0.0/0", {1, 2, 3, 4}),
        ("fe80::/10", {3}),
        ("::/0", {1, 3, 4}),
        ("2001:db8::/32,1.2.3.4/31", {1, 4}),
        # how it went
        ("state:answered", {1, 8, 10, 11}),
        ("state:canceled,busy", {2, 3}),
        ("state:refused", {4}),
        ("state:redirected", {5}),
        ("state:in_progress", {6}),
        ("state:unfinished", {7}),
        ("state:declined", {9}),
        ("state:failed", {3, 4, 9}),
        ("state:talking", {8}),
        ("state:ghost", {2}),
        ("code:4xx", {2, 3}),
        ("code:301,603", {5, 9}),
        ("code>=500", {4, 9}),
        ("-code:2xx", EVERY - {1, 8, 10, 11}),
        ("pdd>3s", {2}),
        ("pdd<=250ms", {1}),
        ("srd<1s", {1}),
        ("ring<1s", {3}),
        ("talk>=1m", {1}),
        ("talk<1s", {8}),
        ("legs>1", {2}),
        ("messages=12", {1}),
        ("ua:yealink", {1}),
        ("ua:Linphone*", {1}),
        ("method:refer", {3}),
        # how it sounded, and who was paid
        ("r<70", {1, 8, 11}),
        ("r>50", {1, 11}),
        ("-r<70", EVERY - {1, 8, 11}),
        ("mos<3.41 mos>3.39", {1, 11}),
        ("loss>=4%", {1, 11}),
        ("jitter>30ms", {1}),
        ("rtt>=20", {1}),
        ("state:poor", {1, 11}),
        ("state:one-way", {1, 11}),
        ("state:no-rtp", {10}),
        ("codec:pcma", {1}),
        ("codec=PCMU", {1, 8, 10, 11}),
        ("trunk:carrier", {1, 11}),
        ("trunk=pjsip/out", {1, 11}),
        ("trunk:10.0.0.5", {1}),
        ("account:acme", {1, 11}),
        ("account:*", {1, 11}),
    ],
)
def test_what_is_found(store: Store, search: str, numbers: set[int]) -> None:
    found = [number_of(call_id) for call_id in picked(store, search)]
    assert (set(found), len(found)) == (numbers, len(numbers))


def test_a_row_of_the_list(store: Store) -> None:
    """The newest state of the node that saw the most; the worst direction of all legs; what is not known is missing."""
    rows = {row["call_id"]: row for row in calls(store=store).to_dict("records")}
    first = rows["c1@sip.test"]
    assert (first["from"], first["to"], first["state"], first["ghost"]) == (
        "alice",
        "+4930123456",
        "answered",
        False,
    )
    assert (first["messages"], first["final_status"], first["pdd_ms"]) == (12, 200, 250.0)
    assert (first["r_factor"], first["mos"], first["mos_method"]) == (66.0, 3.4, "g107")
    assert (first["loss_pct"], first["jitter_ms"], first["rtt_ms"]) == (4.0, 35.0, 20.0)
    assert (first["trunk"], first["account"], first["media"]) == ("PJSIP/out", "acme", "one_way")
    assert first["first_ts"] == T0 + timedelta(minutes=1)
    second = rows["c2@sip.test"]
    assert second["ghost"] is True
    missing = ("talk_ms", "codec", "user_agent", "trunk", "account", "r_factor", "mos", "loss_pct", "media")
    assert calls("callid:c2@", store=store)[[*missing]].isna().all(axis=None)
    assert rows["c9@sip.test"]["node"] == "n2"
    assert rows["c10@sip.test"]["media"] == "no_rtp"
    leg_b = rows["c11@sip.test"]
    assert (leg_b["r_factor"], leg_b["jitter_ms"] is None or leg_b["jitter_ms"] != leg_b["jitter_ms"]) == (
        66.0,
        True,
    )


@pytest.mark.parametrize("sort", ["-first_ts", "from", "-r_factor", "trunk", "ghost", "-state", "media"])
def test_pages_are_the_whole_in_order(store: Store, sort: str) -> None:
    whole = calls("-state:declined", sort=sort, limit=None, store=store)
    assert {number_of(call_id) for call_id in whole.call_id} == EVERY - {9}
    column = whole[sort.removeprefix("-")]
    known = column.dropna().tolist()
    assert known == sorted(known, reverse=sort.startswith("-"))
    assert column.isna().tolist() == sorted(column.isna()), "what is not known comes last"
    pages = [picked(store, "-state:declined", sort=sort, limit=4, offset=at) for at in range(0, 16, 4)]
    assert [len(page) for page in pages] == [4, 4, 2, 0]
    assert [call_id for page in pages for call_id in page] == whole.call_id.tolist()
    assert calls("-state:declined", sort=sort, limit=4, offset=4, store=store).call_id.tolist() == pages[1]


def test_windows(store: Store) -> None:
    """A call is in a window if it was on at any time of it."""
    at = T0 + timedelta(minutes=2)
    assert found_in(store, since=at, until=at + timedelta(minutes=2)) == {2, 3}
    assert found_in(store, since=at + timedelta(seconds=30), until=at + timedelta(seconds=31)) == {2}
    assert found_in(store, since=at + timedelta(seconds=31), until=at + timedelta(minutes=1)) == set()
    assert found_in(store, since="1h") == {6}
    assert found_in(store, until="2026-03-01T12:02:00+00:00") == {1}
    assert found_in(store, "r<70", until="2026-03-01 12:02") == {1}
    assert found_in(store, "r<70", since="2026-03-01 12:09") == {11}
    assert found_in(store, since="2026-03-01 13:00", until="2026-03-01 12:00") == set()


def found_in(store: Store, search: str = "", **window: Any) -> set[int]:
    frame = calls(search, store=store, **window)
    assert len(frame) == count_calls(search, store=store, **window)
    counted = call_states(search, store=store, **window)
    assert counted.set_index("state").calls.to_dict() == frame.state.value_counts().to_dict()
    return {number_of(call_id) for call_id in frame.call_id}


def test_an_unknown_column_is_refused(store: Store) -> None:
    with pytest.raises(StoreError, match="no column 'pddms' to sort by: did you mean pdd_ms"):
        calls(sort="-pddms", store=store)
