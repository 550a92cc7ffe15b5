"""SiFive's test finisher: how a guest ends its run, with an exit status, or asks for a reset.

Datasheet: none beyond the FE310's test status register; the values are those that OpenSBI, Linux (`syscon-poweroff`)
and QEMU agree on. One region of 0x1000 bytes, accesses of 2 to 4 bytes; no lines, no clock, no state: reads return 0.
"""

from __future__ import annotations

from collections.abc import Callable

from emulator.core.bus import MmioRegion
from emulator.core.device import Device
from emulator.core.log import guest_errors

SIZE = 0x1000
FINISHER_FAIL = 0x3333
FINISHER_PASS = 0x5555
FINISHER_RESET = 0x7777


class SifiveTest(Device):
    """The finisher; calls `on_exit(code)` with the guest's code, 0 to 0xffff, or `on_reset()`."""

    kind = "riscv.sifive.test"
    state: None = None

    def __init__(self, on_exit: Callable[[int], None], on_reset: Callable[[], None]) -> None:
        self._actions: dict[int, Callable[[int], None]] = {
            FINISHER_FAIL: on_exit,
            FINISHER_PASS: lambda _code: on_exit(0),
            FINISHER_RESET: lambda _code: on_reset(),
        }
        self.regions = (MmioRegion(self.kind, SIZE, self._read, self._write, min_size=2, max_size=4),)

    def adopt(self, state: None) -> None:
        """Nothing to take over."""

    def _read(self, _offset: int, _size: int) -> int:
        return 0

    def _write(self, offset: int, _size: int, value: int) -> None:
        action = self._actions.get(value & 0xFFFF) if offset == 0 else None
        if action is None:
            guest_errors.debug("%s: write of 0x%x at 0x%x means nothing", self.kind, value, offset)
        else:
            action(value >> 16)
