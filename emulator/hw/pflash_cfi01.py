"""CFI NOR flash with the Intel command set: one of the board's two banks.

Models: QEMU's `cfi.pflash01` with the virt board's settings: two 16-bit chips side by side on a 32-bit bus,
little-endian, 256 KiB sectors (128 KiB in each chip), ids 0x89 and 0x18. Sources: JEDEC JESD68.01 (CFI query) and
Intel application note 646 (Scaleable Command Set).
Regions: the bank, as large as its RAM block. Lines and clocks: none.

The content lives in the RAM block and survives reset. In read array mode the board maps the block itself for loads and
fetches, and only stores come here; in every other mode loads come here too. `on_mode_change` tells the board which.

State in a stream: section `pflash_cfi01` as QEMU has it since 7.2.9, with subsection `pflash_cfi01_blk_write` while
the write buffer is in use. The content is RAM and travels as such.

As in QEMU every operation is done at once, and a few things differ from a real chip: programming overwrites instead of
only clearing bits, an erase happens at its first cycle, locks are accepted and have no effect, command addresses are
ignored, and READ ARRAY is kept as command 0. Left out: suspend and resume, protection registers, a file behind it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import ClassVar

from emulator.core import log
from emulator.core.bits import mask
from emulator.core.bus import MmioRegion
from emulator.core.device import Device
from emulator.core.errors import ConfigError
from emulator.core.memory import RamBlock
from emulator.migration.errors import FieldRangeError
from emulator.migration.fields import Buffer, UInt8, UInt32, UInt64
from emulator.migration.vmstate import VMStateDescription

SECTOR_SIZE = 0x40000
BANK_WIDTH = 4
CHIP_WIDTH = 2
CHIPS = BANK_WIDTH // CHIP_WIDTH
DEVICE_IDS = (0x89, 0x18)
"""Manufacturer and device code, read at word 0 and 1 in READ DEVICE ID mode."""

CFI_TABLE_SIZE = 0x52
WRITE_BLOCK_LOG2 = 0x0B
WRITE_BLOCK_SIZE = CHIPS << WRITE_BLOCK_LOG2
"""Bytes in the bank's write buffer, at whose multiples a buffered write starts."""
NO_BLOCK = 0xFFFF_FFFF
"""`blk_offset` while no buffered write is under way."""

READY = 0x80
ERASE_ERROR = 0x20
PROGRAM_ERROR = 0x10

ARRAY = 0x00
PROGRAM_ALTERNATE = 0x10
ERASE = 0x20
PROGRAM = 0x40
CLEAR_STATUS = 0x50
LOCK = 0x60
READ_STATUS = 0x70
READ_ID = 0x90
QUERY = 0x98
CONFIRM = 0xD0
LOCK_CONFIRM = 0x01
WRITE_BUFFER = 0xE8
AMD_RESET = 0xF0
READ_ARRAY = 0xFF

ARRAY_COMMANDS = frozenset({ARRAY, AMD_RESET, READ_ARRAY})
ONE_CYCLE_COMMANDS = frozenset({READ_STATUS, READ_ID})
LONGER_COMMANDS = frozenset({PROGRAM_ALTERNATE, ERASE, PROGRAM, LOCK, QUERY, WRITE_BUFFER})
STATUS_READERS = frozenset({PROGRAM_ALTERNATE, ERASE, PROGRAM, CLEAR_STATUS, LOCK, READ_STATUS, WRITE_BUFFER})
"""Commands during which loads return the status register."""


def _cfi_table(bank_size: int) -> bytes:
    """What each chip answers to a CFI query, by word offset."""
    blocks = bank_size // SECTOR_SIZE
    chip_sector = SECTOR_SIZE // CHIPS
    chip_size = bank_size // CHIPS
    table = bytearray(CFI_TABLE_SIZE)
    for offset, content in (
        (0x10, b"QRY"),
        (0x13, struct.pack("<HHHH", 0x0001, 0x0031, 0, 0)),  # command set, its extended table; no alternate ones
        (0x1B, bytes((0x45, 0x55, 0x00, 0x00))),  # Vcc from 4.5 V to 5.5 V, no Vpp
        (0x1F, bytes((0x07, 0x07, 0x0A, 0x00))),  # typical times, powers of two: word, buffer (us), block, chip (ms)
        (0x23, bytes((0x04, 0x04, 0x04, 0x00))),  # maximal times, as powers of two over the typical ones
        (0x27, bytes(((chip_size & -chip_size).bit_length() - 1,))),
        (0x28, struct.pack("<HH", 0x0002, WRITE_BLOCK_LOG2)),  # x8 and x16 interface; write buffer
        (0x2C, struct.pack("<BHH", 1, (blocks - 1) & 0xFFFF, chip_sector >> 8)),  # one erase region
        (0x31, b"PRI10"),
        (0x3F, bytes((1,))),  # protection fields
    ):
        table[offset : offset + len(content)] = content
    return bytes(table)


