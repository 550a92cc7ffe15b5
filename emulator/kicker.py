"""A thread that stops the vCPU when its time has come.

While guest code runs, the machine's own thread is inside the engine and sees nothing. This thread sleeps until the next
deadline, or until somebody kicks it, and then asks for a stop until the engine is out: a stop that meets the engine on
its way in is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from emulator.core.alarm import new_alarm

RETRY_SECONDS = 0.0002


class Kicker:
    """Calls `stop` at deadlines and kicks, again and again while `running()` says that guest code runs."""

    def __init__(self, stop: Callable[[], None], running: Callable[[], bool]) -> None:
        self._stop = stop
        self._running = running
        self._lock = threading.Lock()
        self._alarm = new_alarm()
        self._deadline: float | None = None
        self._kicked = False
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="kicker", daemon=True)
        self._thread.start()

    def schedule(self, deadline: float | None) -> None:
        """Stop the vCPU when `time.monotonic()` reaches `deadline`; None: only when kicked. Replaces what was set."""
        with self._lock:
            if deadline != self._deadline:
                self._deadline = deadline
                if not self._kicked:
                    self._alarm.set(deadline)

    def kick(self) -> None:
        """Stop the vCPU now; from any thread, returns at once."""
        self._stop()
        if self._running():
            with self._lock:
                self._kicked = True
                self._alarm.set(0)

    def close(self) -> None:
        """End the thread."""
        with self._lock:
            self._closed = True
            self._alarm.set(0)
        self._thread.join()
        self._alarm.close()

    def _loop(self) -> None:
        while not self._closed:
            self._alarm.wait()
            with self._lock:
                if not self._closed:
                    self._ring()

    def _ring(self) -> None:
        """Stop what is to be stopped by now, and see to it that somebody looks again if it has not worked."""
        now = time.monotonic()
        if not self._kicked and (self._deadline is None or self._deadline > now):
            self._alarm.set(self._deadline)  # it has been moved meanwhile
            return
        self._stop()
        if self._running():
            self._alarm.set(now + RETRY_SECONDS)
        else:
            self._kicked = False
            self._deadline = None
