"""RISC-V ACLINT: the core-local interruptor as two devices, MSWI (software interrupts) and MTIMER (the timer).

Datasheet: "RISC-V Advanced Core Local Interruptor Specification" 1.0-rc4. MSWI: one region of 0x4000 bytes, 4-byte
accesses, one `msip` register and one line (MSIP) per hart. MTIMER: one region of 0x8000 bytes, 4- and 8-byte accesses,
`mtimecmp` per hart from 0x0, `mtime` at 0x7ff8, one line (MTIP) per hart, the virtual clock. On `virt` the two lie side
by side, MSWI first, and together look like SiFive's CLINT to software.

Reset follows QEMU 7.2: `mtime` starts again from 0, `mtimecmp` keeps its value and is compared anew. As both are 0 at
power-on, MTIP is asserted until software programs the timer.

State in a stream: section `riscv_mtimer` as QEMU 7.2 has it, which is `mtimecmp` alone. QEMU forgets that a guest has
written `mtime`, or was reset: its clock jumps on arrival. Ours does not: subsection `riscv_mtimer/time_delta`, which is
sent when there is something to tell, and which QEMU refuses rather than run a guest whose time has changed. MSWI has no
section: the MSIP bit of each hart's `mip` tells all.

MTIP fires at the first nanosecond at which `mtime` has reached `mtimecmp`; QEMU may be up to one tick later. It falls
when `mtime` wraps at 2**64, so that it always follows from the two; QEMU's stays up. Left out: SSWI, which the board
has only together with the AIA.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import ClassVar

from emulator.core.bits import extract_bytes, mask, replace_bytes
from emulator.core.bus import MmioRegion
from emulator.core.clock import NS_PER_SECOND, VirtualClock
from emulator.core.device import Device
from emulator.core.irq import IrqLine
from emulator.core.log import guest_errors
from emulator.migration.fields import UInt64, VArray
from emulator.migration.vmstate import VMStateDescription

SWI_SIZE = 0x4000
MTIMER_SIZE = 0x8000
MTIMECMP_BASE = 0x0
MTIME = 0x7FF8
TIMEBASE_HZ = 10_000_000

CLOCK_LIMIT = 1 << 63
"""The virtual clock, a signed 64-bit number of ns on the wire, never gets here (292 years)."""


@dataclass(slots=True)
class SwiState:
    """Bit 0 of each hart's `msip`; not on QEMU's wire, where the MSIP bit of each hart's `mip` tells it."""

    msip: list[int] = field(default_factory=lambda: [0])


class RiscvAclintSwi(Device):
    """MSWI; `lines[i]` is MSIP of hart i."""

    kind = "riscv.aclint.swi"
    state: SwiState

    def __init__(self, lines: Sequence[IrqLine]) -> None:
        self.lines = tuple(lines)
        self.regions = (MmioRegion(self.kind, SWI_SIZE, self._read, self._write, min_size=4, max_size=4),)
        self.reset()

    def fresh(self) -> SwiState:
        """No software interrupt for any hart: the state after reset, too."""
        return SwiState([0] * len(self.lines))

    def adopt(self, state: SwiState) -> None:
        """Take over a state with one `msip` per line; lines follow without an edge."""
        self.state = state
        for line, msip in zip(self.lines, state.msip, strict=True):
            line.restore_level(bool(msip))

    def properties(self) -> dict[str, object]:
        """What `info qtree` shows."""
        return {"hartid-base": 0, "num-harts": len(self.lines), "sswi": 0}

    def _read(self, offset: int, _size: int) -> int:
        hart = offset // 4
        if hart < len(self.lines):
            return self.state.msip[hart]
        guest_errors.debug("%s: read at 0x%x, no such hart", self.kind, offset)
        return 0

    def _write(self, offset: int, _size: int, value: int) -> None:
        hart = offset // 4
        if hart >= len(self.lines):
            guest_errors.debug("%s: write at 0x%x, no such hart", self.kind, offset)
            return
        self.state.msip[hart] = value & 1
        self.lines[hart].set(bool(value & 1))


@dataclass(slots=True)
class MtimerState:
    """All that the guest can observe, with the virtual clock; unsigned 64-bit numbers, in ticks of the timebase.

    The timers' deadlines follow from it.
    """

    timecmp: list[int] = field(default_factory=lambda: [0])
    time_delta: int = 0
    """What to add to the clock's ticks, modulo 2**64: the guest can write `mtime`."""


