"""Virtual addresses as the hart sees them, for the monitor and for instructions that must be looked at.

The guest's own accesses are translated by the engine. Source: RISC-V Privileged Architecture 1.10, sections 4.3 to
4.5, and 1.12 for Sv57, which the engine has as well.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator.core.bits import mask, sign_extend
from emulator.core.bus import AddressMap
from emulator.core.errors import MemoryAccessError
from emulator.core.memory import PAGE_SIZE
from emulator.cpu.env import Env
from emulator.cpu.traps import PRIV_M

PTE_VALID, PTE_READ, PTE_EXECUTE = 1, 2, 8


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


def translate(env: Env, bus: AddressMap, address: int) -> int:
    """The physical address behind `address` for the hart's next instruction; MemoryAccessError where no page is mapped.

    Permissions are not looked at: the monitor may see what the guest may not.
    """
    satp = env["satp"]
    scheme = SCHEMES_64.get(satp >> 60) if env.xlen == 64 else SCHEMES_32.get(satp >> 31)
    if env["priv"] == PRIV_M or scheme is None:
        return address
    virtual_bits = 12 + scheme.levels * scheme.index_bits
    if env.xlen == 64 and sign_extend(address, virtual_bits) & mask(64) != address:
        raise MemoryAccessError(address, 1, "not a canonical virtual address")
    table = (satp & mask(44 if env.xlen == 64 else 22)) * PAGE_SIZE
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
        if entry & (PTE_READ | PTE_EXECUTE):
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
