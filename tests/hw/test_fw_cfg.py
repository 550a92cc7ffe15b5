import struct

import pytest

from emulator.core.bus import AddressMap, MmioRegion
from emulator.core.errors import ConfigError
from emulator.core.memory import RamBlock
from emulator.hw.fw_cfg import STANDARD_FILES, FwCfg, FwCfgState, Key, kernel_items, standard_items

BASE = 0x10100000
RAM = 0x80000000
RAM_SIZE = 16 << 20
ROM = 0x1000
UART = 0x10000000
ERROR, READ, SKIP, SELECT, WRITE = 0x01, 0x02, 0x04, 0x08, 0x10
GREETING = b"hello, firmware"
KERNEL = bytes(range(1, 201))
INITRD = b"initial RAM disk"
CMDLINE = "console=ttyS0"
KEYS = (0, 1, 0x11, 0x11, 0x12, 0x15, 0x19, 0x20, 0x22, 0x23, 0x4011, 0x8000, 0xFFFF)
OPTIONS = (("opt/a", GREETING), ("opt/z", bytes(range(1, 201))))


@pytest.fixture
def memory():
    blocks = [RamBlock("ram", RAM_SIZE), RamBlock("rom", 0xF000, readonly=True)]
    space = AddressMap()
    space.add(RAM, blocks[0])
    space.add(ROM, blocks[1])
    space.add(UART, MmioRegion("uart", 0x100, lambda *_: 0, lambda *_: None))
    yield space
    for block in blocks:
        block.close()


@pytest.fixture
def chip(memory: AddressMap) -> FwCfg:
    return FwCfg(memory, standard_items(cpus=4, nographic=True), {**STANDARD_FILES, **dict(OPTIONS)})


def read(chip: FwCfg, offset: int, size: int) -> int:
    assert chip.regions[0].accepts(offset, size)
    return chip.regions[0].read(offset, size)


def write(chip: FwCfg, offset: int, size: int, value: int) -> None:
    assert chip.regions[0].accepts(offset, size)
    chip.regions[0].write(offset, size, value)


def swap(value: int, size: int) -> int:
    return int.from_bytes(value.to_bytes(size, "little"), "big")


def select(chip: FwCfg, key: int) -> None:
    write(chip, 8, 2, swap(key, 2))


def take(chip: FwCfg, length: int) -> bytes:
    return bytes(read(chip, 0, 1) for _ in range(length))


def dma(chip: FwCfg, control: int, length: int, buffer: int, *, at: int = RAM) -> int:
    """Run one descriptor and return the control word it leaves."""
    chip.memory.write_ram(at, struct.pack(">IIQ", control, length, buffer))
    write(chip, 0x10, 8, swap(at, 8))
    return int.from_bytes(chip.memory.read_ram(at, 4), "big")


def file_key(chip: FwCfg, name: str) -> int:
    select(chip, Key.FILE_DIR)
    (count,) = struct.unpack(">I", take(chip, 4))
    for _ in range(count):
        _size, key, _reserved, found = struct.unpack(">IHH56s", take(chip, 64))
        if found.rstrip(b"\0").decode() == name:
            return key
    raise KeyError(name)


def test_signature_is_selected_after_reset(chip: FwCfg) -> None:
    assert take(chip, 6) == b"QEMU\0\0"
    select(chip, Key.ID)
    chip.reset()
    assert take(chip, 4) == b"QEMU"


def test_id_says_register_interface_and_dma(chip: FwCfg) -> None:
    select(chip, Key.ID)
    assert take(chip, 4) == b"\x03\0\0\0"


@pytest.mark.parametrize(("size", "value"), [(1, 0x51), (2, 0x4551), (4, 0x554D4551), (8, 0x554D4551)])
def test_wide_data_reads_keep_the_order_of_bytes_and_pad_with_zeroes(chip: FwCfg, size: int, value: int) -> None:
    assert read(chip, 0, size) == value
    assert chip.state.cur_offset == min(size, 4)


def test_data_register_ignores_writes(chip: FwCfg) -> None:
    write(chip, 0, 4, 0x41414141)
    assert take(chip, 4) == b"QEMU"


