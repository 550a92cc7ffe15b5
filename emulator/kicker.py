"""A thread that stops the vCPU when its time has come.

While guest code runs, the machine's own thread is inside the engine and sees nothing. This thread sleeps until the next
deadline, or until somebody kicks it, and then asks for a stop until the engine is out: a stop that meets the engine on
its way in is lost.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

RETRY_SECONDS = 0.0002


class Kicker:
    """Calls `stop` at deadlines and kicks, again and again while `running()` says that guest code runs."""

    def __init__(self, stop: Callable[[], None], running: Callable[[], bool]) -> None:
        self._stop = stop
        self._running = running
        self._changed = threading.Condition()
        self._deadline: float | None = None
        self._kicked = False
        self._closed = False
        self._thread = threading.Thread(target=self._loop, name="kicker", daemon=True)
        self._thread.start()

    def schedule(self, deadline: float | None) -> None:
        """Stop the vCPU when `time.monotonic()` reaches `deadline`; None: only when kicked. Replaces what was set."""
        with self._changed:
            earlier = deadline is not None and (self._deadline is None or deadline < self._deadline)
            self._deadline = deadline
            if earlier:
                self._changed.notify()

    def kick(self) -> None:
        """Stop the vCPU now; from any thread, returns at once."""
        self._stop()
        if self._running():
            with self._changed:
                self._kicked = True
                self._changed.notify()

    def close(self) -> None:
        """End the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _loop(self) -> None:
        with self._changed:
            while not self._closed:
                wait = None if self._deadline is None else self._deadline - time.monotonic()
                if not self._kicked and (wait is None or wait > 0):
                    self._changed.wait(wait)
                    continue
                self._stop()
                if self._running():
                    self._changed.wait(RETRY_SECONDS)
                else:
                    self._kicked = False
                    self._deadline = None
