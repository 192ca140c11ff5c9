"""Sending recordings: byte for byte, over every transport, with one clear error when it cannot be."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from pipeline.errors import CaptureError, ConfigError
from pipeline.ingest import Datagram
from pipeline.ingest.recordings import RecordingWriter, read_recording
from pipeline.ingest.send import TlsClient, send_recording
from pipeline.ingest.tap import Tap, TapSettings

KAMAILIO = Path(__file__).parent / "data" / "kamailio"
PATHS = [KAMAILIO / "edge.hep", KAMAILIO / "b_hep_tcp.hep"]
DATA = [record.data for path in PATHS for record in read_recording(path)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate authority, a server for 127.0.0.1, and a client, as files."""
    folder = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    ca.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))
    ca.issue_cert("client.example").private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    return folder


@pytest.fixture
def received() -> list[Datagram]:
    return []


@pytest.fixture
def tap(folder: Path, received: list[Datagram]) -> Iterator[Tap]:
    """A tap for UDP, TCP and TLS, in this order; it delivers all that has come at the latest when stopped."""
    listen = ["udp:127.0.0.1:0", "tcp:127.0.0.1:0", "tls:127.0.0.1:0"]
    tap = Tap(TapSettings(listen=listen, tls_certificate=folder / "server.pem"), received.extend)
    with tap:
        yield tap


def bound_socket(kind: socket.SocketKind) -> socket.socket:
    bound = socket.socket(socket.AF_INET, kind)
    bound.bind(("127.0.0.1", 0))
    return bound


@pytest.mark.parametrize("listener", [0, 1, 2])
def test_every_byte_arrives_in_order(listener: int, tap: Tap, folder: Path, received: list[Datagram]) -> None:
    to = str(tap.addresses[listener])
    sent = send_recording(PATHS, to, speed="max", tls=TlsClient(ca=folder / "ca.pem"))
    tap.stop()
    assert [datagram.data for datagram in received] == DATA
    assert (sent.packets, sent.bytes) == (len(DATA), sum(map(len, DATA)))


def test_versions_1_and_2_go_over_udp(tap: Tap, received: list[Datagram]) -> None:
    paths = [KAMAILIO / "b_hep1.hep", KAMAILIO / "b_hep2.hep"]
    send_recording(paths, str(tap.addresses[0]), speed="max")
    tap.stop()
    assert [datagram.data for datagram in received] == [
        r.data for path in paths for r in read_recording(path)
    ]


@pytest.mark.parametrize("name", ["b_hep1.hep", "b_hep2.hep"])
def test_versions_1_and_2_cannot_go_over_tcp(name: str, tap: Tap) -> None:
    with pytest.raises(ConfigError, match=rf"{name} holds packets that are not HEP3.*over UDP, not TCP"):
        send_recording([KAMAILIO / name], str(tap.addresses[1]), speed="max")


def test_the_original_spacing_is_kept_and_divided_by_speed(tap: Tap, tmp_path: Path) -> None:
    path = tmp_path / "spaced.hep.zst"
    with RecordingWriter(path) as writer:
        writer.write(
            Datagram(at_us, "127.0.0.1", 1, "file", True, DATA[0]) for at_us in (0, 100_000, 400_000)
        )
    to = str(tap.addresses[0])
    assert send_recording([path], to).seconds >= 0.4
    assert send_recording([path], to, speed=2.0).seconds >= 0.2
    assert send_recording([path], to, speed=0.5).seconds >= 0.8


def test_a_collector_that_is_not_there() -> None:
    for via, kind in (("udp", socket.SOCK_DGRAM), ("tcp", socket.SOCK_STREAM), ("tls", socket.SOCK_STREAM)):
        with bound_socket(kind) as unused:
            port = unused.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"{via}:127.0.0.1:{port} refuses: is a collector listening"):
            send_recording(PATHS, f"{via}:127.0.0.1:{port}", speed="max")


def test_a_single_refused_datagram_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "one.hep"
    with RecordingWriter(path) as writer:
        writer.write([Datagram(0, "127.0.0.1", 1, "file", True, DATA[0])])
    with bound_socket(socket.SOCK_DGRAM) as unused:
        port = unused.getsockname()[1]
    with pytest.raises(ConfigError, match=r"refuses.*\(after 1 packets\)"):
        send_recording([path], f"udp:127.0.0.1:{port}")


@pytest.mark.parametrize("by_reset", [True, False])
def test_a_collector_that_hangs_up(by_reset: bool) -> None:
    with bound_socket(socket.SOCK_STREAM) as server:
        server.listen()

        def hang_up() -> None:
            accepted, _ = server.accept()
            if by_reset:
                accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        with pytest.raises(ConfigError, match="closed the connection"):
            send_recording(PATHS, f"tcp:127.0.0.1:{server.getsockname()[1]}", speed="max")
        thread.join()


def test_bad_arguments(tap: Tap, tmp_path: Path) -> None:
    to = str(tap.addresses[0])
    with pytest.raises(ConfigError, match="write udp:HOST:PORT"):
        send_recording(PATHS, "somewhere")
    with pytest.raises(ConfigError, match="unknown host"):
        send_recording(PATHS, "udp:no..name:9060")
    with pytest.raises(ConfigError, match="above 0"):
        send_recording(PATHS, to, speed=0)
    with pytest.raises(CaptureError, match=r"nowhere\.hep"):
        send_recording([*PATHS, tmp_path / "nowhere.hep"], to)


def test_tls_certificates_are_checked_unless_told_not_to(tap: Tap, received: list[Datagram]) -> None:
    to = str(tap.addresses[2])
    with pytest.raises(ConfigError, match="certificate that is not trusted here"):
        send_recording(PATHS, to, speed="max")
    assert received == []
    send_recording(PATHS, to, speed="max", tls=TlsClient(verify=False))
    tap.stop()
    assert [datagram.data for datagram in received] == DATA


def test_tls_client_certificate(folder: Path, received: list[Datagram]) -> None:
    settings = TapSettings(
        listen=["tls:127.0.0.1:0"], tls_certificate=folder / "server.pem", tls_client_ca=folder / "ca.pem"
    )
    with Tap(settings, received.extend) as tap:
        to = str(tap.addresses[0])
        with pytest.raises(ConfigError, match=r"broke off TLS|closed the connection"):
            send_recording(PATHS, to, speed="max", tls=TlsClient(ca=folder / "ca.pem"))
        client = TlsClient(ca=folder / "ca.pem", certificate=folder / "client.pem")
        send_recording(PATHS, to, speed="max", tls=client)
    assert [datagram.data for datagram in received] == DATA


def test_unusable_tls_files(tap: Tap, folder: Path, tmp_path: Path) -> None:
    for tls in (TlsClient(ca=tmp_path / "no.pem"), TlsClient(certificate=folder / "ca.pem")):
        with pytest.raises(ConfigError, match="the TLS files"):
            send_recording(PATHS, str(tap.addresses[2]), tls=tls)
