"""The virtual clock and its timers: the guest's time, in nanoseconds since the machine was powered on.

The clock never reads host time by itself: the machine gives it a source (host time while the guest runs, or counted
instructions) and calls `run_expired` when a deadline has come. All calls come from the machine's own thread.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable

NS_PER_SECOND = 1_000_000_000


class Timer:
    """A one-shot timer on a virtual clock; its callback runs on the machine's thread, after the deadline."""

    __slots__ = ("_clock", "_deadline", "_order", "callback", "name")

    def __init__(self, clock: VirtualClock, name: str, callback: Callable[[], None], order: int) -> None:
        self._clock = clock
        self._deadline: int | None = None
        self._order = order
        self.name = name
        self.callback = callback

    @property
    def deadline(self) -> int | None:
        """Virtual time in ns at which the timer fires; None while it is not armed."""
        return self._deadline

    def arm(self, deadline: int) -> None:
        """Fire once when the virtual clock reaches `deadline` (ns); a deadline in the past fires at the next look."""
        self.set(deadline)

    def cancel(self) -> None:
        """Do not fire; harmless when not armed."""
        self.set(None)

    def set(self, deadline: int | None) -> None:
        """Arm at `deadline`, or cancel with None: what a device calls to follow its restored state."""
        if deadline != self._deadline:
            self._clock._move(self, deadline)


class VirtualClock:
    """Virtual time and the timers armed on it.

    Timers with equal deadlines fire in the order in which they were created, so that a restored machine fires them
    as the saved one would have.
    """

    def __init__(self, source: Callable[[], int] = lambda: 0) -> None:
        self._armed: list[tuple[int, int, Timer]] = []
        self._created = 0
        self.source = source
        self.on_first_deadline: Callable[[], None] = lambda: None
        """Called whenever the earliest deadline has changed."""

    def now(self) -> int:
        """Virtual time in ns."""
        return self.source()

    def timer(self, name: str, callback: Callable[[], None]) -> Timer:
        """Make a timer, not armed; `name` is for people."""
        self._created += 1
        return Timer(self, name, callback, self._created)

    def first(self) -> Timer | None:
        """The timer that fires next, if any is armed."""
        return self._armed[0][2] if self._armed else None

    def next_deadline(self) -> int | None:
        """The earliest deadline in ns, or None if no timer is armed."""
        return self._armed[0][0] if self._armed else None

    def run_expired(self) -> None:
        """Fire every timer whose deadline has come, earliest first; a callback may arm timers again."""
        now = self.now()
        while self._armed and self._armed[0][0] <= now:
            timer = self._armed.pop(0)[2]
            timer._deadline = None
            timer.callback()

    def _move(self, timer: Timer, deadline: int | None) -> None:
        before = self.next_deadline()
        if timer._deadline is not None:
            del self._armed[bisect.bisect_left(self._armed, (timer._deadline, timer._order))]
        timer._deadline = deadline
        if deadline is not None:
            bisect.insort(self._armed, (deadline, timer._order, timer))
        if self.next_deadline() != before:
            self.on_first_deadline()