@dataclass(slots=True)
class PflashState:
    """The command state machine; field names and meanings are those of QEMU's `pflash_cfi01`."""

    wcycle: int = 0
    """Write cycles of a command that have been seen; 0 means that the next write is a command."""
    cmd: int = ARRAY
    status: int = READY
    counter: int = 0
    """Words still to come in a buffered write, less one; wraps at 2**64 after the last."""
    blk_bytes: bytearray = field(default_factory=lambda: bytearray(WRITE_BLOCK_SIZE))
    """The write buffer; zeros while it is not in use."""
    blk_offset: int = NO_BLOCK
    """Where in the bank the write buffer belongs, a multiple of its size."""

    def drop_buffer(self) -> None:
        """The write buffer is not in use any more."""
        if self.blk_offset != NO_BLOCK:
            self.blk_offset = NO_BLOCK
            self.blk_bytes[:] = bytes(WRITE_BLOCK_SIZE)


VMSTATE_PFLASH = VMStateDescription(
    "pflash_cfi01",
    PflashState,
    version_id=1,
    minimum_version_id=1,
    fields=(UInt8("wcycle", limit=4), UInt8("cmd"), UInt8("status"), UInt64("counter")),
    subsections=(
        VMStateDescription(
            "pflash_cfi01_blk_write",
            PflashState,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: state.blk_offset != NO_BLOCK,
            fields=(
                Buffer("blk_bytes", WRITE_BLOCK_SIZE),
                UInt32("blk_offset", bits=-WRITE_BLOCK_SIZE & mask(32)),
            ),
        ),
    ),
)


