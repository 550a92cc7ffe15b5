from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.core.errors import ConfigError
from emulator.core.memory import RamBlock
from emulator.hw.pflash_cfi01 import NO_BLOCK, PflashCfi01, PflashState

BANK = 0x2000000
SECTOR = 0x40000
BUFFER = 0x1000
FLASH0 = 0x20000000
READY = 0x00800080


class Bank:
    """A flash bank, driven as a guest drives it; `modes` is what the board was told."""

    def __init__(self, *, readonly: bool = False, size: int = BANK) -> None:
        self.modes: list[bool] = []
        self.block = RamBlock("virt.flash0", size)
        self.chip = PflashCfi01(self.block, readonly=readonly, on_mode_change=self.modes.append)

    def read(self, offset: int, size: int = 4) -> int:
        assert self.chip.regions[0].accepts(offset, size)
        return self.chip.regions[0].read(offset, size)

    def write(self, offset: int, value: int, size: int = 4) -> None:
        assert self.chip.regions[0].accepts(offset, size)
        self.chip.regions[0].write(offset, size, value)

    def content(self, offset: int, length: int) -> bytes:
        return bytes(self.block.view[offset : offset + length])

    def buffer(self, offset: int, words: list[int]) -> None:
        self.write(offset, 0x00E800E8)
        self.write(offset, len(words) - 1)
        for index, word in enumerate(words):
            self.write(offset + 4 * index, word)


@pytest.fixture
def make_bank() -> Iterator[Callable[..., Bank]]:
    banks: list[Bank] = []

    def make(**options: object) -> Bank:
        banks.append(Bank(**options))  # type: ignore[arg-type]
        return banks[-1]

    yield make
    for bank in banks:
        bank.chip.block.close()


@pytest.fixture
def bank(make_bank: Callable[..., Bank]) -> Bank:
    return make_bank()


def test_bank_starts_in_read_array_mode_without_telling(bank: Bank) -> None:
    bank.block.view[0:4] = b"\x01\x02\x03\x04"
    assert bank.chip.array_mode
    assert bank.modes == []
    assert bank.read(0) == 0x04030201
    assert bank.read(2, 2) == 0x0403
    assert bank.read(0, 8) == 0x04030201


def test_every_other_mode_is_told_once_and_read_array_leaves_it(bank: Bank) -> None:
    bank.write(0, 0x00900090)
    bank.write(0, 0x00700070)
    bank.write(0, 0x00FF00FF)
    assert bank.modes == [False, True]


@pytest.mark.parametrize("command", [0x00, 0x50, 0xF0, 0xFF, 0x77])
def test_commands_that_end_in_read_array_mode_do_not_toggle_it(bank: Bank, command: int) -> None:
    bank.write(0, command)
    assert bank.modes == []


def test_query_finds_the_signature_and_the_intel_command_set_in_both_chips(bank: Bank) -> None:
    bank.write(0x55 * 4, 0x00980098)
    words = [bank.read(4 * word) for word in range(0x10, 0x15)]
    assert words == [0x00510051, 0x00520052, 0x00590059, 0x00010001, 0]


def test_query_describes_one_chip_of_two(bank: Bank) -> None:
    bank.write(0x55 * 4, 0x00980098)
    table = [bank.read(4 * word, 1) for word in range(0x52)]
    assert table[0x27] == 24  # 16 MiB
    assert table[0x2A:0x2C] == [0x0B, 0x00]  # 2 KiB of write buffer
    assert table[0x2C] == 1  # one erase region:
    assert table[0x2D] + (table[0x2E] << 8) == 128 - 1  # 128 blocks
    assert table[0x2F] + (table[0x30] << 8) == 0x20000 // 256  # of 128 KiB
    assert bytes(table[0x31:0x36]) == b"PRI10"


def test_query_reads_zero_behind_its_table_and_ends_only_with_read_array(bank: Bank) -> None:
    bank.write(0, 0x98)
    assert bank.read(0x52 * 4) == 0
    assert bank.read(BANK - 4) == 0
    bank.write(0, 0xF0)
    assert bank.read(0x40) == 0x00510051
    bank.write(0, 0xFF)
    assert bank.chip.array_mode


def test_device_id_mode_names_manufacturer_and_device_in_every_256_words(bank: Bank) -> None:
    bank.write(0, 0x00900090)
    assert [bank.read(0), bank.read(4), bank.read(8)] == [0x00890089, 0x00180018, 0]
    assert bank.read(0x400) == 0x00890089
    assert bank.read(0, 8) == 0x0018001800890089


