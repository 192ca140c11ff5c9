"""Values from SIP messages on their way into our headers: what must stay, what is mended, what is refused."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from late_findings import late_finding
from pydantic import ValidationError
from sip_peer import Peer, Phone

from detectors.actions.fake_call import FakeCall, FakeCallSettings
from detectors.actions.uac import headers
from pipeline.engine.actions import Attempt, build_actions, parse_target
from pipeline.errors import ActionError, ConfigError

INJECTION = "x\r\nEvil: yes\r\n\r\nINVITE sip:evil SIP/2.0\r\n"
# A call as it should be has these headers and no others.
NAMES = ["Via", "Max-Forwards", "From", "To", "Call-ID", "CSeq", "User-Agent", "Contact", "Allow"]
NAMES += ["X-Late-Secret", "X-Late-Target", "Content-Type", "Content-Length"]


def sent_for(**changes: Any) -> Peer:
    async def run() -> Peer:
        async with Peer(Phone()) as peer:
            caller = FakeCall(FakeCallSettings(proxy=peer.uri, secret="s3cret"))
            await caller.act(late_finding(**changes), Attempt("a", "r", 0))
            await caller.stop()
        return peer

    return asyncio.run(run())


@pytest.mark.parametrize("breaks", ["\r\n", "\n", "\r", "\x00", "\x85", "\u2028", "\x0b"])
@pytest.mark.parametrize("field", ["caller_user", "caller_host", "caller_display"])
def test_no_part_of_the_caller_can_add_a_header(field: str, breaks: str) -> None:
    peer = sent_for(**{field: INJECTION.replace("\r\n", breaks)})
    assert [request.method for request in peer.requests] == ["INVITE", "CANCEL", "ACK"][: len(peer.requests)]
    assert [name for name, _ in peer.requests[0].headers] == NAMES
    assert all(char.isprintable() for name, value in peer.requests[0].headers for char in name + value)


@pytest.mark.parametrize("field", ["call_id", "aor", "target"])
@pytest.mark.parametrize("value", [INJECTION, "", None, 5, "a b", "x\n", "é\r", "x" * 5000])
def test_nothing_is_sent_for_what_cannot_be_called(field: str, value: object) -> None:
    async def run() -> None:
        async with Peer(Phone()) as peer:
            caller = FakeCall(FakeCallSettings(proxy=peer.uri))
            with pytest.raises(ActionError):
                await caller.act(late_finding(**{field: value}), Attempt("a", "r", 0))
            with pytest.raises(ActionError):
                await caller.plan(late_finding(**{field: value}))
            await caller.stop()
        assert not peer.requests

    asyncio.run(run())


@pytest.mark.parametrize(
    ("user", "written"),
    [
        ("bob", "bob"),
        ("+15551234", "+15551234"),
        ("bob;ext=1", "bob;ext=1"),
        ("bob%3Bext", "bob%3Bext"),  # RFC 3261 section 19.1.4: not the same as bob;ext
        ("bob%2f", "bob%2f"),
        ("a&touch$IFS/path", "a&touch$IFS/path"),  # legal, and harmless where no shell is
        ("a b", "a%20b"),
        ("100%", "100%25"),
        ("a%zz", "a%25zz"),
        ("a#b<c>\"d'@", "a%23b%3Cc%3E%22d'%40"),
        ("müller", "m%C3%BCller"),
        ("a\r\nb", "a%0D%0Ab"),
    ],
)
def test_user_part_keeps_its_escapes_and_escapes_the_rest(user: str, written: str) -> None:
    assert headers.user(user) == written


@pytest.mark.parametrize(
    ("host", "written"),
    [
        ("sip.test", "sip.test"),
        ("SIP_1.test:5080", "SIP_1.test:5080"),
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8::1", "[2001:db8::1]"),
        ("[2001:DB8:0::1]:5060", "[2001:db8::1]:5060"),
    ],
)
def test_hosts(host: str, written: str) -> None:
    assert headers.host(host) == written


@pytest.mark.parametrize(
    "host",
    [
        "",
        None,
        "a b",
        "a;x=1",
        "a>b",
        "a:0",
        "a:99999",
        "[::1",
        "::1%eth0",
        "[::g]",
        "a:b:c",
        "a\n",
        "x" * 300,
    ],
)
def test_hosts_that_are_none(host: object) -> None:
    with pytest.raises(ActionError):
        headers.host(host)


@pytest.mark.parametrize(
    ("caller", "written"),
    [
        (("alice", "sip.test", None), "<sip:alice@sip.test>"),
        (("alice", "sip.test", "  "), "<sip:alice@sip.test>"),
        ((None, "192.0.2.7", "Gate"), '"Gate" <sip:192.0.2.7>'),
        (("alice", "2001:db8::1", "A"), '"A" <sip:alice@[2001:db8::1]>'),
        (("alice", None, "A"), '"Anonymous" <sip:anonymous@anonymous.invalid>'),
        (("alice", "a b", "A"), '"Anonymous" <sip:anonymous@anonymous.invalid>'),
        (("x" * 999, "sip.test", "A"), '"Anonymous" <sip:anonymous@anonymous.invalid>'),
        (("alice", "sip.test", "a" * 999), f'"{"a" * 128}" <sip:alice@sip.test>'),
        (("alice", "sip.test", 'a"\\b'), '"a\\"\\\\b" <sip:alice@sip.test>'),
        (("alice", "sip.test", "a\r\nb\udc80"), '"a b" <sip:alice@sip.test>'),
    ],
)
def test_caller(caller: tuple[object, object, object], written: str) -> None:
    assert headers.caller(*caller) == written


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("127.0.0.21:22142;transport=udp", "sip:127.0.0.21:22142;transport=udp"),
        ("[::1]:5070;transport=tls", "sip:[::1]:5070;transport=tls"),
        ("[2001:DB8::0:1]:5070;transport=wss", "sip:[2001:db8::1]:5070;transport=wss"),
    ],
)
def test_targets(text: str, uri: str) -> None:
    target = parse_target(text)
    assert target is not None
    assert target.uri == uri


@pytest.mark.parametrize(
    "text",
    [
        "",
        "127.0.0.1;transport=udp",
        "127.0.0.1:0;transport=udp",
        "127.0.0.1:65536;transport=udp",
        "::1:5;transport=udp",
        "[127.0.0.1]:5;transport=udp",
        "300.0.0.1:5;transport=udp",
        "host.test:5;transport=udp",
        "1.2.3.4:5;transport=x",
        "1.2.3.4:5",
        "1.2.3.4:5;transport=udp;x=1",
        "1.2.3.4:5;transport=udp\r\n",
        "1.2.3.4:\u0665;transport=udp",
        5,
        None,
    ],
)
def test_targets_that_are_none(text: object) -> None:
    assert parse_target(text) is None


# -- settings ------------------------------------------------------------------------------------------


def test_the_secret_never_shows(tmp_path: Path) -> None:
    caller = FakeCall(FakeCallSettings(secret="tr0ub4dor"))
    assert "tr0ub4dor" not in repr(caller.settings) + str(caller.settings.model_dump(mode="json"))
    file = tmp_path / "secret"
    for text in ("tr0ub4dor\r\nEvil: yes", "", "tr0ub4dör", " tr0ub4dor"):
        with pytest.raises(ValidationError) as wrong:
            FakeCallSettings(secret=text)
        assert "tr0ub4d" not in str(wrong.value)
        file.write_text(text)
        with pytest.raises(ConfigError) as unreadable:
            FakeCall(FakeCallSettings(secret_file=file))
        assert "tr0ub4d" not in str(unreadable.value)
    for table in (
        {"secret": "tr0ub4dor\n"},
        {"secret": "tr0ub4dor", "secret_file": "x"},
        {"secret_file": "/none"},
    ):
        with pytest.raises(ConfigError) as built:
            build_actions({"fake_call": FakeCall}, {"fake_call": table})
        assert "tr0ub4d" not in str(built.value)
        assert "\n" not in str(built.value)


def test_the_secret_comes_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("tr0ub4dor\n")

    async def run() -> Peer:
        async with Peer(Phone()) as peer:
            caller = FakeCall(FakeCallSettings(proxy=peer.uri, secret_file=file))
            await caller.act(late_finding(), Attempt("a", "r", 0))
            await caller.stop()
        return peer

    assert asyncio.run(run()).requests[0].get("X-Late-Secret") == "tr0ub4dor"


@pytest.mark.parametrize(
    "wrong",
    [
        {"proxy": "127.0.0.1:5060"},
        {"proxy": "sip:h:0"},
        {"proxy": "sip:h;transport=tls"},
        {"proxy": "sip:h\r\nEvil: yes"},
        {"local": "host"},
        {"local": "127.0.0.1:99999"},
        {"secret_header": "X: y\r\nEvil"},
        {"target_header": ""},
        {"user_agent": "a\r\nEvil: yes"},
        {"reasons": {"answered": "SIP;cause=200\r\nEvil: yes"}},
        {"ring_wait": "soon"},
        {"proxi": "sip:h"},
    ],
)
def test_wrong_settings_are_refused_in_one_line(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        build_actions({"fake_call": FakeCall}, {"fake_call": wrong})
    assert str(refused.value).startswith("[actions.fake_call] ")
    assert "\n" not in str(refused.value)


def test_unknown_actions_and_keys_are_named() -> None:
    with pytest.raises(ConfigError, match=r"\[actions\.fake_cal\]: no such action; there are fake_call"):
        build_actions({"fake_call": FakeCall}, {"fake_cal": {}})
    with pytest.raises(ConfigError, match="unknown key ringwait; did you mean ring_wait"):
        build_actions({"fake_call": FakeCall}, {"fake_call": {"ringwait": "1s"}})
