"""TLS with certificates made for the occasion: who is let in, who is not, and that it is a stream like any other."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from certificates import authority, both_sides, pem
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from emulator.core.errors import ChannelError
from emulator.migration import listener as listener_module
from emulator.migration.channel import Channel, Listener, TlsCredentials, connect, listen, parse_uri

PATIENCE = 30
PATTERN = random.Random(1).randbytes(3 << 20)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return both_sides(tmp_path)


@pytest.fixture
def other(folder: Path) -> Path:
    """The same, for tests to change on one side."""
    return Path(shutil.copytree(folder, folder.with_name("other")))


def open_descriptors() -> set[Path]:
    return set(Path("/proc/self/fd").iterdir())


@pytest.fixture(autouse=True)
def _nothing_left() -> Iterator[None]:
    if not Path("/proc/self/fd").exists():
        yield
        return
    before, threads = open_descriptors(), set(threading.enumerate())
    yield
    assert open_descriptors() <= before
    assert set(threading.enumerate()) <= threads  # one of another test's may have ended meanwhile


class Server:
    """A listener, who accepts on a thread of its own."""

    def __init__(self, listener: Listener, refusals: list[str]) -> None:
        self.listener = listener
        self.refusals = refusals
        self._threads = ThreadPoolExecutor(1)
        self._accepted = self._threads.submit(listener.accept)

    def accepted(self) -> Channel:
        return self._accepted.result(PATIENCE)

    def close(self) -> None:
        self.listener.close()
        if self._accepted.exception(PATIENCE) is None:
            self._accepted.result().close()
        self._threads.shutdown()


@pytest.fixture
def serve() -> Iterator[Callable[..., Server]]:
    servers = []

    def start(folder: Path, uri: str = "tcp:127.0.0.1:0", *, verify_peer: bool = True) -> Server:
        refusals: list[str] = []
        tls = TlsCredentials(folder, verify_peer=verify_peer)
        listener = listen(parse_uri(uri), tls=tls, on_dropped=lambda error: refusals.append(str(error)))
        servers.append(Server(listener, refusals))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def read_all(channel: Channel) -> bytes:
    data, piece = bytearray(), bytearray(1 << 20)
    while count := channel.read_into(memoryview(piece)):
        data += piece[:count]
    return bytes(data)


def read_exactly(channel: Channel, size: int) -> bytes:
    data = bytearray(size)
    done = 0
    while done < size:
        done += channel.read_into(memoryview(data)[done:])
    return bytes(data)


def enter(server: Server, folder: Path) -> None:
    """Connect, and look whether the server minds: it has the last word."""
    channel = connect(server.listener.address, tls=TlsCredentials(folder))
    try:
        channel.read_into(memoryview(bytearray(1)))
    finally:
        channel.shutdown()
        channel.close()


def write_on(channel: Channel) -> None:
    while True:
        channel.write(bytes(1 << 16))


def refused_by(server: Server, folder: Path) -> str:
    """What a client hears who is not let in."""
    with pytest.raises(ChannelError) as caught:
        enter(server, folder)
    assert str(caught.value).isprintable()
    return str(caught.value)


def lets_in(server: Server, folder: Path) -> None:
    """Whatever happened before, who may come in still can."""
    channel = connect(server.listener.address, tls=TlsCredentials(folder))
    channel.write(b"hello")
    channel.close()
    assert read_all(server.accepted()) == b"hello"


# Who is let in


def test_match(folder: Path, serve: Callable[..., Server]) -> None:
    server = serve(folder)
    sender = connect(server.listener.address, tls=TlsCredentials(folder))
    receiver = server.accepted()
    assert sender.two_way
    assert receiver.two_way
    rows = np.frombuffer(PATTERN, np.uint8)
    lengths = [8, 4096, 0, 1 << 20, 7]
    iovec = np.array([(rows.ctypes.data + 5 * n, length) for n, length in enumerate(lengths)], np.uint64)
    expected = PATTERN + b"".join(PATTERN[5 * n : 5 * n + length] for n, length in enumerate(lengths)) + b"end"
    with ThreadPoolExecutor() as threads:
        arrived = threads.submit(read_all, receiver)
        answered = threads.submit(read_exactly, sender, len(PATTERN))
        answering = threads.submit(receiver.write, PATTERN)
        sender.write(memoryview(PATTERN))
        sender.writev(iovec)
        sender.writev(iovec[:0])
        sender.write(b"end")
        answering.result(PATIENCE)
        assert answered.result(PATIENCE) == PATTERN
        sender.close()
        assert arrived.result(PATIENCE) == expected


def test_mismatch_of_authorities_seen_by_the_client(folder: Path, other: Path, serve: Callable[..., Server]) -> None:
    authority("theirs").write(other)
    server = serve(folder)
    assert "bad certificate: self-signed certificate in certificate chain" in refused_by(server, other)
    lets_in(server, folder)
    assert "unknown ca" in server.refusals[0]


def test_mismatch_of_authorities_seen_by_the_server(folder: Path, other: Path, serve: Callable[..., Server]) -> None:
    authority("theirs").issue(other, "client")
    server = serve(folder)
    assert "unknown ca" in refused_by(server, other)
    lets_in(server, folder)
    assert "bad certificate: unable to get local issuer certificate" in server.refusals[0]


def test_anonymous_client(folder: Path, other: Path, serve: Callable[..., Server]) -> None:
    for name in ("client-cert.pem", "client-key.pem"):
        (other / name).unlink()
    server = serve(folder)
    assert "certificate required" in refused_by(server, other)
    lets_in(server, folder)
    assert server.refusals == [f"cannot set up TLS with {server.listener.address}: peer did not return a certificate"]


def test_anonymous_client_where_nobody_is_asked(folder: Path, other: Path, serve: Callable[..., Server]) -> None:
    for name in ("client-cert.pem", "client-key.pem"):
        (other / name).unlink()
    lets_in(serve(folder, verify_peer=False), other)


def test_credentials_may_be_for_one_side_alone(folder: Path) -> None:
    TlsCredentials(folder, endpoint="server").server_context()
    with pytest.raises(ChannelError, match="Expected TLS credentials for a client endpoint"):
        TlsCredentials(folder, endpoint="server").client_context()
    with pytest.raises(ChannelError, match="Expected TLS credentials for a server endpoint"):
        TlsCredentials(folder, endpoint="client").server_context()


def test_a_servers_certificate_is_no_clients(folder: Path, other: Path, serve: Callable[..., Server]) -> None:
    for name in ("cert.pem", "key.pem"):
        shutil.copy(other / f"server-{name}", other / f"client-{name}")
    assert "unsupported certificate" in refused_by(serve(folder), other)


def test_expired_certificate_of_a_client(folder: Path, other: Path, serve: Callable[..., Server]) -> None:
    authority().issue(other, "client", expired=True)
    server = serve(folder)
    assert "certificate expired" in refused_by(server, other)
    lets_in(server, folder)
    assert "bad certificate: certificate has expired" in server.refusals[0]


def test_expired_certificate_of_the_server(folder: Path, other: Path, serve: Callable[..., Server]) -> None:
    authority().issue(other, "server", expired=True)
    assert "bad certificate: certificate has expired" in refused_by(serve(other), folder)


def test_revoked_certificate(folder: Path, other: Path, serve: Callable[..., Server]) -> None:
    authority().revoke(folder, authority().issue(other, "client"))
    server = serve(folder)
    assert "certificate revoked" in refused_by(server, other)
    lets_in(server, folder)


# Names


def test_mismatch_of_hosts(folder: Path, serve: Callable[..., Server]) -> None:
    authority().issue(folder, "server", host="far.example")
    server = serve(folder)
    assert "not valid for '127.0.0.1'" in refused_by(server, folder)
    with pytest.raises(ChannelError, match=r"Hostname mismatch, .* not valid for 'near"):
        connect(server.listener.address, tls=TlsCredentials(folder, hostname="near.example"))
    connect(server.listener.address, tls=TlsCredentials(folder, hostname="far.example")).close()


def test_host_does_not_matter_where_nobody_is_verified(folder: Path, serve: Callable[..., Server]) -> None:
    authority().issue(folder, "server", host="far.example")
    server = serve(folder)
    connect(server.listener.address, tls=TlsCredentials(folder, verify_peer=False)).close()


def test_unix_socket_has_no_host_to_expect(folder: Path, serve: Callable[..., Server], tmp_path: Path) -> None:
    server = serve(folder, f"unix:{tmp_path / 'socket'}")
    with pytest.raises(ChannelError, match="say whose certificate to expect with tls-hostname"):
        connect(server.listener.address, tls=TlsCredentials(folder))
    channel = connect(server.listener.address, tls=TlsCredentials(folder, hostname="localhost"))
    channel.close()
    assert read_all(server.accepted()) == b""


def test_name_that_no_host_can_have(folder: Path, serve: Callable[..., Server]) -> None:
    with pytest.raises(ChannelError, match="can be no host's name"):
        connect(serve(folder).listener.address, tls=TlsCredentials(folder, hostname=".x"))


# Hostile and lame peers


@pytest.mark.parametrize(
    "said",
    [b"QEVM\0\0\0\3", b"GET / HTTP/1.0\r\n\r\n", b"\x16\x03\x01\xff\xff" + bytes(99), b"\x15\x03\x03\0\2\2\x28", b""],
)
def test_hostile_client_costs_only_its_own_connection(said: bytes, folder: Path, serve: Callable[..., Server]) -> None:
    server = serve(folder)
    address = server.listener.address
    with socket.create_connection((address.host, address.port)) as hostile:
        hostile.sendall(said)
        hostile.shutdown(socket.SHUT_WR)
        hostile.settimeout(PATIENCE)
        while hostile.recv(4096):
            pass
    lets_in(server, folder)
    assert len(server.refusals) == 1
    assert server.refusals[0].startswith("cannot set up TLS with tcp:127.0.0.1:")


def client_hello(folder: Path) -> bytes:
    out = ssl.MemoryBIO()
    tls = TlsCredentials(folder).client_context().wrap_bio(ssl.MemoryBIO(), out, server_hostname="localhost")
    with pytest.raises(ssl.SSLWantReadError):
        tls.do_handshake()
    return out.read()


@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_client_that_stalls_holds_up_nobody(share: float, folder: Path, serve: Callable[..., Server]) -> None:
    server = serve(folder)
    address, hello = server.listener.address, client_hello(folder)
    with socket.create_connection((address.host, address.port)) as hostile:
        hostile.sendall(hello[: int(len(hello) * share)])
        lets_in(server, folder)


def test_client_that_stalls_is_dropped_in_the_end(
    folder: Path, serve: Callable[..., Server], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener_module, "HANDSHAKE_SECONDS", 0.05)
    server = serve(folder)
    address = server.listener.address
    hello = client_hello(folder)
    with (
        socket.create_connection((address.host, address.port), PATIENCE) as hostile,
        contextlib.suppress(ConnectionError),  # dropped before it had said that
    ):
        hostile.sendall(hello[:20])
        assert hostile.recv(1) == b""
    server.close()
    assert "timed out" in server.refusals[0]


def test_no_more_clients_than_there_is_room_for(folder: Path, serve: Callable[..., Server]) -> None:
    server = serve(folder)
    address = server.listener.address
    crowd = [socket.create_connection((address.host, address.port), PATIENCE) for _ in range(20)]
    lets_in(server, folder)
    assert len(server.refusals) == 20 + 1 - listener_module.CLIENTS
    for client in crowd:
        client.close()


def test_server_without_tls(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as plain, ThreadPoolExecutor() as threads:

        def answer() -> None:
            client = plain.accept()[0]
            client.recv(4096)
            client.sendall(b"QEVM, this is no TLS")
            client.close()

        answered = threads.submit(answer)
        with pytest.raises(ChannelError, match="the peer does not speak TLS"):
            connect(parse_uri(f"tcp:127.0.0.1:{plain.getsockname()[1]}"), tls=TlsCredentials(folder))
        answered.result(PATIENCE)


def test_server_that_stalls_costs_no_more_than_the_timeout(folder: Path) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as silent,
        pytest.raises(ChannelError, match=r"cannot set up TLS with tcp:.*: timed out"),
    ):
        connect(parse_uri(f"tcp:127.0.0.1:{silent.getsockname()[1]}"), tls=TlsCredentials(folder), timeout=0.05)


def test_older_versions_are_not_spoken(folder: Path, serve: Callable[..., Server]) -> None:
    server = serve(folder)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="deprecated"):
        context.minimum_version, context.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    address = server.listener.address
    with socket.create_connection((address.host, address.port)) as old, pytest.raises(ssl.SSLError):
        context.wrap_socket(old)
    lets_in(server, folder)


# The stream


def test_shutdown_frees_who_is_blocked(folder: Path, serve: Callable[..., Server]) -> None:
    server = serve(folder)
    sender = connect(server.listener.address, tls=TlsCredentials(folder))
    receiver = server.accepted()
    with ThreadPoolExecutor() as threads:
        writing = threads.submit(sender.write, memoryview(bytearray(64 << 20)))
        reading = threads.submit(sender.read_into, memoryview(bytearray(1)))
        assert receiver.read_into(memoryview(bytearray(1))) == 1
        sender.shutdown()
        with pytest.raises(ChannelError, match="was shut down"):
            writing.result(PATIENCE)
        assert reading.result(PATIENCE) == 0
    sender.close()
    sender.close()


def test_peer_that_is_gone_without_a_word(folder: Path, serve: Callable[..., Server]) -> None:
    server = serve(folder)
    sender = connect(server.listener.address, tls=TlsCredentials(folder))
    receiver = server.accepted()
    sender.write(b"half")
    sender.shutdown()
    sender.close()
    assert read_all(receiver) == b"half"
    with pytest.raises(ChannelError):
        write_on(receiver)


def test_bytes_changed_on_the_way_are_noticed(folder: Path) -> None:
    ours, theirs = socket.socketpair()
    client_end, server_end = socket.socketpair()
    flip = threading.Event()

    def relay(source: socket.socket, target: socket.socket) -> None:
        while data := bytearray(source.recv(1 << 16)):
            data[-1] ^= flip.is_set()
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)

    with ThreadPoolExecutor() as threads:
        threads.submit(relay, theirs, server_end)
        threads.submit(relay, server_end, theirs)
        listening = threads.submit(listen, parse_uri(f"fd:{client_end.detach()}"), tls=TlsCredentials(folder))
        sender = connect(parse_uri(f"fd:{ours.detach()}"), tls=TlsCredentials(folder, hostname="localhost"))
        receiver = listening.result(PATIENCE).accept()
        flip.set()
        sender.write(b"guest memory")
        with pytest.raises(ChannelError, match="bad record mac"):
            receiver.read_into(memoryview(bytearray(100)))
        for channel in (sender, receiver):
            channel.shutdown()
            channel.close()
    theirs.close()
    server_end.close()


# Files and kinds


@pytest.mark.parametrize("name", ["ca-cert.pem", "server-cert.pem", "server-key.pem"])
def test_missing_file_is_named(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ChannelError, match=f"cannot use '.*{name}': No such file"):
        listen(parse_uri("tcp:127.0.0.1:0"), tls=TlsCredentials(folder))


@pytest.mark.parametrize("name", ["ca-cert.pem", "ca-crl.pem", "server-cert.pem", "server-key.pem"])
@pytest.mark.parametrize("content", [b"", b"no certificate", b"\xff" * 100])
def test_file_that_is_not_what_its_name_says(name: str, content: bytes, folder: Path) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(ChannelError, match=r"cannot use '.*pem': ") as caught:
        listen(parse_uri("tcp:127.0.0.1:0"), tls=TlsCredentials(folder))
    assert str(caught.value).isprintable()


def test_encrypted_key_asks_nobody(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    (folder / "client-key.pem").write_bytes(pem(key, serialization.BestAvailableEncryption(b"secret")))
    with pytest.raises(ChannelError, match="the key is encrypted"):
        TlsCredentials(folder).client_context()


@pytest.mark.parametrize("uri", ["exec:cat > /dev/null", "file:/dev/null"])
def test_tls_needs_a_socket(uri: str, folder: Path) -> None:
    with pytest.raises(ChannelError, match="it is no socket"):
        connect(parse_uri(uri), tls=TlsCredentials(folder))
    read, write = os.pipe()
    with pytest.raises(ChannelError, match="it is no socket"):
        connect(parse_uri(f"fd:{write}"), tls=TlsCredentials(folder, hostname="localhost"))
    os.close(read)
    os.close(write)
