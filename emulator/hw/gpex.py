"""The generic PCI Express host bridge, with nothing behind it but its own function 0:0.0.

Models: QEMU's `gpex-pcihost` and the `gpex-root` function on its bus. Sources: PCI Local Bus Specification 3.0,
section 6 (configuration space); PCI Express Base Specification, section 7.2.2 (ECAM).
Regions: the ECAM window (256 buses, 4 KiB for each function) and three windows onto PCI space: 32-bit memory, I/O
ports, 64-bit memory. The board places them; the 64-bit one lies at the first multiple of its size behind RAM.
Lines: INTA to INTD of the root bus. Clocks: none.

gpex-root is a conventional function: 256 bytes of configuration, no base address register, no capability. All other
functions, and all of PCI space, read as ones and ignore writes. Left out: devices on the bus and whatever only they
would use (base address registers, MSI, bus mastering).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from emulator.core import log
from emulator.core.bits import mask
from emulator.core.bus import MmioRegion
from emulator.core.device import Device
from emulator.core.irq import IrqLine

ECAM_SIZE = 0x1000_0000
MMIO_SIZE = 0x4000_0000
IO_SIZE = 0x1_0000
HIGH_MMIO_SIZE = 0x4_0000_0000
INTX_LINES = 4

CONFIG_SIZE = 256
HEADER_SIZE = 0x40
WORD = 4
"""The widest access configuration space sees; QEMU's bus splits a wider one."""

VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
STATUS = 0x06
CACHE_LINE_SIZE = 0x0C
CLASS_DEVICE = 0x0A
SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
INTERRUPT_LINE = 0x3C

COMMAND_WRITABLE = 0x0507
"""I/O space, memory space, bus master, SERR# enable, interrupt disable."""
STATUS_ERRORS = 0xF900
"""Master parity error, signalled and received target abort, received master abort, signalled system error, parity."""


def _config_bytes(size: int, fields: dict[int, int]) -> bytearray:
    """Configuration space, or a mask over it, from 16-bit little-endian fields by offset."""
    config = bytearray(size)
    for offset, value in fields.items():
        config[offset : offset + 2] = value.to_bytes(2, "little")
    return config


def gpex_root_config() -> bytearray:
    """Function 0:0.0 after reset: a host bridge made by Red Hat, header type 0."""
    return _config_bytes(
        CONFIG_SIZE,
        {
            VENDOR_ID: 0x1B36,
            DEVICE_ID: 0x0008,
            CLASS_DEVICE: 0x0600,
            SUBSYSTEM_VENDOR_ID: 0x1AF4,
            SUBSYSTEM_ID: 0x1100,
        },
    )


WRITABLE = bytes(
    _config_bytes(HEADER_SIZE, {COMMAND: COMMAND_WRITABLE, CACHE_LINE_SIZE: 0x00FF, INTERRUPT_LINE: 0x00FF})
) + b"\xff" * (CONFIG_SIZE - HEADER_SIZE)
"""Which bits a guest can set and clear; QEMU lets it keep what it likes behind the header."""
WRITE_1_TO_CLEAR = bytes(_config_bytes(CONFIG_SIZE, {STATUS: STATUS_ERRORS}))


@dataclass(slots=True)
class GpexState:
    """What the bridge, its bus and function 0:0.0 keep; QEMU spreads it over PCIHost, PCIBUS and gpex_root."""

    config_reg: int = 0
    """PCIHost: the address register of the configuration mechanism with ports, which this bridge does not have."""
    irq_count: list[int] = field(default_factory=lambda: [0] * INTX_LINES)
    """PCIBUS: how many functions assert each of INTA to INTD."""
    config: bytearray = field(default_factory=gpex_root_config)
    """gpex_root: its configuration space."""
    irq_state: list[int] = field(default_factory=lambda: [0] * INTX_LINES)
    """gpex_root: whether it asserts each of its own interrupt pins."""


class Gpex(Device):
    """The host bridge; `intx` are the four lines INTA to INTD; `regions` are ECAM, 32-bit, I/O and 64-bit window."""

    kind: ClassVar[str] = "gpex-pcihost"
    state: GpexState

    def __init__(self, intx: Sequence[IrqLine]) -> None:
        if len(intx) != INTX_LINES:
            raise ValueError(f"a PCI host bridge has {INTX_LINES} interrupt lines, not {len(intx)}")
        self.intx = tuple(intx)
        self.state = GpexState()
        self.regions = (
            MmioRegion("pcie-mmcfg-mmio", ECAM_SIZE, self._ecam_read, self._ecam_write),
            *(
                MmioRegion(name, size, _read_nothing, _write_nothing)
                for name, size in (
                    ("gpex_mmio_window", MMIO_SIZE),
                    ("gpex_ioport_window", IO_SIZE),
                    ("gpex_mmio_window", HIGH_MMIO_SIZE),
                )
            ),
        )

    def reset(self) -> None:
        """Reset the bus; what the guest stored behind the header of 0:0.0 survives, as in QEMU."""
        fresh = GpexState()
        fresh.config[HEADER_SIZE:] = self.state.config[HEADER_SIZE:]
        self.adopt(fresh)

    def adopt(self, state: GpexState) -> None:
        """Take over a complete state; a line is high while any function asserts it."""
        self.state = state
        for line, count in zip(self.intx, state.irq_count, strict=True):
            line.restore_level(count != 0)

    def properties(self) -> dict[str, object]:
        """QEMU's property names."""
        return {
            "allow-unmapped-accesses": True,
            "x-config-reg-migration-enabled": True,
            "bypass-iommu": False,
        }

    def _ecam_read(self, offset: int, size: int) -> int:
        if size > WORD:
            return self._ecam_read(offset, WORD) | self._ecam_read(offset + WORD, WORD) << 8 * WORD
        if offset >= CONFIG_SIZE:
            return mask(8 * size)
        return int.from_bytes(self.state.config[offset : offset + size], "little")

    def _ecam_write(self, offset: int, size: int, value: int) -> None:
        config = self.state.config
        for index, new in enumerate(value.to_bytes(size, "little"), offset):
            if index >= CONFIG_SIZE:
                log.guest_errors.debug("gpex: write of 0x%x at ECAM offset 0x%x, where no function is", new, index)
                return
            kept = config[index] & ~(new & WRITE_1_TO_CLEAR[index])
            config[index] = (kept & ~WRITABLE[index]) | (new & WRITABLE[index])


def _read_nothing(_offset: int, size: int) -> int:
    """No function claims the address: the bus floats high."""
    return mask(8 * size)


def _write_nothing(offset: int, size: int, value: int) -> None:
    log.guest_errors.debug("gpex: write of 0x%x (%d bytes) at 0x%x of PCI space, unclaimed", value, size, offset)