def test_numbered_items_are_little_endian(chip: FwCfg) -> None:
    for key, expected in ((Key.NB_CPUS, b"\4\0"), (Key.NOGRAPHIC, b"\1\0"), (Key.UUID, bytes(16))):
        select(chip, key)
        assert take(chip, len(expected)) == expected


def test_directory_lists_files_sorted_by_name(chip: FwCfg) -> None:
    select(chip, Key.FILE_DIR)
    assert take(chip, 4) == b"\0\0\0\5"
    entries = [struct.unpack(">IHH56s", take(chip, 64)) for _ in range(5)]
    assert [(size, key, name.rstrip(b"\0")) for size, key, _, name in entries] == [
        (0, 0x20, b"bios-geometry"),
        (0, 0x21, b"bootorder"),
        (4, 0x22, b"etc/boot-fail-wait"),
        (15, 0x23, b"opt/a"),
        (200, 0x24, b"opt/z"),
    ]


def test_file_is_read_by_the_key_in_the_directory(chip: FwCfg) -> None:
    select(chip, file_key(chip, "opt/a"))
    assert take(chip, 20) == GREETING + bytes(5)


@pytest.mark.parametrize("key", [0x40, 0x3FFF, 0x8040, 0xFFFF])
def test_key_out_of_range_selects_nothing(chip: FwCfg, key: int) -> None:
    select(chip, key)
    assert chip.state == FwCfgState(cur_entry=0xFFFF)
    assert take(chip, 4) == bytes(4)


def test_write_channel_bit_of_a_key_is_kept_and_not_looked_at(chip: FwCfg) -> None:
    select(chip, 0x4000)
    assert chip.state.cur_entry == 0x4000
    assert take(chip, 4) == b"QEMU"


@pytest.mark.parametrize("key", [0x8000, 0x1A])
def test_key_without_item_reads_as_zeroes(chip: FwCfg, key: int) -> None:
    select(chip, key)
    assert take(chip, 4) == bytes(4)
    assert chip.state == FwCfgState(cur_entry=key)


def test_dma_register_reads_as_its_signature(chip: FwCfg) -> None:
    assert read(chip, 0x10, 8).to_bytes(8, "little") == b"QEMU CFG"
    assert read(chip, 0x14, 4).to_bytes(4, "little") == b" CFG"
    assert read(chip, 0x17, 1) == ord("G")


@pytest.mark.parametrize(("offset", "size"), [(8, 1), (8, 4), (8, 8), (0xA, 2), (0x10, 1), (0x12, 2)])
def test_write_that_no_register_takes_changes_nothing(chip: FwCfg, offset: int, size: int) -> None:
    write(chip, offset, size, (1 << 8 * size) - 1)
    assert chip.state == FwCfgState()


@pytest.mark.parametrize(("offset", "size"), [(1, 1), (4, 4), (8, 2), (0xC, 4)])
def test_read_that_no_register_takes_is_zero(chip: FwCfg, offset: int, size: int) -> None:
    assert read(chip, offset, size) == 0
    assert chip.state == FwCfgState()


def test_dma_selects_and_reads_in_one_go(chip: FwCfg) -> None:
    key = file_key(chip, "opt/a")
    assert dma(chip, key << 16 | SELECT | READ, 5, RAM + 0x100) == 0
    assert chip.memory.read_ram(RAM + 0x100, 6) == b"hello\0"
    assert chip.state == FwCfgState(cur_entry=key, cur_offset=5)
    assert dma(chip, SKIP, 2, 0) == 0
    assert take(chip, 8) == b"firmware"


def test_dma_starts_with_the_low_half_of_its_address(chip: FwCfg) -> None:
    chip.memory.write_ram(RAM, struct.pack(">IIQ", READ, 4, RAM + 0x100))
    write(chip, 0x10, 4, swap(0, 4))
    write(chip, 0x14, 4, swap(RAM, 4))
    assert chip.memory.read_ram(RAM + 0x100, 4) == b"QEMU"
    write(chip, 0x10, 4, swap(0x12345678, 4))
    assert chip.state.dma_addr == 0x1234567800000000