VMSTATE_MTIMER = VMStateDescription(
    "riscv_mtimer",
    MtimerState,
    version_id=1,
    minimum_version_id=1,
    fields=(VArray("timecmp", UInt64, lambda state: len(state.timecmp)),),
    subsections=(
        VMStateDescription(
            "riscv_mtimer/time_delta",
            MtimerState,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: state.time_delta != 0,
            fields=(UInt64("time_delta"),),
        ),
    ),
)


class RiscvAclintMtimer(Device):
    """MTIMER; `lines[i]` is MTIP of hart i, `timebase_hz` the frequency of `mtime`."""

    kind = "riscv.aclint.mtimer"
    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"riscv_mtimer": VMSTATE_MTIMER}
    state: MtimerState

    def __init__(self, clock: VirtualClock, lines: Sequence[IrqLine], *, timebase_hz: int = TIMEBASE_HZ) -> None:
        self.lines = tuple(lines)
        self.timebase_hz = timebase_hz
        self._clock = clock
        self._timers = [clock.timer(f"mtimecmp{hart}", partial(self._compare, hart)) for hart in range(len(lines))]
        self.regions = (MmioRegion(self.kind, MTIMER_SIZE, self._read, self._write, min_size=4, max_size=8),)
        self.adopt(self.fresh())

    def mtime(self) -> int:
        """The present `mtime`, which is also the hart's `time` CSR, in ticks modulo 2**64."""
        return (self._ticks(self._clock.now()) + self.state.time_delta) & mask(64)

    def fresh(self) -> MtimerState:
        """As at power-on: nothing programmed, and `mtime` is what the clock says."""
        return MtimerState([0] * len(self.lines))

    def reset(self) -> None:
        """Set `mtime` to 0 and keep `mtimecmp`."""
        self.adopt(MtimerState(list(self.state.timecmp), -self._ticks(self._clock.now()) & mask(64)))

    def adopt(self, state: MtimerState) -> None:
        """Take over a state with one `timecmp` per line; the clock must be right already. No edges."""
        self.state = state
        for hart, line in enumerate(self.lines):
            line.restore_level(self._follow_timecmp(hart))

    def properties(self) -> dict[str, object]:
        """What `info qtree` shows."""
        return {
            "hartid-base": 0,
            "num-harts": len(self.lines),
            "timecmp-base": MTIMECMP_BASE,
            "time-base": MTIME,
            "aperture-size": MTIMER_SIZE,
            "timebase-freq": self.timebase_hz,
        }

    def _ticks(self, now: int) -> int:
        return now * self.timebase_hz // NS_PER_SECOND

    def _follow_timecmp(self, hart: int) -> bool:
        """Arm the hart's timer for the next change of its line, and tell whether `mtimecmp` has come already."""
        # One look at the clock: it may run on between two.
        ticks = self._ticks(self._clock.now())
        mtime = (ticks + self.state.time_delta) & mask(64)
        timecmp = self.state.timecmp[hart]
        reached = mtime >= timecmp
        missing = (1 << 64 if reached else timecmp) - mtime
        deadline = -(-(ticks + missing) * NS_PER_SECOND // self.timebase_hz)
        self._timers[hart].set(deadline if deadline < CLOCK_LIMIT else None)
        return reached

    def _compare(self, hart: int) -> None:
        self.lines[hart].set(self._follow_timecmp(hart))

    def _read(self, offset: int, size: int) -> int:
        hart = (offset - MTIMECMP_BASE) // 8
        if hart < len(self.lines):
            return extract_bytes(self.state.timecmp[hart], offset & 7, size)
        if offset >= MTIME:
            return extract_bytes(self.mtime(), offset - MTIME, size)
        guest_errors.debug("%s: read of no register at 0x%x", self.kind, offset)
        return 0

    def _write(self, offset: int, size: int, value: int) -> None:
        hart = (offset - MTIMECMP_BASE) // 8
        if hart < len(self.lines):
            self.state.timecmp[hart] = replace_bytes(self.state.timecmp[hart], offset & 7, size, value)
            self._compare(hart)
        elif offset >= MTIME:
            ticks = self._ticks(self._clock.now())
            mtime = replace_bytes((ticks + self.state.time_delta) & mask(64), offset - MTIME, size, value)
            self.state.time_delta = (mtime - ticks) & mask(64)
            for each in range(len(self.lines)):
                self._compare(each)
        else:
            guest_errors.debug("%s: write of 0x%x to no register at 0x%x", self.kind, value, offset)
