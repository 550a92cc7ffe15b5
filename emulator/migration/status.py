"""Where a migration stands: QEMU's states, what may follow which, and the figures that people want to see."""

from __future__ import annotations

import enum
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from emulator.core.memory import PAGE_SIZE


class Status(enum.StrEnum):
    """QEMU's QAPI type MigrationStatus, as far as it applies."""

    NONE = "none"
    SETUP = "setup"
    ACTIVE = "active"
    PRE_SWITCHOVER = "pre-switchover"
    DEVICE = "device"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


_UNDER_WAY = (Status.SETUP, Status.ACTIVE, Status.PRE_SWITCHOVER, Status.DEVICE, Status.CANCELLING)
FOLLOWS: dict[Status, frozenset[Status]] = {
    Status.NONE: frozenset(),
    Status.SETUP: frozenset((Status.ACTIVE, Status.CANCELLING, Status.FAILED)),
    Status.ACTIVE: frozenset((Status.PRE_SWITCHOVER, Status.COMPLETED, Status.CANCELLING, Status.FAILED)),
    Status.PRE_SWITCHOVER: frozenset((Status.DEVICE, Status.CANCELLING, Status.FAILED)),
    Status.DEVICE: frozenset((Status.COMPLETED, Status.CANCELLING, Status.FAILED)),
    Status.CANCELLING: frozenset((Status.CANCELLED, Status.COMPLETED)),
    Status.COMPLETED: frozenset(),
    Status.FAILED: frozenset(),
    Status.CANCELLED: frozenset(),
}
"""What may come after each state; a new migration begins anew."""


PASS_LIMIT = 1000
"""When so many passes are known, each two neighbours become one: a guest that never rests has no end of them."""


@dataclass(slots=True)
class Pass:
    """One round through the pages that were dirty."""

    begun: float
    """Seconds since the migration began."""
    pages: int
    seconds: float = 0.0
    bytes_sent: int = 0
    dirtied: int = 0
    """Pages that the guest wrote meanwhile."""

    def joined(self, following: Pass) -> Pass:
        """Both passes as one."""
        return Pass(
            self.begun,
            self.pages + following.pages,
            self.seconds + following.seconds,
            self.bytes_sent + following.bytes_sent,
            self.dirtied + following.dirtied,
        )


@dataclass(slots=True)
class XbzrleFigures:
    """QEMU's QAPI type XBZRLECacheStats."""

    cache_size: int = 0
    """Bytes."""
    bytes: int = 0
    """What the deltas took, and the pages whose delta would have been longer."""
    pages: int = 0
    """Pages that were in the cache, whatever came of it."""
    cache_miss: int = 0
    """Pages that were not."""
    cache_miss_rate: float = 0.0
    """What part of the pages were not, in the last pass."""
    encoding_rate: float = 0.0
    """How many times as long as their deltas the pages were, in the last pass."""
    overflow: int = 0
    """Pages whose delta would have been longer."""


@dataclass(slots=True)
class Figures:
    """What a migration has done so far; bytes, pages, seconds."""

    total: int = 0
    """Bytes of all RAM blocks."""
    transferred: int = 0
    remaining: int = 0
    """Bytes of the pages that are still to be sent."""
    normal: int = 0
    duplicate: int = 0
    """Pages sent as zero."""
    dirty_sync_count: int = 0
    dirty_pages_rate: int = 0
    """Pages a second."""
    bandwidth: float = 0.0
    """Bytes a second, of late."""
    expected_downtime: float = 0.0
    setup_time: float | None = None
    downtime: float | None = None
    total_time: float = 0.0
    throttle: int = 0
    """Per cent of the vCPU's time that auto-converge takes."""
    precopy: int = 0
    """Bytes sent while the guest ran, up to the end of the last pass."""
    dirty_log: str = ""
    """How written pages are found."""
    xbzrle: XbzrleFigures | None = None
    """From the second pass on, if XBZRLE is used."""
    passes: list[Pass] = field(default_factory=list)
    pass_count: int = 0
    """How many there were, the present one among them."""

    def begin_pass(self, begun: float) -> Pass:
        """One more pass, that of all pages that remain."""
        if len(self.passes) >= PASS_LIMIT:
            self.passes[:] = [one.joined(other) for one, other in zip(self.passes[::2], self.passes[1::2], strict=True)]
        self.passes.append(Pass(begun, self.remaining // PAGE_SIZE))
        self.pass_count += 1
        return self.passes[-1]

    @property
    def normal_bytes(self) -> int:
        """Bytes of the pages that were sent with their content."""
        return self.normal * PAGE_SIZE


class Progress:
    """One migration's state and figures; the state may be looked at and changed from any thread."""

    def __init__(self, on_change: Callable[[Status], None] = lambda _status: None) -> None:
        self._lock = threading.Condition()
        self._status = Status.NONE
        self._begun = 0.0
        self._ended: float | None = None
        self.on_change = on_change
        self.on_pass: Callable[[int], None] = lambda _count: None
        self.figures = Figures()
        self.error: str | None = None
        """Why it failed."""

    @property
    def status(self) -> Status:
        """The present state."""
        return self._status

    @property
    def is_under_way(self) -> bool:
        """Whether a migration is going on."""
        return self._status in _UNDER_WAY

    def elapsed(self) -> float:
        """Seconds since the migration began, up to its end."""
        if not self._begun:
            return 0.0
        return (time.monotonic() if self._ended is None else self._ended) - self._begun

    def begin(self) -> bool:
        """Start anew; False if a migration is under way."""
        with self._lock:
            if self.is_under_way:
                return False
            self.figures, self.error = Figures(), None
            self._begun, self._ended = time.monotonic(), None
            self._status = Status.SETUP
            self.on_change(Status.SETUP)
        return True

    def change(self, status: Status, error: str | None = None) -> bool:
        """Go on to `status` if that may follow; False, and nothing happens, if not."""
        with self._lock:
            if status not in FOLLOWS[self._status]:
                return False
            self._status = status
            if error is not None:
                self.error = error
            if not self.is_under_way:
                self.stop_clock()
                self.figures.total_time = self.elapsed()
            self._lock.notify_all()
            self.on_change(status)  # with the lock, so that changes are told in their order
        return True

    def stop_clock(self) -> None:
        """What follows is only cleaned up, and counts for nobody's time; only the first call of a migration counts."""
        self._ended = self._ended or time.monotonic()

    def wait_while(self, status: Status, timeout: float | None = None) -> bool:
        """Block while the state is `status`, or for `timeout` seconds; False if it still is."""
        with self._lock:
            return self._lock.wait_for(lambda: self._status is not status, timeout)

    def wait_to_end(self, timeout: float | None = None) -> bool:
        """Block until the migration has ended; False if it has not in time."""
        with self._lock:
            return self._lock.wait_for(lambda: not self.is_under_way, timeout)
