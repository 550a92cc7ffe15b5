"""A moment at which one thread is woken that does nothing else until then.

The moment is moved by others, many times before it comes: a guest sets its timer at each turn. On Linux the system
keeps it (timerfd), so that moving it wakes nobody; elsewhere the waiting thread is woken to hear of it.
"""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import time
from typing import Protocol

from emulator.core.clock import NS_PER_SECOND

_CLOCK_MONOTONIC = 1
_TFD_CLOEXEC = 0o2000000
_TFD_TIMER_ABSTIME = 1
_EXPIRATIONS_SIZE = 8


class Alarm(Protocol):
    """One alarm; `set` may be called from any thread, `wait` from one."""

    def set(self, moment: float | None) -> None:
        """Ring when `time.monotonic()` is `moment`, at once if that has passed; None: never. Replaces what was set."""

    def wait(self) -> None:
        """Block until it rings; it rings once for each `set`, and may do so for one that has just been replaced."""

    def close(self) -> None:
        """Free what it needs; nobody waits any more."""


class TimerFd:
    """An alarm that the Linux kernel keeps; raises OSError where there is none."""

    def __init__(self) -> None:
        # Not to let go of the interpreter for a call that never blocks: it would take longer to get it back.
        libc = ctypes.PyDLL(None, use_errno=True)
        self._settime = libc.timerfd_settime
        self._fd = libc.timerfd_create(_CLOCK_MONOTONIC, _TFD_CLOEXEC)
        if self._fd < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        self._spec = (ctypes.c_long * 4)()  # the period in s and ns, 0 for once; the moment in s and ns, 0 for never

    def set(self, moment: float | None) -> None:
        """See Alarm; calls must not overlap."""
        ns = 0 if moment is None else max(int(moment * NS_PER_SECOND), 1)
        self._spec[2], self._spec[3] = divmod(ns, NS_PER_SECOND)
        self._settime(self._fd, _TFD_TIMER_ABSTIME, self._spec, None)

    def wait(self) -> None:
        """See Alarm."""
        os.read(self._fd, _EXPIRATIONS_SIZE)

    def close(self) -> None:
        """See Alarm."""
        os.close(self._fd)


class Sleeper:
    """An alarm that the waiting thread keeps by itself."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._moment: float | None = None

    def set(self, moment: float | None) -> None:
        """See Alarm."""
        with self._changed:
            self._moment = moment
            self._changed.notify()

    def wait(self) -> None:
        """See Alarm."""
        with self._changed:
            while self._moment is None or (left := self._moment - time.monotonic()) > 0:
                self._changed.wait(None if self._moment is None else left)
            self._moment = None

    def close(self) -> None:
        """See Alarm."""


def new_alarm() -> Alarm:
    """The best alarm that this system has."""
    return TimerFd() if sys.platform == "linux" else Sleeper()
