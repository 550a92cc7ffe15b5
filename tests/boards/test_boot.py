"""Where images go and what the mask ROM holds, by itself and against QEMU 7.2."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from emulator.boards import boot
from emulator.boards.config import BoardConfig
from emulator.boards.layout import GIB, KIB, MIB, Window
from emulator.core.errors import ConfigError, ImageError

BASE = 0x80000000


@pytest.mark.parametrize(
    ("ram", "address"),
    [(1 * MIB, BASE), (16 * MIB, 0x80E00000), (15 * MIB, 0x80E00000), (GIB, 0xBFE00000), (64 * GIB, 0xBFE00000)],
)
def test_device_tree_goes_high_but_below_3_gib(ram, address):
    assert boot.device_tree_address(Window(BASE, ram), MIB) == address


def test_mask_rom_holds_code_addresses_and_fw_dynamic_record():
    rom = boot.reset_vector(BASE, 0x80E00000) + boot.firmware_record(0x80200000)
    assert struct.unpack("<22I", rom) == (
        *(0x00000297, 0x02828613, 0xF1402573, 0x0202B583, 0x0182B283, 0x00028067),
        *(0x80000000, 0, 0x80E00000, 0),
        *(0x4942534F, 0, 2, 0, 0x80200000, 0, 1, 0, 0, 0, 0, 0),
    )


def test_without_firmware_a_raw_kernel_starts_ram(in_file):
    plan = boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=in_file(b"kernel")))
    assert [image.start for image in plan.images] == [BASE, 0x80E00000]
    assert (plan.start_address, plan.next_address) == (BASE, BASE)


def test_without_firmware_an_elf_kernel_starts_at_its_entry(make_elf, in_file):
    kernel = in_file(make_elf((BASE + 0x100000, b"code"), entry=BASE + 0x100002))
    plan = boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=kernel))
    assert (plan.start_address, plan.next_address) == (BASE + 0x100002, BASE + 0x100000)


def test_with_firmware_the_kernel_follows_on_the_next_2_mib(in_file):
    firmware, kernel = in_file(bytes(2 * MIB + 1), "firmware"), in_file(b"kernel", "kernel")
    plan = boot.prepare(BoardConfig(ram_size=16 * MIB, bios=str(firmware), kernel=kernel))
    assert [image.start for image in plan.images] == [BASE, 0x80400000, 0x80E00000]
    assert (plan.start_address, plan.next_address) == (BASE, 0x80400000)


@pytest.mark.parametrize(("ram", "initrd"), [(16 * MIB, 0x80800000), (512 * MIB, 0x88000000)])
def test_initrd_goes_half_way_into_ram_or_128_mib(in_file, ram, initrd):
    kernel = in_file(b"x")
    plan = boot.prepare(BoardConfig(ram_size=ram, bios="none", kernel=kernel, initrd=kernel))
    assert [image.start for image in plan.images][1] == initrd


def test_flash_bank_0_takes_the_start_and_bank_1_the_next_stage(in_file):
    flash, kernel = Path("flash.img"), in_file(b"kernel")
    plan = boot.prepare(BoardConfig(bios="none", pflash=(flash, flash), kernel=kernel, initrd=kernel, append="x"))
    assert (plan.start_address, plan.next_address) == (0x20000000, 0x22000000)
    assert [image.name for image in plan.images] == ["device tree"]
    assert plan.fw_cfg_items == {
        0x08: struct.pack("<I", 6),
        0x11: b"kernel",
        0x0B: struct.pack("<I", 6),
        0x12: b"kernel",
        0x14: struct.pack("<I", 2),
        0x15: b"x\0",
    }


@pytest.mark.parametrize("ram", [4 * KIB, 1000 * KIB])
def test_ram_too_small_for_the_device_tree_is_refused(ram):
    with pytest.raises(ImageError, match=r"device tree \(.*\) does not fit into RAM"):
        boot.prepare(BoardConfig(ram_size=ram, bios="none"))


def test_ram_too_small_for_kernel_and_device_tree_is_refused(in_file):
    with pytest.raises(ImageError, match=r"device tree \(.*\) overlaps image \("):
        boot.prepare(BoardConfig(ram_size=2 * MIB, bios="none", kernel=in_file(b"kernel")))


def test_initrd_goes_behind_a_kernel_that_is_in_its_way(in_file):
    kernel, initrd = in_file(bytes(8 * MIB + 1), "kernel"), in_file(b"x", "initrd")
    plan = boot.prepare(BoardConfig(ram_size=32 * MIB, bios="none", kernel=kernel, initrd=initrd))
    assert [image.start for image in plan.images][1] == BASE + 16 * MIB
    plan = boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=kernel, initrd=initrd))
    assert [image.start for image in plan.images][1] == BASE + 8 * MIB + 4 * KIB


def linux_image(*, image_size: int) -> bytes:
    """A kernel of 256 bytes that takes more memory when it runs."""
    return struct.pack("<2IQQ24x8s4sI", 0, 0, 2 * MIB, image_size, b"RISCV", b"RSC\x05", 0).ljust(256, b"\0")


def test_initrd_goes_behind_what_a_linux_kernel_clears(in_file):
    kernel, initrd = in_file(linux_image(image_size=9 * MIB), "kernel"), in_file(b"x", "initrd")
    plan = boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=kernel, initrd=initrd))
    assert [image.start for image in plan.images][1] == BASE + 9 * MIB


def test_linux_kernel_that_claims_more_than_there_is_is_refused(in_file):
    kernel = in_file(linux_image(image_size=1 << 63), "kernel")
    with pytest.raises(ImageError, match=r"kernel \(.*\) does not fit into RAM"):
        boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=kernel))


def test_initrd_that_does_not_fit_behind_the_kernel_is_refused(in_file):
    kernel, initrd = in_file(linux_image(image_size=13 * MIB), "kernel"), in_file(bytes(2 * MIB), "initrd")
    with pytest.raises(ImageError, match=r"device tree \(.*\) overlaps initrd"):
        boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=kernel, initrd=initrd))


def test_command_line_that_linux_would_cut_is_refused(in_file):
    linux, other = in_file(linux_image(image_size=MIB), "linux"), in_file(b"kernel", "other")
    boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=linux, append="x" * 2047))
    boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=other, append="x" * 2048))
    with pytest.raises(ConfigError, match="-append has 2048 characters, of which Linux would not see more than 2047"):
        boot.prepare(BoardConfig(ram_size=16 * MIB, bios="none", kernel=linux, append="x" * 2048))


def test_missing_firmware_file_is_refused():
    with pytest.raises(ImageError, match="could not load firmware '/nonexistent': No such file"):
        boot.prepare(BoardConfig(bios="/nonexistent"))


def test_missing_default_firmware_says_what_to_install(monkeypatch):
    monkeypatch.setattr(boot, "FIRMWARE_CANDIDATES", (Path("/nonexistent"),))
    with pytest.raises(ImageError, match="apt install opensbi"):
        boot.prepare(BoardConfig())


def test_broken_device_tree_file_is_refused(in_file):
    with pytest.raises(ImageError, match=r"cannot use device tree my\.dtb: magic"):
        boot.prepare(BoardConfig(bios="none", dtb=in_file(bytes(100), "my.dtb")))


def test_reseeding_changes_nothing_but_the_seed():
    plan = boot.prepare(BoardConfig(bios="none"))
    before, at = plan.device_tree.data, plan.seed_offset
    plan.reseed()
    after = plan.device_tree.data
    assert before[at : at + 32] != after[at : at + 32]
    assert before[:at] + before[at + 32 :] == after[:at] + after[at + 32 :]


def test_fixed_seed_stays():
    plan = boot.prepare(BoardConfig(bios="none", rng_seed=bytes(32)))
    before = plan.device_tree.data
    plan.reseed()
    assert plan.device_tree.data == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"append": "x"}, "-append only allowed with -kernel"),
        ({"initrd": Path("x")}, "-initrd only allowed with -kernel"),
        ({"kernel": Path("x"), "append": "a\0b"}, "NUL"),
        ({"kernel": Path("x"), "append": "\ud800"}, "cannot be encoded"),
        ({"smp": 0}, "Invalid SMP"),
        ({"smp": 513}, "Invalid SMP CPUs 513"),
        ({"rng_seed": b""}, "seed must have 32 bytes"),
    ],
)
def test_bad_mix_of_options_is_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BoardConfig(**options)


@pytest.mark.qemu
@pytest.mark.parametrize("bios", ["none", "default"])
@pytest.mark.parametrize("megabytes", [8, 16, 63, 128, 1024, 3072, 20480])
@pytest.mark.parametrize("with_kernel", [False, True])
def test_mask_rom_equals_qemus(qemu_board, in_file, bios, megabytes, with_kernel):
    kernel = in_file(b"kernel") if with_kernel else None
    theirs = qemu_board("-m", f"{megabytes}M", "-bios", bios, *(("-kernel", str(kernel)) if kernel else ()))
    plan = boot.prepare(BoardConfig(ram_size=megabytes * MIB, bios=bios, kernel=kernel))
    assert plan.mask_rom == theirs.read(0x1000, len(plan.mask_rom))
    assert set(theirs.read(0x1000 + len(plan.mask_rom), 0x100)) == {0}


@pytest.mark.qemu
def test_memory_equals_qemus_with_firmware_elf_kernel_and_initrd(qemu_board, make_elf, in_file):
    kernel = in_file(make_elf((BASE + 0x300000, b"code", 0x1000), entry=BASE + 0x300002), "kernel")
    initrd = in_file(bytes(range(256)), "initrd")
    options = ("-m", "32M", "-bios", "default", "-kernel", str(kernel), "-initrd", str(initrd))
    theirs = qemu_board(*options)
    plan = boot.prepare(BoardConfig(ram_size=32 * MIB, kernel=kernel, initrd=initrd))
    assert plan.mask_rom == theirs.read(0x1000, len(plan.mask_rom))
    for image in plan.images:
        if image != plan.device_tree:
            assert image.data == theirs.read(image.start, len(image.data)), image
