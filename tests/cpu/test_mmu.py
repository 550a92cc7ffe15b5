"""The walk that the monitor uses, on tables built by hand: sections 4.3 to 4.5 of the Privileged Architecture."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from emulator.core.bus import AddressMap
from emulator.core.errors import MemoryAccessError
from emulator.core.memory import RamBlock
from emulator.cpu.mmu import page_map, read_virtual, translate

RAM = 0x8000_0000
V, R, W, X = 1, 2, 4, 8
POINTER, LEAF = V, V | R | W
SV32, SV39, SV48, SV57 = 1 << 31, 8 << 60, 9 << 60, 10 << 60
ROOT = RAM
BARE_64 = 0


class Registers(dict[str, int]):
    def __init__(self, satp: int, *, priv: int = 1, xlen: int = 64) -> None:
        super().__init__(satp=satp, priv=priv)
        self.xlen = xlen


@pytest.fixture
def bus() -> Iterator[AddressMap]:
    ram, bus = RamBlock("ram", 0x10_0000), AddressMap()
    bus.add(RAM, ram)
    yield bus
    ram.close()


def put(bus: AddressMap, table: int, index: int, target: int, flags: int, *, size: int = 8) -> None:
    """An entry whose physical page number is that of `target`."""
    bus.write_ram(table + index * size, (target >> 12 << 10 | flags).to_bytes(size, "little"))


@pytest.mark.parametrize(("mode", "levels"), [(SV39, 3), (SV48, 4), (SV57, 5)])
def test_each_level_takes_nine_bits_of_the_address(bus: AddressMap, mode: int, levels: int) -> None:
    indexes = (0x0A1, 0x0B2, 0x1C3, 0x0D4, 0x1E5)[:levels]  # none with the top bit in first place: the lower half
    address = 0
    for level, index in enumerate(indexes):
        is_last = level == levels - 1
        put(bus, ROOT + 0x1000 * level, index, RAM + (0x5_4000 if is_last else 0x1000 * (level + 1)), V)
        address = address << 9 | index
    put(bus, ROOT + 0x1000 * (levels - 1), indexes[-1], RAM + 0x5_4000, LEAF)
    env = Registers(mode | ROOT >> 12)
    assert translate(env, bus, address << 12 | 0xABC) == RAM + 0x5_4ABC


def test_sv32_has_two_levels_of_ten_bits(bus: AddressMap) -> None:
    put(bus, ROOT, 0x3FF, ROOT + 0x1000, POINTER, size=4)
    put(bus, ROOT + 0x1000, 0x155, RAM + 0x7000, LEAF, size=4)
    env = Registers(SV32 | ROOT >> 12, xlen=32)
    assert translate(env, bus, 0xFFD5_5678) == RAM + 0x7678


def test_sv32_reaches_34_bits_of_physical_address(bus: AddressMap) -> None:
    put(bus, ROOT, 0, 0x3_FFC0_0000, LEAF, size=4)
    assert translate(Registers(SV32 | ROOT >> 12, xlen=32), bus, 0x0012_3456) == 0x3_FFD2_3456


@pytest.mark.parametrize(
    ("mode", "size"), [(SV39, 1 << 30), (SV48, 1 << 39)], ids=["a gigapage of Sv39", "a terapage of Sv48"]
)
def test_a_leaf_in_the_root_is_a_superpage(bus: AddressMap, mode: int, size: int) -> None:
    put(bus, ROOT, 1, 2 * size, LEAF)
    assert translate(Registers(mode | ROOT >> 12), bus, size + 0x12_3456) == 2 * size + 0x12_3456


def test_a_page_that_can_only_be_executed_is_a_leaf(bus: AddressMap) -> None:
    put(bus, ROOT, 0, 0x4000_0000, V | X)
    assert translate(Registers(SV39 | ROOT >> 12), bus, 4) == 0x4000_0004


@pytest.mark.parametrize("flags", [0, R | W | X])
def test_an_invalid_entry_maps_nothing(bus: AddressMap, flags: int) -> None:
    put(bus, ROOT, 0, RAM, flags)
    with pytest.raises(MemoryAccessError, match="no page"):
        translate(Registers(SV39 | ROOT >> 12), bus, 0x1000)


def test_pointers_all_the_way_down_map_nothing(bus: AddressMap) -> None:
    put(bus, ROOT, 0, ROOT, POINTER)
    with pytest.raises(MemoryAccessError, match="no page"):
        translate(Registers(SV39 | ROOT >> 12), bus, 0)


@pytest.mark.parametrize(("mode", "bits"), [(SV39, 39), (SV48, 48), (SV57, 57)])
def test_the_upper_bits_must_all_equal_the_highest_that_is_translated(bus: AddressMap, mode: int, bits: int) -> None:
    put(bus, ROOT, 256, 0, LEAF)
    env = Registers(mode | ROOT >> 12)
    lowest_of_the_upper_half = (1 << 64) - (1 << bits - 1)
    assert translate(env, bus, lowest_of_the_upper_half + 5) == 5
    for address in (1 << bits - 1, lowest_of_the_upper_half - 1, 1 << 63):
        with pytest.raises(MemoryAccessError, match="canonical"):
            translate(env, bus, address)


@pytest.mark.parametrize(
    "env", [Registers(SV39 | ROOT >> 12, priv=3), Registers(BARE_64), Registers(ROOT >> 12, xlen=32)]
)
def test_without_translation_addresses_are_physical(bus: AddressMap, env: Registers) -> None:
    assert translate(env, bus, 0x8765_4321) == 0x8765_4321


def test_pages_that_are_neighbours_need_not_be_neighbours_in_memory(bus: AddressMap) -> None:
    put(bus, ROOT, 0, ROOT + 0x1000, POINTER)
    put(bus, ROOT + 0x1000, 0, ROOT + 0x2000, POINTER)
    put(bus, ROOT + 0x2000, 5, RAM + 0x8000, LEAF)
    put(bus, ROOT + 0x2000, 6, RAM + 0x4000, LEAF)
    bus.write_ram(RAM + 0x8FFE, b"ab")
    bus.write_ram(RAM + 0x4000, b"cd")
    env = Registers(SV39 | ROOT >> 12)
    assert read_virtual(env, bus, 0x5FFE, 4) == b"abcd"
    with pytest.raises(MemoryAccessError):
        read_virtual(env, bus, 0x6FFE, 4)


# All that is mapped


U, G, A, D = 16, 32, 64, 128


def ranges(env: Registers, bus: AddressMap) -> list[tuple[int, int, int, str]]:
    found = page_map(env, bus)
    assert found is not None
    assert found.complete
    return [(each.virtual, each.physical, each.size, each.flags) for each in found.ranges]


def test_pages_in_a_row_are_one_range(bus: AddressMap) -> None:
    put(bus, ROOT, 0, ROOT + 0x1000, POINTER)
    put(bus, ROOT + 0x1000, 0, ROOT + 0x2000, POINTER)
    for index, target, flags in (
        (5, 0x9000_0000, LEAF | A),
        (6, 0x9000_1000, LEAF | A),
        (7, 0x9000_2000, LEAF | A | D),  # other bits
        (8, 0x9000_4000, LEAF | A | D),  # not the next page of memory
        (10, 0x9000_5000, LEAF | A | D),  # not the next page of addresses
    ):
        put(bus, ROOT + 0x2000, index, target, flags)
    assert ranges(Registers(SV39 | ROOT >> 12), bus) == [
        (0x5000, 0x9000_0000, 0x2000, "rw---a-"),
        (0x7000, 0x9000_2000, 0x1000, "rw---ad"),
        (0x8000, 0x9000_4000, 0x1000, "rw---ad"),
        (0xA000, 0x9000_5000, 0x1000, "rw---ad"),
    ]


def test_ranges_begin_anew_in_each_table_and_of_each_size(bus: AddressMap) -> None:
    put(bus, ROOT, 0, 0x4000_0000, V | X | U)
    put(bus, ROOT, 1, ROOT + 0x1000, POINTER)
    put(bus, ROOT + 0x1000, 0, 0x8000_0000, V | X | U)
    put(bus, ROOT + 0x1000, 1, 0x8020_0000, V | X | U)
    put(bus, ROOT, 2, 0xC000_0000, V | R | G)
    assert ranges(Registers(SV39 | ROOT >> 12), bus) == [
        (0, 0x4000_0000, 1 << 30, "--xu---"),
        (1 << 30, 0x8000_0000, 4 << 20, "--xu---"),
        (2 << 30, 0xC000_0000, 1 << 30, "r---g--"),
    ]


@pytest.mark.parametrize(("mode", "bits"), [(SV39, 39), (SV48, 48), (SV57, 57)])
def test_the_upper_half_has_the_addresses_that_the_guest_uses(bus: AddressMap, mode: int, bits: int) -> None:
    put(bus, ROOT, 511, 0, LEAF)
    assert ranges(Registers(mode | ROOT >> 12), bus) == [
        ((1 << 64) - (1 << bits - 9), 0, 1 << bits - 9, "rw-----"),
    ]


def test_the_map_is_of_the_tables_also_in_machine_mode(bus: AddressMap) -> None:
    put(bus, ROOT, 0x155, RAM, LEAF, size=4)
    env = Registers(SV32 | ROOT >> 12, xlen=32, priv=3)
    assert ranges(env, bus) == [(0x155 << 22, RAM, 4 << 20, "rw-----")]


def test_without_tables_there_is_no_map(bus: AddressMap) -> None:
    assert page_map(Registers(BARE_64), bus) is None


def test_a_table_that_is_nowhere_maps_nothing(bus: AddressMap) -> None:
    put(bus, ROOT, 0, 0x12_3456_7000, POINTER)
    put(bus, ROOT, 1, RAM, LEAF)
    assert ranges(Registers(SV39 | ROOT >> 12), bus) == [(1 << 30, RAM, 1 << 30, "rw-----")]


def test_tables_without_end_are_looked_at_up_to_a_limit(bus: AddressMap) -> None:
    for index in range(512):
        put(bus, ROOT, index, ROOT, POINTER)
    found = page_map(Registers(SV57 | ROOT >> 12), bus)
    assert found is not None
    assert not found.complete
    assert found.ranges == []
