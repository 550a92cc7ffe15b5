"""The translator's TLB for user mode keeps a size with which pages seldom push out each other."""

from __future__ import annotations

import ctypes

from emulator.cpu.usertlb import ENTRIES, UserTlb

RAM = 0x8000_0000
CODE = RAM + 0x1000


def run_in_user_mode(guest, asm) -> None:
    guest.put(CODE, asm.ecall)  # writing flushes what was translated, and the TLBs
    guest.run(
        asm.open_memory(),
        asm.li("t2", CODE),
        asm.csrw("mepc", "t2"),
        asm.csrw("mstatus", "zero"),
        asm.mret,
    )
    assert guest["mcause"] == 8


def test_it_grows_although_it_is_hardly_used_and_stays_like_that(guest, asm) -> None:
    guest.machine.power_on()
    tlb = guest.machine._vcpu.engine._user_tlb
    assert tlb.entries < ENTRIES
    for _ in range(4):
        run_in_user_mode(guest, asm)
    assert tlb.entries == ENTRIES
    for _ in range(4):
        run_in_user_mode(guest, asm)
    assert tlb.entries == ENTRIES


def test_what_looks_different_is_left_alone() -> None:
    for byte in (0, 0x55, 0xFF):
        memory = ctypes.create_string_buffer(bytes([byte]) * 8192, 8192)
        assert UserTlb.locate(ctypes.addressof(memory) + 8000) is None
        assert memory.raw == bytes([byte]) * 8192
