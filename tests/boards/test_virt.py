"""The wired board: what answers where, which line goes where, reset."""

from __future__ import annotations

from pathlib import Path

import pytest

from emulator.boards import virt
from emulator.boards.config import BoardConfig
from emulator.boards.layout import MIB
from emulator.boards.machinetypes import MACHINE_TYPES
from emulator.core.charport import CharPort
from emulator.core.clock import VirtualClock
from emulator.core.errors import ConfigError, EmulatorError, ImageError
from emulator.core.memory import RamBlock

BASE = 0x80000000
SEED = bytes(32)


@pytest.fixture
def make_board():
    boards = []

    def make(clock=None, port=None, on_exit=lambda _code: None, on_reset=lambda: None, **options):
        config = BoardConfig(**{"ram_size": 16 * MIB, "bios": "none", "rng_seed": SEED} | options)
        requests = virt.Requests(on_exit, on_reset)
        boards.append(virt.VirtBoard(config, clock or VirtualClock(), port or CharPort(), requests))
        return boards[-1]

    yield make
    for board in boards:
        board.close()


def test_devices_are_created_in_the_order_of_qemu_7_2(make_board):
    assert list(make_board(machine_type=MACHINE_TYPES["virt-7.2"]).devices) == [
        "riscv.aclint.swi",
        "riscv.aclint.mtimer",
        "riscv.sifive.plic",
        "riscv.sifive.test",
        *(f"virtio-mmio.{index}" for index in range(8)),
        "gpex-pcihost",
        "serial-mm",
        "goldfish_rtc",
        "cfi.pflash01.0",
        "cfi.pflash01.1",
        "fw_cfg_mem",
    ]


def test_qemu_10_creates_fw_cfg_earlier_and_knows_of_acpi_tables(make_board):
    assert list(make_board().devices)[12:] == [
        "fw_cfg_mem",
        "gpex-pcihost",
        "serial-mm",
        "goldfish_rtc",
        "cfi.pflash01.0",
        "cfi.pflash01.1",
        "virt_acpi_build",
    ]


def test_ram_blocks_have_qemus_names_and_sizes(make_board):
    always = {
        "riscv_virt_board.ram": 0x1000000,
        "riscv_virt_board.mrom": 0xF000,
        "virt.flash0": 0x2000000,
        "virt.flash1": 0x2000000,
    }
    tables = {"/rom@etc/acpi/tables": 0x20000, "/rom@etc/table-loader": 0x1000, "/rom@etc/acpi/rsdp": 0x1000}

    def blocks(**options):
        return {block.name: block.size for block in make_board(**options).ram_blocks}

    assert blocks() == always | tables
    assert blocks(acpi=False) == blocks(machine_type=MACHINE_TYPES["virt-7.2"]) == always


def test_regions_lie_where_the_board_table_says(make_board):
    bases = {mapping.base for mapping in make_board().bus}
    assert bases == {
        *(0x1000, 0x100000, 0x101000, 0x2000000, 0x2004000, 0x3000000, 0xC000000, 0x10000000, 0x10100000),
        *(0x10001000 + 0x1000 * index for index in range(8)),
        *(0x20000000, 0x22000000, 0x30000000, 0x40000000, 0x80000000, 0x400000000),
    }


def test_mtimecmp_raises_mtip(make_board):
    time = 0
    clock = VirtualClock(lambda: time)
    board = make_board(clock)
    board.bus.store(0x2004000, 8, 100)
    assert not board.lines[0].mtip.level
    time = 10_000
    clock.run_expired()
    assert board.lines[0].mtip.level
    assert board.mtime() == board.bus.load(0x200BFF8, 8) == 100


def test_msip_register_raises_msip(make_board):
    board = make_board()
    board.bus.store(0x2000000, 4, 1)
    assert board.lines[0].msip.level


@pytest.mark.parametrize(("context", "line"), [(0, "meip"), (1, "seip")])
def test_uart_input_reaches_the_hart_through_the_plic(make_board, context, line):
    port = CharPort()
    board = make_board(port=port)
    board.bus.store(0xC000000 + 4 * 10, 4, 1)
    board.bus.store(0xC002000 + 0x80 * context, 4, 1 << 10)
    board.bus.store(0x10000001, 1, 1)
    port.feed(b"x")
    board.poll_input()
    assert getattr(board.lines[0], line).level
    assert board.bus.load(0xC200004 + 0x1000 * context, 4) == 10
    assert board.bus.load(0x10000000, 1) == ord("x")


def test_finisher_asks_the_machine(make_board):
    asked = []
    board = make_board(on_exit=asked.append, on_reset=lambda: asked.append("reset"))
    board.bus.store(0x100000, 4, 0x5555)
    board.bus.store(0x100000, 4, 0x73333)
    board.bus.store(0x100000, 4, 0x7777)
    assert asked == [0, 7, "reset"]


