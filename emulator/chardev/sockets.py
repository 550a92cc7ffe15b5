"""The `tcp` and `unix` chardevs: a listening socket that serves one client after another, or a connection made once.

A client that has sent its last byte may still wait for answers (`echo info status | socat - UNIX:…` does), so its
connection is kept for output for a moment longer, unless the next client is already at the door. The options telnet,
websocket, TLS and reconnect are left out.
"""

from __future__ import annotations

import socket

from emulator.chardev.base import Hooks, HostPort, StreamChardev, reason
from emulator.chardev.loop import READ, IoLoop
from emulator.core.endpoint import Endpoint
from emulator.core.errors import ChardevError

LINGER_SECONDS = 1.0
"""How long a client that has ended its input still gets output."""


class ServerChardev(StreamChardev):
    """Listens at `endpoint` and serves one client at a time; with `wait`, holds up the caller until the first comes.

    Output is discarded while there is no client. ChardevError if the address cannot be had.
    """

    def __init__(self, port: HostPort, loop: IoLoop, hooks: Hooks, endpoint: Endpoint, *, wait: bool) -> None:
        super().__init__(port, loop, hooks)
        self._endpoint = endpoint
        self._client: socket.socket | None = None
        try:
            self._listener = endpoint.listen()
        except (OSError, UnicodeError) as error:
            raise ChardevError(f"cannot listen on {endpoint}: {reason(error)}") from error
        self.address = endpoint.name(self._listener)
        """`tcp:HOST:PORT` with the port really taken, or `unix:PATH`."""
        try:
            if wait:
                hooks.announce(f"{self.label}: waiting for connection on: {self.filename}")
                self._client = self._listener.accept()[0]
            elif self.address != str(endpoint):
                hooks.announce(f"char device redirected to {self.address},server=on (label {self.label})")
        except BaseException:
            self._listener.close()
            endpoint.remove()
            raise
        self._listener.setblocking(False)

    @property
    def filename(self) -> str:
        """See `Chardev.filename`."""
        client = self._client
        peer = self._endpoint.peer(client) if client is not None else ""
        return f"{'disconnected:' if client is None else ''}{self.address},server=on{peer}"

    def _begin(self) -> None:
        if self._client is not None:
            self._serve(self._client)
        else:
            self._await_client()

    def _await_client(self) -> None:
        self._loop.watch(self._listener.fileno(), READ, self._accept)

    def _accept(self, fd: int, _events: int) -> None:
        try:
            client = self._listener.accept()[0]
        except OSError:
            return  # it has gone again
        self._loop.watch(fd, 0, self._accept)
        if self._client is not None:
            self._drop(self._client)
        self._output.clear()  # a sender may still have been busy with an answer to the last client
        self._serve(client)

    def _serve(self, client: socket.socket) -> None:
        client.setblocking(False)
        self._client = client
        self._connect(client.fileno(), client.fileno())

    def _source_ended(self) -> None:
        client = self._client
        assert client is not None
        self._loop.watch(client.fileno(), 0, self._ready)
        self._source = None
        self._rearm()
        self._loop.call_later(LINGER_SECONDS, lambda: self._drop(client))
        self._await_client()

    def _target_failed(self, _error: OSError) -> None:
        assert self._client is not None
        self._drop(self._client)
        self._await_client()

    def _drop(self, client: socket.socket) -> None:
        """Forget `client`, unless that has happened before."""
        if client is self._client:
            self._disconnect()
            self._hooks.on_close()

    def _release(self, fd: int) -> None:
        self._loop.watch(fd, 0, self._ready)
        if self._client is not None:
            self._client.close()
            self._client = None

    def _end(self) -> None:
        if not self._closed:
            super()._end()
            self._loop.watch(self._listener.fileno(), 0, self._accept)
            self._listener.close()
            self._endpoint.remove()


class ClientChardev(StreamChardev):
    """Connects to `endpoint` at once, and only once; when the peer has gone, output is discarded.

    ChardevError if there is nobody to connect to.
    """

    def __init__(self, port: HostPort, loop: IoLoop, hooks: Hooks, endpoint: Endpoint) -> None:
        super().__init__(port, loop, hooks)
        self._endpoint = endpoint
        try:
            self._connection = endpoint.connect()
        except (OSError, UnicodeError) as error:
            raise ChardevError(f"cannot connect to {endpoint}: {reason(error)}") from error
        self._connection.setblocking(False)
        self._lost = False

    @property
    def filename(self) -> str:
        """See `Chardev.filename`."""
        return f"{'disconnected:' if self._lost else ''}{self._endpoint}"

    def _begin(self) -> None:
        self._connect(self._connection.fileno(), self._connection.fileno())

    def _source_ended(self) -> None:
        self._loop.watch(self._connection.fileno(), 0, self._ready)
        self._source = None
        self._rearm()
        self._loop.call_later(LINGER_SECONDS, self._lose)

    def _target_failed(self, _error: OSError) -> None:
        self._lose()

    def _lose(self) -> None:
        if not self._lost:
            self._disconnect()
            self._hooks.on_close()

    def _release(self, fd: int) -> None:
        self._loop.watch(fd, 0, self._ready)
        self._lost = True
        self._connection.close()
