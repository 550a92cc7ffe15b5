"""Guests of a few instructions: a small assembler, and machines that run them."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator

import pytest

from emulator import Machine

RAM = 0x8000_0000
HANDLER = 0x8000_0400
"""Where `Guest.run` points mtvec: there the hart goes to sleep for good."""

CSR = {
    "sstatus": 0x100,
    "sie": 0x104,
    "stvec": 0x105,
    "scounteren": 0x106,
    "sepc": 0x141,
    "scause": 0x142,
    "stval": 0x143,
    "sip": 0x144,
    "satp": 0x180,
    "mstatus": 0x300,
    "medeleg": 0x302,
    "mideleg": 0x303,
    "mie": 0x304,
    "mtvec": 0x305,
    "mcounteren": 0x306,
    "mscratch": 0x340,
    "mepc": 0x341,
    "mcause": 0x342,
    "mtval": 0x343,
    "mip": 0x344,
    "pmpcfg0": 0x3A0,
    "pmpaddr0": 0x3B0,
    "cycle": 0xC00,
    "time": 0xC01,
    "instret": 0xC02,
}

X = {"zero": 0, "ra": 1, "sp": 2, "t0": 5, "t1": 6, "t2": 7, "s0": 8, "s1": 9, "a0": 10, "a1": 11, "a2": 12, "a3": 13}


def _i(opcode: int, funct3: int, rd: str, rs1: str, immediate: int) -> int:
    return (immediate & 0xFFF) << 20 | X[rs1] << 15 | funct3 << 12 | X[rd] << 7 | opcode


def _s(funct3: int, rs2: str, offset: int, rs1: str) -> int:
    return (offset >> 5 & 0x7F) << 25 | X[rs2] << 20 | X[rs1] << 15 | funct3 << 12 | (offset & 31) << 7 | 0x23


def _csr(funct3: int) -> Callable[[str, str, str], int]:
    return lambda rd, csr, rs1: CSR[csr] << 20 | X[rs1] << 15 | funct3 << 12 | X[rd] << 7 | 0x73


def _load(funct3: int) -> Callable[[str, int, str], int]:
    return lambda rd, offset, rs1: _i(0x03, funct3, rd, rs1, offset)


def _store(funct3: int) -> Callable[[str, int, str], int]:
    return lambda rs2, offset, rs1: _s(funct3, rs2, offset, rs1)


def _amo(funct5: int, funct3: int = 3) -> Callable[[str, str, str], int]:
    return lambda rd, rs2, rs1: funct5 << 27 | X[rs2] << 20 | X[rs1] << 15 | funct3 << 12 | X[rd] << 7 | 0x2F


def _li(rd: str, value: int) -> list[int]:
    """Any 64-bit constant: eleven bits at a time."""
    chunks = []
    value &= (1 << 64) - 1
    while value > 0x7FF:
        chunks.append(value & 0x7FF)
        value >>= 11
    words = [_i(0x13, 0, rd, "zero", value)]
    for chunk in reversed(chunks):
        words += [_i(0x13, 1, rd, rd, 11), _i(0x13, 6, rd, rd, chunk)]
    return words


def _open_memory(allowed: int = 0x1F) -> list[int]:
    """Let supervisor and user mode at all of memory: one PMP entry, NAPOT, for reading, writing and executing."""
    csrw = _csr(1)
    return [
        *_li("t1", (1 << 54) - 1),
        csrw("zero", "pmpaddr0", "t1"),
        *_li("t1", allowed),
        csrw("zero", "pmpcfg0", "t1"),
    ]


def _j(offset: int) -> int:
    bits = offset & 0x1FFFFF
    return (bits >> 20) << 31 | (bits >> 1 & 0x3FF) << 21 | (bits >> 11 & 1) << 20 | (bits >> 12 & 0xFF) << 12 | 0x6F


ASSEMBLER = types.SimpleNamespace(
    li=_li,
    addi=lambda rd, rs1, immediate: _i(0x13, 0, rd, rs1, immediate),
    lb=_load(0),
    lh=_load(1),
    lw=_load(2),
    ld=_load(3),
    sb=_store(0),
    sh=_store(1),
    sw=_store(2),
    sd=_store(3),
    amoadd=_amo(0),
    lr=lambda rd, rs1: _amo(2)(rd, "zero", rs1),
    sc=_amo(3),
    csrrw=_csr(1),
    csrrs=_csr(2),
    csrrc=_csr(3),
    csrw=lambda csr, rs1: _csr(1)("zero", csr, rs1),
    csrr=lambda rd, csr: _csr(2)(rd, csr, "zero"),
    j=_j,
    open_memory=_open_memory,
    jr=lambda rs1: _i(0x67, 0, "zero", rs1, 0),
    ecall=0x00000073,
    ebreak=0x00100073,
    mret=0x30200073,
    sret=0x10200073,
    wfi=0x10500073,
    fence_i=0x0000100F,
    sfence_vma=0x12000073,
    illegal=0xFFFFFFFF,
    sleep=[_csr(1)("zero", "mie", "zero"), 0x10500073, _j(-4)],  # csrw mie, zero; wfi; j .-4
)


@pytest.fixture
def asm() -> types.SimpleNamespace:
    return ASSEMBLER


def assemble(*parts: int | list[int]) -> bytes:
    words = [word for part in parts for word in ([part] if isinstance(part, int) else part)]
    return b"".join(word.to_bytes(4, "little") for word in words)


class Guest:
    """A machine with a program at the start of RAM and, at HANDLER, a trap handler that only sleeps."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def put(self, address: int, *parts: int | list[int]) -> None:
        self.machine.write(address, assemble(*parts))

    def run(self, *program: int | list[int], address: int = RAM) -> None:
        """Run until the hart sleeps with nothing to wake it, be it in the program or in the handler."""
        self.put(HANDLER, *ASSEMBLER.sleep)
        self.put(address, ASSEMBLER.li("t0", HANDLER), ASSEMBLER.csrw("mtvec", "t0"), *program, *ASSEMBLER.sleep)
        self.machine.cpu.pc = address
        self.machine.run(until=Asleep(), timeout=30)

    def __getitem__(self, register: str) -> int:
        return self.machine.cpu[f"x{X[register]}" if register in X else register]

    def trap(self) -> tuple[int, int, int]:
        """mcause, mepc from the start of the program behind the preamble, mtval."""
        return self["mcause"], self["mepc"], self["mtval"]


class Asleep:
    """The hart is in `wfi`; looked at twice a millisecond."""

    def begin(self, machine, met) -> bool:
        def look() -> None:
            if machine._vcpu.halted:
                met()
            else:
                self.timer.arm(machine.clock.now() + 500_000)

        self.timer = machine.clock.timer("asleep", look)
        self.timer.arm(machine.clock.now() + 500_000)
        return False

    def end(self, _machine) -> None:
        self.timer.cancel()


@pytest.fixture
def guest() -> Iterator[Guest]:
    with Machine("virt", ram="16M") as machine:
        yield Guest(machine)