def test_status_register_reads_from_both_chips_and_is_cleared_by_command(bank: Bank) -> None:
    bank.write(0, 0x00700070)
    assert [bank.read(0x1234), bank.read(0x1234, 2), bank.read(0x1234, 1)] == [READY, 0x80, 0x80]
    bank.write(0, 0x50)
    assert bank.chip.state.status == 0
    assert bank.chip.array_mode


@pytest.mark.parametrize("command", [0x10, 0x40])
@pytest.mark.parametrize(("size", "value"), [(1, 0xA5), (2, 0xBEEF), (4, 0xCAFEF00D)])
def test_program_stores_one_item_of_any_width(bank: Bank, command: int, size: int, value: int) -> None:
    bank.write(0x1000, command)
    bank.write(0x1008, value, size)
    assert bank.read(0x1008) == READY
    assert bank.content(0x1008, size) == value.to_bytes(size, "little")
    assert bank.content(0x1000, 8) == bytes(8)


def test_double_word_write_is_two_cycles(bank: Bank) -> None:
    bank.write(0x1000, 0x12345678_00400040, 8)
    assert bank.content(0x1000, 8) == bytes.fromhex("0000000078563412")


def test_erase_fills_the_whole_sector_and_nothing_else(bank: Bank) -> None:
    bank.write(SECTOR + 0x1230, 0x00200020)
    bank.write(SECTOR + 0x1230, 0x00D000D0)
    assert bank.read(0) == READY
    assert bank.content(SECTOR - 1, SECTOR + 2) == b"\0" + b"\xff" * SECTOR + b"\0"


def test_last_sector_and_last_buffer_stay_inside_the_bank(make_bank: Callable[..., Bank]) -> None:
    bank = make_bank(size=2 * SECTOR)
    end = 2 * SECTOR
    bank.write(end - 4, 0x20)
    bank.write(end - 4, 0xD0)
    assert bank.content(SECTOR, SECTOR) == b"\xff" * SECTOR
    bank.buffer(end - 4, [0x11111111])
    bank.write(end - 4, 0xD0)
    assert bank.content(end - 8, 8) == bytes.fromhex("ffffffff11111111")


def test_erase_confirmed_with_anything_else_returns_to_read_array(bank: Bank) -> None:
    bank.write(0, 0x20)
    bank.write(0, 0x42)
    assert bank.chip.array_mode


@pytest.mark.parametrize("confirm", [0x01, 0xD0])
def test_lock_and_unlock_are_accepted(bank: Bank, confirm: int) -> None:
    bank.write(0, 0x60)
    bank.write(0, confirm)
    assert bank.read(0) == READY
    bank.write(0, 0x40)
    bank.write(0, 0x55)
    assert bank.content(0, 1) == b"\x55"


def test_buffered_write_reaches_the_array_on_confirmation_only(bank: Bank) -> None:
    bank.block.view[0x2000:0x200C] = b"\xff" * 12
    bank.buffer(0x2000, [0x11111111, 0x22222222])
    assert bank.content(0x2000, 12) == b"\xff" * 12
    assert bank.read(0) == READY
    bank.write(0x2000, 0x00D000D0)
    assert bank.content(0x2000, 12) == b"\x11" * 4 + b"\x22" * 4 + b"\xff" * 4
    assert bank.chip.state.blk_offset == NO_BLOCK
    assert bank.read(0) == READY


def test_buffered_write_without_confirmation_is_dropped(bank: Bank) -> None:
    bank.buffer(0x2000, [0x11111111])
    bank.write(0x2000, 0x00FF00FF)
    assert bank.chip.array_mode
    assert bank.content(0x2000, 4) == bytes(4)


@pytest.mark.parametrize("stray", [BUFFER - 4, 3 * BUFFER, BANK - 4])
def test_word_outside_the_buffer_is_a_programming_error(bank: Bank, stray: int) -> None:
    bank.write(2 * BUFFER, 0xE8)
    bank.write(2 * BUFFER, 0)
    bank.write(stray, 0x11111111)
    assert bank.read(0) == 0x00900090
    bank.write(2 * BUFFER, 0xD0)
    assert bank.chip.array_mode
    assert not any(bank.content(0, 4 * BUFFER))


def test_word_count_is_as_wide_as_one_chip(bank: Bank) -> None:
    bank.write(0, 0xE8)
    bank.write(0, 0x0003FFFF)
    assert bank.chip.state.counter == 0xFFFF


def test_read_only_bank_refuses_program_erase_and_buffer(make_bank: Callable[..., Bank]) -> None:
    bank = make_bank(readonly=True)
    bank.write(0, 0x40)
    bank.write(0, 0x12345678)
    assert bank.read(0) == 0x00900090
    bank.write(0, 0x50)
    bank.write(0, 0x20)
    bank.write(0, 0xD0)
    assert bank.read(0) == 0x00A000A0
    bank.write(0, 0x50)
    bank.buffer(0, [0x12345678])
    assert bank.read(0) == 0x00900090
    bank.write(0, 0xD0)
    assert bank.chip.array_mode
    assert not any(bank.content(0, SECTOR))


