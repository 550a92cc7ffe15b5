"""What entering a handler does to the registers: every bit by hand, from sections 3.1.6 to 3.1.16 and 4.1."""

from __future__ import annotations

import pytest

from emulator.cpu.traps import enter_trap

SIE, MIE, SPIE, MPIE, SPP = 0x2, 0x8, 0x20, 0x80, 0x100
UXL_SXL, FS, SUM = 0xA_0000_0000, 0x6000, 0x4_0000
UNTOUCHED = UXL_SXL | FS | SUM
RESERVED, NONE = 0x8000_1000, (1 << 64) - 1


class Registers(dict[str, int]):
    xlen = 64


def registers(**values: int) -> Registers:
    before = Registers(pc=0x8000_0042, priv=3, mstatus=UNTOUCHED, medeleg=0, load_res=RESERVED)
    before |= {f"{mode}{name}": 0x1111 for mode in "ms" for name in ("epc", "cause", "tval")}
    before |= {"mtvec": 0x8000_0400, "stvec": 0xFFFF_FFFF_8000_0800} | values
    return before


@pytest.mark.parametrize(("priv", "mpp"), [(0, 0), (1, 0x800), (3, 0x1800)])
@pytest.mark.parametrize(("enabled", "was_enabled"), [(0, 0), (MIE, MPIE)])
def test_a_trap_to_machine_mode(priv: int, mpp: int, enabled: int, was_enabled: int) -> None:
    env = registers(priv=priv, mstatus=UNTOUCHED | enabled | SIE)
    enter_trap(env, 2, 0x1234)
    assert (env["pc"], env["priv"], env["mepc"], env["mcause"], env["mtval"]) == (
        0x8000_0400,
        3,
        0x8000_0042,
        2,
        0x1234,
    )
    assert env["mstatus"] == UNTOUCHED | was_enabled | mpp | SIE
    assert (env["sepc"], env["scause"], env["stval"]) == (0x1111, 0x1111, 0x1111)


def test_the_stack_of_the_status_register_has_one_level() -> None:
    env = registers(priv=0, mstatus=UNTOUCHED | 0x1800 | MPIE)
    enter_trap(env, 8, 0)
    assert env["mstatus"] == UNTOUCHED


@pytest.mark.parametrize(("priv", "spp"), [(0, 0), (1, SPP)])
@pytest.mark.parametrize(("enabled", "was_enabled"), [(0, 0), (SIE, SPIE)])
def test_a_delegated_trap(priv: int, spp: int, enabled: int, was_enabled: int) -> None:
    env = registers(priv=priv, mstatus=UNTOUCHED | enabled | MIE | 0x1800, medeleg=1 << 13)
    enter_trap(env, 13, 0xFFFF_FFFF_0000_0000)
    assert (env["pc"], env["priv"], env["sepc"]) == (0xFFFF_FFFF_8000_0800, 1, 0x8000_0042)
    assert (env["scause"], env["stval"]) == (13, 0xFFFF_FFFF_0000_0000)
    assert env["mstatus"] == UNTOUCHED | was_enabled | spp | MIE | 0x1800
    assert (env["mepc"], env["mcause"], env["mtval"]) == (0x1111, 0x1111, 0x1111)


@pytest.mark.parametrize(("priv", "medeleg"), [(3, 0xFFFF), (1, 0xFFFF & ~(1 << 5)), (0, 0)])
def test_what_is_not_delegated_or_comes_from_machine_mode_goes_to_machine_mode(priv: int, medeleg: int) -> None:
    env = registers(priv=priv, medeleg=medeleg)
    enter_trap(env, 5, 0)
    assert (env["priv"], env["mcause"], env["pc"]) == (3, 5, 0x8000_0400)


@pytest.mark.parametrize("delegated", [0, 1 << 3])
def test_exceptions_enter_at_the_base_even_where_interrupts_are_vectored(delegated: int) -> None:
    env = registers(priv=0, medeleg=delegated, mtvec=0x8000_0401, stvec=0x8000_0401)
    enter_trap(env, 3, 0)
    assert env["pc"] == 0x8000_0400


def test_a_reservation_does_not_survive() -> None:
    env = registers()
    enter_trap(env, 11, 0)
    assert env["load_res"] == NONE
