"""The generated device tree against QEMU 7.2's own."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from emulator.boards import boot, devicetree
from emulator.boards.config import BoardConfig
from emulator.boards.flattree import FlatTree
from emulator.boards.layout import GIB, MIB

SEED = bytes(range(32))


def without_seed(entries):
    return [(path, name, None if name == "rng-seed" else value) for path, name, value in entries]


def test_memory_and_pcie_windows_follow_the_ram_size():
    tree = devicetree.describe(BoardConfig(ram_size=20 * GIB))
    assert tree["memory@80000000"]["reg"] == (0, 0x80000000, 5, 0)
    assert tree["soc"]["pci@30000000"]["ranges"][-7:] == (0x3000000, 8, 0, 8, 0, 4, 0)


def test_pci_interrupts_are_swizzled_by_device_number():
    entries = devicetree.describe(BoardConfig())["soc"]["pci@30000000"]["interrupt-map"]
    assert entries[:6] == (0, 0, 0, 1, 3, 32)
    assert entries[-6:] == (0x1800, 0, 0, 4, 3, 34)


def test_boot_arguments_stand_in_chosen(walk_tree):
    tree = FlatTree(devicetree.build(BoardConfig()), "own")
    devicetree.set_boot_arguments(tree, append="a=\udce9 b", seed=SEED, initrd=(0x88200000, 0x88200010))
    assert [entry[1:] for entry in walk_tree(tree.to_bytes()) if entry[0] == "/chosen"] == [
        (None, None),
        ("linux,initrd-end", bytes.fromhex("88200010")),
        ("linux,initrd-start", bytes.fromhex("88200000")),
        ("rng-seed", SEED),
        ("bootargs", b"a=\xe9 b\0"),
        ("stdout-path", b"/soc/serial@10000000\0"),
    ]


def test_initrd_behind_4_gib_takes_two_cells(walk_tree):
    tree = FlatTree(devicetree.build(BoardConfig()), "own")
    devicetree.set_boot_arguments(tree, append="", seed=SEED, initrd=(0xFFFFF000, 0x1_0000_1000))
    assert ("/chosen", "linux,initrd-end", bytes.fromhex("0000000100001000")) in walk_tree(tree.to_bytes())


def test_building_is_quick():
    devicetree.build(BoardConfig())
    began = time.process_time()
    for _ in range(10):
        devicetree.build(BoardConfig())
    assert (time.process_time() - began) / 10 < 0.03


@pytest.mark.qemu
@pytest.mark.parametrize("ram", [16 * MIB, 128 * MIB, 3 * GIB, 20 * GIB])
def test_tree_equals_qemus(qemu_board, walk_tree, ram):
    _address, theirs = qemu_board("-m", f"{ram >> 20}M", "-bios", "none").device_tree()
    ours = boot.prepare(BoardConfig(ram_size=ram, bios="none")).device_tree.data
    assert without_seed(walk_tree(ours)) == without_seed(walk_tree(theirs))


@pytest.mark.qemu
@pytest.mark.parametrize("harts", [2, 5])
def test_tree_for_several_harts_equals_qemus(qemu_board, walk_tree, harts):
    _address, theirs = qemu_board("-m", "64M", "-smp", str(harts), "-bios", "none").device_tree()
    ours = boot.prepare(BoardConfig(ram_size=64 * MIB, smp=harts, bios="none")).device_tree.data
    assert without_seed(walk_tree(ours)) == without_seed(walk_tree(theirs))


@pytest.mark.qemu
@pytest.mark.parametrize("bios", ["none", "default"])
def test_tree_with_kernel_initrd_and_command_line_equals_qemus(qemu_board, walk_tree, in_file, bios):
    kernel, initrd = in_file(b"kernel", "kernel"), in_file(bytes(5000), "initrd")
    options = ("-m", "64M", "-bios", bios, "-kernel", str(kernel), "-initrd", str(initrd), "-append", "root=/dev/ram é")
    _address, theirs = qemu_board(*options).device_tree()
    config = BoardConfig(ram_size=64 * MIB, bios=bios, kernel=kernel, initrd=initrd, append="root=/dev/ram é")
    assert without_seed(walk_tree(boot.prepare(config).device_tree.data)) == without_seed(walk_tree(theirs))


@pytest.mark.qemu
def test_tree_from_a_file_is_edited_as_qemu_does(qemu_board, walk_tree, in_file):
    kernel = in_file(b"kernel", "kernel")
    _address, dumped = qemu_board("-m", "32M", "-smp", "2", "-bios", "none").device_tree()
    dtb = in_file(dumped, "other.dtb")
    options = ("-m", "64M", "-bios", "none", "-kernel", str(kernel), "-initrd", str(kernel), "-append", "new")
    address, theirs = qemu_board(*options, "-dtb", str(dtb)).device_tree()
    config = BoardConfig(ram_size=64 * MIB, bios="none", kernel=kernel, initrd=kernel, append="new", dtb=Path(dtb))
    ours = boot.prepare(config).device_tree
    assert ours.start == address
    assert without_seed(walk_tree(ours.data)) == without_seed(walk_tree(theirs))
