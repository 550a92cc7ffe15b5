"""Where virtual time comes from: host time while the guest runs, or counted instructions; and section `timer`.

With `icount` the virtual clock is the number of instructions times 2**shift ns, plus what has passed while the guest
slept. QEMU's names for the two are `qemu_icount` and `qemu_icount_bias`. `cpu_clock_offset` is its host-time clock,
which stands still while the machine is stopped: without icount that is the virtual clock.

A machine that is saved while the guest sleeps waits for the first timer of the queue. QEMU has a timer of its own for
that, `icount_warp_timer`, and sends its deadline; here the state refers to the timer that is waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from emulator.core.clock import NS_PER_SECOND, Timer, VirtualClock
from emulator.core.errors import ConfigError
from emulator.migration.errors import FieldMismatchError, FieldRangeError
from emulator.migration.fields import Int16, Int64, Unused, WithTmp
from emulator.migration.fields import Timer as WireTimer
from emulator.migration.vmstate import VMStateDescription

CLOCK_LIMIT = 1 << 62
"""No clock gets here (146 years), and the sum of any two stays a signed 64-bit number."""
NOT_WARPING = -1
NO_SHIFT = -1
"""A stream does not say which shift counts: QEMU only sends an adaptive one."""


@dataclass(frozen=True, slots=True)
class Icount:
    """Count instructions: the virtual clock is their number times 2**`shift` ns, and every run is the same.

    While the guest waits in `wfi` the clock jumps to the next deadline; with `sleep` the host waits as long.
    """

    shift: int
    sleep: bool = True

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= 10:
            raise ConfigError(f"icount: shift {self.shift} is not between 0 and 10")


@dataclass(slots=True)
class TimersState:
    """The clocks, by QEMU's names; ns unless said otherwise."""

    cpu_ticks_offset: int = 0
    """The host's cycle counter, which no guest of this board can see; kept as it came."""
    cpu_clock_offset: int = 0
    counts: bool = False
    """Whether instructions are counted: what follows means nothing if they are not."""
    qemu_icount_bias: int = 0
    qemu_icount: int = 0
    """In instructions."""
    icount_time_shift: int = NO_SHIFT
    last_delta: int = 0
    """What adaptive icount, which mini-qemu does not have, has corrected last; kept as it came."""
    vm_clock_warp_start: int = NOT_WARPING
    """`cpu_clock_offset` when the guest fell asleep."""
    wakes: Timer | None = None
    """The timer that a sleeping guest waits for: the first of the clock's queue."""
    virtual_time: int = 0
    """The virtual clock when the machine was saved; it tells how long `wakes` has to go."""

    def pre_load(self) -> None:
        """A stream from a machine that does not count has none of these."""
        self.counts = False

    def post_load(self, _version_id: int) -> None:
        """Refuse clocks that no machine can have shown."""
        for name in ("cpu_clock_offset", "qemu_icount_bias", "qemu_icount"):
            if not 0 <= getattr(self, name) < CLOCK_LIMIT:
                raise FieldRangeError(name, getattr(self, name), CLOCK_LIMIT)
        if not NOT_WARPING <= self.vm_clock_warp_start <= self.cpu_clock_offset:
            raise FieldRangeError("vm_clock_warp_start", self.vm_clock_warp_start, f"-1 to {self.cpu_clock_offset}")


@dataclass(slots=True)
class WarpTimerTmp:
    """Wire form of `wakes`: its deadline, on the clock of `cpu_clock_offset`, or none.

    Nothing is left of it after loading: the devices arm their timers anew, and the first of the queue is the same one.
    """

    parent: TimersState
    icount_warp_timer: int | None = None

    def pre_save(self) -> None:
        """From the timer to its deadline."""
        state = self.parent
        if state.wakes is not None and state.wakes.deadline is not None:
            left = max(state.wakes.deadline - state.virtual_time, 0)
            self.icount_warp_timer = min(state.cpu_clock_offset + left, CLOCK_LIMIT - 1)


def _counted(state: TimersState, _version_id: int) -> None:
    state.counts = True


VMSTATE_ICOUNT = VMStateDescription(
    "timer/icount",
    TimersState,
    version_id=1,
    minimum_version_id=1,
    needed=lambda state: state.counts,
    post_load=_counted,
    fields=(Int64("qemu_icount_bias"), Int64("qemu_icount")),
    subsections=(
        VMStateDescription(
            "timer/icount/warp_timer",
            TimersState,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: state.wakes is not None,
            fields=(
                Int64("vm_clock_warp_start"),
                WithTmp(
                    VMStateDescription("timer/icount/tmp", WarpTimerTmp, fields=(WireTimer("icount_warp_timer"),)),
                    covers=("wakes",),
                    inline=True,
                ),
            ),
        ),
        VMStateDescription(
            "timer/icount/shift",
            TimersState,
            version_id=2,
            minimum_version_id=2,
            needed=lambda state: state.icount_time_shift != NO_SHIFT,
            fields=(Int16("icount_time_shift"), Int64("last_delta")),
        ),
    ),
)

