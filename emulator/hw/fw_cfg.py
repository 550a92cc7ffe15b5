"""The firmware configuration device: named and numbered blobs that the machine hands to its firmware.

Models: QEMU's `fw_cfg_mem` with DMA and a data register of 8 bytes. Source: QEMU Firmware Configuration (fw_cfg)
Device, in QEMU's documentation of specifications.
Regions: one of 0x18 bytes: data at 0x0, selector (2 bytes, big-endian, write only) at 0x8, DMA address (8 bytes,
big-endian) at 0x10. Lines and clocks: none.

State in a stream: section `fw_cfg` as QEMU 7.2 has it, with `fw_cfg/dma`, which a device with DMA always sends, and
`fw_cfg/acpi_mr`, the sizes of ACPI tables, from a board that has memory for some (see `acpi_build.py`).

All items are read-only and are wiring, not state: the board makes them anew, and a guest cannot change them. Left out:
writable items and items with callbacks, which no device of the board adds, and the items that ACPI tables are. QEMU
answers an access that no register takes with an access fault; here it reads as zero, or is ignored, and is logged.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import ClassVar

from emulator.core import log
from emulator.core.bus import AddressMap, MmioRegion
from emulator.core.device import Device
from emulator.core.errors import ConfigError, MemoryAccessError
from emulator.core.memory import RamBlock
from emulator.migration.errors import FieldRangeError
from emulator.migration.fields import UInt16, UInt32, UInt64
from emulator.migration.vmstate import VMStateDescription

REGION_SIZE = 0x18
DATA = 0x00
SELECTOR = 0x08
DMA_ADDRESS = 0x10

DMA_SIGNATURE = b"QEMU CFG"
"""What the DMA address register reads as."""
DMA_DESCRIPTOR = struct.Struct(">IIQ")
"""Control, length, address: what the DMA address register points at."""
DMA_ERROR = 0x01
DMA_READ = 0x02
DMA_SKIP = 0x04
DMA_SELECT = 0x08
DMA_WRITE = 0x10
ZEROES = bytes(1 << 16)
"""A read past the end of an item yields zeroes, as many as asked for; this many at a time."""

FILE_SLOTS = 32
FILE_FIRST = 0x20
KEY_LIMIT = FILE_FIRST + FILE_SLOTS
FILE_NAME_SIZE = 56
FILE_ENTRY = struct.Struct(f">IHH{FILE_NAME_SIZE}s")
"""Size, selector key, reserved, name: an entry of the file directory."""

WRITE_CHANNEL = 0x4000
"""A bit of the key that nothing looks at any more."""
ARCH_LOCAL = 0x8000
"""A bit of the key that chooses the architecture's own items."""
ENTRY_MASK = 0x3FFF
INVALID = 0xFFFF
"""`cur_entry` after a key out of range."""


class Key(IntEnum):
    """Selector keys of the items that the device and the board define."""

    SIGNATURE = 0x00
    ID = 0x01
    UUID = 0x02
    NOGRAPHIC = 0x04
    NB_CPUS = 0x05
    KERNEL_SIZE = 0x08
    INITRD_SIZE = 0x0B
    BOOT_MENU = 0x0E
    KERNEL_DATA = 0x11
    INITRD_DATA = 0x12
    CMDLINE_SIZE = 0x14
    CMDLINE_DATA = 0x15
    FILE_DIR = 0x19


OWN_ITEMS: dict[int, bytes] = {Key.SIGNATURE: b"QEMU", Key.ID: struct.pack("<I", 0x3)}
"""Items that every such device has: who it is, and that it has the register interface (bit 0) and DMA (bit 1)."""

STANDARD_FILES: Mapping[str, bytes] = {"bios-geometry": b"", "bootorder": b"", "etc/boot-fail-wait": b"\xff" * 4}
"""The files that QEMU 7.2's virt board always has: no boot order, and no reboot after a failed boot."""


def standard_items(*, cpus: int, nographic: bool, uuid: bytes = bytes(16)) -> dict[int, bytes]:
    """The numbered items that QEMU 7.2's virt board always has, beyond the device's own; integers little-endian."""
    return {
        Key.UUID: uuid,
        Key.NOGRAPHIC: struct.pack("<H", nographic),
        Key.NB_CPUS: struct.pack("<H", cpus),
        Key.BOOT_MENU: struct.pack("<H", 0),
    }


