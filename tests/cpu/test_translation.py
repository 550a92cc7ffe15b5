"""Virtual memory and physical memory protection, as the guest meets them and as the monitor sees them.

Source: RISC-V Privileged Architecture 1.10, sections 3.6, 4.3 and 4.4.
"""

from __future__ import annotations

import pytest

from emulator.core.errors import MemoryAccessError

RAM = 0x8000_0000
ROOT = RAM + 0x10_0000
CODE = RAM + 0x1000
V, R, W, X, U, A, D = 1, 2, 4, 8, 16, 64, 128
SV39, SV48 = 8, 9
PAGE = 0x40_0000_0000 - 0x1000
"""The highest page of the lower half under Sv39."""


def table_of(guest, table: int, index: int, entry: int) -> None:
    guest.machine.write(table + 8 * index, entry.to_bytes(8, "little"))


def map_page(guest, mode: int, address: int, physical: int, flags: int) -> None:
    """Enter one 4 KiB page, with tables of their own below ROOT for each address."""
    levels = {SV39: 3, SV48: 4}[mode]
    table = ROOT
    for level in range(levels - 1, 0, -1):
        index = address >> 12 + 9 * level & 511
        below = ROOT + 0x1000 * (1 + index % 7 + 8 * (levels - level))
        table_of(guest, table, index, below >> 12 << 10 | V)
        table = below
    table_of(guest, table, address >> 12 & 511, physical >> 12 << 10 | flags)


def in_supervisor_mode(guest, asm, mode: int, *program, status: int = 0, allowed: int = 0x1F) -> None:
    """Run `program` in S-mode under translation; its page is mapped to itself, for S only."""
    map_page(guest, mode, CODE, CODE, V | R | X | A | D)
    guest.put(CODE, *program, asm.ecall)
    guest.run(
        asm.open_memory(allowed),
        asm.li("t1", mode << 60 | ROOT >> 12),
        asm.csrw("satp", "t1"),
        asm.sfence_vma,
        asm.li("t1", 1 << 11 | status),
        asm.csrw("mstatus", "t1"),
        asm.li("t2", CODE),
        asm.csrw("mepc", "t2"),
        asm.mret,
    )


@pytest.mark.parametrize("mode", [SV39, SV48])
def test_a_mapped_page_is_read_and_written(guest, asm, mode: int) -> None:
    map_page(guest, mode, 0x4000_0000, RAM + 0x8000, V | R | W | A | D)
    guest.machine.write(RAM + 0x8008, (77).to_bytes(8, "little"))
    in_supervisor_mode(guest, asm, mode, asm.li("a1", 0x4000_0000), asm.ld("a0", 8, "a1"), asm.sd("a0", 16, "a1"))
    assert guest["mcause"] == 9
    assert (guest["a0"], guest.machine.read(RAM + 0x8010, 8)) == (77, (77).to_bytes(8, "little"))


@pytest.mark.parametrize(
    ("flags", "access", "cause"),
    [
        (0, "ld", 13),
        (V | R | A, "sd", 15),
        (V | R | W | A | D | U, "ld", 13),
        (V | W | A | D, "ld", 13),
        (V | X | A, "ld", 13),
        (0, "amoadd", 15),
    ],
)
def test_a_page_fault_tells_its_cause_and_address(guest, asm, flags: int, access: str, cause: int) -> None:
    map_page(guest, SV39, PAGE, RAM + 0x8000, flags)
    word = asm.amoadd("a0", "a2", "a1") if access == "amoadd" else getattr(asm, access)("a0", 0, "a1")
    in_supervisor_mode(guest, asm, SV39, asm.li("a1", PAGE + 0x10), word)
    assert (guest["mcause"], guest["mtval"]) == (cause, PAGE + 0x10)


def test_a_fetch_from_a_page_that_is_not_executable(guest, asm) -> None:
    map_page(guest, SV39, PAGE, RAM + 0x8000, V | R | W | A | D)
    in_supervisor_mode(guest, asm, SV39, asm.li("a1", PAGE), asm.jr("a1"))
    assert (guest["mcause"], guest["mepc"], guest["mtval"]) == (12, PAGE, PAGE)


def test_supervisor_reaches_user_pages_with_sum_and_executable_ones_with_mxr(guest, asm) -> None:
    map_page(guest, SV39, PAGE, RAM + 0x8000, V | X | U | A)
    word = asm.li("a1", PAGE), asm.ld("a0", 0, "a1")
    in_supervisor_mode(guest, asm, SV39, *word, status=1 << 18 | 1 << 19)
    assert guest["mcause"] == 9


