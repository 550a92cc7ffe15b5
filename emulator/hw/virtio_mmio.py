"""An empty virtio-mmio transport: the slot that a guest probes and finds unused.

Models: QEMU's `virtio-mmio` with nothing plugged into it. Source: Virtual I/O Device (VIRTIO) Version 1.1, section 4.2;
the virt board has eight of these, legacy (version 1) unless `force-legacy` is off.
Regions: one of 0x200 bytes; registers below 0x100, the device's configuration from there. Lines: one. Clocks: none.

With no backend every register reads as zero except magic, version and vendor, so a guest sees device id 0 and moves
on; writes go nowhere. The selector and queue registers belong to a plugged backend and come with it, as they do in
QEMU, whose migration stream has no section for an empty transport.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from emulator.core import log
from emulator.core.bits import extract_bytes
from emulator.core.bus import MmioRegion
from emulator.core.device import Device
from emulator.core.irq import IrqLine

REGION_SIZE = 0x200

MAGIC_VALUE = 0x000
VERSION = 0x004
VENDOR_ID = 0x00C

MAGIC = 0x74726976
"""`virt` in little-endian ASCII."""
VENDOR = 0x554D4551
"""`QEMU` in little-endian ASCII."""
LEGACY_VERSION = 1
MODERN_VERSION = 2

WORD = 4
"""The widest access the registers see; QEMU's bus splits a wider one."""


@dataclass(slots=True)
class VirtioMmioState:
    """Nothing: a transport without a backend ignores all writes."""


class VirtioMmio(Device):
    """One transport; `irq` stays low, for only a backend raises it."""

    kind: ClassVar[str] = "virtio-mmio"
    state: VirtioMmioState

    def __init__(self, irq: IrqLine, *, force_legacy: bool = True) -> None:
        self.irq = irq
        self.force_legacy = force_legacy
        self.state = VirtioMmioState()
        version = LEGACY_VERSION if force_legacy else MODERN_VERSION
        self._registers = {MAGIC_VALUE: MAGIC, VERSION: version, VENDOR_ID: VENDOR}
        self.regions = (MmioRegion("virtio-mmio", REGION_SIZE, self._read, self._write),)

    def adopt(self, state: VirtioMmioState) -> None:
        """Take over a complete state; the line is low."""
        self.state = state
        self.irq.restore_level(False)

    def properties(self) -> dict[str, object]:
        """QEMU's property names."""
        return {"format_transport_address": True, "force-legacy": self.force_legacy, "ioeventfd": False}

    def _read(self, offset: int, size: int) -> int:
        """A narrow read returns the low bytes of the register that starts there, and zero inside a register."""
        if size > WORD:
            return self._read(offset, WORD) | self._read(offset + WORD, WORD) << 8 * WORD
        return extract_bytes(self._registers.get(offset, 0), 0, size)

    def _write(self, offset: int, size: int, value: int) -> None:
        log.guest_errors.debug(
            "virtio-mmio: write of 0x%x (%d bytes) at 0x%x of an empty transport", value, size, offset
        )
