"""An in-memory chardev, with which a program plays the terminal: it collects output, waits for text and types input."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from emulator.chardev.base import Chardev, HostPort


class Recorder(Chardev):
    """Collects what `port` sends; with `limit`, only the last so many bytes. It needs no loop and never waits for room.

    `on_output` is called on the machine's thread after each send.
    """

    def __init__(self, port: HostPort, *, limit: int | None = None) -> None:
        super().__init__(port)
        if limit is not None and limit <= 0:
            raise ValueError(f"limit {limit} is not positive")
        self._limit = limit
        self._data = bytearray()
        self._dropped = 0
        self._position = 0
        self._changed = threading.Condition()
        self.on_output: Callable[[], None] = lambda: None
        port.sink = self._collect

    @property
    def filename(self) -> str:
        """See `Chardev.filename`."""
        return "memory"

    @property
    def output(self) -> bytes:
        """All output so far, or the last `limit` bytes of it."""
        with self._changed:
            return bytes(self._data)

    def feed(self, data: bytes) -> None:
        """Type `data`; all of it is kept until the guest reads it."""
        self._port.feed(data)

    def wait_for(self, expected: bytes, timeout: float) -> bytes:
        """Wait until `expected` appears in output that no earlier call has returned; `timeout` is in seconds.

        Returns everything up to and including it, from the end of the previous match on. TimeoutError, with the last
        bytes seen, if it does not appear; the next call then searches the same output again.
        """
        deadline = time.monotonic() + timeout
        searched = 0
        with self._changed:
            while True:
                start = max(self._position - self._dropped, 0)
                found = self._data.find(expected, max(start, searched - self._dropped - len(expected) + 1))
                if found >= 0:
                    end = found + len(expected)
                    self._position = self._dropped + end
                    return bytes(self._data[start:end])
                searched = self._dropped + len(self._data)
                left = deadline - time.monotonic()
                if left <= 0:
                    tail = bytes(self._data[start:][-200:])
                    raise TimeoutError(f"{self.label}: no {expected!r} within {timeout} s; the last output is {tail!r}")
                self._changed.wait(left)

    def _collect(self, data: bytes) -> None:
        with self._changed:
            self._data += data
            excess = 0 if self._limit is None else len(self._data) - self._limit
            if excess > 0:
                del self._data[:excess]
                self._dropped += excess
            self._changed.notify_all()
        self.on_output()
