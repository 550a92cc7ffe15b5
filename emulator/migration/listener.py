"""Waiting for a migration's stream: one connection after another on a socket, or the only one there is."""

from __future__ import annotations

import math
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable

from emulator.core.endpoint import Endpoint
from emulator.core.errors import ChannelError
from emulator.migration.tls import TlsChannel
from emulator.migration.transports import Channel, SocketChannel
from emulator.migration.uri import Address, parse_uri

HANDSHAKE_SECONDS = 10.0
"""How long a client may take to agree on TLS, and to say something where that is waited for."""
CLIENTS = 16
"""That may be at it at the same time; one more takes the place of the first. As many may wait for an answer."""


class Listener:
    """Where streams come from."""

    def __init__(self, address: Address) -> None:
        self.address = address
        """As bound: port 0 has become the port that was taken."""

    def accept(self, timeout: float | None = None, *, spoken: bool = False) -> Channel:
        """Wait for the next stream to read from, so many seconds at most if a number is given.

        With `spoken`, for one that has something to read, or has ended: clients that are silent hold up nobody.

        Raises ChannelError if none came, if there can be none, and if `close` is called meanwhile.
        """
        raise NotImplementedError

    def close(self) -> None:
        """Stop listening, and leave nothing behind; the streams that were accepted stay. Any thread may call it."""
        raise NotImplementedError


class SingleListener(Listener):
    """A stream that is there already, and no other will come."""

    def __init__(self, address: Address, channel: Channel) -> None:
        super().__init__(address)
        self._channels = [channel]

    def accept(self, timeout: float | None = None, *, spoken: bool = False) -> Channel:  # noqa: ARG002
        """See `Listener.accept`."""
        if not self._channels:
            raise ChannelError(f"{self.address.quoted()} is one stream, and there is no other")
        return self._channels.pop()

    def close(self) -> None:
        """See `Listener.close`."""
        while self._channels:
            channel = self._channels.pop()
            channel.shutdown()
            channel.close()


class SocketListener(Listener):
    """A listening socket; with a `context`, clients agree on TLS side by side: one that stalls holds up nobody else.

    `on_dropped` hears of those that do not agree. Raises OSError if the address cannot be had.
    """

    def __init__(
        self, endpoint: Endpoint, context: ssl.SSLContext | None, on_dropped: Callable[[ChannelError], None] | None
    ) -> None:
        self._listener = endpoint.listen(CLIENTS)
        self._listener.setblocking(False)
        super().__init__(parse_uri(endpoint.name(self._listener)))
        self._endpoint = endpoint
        self._context = context
        self._on_dropped = on_dropped
        self._name = self.address.quoted()
        self._closed = False
        self._accepting = threading.Lock()
        self._clients: dict[SocketChannel, tuple[socket.socket, float]] = {}
        """Those that are waited for in the order in which they came: the socket, and until when there is time."""
        self._woken, self._waker = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        for readable in (self._listener, self._woken):
            self._selector.register(readable, selectors.EVENT_READ)

    def accept(self, timeout: float | None = None, *, spoken: bool = False) -> Channel:
        """See `Listener.accept`; one thread at a time."""
        until = math.inf if timeout is None else time.monotonic() + timeout
        with self._accepting:
            while not self._closed:
                if time.monotonic() >= until:
                    raise ChannelError(f"nobody has connected to {self._name} within {timeout:g} s")
                for key, _events in self._selector.select(self._seconds(until)):
                    is_new = key.fileobj is self._listener
                    channel = self._greet(spoken=spoken) if is_new else self._go_on(key.data, spoken=spoken)
                    if channel is not None:
                        return channel
                self._drop_late()
        raise ChannelError(f"{self._name} is closed")

    def close(self) -> None:
        """See `Listener.close`."""
        if self._closed:
            return
        self._closed = True
        self._waker.send(b"!")
        with self._accepting:
            for channel in tuple(self._clients):
                self._drop(channel)
            self._selector.close()
            for endpoint in (self._listener, self._woken, self._waker):
                endpoint.close()
            self._endpoint.remove()

    def _greet(self, *, spoken: bool) -> Channel | None:
        try:
            client = self._listener.accept()[0]
        except (BlockingIOError, ConnectionError):
            return None  # it has gone again
        except OSError as error:
            raise ChannelError(f"cannot accept on {self._name}: {error.strerror}") from error
        if self._context is None:
            channel = SocketChannel(client, self._name)
            if not spoken:
                return channel
        else:
            channel = TlsChannel(client, self._name, self._context, None)
        if len(self._clients) >= CLIENTS:
            self._drop(next(iter(self._clients)), "too many others came")
        self._clients[channel] = client, time.monotonic() + HANDSHAKE_SECONDS
        self._selector.register(client, selectors.EVENT_READ, channel)
        return None

    def _go_on(self, channel: SocketChannel | None, *, spoken: bool) -> Channel | None:
        """Hear a client that says something; the channel if it has agreed on TLS and, if need be, said more."""
        if channel not in self._clients:
            return None  # that was the waker, or a client that was dropped a moment ago
        try:
            if isinstance(channel, TlsChannel) and not channel.agreed:
                agrees = channel.advance(0)
                if not agrees or (spoken and not channel.has_data):
                    return None
        except ChannelError as error:
            self._drop(channel, error)
            return None
        self._forget(channel)
        return channel

    def _seconds(self, until: float) -> float | None:
        """How long there is nothing to do unless somebody says something."""
        until = min(until, *(deadline for _, deadline in self._clients.values()), math.inf)
        return None if until == math.inf else max(until - time.monotonic(), 0)

    def _drop_late(self) -> None:
        now = time.monotonic()
        for channel, (_, deadline) in tuple(self._clients.items()):
            if deadline <= now:
                self._drop(channel, "timed out")

    def _drop(self, channel: SocketChannel, why: str | ChannelError | None = None) -> None:
        self._forget(channel)
        channel.shutdown()
        channel.close()
        if why is not None and self._on_dropped is not None:
            refusal = why if isinstance(why, ChannelError) else f"a client of {self._name} was dropped: {why}"
            self._on_dropped(ChannelError(str(refusal)))

    def _forget(self, channel: SocketChannel) -> None:
        self._selector.unregister(self._clients.pop(channel)[0])
