"""A character port: the two-way byte pipe between a device, such as a UART, and whatever plays its terminal.

The device's side is used on the machine's thread only; the host's side may be used from any thread. Input waits here
until the device has room for it, so nothing typed is lost and nothing overruns a FIFO.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

INPUT_LIMIT = 1 << 16
"""Bytes of waiting input at which a host side that can wait should stop feeding (see `room`)."""
INPUT_LOW = INPUT_LIMIT // 2
"""Bytes of waiting input below which it is told to go on: not for every byte that a guest reads."""


class CharPort:
    """One port; `sink` and `on_drained` belong to the host side, `on_input` to the machine."""

    def __init__(self, name: str = "serial0") -> None:
        self.name = name
        self._input = bytearray()
        self._lock = threading.Lock()
        self.sink: Callable[[bytes], None] = lambda _data: None
        """Called on the machine's thread with what the device sent; may wait for a slow reader, as a line would."""
        self.on_input: Callable[[], None] = lambda: None
        """Called on the feeding thread when input has arrived."""
        self.on_drained: Callable[[], None] = lambda: None
        """Called on the machine's thread when an input buffer that was full is down to half."""

    def send(self, data: bytes) -> None:
        """Device side: bytes leave for the host."""
        self.sink(data)

    def receive(self, limit: int) -> bytes:
        """Device side: take at most `limit` waiting bytes; empty when none wait. Never blocks."""
        if not self._input:
            return b""
        with self._lock:
            data = bytes(self._input[:limit])
            was_high = len(self._input) >= INPUT_LOW
            del self._input[:limit]
            drained = was_high and len(self._input) < INPUT_LOW
        if drained:
            self.on_drained()
        return data

    def feed(self, data: bytes) -> None:
        """Host side: bytes for the device; all of them are kept."""
        with self._lock:
            self._input += data
        self.on_input()

    def feed_first(self, data: bytes) -> None:
        """Host side: bytes that were typed before all that waits here already."""
        with self._lock:
            self._input[:0] = data
        self.on_input()

    def take(self) -> bytes:
        """Host side: everything that waits for the device, which will not get it any more."""
        with self._lock:
            data = bytes(self._input)
            self._input.clear()
        return data

    @property
    def room(self) -> int:
        """Host side: how many bytes may be fed before the port is full."""
        with self._lock:
            return max(INPUT_LIMIT - len(self._input), 0)
