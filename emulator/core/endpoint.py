"""Where a socket listens or connects to: a TCP address or a path in the file system."""

from __future__ import annotations

import os
import socket
import stat
import struct
from pathlib import Path


class Endpoint:
    """Where a socket listens or connects to: `tcp:HOST:PORT` or `unix:PATH`."""

    def listen(self, backlog: int = 1) -> socket.socket:
        """A listening socket, at which `backlog` clients may wait for an answer; OSError if it cannot be had."""
        raise NotImplementedError

    def connect(self, timeout: float | None = None) -> socket.socket:
        """A blocking connection, once it stands; OSError if it cannot be had, after `timeout` seconds at the latest."""
        raise NotImplementedError

    def name(self, bound: socket.socket) -> str:
        """The address that a listening socket has really got."""
        raise NotImplementedError

    def peer(self, _connection: socket.socket) -> str:
        """What `info chardev` appends for a connected client."""
        return ""

    def remove(self) -> None:
        """Remove what `listen` left in the file system."""


class TcpEndpoint(Endpoint):
    """`tcp:HOST:PORT`; no host means the loopback address, and port 0 any free port."""

    def __init__(self, host: str, port: int, *, nodelay: bool = False) -> None:
        self._host = host or "127.0.0.1"
        self._port = port
        self._nodelay = nodelay

    def __str__(self) -> str:
        return _tcp_name(self._host, self._port)

    def listen(self, backlog: int = 1) -> socket.socket:
        """See `Endpoint.listen`."""
        found = socket.getaddrinfo(self._host, self._port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        # `localhost` has two addresses; clients that try the newer one fall back to the older, not the other way.
        family, kind, protocol, _name, address = min(found, key=lambda entry: entry[0] != socket.AF_INET)
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(backlog)
        except BaseException:
            listener.close()
            raise
        self._prepare(listener)
        return listener

    def connect(self, timeout: float | None = None) -> socket.socket:
        """See `Endpoint.connect`."""
        connection = socket.create_connection((self._host, self._port), timeout)
        connection.settimeout(None)
        self._prepare(connection)
        return connection

    def name(self, bound: socket.socket) -> str:
        """See `Endpoint.name`."""
        return _tcp_name(*bound.getsockname()[:2])

    def peer(self, connection: socket.socket) -> str:
        """See `Endpoint.peer`."""
        try:
            return " <-> " + _tcp_name(*connection.getpeername()[:2]).removeprefix("tcp:")
        except OSError:
            return ""  # gone already

    def _prepare(self, endpoint: socket.socket) -> None:
        if self._nodelay:
            endpoint.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # clients accepted inherit it


class UnixEndpoint(Endpoint):
    """`unix:PATH`. A socket file that nobody serves any more is replaced; one in use, or another file, is not."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._made: tuple[int, int] | None = None

    def __str__(self) -> str:
        return f"unix:{self._path}"

    def listen(self, backlog: int = 1) -> socket.socket:
        """See `Endpoint.listen`."""
        if self._is_stale():
            Path(self._path).unlink()
        listener = socket.socket(socket.AF_UNIX)
        try:
            listener.bind(self._path)
            listener.listen(backlog)
            status = os.stat(self._path)  # noqa: PTH116
            self._made = status.st_dev, status.st_ino
        except BaseException:
            listener.close()
            raise
        return listener

    def connect(self, timeout: float | None = None) -> socket.socket:
        """See `Endpoint.connect`."""
        connection = socket.socket(socket.AF_UNIX)
        try:
            # A non-blocking socket fails at once when the server is busy; a blocking one waits as long as it may send.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(timeout or 0))
            connection.connect(self._path)
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _timeval(0))
        except BlockingIOError as error:
            connection.close()
            raise TimeoutError("timed out") from error
        except BaseException:
            connection.close()
            raise
        return connection

    def name(self, _bound: socket.socket) -> str:
        """See `Endpoint.name`."""
        return str(self)

    def remove(self) -> None:
        """See `Endpoint.remove`; a file that somebody else has put there since is left alone."""
        try:
            status = os.stat(self._path)  # noqa: PTH116
            if (status.st_dev, status.st_ino) == self._made:
                Path(self._path).unlink()
        except OSError:
            pass  # removed by somebody else

    def _is_stale(self) -> bool:
        try:
            if not stat.S_ISSOCK(os.stat(self._path).st_mode):  # noqa: PTH116
                return False
        except OSError:
            return False
        # A datagram socket cannot connect to a stream server: it learns that there is one without disturbing it.
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(self._path)
            except ConnectionRefusedError:
                return True
            except OSError:
                return False
        return False


def _tcp_name(host: str, port: int) -> str:
    return f"tcp:[{host}]:{port}" if ":" in host else f"tcp:{host}:{port}"


def _timeval(seconds: float) -> bytes:
    """C's `struct timeval`; 0 stands for no limit."""
    return struct.pack("@ll", int(seconds), int(seconds % 1 * 1e6))
