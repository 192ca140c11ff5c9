"""The Prometheus endpoint of a running tap, scraped as Prometheus does."""

from __future__ import annotations

import re
import socket
import urllib.request
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families
from recordings import DATA
from tap import RunningTap, eventually, hep3, hepduck, sip
from world.ports import free_port

MIX = DATA / "kamailio" / "mix.hep"

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]

# Name -> labels, as dashboards and alerts use them; a counter's samples end in _total.
NAMES = {
    "hepduck_received_total": set(),
    "hepduck_stored_total": set(),
    "hepduck_rejected_total": {"reason"},
    "hepduck_shed_total": set(),
    "hepduck_kernel_dropped_total": set(),
    "hepduck_dropped_total": {"reason"},
    "hepduck_weird_total": {"kind"},
    "hepduck_findings_total": {"kind"},
    "hepduck_sip_messages_total": {"method", "status_class"},
    "hepduck_actions_total": {"action", "outcome", "dry_run"},
    "hepduck_hep_packets_total": {"capture_id", "proto"},
    "hepduck_job_runs_total": {"name"},
    "hepduck_job_failures_total": {"name"},
    "hepduck_job_failing": {"name"},
    "hepduck_job_interval_seconds": {"name"},
    "hepduck_job_duration_seconds": {"name"},
    "hepduck_job_last_success_timestamp_seconds": {"name"},
    "hepduck_start_time_seconds": set(),
    "hepduck_queue_depth": set(),
    "hepduck_ingest_lag_seconds": set(),
    "hepduck_store_flush_seconds": set(),
    "hepduck_store_failing_seconds": set(),
    "hepduck_spool_rows": set(),
    "hepduck_spool_bytes": set(),
    "hepduck_spool_limit_bytes": set(),
}
JOBS = {"quality", "legs", "merge", "counts by minute", "quality by hour", "prune", "store check", "ledger"}


def scrape(address: str) -> Samples:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
        text = answer.read().decode()
    families = list(text_string_to_metric_families(text))
    assert all(family.documentation for family in families)
    assert {family.type for family in families} <= {"counter", "gauge"}
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in families
        for sample in family.samples
    }


def total(samples: Samples, name: str) -> float:
    return sum(value for (sampled, _), value in samples.items() if sampled == name)


def unexplained(samples: Samples) -> float:
    """What came in and is nowhere."""
    fates = [f"hepduck_{fate}_total" for fate in ("stored", "rejected", "shed", "kernel_dropped")]
    there = sum(total(samples, name) for name in [*fates, "hepduck_queue_depth"])
    return total(samples, "hepduck_received_total") - there


def test_what_a_tap_exposes(tmp_path: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    with RunningTap(tmp_path, variables={"HEPDUCK_METRICS__LISTEN": listen}) as tap:
        tap.send(MIX)
        with tap.connected() as sock:
            for number in range(200):  # a sender must not be able to make labels
                sock.send(hep3(sip(f"X{number} sip:bob@sip.test SIP/2.0", f"{number}@odd")))
                sock.send(b"\x01")

        def settled() -> Samples | None:
            samples = scrape(listen)
            assert unexplained(samples) == 0  # at every moment, also under load
            stored, acted = (total(samples, f"hepduck_{what}_total") for what in ("stored", "actions"))
            ran = total(samples, "hepduck_job_last_success_timestamp_seconds")
            return samples if ran and (stored, acted) == (10406 + 400, 2 * 30) else None

        samples = eventually(settled, "everything stored")
        assert {name for name, _ in samples} == set(NAMES) - {"hepduck_rejected_total"}  # none was
        for (name, labels), value in samples.items():
            assert value >= 0
            assert {label for label, _ in labels} == NAMES[name], name
            for label, text in labels:
                if label == "name":
                    assert text in JOBS
                    continue
                if label == "capture_id":
                    assert re.fullmatch(r"\d{1,10}|none|others", text), text
                    continue
                assert re.fullmatch(r"[A-Z]+|[a-z_]+|[1-6]xx", text), f"{name} has a label {text!r}"
        assert samples["hepduck_weird_total", (("kind", "hep_short"),)] == 200
        assert samples["hepduck_findings_total", (("kind", "late_register"),)] == 30  # the label's
        assert total(samples, "hepduck_sip_messages_total") == 10406 + 200
        assert total(samples, "hepduck_hep_packets_total") == 10406 + 200
        assert (
            samples["hepduck_sip_messages_total", (("method", "other"), ("status_class", "request"))] == 200
        )
        dry = (("action", "fake_call"), ("dry_run", "true"), ("outcome", "dry_run"))
        assert samples["hepduck_actions_total", dry] == 30
        assert {text for _, labels in samples for label, text in labels if label == "name"} == JOBS
        assert len(samples) < 100
        assert tap.stop() == 0


def test_a_port_in_use(tmp_path: Path) -> None:
    """One line, exit code 2; nothing was received by then."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        listen = f"127.0.0.1:{taken.getsockname()[1]}"
        done = hepduck(
            *("run", "--no-config", "--store", "store", "-L", "udp:127.0.0.1:0"),
            *("--set", f"metrics.listen={listen}"),
            cwd=tmp_path,
        )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"hepduck: metrics.listen = '{listen}': ")


def test_nothing_listens_unless_asked(tmp_path: Path) -> None:
    done = hepduck("check", "--dump", "--no-config", cwd=tmp_path)
    assert "metrics.listen = null    # default" in done.stdout
