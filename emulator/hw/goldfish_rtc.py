"""The Goldfish real-time clock: nanoseconds since 1970 as two 32-bit halves, and one alarm.

Datasheet: "Goldfish virtual hardware" of the Android emulator, section on the timer. One region of 0x24 bytes, 4-byte
accesses; one level line, asserted while an alarm's interrupt is pending and enabled.

The time follows the host's wall clock, also while the machine is stopped or away in a snapshot, as it does in QEMU
unless `-rtc` says otherwise. The alarm waits on the virtual clock: it is armed for what is missing at that moment, so
the time for which the machine stands still makes it late by as much.

As in QEMU 7.2, reading TIME_LOW latches TIME_HIGH, writing ALARM_LOW arms the alarm, an alarm in the past fires at
once, setting the time does not move an alarm that is armed already, and reset keeps the time and the latch. Left out:
the big-endian register file.

State in a stream: section `goldfish_rtc` in version 3, which QEMU has since 7.2.17. Older versions are refused: they
send the time as an offset from the virtual clock, so the guest would lose the time that it spent on its way. QEMU arms
the alarm anew on arrival, for the time that `alarm_next` and `tick_offset` give then. Where the guest has changed
either since it armed the alarm, ours also have subsection `goldfish_rtc/armed`, which QEMU refuses.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

from emulator.core.bits import mask, replace_bytes
from emulator.core.bus import MmioRegion
from emulator.core.clock import VirtualClock
from emulator.core.device import Device
from emulator.core.irq import IrqLine
from emulator.core.log import guest_errors
from emulator.migration.fields import UInt32, UInt64
from emulator.migration.vmstate import VMStateDescription

SIZE = 0x24
TIME_LOW = 0x00
TIME_HIGH = 0x04
ALARM_LOW = 0x08
ALARM_HIGH = 0x0C
IRQ_ENABLED = 0x10
CLEAR_ALARM = 0x14
ALARM_STATUS = 0x18
CLEAR_INTERRUPT = 0x1C

CLOCK_LIMIT = 1 << 63
"""The virtual clock, a signed 64-bit number of ns on the wire, never gets here (292 years)."""


@dataclass(slots=True)
class GoldfishRtcState:
    """All that the guest can observe, with the two clocks; times are unsigned 64-bit numbers of ns, flags 0 or 1."""

    tick_offset_vmstate: int = 0
    """What peers before version 3 sent in its place; kept as it came."""
    alarm_next: int = 0
    alarm_running: int = 0
    irq_pending: int = 0
    irq_enabled: int = 0
    time_high: int = 0
    """What TIME_HIGH returns: latched by the last read of TIME_LOW."""
    tick_offset: int = 0
    """RTC time minus wall clock, modulo 2**64."""
    armed_next: int = 0
    """`alarm_next` when the running alarm was armed; 0 if none is running."""
    armed_offset: int = 0
    """`tick_offset` when the running alarm was armed; 0 if none is running."""

    def disarm(self) -> None:
        """No alarm is running any more."""
        self.alarm_running = self.armed_next = self.armed_offset = 0

    def post_load(self, _version_id: int) -> None:
        """Arm the alarm as QEMU does, unless the stream tells how it was armed; no alarm is ever armed for time 0."""
        if not self.alarm_running:
            self.disarm()
        elif not self.armed_next:
            self.armed_next, self.armed_offset = self.alarm_next, self.tick_offset


VMSTATE_GOLDFISH_RTC = VMStateDescription(
    "goldfish_rtc",
    GoldfishRtcState,
    version_id=3,
    minimum_version_id=3,
    fields=(
        UInt64("tick_offset_vmstate"),
        UInt64("alarm_next"),
        UInt32("alarm_running", limit=2),
        UInt32("irq_pending", limit=2),
        UInt32("irq_enabled", limit=2),
        UInt32("time_high"),
        UInt64("tick_offset", version_id=3),
    ),
    subsections=(
        VMStateDescription(
            "goldfish_rtc/armed",
            GoldfishRtcState,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: (
                state.alarm_running and (state.armed_next, state.armed_offset) != (state.alarm_next, state.tick_offset)
            ),
            fields=(UInt64("armed_next"), UInt64("armed_offset")),
        ),
    ),
)


class GoldfishRtc(Device):
    """The clock; `wall_ns()` is the wall time in ns since 1970, which the RTC shows at power-on."""

    kind = "goldfish_rtc"
    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"goldfish_rtc": VMSTATE_GOLDFISH_RTC}
    state: GoldfishRtcState

    def __init__(self, irq: IrqLine, clock: VirtualClock, wall_ns: Callable[[], int]) -> None:
        self.irq = irq
        self._clock = clock
        self._wall_ns = wall_ns
        self._timer = clock.timer("goldfish_rtc", self._on_timer)
        self.regions = (MmioRegion(self.kind, SIZE, self._read, self._write, min_size=4, max_size=4),)
        self.adopt(GoldfishRtcState())

    def time(self) -> int:
        """The present RTC time in ns since 1970, modulo 2**64."""
        return (self.state.tick_offset + self._wall_ns()) & mask(64)

    def reset(self) -> None:
        """Drop alarm and interrupt; the time goes on."""
        state = self.state
        self.adopt(
            GoldfishRtcState(
                tick_offset_vmstate=state.tick_offset_vmstate, time_high=state.time_high, tick_offset=state.tick_offset
            )
        )

    def adopt(self, state: GoldfishRtcState) -> None:
        """Take over a complete state; both clocks must be right already. Timer and line follow without an edge."""
        self.state = state
        self._timer.set(None)
        if state.alarm_running:
            self._wait(max(self._missing(), 0))
        self.irq.restore_level(self._level())

    def properties(self) -> dict[str, object]:
        """What `info qtree` shows."""
        return {"big-endian": False}

    def _level(self) -> bool:
        return bool(self.state.irq_pending & self.state.irq_enabled)

    def _missing(self) -> int:
        """Ns of wall time until the running alarm fires; 0 or less if it is due."""
        return self.state.armed_next - ((self.state.armed_offset + self._wall_ns()) & mask(64))

    def _wait(self, missing: int) -> None:
        deadline = self._clock.now() + missing
        self._timer.set(deadline if deadline < CLOCK_LIMIT else None)

    def _on_timer(self) -> None:
        missing = self._missing()
        if missing > 0:  # somebody has set the host's clock back
            self._wait(missing)
        else:
            self._alarm()

    def _alarm(self) -> None:
        self.state.disarm()
        self.state.irq_pending = 1
        self.irq.set(self._level())

    def _arm_alarm(self) -> None:
        state = self.state
        state.alarm_running, state.armed_next, state.armed_offset = 1, state.alarm_next, state.tick_offset
        missing = self._missing()
        if missing > 0:
            self._wait(missing)
        else:
            self._timer.cancel()
            self._alarm()

    def _latch_time(self) -> int:
        time = self.time()
        self.state.time_high = time >> 32
        return time & mask(32)

    def _set_time(self, at: int, value: int) -> None:
        time = self.time()
        self.state.tick_offset = (self.state.tick_offset + replace_bytes(time, at, 4, value) - time) & mask(64)

    def _set_alarm(self, at: int, value: int) -> None:
        self.state.alarm_next = replace_bytes(self.state.alarm_next, at, 4, value)

    def _read(self, offset: int, _size: int) -> int:
        state = self.state
        if offset == TIME_LOW:
            return self._latch_time()
        readable = {
            TIME_HIGH: state.time_high,
            ALARM_LOW: state.alarm_next & mask(32),
            ALARM_HIGH: state.alarm_next >> 32,
            IRQ_ENABLED: state.irq_enabled,
            ALARM_STATUS: state.alarm_running,
        }
        if offset not in readable:
            guest_errors.debug("%s: read of no readable register at 0x%x", self.kind, offset)
        return readable.get(offset, 0)

    def _write(self, offset: int, _size: int, value: int) -> None:
        state = self.state
        if offset in (TIME_LOW, TIME_HIGH):
            self._set_time(offset - TIME_LOW, value)
        elif offset == ALARM_LOW:
            self._set_alarm(0, value)
            self._arm_alarm()
        elif offset == ALARM_HIGH:
            self._set_alarm(4, value)
        elif offset == CLEAR_ALARM:
            state.disarm()
            self._timer.cancel()
        elif offset in (IRQ_ENABLED, CLEAR_INTERRUPT):
            if offset == IRQ_ENABLED:
                state.irq_enabled = value & 1
            else:
                state.irq_pending = 0
            self.irq.set(self._level())
        else:
            guest_errors.debug("%s: write of 0x%x to no writable register at 0x%x", self.kind, value, offset)