def test_dma_read_past_the_end_of_an_item_fills_with_zeroes(chip: FwCfg) -> None:
    chip.memory.write_ram(RAM + 0x100, b"\xff" * 0x30000)
    assert dma(chip, READ, 0x2FFFF, RAM + 0x100) == 0
    assert chip.memory.read_ram(RAM + 0x100, 0x30000) == b"QEMU" + bytes(0x2FFFB) + b"\xff"


def test_dma_write_is_refused_unless_it_is_empty(chip: FwCfg) -> None:
    assert dma(chip, WRITE, 4, RAM + 0x100) == ERROR
    select(chip, 0)
    assert take(chip, 4) == b"QEMU"
    assert dma(chip, WRITE, 0, RAM + 0x100) == 0


@pytest.mark.parametrize("buffer", [0, ROM, UART, RAM - 1, RAM + RAM_SIZE, (1 << 64) - 2])
@pytest.mark.parametrize("item", [Key.SIGNATURE, 0xFFFF])
def test_dma_to_what_is_not_ram_is_an_error(chip: FwCfg, buffer: int, item: int) -> None:
    assert dma(chip, item << 16 | SELECT | READ, 4, buffer) == ERROR
    assert chip.memory.read_ram(ROM, 4) == bytes(4)


@pytest.mark.parametrize("length", [9, 0x10000, 0xFFFFFFFF])
def test_dma_across_the_end_of_ram_fills_what_is_there_and_is_an_error(chip: FwCfg, length: int) -> None:
    end = RAM + RAM_SIZE
    chip.memory.write_ram(end - 8, b"\xff" * 8)
    assert dma(chip, READ, length, end - 8) == ERROR
    assert chip.memory.read_ram(end - 8, 8) == b"QEMU\0\0\0\0"


def test_dma_descriptor_that_ends_behind_ram_gets_the_error_bit(chip: FwCfg) -> None:
    at = RAM + RAM_SIZE - 8
    write(chip, 0x10, 8, swap(at, 8))
    assert chip.memory.read_ram(at, 8) == bytes((0, 0, 0, ERROR, 0, 0, 0, 0))
    assert chip.state == FwCfgState()


@pytest.mark.parametrize("at", [0, UART, 0xFFFFFFFFFFFFFFF8])
def test_dma_descriptor_outside_ram_is_ignored(chip: FwCfg, at: int) -> None:
    write(chip, 0x10, 8, swap(at, 8))
    assert chip.state == FwCfgState()


def test_adopted_offset_and_entry_out_of_range_read_as_zeroes(chip: FwCfg) -> None:
    for state in (FwCfgState(cur_offset=0xFFFFFFFF), FwCfgState(cur_entry=0x1234)):
        chip.adopt(state)
        assert take(chip, 2) == bytes(2)
        assert dma(chip, READ, 4, RAM + 0x100) == 0


def test_kernel_items_carry_sizes_and_a_terminated_command_line() -> None:
    items = kernel_items(b"kernel", initrd=None, cmdline="root=/dev/vda")
    assert items[Key.KERNEL_SIZE] == b"\6\0\0\0"
    assert items[Key.CMDLINE_SIZE] == b"\x0e\0\0\0"
    assert items[Key.CMDLINE_DATA] == b"root=/dev/vda\0"
    assert Key.INITRD_DATA not in items
    assert kernel_items(b"", initrd=b"ab", cmdline="")[Key.INITRD_SIZE] == b"\2\0\0\0"


@pytest.mark.parametrize("key", [Key.SIGNATURE, Key.FILE_DIR, 0x20, 0x4002, 0x10000])
def test_item_key_out_of_range_or_taken_is_refused(memory: AddressMap, key: int) -> None:
    with pytest.raises(ConfigError, match="out of range or taken"):
        FwCfg(memory, {key: b""}, {})


