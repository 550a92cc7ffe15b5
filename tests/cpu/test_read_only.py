"""Memory that the guest reads as such and cannot store to: the mask ROM, and flash while it shows its array."""

from __future__ import annotations

import pytest

RAM, HANDLER = 0x8000_0000, 0x8000_0400
MROM, FLASH, UART = 0x1000, 0x2000_0000, 0x1000_0000
STORE_ACCESS_FAULT = 7


def test_a_store_to_the_mask_rom_is_ignored(guest, asm) -> None:
    before = guest.machine.read(MROM, 16)
    guest.run(
        asm.li("a1", MROM),
        asm.li("a2", -1),
        asm.sd("a2", 0, "a1"),
        asm.li("s0", 1),
        asm.sb("a2", 9, "a1"),
        asm.ld("a0", 0, "a1"),
    )
    assert guest.machine.read(MROM, 16) == before
    assert guest["a0"] == int.from_bytes(before[:8], "little")
    assert (guest["mcause"], guest["s0"]) == (0, 1)


def test_a_compressed_store_to_the_mask_rom_is_followed_by_the_next_instruction(guest, asm) -> None:
    # c.sd a2, 0(a1); c.li s0, 5
    guest.run(asm.li("a1", MROM), asm.li("a2", -1), 0xE190 | 0x4415 << 16)
    assert (guest["mcause"], guest["s0"]) == (0, 5)


@pytest.mark.parametrize("where", [MROM, FLASH])
@pytest.mark.parametrize("kind", ["amoadd", "sc"])
def test_an_atomic_there_is_an_access_fault(guest, asm, where: int, kind: str) -> None:
    guest.run(asm.li("a1", where), asm.li("a2", 1), asm.lr("a0", "a1"), getattr(asm, kind)("a0", "a2", "a1"))
    assert (guest["mcause"], guest["mtval"]) == (STORE_ACCESS_FAULT, where)
    assert guest.machine.read(FLASH, 8) == bytes(8)


@pytest.mark.parametrize("command", [0xFF, 0x00])
def test_a_command_that_leaves_flash_in_array_mode_stores_nothing(guest, asm, command: int) -> None:
    flash = guest.machine.board.rom_devices[0].block
    guest.machine.call(lambda: flash.view.__setitem__(slice(0x100, 0x104), b"data"))
    guest.run(
        asm.li("a1", FLASH + 0x100),
        asm.li("a2", command),
        asm.sb("a2", 0, "a1"),
        asm.lw("a0", 0, "a1"),
        asm.addi("s0", "a0", 1),
    )
    assert guest["a0"] == int.from_bytes(b"data", "little")
    assert guest["s0"] == guest["a0"] + 1
    assert bytes(flash.view[0x100:0x104]) == b"data"


def test_flash_is_programmed_by_its_commands(guest, asm) -> None:
    guest.run(
        asm.li("a1", FLASH + 0x100),
        asm.li("a2", 0x40),
        asm.sw("a2", 0, "a1"),
        asm.li("a2", 0x1234_5678),
        asm.sw("a2", 0, "a1"),
        asm.lw("a3", 0, "a1"),
        asm.li("a2", 0xFF),
        asm.sw("a2", 0, "a1"),
        asm.lw("a0", 0, "a1"),
    )
    assert guest["a3"] & 0x80  # ready
    assert guest["a0"] == 0x1234_5678


def test_page_tables_in_a_device_map_nothing(guest, asm, capfd) -> None:
    guest.run(
        asm.li("a1", UART),
        asm.lb("a0", 5, "a1"),  # what the device said last must not be taken for an entry
        asm.open_memory(),
        asm.li("t1", 8 << 60 | UART >> 12),
        asm.csrw("satp", "t1"),
        asm.li("t1", 1 << 11),
        asm.csrw("mstatus", "t1"),
        asm.li("t2", RAM),
        asm.csrw("mepc", "t2"),
        asm.mret,
    )
    assert (guest["mcause"], guest["mepc"], guest["mtval"]) == (12, RAM, RAM)
    assert capfd.readouterr().err == ""
