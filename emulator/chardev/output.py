"""The bounded buffer between the machine's thread, which sends, and the I/O loop, which writes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

OUTPUT_LIMIT = 1 << 20
"""Bytes of output that may wait for the host before a sender has to."""
OUTPUT_MAXIMUM = 2 * OUTPUT_LIMIT
"""Bytes that are kept if no sender may wait, so that a machine on its way to a stop loses nothing; more is dropped."""
IMPATIENT_DRAIN_SECONDS = 0.25
"""How long a closing chardev goes on writing for a user who has asked to quit."""

_SMALL = 16
_SMALL_COUNT = 4096


class OutputBuffer:
    """Bytes on their way out; `put` is for senders, the rest for the one that writes.

    `wake` is called once when output appears in an idle buffer, and not again before `idle` has been asked and said
    yes: a burst of single bytes costs one wake-up. `may_wait` says whether the calling thread may be held up.
    """

    def __init__(self, wake: Callable[[], None], may_wait: Callable[[], bool]) -> None:
        # A UART sends byte by byte, and a lock for each would cost more than all the rest. So small pieces are appended
        # to a list, which is atomic, and counted, which bounds them; whoever holds the lock gathers them into `_data`.
        self._small: list[bytes] = []
        self._data = bytearray()
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._awake = False
        self._patient = True
        self._shut = False
        self._wake = wake
        self._may_wait = may_wait

    def put(self, data: bytes) -> None:
        """Queue `data`; waits while the buffer is full, unless it is impatient, shut or the thread must not wait."""
        small = self._small
        if len(data) <= _SMALL and len(small) < _SMALL_COUNT:
            small.append(data)
            # In this order, and the opposite one in `idle`: one of the two sides sees the other.
            if self._awake:
                return
            data = b""
        with self._lock:
            self._gather()
            if not self._awake and (self._data or data):
                self._awake = True
                self._wake()
            self._put_pieces(data)

    def _gather(self) -> None:
        count = len(self._small)
        if count:
            self._data += b"".join(self._small[:count])
            del self._small[:count]
            del self._data[OUTPUT_MAXIMUM:]

    def _put_pieces(self, data: bytes) -> None:
        while data and not self._shut:
            room = (OUTPUT_LIMIT if self._patient else OUTPUT_MAXIMUM) - len(self._data)
            if room > 0:
                self._data += data[:room]
                data = data[room:]
            elif self._patient and self._may_wait():
                self._changed.wait()
            else:
                return
            if data and not self._awake:
                self._awake = True
                self._wake()

    @property
    def patient(self) -> bool:
        """Whether a sender waits for room; set to False, it lets go of one that waits."""
        return self._patient

    @patient.setter
    def patient(self, patient: bool) -> None:
        with self._lock:
            self._patient = patient
            self._changed.notify_all()

    def idle(self) -> bool:
        """Whether nothing waits; if so, the next `put` wakes again."""
        with self._lock:
            self._awake = False
            self._gather()
            self._awake = bool(self._data)
            return not self._awake

    def peek(self, limit: int) -> bytes:
        """The first bytes, at most `limit`, without removing them."""
        with self._lock:
            self._gather()
            return bytes(self._data[:limit])

    def consume(self, count: int) -> bool:
        """Remove `count` bytes from the front; True if some are left."""
        with self._lock:
            del self._data[:count]
            self._changed.notify_all()
            return bool(self._data)

    def clear(self) -> None:
        """Throw away all that waits."""
        with self._lock:
            self._gather()
            self._data.clear()
            self._changed.notify_all()

    def shut(self) -> None:
        """Take nothing more, now or later; what waits can still be written."""
        with self._lock:
            self._gather()
            self._shut = True
            self._changed.notify_all()

    def wait_empty(self, seconds: float | None) -> bool:
        """Wait until all is written, at most `seconds` (None: no limit), and much less once it is impatient."""
        started = time.monotonic()
        with self._lock:
            while self._data:
                limit = seconds if self._patient else IMPATIENT_DRAIN_SECONDS
                left = None if limit is None else started + limit - time.monotonic()
                if left is not None and left <= 0:
                    return False
                self._changed.wait(left)
        return True