def test_file_name_and_number_of_files_are_bounded(memory: AddressMap) -> None:
    FwCfg(memory, {}, {"n" * 55: b""})
    for name in ("n" * 56, ""):
        with pytest.raises(ConfigError, match="file name"):
            FwCfg(memory, {}, {name: b""})
    FwCfg(memory, {}, {f"opt/{number}": b"" for number in range(32)})
    with pytest.raises(ConfigError, match="33 files"):
        FwCfg(memory, {}, {f"opt/{number}": b"" for number in range(33)})


@pytest.fixture
def board(start_real_board, tmp_path):
    """QEMU's board, with a firmware flash, so that the kernel stays in fw_cfg."""
    kernel, initrd, flash = (tmp_path / name for name in ("kernel", "initrd", "flash"))
    kernel.write_bytes(KERNEL)
    initrd.write_bytes(INITRD)
    flash.touch()
    with flash.open("r+b") as image:
        image.truncate(0x2000000)
    options = ["-kernel", str(kernel), "-initrd", str(initrd), "-append", CMDLINE]
    return start_real_board("-smp", "4", *options, "-drive", f"if=pflash,unit=1,format=raw,file={flash}")


@pytest.fixture
def twin(memory: AddressMap) -> FwCfg:
    """What `board` has, built from this package."""
    items = standard_items(cpus=4, nographic=True) | kernel_items(KERNEL, initrd=INITRD, cmdline=CMDLINE)
    return FwCfg(memory, items, STANDARD_FILES)


@pytest.mark.qemu
def test_every_item_is_qemus(board, twin: FwCfg) -> None:
    for key in (*range(0x48), *range(0x8000, 0x8048), 0x4001, 0xFFFF):
        select(twin, key)
        board.store(BASE + 8, 2, swap(key, 2))
        for _ in range(260 if key == Key.FILE_DIR else 28):
            assert read(twin, 0, 8) == board.load(BASE, 8), hex(key)


@pytest.mark.qemu
def test_random_register_accesses_behave_like_qemu(board, dice, twin: FwCfg) -> None:
    readable = [(0, 1), (0, 2), (0, 4), (0, 8), (0x10, 8), (0x10, 4), (0x14, 4), (0x16, 2)]
    for step in range(3000):
        if dice.random() < 0.05:
            key = dice.choice(KEYS)
            select(twin, key)
            board.store(BASE + 8, 2, swap(key, 2))
        offset, size = dice.choice(readable)
        assert read(twin, offset, size) == board.load(BASE + offset, size), (step, offset, size)


@pytest.mark.qemu
def test_random_dma_behaves_like_qemu(board, dice, twin: FwCfg) -> None:
    end = RAM + RAM_SIZE
    spans = ((RAM, 0x3000), (end - 0x100, 0x100))
    descriptors = (RAM + 0x10, RAM + 0x2F01, RAM + 0x20FD, end - 16, end - 4, end - 2, 0x60)
    buffers = (RAM + 0x1000, RAM + 0x1003, end - 5, end - 100, end, ROM, 0x60, 0xFFFFFFFFFFFFFFF0)
    for start, length in spans:
        twin.memory.write_ram(start, board.read(start, length))
    for step in range(1500):
        control = dice.choice(KEYS) << 16 | dice.choice((0, SELECT))
        control |= dice.choice((READ, READ, SKIP, WRITE, 0x1F, 0))
        length = dice.choice((0, 1, 3, 4, 16, 199, 200, 201, 0x900))
        at = dice.choice(descriptors)
        descriptor = struct.pack(">IIQ", control, length, dice.choice(buffers))
        if RAM <= at <= end - 16:
            twin.memory.write_ram(at, descriptor)
            board.write(at, descriptor)
        for offset, size, value in ((0, 8, at),) if step % 2 else ((0, 4, at >> 32), (4, 4, at)):
            big_endian = swap(value & (1 << 8 * size) - 1, size)
            write(twin, 0x10 + offset, size, big_endian)
            board.store(BASE + 0x10 + offset, size, big_endian)
        for start, length in spans:
            assert twin.memory.read_ram(start, length) == board.read(start, length), (step, descriptor.hex(), hex(at))
