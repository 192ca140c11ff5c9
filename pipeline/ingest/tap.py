"""The network tap: HEP over UDP, TCP and TLS, as it arrives, with nothing added but time and sender."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from pipeline.certificates import server_context, why_not
from pipeline.durations import Duration
from pipeline.errors import ConfigError
from pipeline.ingest import Datagram
from pipeline.ingest.agents import AgentCheck
from pipeline.ingest.counters import ListenerCounters
from pipeline.ingest.endpoints import Endpoint
from pipeline.ingest.stream import StreamServer
from pipeline.ingest.udp import UdpListener


class TapSettings(BaseModel):
    """Where the tap listens, and to whom. See `pipeline.ingest.agents` for what is accepted and trusted."""

    model_config = ConfigDict(extra="forbid")

    listen: list[str] = Field(
        default=["udp:127.0.0.1:9060", "tcp:127.0.0.1:9060"],
        description='"udp:HOST:PORT", "tcp:...", "tls:..."; IPv6 in brackets; port 0: any free one',
    )
    receive_buffer_bytes: int = Field(32 << 20, ge=4096, description="asked for each UDP socket")
    auth_key: SecretStr | None = Field(None, description="HEP3 packets must carry it; others are rejected")
    allowed_networks: list[str] = Field(default=[], description='"10.0.0.0/8"; senders outside are rejected')
    tls_certificate: Path | None = Field(None, description="PEM file with the certificate chain")
    tls_private_key: Path | None = Field(None, description="PEM file; empty: it is in tls_certificate")
    tls_client_ca: Path | None = Field(None, description="PEM file; if set, clients must show a certificate")
    max_connections: int = Field(256, ge=1, description="TCP and TLS connections at a time")
    idle_timeout: Duration = Field("1h", validate_default=True, description="silent connections are closed")

    @field_validator("listen")
    @classmethod
    def _are_endpoints(cls, specs: list[str]) -> list[str]:
        for spec in specs:
            try:
                Endpoint.parse(spec)
            except ConfigError as error:
                raise ValueError(str(error)) from error
        return specs

    @field_validator("allowed_networks")
    @classmethod
    def _are_networks(cls, networks: list[str]) -> list[str]:
        return [str(ip_network(network)) for network in networks]

    @field_validator("auth_key")
    @classmethod
    def _is_a_key(cls, key: SecretStr | None) -> SecretStr | None:
        if key is not None and not key.get_secret_value():
            raise ValueError("an empty key admits everybody who sends none; leave auth_key out instead")
        return key

    def agent_check(self) -> AgentCheck:
        """The check that these settings describe; the decode stage needs it for the key."""
        key = self.auth_key.get_secret_value().encode() if self.auth_key else None
        return AgentCheck(key, [ip_network(network) for network in self.allowed_networks])


class Tap:
    """Binds all listeners, or raises ConfigError and leaves none open; receives from `start` to `stop`.

    `deliver` is called from the receive threads with the datagrams of one read. It must be quick, safe to be
    called from several threads, and never raise: `BatchQueue.put_batch` is meant.
    """

    def __init__(self, settings: TapSettings, deliver: Callable[[list[Datagram]], object]) -> None:
        endpoints = [Endpoint.parse(spec) for spec in settings.listen]
        if not endpoints:
            raise ConfigError("tap.listen is empty: the tap has nowhere to listen")
        check = settings.agent_check()
        tls = _tls_context(settings) if any(endpoint.via == "tls" for endpoint in endpoints) else None
        self._udp: list[UdpListener] = []
        self._streams = StreamServer(
            deliver,
            check,
            max_connections=settings.max_connections,
            idle_timeout_s=settings.idle_timeout.total_seconds(),
        )
        self.addresses: list[Endpoint] = []  # as really bound, in the order of `listen`
        try:
            for endpoint in endpoints:
                if endpoint.via == "udp":
                    listener = UdpListener(endpoint, deliver, check, settings.receive_buffer_bytes)
                    self._udp.append(listener)
                    self.addresses.append(listener.endpoint)
                else:
                    context = tls if endpoint.via == "tls" else None
                    self.addresses.append(self._streams.listen(endpoint, context))
        except ConfigError:
            self.stop()
            raise

    def start(self) -> None:
        """Receive from now on. Datagrams that came since the binding are not lost."""
        for listener in self._udp:
            listener.start()
        self._streams.start()

    def stop(self) -> None:
        """Deliver what has arrived, close the sockets, wait for the threads. Needs no `start` before it."""
        for listener in self._udp:
            listener.stop()
        self._streams.stop()

    def counters(self) -> dict[str, ListenerCounters]:
        """What each listener has seen so far, by its address (`"udp:127.0.0.1:9060"`)."""
        udp = {str(listener.endpoint): listener.counters() for listener in self._udp}
        return udp | {str(endpoint): counters for endpoint, counters in self._streams.counters().items()}

    def receive_buffers(self) -> dict[str, tuple[int, int]]:
        """Bytes asked for and granted, for each UDP listener."""
        return {
            str(listener.endpoint): (listener.receive_buffer_asked_bytes, listener.receive_buffer_bytes)
            for listener in self._udp
        }

    def warnings(self) -> list[str]:
        """What an operator should mend: receive buffers smaller than asked for, with the sysctl line."""
        return [warning for listener in self._udp if (warning := listener.warning())]

    def __enter__(self) -> Tap:
        self.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()


def _tls_context(settings: TapSettings) -> ssl.SSLContext:
    certificate = settings.tls_certificate
    if certificate is None:
        raise ConfigError("tap.listen names tls:, but tap.tls_certificate is not set")
    context = server_context("tap", certificate, settings.tls_private_key, "tls_private_key")
    if settings.tls_client_ca is not None:
        try:
            context.load_verify_locations(settings.tls_client_ca)
        except OSError as error:
            raise ConfigError(f"tap.tls_client_ca {settings.tls_client_ca}: {why_not(error)}") from error
        context.verify_mode = ssl.CERT_REQUIRED
    return context