def kernel_items(kernel: bytes, *, initrd: bytes | None, cmdline: str) -> dict[int, bytes]:
    """How the virt board hands kernel, initial RAM disk and command line to firmware in its second flash bank."""
    text = cmdline.encode() + b"\0"
    items: dict[int, bytes] = {
        Key.KERNEL_SIZE: struct.pack("<I", len(kernel)),
        Key.KERNEL_DATA: kernel,
        Key.CMDLINE_SIZE: struct.pack("<I", len(text)),
        Key.CMDLINE_DATA: text,
    }
    if initrd is not None:
        items |= {Key.INITRD_SIZE: struct.pack("<I", len(initrd)), Key.INITRD_DATA: initrd}
    return items


def _with_files(items: Mapping[int, bytes], files: Mapping[str, bytes]) -> dict[int, bytes]:
    """All items by key: the device's own, `items`, and `files` sorted by name behind their directory."""
    for key in items:
        if key & ~(ARCH_LOCAL | ENTRY_MASK) or key & ENTRY_MASK >= FILE_FIRST or key in (*OWN_ITEMS, Key.FILE_DIR):
            raise ConfigError(f"fw_cfg: item key 0x{key:x} is out of range or taken")
    if len(files) > FILE_SLOTS:
        raise ConfigError(f"fw_cfg: {len(files)} files, where {FILE_SLOTS} fit")
    table: dict[int, bytes] = {**OWN_ITEMS, **items}
    directory = bytearray(struct.pack(">I", len(files)))
    for key, (name, data) in enumerate(sorted((name.encode(), data) for name, data in files.items()), FILE_FIRST):
        if not 0 < len(name) < FILE_NAME_SIZE:
            raise ConfigError(f"fw_cfg: file name {name.decode()!r} is empty or longer than {FILE_NAME_SIZE - 1} bytes")
        directory += FILE_ENTRY.pack(len(data), key, 0, name)
        table[key] = data
    table[Key.FILE_DIR] = bytes(directory.ljust(4 + FILE_SLOTS * FILE_ENTRY.size, b"\0"))
    return table


@dataclass(slots=True)
class FwCfgState:
    """What is selected, how far it has been read, and a DMA address of which half is written."""

    cur_entry: int = int(Key.SIGNATURE)
    cur_offset: int = 0
    dma_addr: int = 0
    table_mr_size: int = 0
    linker_mr_size: int = 0
    rsdp_mr_size: int = 0
    """Bytes that ACPI tables take; nothing here looks at them."""


TABLE_SIZES = ("table_mr_size", "linker_mr_size", "rsdp_mr_size")


def _is_version_1(_state: FwCfgState, version_id: int) -> bool:
    return version_id == 1


def _is_version_2(_state: FwCfgState, version_id: int) -> bool:
    return version_id == 2


def _check_entry(state: FwCfgState, _version_id: int) -> None:
    if state.cur_entry != INVALID and state.cur_entry & ENTRY_MASK >= KEY_LIMIT:
        raise FieldRangeError("cur_entry", hex(state.cur_entry), "a key that can be selected")


VMSTATE_FW_CFG = VMStateDescription(
    "fw_cfg",
    FwCfgState,
    version_id=2,
    minimum_version_id=1,
    post_load=_check_entry,
    fields=(
        UInt16("cur_entry"),
        UInt16("cur_offset", field_exists=_is_version_1),
        UInt32("cur_offset", field_exists=_is_version_2),
    ),
    subsections=(
        VMStateDescription("fw_cfg/dma", FwCfgState, fields=(UInt64("dma_addr"),)),
        VMStateDescription(
            "fw_cfg/acpi_mr",
            FwCfgState,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: any((state.table_mr_size, state.linker_mr_size, state.rsdp_mr_size)),
            fields=(UInt64("table_mr_size"), UInt64("linker_mr_size"), UInt64("rsdp_mr_size")),
        ),
    ),
)


