"""What quality costs, and how right it is: `python benchmarks/quality.py [--rows 1000000] [--errors] [--path DIR]`.

Makes a CDR file of `--rows` answered calls with media strings of both legs, imports it, rates every leg, and asks
for the reports; prints time and memory of each. `--errors` prints instead how far the recorded sessions are from
what the relay between the phones and Asterisk counted.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.machine import describe
from pipeline.ingest.cdr.settings import CdrSourceSettings
from pipeline.ingest.cdr.source import CdrSource
from pipeline.quality.refresh import Refresher
from pipeline.store import quality_queries as queries
from pipeline.store.cdrs import CdrStore
from pipeline.store.lake import Reader
from pipeline.store.settings import WriterSettings
from pipeline.store.writer import Writer

START = datetime(2026, 3, 1, tzinfo=UTC)
CALLS_PER_S = 40
TRUNKS = [f"PJSIP/trunk-{n}" for n in range(40)]
LEG = ("all", "all_jitter", "all_rtt")
COLUMNS = [
    *("start", "answer", "end", "src", "dst", "channel", "dstchannel", "lastapp", "duration", "billsec"),
    *("disposition", "accountcode", "uniqueid", "linkedid", "sequence", "sip_callid", "sip_callid_b"),
    *(f"rtcp_{leg}_{name}" for leg in ("a", "b") for name in LEG),
]


# -- cost ------------------------------------------------------------------------------------------------


def media(draw: random.Random, seconds: int) -> list[str]:
    """The strings of one leg, as Asterisk 22 writes them."""
    packets = seconds * 50
    lost = int(packets * draw.expovariate(200))
    jitter, rtt = draw.expovariate(300), draw.expovariate(20)
    mean = f"avgrxjitter={jitter:010.6f};stdevrxjitter={0.0001:010.6f}"
    sent = f"mintxjitter={0:010.6f};maxtxjitter={jitter:010.6f};avgtxjitter={jitter:010.6f}"
    return [
        f"ssrc={draw.getrandbits(32)};themssrc={draw.getrandbits(32)};lp={lost};rxjitter={jitter:f};"
        f"rxcount={packets - lost};txjitter={jitter:f};txcount={packets};rlp={lost};rtt={rtt:f};"
        f"rxmes={80:f};txmes={80:f}",
        f"minrxjitter={0:010.6f};maxrxjitter={jitter * 3:010.6f};{mean};{sent};stdevtxjitter={0.0001:010.6f};",
        f"     minrtt={rtt:010.6f};     maxrtt={rtt:010.6f};     avgrtt={rtt:010.6f};     stdevrtt={0:010.6f};",
    ]


def write_cdrs(file: Path, rows: int) -> None:
    """A table exported with header, oldest first."""
    draw = random.Random(1)
    with file.open("w", encoding="ascii") as out:
        out.write(",".join(COLUMNS) + "\n")
        for n in range(rows):
            start = START + timedelta(seconds=n // CALLS_PER_S)
            seconds = 5 + int(draw.expovariate(1 / 120))
            times = [f"{start + timedelta(seconds=s):%Y-%m-%d %H:%M:%S}" for s in (0, 3, 3 + seconds)]
            uniqueid = f"{int(start.timestamp())}.{2 * n}"
            channels = [f"PJSIP/phone-{2 * n:08x}", f"{draw.choice(TRUNKS)}-{2 * n + 1:08x}"]
            cells = [
                *times,
                f"{100 + n % 500}",
                f"{n % 99_991}",
                *channels,
                "Dial",
                f"{seconds + 3}",
                f"{seconds}",
            ]
            cells += ["ANSWERED", f"account{n % 100}", uniqueid, uniqueid, f"{n}"]
            cells += [f"{draw.getrandbits(96):024x}@phone.test", f"{draw.getrandbits(96):024x}"]
            cells += [text for _ in LEG[:2] for text in media(draw, seconds)]
            out.write('"' + '","'.join(cells) + '"\n')


@contextmanager
def timed(what: str, rows: int | None = None) -> Iterator[None]:
    """Print how long it took, and the most memory that was used so far."""
    began, cpu = time.monotonic(), time.process_time()
    yield
    took_s, cpu_s = time.monotonic() - began, time.process_time() - cpu
    each = f", {cpu_s / rows * 1e6:.0f} us of CPU a call" if rows else ""
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    print(f"{what:45} {took_s:8.1f} s  (CPU {cpu_s:.1f} s{each}), peak memory {peak_mb} MB", flush=True)


def cost(folder: Path, rows: int) -> None:
    """Import, rate and report."""
    file = folder / "cdr.csv"
    write_cdrs(file, rows)
    print(f"{rows} calls, one CDR row each, {file.stat().st_size // 2**20} MB of CSV")
    settings = CdrSourceSettings.model_validate({"source": str(file), "preset": "cdr_adaptive"})
    with Writer(folder / "store", "bench", WriterSettings(flush_interval="0s")) as writer:
        with timed("import", rows):
            CdrSource(settings, CdrStore(writer), once=True).poll()
        with timed("rate all legs", rows):
            done = Refresher(writer).run()
        assert done.calls == rows
        with timed("a pass over nothing new"):
            Refresher(writer).run()
    size = sum(each.stat().st_size for each in (folder / "store" / "files").rglob("*.parquet"))
    print(f"{done.legs} records of legs; the store has {size // 2**20} MB, {size // rows} bytes a call")
    with Reader(folder / "store") as reader:
        reports: dict[str, Callable[[], object]] = {
            f"figures by {by}": lambda by=by: queries.figures(reader, by=by)
            for by in ("all", "trunk", "account")
        }
        reports["figures by trunk, the last hour"] = lambda: queries.figures(
            reader, by="trunk", since=START + timedelta(seconds=rows / CALLS_PER_S - 3600)
        )
        reports["the worst 20"] = lambda: queries.worst(reader)
        reports["joined and not"] = lambda: queries.join_counts(reader)
        one = reader.query("SELECT call_id FROM cdr LIMIT 1").to_pylist()[0]["call_id"]
        reports["one call's legs"] = lambda: queries.call_legs(reader, one)
        for name, ask in reports.items():
            with timed(name):
                ask()


# -- errors ----------------------------------------------------------------------------------------------


def errors() -> None:
    """A table: for each session, source and direction how far the views are from the relay."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from asterisk_recordings import SESSIONS  # noqa: PLC0415  the cost is measured without them
    from quality_store import cdr_rows, new_store  # noqa: PLC0415
    from test_quality_truth import Session, lost_and_due  # noqa: PLC0415

    print("| session | source | direction | loss, points of % | jitter, ms | round trip, ms |")
    print("|---|---|---|---|---|---|")
    for name in SESSIONS:
        with tempfile.TemporaryDirectory() as folder, new_store(Path(folder) / "store") as store:
            store.hear(name)
            store.refresher.run()
            store.add("cdr", cdr_rows(name))
            store.refresher.run()
            session = Session(name, store)
            for source in ("cdr", "hep rtcp"):
                for direction, way in (("incoming", "up"), ("outgoing", "down")):
                    loss, jitter_ms, rtt_ms = [], [], []
                    for call, leg, told, row in session.of(source):
                        if told != direction or call.number in {27, 28, 81}:  # altered on purpose
                            continue
                        truth, flow = lost_and_due(call, leg, told), call.flow(leg, way)
                        if truth is not None and row["loss_pct"] is not None:
                            loss.append(abs(row["loss_pct"] - 100 * truth[0] / truth[1]))
                        if flow.jitter_mean_ms is not None and row["jitter_ms"] is not None:
                            jitter_ms.append(abs(row["jitter_ms"] - flow.jitter_mean_ms))
                        if row["rtt_ms"] is not None:
                            delay = sum(call.flow(leg, w).profile.get("delay", 0) for w in ("up", "down"))
                            rtt_ms.append(abs(row["rtt_ms"] - delay))
                    cells = " | ".join(spread(found) for found in (loss, jitter_ms, rtt_ms))
                    print(f"| {name} | {source} | {direction} | {cells} |")


def spread(found: list[float]) -> str:
    """Median, p95 and the greatest error, and of how many."""
    ordered = sorted(found)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    return f"{statistics.median(ordered):.2f} / {p95:.2f} / {ordered[-1]:.2f} (n={len(ordered)})"


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000, help="calls")
    parser.add_argument("--path", type=Path, help="folder on the disk to be measured")
    parser.add_argument("--errors", action="store_true", help="how right it is, instead of what it costs")
    given = parser.parse_args()
    if given.errors:
        errors()
        return
    print(describe())
    with tempfile.TemporaryDirectory(dir=given.path) as folder:
        cost(Path(folder), given.rows)


if __name__ == "__main__":
    main()
