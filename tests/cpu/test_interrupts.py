"""Interrupts from the board's own chips: delivery, vectors, delegation, enables, sleep.

Source: RISC-V Privileged Architecture 1.10, sections 3.1.6 to 3.1.9, 3.1.13 and 3.2.2; the PLIC specification 1.0.
"""

from __future__ import annotations

import time

import pytest

from emulator import Elapsed, Machine, RunState

RAM = 0x8000_0000
HANDLER = 0x8000_0400
INTERRUPT = 1 << 63
MSIP, MTIMECMP, MTIME = 0x0200_0000, 0x0200_4000, 0x0200_BFF8
UART, PLIC = 0x1000_0000, 0x0C00_0000
SSIE, MSIE, MTIE, SEIE, MEIE = 1 << 1, 1 << 3, 1 << 7, 1 << 9, 1 << 11
MIE = 1 << 3


def enable(asm, sources: int) -> tuple[object, ...]:
    """Enable these sources and, last, machine interrupts as a whole."""
    return asm.li("t1", sources), asm.csrw("mie", "t1"), asm.li("t1", MIE), asm.csrrs("zero", "mstatus", "t1")


def test_a_timer_set_in_the_past_fires_at_once(guest, asm) -> None:
    guest.run(asm.li("a1", MTIMECMP), asm.sd("zero", 0, "a1"), *enable(asm, MTIE))
    assert guest["mcause"] == INTERRUPT | 7


def test_a_timer_in_the_future_fires_when_its_time_has_come(guest, asm) -> None:
    guest.run(
        asm.li("a1", MTIME),
        asm.ld("a2", 0, "a1"),
        asm.li("a3", 20_000),  # 2 ms
        asm.addi("s0", "a2", 0),
        0x00D60633,  # add a2, a2, a3
        asm.li("a1", MTIMECMP),
        asm.sd("a2", 0, "a1"),
        *enable(asm, MTIE),
        asm.j(0),
    )
    assert guest["mcause"] == INTERRUPT | 7
    assert guest.machine.virtual_time // 100 >= guest["a2"]


def test_a_timer_set_later_takes_its_interrupt_back(guest, asm) -> None:
    guest.run(
        asm.li("a1", MTIMECMP),
        asm.sd("zero", 0, "a1"),
        asm.csrr("a2", "mip"),
        asm.li("a3", -1),
        asm.sd("a3", 0, "a1"),
        asm.csrr("a3", "mip"),
        *enable(asm, MTIE),
    )
    assert (guest["a2"] & MTIE, guest["a3"] & MTIE, guest["mcause"]) == (MTIE, 0, 0)


def test_a_software_interrupt_to_itself(guest, asm) -> None:
    guest.run(asm.li("a1", MSIP), asm.li("a2", 1), *enable(asm, MSIE), asm.sw("a2", 0, "a1"), asm.j(4))
    assert guest["mcause"] == INTERRUPT | 3


def test_an_interrupt_waits_for_its_enables(guest, asm) -> None:
    guest.run(asm.li("a1", MSIP), asm.li("a2", 1), asm.sw("a2", 0, "a1"), *enable(asm, MTIE & 0))
    assert (guest["mcause"], guest["mip"] & MSIE) == (0, MSIE)


def test_vectored_mode_enters_by_the_cause(guest, asm) -> None:
    vectors = RAM + 0x800
    guest.put(vectors, *[asm.j(0)] * 7, asm.j(0x100))
    guest.put(vectors + 4 * 7 + 0x100, asm.li("s0", 7), *asm.sleep)
    guest.run(
        asm.li("t1", vectors | 1),
        asm.csrw("mtvec", "t1"),
        asm.li("a1", MTIMECMP),
        asm.sd("zero", 0, "a1"),
        *enable(asm, MTIE),
    )
    assert guest["s0"] == 7


def test_exceptions_do_not_use_the_vectors(guest, asm) -> None:
    vectors = RAM + 0x800
    guest.put(vectors, asm.j(0x100))
    guest.put(vectors + 0x100, asm.li("s0", 42), *asm.sleep)
    guest.run(asm.li("t1", vectors | 1), asm.csrw("mtvec", "t1"), asm.illegal)
    assert guest["s0"] == 42


@pytest.mark.parametrize("shadow", [1, 0])
def test_a_delegated_software_interrupt_goes_to_supervisor_mode(guest, asm, shadow: int) -> None:
    handler, spot = RAM + 0x600, RAM + 0x700
    guest.put(handler, asm.csrr("s0", "scause"), asm.csrr("s1", "sepc"), asm.ecall)
    guest.put(spot, asm.wfi, asm.j(-4))
    guest.run(
        asm.open_memory(),
        asm.li("t1", SSIE),
        asm.csrw("mideleg", "t1"),
        asm.csrw("mie", "t1"),
        asm.csrrs("zero", "mip", "t1"),
        asm.li("t1", handler),
        asm.csrw("stvec", "t1"),
        asm.li("t1", shadow << 11 | 1 << 1),  # to S with SIE, or to U where supervisor interrupts are always on
        asm.csrw("mstatus", "t1"),
        asm.li("t2", spot),
        asm.csrw("mepc", "t2"),
        asm.mret,
    )
    assert (guest["s0"], guest["s1"]) == (INTERRUPT | 1, spot)


