"""`time`, `cycle` and `instret`."""

from __future__ import annotations

from emulator import Icount, Instructions, Machine

RAM = 0x8000_0000


def test_time_is_mtime(guest, asm) -> None:
    guest.run(asm.li("a1", 0x0200_BFF8), asm.ld("a2", 0, "a1"), asm.csrr("a0", "time"), asm.ld("a3", 0, "a1"))
    assert 0 < guest["a2"] <= guest["a0"] <= guest["a3"]


def test_counted_instructions_are_the_guests_own_count(asm) -> None:
    with Machine("virt", ram="16M", icount=Icount(0, sleep=False)) as machine:
        words = [asm.csrr("a0", "instret"), asm.addi("a2", "zero", 1), asm.csrr("a1", "cycle"), asm.j(0)]
        machine.write(RAM, b"".join(word.to_bytes(4, "little") for word in words))
        machine.cpu.pc = RAM
        machine.run(until=Instructions(10), timeout=30)
        assert machine.cpu["x11"] - machine.cpu["x10"] == 2
