"""What the vCPU must know about an instruction that Unicorn could not finish: its length, and the address it used.

Source: RISC-V Unprivileged ISA, chapters 2 (loads and stores), 8 (A), 11 and 12 (F, D) and 16 (C).
"""

from __future__ import annotations

from collections.abc import Callable

from emulator.core.bits import mask, sign_extend

LOAD, LOAD_FP, STORE, STORE_FP, AMO = 0x03, 0x07, 0x23, 0x27, 0x2F
"""Major opcodes, with the low two bits that mark a 4-byte instruction."""


def length(instruction: int) -> int:
    """Bytes of an instruction, from its first halfword: 2 or 4 (longer encodings are not defined)."""
    return 4 if instruction & 3 == 3 else 2


def is_amo(instruction: int) -> bool:
    """Whether it is an atomic memory operation, `lr` and `sc` included."""
    return instruction & 0x7F == AMO


def is_load_reserved(instruction: int) -> bool:
    """Whether it is `lr`: the one atomic that only reads, so that it faults as a load."""
    return is_amo(instruction) and instruction >> 27 == 2


def effective_address(instruction: int, x: Callable[[int], int], xlen: int) -> int | None:
    """The virtual address that a load, store or AMO uses with the integer registers `x`; None for anything else."""
    base_and_offset = _full(instruction) if length(instruction) == 4 else _compressed(instruction & 0xFFFF, xlen)
    if base_and_offset is None:
        return None
    base, offset = base_and_offset
    return (x(base) + offset) & mask(xlen)


def _full(word: int) -> tuple[int, int] | None:
    base = word >> 15 & 31
    opcode = word & 0x7F
    if opcode in (LOAD, LOAD_FP):
        return base, sign_extend(word >> 20, 12)
    if opcode in (STORE, STORE_FP):
        return base, sign_extend((word >> 25) << 5 | (word >> 7 & 31), 12)
    return (base, 0) if opcode == AMO else None


def _compressed(half: int, xlen: int) -> tuple[int, int] | None:
    quadrant, function = half & 3, half >> 13
    if function in (0, 4) or quadrant == 1:
        return None
    # On RV32 the encodings 3 and 7 are word-sized floating point; on RV64 they are ld and sd.
    is_double = function & 3 == 1 or (function & 3 == 3 and xlen == 64)
    if quadrant == 0:
        middle = (half >> 10 & 7) << 3
        low = (half >> 5 & 3) << 6 if is_double else (half >> 6 & 1) << 2 | (half >> 5 & 1) << 6
        return 8 + (half >> 7 & 7), middle | low
    if function < 4:
        low, high = (half >> 2 & 31), (half >> 12 & 1) << 5
        if is_double:
            return 2, high | (low & 0x18) | (low & 7) << 6
        return 2, high | (low & 0x1C) | (low & 3) << 6
    field = half >> 7 & 63
    if is_double:
        return 2, (field & 0x38) | (field & 7) << 6
    return 2, (field & 0x3C) | (field & 3) << 6
