"""A migration's stream, opened from its URI: `connect` to where it goes, `listen` where it comes from.

Listening means to wait for one connection after another on a socket, and to have the only one at once elsewhere.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import socket
import ssl
import stat
from collections.abc import Callable, Iterator

from emulator.core.endpoint import Endpoint, TcpEndpoint, UnixEndpoint
from emulator.core.errors import ChannelError
from emulator.migration.command import ExecChannel
from emulator.migration.listener import HANDSHAKE_SECONDS, Listener, SingleListener, SocketListener
from emulator.migration.tls import TlsCredentials, secured
from emulator.migration.transports import Channel, DescriptorChannel, FileChannel, SocketChannel
from emulator.migration.uri import Address, parse_uri

__all__ = ["Address", "Channel", "ChannelError", "Listener", "TlsCredentials", "connect", "listen", "parse_uri"]


def connect(address: Address, *, tls: TlsCredentials | None = None, timeout: float = 10) -> Channel:
    """Open a stream to write to, within `timeout` seconds for the connection and as many for TLS.

    A file is created or cut to its offset. Raises ChannelError.
    """
    name = address.quoted()
    context = _context(address, tls, server=False)
    with _named(f"connect to {name}"):
        if not address.is_endpoint:
            return _single(address, context, tls, timeout, reading=False)
        return _upgraded(_endpoint(address).connect(timeout), address, context, tls, timeout)


def listen(
    address: Address, *, tls: TlsCredentials | None = None, on_dropped: Callable[[ChannelError], None] | None = None
) -> Listener:
    """Listen on a socket, or open the one stream that a descriptor, file or command is. Raises ChannelError.

    A client that does not agree on TLS is dropped, and `on_dropped` told why; others can still come.
    """
    name = address.quoted()
    if address.kind == "tcp" and not address.host:
        raise ChannelError(f"cannot listen on {name}: spell out the address, such as 127.0.0.1, or 0.0.0.0 for all")
    context = _context(address, tls, server=True)
    with _named(f"listen on {name}"):
        if address.is_endpoint:
            return SocketListener(_endpoint(address), context, on_dropped)
        return SingleListener(address, _single(address, context, tls, HANDSHAKE_SECONDS, reading=True))


def _endpoint(address: Address) -> Endpoint:
    if address.kind == "tcp":
        return TcpEndpoint(address.host or "localhost", address.port, nodelay=True)
    return UnixEndpoint(address.path)


def _single(
    address: Address, context: ssl.SSLContext | None, tls: TlsCredentials | None, timeout: float, *, reading: bool
) -> Channel:
    """The one stream that a descriptor, file or command is; raises OSError or ChannelError."""
    name = address.quoted()
    if address.kind == "exec":
        return ExecChannel(address.command, name, reading=reading)
    if address.kind == "file":
        return FileChannel(_open_file(address, reading=reading), name)
    kind = os.fstat(address.fd).st_mode
    if stat.S_ISSOCK(kind):
        connection = socket.socket(fileno=address.fd)
        if connection.type != socket.SOCK_STREAM:
            connection.detach()
            raise ChannelError(f"cannot use {name}: it is no stream socket")
        return _upgraded(connection, address, context, tls, timeout, server=reading)
    if not (stat.S_ISFIFO(kind) or stat.S_ISREG(kind)):
        raise ChannelError(f"cannot use {name}: it is neither a socket nor a pipe nor a file")
    if context is not None:
        raise ChannelError(f"cannot use TLS with {name}: it is no socket")
    refused = os.O_WRONLY if reading else os.O_RDONLY
    if fcntl.fcntl(address.fd, fcntl.F_GETFL) & os.O_ACCMODE == refused:
        raise ChannelError(f"cannot use {name}: it is not open for {'reading' if reading else 'writing'}")
    return DescriptorChannel(address.fd, name)


def _upgraded(
    connection: socket.socket,
    address: Address,
    context: ssl.SSLContext | None,
    tls: TlsCredentials | None,
    timeout: float,
    *,
    server: bool = False,
) -> Channel:
    """The connection as a channel, with TLS if there is to be any."""
    if context is None or tls is None:
        return SocketChannel(connection, address.quoted())
    hostname = None if server else tls.hostname or address.host or "localhost"
    return secured(connection, address.quoted(), context, hostname, timeout)


def _open_file(address: Address, *, reading: bool) -> int:
    """Open it where the stream begins; raises OSError. A pipe that nobody reads does not hold it up."""
    flags = os.O_RDONLY if reading else os.O_WRONLY | os.O_CREAT
    fd = os.open(address.path, flags | os.O_NONBLOCK, 0o600)
    try:
        if stat.S_ISREG(os.fstat(fd).st_mode):
            if not reading:
                os.ftruncate(fd, address.offset)
            os.lseek(fd, address.offset, os.SEEK_SET)
    except BaseException:
        os.close(fd)
        raise
    return fd


def _context(address: Address, tls: TlsCredentials | None, *, server: bool) -> ssl.SSLContext | None:
    if tls is None:
        return None
    if address.kind in ("exec", "file"):
        raise ChannelError(f"cannot use TLS with {address.quoted()}: it is no socket")
    if not server and tls.verify_peer and not (tls.hostname or address.kind == "tcp"):
        raise ChannelError(f"cannot use TLS with {address.quoted()}: say whose certificate to expect with tls-hostname")
    return tls.server_context() if server else tls.client_context()


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Turn whatever the system refuses into a ChannelError."""
    try:
        yield
    except UnicodeError as error:  # of the codec for hosts' names
        raise ChannelError(f"cannot {what}: that can be no host's name") from error
    except (OSError, ValueError) as error:
        raise ChannelError(f"cannot {what}: {getattr(error, 'strerror', None) or error}") from error
