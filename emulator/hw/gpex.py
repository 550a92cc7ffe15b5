"""The generic PCI Express host bridge, with nothing behind it but its own function 0:0.0.

Models: QEMU's `gpex-pcihost` and the `gpex-root` function on its bus. Sources: PCI Local Bus Specification 3.0,
section 6 (configuration space); PCI Express Base Specification, section 7.2.2 (ECAM).
Regions: the ECAM window (256 buses, 4 KiB for each function) and three windows onto PCI space: 32-bit memory, I/O
ports, 64-bit memory. The board places them; the 64-bit one lies at the first multiple of its size behind RAM.
Lines: INTA to INTD of the root bus. Clocks: none.

State in a stream, as in QEMU 7.2: sections `0000:00:00.0/gpex_root`, `PCIHost` and `PCIBUS`. The configuration space of
a stream must be that of the same function: what no guest can change is compared, in the bytes that QEMU compares.

gpex-root is a conventional function: 256 bytes of configuration, no base address register, no capability. All other
functions, and all of PCI space, read as ones and ignore writes. Left out: devices on the bus and whatever only they
would use (base address registers, MSI, bus mastering).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from emulator.core import log
from emulator.core.bits import mask
from emulator.core.bus import MmioRegion
from emulator.core.device import Device
from emulator.core.irq import IrqLine
from emulator.migration.errors import FieldMismatchError, StateError
from emulator.migration.fields import Info, Int32, Int32Equal, Int32Le, Single, Struct, UInt32, VArray, WithTmp
from emulator.migration.fields.base import Entry
from emulator.migration.vmstate import VMStateDescription
from emulator.migration.wire import Reader, Writer

ECAM_SIZE = 0x1000_0000
MMIO_SIZE = 0x4000_0000
IO_SIZE = 0x1_0000
HIGH_MMIO_SIZE = 0x4_0000_0000
INTX_LINES = 4

FUNCTIONS = 1
CONFIG_SIZE = 256
EXPRESS_CONFIG_SIZE = 4096
HEADER_SIZE = 0x40
WORD = 4
"""The widest access configuration space sees; QEMU's bus splits a wider one."""

VENDOR_ID = 0x00
DEVICE_ID = 0x02
COMMAND = 0x04
STATUS = 0x06
CACHE_LINE_SIZE = 0x0C
REVISION_ID = 0x08
CLASS_PROG = 0x09
CLASS_DEVICE = 0x0A
HEADER_TYPE = 0x0E
SUBSYSTEM_VENDOR_ID = 0x2C
SUBSYSTEM_ID = 0x2E
CAPABILITY_LIST = 0x34
INTERRUPT_LINE = 0x3C

STATUS_CAP_LIST = 0x0010

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
IDENTITY = bytes(
    _config_bytes(
        CONFIG_SIZE,
        {
            VENDOR_ID: 0xFFFF,
            DEVICE_ID: 0xFFFF,
            STATUS: STATUS_CAP_LIST,
            REVISION_ID: 0xFF | 0xFF << 8 * (CLASS_PROG - REVISION_ID),
            CLASS_DEVICE: 0xFFFF,
            HEADER_TYPE: 0x00FF,
            CAPABILITY_LIST: 0x00FF,
        },
    )
)
"""Which bits say what kind of function it is."""
COMPARED = int.from_bytes(IDENTITY, "little") & ~int.from_bytes(WRITABLE, "little")
COMPARED &= ~int.from_bytes(WRITE_1_TO_CLEAR, "little")
"""Which bits of a stream's configuration space must be those of the function that it is loaded into."""


@dataclass(slots=True)
class PciFunction:
    """What each function on a bus keeps: QEMU's PCIDevice."""

    version_id: int = 2
    """The newest layout of this state that the function knows; a peer's may be older."""
    config: bytearray = field(default_factory=gpex_root_config)
    irq_state: list[int] = field(default_factory=lambda: [0] * INTX_LINES)
    """Whether it asserts each of its interrupt pins."""


@dataclass(slots=True)
class GpexState:
    """What the bridge, its bus and function 0:0.0 keep."""

    config_reg: int = 0
    """The address register of the configuration mechanism with ports, which this bridge does not have."""
    irq_count: list[int] = field(default_factory=lambda: [0] * INTX_LINES)
    """How many functions assert each of INTA to INTD."""
    root: PciFunction = field(default_factory=PciFunction)
    """Function 0:0.0, the only one."""