class PflashCfi01(Device):
    """One bank on `block`; `on_mode_change(True)` means that loads may bypass the device, False that they must not.

    It starts in read array mode without a call. `readonly` refuses programming and erasing with a status error.
    Raises ConfigError if the block is not a positive multiple of the sector size.
    """

    kind: ClassVar[str] = "cfi.pflash01"
    vmstate: ClassVar[Mapping[str, VMStateDescription]] = {"pflash_cfi01": VMSTATE_PFLASH}
    state: PflashState

    def __init__(self, block: RamBlock, *, readonly: bool = False, on_mode_change: Callable[[bool], None]) -> None:
        if block.size % SECTOR_SIZE:
            raise ConfigError(f"flash {block.name}: size {block.size} is not a multiple of {SECTOR_SIZE}")
        self.block = block
        self.readonly = readonly
        self.on_mode_change = on_mode_change
        self.state = PflashState()
        self._cfi_table = _cfi_table(block.size)
        self._told_array_mode = True
        self.regions = (MmioRegion(block.name, block.size, self._read, self._write, rom=block),)

    @property
    def array_mode(self) -> bool:
        """Whether loads return the content."""
        return self.state.cmd == ARRAY

    def check(self, state: PflashState) -> None:
        """Refuse a write buffer that lies outside of this bank."""
        if state.blk_offset != NO_BLOCK and state.blk_offset >= self.block.size:
            raise FieldRangeError("pflash_cfi01_blk_write.blk_offset", hex(state.blk_offset), self.block.size)

    def adopt(self, state: PflashState) -> None:
        """Take over a complete state and tell the board if that changes the mode."""
        self.state = state
        self._tell_mode()

    def properties(self) -> dict[str, object]:
        """QEMU's property names."""
        return {
            "num-blocks": self.block.size // SECTOR_SIZE,
            "sector-length": SECTOR_SIZE,
            "width": BANK_WIDTH,
            "device-width": CHIP_WIDTH,
            "max-device-width": CHIP_WIDTH,
            "big-endian": False,
            "secure": False,
            "id0": DEVICE_IDS[0],
            "id1": DEVICE_IDS[1],
            "id2": 0,
            "id3": 0,
            "name": self.block.name,
            "old-multiple-chip-handling": False,
        }

    def _tell_mode(self) -> None:
        if self.array_mode != self._told_array_mode:
            self._told_array_mode = self.array_mode
            self.on_mode_change(self.array_mode)

    def _read(self, offset: int, size: int) -> int:
        if size > BANK_WIDTH:
            return self._read(offset, BANK_WIDTH) | self._read(offset + BANK_WIDTH, BANK_WIDTH) << 8 * BANK_WIDTH
        word = offset // BANK_WIDTH
        if self.state.cmd in STATUS_READERS:
            value = self._both_chips(self.state.status)
        elif self.state.cmd == READ_ID:
            value = self._both_chips(DEVICE_IDS[word & 0xFF] if word & 0xFF < len(DEVICE_IDS) else 0)
        elif self.state.cmd == QUERY:
            value = self._both_chips(self._cfi_table[word] if word < CFI_TABLE_SIZE else 0)
        else:
            if not self.array_mode:  # no guest gets here: the command came with a foreign state
                self._enter_array_mode()
            value = int.from_bytes(self.block.view[offset : offset + size], "little")
        return value & mask(8 * size)

    @staticmethod
    def _both_chips(value: int) -> int:
        return value | value << 8 * CHIP_WIDTH

    def _write(self, offset: int, size: int, value: int) -> None:
        if size > BANK_WIDTH:  # two bus cycles, so the second half may be the next cycle of a command
            self._write(offset, BANK_WIDTH, value & mask(8 * BANK_WIDTH))
            self._write(offset + BANK_WIDTH, BANK_WIDTH, value >> 8 * BANK_WIDTH)
            return
        state = self.state
        if state.wcycle == 0:
            self._first_cycle(offset, value & 0xFF)
        else:
            cycle = self._LATER_CYCLES.get((state.cmd, state.wcycle), PflashCfi01._refuse)
            cycle(self, offset, size, value)
        self._tell_mode()

    def _first_cycle(self, offset: int, command: int) -> None:
        state = self.state
        if command in ARRAY_COMMANDS:
            self._enter_array_mode()
        elif command in ONE_CYCLE_COMMANDS:
            state.cmd = command
        elif command in LONGER_COMMANDS:
            state.cmd = command
            state.wcycle = 1
            if command == ERASE:
                self._erase(offset & -SECTOR_SIZE)
            elif command == WRITE_BUFFER:
                state.status |= READY
        elif command == CLEAR_STATUS:
            state.status = 0
            self._enter_array_mode()
        else:
            self._refuse(offset, 1, command)

    def _erase(self, start: int) -> None:
        if self.readonly:
            self.state.status |= ERASE_ERROR
        else:
            self.block.view[start : start + SECTOR_SIZE] = b"\xff" * SECTOR_SIZE
        self.state.status |= READY

    def _program(self, offset: int, size: int, value: int) -> None:
        if self.readonly:
            self.state.status |= PROGRAM_ERROR
        else:
            self.block.view[offset : offset + size] = value.to_bytes(size, "little")
        self._complete()

    def _confirm_erase(self, offset: int, size: int, value: int) -> None:
        if value & 0xFF == CONFIRM:
            self._complete()
        elif value & 0xFF == READ_ARRAY:
            self._enter_array_mode()
        else:
            self._refuse(offset, size, value)

    def _confirm_lock(self, _offset: int, _size: int, value: int) -> None:
        if value & 0xFF in (CONFIRM, LOCK_CONFIRM):
            self._complete()
        else:
            self._enter_array_mode()

    def _leave_query(self, _offset: int, _size: int, value: int) -> None:
        if value & 0xFF == READ_ARRAY:
            self._enter_array_mode()

    def _start_buffer(self, offset: int, _size: int, value: int) -> None:
        state = self.state
        state.counter = value & mask(8 * CHIP_WIDTH)
        state.wcycle = 2
        state.blk_offset = offset & -WRITE_BLOCK_SIZE
        state.blk_bytes[:] = self.block.view[state.blk_offset : state.blk_offset + WRITE_BLOCK_SIZE]

    def _fill_buffer(self, offset: int, size: int, value: int) -> None:
        state = self.state
        start = offset - state.blk_offset
        if self.readonly or not 0 <= start <= WRITE_BLOCK_SIZE - size:
            state.status |= PROGRAM_ERROR
        else:
            state.blk_bytes[start : start + size] = value.to_bytes(size, "little")
        state.status |= READY
        if state.counter == 0:
            state.wcycle = 3
        state.counter = (state.counter - 1) & mask(64)

    def _confirm_buffer(self, _offset: int, _size: int, value: int) -> None:
        state = self.state
        start = state.blk_offset
        fits = start <= self.block.size - WRITE_BLOCK_SIZE
        if value & 0xFF != CONFIRM or state.status & PROGRAM_ERROR or not fits:
            self._enter_array_mode()
            return
        self.block.view[start : start + WRITE_BLOCK_SIZE] = state.blk_bytes
        state.drop_buffer()
        self._complete()

    def _refuse(self, offset: int, size: int, value: int) -> None:
        log.unimp.debug(
            "%s: cycle %d of command 0x%02x does not take 0x%x (%d bytes) at 0x%x",
            self.block.name,
            self.state.wcycle,
            self.state.cmd,
            value,
            size,
            offset,
        )
        self._enter_array_mode()

    def _complete(self) -> None:
        """The command is done; loads return the status until the next command."""
        self.state.wcycle = 0
        self.state.status |= READY

    def _enter_array_mode(self) -> None:
        self.state.cmd = ARRAY
        self.state.wcycle = 0
        self.state.drop_buffer()

    _LATER_CYCLES: ClassVar[dict[tuple[int, int], Callable[[PflashCfi01, int, int, int], None]]] = {
        (PROGRAM, 1): _program,
        (PROGRAM_ALTERNATE, 1): _program,
        (ERASE, 1): _confirm_erase,
        (LOCK, 1): _confirm_lock,
        (QUERY, 1): _leave_query,
        (WRITE_BUFFER, 1): _start_buffer,
        (WRITE_BUFFER, 2): _fill_buffer,
        (WRITE_BUFFER, 3): _confirm_buffer,
    }
    """What a write does after a command's first cycle: by command and cycle."""
