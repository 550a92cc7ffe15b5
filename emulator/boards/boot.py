"""Booting: which images go where, what the mask ROM holds, and where the CPU goes from there, as QEMU 7.2 does it.

The mask ROM is the reset vector: it loads a0 = hart id, a1 = device tree, a2 = record for OpenSBI's fw_dynamic, and
jumps to the start address. Source of the record: OpenSBI's `fw_dynamic_info`, version 2.

Differences from QEMU 7.2 on purpose: with `-bios none`, an ELF kernel starts at its entry point, where QEMU jumps to
the first byte of RAM; for a kernel linked to start there, that is the same. A RAM disk that would lie on the kernel, or
in memory that a Linux kernel's header claims, goes behind it.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from emulator.boards import devicetree, layout
from emulator.boards.config import RNG_SEED_SIZE, BoardConfig
from emulator.boards.flattree import MAX_SIZE, FlatTree
from emulator.boards.images import Image, ImageSet, Loaded, load_program, load_raw, read_file
from emulator.boards.layout import GIB, MIB, Window
from emulator.core.bits import align_up, mask
from emulator.core.errors import ConfigError, ImageError
from emulator.core.memory import PAGE_SIZE
from emulator.hw.fw_cfg import kernel_items

FIRMWARE_CANDIDATES = (
    Path("/usr/share/qemu/opensbi-riscv64-generic-fw_dynamic.bin"),
    Path("/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_dynamic.bin"),
)
"""Where Debian's packages `qemu-system-data` and `opensbi` put the default firmware."""

KERNEL_ALIGNMENT = 2 * MIB
INITRD_MAX_OFFSET = 128 * MIB
LINUX_COMMAND_LINE_SIZE = 2047
"""Characters of a command line that Linux can take; longer ones it cuts without a word."""
DEVICE_TREE_ALIGNMENT = 2 * MIB
DEVICE_TREE_LIMIT = 3 * GIB
"""The tree stays below this address, for the sake of 32-bit software."""

FW_DYNAMIC_MAGIC = 0x4942534F
FW_DYNAMIC_VERSION = 2
FW_DYNAMIC_NEXT_MODE_S = 1

RESET_CODE = (
    0x00000297,  # auipc t0, 0
    0x02828613,  # addi  a2, t0, 40    the record for fw_dynamic
    0xF1402573,  # csrr  a0, mhartid
    0x0202B583,  # ld    a1, 32(t0)    the device tree's address
    0x0182B283,  # ld    t0, 24(t0)    the start address
    0x00028067,  # jr    t0
)


@dataclass(slots=True)
class Boot:
    """One machine's images and what follows from where they went; the addresses are physical."""

    images: ImageSet
    mask_rom: bytes
    start_address: int
    """Where the reset vector jumps."""
    next_address: int
    """Where firmware goes on; 0 leaves it to find out by itself."""
    device_tree: Image
    fw_cfg_items: dict[int, bytes]
    """What firmware in flash bank 1 fetches the kernel from, by fw_cfg key."""
    seed_offset: int | None
    """Where in the device tree the seed stands that each reset replaces; None when it is fixed."""

    def reseed(self) -> None:
        """Put a fresh seed into the device tree, for the next time it is written."""
        if self.seed_offset is not None:
            data = bytearray(self.device_tree.data)
            data[self.seed_offset : self.seed_offset + RNG_SEED_SIZE] = os.urandom(RNG_SEED_SIZE)
            self.device_tree = self.images.replace(self.device_tree, bytes(data))