def test_a_device_is_reached_through_a_mapping_and_faults_at_its_virtual_address(guest, asm) -> None:
    map_page(guest, SV39, PAGE, 0x0C00_0000, V | R | W | A | D)
    program = asm.li("a1", PAGE), asm.li("a0", 3), asm.sw("a0", 4, "a1"), asm.lw("a2", 4, "a1"), asm.lb("a0", 4, "a1")
    in_supervisor_mode(guest, asm, SV39, *program)
    assert guest["a2"] == 3
    assert (guest["mcause"], guest["mtval"]) == (5, PAGE + 4)


def test_an_unassigned_physical_address_faults_at_its_virtual_address(guest, asm) -> None:
    map_page(guest, SV39, PAGE, 0x0900_0000, V | R | W | A | D)
    in_supervisor_mode(guest, asm, SV39, asm.li("a1", PAGE + 0x800), asm.sd("a0", -8, "a1"))
    assert (guest["mcause"], guest["mtval"]) == (7, PAGE + 0x7F8)


def test_memory_protection_denies_supervisor_mode(guest, asm) -> None:
    map_page(guest, SV39, PAGE, RAM + 0x8000, V | R | W | A | D)
    in_supervisor_mode(guest, asm, SV39, asm.li("a1", PAGE), asm.sd("a0", 0, "a1"), allowed=0x1D)  # no W
    assert (guest["mcause"], guest["mtval"]) == (7, PAGE)


def test_a_locked_entry_binds_machine_mode_too(guest, asm) -> None:
    page = RAM + 0x8000
    guest.run(
        asm.li("a1", page),
        asm.sd("a1", 0, "a1"),
        asm.li("t1", page >> 2 | 0x1FF),
        asm.csrw("pmpaddr0", "t1"),
        asm.li("t1", 0x99),  # locked, NAPOT, read only
        asm.csrw("pmpcfg0", "t1"),
        asm.sfence_vma,
        asm.sd("zero", 8, "a1"),
    )
    assert (guest["mcause"], guest["mtval"]) == (7, page + 8)
    assert guest.machine.read(page + 8, 8) == bytes(8)


def test_machine_mode_with_mprv_sees_what_the_previous_mode_would(guest, asm) -> None:
    map_page(guest, SV39, PAGE, RAM + 0x8000, V | R | A)
    guest.machine.write(RAM + 0x8000, (5).to_bytes(8, "little"))
    guest.run(
        asm.open_memory(),
        asm.li("t1", SV39 << 60 | ROOT >> 12),
        asm.csrw("satp", "t1"),
        asm.li("t1", 1 << 17 | 1 << 11),
        asm.csrw("mstatus", "t1"),
        asm.li("a1", PAGE),
        asm.ld("a0", 0, "a1"),
        asm.sd("a0", 0, "a1"),
    )
    assert (guest["a0"], guest["mcause"], guest["mtval"]) == (5, 15, PAGE)


def test_the_monitor_sees_memory_as_the_hart_does(guest) -> None:
    map_page(guest, SV39, PAGE, RAM + 0x8000, 0)
    map_page(guest, SV39, 0x4000_0000, RAM + 0x9000, V | R | W | A | D)
    guest.machine.write(RAM + 0x9FFC, b"text")
    machine = guest.machine
    machine.cpu["satp"] = SV39 << 60 | ROOT >> 12
    machine.cpu["priv"] = 1
    assert machine.cpu.read_virtual(0x4000_0FFC, 4) == b"text"
    for address, why in ((PAGE, "no page"), (0x4000_1000, "no page"), (1 << 50, "canonical")):
        with pytest.raises(MemoryAccessError, match=why):
            machine.cpu.read_virtual(address, 1)
    machine.cpu["priv"] = 3
    assert machine.cpu.read_virtual(RAM + 0x9FFC, 4) == b"text"


def test_the_monitor_follows_large_pages(guest) -> None:
    machine = guest.machine
    table_of(guest, ROOT, 1, (RAM >> 12 << 10) | V | R | W | X)
    machine.write(RAM + 0x12_3456, b"x")
    machine.cpu["satp"] = SV39 << 60 | ROOT >> 12
    machine.cpu["priv"] = 1
    assert machine.cpu.read_virtual(0x4000_0000 + 0x12_3456, 1) == b"x"


def test_a_page_table_that_points_nowhere_ends_the_walk(guest) -> None:
    machine = guest.machine
    table_of(guest, ROOT, 0, 0x0900_0000 >> 12 << 10 | V)
    machine.cpu["satp"] = SV39 << 60 | ROOT >> 12
    machine.cpu["priv"] = 0
    with pytest.raises(MemoryAccessError, match="no page"):
        machine.cpu.read_virtual(0, 1)
