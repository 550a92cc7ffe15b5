"""The I/O loop: one thread that waits for file descriptors, runs calls handed to it, and keeps a few timers.

It stands on `selectors` and a self-pipe rather than asyncio, whose import alone would double the start-up time. The
thread starts with the first call and is a daemon: an emulator that dies does not hang on it.
"""

from __future__ import annotations

import heapq
import os
import selectors
import sys
import threading
import time
from collections.abc import Callable

READ = selectors.EVENT_READ
WRITE = selectors.EVENT_WRITE

Ready = Callable[[int, int], None]
"""What a watched descriptor calls: `ready(fd, events)`."""


class IoLoop:
    """One I/O thread; `call`, `run`, `inside` and `close` may be used from any thread, the rest on the loop's own."""

    def __init__(self) -> None:
        # poll, not epoll: it takes regular files and /dev/null, which standard input and output may well be.
        self._selector = selectors.PollSelector()
        self._lock = threading.Lock()
        self._calls: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, Callable[[], None]]] = []
        self._timers_made = 0
        self._thread: threading.Thread | None = None
        self._woken = False
        self._closed = False

    def call(self, function: Callable[[], None]) -> None:
        """Run `function` soon on the loop's thread, in the order of the calls; not at all if the loop is closed."""
        self._submit(function)

    def run(self, function: Callable[[], None]) -> None:
        """Run `function` on the loop's thread and wait for its end; here, if the loop is closed."""
        done = threading.Event()

        def step() -> None:
            try:
                function()
            finally:
                done.set()

        if self.inside():
            function()
        elif self._submit(step):
            done.wait()
        else:
            if self._thread is not None:
                self._thread.join()
            function()

    def inside(self) -> bool:
        """Whether the caller runs on the loop's thread."""
        return threading.current_thread() is self._thread

    def call_later(self, seconds: float, function: Callable[[], None]) -> None:
        """Run `function` once, `seconds` from now; on the loop's thread only."""
        self._timers_made += 1
        heapq.heappush(self._timers, (time.monotonic() + seconds, self._timers_made, function))

    def watch(self, fd: int, events: int, ready: Ready) -> None:
        """Call `ready` whenever one of `events` (READ, WRITE; 0 for none) holds for `fd`; on the loop's thread only."""
        key = self._selector.get_map().get(fd)
        if key is None:
            if events:
                self._selector.register(fd, events, ready)
        elif not events:
            self._selector.unregister(fd)
        elif key.events != events or key.data != ready:
            self._selector.modify(fd, events, ready)

    def close(self) -> None:
        """Run what has been handed over, then end the thread; watched descriptors are left to their owners."""
        with self._lock:
            if self._thread is None or self._closed:
                self._closed = True
                return
            self._closed = True
            self._wake()
        if not self.inside():
            self._thread.join()

    def _submit(self, function: Callable[[], None]) -> bool:
        with self._lock:
            if self._closed:
                return False
            if self._thread is None:
                self._start()
            self._calls.append(function)
            self._wake()
        return True

    def _start(self) -> None:
        self._wake_read, self._wake_write = os.pipe()
        self._selector.register(self._wake_read, READ, self._woke)
        self._thread = threading.Thread(target=self._loop, name="mini-qemu I/O", daemon=True)
        self._thread.start()

    def _wake(self) -> None:
        if not self._woken:
            self._woken = True
            os.write(self._wake_write, b"\0")

    def _woke(self, fd: int, _events: int) -> None:
        os.read(fd, 1)
        with self._lock:
            calls, self._calls, self._woken = self._calls, [], False
        for function in calls:
            self._guard(function)

    def _loop(self) -> None:
        while not self._closed or self._calls:
            timeout = max(self._timers[0][0] - time.monotonic(), 0) if self._timers else None
            for key, events in self._selector.select(timeout):
                # An earlier callback of this round may have closed the descriptor, and its number may live again.
                current = self._selector.get_map().get(key.fd)
                known = current is not None and current.data == key.data
                if known and not self._guard(key.data, key.fd, events):
                    self.watch(key.fd, 0, key.data)
            while self._timers and self._timers[0][0] <= time.monotonic():
                self._guard(heapq.heappop(self._timers)[2])
        with self._lock:  # `close` wakes the thread that has seen by itself that it is to end
            self._selector.unregister(self._wake_read)
            os.close(self._wake_read)
            os.close(self._wake_write)

    @staticmethod
    def _guard(function: Callable[..., None], *arguments: int) -> bool:
        """One faulty callback is reported and must not silence every other character device."""
        try:
            function(*arguments)
        except Exception:
            threading.excepthook(threading.ExceptHookArgs((*sys.exc_info(), threading.current_thread())))
            return False
        return True
