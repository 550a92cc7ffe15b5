"""CSRs that Python answers for the engine, as the guest sees them.

Source: RISC-V Privileged Architecture 1.10, sections 3.1.6, 3.1.17, 3.6.1 and 4.1.6.
"""

from __future__ import annotations

import pytest

SPOT = 0x8000_0100
CYCLE, TIME, INSTRET, HPMCOUNTER3 = 0, 1, 2, 3
MCOUNTEREN, SCOUNTEREN = 0x306, 0x106


def read(csr: int) -> int:
    """csrrs a0, csr, zero"""
    return csr << 20 | 2 << 12 | 10 << 7 | 0x73


def write(csr: int) -> int:
    """csrrw zero, csr, t1"""
    return csr << 20 | 6 << 15 | 1 << 12 | 0x73


@pytest.mark.parametrize("counter", [CYCLE, TIME, INSTRET, HPMCOUNTER3])
@pytest.mark.parametrize(("mode", "machine", "supervisor"), [(1, 1, 0), (1, 0, 1), (0, 1, 1), (0, 1, 0), (0, 0, 1)])
def test_a_counter_is_read_where_all_modes_above_allow_it(
    guest, asm, counter: int, mode: int, machine: int, supervisor: int
) -> None:
    guest.put(SPOT, read(0xC00 + counter), asm.ecall)
    guest.run(
        asm.open_memory(),
        asm.li("t1", machine << counter),
        write(MCOUNTEREN),
        asm.li("t1", supervisor << counter),
        write(SCOUNTEREN),
        asm.li("t1", mode << 11),
        asm.csrw("mstatus", "t1"),
        asm.li("t2", SPOT),
        asm.csrw("mepc", "t2"),
        asm.mret,
    )
    is_allowed = machine and (supervisor or mode == 1)
    assert guest.trap() == ((8 + mode, SPOT + 4, 0) if is_allowed else (2, SPOT, read(0xC00 + counter)))


def test_setting_a_rounding_mode_tells_the_operating_system_that_there_is_something_to_save(guest, asm) -> None:
    fsrmi_0 = 0x0020_5073
    guest.run(asm.li("t1", 1 << 13), asm.csrw("mstatus", "t1"), fsrmi_0, asm.csrr("a0", "mstatus"))
    assert guest["a0"] >> 63 == 1
    assert guest["a0"] >> 13 & 3 == 3


def test_registers_are_64_bits_wide_in_every_mode_and_stay_so(guest, asm) -> None:
    guest.run(asm.csrr("a0", "mstatus"), asm.csrw("mstatus", "zero"), asm.csrr("a1", "mstatus"))
    assert guest["a0"] == guest["a1"] == 2 << 34 | 2 << 32


def test_without_any_pmp_entry_only_machine_mode_reaches_memory(guest, asm) -> None:
    guest.run(asm.li("t2", SPOT), asm.csrw("mepc", "t2"), asm.mret)
    assert guest.trap() == (1, SPOT, SPOT)