def test_reset_returns_to_read_array_and_keeps_the_content(bank: Bank) -> None:
    bank.write(0, 0x40)
    bank.write(0, 0x12345678)
    bank.write(0, 0xE8)
    bank.chip.reset()
    assert bank.chip.state == PflashState()
    assert bank.modes == [False, True]
    assert bank.read(0) == 0x12345678


def test_adopted_state_says_its_mode(bank: Bank) -> None:
    bank.chip.adopt(PflashState(cmd=0x70))
    bank.chip.adopt(PflashState(cmd=0x98, wcycle=1))
    assert bank.modes == [False]
    assert bank.read(0x40) == 0x00510051


@pytest.mark.parametrize("blk_offset", [BANK, BANK - 8, 0xFFFFF000, NO_BLOCK])
def test_adopted_buffer_outside_the_bank_is_not_written(bank: Bank, blk_offset: int) -> None:
    bank.chip.adopt(PflashState(cmd=0xE8, wcycle=3, blk_offset=blk_offset))
    bank.write(0, 0xD0)
    assert bank.chip.array_mode


def test_adopted_unknown_command_reads_the_array_and_is_forgotten(bank: Bank) -> None:
    bank.chip.adopt(PflashState(cmd=0x33, wcycle=200))
    assert bank.read(0) == 0
    assert bank.chip.state == PflashState()
    bank.chip.adopt(PflashState(cmd=0x33, wcycle=200))
    bank.write(0, 0xD0)
    assert bank.chip.state == PflashState()


def test_bank_of_a_broken_sector_is_refused() -> None:
    block = RamBlock("flash", SECTOR + 4096)
    with pytest.raises(ConfigError, match="not a multiple"):
        PflashCfi01(block, on_mode_change=lambda _array: None)
    block.close()


@pytest.mark.qemu
@pytest.mark.parametrize("readonly", [False, True], ids=["writable", "readonly"])
def test_random_cycles_behave_like_qemu(start_real_board, make_bank, dice, tmp_path: Path, readonly: bool) -> None:
    options: list[str] = []
    if readonly:
        image = tmp_path / "flash.img"
        image.touch()
        with image.open("r+b") as file:
            file.truncate(BANK)
        options = ["-drive", f"if=pflash,unit=0,format=raw,readonly=on,file={image}"]
    board = start_real_board(*options)
    bank = make_bank(readonly=readonly)
    commands = [0x00, 0x01, 0x10, 0x20, 0x28, 0x40, 0x50, 0x60, 0x70, 0x90, 0x98, 0xD0, 0xE8, 0xF0, 0xFF]
    places = [0, 0x3FF0, SECTOR - BUFFER, 5 * SECTOR, BANK - BUFFER]

    def write_both(offset: int, value: int, size: int = 4) -> None:
        bank.write(offset, value, size)
        board.store(FLASH0 + offset, size, value)

    for step in range(4000):
        size = dice.choice((1, 2, 4, 4, 4, 8))
        offset = dice.choice(places) + dice.randrange(0, dice.choice((0x20, 0x200, BUFFER)), 8)
        chance = dice.random()
        if chance < 0.4:
            value = dice.choice((dice.choice(commands) * 0x00010001, dice.getrandbits(64), dice.randrange(4)))
            write_both(offset, value & (1 << 8 * size) - 1, size)
        elif chance < 0.5:
            count = dice.randrange(4)
            for cycle in (0xE8, count, *(dice.getrandbits(32) for _ in range(count + 1)), dice.choice((0xD0, 0xFF))):
                write_both(offset & -16 | dice.randrange(0, 16, 4), cycle)
        elif chance < 0.51:
            bank.chip.reset()
            board.reset()
        else:
            assert bank.read(offset, size) == board.load(FLASH0 + offset, size), (step, hex(offset), size)
    bank.chip.reset()
    board.reset()
    for offset in places:
        start = offset & -SECTOR
        assert bank.content(start, SECTOR) == board.read(FLASH0 + start, SECTOR)
    assert any(bank.content(0, SECTOR)) != readonly


@pytest.mark.qemu
def test_whole_query_table_is_qemus(start_real_board, bank: Bank) -> None:
    board = start_real_board()
    bank.write(0, 0x98)
    board.store(FLASH0, 4, 0x98)
    for size in (1, 2, 4, 8):
        for offset in range(0, 0x200, size):
            assert bank.read(offset, size) == board.load(FLASH0 + offset, size), (hex(offset), size)
