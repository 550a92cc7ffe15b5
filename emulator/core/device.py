"""What a device is: register windows, interrupt lines, a state object, reset."""

from __future__ import annotations

from collections.abc import Mapping
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

    vmstate: ClassVar[Mapping[str, Any]] = {}
    """The sections that the device has in a stream: a VMStateDescription of `state` for each section name."""

    state: Any
    regions: tuple[MmioRegion, ...] = ()

    def fresh(self) -> Any:
        """A state as after power-on, sized for this device's wiring: what a stream is loaded into."""
        return type(self.state)()

    def check(self, state: Any) -> None:
        """Refuse, by a StreamError, a loaded state that this very device cannot have; nothing has changed yet."""

    def reset(self) -> None:
        """Put the chip into the state after reset."""
        self.adopt(self.fresh())

    def adopt(self, state: Any) -> None:
        """Take over a complete state, after reset or from a stream; lines and timers follow it, without an edge."""
        raise NotImplementedError

    def properties(self) -> dict[str, object]:
        """What `info qtree` shows of the device, by QEMU's property names."""
        return {}
