"""What a device is: register windows, interrupt lines, a state object, reset."""

from __future__ import annotations

from typing import Any, ClassVar

from emulator.core.bus import MmioRegion


class Device:
    """Base of every chip on the board.

    All that the guest can observe lives in one slotted dataclass, `state`, whose defaults are the values after reset.
    Wiring (interrupt lines, clocks, character devices, RAM) stays outside of it, is handed to the constructor and
    survives reset. Registers are reached through `regions`.
    """

    kind: ClassVar[str]
    """QEMU's type name for the device, such as `serial-mm`."""

    state: Any
    regions: tuple[MmioRegion, ...] = ()

    def reset(self) -> None:
        """Put the chip into the state after reset."""
        self.adopt(type(self.state)())

    def adopt(self, state: Any) -> None:
        """Take over a complete state, after reset or from a stream; lines and timers follow it, without an edge."""
        raise NotImplementedError

    def properties(self) -> dict[str, object]:
        """What `info qtree` shows of the device, by QEMU's property names."""
        return {}
