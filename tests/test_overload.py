"""A real tap that is offered ten times what it can sustain: it sheds in order, keeps its books, finds what it must."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from itertools import cycle, islice, pairwise
from pathlib import Path

from recordings import PATHS
from tap import RunningTap, Status, hep3, sip

from pipeline.api import health
from pipeline.api.opened import Store
from pipeline.ingest.recordings import read_recording
from pipeline.protocols.hep import decode, encode

# A detector as anybody may write one, and slow: with it no machine sustains more than 500 messages a second.
SLOW = '''
import time
from pydantic import BaseModel

class SlowSettings(BaseModel):
    """None."""

class Slow:
    """Takes two milliseconds for each SIP message."""

    name = "slow"
    Settings = SlowSettings
    interest = frozenset({"INVITE", "CANCEL", "REGISTER", "ACK", "BYE", "OPTIONS", "NOTIFY"})
    memory_us = 0
    copies = True

    def __init__(self, settings): ...
    def attach(self, state): ...
    def on_event(self, event):
        time.sleep(0.002)
        return ()
    def on_timer(self, timer):
        return ()
'''
SUSTAINED = 500  # a second, at the very most
QUEUE = 1000
TIMES = 10
SHARES = {"options": 0.70, "presence": 0.15, "rtcp": 0.05, "dialog": 0.10}  # of `noise`
# Labelled scenes: who is owed a finding in b and c, and why nobody is in the others, their labels say.
SCENES = ("b", "c", "d", "e3", "f", "m")
USERS = ("kim", "lea", "max", "nia")
ONE_IN = 40  # messages of the overload belongs to a scene
STATUSES = 4  # looked at while the overload lasts


def slow_tap(folder: Path, listen: str, *options: str) -> RunningTap:
    plugins = folder / "plugins"
    plugins.mkdir()
    (plugins / "slow.py").write_text(SLOW)
    return RunningTap(
        *(folder, "--set", f"engine.queue_datagrams={QUEUE}", *options),
        listen=[listen],
        variables={"HEPDUCK_PLUGINS_DIR": str(plugins)},
    )


def noise() -> list[bytes]:
    """A hundred datagrams of what a proxy says beside calls, in their usual mixture, shuffled by hand."""

    def sip_of(start: str, cseq: str, number: int) -> bytes:
        return hep3(sip(start, f"noise-{number}@sip.test", cseq=cseq), agent_id=2002)

    kinds = {
        "options": (34, lambda n: sip_of("OPTIONS sip:bob@sip.test SIP/2.0", "1 OPTIONS", n)),
        "its reply": (34, lambda n: sip_of("SIP/2.0 200 OK", "1 OPTIONS", n)),
        "keep-alive": (2, lambda _: hep3(b"\r\n\r\n", agent_id=2002)),
        "presence": (15, lambda n: sip_of("NOTIFY sip:bob@sip.test SIP/2.0", "1 NOTIFY", n)),
        "rtcp": (5, lambda _: hep3(b'{"ssrc":1,"type":200}', protocol_type=5, agent_id=2002)),
        "dialog": (10, lambda n: sip_of("BYE sip:bob@sip.test SIP/2.0", "1 BYE", n)),
    }
    made = [make(number) for count, make in kinds.values() for number in range(count)]
    return [made[(index * 37) % len(made)] for index in range(len(made))]


def scene(name: str, user: str) -> tuple[list[tuple[int, bytes]], set[str]]:
    """A labelled recording for a callee of its own: (time, datagram), and the Call-IDs that are owed a finding."""

    def own(data: bytes) -> bytes:
        data = data.replace(b"bob", user.encode())
        return re.sub(rb"(call|reg)-[0-9a-f]{6}", rb"\1-" + f"{name:>03}{user}".encode(), data)

    packets = [decode(record.data)[0] for record in read_recording(PATHS[name])]
    begin_us = min(packet.ts_us or 0 for packet in packets)
    now_us = time.time_ns() // 1000
    made = [
        packet._replace(
            payload=own(packet.payload), ts_us=now_us - 60_000_000 + (packet.ts_us or 0) - begin_us
        )
        for packet in packets
    ]
    label = json.loads(PATHS[name].with_suffix(".json").read_text())
    owed = {own(entry["call_id"].encode()).decode() for entry in label["expected"]}
    return [(packet.ts_us or 0, encode(packet)) for packet in made], owed


def played() -> tuple[list[bytes], set[str]]:
    """All scenes at once, each for four callees, in the order of their times."""
    found = [scene(name, f"{user[:2]}{number}") for number, name in enumerate(SCENES) for user in USERS]
    messages = sorted((message for messages, _ in found for message in messages), key=lambda each: each[0])
    return [data for _, data in messages], set().union(*(owed for _, owed in found))


def test_ten_times_what_it_can_sustain(tmp_path: Path) -> None:
    calls, owed = played()
    assert len(owed) == 2 * len(USERS)
    mixture = cycle(noise())
    with slow_tap(tmp_path, "tcp:127.0.0.1:0") as tap:
        with tap.connected("tcp") as sock:
            seen: dict[int, Status] = {}
            waiting, sent, began_s = list(reversed(calls)), 0, time.monotonic()
            while waiting or len(seen) < STATUSES:
                due = int((time.monotonic() - began_s) * TIMES * SUSTAINED) - sent
                ours = min(len(waiting), (sent + due) // ONE_IN - sent // ONE_IN)
                now = [waiting.pop() for _ in range(ours)]
                sock.sendall(b"".join([*now, *islice(mixture, due - ours)]))
                sent += due
                status = tap.status()  # adds up, or it fails
                if status and status["shed"]:
                    seen[status["updated_us"]] = status
                time.sleep(0.01)
        last = tap.settled(sent)
        (listener,) = last["listeners"].values()
        assert last["received"] == listener["received"] == sent
        assert last["queued"] == last["kernel_dropped"] == 0

        # In order: nothing of calls, most of OPTIONS.
        shed = last["shed_by_reason"]
        assert shed["queue_full"] == shed["store_queue_full"] == shed["store_gave_up"] == 0
        assert last["stored"] < sent / 3
        share = {kind: shed[f"shed_{kind}"] / (sent * pct) for kind, pct in SHARES.items()}
        assert all(share[first] > share[then] - 0.02 for first, then in pairwise(SHARES))
        assert share["options"] > 0.8 and share["options"] > share["dialog"] > 0

        # The store has what the books say.
        assert count(tap) == last["stored"]
        before = last

        # It is well again: all is taken that it can sustain.
        with tap.connected("tcp") as sock:
            sock.sendall(b"".join(islice(mixture, 50)))
            last = tap.settled(sent + 50)
        assert last["shed"] == before["shed"] and last["stored"] == before["stored"] + 50
        assert tap.stop() == 0
    found = [row["call_id"] for row in tap.rows("SELECT call_id FROM finding WHERE kind = 'late_register'")]
    assert sorted(found) == sorted(owed)
    (begun,) = re.findall(r"overload: messages are shed", tap.log())
    (over,) = re.findall(r"overload: over", tap.log())
    assert begun and over


def count(tap: RunningTap) -> int:
    tables = ("sip", "rtcp", "log", "weird")
    return sum(tap.rows(f"SELECT count(*) AS rows FROM {table}")[0]["rows"] for table in tables)


def test_what_the_kernel_drops_is_a_term_of_the_sum(tmp_path: Path) -> None:
    """A tap that stands still for a moment while much comes over UDP: first its socket overflows, then its queue."""
    with slow_tap(tmp_path, "udp:127.0.0.1:0", "--set", "tap.receive_buffer_bytes=1500000") as tap:
        sent = 8 * QUEUE
        with tap.connected() as sock:
            os.kill(tap.pid, signal.SIGSTOP)
            for data in islice(cycle(noise()), sent):
                sock.send(data)
            os.kill(tap.pid, signal.SIGCONT)
            last = tap.settled(sent)
        assert last["kernel_dropped"] > 0 < last["shed"]
        (listener,) = last["listeners"].values()
        assert last["received"] == sent == listener["received"] + last["kernel_dropped"]
        assert last["stored"] + last["shed"] == listener["received"]
        assert count(tap) == last["stored"]
        assert last["shed_by_reason"]["queue_full"] == 0
        assert tap.stop() == 0
    with Store(tap.store) as store:  # minute by minute, as the page Health draws it
        minutes = health.intake(since="1h", store=store)
    terms = ["received", "stored", "rejected", "shed", "kernel_dropped"]
    assert minutes[terms].sum().to_dict() == {term: last[term] for term in terms}