class FwCfg(Device):
    """The device with its `items` by key and `files` by name, on top of its own; DMA goes to RAM in `memory`.

    `tables` are the sizes in bytes that ACPI tables have, and may have at most, in the order of the state's; none for a
    board without them.
    Raises ConfigError for a key that is out of range or taken, too many files, or a file name that does not fit.
    """

    kind: ClassVar[str] = "fw_cfg_mem"
    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"fw_cfg": VMSTATE_FW_CFG}
    state: FwCfgState

    def __init__(
        self,
        memory: AddressMap,
        items: Mapping[int, bytes],
        files: Mapping[str, bytes],
        tables: Sequence[tuple[int, int]] = (),
    ) -> None:
        self.memory = memory
        self._tables = tables
        self.state = self.fresh()
        self._items = _with_files(items, files)
        self.regions = (MmioRegion("fwcfg", REGION_SIZE, self._read, self._write),)

    def fresh(self) -> FwCfgState:
        """See Device."""
        used = dict(zip(TABLE_SIZES, (used for used, _size in self._tables), strict=False))
        return FwCfgState(**used)

    def check(self, state: FwCfgState) -> None:
        """Refuse tables that the board has no room for."""
        sizes = [size for _used, size in self._tables] or [0] * len(TABLE_SIZES)
        for name, size in zip(TABLE_SIZES, sizes, strict=True):
            if getattr(state, name) > size:
                raise FieldRangeError(name, getattr(state, name), size + 1)

    def adopt(self, state: FwCfgState) -> None:
        """Take over a complete state; nothing else follows it."""
        self.state = state

    def properties(self) -> dict[str, object]:
        """QEMU's property names."""
        return {"data_width": 8, "dma_enabled": True, "x-file-slots": FILE_SLOTS, "acpi-mr-restore": True}

    def _read(self, offset: int, size: int) -> int:
        """Strings come out in memory order, so a little-endian load of them takes the first byte lowest."""
        if offset == DATA:
            return int.from_bytes(self._take(size), "little")
        if offset >= DMA_ADDRESS:
            start = offset - DMA_ADDRESS
            return int.from_bytes(DMA_SIGNATURE[start : start + size], "little")
        log.guest_errors.debug("fw_cfg: no register to read %d bytes from at 0x%x", size, offset)
        return 0

    def _write(self, offset: int, size: int, value: int) -> None:
        big_endian = int.from_bytes(value.to_bytes(size, "little"), "big")
        access = offset, size
        if offset == DATA:
            log.guest_errors.debug("fw_cfg: write of %d bytes to the data register, which is read-only", size)
        elif access == (SELECTOR, 2):
            self._select(big_endian)
        elif access == (DMA_ADDRESS, 8):
            self._transfer(big_endian)
        elif access == (DMA_ADDRESS, 4):
            self.state.dma_addr = big_endian << 32
        elif access == (DMA_ADDRESS + 4, 4):
            self._transfer(self.state.dma_addr | big_endian)
        else:
            log.guest_errors.debug("fw_cfg: no register to write %d bytes to at 0x%x", size, offset)

    def _select(self, key: int) -> None:
        self.state.cur_entry = key if key & ENTRY_MASK < KEY_LIMIT else INVALID
        self.state.cur_offset = 0

    def _take(self, length: int) -> bytes:
        """At most `length` bytes of the selected item, from the current offset, which moves behind them."""
        item = self._items.get(self.state.cur_entry & ~WRITE_CHANNEL, b"")
        data = item[self.state.cur_offset : self.state.cur_offset + length]
        self.state.cur_offset += len(data)
        return data

    def _transfer(self, address: int) -> None:
        """Carry out the DMA descriptor at `address`; its control word becomes 0, or the error bit."""
        self.state.dma_addr = 0
        try:
            control, length, buffer = DMA_DESCRIPTOR.unpack(self.memory.read_ram(address, DMA_DESCRIPTOR.size))
        except MemoryAccessError as error:
            log.guest_errors.debug("fw_cfg: DMA descriptor: %s", error)
            self._store(address, struct.pack(">I", DMA_ERROR))
            return
        if control & DMA_SELECT:
            self._select(control >> 16)
        succeeded = True
        if control & DMA_READ:
            data = self._take(length)
            succeeded = self._store(buffer, data) and self._clear(buffer + len(data), length - len(data))
        elif control & DMA_WRITE:
            succeeded = not length
            self._take(length)
        elif control & DMA_SKIP:
            self._take(length)
        self._store(address, struct.pack(">I", 0 if succeeded else DMA_ERROR))

    def _clear(self, address: int, length: int) -> bool:
        """Zero `length` bytes of RAM, up to the first that cannot be written; whether there was none."""
        end = address + length
        return all(self._store(at, ZEROES[: end - at]) for at in range(address, end, len(ZEROES)))

    def _store(self, address: int, data: bytes) -> bool:
        """Put `data` into RAM as far as the RAM goes; whether all of it fitted."""
        mapping = self.memory.find(address)
        if mapping is None or not isinstance(mapping.target, RamBlock) or mapping.target.readonly:
            return not data
        self.memory.write_ram(address, data[: mapping.end - address])
        return address + len(data) <= mapping.end
