"""A limit on how long something may take, with a thread that is there before it begins."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from emulator.core.alarm import new_alarm


class Limit(NamedTuple):
    """Until when something may take, by `time.monotonic()`, and what is called then."""

    moment: float
    on_late: Callable[[], None]


class Patience:
    """Calls what it is told, on a thread of its own, when something takes too long.

    To begin and to end costs a few microseconds, where a thread for each time (`threading.Timer`) costs hundreds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._alarm = new_alarm()
        self._limit: Limit | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._wait, name="patience", daemon=True)
        self._thread.start()

    @contextmanager
    def limit(self, seconds: float, on_late: Callable[[], None]) -> Iterator[None]:
        """Call `on_late` unless the `with` block ends in so many seconds; one within another takes its place."""
        before = self._set(Limit(time.monotonic() + seconds, on_late))
        try:
            yield
        finally:
            self._set(before)

    def close(self) -> None:
        """End the thread; harmless when repeated, and on the thread itself."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._alarm.set(0)
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _set(self, limit: Limit | None) -> Limit | None:
        with self._lock:
            before, self._limit = self._limit, limit
            if not self._closed:
                self._alarm.set(limit and limit.moment)
        return before

    def _wait(self) -> None:
        while not self._closed:
            self._alarm.wait()
            if (late := self._passed()) is not None:
                late.on_late()
        self._alarm.close()

    def _passed(self) -> Limit | None:
        """The limit, if its moment has come; it is gone then."""
        with self._lock:
            if self._limit is None or self._closed:
                return None
            if self._limit.moment > time.monotonic():  # it is another one by now
                self._alarm.set(self._limit.moment)
                return None
            passed, self._limit = self._limit, None
            return passed
