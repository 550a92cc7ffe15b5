"""The `virt` board as numbers: where everything sits, which interrupt it raises, how fast its clocks run.

Source: QEMU 7.2's `virt` machine, as its `info mtree` and its device tree show it. Addresses and sizes are bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from emulator.core.bits import align_up

KIB, MIB, GIB = 1 << 10, 1 << 20, 1 << 30


class Window(NamedTuple):
    """A range of physical addresses."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """The first address behind the window."""
        return self.base + self.size

    def holds(self, start: int, end: int) -> bool:
        """Whether the addresses from `start` up to, not including, `end` lie in the window."""
        return self.base <= start and end <= self.end


MROM = Window(0x1000, 0xF000)
TEST = Window(0x100000, 0x1000)
RTC = Window(0x101000, 0x1000)
CLINT = Window(0x2000000, 0x10000)
ACLINT_MTIMER_OFFSET = 0x4000
PCIE_PIO = Window(0x3000000, 0x10000)
PLATFORM_BUS = Window(0x4000000, 0x2000000)
PLIC = Window(0xC000000, 0x600000)
UART0 = Window(0x10000000, 0x100)
VIRTIO = Window(0x10001000, 0x1000)
"""The first virtio-mmio transport; the others follow, one window apart."""
FW_CFG = Window(0x10100000, 0x18)
FLASH = Window(0x20000000, 0x4000000)
"""Two banks, each half of the window."""
PCIE_ECAM = Window(0x30000000, 0x10000000)
PCIE_MMIO = Window(0x40000000, 0x40000000)
DRAM_BASE = 0x80000000
RAM_BLOCK = "riscv_virt_board.ram"
"""What streams call its memory."""

VIRTIO_COUNT = 8
FLASH_BANKS = (Window(FLASH.base, FLASH.size // 2), Window(FLASH.base + FLASH.size // 2, FLASH.size // 2))

PLIC_SOURCES = 96
"""Interrupt numbers of the PLIC, 0 (which means none) included."""
PLIC_PRIORITIES = 7
VIRTIO_IRQ = 1
UART0_IRQ = 10
RTC_IRQ = 11
PCIE_IRQ = 32
"""INTA; INTB to INTD follow."""
PCIE_PINS = 4

TIMEBASE_HZ = 10_000_000
UART_CLOCK_HZ = 3_686_400


def dram(ram_size: int) -> Window:
    """Where `ram_size` bytes of RAM sit."""
    return Window(DRAM_BASE, ram_size)


def pcie_high_mmio(ram_size: int) -> Window:
    """The 64-bit PCIe window: 16 GiB, at the first multiple of its size behind RAM."""
    size = 16 * GIB
    return Window(align_up(DRAM_BASE + ram_size, size), size)