def test_rtc_starts_at_the_given_wall_time(make_board):
    board = make_board(wall_base_ns=0x1234_5678_9ABC_DEF0)
    assert board.bus.load(0x101000, 4) == 0x9ABCDEF0
    assert board.bus.load(0x101004, 4) == 0x12345678


def test_fw_cfg_hands_out_its_files(make_board):
    board = make_board()
    board.bus.store(0x10100008, 2, 0x1900)
    assert board.bus.load(0x10100000, 4) == 3 << 24


def test_images_are_in_memory_at_once(make_board, in_file):
    board = make_board(kernel=in_file(b"kernel"))
    assert board.reset_address == 0x1000
    assert board.bus.load(0x1000, 4) == 0x00000297
    assert board.bus.read_ram(BASE, 6) == b"kernel"
    assert board.bus.read_ram(0x80E00000, 4) == bytes.fromhex("d00dfeed")


def test_reset_restores_images_and_devices_but_not_other_ram(make_board, in_file):
    board = make_board(kernel=in_file(b"kernel"))
    board.bus.write_ram(BASE, b"mangled kernel")
    board.bus.write_ram(0x80E00000, bytes(4096))
    board.bus.store(0x2000000, 4, 1)
    board.reset()
    assert board.bus.read_ram(BASE, 14) == b"kernel" + b"d kernel"
    assert board.bus.read_ram(0x80E00000, 4) == bytes.fromhex("d00dfeed")
    assert board.bus.load(0x2000000, 4) == 0
    assert not board.lines[0].msip.level


def test_reset_draws_a_fresh_seed(make_board):
    board = make_board(rng_seed=None)
    at = 0x80E00000 + board.boot.seed_offset
    before = board.bus.read_ram(at, 32)
    board.reset()
    assert board.bus.read_ram(at, 32) != before


def test_flash_image_fills_its_bank(make_board, in_file):
    image = in_file(b"flash".ljust(0x2000000, b"\xff"), "flash.img")
    board = make_board(pflash=(None, image))
    assert [(rom.base, rom.block.name) for rom in board.rom_devices] == [
        (0x20000000, "virt.flash0"),
        (0x22000000, "virt.flash1"),
    ]
    assert bytes(board.rom_devices[1].block.view[:6]) == b"flash\xff"
    assert board.bus.load(0x22000000, 1) == ord("f")


@pytest.mark.parametrize(("size", "message"), [(100, "provides 100"), (0x2000001, "provides more")])
def test_flash_image_of_another_size_is_refused(make_board, in_file, size, message):
    with pytest.raises(ImageError, match=f"virt.flash0 requires 33554432 bytes, flash.img {message}"):
        make_board(pflash=(in_file(bytes(size), "flash.img"), None))


def test_refused_board_keeps_no_memory(make_board, monkeypatch):
    closed = []
    close = RamBlock.close
    monkeypatch.setattr(RamBlock, "close", lambda block: (closed.append(block.name), close(block))[1])
    with pytest.raises(EmulatorError):
        make_board(ram_size=16 * MIB + 1)
    with pytest.raises(ImageError):
        make_board(pflash=(Path("/nonexistent"), None))
    assert closed == ["virt.flash0", "riscv_virt_board.mrom", "riscv_virt_board.ram"]


def test_more_harts_are_refused_for_now(make_board):
    with pytest.raises(ConfigError, match="-smp 2 is not supported yet"):
        make_board(smp=2)


def test_board_wires_every_hart(make_board, monkeypatch):
    monkeypatch.setattr(virt, "SUPPORTED_HARTS", 4)
    board = make_board(smp=4)
    board.bus.store(0x200000C, 4, 1)
    assert [hart.msip.level for hart in board.lines] == [False, False, False, True]
    assert [line.name for line in board._plic.outputs] == [
        f"hart{hart}.{line}" for hart in range(4) for line in ("meip", "seip")
    ]


@pytest.mark.qemu
def test_fw_cfg_equals_qemus(qemu_board, make_board):
    theirs, ours = qemu_board("-m", "16M", "-bios", "none"), make_board(nographic=False)
    for key in (0x00, 0x01, 0x02, 0x04, 0x05, 0x0E, 0x19, 0x22):
        select = key << 8
        theirs.command(f"writew 0x10100008 0x{select:x}")
        ours.bus.store(0x10100008, 2, select)
        for _ in range(200 if key == 0x19 else 8):
            assert ours.bus.load(0x10100000, 1) == int(theirs.command("readb 0x10100000"), 0), key