VMSTATE_TIMERS = VMStateDescription(
    "timer",
    TimersState,
    version_id=2,
    minimum_version_id=2,
    fields=(Int64("cpu_ticks_offset"), Unused(8), Int64("cpu_clock_offset")),
    subsections=(VMSTATE_ICOUNT,),
    derived=("counts", "virtual_time"),
)


class Timekeeper:
    """The machine's virtual clock, `clock`, and what drives it; used on the machine's thread."""

    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"timer": VMSTATE_TIMERS}

    def __init__(self, icount: Icount | None) -> None:
        self.icount = icount
        self.clock = VirtualClock(self.now)
        self.disconnect()
        self._base = 0
        self._started: int | None = None
        self._idle_ns = 0
        self._ticks_offset = 0
        self._last_delta = 0

    def connect(
        self, instructions: Callable[[], int], count_from: Callable[[int], None], halted: Callable[[], bool]
    ) -> None:
        """Listen to a hart: how many instructions have run, how to set that number, whether it waits in `wfi`."""
        self._instructions, self._count_from, self._halted = instructions, count_from, halted

    def disconnect(self) -> None:
        """Keep the time of a machine without a hart."""
        self.connect(lambda: 0, lambda _count: None, lambda: False)

    def now(self) -> int:
        """Virtual time in ns."""
        if self.icount is not None:
            return (self._instructions() << self.icount.shift) + self._idle_ns
        if self._started is None:
            return self._base
        return time.monotonic_ns() + self._base - self._started

    def start(self) -> None:
        """The guest begins to run."""
        self._started = time.monotonic_ns()

    def stop(self) -> None:
        """The guest has been stopped; harmless when repeated."""
        self._base = self.now() if self.icount is None else 0
        self._started = None

    def idle(self, ns: int) -> None:
        """With icount: the guest has slept for so long."""
        self._idle_ns += ns

    def host_deadline(self) -> float | None:
        """When the first timer fires, in seconds of `time.monotonic()`; None if never, or if the clock is stopped."""
        deadline = self.clock.next_deadline()
        if deadline is None or self._started is None or self.icount is not None:
            return None
        return (deadline - self._base + self._started) / NS_PER_SECOND

    def instructions_left(self) -> int | None:
        """With icount: how many instructions may run before the first timer fires; None for no limit."""
        deadline = self.clock.next_deadline()
        assert self.icount is not None
        return None if deadline is None else -(-(deadline - self.now()) >> self.icount.shift)

    # A part of the machine that has state

    @property
    def state(self) -> TimersState:
        """The clocks as they stand."""
        state = TimersState(self._ticks_offset, self.now(), virtual_time=self.now())
        if self.icount is not None:
            state.counts = True
            state.qemu_icount, state.qemu_icount_bias = self._instructions(), self._idle_ns
            state.icount_time_shift = self.icount.shift
            state.last_delta = self._last_delta
            if self.icount.sleep and self._halted():
                state.wakes = self.clock.first()
                state.vm_clock_warp_start = state.cpu_clock_offset if state.wakes else NOT_WARPING
        return state

    def fresh(self) -> TimersState:
        """See Owner."""
        return TimersState()

    def check(self, state: TimersState) -> None:
        """Refuse a stream whose time is kept in another way."""
        ours = None if self.icount is None else self.icount.shift
        theirs = state.icount_time_shift if state.counts else None
        if theirs == NO_SHIFT and ours is not None:
            theirs = ours  # QEMU leaves it to the user that both sides count alike
        if theirs != ours:
            raise FieldMismatchError(_spelled(ours), _spelled(theirs), field="icount")
        if state.counts and (now := self._virtual_time(state)) >= CLOCK_LIMIT:
            raise FieldRangeError("icount.qemu_icount", f"{now} ns with all that was slept", CLOCK_LIMIT)

    def adopt(self, state: TimersState) -> None:
        """Set the clocks."""
        self._ticks_offset, self._last_delta = state.cpu_ticks_offset, state.last_delta
        self._base = state.cpu_clock_offset
        if self.icount is not None:
            self._count_from(state.qemu_icount)
            self._idle_ns = self._virtual_time(state) - (state.qemu_icount << self.icount.shift)

    def _virtual_time(self, state: TimersState) -> int:
        """With icount: what the virtual clock says in a loaded state; a guest that slept has slept until then."""
        assert self.icount is not None
        asleep = 0 if state.vm_clock_warp_start == NOT_WARPING else state.cpu_clock_offset - state.vm_clock_warp_start
        return (state.qemu_icount << self.icount.shift) + state.qemu_icount_bias + asleep


def _spelled(shift: int | None) -> str:
    if shift is None:
        return "a machine without -icount"
    return "a machine with -icount" + (f" shift={shift}" if shift != NO_SHIFT else "")
