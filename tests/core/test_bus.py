from __future__ import annotations

import pytest

from emulator.core.bus import AddressMap, MmioRegion
from emulator.core.errors import ConfigError, MemoryAccessError
from emulator.core.memory import PAGE_SIZE, RamBlock


class Registers:
    """Four registers that remember the accesses made to them."""

    def __init__(self, *, min_size: int = 1, max_size: int = 8) -> None:
        self.accesses: list[tuple[object, ...]] = []
        self.region = MmioRegion("registers", 0x10, self._read, self._write, min_size, max_size)

    def _read(self, offset: int, size: int) -> int:
        self.accesses.append(("read", offset, size))
        return 0x1122_3344_5566_7788 & ((1 << 8 * size) - 1)

    def _write(self, offset: int, size: int, value: int) -> None:
        self.accesses.append(("write", offset, size, value))


@pytest.fixture
def ram():
    block = RamBlock("ram", 2 * PAGE_SIZE)
    yield block
    block.close()


def test_an_access_reaches_the_region_at_its_offset() -> None:
    bus, chip = AddressMap(), Registers()
    bus.add(0x1000, chip.region)
    assert bus.load(0x1004, 4) == 0x5566_7788
    bus.store(0x1008, 8, 5)
    assert chip.accesses == [("read", 4, 4), ("write", 8, 8, 5)]


@pytest.mark.parametrize(("address", "size"), [(0x1002, 4), (0x1001, 2), (0x1000, 2), (0x1000, 8), (0x100E, 4)])
def test_an_access_that_the_chip_does_not_take_is_refused(address: int, size: int) -> None:
    bus, chip = AddressMap(), Registers(min_size=4, max_size=4)
    bus.add(0x1000, chip.region)
    with pytest.raises(MemoryAccessError, match=r"registers does not take this access|nothing is there"):
        bus.load(address, size)
    with pytest.raises(MemoryAccessError):
        bus.store(address, size, 0)
    assert chip.accesses == []


@pytest.mark.parametrize("address", [0x0FFF, 0x1010, 1 << 63])
def test_where_nothing_is_mapped_nothing_answers(address: int) -> None:
    bus = AddressMap()
    bus.add(0x1000, Registers().region)
    assert bus.find(address) is None
    with pytest.raises(MemoryAccessError, match="nothing is there"):
        bus.load(address, 1)


@pytest.mark.parametrize("base", [0xFF1, 0x1000, 0x100F])
def test_mappings_must_not_overlap(base: int) -> None:
    bus = AddressMap()
    bus.add(0x1000, Registers().region)
    with pytest.raises(ConfigError, match="overlaps registers"):
        bus.add(base, Registers().region)


def test_neighbours_may_touch() -> None:
    bus = AddressMap()
    for base in (0x1000, 0x1010, 0xFF0):
        bus.add(base, Registers().region)
    assert [mapping.base for mapping in bus] == [0xFF0, 0x1000, 0x1010]


def test_ram_is_little_endian(ram: RamBlock) -> None:
    bus = AddressMap()
    bus.add(0x8000_0000, ram)
    bus.store(0x8000_0010, 4, 0xFFFF_FFFF_1234_5678)
    assert bytes(ram.view[0x10:0x14]) == b"\x78\x56\x34\x12"
    assert bus.load(0x8000_0011, 2) == 0x3456


def test_a_range_of_ram_must_lie_in_one_block(ram: RamBlock) -> None:
    bus = AddressMap()
    bus.add(0x8000_0000, ram)
    bus.write_ram(0x8000_0000 + 2 * PAGE_SIZE - 4, b"abcd")
    assert bus.read_ram(0x8000_0000 + 2 * PAGE_SIZE - 4, 4) == b"abcd"
    with pytest.raises(MemoryAccessError):
        bus.read_ram(0x8000_0000 + 2 * PAGE_SIZE - 4, 5)


def test_memory_behind_a_device_can_be_read_as_such(ram: RamBlock) -> None:
    bus, chip = AddressMap(), Registers()
    ram.view[:4] = b"code"
    bus.add(0x2000, MmioRegion("flash", ram.size, chip.region.read, chip.region.write, rom=ram))
    assert bus.read_ram(0x2000, 4) == b"code"
    assert chip.accesses == []


def test_a_register_window_is_not_ram() -> None:
    bus = AddressMap()
    bus.add(0x1000, Registers().region)
    with pytest.raises(MemoryAccessError, match="registers is not RAM"):
        bus.read_ram(0x1000, 4)


@pytest.mark.parametrize("size", [0, -PAGE_SIZE, PAGE_SIZE - 1])
def test_a_ram_block_has_whole_pages(size: int) -> None:
    with pytest.raises(ConfigError, match="not a positive multiple"):
        RamBlock("ram", size)


def test_ram_that_the_host_does_not_have_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot allocate"):
        RamBlock("ram", 1 << 62)
