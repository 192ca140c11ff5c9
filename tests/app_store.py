"""One store that all tests of the app read: ghost calls, calls with measured quality, and what could not be decoded.

Made once per test process (its fixtures stand in conftest.py): a real tap hears recordings of a real Kamailio and
a real Asterisk, whose CDRs are then imported. Kamailio's calls are moved to now (the rules leave old findings
alone), Asterisk's keep their times.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from asterisk_recordings import unpacked
from cdr_recordings import AT_ONCE
from cdr_recordings import path as cdr_path
from recordings import PATHS
from tap import RunningTap, hep3, sip

from pipeline.ingest import Datagram
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.source import CdrSource
from pipeline.ingest.recordings import RecordingWriter, read_recording
from pipeline.ingest.restamp import restamp
from pipeline.protocols.hep import decode
from pipeline.quality.refresh import Refresher
from pipeline.store.cdrs import CdrStore
from pipeline.store.writer import Writer

MAIN = Path(__file__).parents[1] / "app" / "main.py"
GHOSTS = ("b", "c")  # a late phone each, and what the rules made of it
SESSION = "r22-custom-legacy"  # the smallest of Asterisk's
HOSTILE_CALL = "<script>alert(1)</script>@sip.test"
LONG_HEADER_BYTES = 60_000
NUMBERS_CALL = "numbers@sip.test"  # from 15551234567 to 004930123456


@dataclass(frozen=True)
class AppStore:
    """Where the store lies, and what is known to be in it."""

    path: Path
    tap: RunningTap


@pytest.fixture(scope="session", name="app_store")
def filled_app_store(tmp_path_factory: pytest.TempPathFactory) -> AppStore:
    """The store, its tap stopped."""
    folder = tmp_path_factory.mktemp("app")
    heard = folder / "heard.hep"
    with RecordingWriter(heard) as writer:
        for name in GHOSTS:
            writer.write(just_ended(PATHS[name]))
        writer.write(list(asterisk_datagrams(SESSION)))
    tap = RunningTap(folder)
    with tap:
        tap.send(heard)
        with tap.connected("udp") as sock:
            for message in (*hostile_messages(), numbers_message()):
                sock.send(hep3(message))
            sock.send(b"\x01 no HEP at all")
        tap.wait_for(
            lambda status: status["queued"] == 0 and len(status["actions"]) >= 2, "findings and actions"
        )
        assert tap.stop() == 0
    with Writer(tap.store, "importer", AT_ONCE) as store:
        cdrs = {"source": str(cdr_path(SESSION, "cdr_full.csv")), "name": SESSION}
        CdrSource(CdrSourceSettings.model_validate(cdrs), CdrStore(store), once=True).poll()
        Refresher(store).run()
    return AppStore(tap.store, tap)


def just_ended(recording: Path) -> list[Datagram]:
    """A recording moved so that it ended a second ago."""
    heard = list(read_recording(recording))
    length_us = heard[-1].arrival_us - heard[0].arrival_us
    return list(restamp(heard, time.time_ns() // 1000 - length_us - 1_000_000))


def asterisk_datagrams(session: str) -> Iterator[Datagram]:
    """What Asterisk's `res_hep` sent."""
    data, at = unpacked(session, "hep.bin"), 0
    while at < len(data):
        (size,) = struct.unpack_from("!I", data, at)
        payload = data[at + 4 : at + 4 + size]
        at += 4 + size
        (packet,) = decode(payload)
        yield Datagram(packet.ts_us or 0, "127.0.0.1", 9060, "udp", True, payload)


def hostile_messages() -> Iterator[bytes]:
    """A call whose every part tries something: mark-up, control characters, a formula, length, broken UTF-8."""
    start = "INVITE sip:=HYPERLINK(1)@sip.test SIP/2.0"
    yield sip(
        start,
        HOSTILE_CALL,
        "Subject: <img src=x onerror=alert(1)> **bold** [link](javascript:alert(1)) $x$ :red[y]",
        "User-Agent: =cmd|' /C calc'!A0\x1b[31m\u202e",
        f"X-Long: {'x' * LONG_HEADER_BYTES}",
    ).replace(b"alice", b"al\xff\xfeice")
    yield sip("SIP/2.0 486 <b>Busy</b>\x1b[2J", HOSTILE_CALL, cseq="1 INVITE", to_tag="b1")


def numbers_message() -> bytes:
    """An INVITE from a telephone number to another."""
    message = sip("INVITE sip:004930123456@sip.test SIP/2.0", NUMBERS_CALL)
    return message.replace(b"<sip:alice@", b'"15551234567" <sip:15551234567@').replace(
        b"bob", b"004930123456"
    )


@contextmanager
def reading(store: Path, **overrides: object) -> Iterator[None]:
    """The app of this process reads `store`; `overrides` are settings of `[app]`."""
    import streamlit as st  # noqa: PLC0415  half a second for tests that need no app
    from streamlit.components.v2 import manifest_scanner  # noqa: PLC0415

    from app.config import configure  # noqa: PLC0415
    from pipeline.settings import load  # noqa: PLC0415

    chosen = {"store.path": str(store), **{f"app.{name}": value for name, value in overrides.items()}}
    configure(load(overrides=chosen, no_file=True)[0])
    st.cache_data.clear()  # answers to a page of this module that is still open
    try:
        # Each run of an AppTest looks through all installed packages for components: six times as slow.
        with patch.object(manifest_scanner, "scan_component_manifests", list):
            yield
    finally:
        configure(None)
        st.cache_data.clear()
        st.cache_resource.clear()


@pytest.fixture(name="open_app")
def app_on_the_store(app_store: AppStore) -> Iterator[type[App]]:
    """`App`, reading `app_store`."""
    with reading(app_store.path):
        yield App


class App:
    """The app as AppTest runs it, `range=all` and in the browser's zone unless the query says otherwise."""

    def __init__(
        self,
        page: str = "",
        /,
        *,
        browser: str = "UTC",
        user: dict[str, Any] | None = None,
        **query: str | list[str],
    ) -> None:
        from streamlit.testing.v1 import AppTest  # noqa: PLC0415  as above

        self.test = AppTest.from_file(MAIN, default_timeout=20)
        self.test.context = {"timezone": browser}
        if user is not None:
            self.test.user = user
        self.test.query_params.update({"range": "all", **query})
        if page and page != "calls":
            self.test.switch_page(
                f"views/{page}.py"
            )  # pages have the names of their files, so no run is needed first
        self.run()

    @property
    def ids(self) -> list[str]:
        """Call-IDs in the table of calls, from the top."""
        return list(self.test.dataframe(key="calls_table").value["call_id"])

    def said(self) -> str:
        """All that the page says as Markdown."""
        return "\n".join(element.value for element in self.test.markdown)

    def html(self) -> str:
        """All that the page says as HTML."""
        return "\n".join(element.proto.body for element in self.test.get("html"))

    def run(self) -> App:
        """Run the script; no page may raise."""
        self.test.run()
        assert not self.test.exception, self.test.exception[0].value
        return self