class PciConfig(Info):
    """A configuration space of `size` bytes, of which the receiver's own says what may differ."""

    type_name = "pci config"

    def __init__(self, size: int) -> None:
        self._size = size

    def put(self, writer: Writer, value: Any, _entry: Entry | None = None) -> None:
        """Append the bytes."""
        if len(value) != self._size:
            raise StateError(f"{self._size} bytes", len(value))
        writer.write(value)

    def get(self, reader: Reader, current: Any) -> bytearray:
        """Read the bytes; raises FieldMismatchError for another kind of function."""
        begin = reader.offset
        config = bytearray(reader.read(self._size))
        if wrong := (int.from_bytes(config, "little") ^ int.from_bytes(current, "little")) & COMPARED:
            index = ((wrong & -wrong).bit_length() - 1) // 8
            expected, got = f"0x{current[index]:02x}, as it is here", f"0x{config[index]:02x}"
            raise FieldMismatchError(expected, got, field=f"[{index}]", offset=begin + index)
        return config


class PciIrqState(Info):
    """Whether each of a function's interrupt pins is asserted: 32 bits each, 0 or 1."""

    type_name = "pci irq state"
    _pin = UInt32.below(2)

    def put(self, writer: Writer, value: Any, _entry: Entry | None = None) -> None:
        """Append the pins."""
        self._pin.put_many(writer, value)

    def get(self, reader: Reader, current: Any) -> Any:
        """Read the pins."""
        return list(self._pin.get_many(reader, current))


def _is_express(function: PciFunction, _version_id: int) -> bool:
    return len(function.config) > CONFIG_SIZE


def _is_conventional(function: PciFunction, _version_id: int) -> bool:
    return len(function.config) == CONFIG_SIZE


VMSTATE_PCI_FUNCTION = VMStateDescription(
    "PCIDevice",
    PciFunction,
    version_id=2,
    minimum_version_id=1,
    fields=(
        Int32Le("version_id"),
        Single("config", PciConfig(CONFIG_SIZE), field_exists=_is_conventional),
        Single("config", PciConfig(EXPRESS_CONFIG_SIZE), field_exists=_is_express),
        Single("irq_state", PciIrqState(), version_id=2),
    ),
)
VMSTATE_GPEX_ROOT = VMStateDescription(
    "gpex_root",
    GpexState,
    version_id=1,
    minimum_version_id=1,
    fields=(Struct("root", VMSTATE_PCI_FUNCTION, wire_name="parent_obj"),),
)
VMSTATE_PCI_HOST = VMStateDescription(
    "PCIHost", GpexState, version_id=1, minimum_version_id=1, fields=(UInt32("config_reg"),)
)


@dataclass(slots=True)
class PciBusTmp:
    """The wire form of a bus's interrupt counters, which says how many there are; here the list knows."""

    parent: GpexState
    nirq: int = INTX_LINES


VMSTATE_PCI_BUS = VMStateDescription(
    "PCIBUS",
    GpexState,
    version_id=1,
    minimum_version_id=1,
    fields=(
        WithTmp(
            VMStateDescription(
                "PCIBUS/tmp",
                PciBusTmp,
                fields=(
                    Int32Equal("nirq"),
                    VArray("parent.irq_count", Int32.below(FUNCTIONS + 1), "nirq", wire_name="irq_count"),
                ),
            ),
            inline=True,
        ),
    ),
)


class Gpex(Device):
    """The host bridge; `intx` are the four lines INTA to INTD; `regions` are ECAM, 32-bit, I/O and 64-bit window."""

    kind: ClassVar[str] = "gpex-pcihost"
    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {
        "0000:00:00.0/gpex_root": VMSTATE_GPEX_ROOT,
        "PCIHost": VMSTATE_PCI_HOST,
        "PCIBUS": VMSTATE_PCI_BUS,
    }
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
        fresh.root.config[HEADER_SIZE:] = self.state.root.config[HEADER_SIZE:]
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
        return int.from_bytes(self.state.root.config[offset : offset + size], "little")

    def _ecam_write(self, offset: int, size: int, value: int) -> None:
        config = self.state.root.config
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
