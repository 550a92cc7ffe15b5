"""Guest code as text, through Capstone."""

from __future__ import annotations

import functools

import capstone


@functools.cache
def _disassembler(xlen: int) -> capstone.Cs:
    mode = capstone.CS_MODE_RISCV64 if xlen == 64 else capstone.CS_MODE_RISCV32
    return capstone.Cs(capstone.CS_ARCH_RISCV, mode | capstone.CS_MODE_RISCVC)


def disassemble(code: bytes, address: int, xlen: int = 64) -> list[tuple[int, bytes, str]]:
    """Each instruction of `code`, which lies at `address`: its address, its bytes and its text.

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
        text = f"{found.mnemonic:<7} {found.op_str}".rstrip() if found else ""
        raw = code[position : position + size]
        shown.append((address + position, raw, text or f".half   0x{int.from_bytes(raw, 'little'):04x}"))
        position += size
    return shown
