"""A QMP session: the protocol on a character port, in a thread of its own, with the machine's events in between."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Mapping
from typing import Any

from emulator.core.charport import CharPort
from emulator.monitor.context import Context
from emulator.monitor.peers import PeerSession
from emulator.monitor.qmp import Qmp, encode_event

EVENT_LIMIT = 1000
"""Events kept for a client that does not read; the oldest are dropped, as the guest must not wait for it."""
PIECE = 1 << 15
"""Bytes that are sent at once: what a chardev whose peer has left takes without waiting."""


class QmpSession(PeerSession):
    """Serves QMP to one client of `port` after the other, until `close` and `finish`."""

    def __init__(self, context: Context, port: CharPort) -> None:
        super().__init__(port)
        self._context = context
        self._peer = 0
        """Who is served now."""
        self._listening = False
        """Whether it is told of events: from the reply to `qmp_capabilities` on."""
        self._events: deque[bytes] = deque(maxlen=EVENT_LIMIT)
        self._sending = threading.Lock()
        self._farewell = b""
        """The reply to the command that ended the session: it is sent when all events have been."""
        context.machine.events.subscribe(self._notice)

    def hang_up(self) -> None:
        """See `PeerSession.hang_up`; from here on, nothing that was meant for this client is sent."""
        with self._sending:
            super().hang_up()

    def finish(self) -> None:
        """Send what has come since `close`, such as the machine's end; after the machine has been closed."""
        self._context.machine.events.unsubscribe(self._notice)
        self._send_events()
        self._send(self._farewell)
        self._farewell = b""

    def _serve(self, peer: int) -> None:
        self._peer = peer
        self._listening = False
        self._events.clear()
        qmp = Qmp(self._context)
        self._send(qmp.greeting)
        while (chunk := self._next_chunk(peer)) is not None:
            for reply in qmp.receive(chunk):
                if self._closing:
                    self._farewell = reply
                    return
                self._send_events()
                self._send(reply)
                self._listening = qmp.negotiated

    def _notice(self, name: str, data: Mapping[str, Any]) -> None:
        """An event; on the machine's thread."""
        if self._listening:
            self._events.append(encode_event(name, data, time.time()))
            self._arrived.set()

    def _before_waiting(self) -> None:
        self._send_events()

    def _send_events(self) -> None:
        while self._events:
            self._send(self._events.popleft())

    def _send(self, message: bytes) -> None:
        for start in range(0, len(message), PIECE):
            with self._sending:
                if self._left >= self._peer:
                    return
                self._port.send(message[start : start + PIECE])
