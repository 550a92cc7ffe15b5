"""Entering a trap handler: what the hart's registers become.

Interrupts are taken by the engine itself; synchronous exceptions come here.
Source: RISC-V Privileged Architecture 1.10, sections 3.1.6 to 3.1.16 and 4.1.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence

from emulator.core import log
from emulator.core.bits import get_field, mask, set_field
from emulator.cpu.env import Env


class Cause(enum.IntEnum):
    """Synchronous exception codes of mcause and scause (table 3.6)."""

    INSTRUCTION_MISALIGNED = 0
    INSTRUCTION_ACCESS_FAULT = 1
    ILLEGAL_INSTRUCTION = 2
    BREAKPOINT = 3
    LOAD_MISALIGNED = 4
    LOAD_ACCESS_FAULT = 5
    STORE_MISALIGNED = 6
    STORE_ACCESS_FAULT = 7
    ECALL_U = 8
    ECALL_S = 9
    ECALL_M = 11
    INSTRUCTION_PAGE_FAULT = 12
    LOAD_PAGE_FAULT = 13
    STORE_PAGE_FAULT = 15


ADDRESS_CAUSES = frozenset(
    (
        Cause.INSTRUCTION_MISALIGNED,
        Cause.INSTRUCTION_ACCESS_FAULT,
        Cause.LOAD_MISALIGNED,
        Cause.LOAD_ACCESS_FAULT,
        Cause.STORE_MISALIGNED,
        Cause.STORE_ACCESS_FAULT,
        Cause.INSTRUCTION_PAGE_FAULT,
        Cause.LOAD_PAGE_FAULT,
        Cause.STORE_PAGE_FAULT,
    )
)
"""Exceptions whose trap value is the address that was used."""

PRIV_U, PRIV_S, PRIV_M = 0, 1, 3
MODES = "US-M"
"""Their letters."""

SIE, MIE, SPIE, MPIE, SPP, MPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8, 3 << 11


NAMES = (
    "misaligned_fetch fault_fetch illegal_instruction breakpoint "
    "misaligned_load fault_load misaligned_store fault_store "
    "user_ecall supervisor_ecall hypervisor_ecall machine_ecall "
    "exec_page_fault load_page_fault reserved store_page_fault"
).split()
INTERRUPT_NAMES = (
    "u_software s_software vs_software m_software u_timer s_timer vs_timer m_timer "
    "u_external s_external vs_external m_external"
).split()
"""What QEMU calls exceptions and interrupts, by their codes."""


def enter_trap(env: Env, cause: int, trap_value: int) -> None:
    """Move the hart at `pc` into the handler of the synchronous exception `cause`, delegated or not.

    The load reservation is given up, as it is on every change of privilege in the engine.
    """
    priv = env["priv"]
    delegated = priv <= PRIV_S and env["medeleg"] >> cause & 1
    if log.enabled(log.interrupts):
        log_trap(env, cause, env["pc"], trap_value)
    status = env["mstatus"]
    if delegated:
        status = set_field(status, SPIE, get_field(status, SIE))
        status = set_field(status & ~SIE, SPP, priv)
        env["sepc"], env["scause"], env["stval"] = env["pc"], cause, trap_value
        env["pc"], env["priv"] = env["stvec"] & ~3, PRIV_S
    else:
        status = set_field(status, MPIE, get_field(status, MIE))
        status = set_field(status & ~MIE, MPP, priv)
        env["mepc"], env["mcause"], env["mtval"] = env["pc"], cause, trap_value
        env["pc"], env["priv"] = env["mtvec"] & ~3, PRIV_M
    env["mstatus"] = status
    env["load_res"] = mask(env.xlen)


def log_interrupt(env: Env) -> None:
    """Log the interrupt that brought the hart to `pc`, if one has: that is a handler, and the cause says so."""
    for mode, tvec, epc, cause in ((PRIV_S, "stvec", "sepc", "scause"), (PRIV_M, "mtvec", "mepc", "mcause")):
        code = env[cause] & mask(env.xlen - 1)
        handler = (env[tvec] & ~3) + 4 * code * (env[tvec] & 1)
        if env["priv"] == mode and env["pc"] == handler and env[cause] >> env.xlen - 1:
            log_trap(env, code, env[epc], 0, names=INTERRUPT_NAMES)


def log_trap(env: Env, cause: int, pc: int, trap_value: int, *, names: Sequence[str] = NAMES) -> None:
    """One line in QEMU's words, with which tools can tell what an operating system is doing."""
    digits = env.xlen // 4
    log.interrupts.debug(
        "riscv_cpu_do_interrupt: hart:%d, async:%d, cause:%0*x, epc:0x%0*x, tval:0x%0*x, desc=%s",
        env["mhartid"],
        names is INTERRUPT_NAMES,
        *(digits, cause),
        *(digits, pc),
        *(digits, trap_value),
        names[cause] if cause < len(names) else "reserved",
    )
