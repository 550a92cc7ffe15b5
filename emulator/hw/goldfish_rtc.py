"""The Goldfish real-time clock: nanoseconds since 1970 as two 32-bit halves, and one alarm.

Datasheet: "Goldfish virtual hardware" of the Android emulator, section on the timer. One region of 0x24 bytes, 4-byte
accesses; one level line, asserted while an alarm's interrupt is pending and enabled; runs on the virtual clock, so the
time stands still while the machine does.

As in QEMU 7.2, reading TIME_LOW latches TIME_HIGH, writing ALARM_LOW arms the alarm, an alarm in the past fires at
once, setting the time does not move an alarm that is armed already, and reset keeps the time and the latch. Left out:
QEMU's default of following the host's clock while the machine is stopped, and the big-endian register file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from emulator.core.bits import mask, replace_bytes
from emulator.core.bus import MmioRegion
from emulator.core.clock import VirtualClock
from emulator.core.device import Device
from emulator.core.irq import IrqLine
from emulator.core.log import guest_errors

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
    """All that the guest can observe, with the virtual clock; times are unsigned 64-bit numbers of ns."""

    tick_offset: int = 0
    """RTC time minus virtual clock, modulo 2**64. QEMU 7.2.22 sends, under this name, the offset from the host's wall
    clock (`tick_offset_vmstate`, 0 in its streams, was the offset from the virtual clock)."""
    alarm_next: int = 0
    alarm_deadline: int | None = None
    """Virtual time in ns at which the armed alarm fires: QEMU's `alarm_running` is whether there is one."""
    irq_pending: int = 0
    irq_enabled: int = 0
    time_high: int = 0
    """What TIME_HIGH returns: latched by the last read of TIME_LOW."""


class GoldfishRtc(Device):
    """The clock; `wall_ns()` is asked once, for the wall time at power-on in ns since 1970."""

    kind = "goldfish_rtc"
    state: GoldfishRtcState

    def __init__(self, irq: IrqLine, clock: VirtualClock, wall_ns: Callable[[], int]) -> None:
        self.irq = irq
        self._clock = clock
        self._timer = clock.timer("goldfish_rtc", self._alarm)
        self.regions = (MmioRegion(self.kind, SIZE, self._read, self._write, min_size=4, max_size=4),)
        self.adopt(GoldfishRtcState(tick_offset=(wall_ns() - clock.now()) & mask(64)))

    def time(self) -> int:
        """The present RTC time in ns since 1970, modulo 2**64."""
        return self._time_at(self._clock.now())

    def reset(self) -> None:
        """Drop alarm and interrupt; the time goes on."""
        self.adopt(GoldfishRtcState(tick_offset=self.state.tick_offset, time_high=self.state.time_high))

    def adopt(self, state: GoldfishRtcState) -> None:
        """Take over a complete state; the alarm's timer and the line follow without an edge."""
        self.state = state
        self._follow_deadline()
        self.irq.restore_level(self._level())

    def properties(self) -> dict[str, object]:
        """What `info qtree` shows."""
        return {"big-endian": False}

    def _time_at(self, now: int) -> int:
        return (self.state.tick_offset + now) & mask(64)

    def _level(self) -> bool:
        return bool(self.state.irq_pending & self.state.irq_enabled)

    def _follow_deadline(self) -> None:
        deadline = self.state.alarm_deadline
        self._timer.set(deadline if deadline is not None and deadline < CLOCK_LIMIT else None)

    def _alarm(self) -> None:
        self.state.alarm_deadline = None
        self.state.irq_pending = 1
        self.irq.set(self._level())

    def _arm_alarm(self) -> None:
        now = self._clock.now()
        missing = self.state.alarm_next - self._time_at(now)
        if missing > 0:
            self.state.alarm_deadline = now + missing
            self._follow_deadline()
        else:
            self._timer.cancel()
            self._alarm()

    def _latch_time(self) -> int:
        time = self.time()
        self.state.time_high = time >> 32
        return time & mask(32)

    def _set_time(self, at: int, value: int) -> None:
        now = self._clock.now()
        self.state.tick_offset = (replace_bytes(self._time_at(now), at, 4, value) - now) & mask(64)

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
            ALARM_STATUS: int(state.alarm_deadline is not None),
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
            state.alarm_deadline = None
            self._timer.cancel()
        elif offset in (IRQ_ENABLED, CLEAR_INTERRUPT):
            if offset == IRQ_ENABLED:
                state.irq_enabled = value & 1
            else:
                state.irq_pending = 0
            self.irq.set(self._level())
        else:
            guest_errors.debug("%s: write of 0x%x to no writable register at 0x%x", self.kind, value, offset)
