"""The board `virt`, as QEMU 7.2 has it: its chips, wired to each other and placed on the bus.

`layout` says where everything sits, `boot` what lies in memory when the CPU starts. Everything is created in the order
in which QEMU creates it, since the order of a migration stream's sections and RAM blocks follows from that.
Left out: ACLINT's second address layout, the AIA interrupt controllers, devices on the platform bus.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

from emulator.boards import boot, layout
from emulator.boards.config import BoardConfig
from emulator.core.bus import AddressMap
from emulator.core.charport import CharPort
from emulator.core.clock import VirtualClock
from emulator.core.device import Device
from emulator.core.errors import ConfigError, ImageError
from emulator.core.irq import IrqLine
from emulator.core.memory import RamBlock
from emulator.hw.acpi_build import TABLES, AcpiBuild
from emulator.hw.fw_cfg import STANDARD_FILES, FwCfg, standard_items
from emulator.hw.goldfish_rtc import GoldfishRtc
from emulator.hw.gpex import Gpex
from emulator.hw.ns16550a import Ns16550a
from emulator.hw.pflash_cfi01 import PflashCfi01
from emulator.hw.riscv_aclint import RiscvAclintMtimer, RiscvAclintSwi, SwiState
from emulator.hw.sifive_plic import SifivePlic
from emulator.hw.sifive_test import SifiveTest
from emulator.hw.virtio_mmio import VirtioMmio

SUPPORTED_HARTS = 1
"""What the CPU engine runs; board and device tree are ready for more."""


@dataclass(frozen=True, slots=True)
class CpuLines:
    """The interrupt lines into one hart, for the machine to connect: the bits of `mip` that hardware drives."""

    msip: IrqLine
    mtip: IrqLine
    meip: IrqLine
    seip: IrqLine

    @classmethod
    def of_hart(cls, hart: int) -> CpuLines:
        """New lines, named after the hart."""
        return cls(*(IrqLine(f"hart{hart}.{name}") for name in cls.__slots__))


@dataclass(frozen=True, slots=True)
class Requests:
    """What the guest can ask of the machine that it runs in."""

    on_exit: Callable[[int], None]
    """End with this exit code, 0 to 0xffff."""
    on_reset: Callable[[], None]


class RomDevice(NamedTuple):
    """Memory that the guest reads as such in the device's array mode, while every store goes to the device.

    Whoever maps the block for the guest listens to the device's `on_mode_change`.
    """

    base: int
    block: RamBlock
    device: PflashCfi01


class VirtBoard:
    """One board without its CPU: memory, devices, lines and images, ready for the CPU to leave reset.

    Raises ConfigError or ImageError, and then keeps nothing.
    """

    def __init__(self, config: BoardConfig, clock: VirtualClock, port: CharPort, requests: Requests) -> None:
        if config.smp > SUPPORTED_HARTS:
            raise ConfigError(f"-smp {config.smp} is not supported yet: this machine has {SUPPORTED_HARTS} CPU")
        self.config = config
        self.boot = boot.prepare(config)
        self.bus = AddressMap()
        self.lines = tuple(CpuLines.of_hart(hart) for hart in range(config.smp))
        self.devices: dict[str, Device] = {}
        """By QOM type name, numbered where there are several, in the order of creation."""
        self.ram_blocks: list[RamBlock] = []
        """In the order of creation; a migration stream sorts them by size, largest first, keeping this order."""
        self.rom_devices: list[RomDevice] = []
        try:
            self._create_interrupt_controllers(clock)
            self._create_memory()
            self._create_devices(clock, port, requests)
            self._write_images(blank=True)
        except BaseException:
            self.close()
            raise

    @property
    def reset_address(self) -> int:
        """Where each hart starts to fetch: the reset vector in the mask ROM."""
        return layout.MROM.base

    def mtime(self) -> int:
        """The present value of `mtime` and of the `time` CSR, in ticks of the timebase."""
        return self._mtimer.mtime()

    def poll_input(self) -> None:
        """Let the UART take waiting input, as far as it has room."""
        self._uart.poll_input()

    def restore_software_interrupts(self, *pending: int) -> None:
        """After loading: each hart's MSIP, which streams carry in the hart's `mip` only; no edges."""
        self._swi.adopt(SwiState([int(bool(bit)) for bit in pending]))

    def send_break(self) -> None:
        """Let the UART receive a break, as if somebody held the line."""
        self._uart.receive_break()

    def reset(self) -> None:
        """Reset all devices and put the images back, the device tree with a fresh seed; the CPU is the machine's."""
        for device in self.devices.values():
            device.reset()
        self.boot.reseed()
        self._write_images(blank=False)

    def close(self) -> None:
        """Give the memory back; the engine must have been closed before."""
        while self.ram_blocks:
            self.ram_blocks.pop().close()

    def _create_interrupt_controllers(self, clock: VirtualClock) -> None:
        self._swi = RiscvAclintSwi([hart.msip for hart in self.lines])
        self._attach("riscv.aclint.swi", self._swi, layout.CLINT.base)
        mtip = [hart.mtip for hart in self.lines]
        self._mtimer = RiscvAclintMtimer(clock, mtip, timebase_hz=layout.TIMEBASE_HZ)
        self._attach("riscv.aclint.mtimer", self._mtimer, layout.CLINT.base + layout.ACLINT_MTIMER_OFFSET)
        contexts = [line for hart in self.lines for line in (hart.meip, hart.seip)]
        self._plic = SifivePlic(contexts, sources=layout.PLIC_SOURCES, priorities=layout.PLIC_PRIORITIES)
        self._attach("riscv.sifive.plic", self._plic, layout.PLIC.base)

    def _create_memory(self) -> None:
        self.bus.add(layout.DRAM_BASE, self._block(layout.RAM_BLOCK, self.config.ram_size))
        self.bus.add(layout.MROM.base, self._block("riscv_virt_board.mrom", layout.MROM.size, readonly=True))

    def _create_devices(self, clock: VirtualClock, port: CharPort, requests: Requests) -> None:
        config = self.config
        self._attach("riscv.sifive.test", SifiveTest(requests.on_exit, requests.on_reset), layout.TEST.base)
        for index in range(layout.VIRTIO_COUNT):
            name = f"virtio-mmio.{index}"
            virtio = VirtioMmio(self._irq(name, layout.VIRTIO_IRQ + index), force_legacy=config.force_legacy_virtio)
            self._attach(name, virtio, layout.VIRTIO.base + index * layout.VIRTIO.size)
        if config.machine_type.fw_cfg_first:
            self._create_fw_cfg()
        gpex = Gpex([self._irq(f"INT{'ABCD'[pin]}", layout.PCIE_IRQ + pin) for pin in range(layout.PCIE_PINS)])
        high_mmio = layout.pcie_high_mmio(config.ram_size)
        pcie = (layout.PCIE_ECAM, layout.PCIE_MMIO, layout.PCIE_PIO, high_mmio)
        self._attach("gpex-pcihost", gpex, *(window.base for window in pcie))
        self._uart = Ns16550a(self._irq("serial", layout.UART0_IRQ), clock, port)
        self._attach("serial-mm", self._uart, layout.UART0.base)
        rtc = GoldfishRtc(self._irq("rtc", layout.RTC_IRQ), clock, partial(self._wall_ns, clock))
        self._attach("goldfish_rtc", rtc, layout.RTC.base)
        for index, (window, image) in enumerate(zip(layout.FLASH_BANKS, config.pflash, strict=True)):
            self._create_flash(index, window, image)
        if not config.machine_type.fw_cfg_first:
            self._create_fw_cfg()
        if self._has_acpi:
            self._create_acpi_tables()

    def _create_fw_cfg(self) -> None:
        config = self.config
        items = standard_items(cpus=config.smp, nographic=config.nographic, uuid=config.uuid)
        items |= self.boot.fw_cfg_items
        tables = [(table.used, table.size) for table in TABLES] if self._has_acpi else []
        self._attach("fw_cfg_mem", FwCfg(self.bus, items, STANDARD_FILES, tables), layout.FW_CFG.base)

    @property
    def _has_acpi(self) -> bool:
        return self.config.acpi and self.config.machine_type.has_acpi

    def _create_acpi_tables(self) -> None:
        for table in TABLES:
            self._block(table.name, table.size, readonly=True, reserved=table.reserved)
        self._attach("virt_acpi_build", AcpiBuild())

    def _create_flash(self, index: int, window: layout.Window, image: Path | None) -> None:
        block = self._block(f"virt.flash{index}", window.size, readonly=True)
        if image:
            _fill_flash(block, image)
        device = PflashCfi01(block, on_mode_change=lambda _array_mode: None)
        self._attach(f"cfi.pflash01.{index}", device, window.base)
        self.rom_devices.append(RomDevice(window.base, block, device))

    def _attach(self, name: str, device: Device, *bases: int) -> None:
        self.devices[name] = device
        for base, region in zip(bases, device.regions, strict=True):
            self.bus.add(base, region)

    def _block(self, name: str, size: int, *, readonly: bool = False, reserved: int = 0) -> RamBlock:
        block = RamBlock(name, size, readonly=readonly, reserved=reserved)
        self.ram_blocks.append(block)
        return block

    def _irq(self, name: str, source: int) -> IrqLine:
        line = IrqLine(name)
        self._plic.connect(source, line)
        return line

    def _wall_ns(self, clock: VirtualClock) -> int:
        base = self.config.wall_base_ns
        return time.time_ns() if base is None else base + clock.now()

    def _write_images(self, *, blank: bool) -> None:
        self.bus.write_ram(layout.MROM.base, self.boot.mask_rom)
        self.boot.images.write(self.bus, blank=blank)


def _fill_flash(block: RamBlock, image: Path) -> None:
    """Load a bank's content; raises ImageError unless the file is exactly as large as the bank."""
    try:
        with image.open("rb") as stream:
            length = stream.readinto(block.view) + len(stream.read(1))
    except OSError as error:
        raise ImageError(f"could not load flash image '{image}': {error.strerror or error}") from error
    if length != block.size:
        size = "more" if length > block.size else length
        raise ImageError(f"{block.name} requires {block.size} bytes, {image.name} provides {size}")