def test_an_external_interrupt_comes_through_the_plic_and_is_claimed(guest, asm) -> None:
    guest.put(
        HANDLER + 0x40,
        asm.csrr("s1", "mcause"),
        asm.li("a1", PLIC + 0x20_0004),
        asm.lw("s0", 0, "a1"),
        asm.csrr("a3", "mip"),
        *asm.sleep,
    )
    guest.run(
        asm.li("t1", HANDLER + 0x40),
        asm.csrw("mtvec", "t1"),
        asm.li("a1", PLIC + 4 * 10),
        asm.li("a2", 1),
        asm.sw("a2", 0, "a1"),
        asm.li("a1", PLIC + 0x2000),
        asm.li("a2", 1 << 10),
        asm.sw("a2", 0, "a1"),
        *enable(asm, MEIE),
        asm.li("a1", UART),
        asm.li("a2", 2),
        asm.sb("a2", 1, "a1"),  # IER: transmitter empty, which it is
        asm.j(4),  # an interrupt comes between two blocks
    )
    assert (guest["s1"], guest["s0"]) == (INTERRUPT | 11, 10)
    assert guest["a3"] & MEIE == 0


def test_interrupts_nest_where_the_handler_enables_them(guest, asm) -> None:
    guest.put(
        HANDLER + 0x40,
        asm.csrr("s0", "mcause"),
        asm.li("t1", HANDLER),
        asm.csrw("mtvec", "t1"),
        asm.li("a1", MTIMECMP),
        asm.li("a2", -1),
        asm.sd("a2", 0, "a1"),
        asm.li("a1", MSIP),
        asm.li("a2", 1),
        asm.sw("a2", 0, "a1"),
        asm.li("t1", MIE),
        asm.csrrs("zero", "mstatus", "t1"),
        asm.j(0),
    )
    guest.run(
        asm.li("t1", HANDLER + 0x40),
        asm.csrw("mtvec", "t1"),
        asm.li("a1", MTIMECMP),
        asm.sd("zero", 0, "a1"),
        *enable(asm, MTIE | MSIE),
    )
    assert (guest["s0"], guest["mcause"]) == (INTERRUPT | 7, INTERRUPT | 3)
    assert HANDLER + 0x40 <= guest["mepc"] < HANDLER + 0x100


def test_of_several_pending_interrupts_the_engine_takes_the_lowest_number(guest, asm) -> None:
    # The specification would have MSI before MTI as well, but MEI before both: see emulator/cpu/vcpu.py.
    guest.run(
        asm.li("a1", MTIMECMP),
        asm.sd("zero", 0, "a1"),
        asm.li("a1", MSIP),
        asm.li("a2", 1),
        asm.sw("a2", 0, "a1"),
        *enable(asm, MTIE | MSIE),
    )
    assert guest["mcause"] == INTERRUPT | 3


def test_wfi_wakes_for_an_enabled_interrupt_that_may_not_be_taken(guest, asm) -> None:
    guest.run(
        asm.li("t1", MTIE),
        asm.csrw("mie", "t1"),
        asm.li("a1", MTIMECMP),
        asm.sd("zero", 0, "a1"),
        asm.wfi,
        asm.li("s0", 1),
        asm.csrw("mie", "zero"),
    )
    assert (guest["s0"], guest["mcause"]) == (1, 0)


@pytest.mark.parametrize(
    "loop",
    [
        pytest.param(lambda asm, _guest: asm.j(0), id="jump to itself"),
        pytest.param(lambda asm, guest: guest.put(RAM + 0x800, asm.illegal) or asm.illegal, id="illegal handler"),
        pytest.param(lambda asm, guest: guest.put(RAM + 0x800, asm.ecall) or asm.ecall, id="ecall in the handler"),
        pytest.param(lambda asm, guest: guest.put(RAM + 0x800, asm.ebreak) or asm.ebreak, id="ebreak in the handler"),
        pytest.param(lambda asm, guest: guest.put(RAM + 0x800, asm.sd("a0", 0, "zero")) or asm.ecall, id="bad stores"),
        pytest.param(lambda asm, guest: guest.put(RAM + 0x800, asm.ld("a0", 0, "zero")) or asm.ecall, id="bad loads"),
    ],
)
def test_a_guest_in_an_endless_loop_can_be_stopped_and_ended(guest, asm, loop) -> None:
    word = loop(asm, guest)
    guest.put(RAM, asm.li("t1", RAM + 0x800), asm.csrw("mtvec", "t1"), word)
    guest.machine.cpu.pc = RAM
    stops_in_time(guest.machine)


def test_a_guest_whose_handler_is_nowhere_can_be_stopped(guest, asm) -> None:
    guest.put(RAM, asm.li("t1", 0x0900_0000), asm.csrw("mtvec", "t1"), asm.ecall)
    guest.machine.cpu.pc = RAM
    stops_in_time(guest.machine)


def stops_in_time(machine: Machine) -> None:
    for _ in range(20):
        machine.cont()
        begun = time.monotonic()
        machine.stop()
        assert time.monotonic() - begun < 5
        assert machine.status is RunState.PAUSED
    machine.cont()
    machine.quit(3)
    assert machine.wait() == 3


def test_an_idle_hart_lets_time_pass(guest) -> None:
    guest.run()
    guest.machine.run(until=Elapsed(0.01), timeout=30)
    assert guest.machine.cpu.halted
