"""Virtual addresses as the hart sees them, for the monitor and for instructions that must be looked at.

The guest's own accesses are translated by the engine. Source: RISC-V Privileged Architecture 1.10, sections 4.3 to
4.5, and 1.12 for Sv57, which the engine has as well.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field

from emulator.core.bits import mask, sign_extend
from emulator.core.bus import AddressMap
from emulator.core.errors import MemoryAccessError
from emulator.core.memory import PAGE_SIZE
from emulator.cpu.env import Env
from emulator.cpu.traps import PRIV_M

PTE_VALID, PTE_READ, PTE_EXECUTE = 1, 2, 8
_LEAF = PTE_READ | PTE_EXECUTE
FLAGS = "rwxugad"
"""What a page table entry allows and tells, by bits 1 to 7: read, write, execute, user, global, accessed, dirty."""

TABLES_LIMIT = 1 << 13
"""How many tables `page_map` looks at: a guest's tables may point at themselves, so that there is no end of pages."""


@dataclass(frozen=True, slots=True)
class Scheme:
    """A page table format: `levels` tables of 2**`index_bits` entries of `entry_size` bytes."""

    levels: int
    index_bits: int
    entry_size: int


SCHEMES_64 = {8: Scheme(3, 9, 8), 9: Scheme(4, 9, 8), 10: Scheme(5, 9, 8)}
"""Sv39, Sv48 and Sv57 by satp.MODE; mode 0 is no translation."""
SCHEMES_32 = {1: Scheme(2, 10, 4)}
"""Sv32."""


@dataclass(slots=True)
class PageRange:
    """Pages in a row, virtually and physically, in one table and with equal bits; `size` in bytes."""

    virtual: int
    physical: int
    size: int
    bits: int

    @property
    def flags(self) -> str:
        """The bits by their letters, in the order of `FLAGS`; a dash for each that is not set."""
        return "".join(letter if self.bits >> place & 1 else "-" for place, letter in enumerate(FLAGS, start=1))


@dataclass(slots=True)
class PageMap:
    """What a hart's page tables map, lowest address of the tables first; not `complete` if there are too many."""

    ranges: list[PageRange] = field(default_factory=list)
    complete: bool = True


def page_map(env: Env, bus: AddressMap) -> PageMap | None:
    """All that is mapped by the tables that `satp` names; None if it names none.

    Ranges begin anew in each table, as in QEMU, so that the two can be compared.
    """
    scheme = _scheme(env)
    if scheme is None:
        return None
    found = PageMap()
    tables = 0

    def walk(table: int, start: int, level: int) -> None:
        nonlocal tables
        if level < 0 or tables == TABLES_LIMIT:
            found.complete &= level < 0
            return
        tables += 1
        shift = 12 + level * scheme.index_bits
        behind: int | None = None  # where the last page of this table ends
        for index, entry in enumerate(_entries(bus, table, scheme)):
            if not entry & PTE_VALID:
                continue
            here = start + (index << shift)
            target = (entry >> 10 & mask(44)) * PAGE_SIZE
            if not entry & _LEAF:
                walk(target, here, level - 1)
                continue
            last = found.ranges[-1] if behind == here else None
            if last is not None and last.bits == entry & 0xFF and last.physical + last.size == target:
                last.size += 1 << shift
            else:
                found.ranges.append(PageRange(here, target, 1 << shift, entry & 0xFF))
            behind = here + (1 << shift)

    walk(_root(env), 0, scheme.levels - 1)
    for each in found.ranges:
        each.virtual = _canonical(env, scheme, each.virtual)
    return found


def translate(env: Env, bus: AddressMap, address: int) -> int:
    """The physical address behind `address` for the hart's next instruction; MemoryAccessError where no page is mapped.

    Permissions are not looked at: the monitor may see what the guest may not.
    """
    scheme = _scheme(env)
    if env["priv"] == PRIV_M or scheme is None:
        return address
    if _canonical(env, scheme, address) != address:
        raise MemoryAccessError(address, 1, "not a canonical virtual address")
    table = _root(env)
    for level in reversed(range(scheme.levels)):
        shift = 12 + level * scheme.index_bits
        index = address >> shift & mask(scheme.index_bits)
        try:
            entry = bus.load(table + index * scheme.entry_size, scheme.entry_size)
        except MemoryAccessError:
            break
        if not entry & PTE_VALID:
            break
        page = (entry >> 10 & mask(44)) * PAGE_SIZE
        if entry & _LEAF:
            return (page & ~mask(shift)) | (address & mask(shift))
        table = page
    raise MemoryAccessError(address, 1, "no page is mapped there")


def read_virtual(env: Env, bus: AddressMap, address: int, length: int) -> bytes:
    """`length` bytes of RAM or ROM at a virtual address; MemoryAccessError where there is none."""
    data = bytearray()
    while length:
        here = min(length, PAGE_SIZE - address % PAGE_SIZE)
        data += bus.read_ram(translate(env, bus, address), here)
        address = (address + here) & mask(env.xlen)
        length -= here
    return bytes(data)


def _scheme(env: Env) -> Scheme | None:
    satp = env["satp"]
    return SCHEMES_64.get(satp >> 60) if env.xlen == 64 else SCHEMES_32.get(satp >> 31)


def _root(env: Env) -> int:
    return (env["satp"] & mask(44 if env.xlen == 64 else 22)) * PAGE_SIZE


def _canonical(env: Env, scheme: Scheme, address: int) -> int:
    """The address whose lower bits, those that are translated, are these."""
    return sign_extend(address, 12 + scheme.levels * scheme.index_bits) & mask(64) if env.xlen == 64 else address


def _entries(bus: AddressMap, table: int, scheme: Scheme) -> tuple[int, ...]:
    """A table's entries; none where there is no memory."""
    count = 1 << scheme.index_bits
    try:
        data = bus.read_ram(table, count * scheme.entry_size)
    except MemoryAccessError:
        return ()
    return struct.unpack(f"<{count}{'Q' if scheme.entry_size == 8 else 'I'}", data)
