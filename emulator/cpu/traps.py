"""Entering a trap handler: what the hart's registers become.

Interrupts are taken by the engine itself; synchronous exceptions come here.
Source: RISC-V Privileged Architecture 1.10, sections 3.1.6 to 3.1.16 and 4.1.
"""

from __future__ import annotations

import enum

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

SIE, MIE, SPIE, MPIE, SPP, MPP = 1 << 1, 1 << 3, 1 << 5, 1 << 7, 1 << 8, 3 << 11


def enter_trap(env: Env, cause: int, trap_value: int) -> None:
    """Move the hart at `pc` into the handler of the synchronous exception `cause`, delegated or not.

    The load reservation is given up, as it is on every change of privilege in the engine.
    """
    priv = env["priv"]
    delegated = priv <= PRIV_S and env["medeleg"] >> cause & 1
    if log.enabled(log.interrupts):
        target = "S" if delegated else "M"
        log.interrupts.debug(
            "exception %d in mode %d at 0x%x, value 0x%x, to %s", cause, priv, env["pc"], trap_value, target
        )
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
