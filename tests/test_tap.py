"""The tap over real sockets: everything that arrives is delivered or counted, and nothing stops it."""

from __future__ import annotations

import contextlib
import errno
import random
import resource
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme
from pydantic import ValidationError

from pipeline.errors import ConfigError, HepError
from pipeline.ingest import Datagram
from pipeline.ingest.agents import AgentCheck
from pipeline.ingest.counters import ListenerCounters
from pipeline.ingest.endpoints import Endpoint
from pipeline.ingest.queue import BatchQueue
from pipeline.ingest.recordings import read_recording
from pipeline.ingest.recvmmsg import BatchReceiver, Receiver, Sender, SingleReceiver
from pipeline.ingest.tap import Tap, TapSettings
from pipeline.ingest.udp import UdpListener
from pipeline.protocols.hep import decode, encode

KAMAILIO = Path(__file__).parent / "data" / "kamailio"
FRAMES = [record.data for record in read_recording(KAMAILIO / "edge.hep")]
PATIENCE_S = 20.0


def wait_for(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "waited in vain"
        time.sleep(0.005)


class Sink:
    """A tap with what it delivered."""

    def __init__(self, *listen: str, **settings: object) -> None:
        self.datagrams: list[Datagram] = []
        self.tap = Tap(TapSettings.model_validate({"listen": listen, **settings}), self.datagrams.extend)

    def __enter__(self) -> Sink:
        self.tap.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.tap.stop()

    @property
    def address(self) -> tuple[str, int]:
        return self.tap.addresses[0].host, self.tap.addresses[0].port

    @property
    def counters(self) -> ListenerCounters:
        return self.tap.counters()[str(self.tap.addresses[0])]

    @property
    def data(self) -> list[bytes]:
        return [datagram.data for datagram in self.datagrams]


def udp_client(address: tuple[str, int]) -> socket.socket:
    client = socket.socket(socket.AF_INET6 if ":" in address[0] else socket.AF_INET, socket.SOCK_DGRAM)
    client.connect(address)
    return client


def tcp_client(address: tuple[str, int]) -> socket.socket:
    return socket.create_connection(address, timeout=PATIENCE_S)


def is_closed_by_peer(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionResetError:
        return True


# -- UDP -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", ["udp:127.0.0.1:0", "udp:[::1]:0", "udp:localhost:0"])
def test_udp_datagrams_arrive_as_sent(spec: str) -> None:
    before_us = time.time_ns() // 1000
    with Sink(spec) as sink, udp_client(sink.address) as client:
        for frame in [*FRAMES, b"", b"\x01", bytes(40_000)]:
            client.send(frame)
        wait_for(lambda: len(sink.datagrams) == len(FRAMES) + 3)
        host, port = client.getsockname()[:2]
    assert sink.data == [*FRAMES, b"", b"\x01", bytes(40_000)]
    assert {datagram[1:5] for datagram in sink.datagrams} == {(host, port, "udp", True)}
    assert all(before_us <= datagram.arrival_us <= time.time_ns() // 1000 for datagram in sink.datagrams)
    assert sink.counters["received"] == len(FRAMES) + 3
    assert sink.counters["received_bytes"] == sum(map(len, sink.data))


@pytest.mark.parametrize("receiver", [BatchReceiver, SingleReceiver])
def test_what_the_kernel_drops_is_counted(receiver: Callable[[socket.socket], Receiver]) -> None:
    got: list[Datagram] = []
    listener = UdpListener(Endpoint("udp", "127.0.0.1", 0), got.extend, AgentCheck(), 8192, receiver)
    sent = 500
    with udp_client(("127.0.0.1", listener.endpoint.port)) as client:
        for number in range(sent):  # nobody receives yet, so the small buffer overflows
            client.send(number.to_bytes(2) + bytes(1000))
        listener.start()
        wait_for(lambda: len(got) + listener.counters()["kernel_dropped"] == sent)
        client.send(b"still there")
        wait_for(lambda: got and got[-1].data == b"still there")
    listener.stop()
    counters = listener.counters()
    assert 0 < counters["kernel_dropped"] < sent
    assert counters["received"] == len(got) == sent - counters["kernel_dropped"] + 1
    assert [int.from_bytes(datagram.data[:2]) for datagram in got[:-1]] == list(range(len(got) - 1))


def test_what_the_socket_holds_is_delivered_at_the_stop() -> None:
    sink = Sink("udp:127.0.0.1:0")
    with udp_client(sink.address) as client:
        for frame in FRAMES * 20:
            client.send(frame)
    sink.tap.start()
    sink.tap.stop()
    assert sink.data == FRAMES * 20


class Failing:
    """A receiver whose system call fails, as it does when the machine is out of memory."""

    def __init__(self, sock: socket.socket) -> None:
        self.receiver = SingleReceiver(sock)
        self.failures = 3

    def receive(self, wait: bool = True) -> list[tuple[bytes, Sender]]:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ENOMEM, "Cannot allocate memory")
        return self.receiver.receive(wait)


def test_a_receive_that_fails_is_counted_and_tried_again() -> None:
    got: list[Datagram] = []
    listener = UdpListener(Endpoint.parse("udp:127.0.0.1:0"), got.extend, AgentCheck(), 1 << 20, Failing)
    listener.start()
    with udp_client((listener.endpoint.host, listener.endpoint.port)) as client:
        client.send(FRAMES[0])
        wait_for(lambda: got)
    listener.stop()
    assert [datagram.data for datagram in got] == FRAMES[:1]
    assert listener.counters()["receive_errors"] == 3


def test_the_receive_buffer_is_read_back() -> None:
    listener = UdpListener(Endpoint("udp", "127.0.0.1", 0), print, AgentCheck(), 1 << 20)
    assert listener.receive_buffer_bytes == listener.receive_buffer_asked_bytes or listener.warning()
    listener.stop()
    asked_bytes = (1 << 31) - 1  # more than any system gives
    greedy = Sink("udp:127.0.0.1:0", receive_buffer_bytes=asked_bytes).tap
    (warning,) = greedy.warnings()
    assert f"sysctl -w net.core.rmem_max={asked_bytes}" in warning
    ((asked, granted),) = greedy.receive_buffers().values()
    assert asked == asked_bytes > granted > 0
    greedy.stop()


def test_a_hundred_thousand_random_and_mutated_datagrams_do_not_stop_it() -> None:
    rng = random.Random(9060)
    queue = BatchQueue()
    tap = Tap(TapSettings(listen=["udp:127.0.0.1:0"]), queue.put_batch)
    decoded = wrong = 0

    def decode_all() -> None:
        nonlocal decoded, wrong
        while not (queue.closed and queue.depth == 0):
            for datagram in queue.get(timeout_s=0.1):
                try:
                    decoded += bool(decode(datagram.data, now_us=datagram.arrival_us))
                except HepError:
                    wrong += 1

    decoder = threading.Thread(target=decode_all)
    decoder.start()
    sent = 100_000
    with tap, udp_client((tap.addresses[0].host, tap.addresses[0].port)) as client:
        for number in range(sent):
            if number % 4 == 0:
                noise = b"\x01" if number % 8 else rng.randbytes(rng.randrange(60))
            else:
                mutant = bytearray(rng.choice(FRAMES))
                mutant[rng.randrange(120)] = rng.randrange(256)
                noise = bytes(mutant[: rng.randrange(len(mutant))] if number % 3 == 0 else mutant)
            client.send(noise)
        client.send(FRAMES[0])
        wait_for(lambda: settled(tap) == sent + 1)
    queue.close()
    decoder.join()
    (counters,) = tap.counters().values()
    assert counters["received"] + counters["kernel_dropped"] == sent + 1
    assert decoded + wrong + sum(queue.counters().shed.values()) == counters["received"]
    assert decoded > 0 < wrong


def settled(tap: Tap) -> int:
    (counters,) = tap.counters().values()
    return counters["received"] + counters["kernel_dropped"]


# -- TCP and TLS ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """A certificate authority's files: the tap's, a client's, and the authority itself."""

    ca: trustme.CA
    folder: Path

    @property
    def tap_settings(self) -> dict[str, str]:
        return {
            "tls_certificate": str(self.folder / "server.pem"),
            "tls_private_key": str(self.folder / "server.key"),
        }

    @property
    def ca_file(self) -> Path:
        return self.folder / "ca.pem"

    def client_context(self, certificate: bool = False) -> ssl.SSLContext:
        context = ssl.create_default_context(cafile=self.ca_file)
        if certificate:
            context.load_cert_chain(self.folder / "client.pem")
        return context


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    folder = tmp_path_factory.mktemp("certificates")
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    server = ca.issue_cert("127.0.0.1", "localhost")
    server.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    server.private_key_pem.write_to_path(str(folder / "server.key"))
    ca.issue_cert("kamailio.example").private_key_and_cert_chain_pem.write_to_path(str(folder / "client.pem"))
    return Certificates(ca, folder)


@contextlib.contextmanager
def connected(sink: Sink, certificates: Certificates) -> Iterator[socket.socket]:
    """A client of the sink's first listener, TCP or TLS."""
    with tcp_client(sink.address) as client:
        if sink.tap.addresses[0].via == "tcp":
            yield client
        else:
            with certificates.client_context().wrap_socket(client, server_hostname="127.0.0.1") as secured:
                yield secured


@pytest.fixture(params=["tcp", "tls"])
def stream_sink(request: pytest.FixtureRequest, certificates: Certificates) -> Iterator[Sink]:
    with Sink(f"{request.param}:127.0.0.1:0", **certificates.tap_settings) as sink:
        yield sink


def test_several_frames_in_a_segment(stream_sink: Sink, certificates: Certificates) -> None:
    with connected(stream_sink, certificates) as client:
        client.sendall(b"".join(FRAMES) * 50)
        wait_for(lambda: len(stream_sink.datagrams) == len(FRAMES) * 50)
        assert stream_sink.data == FRAMES * 50
        via = stream_sink.tap.addresses[0].via
        assert {d[1:5] for d in stream_sink.datagrams} == {(*client.getsockname()[:2], via, True)}
        assert stream_sink.counters["connections"] == 1
    wait_for(lambda: stream_sink.counters["connections"] == 0)
    assert stream_sink.counters["connections_total"] == 1
    assert stream_sink.counters["received"] == len(FRAMES) * 50
    assert stream_sink.counters["incomplete_frames"] == stream_sink.counters["skipped_bytes"] == 0


def test_split_frames(stream_sink: Sink, certificates: Certificates) -> None:
    rng = random.Random(5)
    data = b"".join(FRAMES)
    with connected(stream_sink, certificates) as client:
        while data:
            size = rng.choice((1, 2, 5, 700, 1500))
            client.sendall(data[:size])
            data = data[size:]
        wait_for(lambda: len(stream_sink.datagrams) == len(FRAMES))
    assert stream_sink.data == FRAMES


def test_the_connection_lives_on_after_garbage(stream_sink: Sink, certificates: Certificates) -> None:
    with connected(stream_sink, certificates) as client:
        for frame in FRAMES:
            client.sendall(frame + b"GET / HTTP/1.1\r\n\r\n")
        wait_for(lambda: len(stream_sink.datagrams) == len(FRAMES))
        wait_for(lambda: stream_sink.counters["skipped_bytes"] == 18 * len(FRAMES))
    assert stream_sink.data == FRAMES
    assert stream_sink.counters["resyncs"] == len(FRAMES)
    assert stream_sink.counters["connections_total"] == 1


def test_a_stream_that_ends_inside_a_frame_is_counted(stream_sink: Sink, certificates: Certificates) -> None:
    with connected(stream_sink, certificates) as client:
        client.sendall(FRAMES[0] + FRAMES[1][:-1])
    wait_for(lambda: stream_sink.counters["incomplete_frames"] == 1)
    assert stream_sink.data == FRAMES[:1]


def test_port_scans_and_resets_are_harmless(stream_sink: Sink, certificates: Certificates) -> None:
    for _ in range(20):
        tcp_client(stream_sink.address).close()
        with tcp_client(stream_sink.address) as client:
            client.sendall(b"\x16\x03\x01 neither TLS nor HEP")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # close by reset
    with connected(stream_sink, certificates) as client:
        client.sendall(FRAMES[0])
        wait_for(lambda: stream_sink.data == [FRAMES[0]])
    wait_for(lambda: stream_sink.counters["connections"] == 0)


def test_random_streams_do_not_stop_it(stream_sink: Sink, certificates: Certificates) -> None:
    rng = random.Random(11)
    for _ in range(20):
        with connected(stream_sink, certificates) as client, contextlib.suppress(OSError):
            client.sendall(b"".join(rng.choice((frame, rng.randbytes(50), b"HEP3")) for frame in FRAMES * 3))
    delivered = len(stream_sink.datagrams)
    with connected(stream_sink, certificates) as client:
        client.sendall(FRAMES[-1])
        wait_for(lambda: len(stream_sink.datagrams) > delivered and stream_sink.data[-1] == FRAMES[-1])


def test_a_silent_tls_handshake_holds_up_nobody(certificates: Certificates) -> None:
    with (
        Sink("tls:127.0.0.1:0", **certificates.tap_settings) as sink,
        tcp_client(sink.address),
        connected(sink, certificates) as client,
    ):
        client.sendall(FRAMES[0])
        wait_for(lambda: sink.data == [FRAMES[0]])


def test_plain_text_on_a_tls_port_is_rejected(certificates: Certificates) -> None:
    with Sink("tls:127.0.0.1:0", **certificates.tap_settings) as sink, tcp_client(sink.address) as client:
        client.sendall(FRAMES[0])
        wait_for(lambda: sink.counters["rejected"] == {"tls": 1})
    assert sink.datagrams == []


def test_mutual_tls(certificates: Certificates) -> None:
    settings = {**certificates.tap_settings, "tls_client_ca": str(certificates.ca_file)}
    with Sink("tls:127.0.0.1:0", **settings) as sink:
        with tcp_client(sink.address) as raw:
            stranger = certificates.client_context().wrap_socket(raw, server_hostname="127.0.0.1")
            with stranger, contextlib.suppress(OSError):
                stranger.sendall(FRAMES[0])
                assert is_closed_by_peer(stranger)
        wait_for(lambda: sink.counters["rejected"] == {"tls": 1})
        assert sink.datagrams == []
        context = certificates.client_context(certificate=True)
        with tcp_client(sink.address) as raw, context.wrap_socket(raw, server_hostname="127.0.0.1") as known:
            known.sendall(FRAMES[0])
            wait_for(lambda: sink.data == [FRAMES[0]])
    assert sink.datagrams[0].trusted


def test_idle_connections_are_closed() -> None:
    with Sink("tcp:127.0.0.1:0", idle_timeout="300ms") as sink, tcp_client(sink.address) as client:
        client.sendall(FRAMES[0][:50])  # a slow loris
        assert is_closed_by_peer(client)
        wait_for(lambda: sink.counters["idle_closed"] == 1)
    assert (sink.counters["incomplete_frames"], sink.counters["connections"]) == (1, 0)


def test_connections_are_limited_and_idlers_make_room() -> None:
    with Sink("tcp:127.0.0.1:0", max_connections=2) as sink, contextlib.ExitStack() as clients:
        idler = clients.enter_context(tcp_client(sink.address))
        wait_for(lambda: sink.counters["connections"] == 1)
        for number in (1, 2):  # the second takes the idler's place
            clients.enter_context(tcp_client(sink.address)).sendall(FRAMES[0])
            wait_for(lambda expected=number: len(sink.datagrams) == expected)
        assert is_closed_by_peer(idler)
        assert is_closed_by_peer(clients.enter_context(tcp_client(sink.address)))
        wait_for(lambda: sink.counters["rejected"] == {"connection_limit": 1})
    assert sink.counters["idle_closed"] == 1


def test_one_address_that_holds_all_connections_keeps_no_other_out() -> None:
    with Sink("tcp:127.0.0.1:0", max_connections=4) as sink, contextlib.ExitStack() as clients:

        def come(ip: str) -> socket.socket:
            client = clients.enter_context(socket.create_connection(sink.address, 5, (ip, 0)))
            client.sendall(FRAMES[0])
            return client

        crowd = []
        for number in range(1, 5):
            crowd.append(come("127.0.0.1"))
            wait_for(lambda expected=number: len(sink.datagrams) == expected)
        for number in (5, 6):  # two places for each address: then nobody is in another's
            come("127.0.0.2")
            wait_for(lambda expected=number: len(sink.datagrams) == expected)
        with contextlib.suppress(OSError):
            assert is_closed_by_peer(come("127.0.0.2"))
        assert [is_closed_by_peer(client) for client in crowd[:2]] == [True, True]
        wait_for(lambda: sink.counters["rejected"] == {"connection_limit": 1})
    assert (sink.counters["idle_closed"], len(sink.datagrams)) == (2, 6)


def test_a_connection_closed_to_make_room_may_have_something_to_say() -> None:
    """Its place is given away and its bytes arrive in one turn of the selector; the others live on."""
    with Sink("tcp:127.0.0.1:0", max_connections=1) as sink:
        client = tcp_client(sink.address)
        for _ in range(500):
            following = tcp_client(sink.address)
            with contextlib.suppress(OSError):
                client.send(b"x")
            client.close()
            client = following
        with client:
            client.sendall(FRAMES[0])
            wait_for(lambda: sink.data == [FRAMES[0]])


def test_without_file_descriptors_it_waits_and_does_not_spin() -> None:
    with Sink("tcp:127.0.0.1:0") as sink, tcp_client(sink.address) as first:
        first.sendall(FRAMES[0])
        wait_for(lambda: len(sink.datagrams) == 1)
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        second = socket.socket()
        resource.setrlimit(resource.RLIMIT_NOFILE, (second.fileno() + 1, hard))
        try:
            second.connect(sink.address)
            wait_for(lambda: sink.counters["rejected"].get("no_descriptors"))
            first.sendall(FRAMES[1])
            wait_for(lambda: len(sink.datagrams) == 2)
            assert sink.counters["rejected"]["no_descriptors"] < 100
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        with second:
            second.sendall(FRAMES[2])
            wait_for(lambda: sink.data == FRAMES[:3])


# -- who may speak -------------------------------------------------------------------------------------


@pytest.mark.parametrize("via", ["udp", "tcp"])
def test_senders_outside_the_allowed_networks_are_rejected(via: str) -> None:
    with Sink(f"{via}:127.0.0.1:0", allowed_networks=["127.0.0.9/32", "2001:db8::/32"]) as sink:
        kind = socket.SOCK_DGRAM if via == "udp" else socket.SOCK_STREAM
        for source in ("127.0.0.1", "127.0.0.9"):
            with socket.socket(socket.AF_INET, kind) as client:
                client.bind((source, 0))
                client.connect(sink.address)
                with contextlib.suppress(OSError):
                    client.sendall(FRAMES[0])
                wait_for(lambda: sink.counters["rejected"] == {"network": 1})
        wait_for(lambda: len(sink.datagrams) == 1)
    assert (sink.datagrams[0].agent_addr, sink.datagrams[0].trusted) == ("127.0.0.9", True)


@pytest.mark.parametrize(
    ("key", "allowed", "ip", "sent_key", "verdict"),
    [
        (None, [], "127.0.0.1", None, True),
        (None, [], "::1", None, True),
        (None, [], "::ffff:127.0.0.1", None, True),
        (None, [], "192.0.2.1", None, False),
        (None, ["192.0.2.0/24"], "192.0.2.1", None, True),
        (None, ["192.0.2.0/24"], "::ffff:192.0.2.1", None, True),
        (None, ["2001:db8::/32"], "2001:db8::1", None, True),
        (None, ["192.0.2.0/24"], "127.0.0.1", None, "network"),
        (b"s3cret", [], "192.0.2.1", b"s3cret", True),
        (b"s3cret", [], "127.0.0.1", None, "bad_key"),
        (b"s3cret", [], "127.0.0.1", b"s3cres", "bad_key"),
        (b"s3cret", [], "127.0.0.1", b"s3cret\0", "bad_key"),
        (b"s3cret", ["192.0.2.0/24"], "192.0.2.1", b"s3cret", True),
        (b"s3cret", ["192.0.2.0/24"], "192.0.2.1", None, "bad_key"),
        (b"s3cret", ["192.0.2.0/24"], "192.0.3.1", b"s3cret", "network"),
    ],
)
def test_who_is_accepted_and_who_is_trusted(
    key: bytes | None, allowed: list[str], ip: str, sent_key: bytes | None, verdict: bool | str
) -> None:
    check = TapSettings.model_validate({"auth_key": key, "allowed_networks": allowed}).agent_check()
    packet = decode(FRAMES[0])[0]._replace(auth_key=sent_key)
    assert check.trusted(ip, sent_key) is (verdict is True)
    assert check.allows(ip) is (verdict != "network")
    if verdict != "network":
        datagram = Datagram(0, ip, 5060, "udp", check.address_trusted(ip), encode(packet))
        assert check.admit(datagram, packet) is (None if verdict == "bad_key" else verdict)


def test_a_stream_that_holds_more_than_hep_is_not_trusted() -> None:
    """A proxy relays a caller's request to the tap's own port, with a frame of the caller's in its body."""
    relayed = b"MESSAGE sip:x@127.0.0.1:9060;transport=tcp SIP/2.0\r\nCall-ID: 1\r\n\r\n" + FRAMES[0]
    with Sink("tcp:127.0.0.1:0") as sink:
        for number, data in enumerate((FRAMES[0], relayed), start=1):
            with tcp_client(sink.address) as client:
                client.sendall(data)
                wait_for(lambda expected=number: len(sink.datagrams) == expected)
        assert [datagram.trusted for datagram in sink.datagrams] == [True, False]


def test_a_recording_needs_no_key() -> None:
    packet = decode(FRAMES[0])[0]
    datagram = Datagram(0, "127.0.0.1", 5060, "file", True, FRAMES[0])
    assert AgentCheck(b"s3cret").admit(datagram, packet) is True


# -- configuration -------------------------------------------------------------------------------------


def test_defaults_are_loopback_only() -> None:
    assert TapSettings().listen == ["udp:127.0.0.1:9060", "tcp:127.0.0.1:9060"]


@pytest.mark.parametrize("via", ["udp", "tcp"])
def test_a_port_in_use(via: str) -> None:
    with Sink(f"{via}:127.0.0.1:0") as sink:
        taken = str(sink.tap.addresses[0])
        with pytest.raises(ConfigError, match=rf"{taken} is in use: stop the program .* 'sport = :\d+'"):
            Sink("udp:127.0.0.1:0", "tcp:127.0.0.1:0", taken)


@pytest.mark.parametrize(
    "spec",
    ["", "9060", "udp:9060", "udp:127.0.0.1", "http:127.0.0.1:80", "udp:::1:9060", "tcp:127.0.0.1:65536"],
)
def test_bad_addresses(spec: str) -> None:
    with pytest.raises(ValidationError, match=r"write udp:HOST:PORT"):
        TapSettings(listen=[spec])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ({"allowed_networks": ["10.0.0.1/8"]}, "has host bits set"),
        ({"auth_key": ""}, "an empty key"),
        ({"idle_timeout": "soon"}, "is no duration"),
        ({"lisen": []}, "Extra inputs"),
    ],
)
def test_bad_settings(setting: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        TapSettings.model_validate(setting)


@pytest.mark.parametrize(
    ("listen", "message"),
    [
        ([], "nowhere to listen"),
        (["udp:192.0.2.77:9060"], "this machine has no address 192.0.2.77"),
        (["udp:not..a.name:9060"], "unknown host"),
        (["tls:127.0.0.1:0"], "tap.tls_certificate is not set"),
    ],
)
def test_listeners_that_cannot_be(listen: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Sink(*listen)


def test_bad_certificates(certificates: Certificates, tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    good = certificates.tap_settings
    for settings, place in (
        ({"tls_certificate": str(junk)}, "junk.pem"),
        ({"tls_certificate": str(tmp_path / "missing.pem")}, "missing.pem: No such file"),
        ({"tls_certificate": good["tls_certificate"]}, "server.pem"),  # the key is in another file
        ({**good, "tls_client_ca": str(junk)}, "tls_client_ca .*junk.pem"),
    ):
        with pytest.raises(ConfigError, match=place):
            Sink("tls:127.0.0.1:0", **settings)


# -- the queue behind it -------------------------------------------------------------------------------


def numbered(first: int, last: int) -> list[Datagram]:
    return [Datagram(number, "127.0.0.1", 1, "file", True, b"INVITE") for number in range(first, last)]


def test_the_queue_keeps_order_and_counts_what_it_drops() -> None:
    queue = BatchQueue(max_datagrams=10)
    assert queue.get(timeout_s=0.001) == []
    assert [queue.put_batch(batch) for batch in (numbered(0, 4), numbered(4, 12), numbered(12, 14))] == [
        4,
        6,
        0,
    ]
    assert queue.counters()[:2] == (10, 10)
    assert queue.counters().shed["queue_full"] == sum(queue.counters().shed.values()) == 4
    assert queue.get(timeout_s=0, max_datagrams=5) == numbered(0, 4)
    assert queue.put_batch(numbered(14, 16)) == 2
    assert queue.get(timeout_s=0) == [*numbered(4, 10), *numbered(14, 16)]
    assert queue.depth == 0


def test_the_queue_is_bounded_in_bytes_too() -> None:
    large = [Datagram(0, "127.0.0.1", 1, "udp", True, b"INVITE".ljust(40)) for _ in range(2)]
    queue = BatchQueue(max_datagrams=10, max_bytes=100)
    assert [queue.put_batch(batch) for batch in (large, large, large[:1])] == [2, 0, 0]
    assert queue.counters()[:2] == (2, 2)
    assert queue.counters().shed["queue_full"] == 3
    assert queue.get(timeout_s=0) == large
    assert [queue.put_batch(large[:1]) for _ in range(3)] == [1, 1, 0]
    assert queue.get(timeout_s=0, max_bytes=50) == large[:1]
    assert queue.get(timeout_s=0) == large[:1]


def test_a_closed_queue_is_drained_and_takes_no_more() -> None:
    queue = BatchQueue(max_datagrams=10)
    queue.put_batch(numbered(0, 2))
    queue.close()
    assert queue.put_batch(numbered(2, 3)) == 0
    assert queue.get(timeout_s=60) == numbered(0, 2)
    assert queue.get(timeout_s=60) == []


def test_the_queue_wakes_a_waiting_reader() -> None:
    queue = BatchQueue()
    got: list[Datagram] = []
    reader = threading.Thread(target=lambda: got.extend(queue.get(timeout_s=PATIENCE_S)))
    reader.start()
    queue.put_batch(numbered(0, 3))
    reader.join()
    assert got == numbered(0, 3)
