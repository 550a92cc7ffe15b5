"""Guest code as text, through Capstone."""

from __future__ import annotations

import functools

import capstone

RELATIVE = {"auipc": 12} | dict.fromkeys(
    "j jal beq bne blt bge bltu bgeu beqz bnez blez bgez bltz bgtz bgt ble bgtu bleu".split(), 0
)
"""Instructions whose last operand is a distance, and by how many bits that is shifted."""


@functools.cache
def _disassembler(xlen: int) -> capstone.Cs:
    mode = capstone.CS_MODE_RISCV64 if xlen == 64 else capstone.CS_MODE_RISCV32
    disassembler = capstone.Cs(capstone.CS_ARCH_RISCV, mode | capstone.CS_MODE_RISCVC)
    disassembler.detail = True  # operands as numbers
    return disassembler


def disassemble(code: bytes, address: int, xlen: int = 64) -> list[tuple[int, bytes, str]]:
    """Each instruction of `code`, which lies at `address`: its address, its bytes and its text.

    Behind what is relative to the instruction itself stands the address that it means, as in QEMU: `# 0x80000058`.

    What Capstone does not know is shown as `.half` of two bytes, so that every byte is accounted for; a cut-off
    instruction at the end is left out.
    """
    shown: list[tuple[int, bytes, str]] = []
    position = 0
    while position + 2 <= len(code):
        if position + 4 > len(code) and code[position] & 3 == 3:
            break
        found = next(_disassembler(xlen).disasm(code[position:], address + position, 1), None)
        size = found.size if found else 2
        text = f"{found.mnemonic:<7} {found.op_str}".rstrip() + _meant(found, xlen) if found else ""
        raw = code[position : position + size]
        shown.append((address + position, raw, text or f".half   0x{int.from_bytes(raw, 'little'):04x}"))
        position += size
    return shown


def _meant(instruction: capstone.CsInsn, xlen: int) -> str:
    """The address that a branch, a jump or `auipc` names by its distance, as a comment."""
    shift = RELATIVE.get(instruction.mnemonic.removeprefix("c."))
    if shift is None or instruction.operands[-1].type != capstone.CS_OP_IMM:
        return ""
    distance = instruction.operands[-1].imm << shift
    if shift:  # Capstone's number has no sign
        distance -= (distance & 1 << 31) << 1
    return f"  # 0x{(instruction.address + distance) % (1 << xlen):x}"
