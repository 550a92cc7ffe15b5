"""Something that is waited for, also by a thread that a signal handler may take away with an exception."""

from __future__ import annotations

import threading


class Latch:
    """An event whose `wait` may end by an exception out of a signal handler.

    `threading.Event` holds a lock of its own while it waits, which such an exception can leave in disorder. Here the
    wait is nothing but to acquire a lock, which the system does in one step.
    """

    def __init__(self) -> None:
        self._closed = threading.Lock()
        self._closed.acquire()
        self._is_set = False

    def set(self) -> None:
        """Let everybody go who waits, now and later; harmless when repeated, by the same thread as `clear`."""
        if not self._is_set:
            self._is_set = True
            self._closed.release()

    def clear(self) -> None:
        """Let those wait who begin to; harmless when repeated."""
        if self._is_set:
            self._is_set = False
            self._closed.acquire()

    def wait(self) -> None:
        """Block until it is set."""
        with self._closed:
            pass
