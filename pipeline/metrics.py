"""Prometheus metrics: the status of the running tap, under the names that dashboards rely on. Labels never
hold a number, a Call-ID or an address."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from threading import Thread
from typing import TYPE_CHECKING, Any
from wsgiref.simple_server import WSGIServer

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from pipeline.errors import ConfigError

if TYPE_CHECKING:
    from pipeline.service import Service
    from pipeline.settings import MetricsSettings


class _Collector:
    """Reads the service's last status at each scrape: nothing is counted twice, and the numbers add up."""

    def __init__(self, service: Service) -> None:
        self._service = service

    def collect(self) -> Iterator[Metric]:
        status = self._service.latest
        yield CounterMetricFamily("hepduck_received", "Messages received", value=status.received)
        heard = CounterMetricFamily(
            "hepduck_hep_packets", "HEP packets that were let in", labels=["capture_id", "proto"]
        )
        for (capture_id, protocol), count in self._service.decoder.agent_packets().items():
            heard.add_metric([capture_id, protocol], count)
        yield heard
        yield CounterMetricFamily("hepduck_stored", "Messages committed to the store", value=status.stored)
        yield _by_label("hepduck_rejected", "Messages rejected", "reason", status.rejected_by_reason)
        yield CounterMetricFamily("hepduck_shed", "Messages that hepduck let go of", value=status.shed)
        yield CounterMetricFamily(
            "hepduck_kernel_dropped", "Messages that the kernel had no room for", value=status.kernel_dropped
        )
        yield _by_label("hepduck_dropped", "Both kinds of lost messages", "reason", status.dropped_by_reason)
        yield _by_label("hepduck_weird", "Undecodable messages", "kind", status.weird)
        yield _by_label("hepduck_findings", "Findings raised", "kind", status.findings)
        sip = CounterMetricFamily("hepduck_sip_messages", "SIP messages", labels=["method", "status_class"])
        for (method, status_class), count in dict(self._service.decoder.counts.messages).items():
            sip.add_metric([method, status_class], count)
        yield sip
        acted = CounterMetricFamily(
            "hepduck_actions", "Actions by outcome", labels=["action", "outcome", "dry_run"]
        )
        for row in status.actions:
            acted.add_metric([row["action"], row["outcome"], str(row["dry_run"]).lower()], row["count"])
        yield acted
        yield from _cdr_sources(status.cdr_sources)
        yield from _jobs(status.jobs)
        yield GaugeMetricFamily(
            "hepduck_start_time_seconds", "Unix time at which the tap started", value=status.started_us / 1e6
        )
        yield GaugeMetricFamily("hepduck_queue_depth", "Messages not yet stored", value=status.queued)
        yield GaugeMetricFamily(
            "hepduck_ingest_lag_seconds", "Arrival to detection", value=status.latency_us / 1e6
        )
        yield GaugeMetricFamily(
            "hepduck_store_flush_seconds", "Duration of the last flush", value=(status.flush_ms or 0) / 1000
        )
        since_us = status.store_failing_since_us
        yield GaugeMetricFamily(
            "hepduck_store_failing_seconds",
            "For how long nothing could be written to the store",
            value=(status.updated_us - since_us) / 1e6 if since_us else 0,
        )
        spool = status.spool or {"rows": 0, "bytes": 0, "allowed_bytes": 0}
        yield GaugeMetricFamily("hepduck_spool_rows", "Rows that wait on disk", value=spool["rows"])
        yield GaugeMetricFamily("hepduck_spool_bytes", "Bytes that wait on disk", value=spool["bytes"])
        yield GaugeMetricFamily(
            "hepduck_spool_limit_bytes", "Most bytes that may wait on disk", value=spool["allowed_bytes"]
        )


def serve(settings: MetricsSettings, service: Service) -> Callable[[], None]:
    """Serve `/metrics` where the settings say; returns what closes it. Raises ConfigError."""
    if not settings.listen:
        return lambda: None
    registry = CollectorRegistry()
    registry.register(_Collector(service))
    server, thread = _start(settings.listen, registry)

    def close() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return close


def try_listen(settings: MetricsSettings) -> str:
    """Bind where the settings say, and let go again; what was tried. Raises ConfigError."""
    if not settings.listen:
        return "off"
    server, thread = _start(settings.listen, CollectorRegistry())
    server.shutdown()
    server.server_close()
    thread.join()
    return settings.listen


def _start(listen: str, registry: CollectorRegistry) -> tuple[WSGIServer, Thread]:
    host, _, port = listen.rpartition(":")
    try:
        return start_http_server(int(port), host.strip("[]"), registry)
    except (OSError, ValueError) as error:
        raise ConfigError(f"metrics.listen = {listen!r}: {error}") from error


def _cdr_sources(sources: list[dict[str, Any]]) -> Iterator[Metric]:
    """How reading goes, by the name of the `[[cdr]]` entry; nothing where there is none."""
    if not sources:
        return
    for name, text, key in (
        ("hepduck_cdr_rows", "CDR rows stored, since the source was first read", "imported"),
        (
            "hepduck_cdr_refused",
            "CDR rows that could not be read, since the source was first read",
            "refused",
        ),
        ("hepduck_cdr_polls", "Polls of a CDR source", "polls"),
        ("hepduck_cdr_errors", "Polls of a CDR source that failed", "failures"),
    ):
        yield _by_label(name, text, "source", {source["source"]: source[key] for source in sources})
    failing = GaugeMetricFamily("hepduck_cdr_failing", "1 while the last poll failed", labels=["source"])
    age = GaugeMetricFamily(
        "hepduck_cdr_last_success_age_seconds", "Since a poll last succeeded", labels=["source"]
    )
    for source in sources:
        failing.add_metric([source["source"]], float(source["state"] == "failing"))
        if source["succeeded_at"]:
            succeeded = datetime.fromisoformat(source["succeeded_at"])
            age.add_metric([source["source"]], max((datetime.now(UTC) - succeeded).total_seconds(), 0.0))
    yield failing
    yield age


def _jobs(jobs: list[dict[str, Any]]) -> Iterator[Metric]:
    """What the tap does at intervals, by its name in `hepduck status`; `job` is a label of Prometheus' own."""
    for name, text, key in (
        ("hepduck_job_runs", "Runs of a job that have ended", "runs"),
        ("hepduck_job_failures", "Runs of a job that failed", "failures"),
    ):
        yield _by_label(name, text, "name", {job["job"]: job[key] for job in jobs})
    for name, text, value_of in (
        (
            "hepduck_job_failing",
            "1 while the last run that ended failed",
            lambda job: float(bool(job["error"])),
        ),
        ("hepduck_job_interval_seconds", "A job is run this often", lambda job: job["interval_s"]),
        (
            "hepduck_job_duration_seconds",
            "Duration of the last run",
            lambda job: _scaled(job["took_ms"], 1e3),
        ),
        (
            "hepduck_job_last_success_timestamp_seconds",
            "Unix time at which a run last succeeded; none before the first that does",
            lambda job: _scaled(job["succeeded_us"], 1e6),
        ),
    ):
        gauge = GaugeMetricFamily(name, text, labels=["name"])
        for job in jobs:
            if (value := value_of(job)) is not None:
                gauge.add_metric([job["job"]], value)
        yield gauge


def _scaled(value: float | None, per: float) -> float | None:
    return None if value is None else value / per


def _by_label(name: str, text: str, label: str, counts: dict[str, int]) -> CounterMetricFamily:
    family = CounterMetricFamily(name, text, labels=[label])
    for value, count in counts.items():
        family.add_metric([value], count)
    return family