def prepare(config: BoardConfig) -> Boot:
    """Load every image that `config` names and lay out memory; raises ImageError for one that cannot be."""
    ram = layout.dram(config.ram_size)
    images = ImageSet(ram)
    firmware = _load_firmware(images, config.bios, ram.base)
    start = layout.FLASH_BANKS[0].base if config.pflash[0] else ram.base
    next_address, initrd = 0, None
    if config.pflash[1]:
        next_address = layout.FLASH_BANKS[1].base
    elif config.kernel:
        base = align_up(firmware.high, KERNEL_ALIGNMENT) if firmware else ram.base
        kernel = load_program(images, "kernel", config.kernel, base, unpack=True)
        if kernel.is_linux and len(config.append) > LINUX_COMMAND_LINE_SIZE:
            raise ConfigError(
                f"-append has {len(config.append)} characters, of which Linux would not see more than "
                f"{LINUX_COMMAND_LINE_SIZE}"
            )
        next_address = kernel.low
        if config.bios == "none" and kernel.entry is not None and not config.pflash[0]:
            start = kernel.entry
        if config.initrd:
            place = max(next_address + min(ram.size // 2, INITRD_MAX_OFFSET), align_up(kernel.high, PAGE_SIZE))
            initrd = load_raw(images, "ramdisk", config.initrd, place)
    tree, room = _device_tree(config, initrd)
    image = images.add("device tree", device_tree_address(ram, room), tree.to_bytes(), size=room)
    return Boot(
        images=images,
        mask_rom=reset_vector(start, image.start) + firmware_record(next_address),
        start_address=start,
        next_address=next_address,
        device_tree=image,
        fw_cfg_items=_fw_cfg_items(config, config.kernel) if config.pflash[1] and config.kernel else {},
        seed_offset=None if config.rng_seed else tree.chosen_value_offset("rng-seed"),
    )


def reset_vector(start: int, device_tree: int) -> bytes:
    """The code of the mask ROM and the two addresses that it loads."""
    return struct.pack("<6IQQ", *RESET_CODE, start, device_tree)


def firmware_record(next_address: int) -> bytes:
    """The fw_dynamic record: enter `next_address` in S-mode, options 0, boot hart 0."""
    return struct.pack("<6Q", FW_DYNAMIC_MAGIC, FW_DYNAMIC_VERSION, next_address, FW_DYNAMIC_NEXT_MODE_S, 0, 0)


def device_tree_address(ram: Window, room: int) -> int:
    """Where a tree of `room` bytes goes: as high as RAM and 32-bit software allow, on a 2 MiB boundary."""
    return (min(ram.end, DEVICE_TREE_LIMIT) - room) & ~mask(DEVICE_TREE_ALIGNMENT.bit_length() - 1)


def find_default_firmware() -> Path:
    """OpenSBI as the distribution installed it; raises ImageError telling what to install."""
    for path in FIRMWARE_CANDIDATES:
        if path.exists():
            return path
    raise ImageError("no default firmware: install OpenSBI (Debian: apt install opensbi), or use -bios FILE|none")


def _load_firmware(images: ImageSet, bios: str, base: int) -> Loaded | None:
    if bios == "none":
        return None
    return load_program(images, "firmware", find_default_firmware() if bios == "default" else Path(bios), base)


def _device_tree(config: BoardConfig, initrd: Loaded | None) -> tuple[FlatTree, int]:
    """The tree, complete, and how many bytes of RAM are set aside for it."""
    if config.dtb:
        data = read_file("device tree", config.dtb, MAX_SIZE)
        tree, room = FlatTree(data, config.dtb.name), 2 * (len(data) + 10000)
    else:
        tree, room = FlatTree(devicetree.build(config), "of the board"), MAX_SIZE
    seed = config.rng_seed or os.urandom(RNG_SEED_SIZE)
    place = (initrd.low, initrd.high) if initrd else None
    devicetree.set_boot_arguments(tree, append=config.append, seed=seed, initrd=place)
    return tree, room


def _fw_cfg_items(config: BoardConfig, kernel: Path) -> dict[int, bytes]:
    """The kernel and what goes with it, for firmware in flash to fetch."""
    return kernel_items(
        read_file("kernel", kernel, config.ram_size, unpack=True),
        initrd=read_file("ramdisk", config.initrd, config.ram_size) if config.initrd else None,
        cmdline=config.append,
    )
