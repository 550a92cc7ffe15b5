"""The address map: which device or RAM block answers at which physical address, and with which access sizes.

Everything the guest reaches goes through here, except that the engine maps RAM blocks directly. Loads and stores that
do not come from the guest's CPU (the monitor's `xp`, a device's DMA) use `AddressMap.read` and `write`.
"""

from __future__ import annotations

import bisect
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from emulator.core.bits import mask
from emulator.core.errors import ConfigError, MemoryAccessError
from emulator.core.memory import RamBlock

RegisterRead = Callable[[int, int], int]
RegisterWrite = Callable[[int, int, int], None]


@dataclass(frozen=True, slots=True)
class MmioRegion:
    """A window of device registers.

    `read(offset, size)` returns an unsigned value, `write(offset, size, value)` takes one; both little-endian. They are
    called only for naturally aligned accesses of `min_size` to `max_size` bytes; any other access is an access fault.
    `size` is the window's length in bytes.
    """

    name: str
    size: int
    read: RegisterRead
    write: RegisterWrite
    min_size: int = 1
    max_size: int = 8
    rom: RamBlock | None = None
    """Memory that the guest loads and fetches from in place of `read`, while the device is in a mode that shows it."""

    def accepts(self, offset: int, size: int) -> bool:
        """Whether the chip answers an access of `size` bytes at `offset`."""
        return self.min_size <= size <= self.max_size and not offset & (size - 1) and offset + size <= self.size


@dataclass(frozen=True, slots=True)
class Mapping:
    """A region or RAM block at its place: `base` is its first physical address."""

    base: int
    target: MmioRegion | RamBlock

    @property
    def end(self) -> int:
        """The first address behind the mapping."""
        return self.base + self.target.size


class AddressMap:
    """Physical addresses to RAM blocks and device regions; mappings never overlap."""

    def __init__(self) -> None:
        self._mappings: list[Mapping] = []
        self._bases: list[int] = []

    def __iter__(self) -> Iterator[Mapping]:
        return iter(self._mappings)

    def add(self, base: int, target: MmioRegion | RamBlock) -> None:
        """Place `target` at `base`; raises ConfigError where something is there already."""
        mapping = Mapping(base, target)
        index = bisect.bisect_left(self._bases, base)
        for neighbour in self._mappings[max(index - 1, 0) : index + 1]:
            if neighbour.base < mapping.end and base < neighbour.end:
                raise ConfigError(f"{target.name} at 0x{base:x} overlaps {neighbour.target.name}")
        self._mappings.insert(index, mapping)
        self._bases.insert(index, base)

    def find(self, address: int) -> Mapping | None:
        """The mapping that holds `address`, if any."""
        index = bisect.bisect_right(self._bases, address) - 1
        if index >= 0 and address < self._mappings[index].end:
            return self._mappings[index]
        return None

    def load(self, address: int, size: int) -> int:
        """One access of 1, 2, 4 or 8 bytes, little-endian, as a bus master makes it."""
        mapping = self._must_find(address, size)
        offset = address - mapping.base
        if isinstance(mapping.target, RamBlock):
            return int.from_bytes(mapping.target.view[offset : offset + size], "little")
        if not mapping.target.accepts(offset, size):
            raise MemoryAccessError(address, size, f"{mapping.target.name} does not take this access")
        return mapping.target.read(offset, size)

    def store(self, address: int, size: int, value: int) -> None:
        """One access of 1, 2, 4 or 8 bytes, little-endian, as a bus master makes it."""
        mapping = self._must_find(address, size)
        offset = address - mapping.base
        if isinstance(mapping.target, RamBlock):
            mapping.target.view[offset : offset + size] = (value & mask(8 * size)).to_bytes(size, "little")
        elif not mapping.target.accepts(offset, size):
            raise MemoryAccessError(address, size, f"{mapping.target.name} does not take this access")
        else:
            mapping.target.write(offset, size, value)

    def read_ram(self, address: int, length: int) -> bytes:
        """`length` bytes of RAM or ROM; raises MemoryAccessError unless all of them lie in one block."""
        return bytes(self._ram_slice(address, length))

    def write_ram(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Put `data` into RAM, also into blocks that are read-only for the guest."""
        self._ram_slice(address, len(data))[:] = data

    def _ram_slice(self, address: int, length: int) -> memoryview:
        mapping = self._must_find(address, length)
        block = mapping.target if isinstance(mapping.target, RamBlock) else mapping.target.rom
        if block is None:
            raise MemoryAccessError(address, length, f"{mapping.target.name} is not RAM")
        offset = address - mapping.base
        return block.view[offset : offset + length]

    def _must_find(self, address: int, size: int) -> Mapping:
        mapping = self.find(address)
        if mapping is None or size < 0 or address + size > mapping.end:
            raise MemoryAccessError(address, size, "nothing is there")
        return mapping
