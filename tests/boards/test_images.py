"""Loading images: every way a file can be wrong, and what the guest sees of one that is right."""

from __future__ import annotations

import contextlib
import gzip
import random
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
import zstandard

from emulator.boards.images import ImageSet, load_program, load_raw, read_file
from emulator.boards.layout import Window
from emulator.core.bus import AddressMap
from emulator.core.errors import ImageError
from emulator.core.memory import RamBlock

BASE = 0x80000000
SIZE = 0x10000
RAM = Window(BASE, SIZE)


@pytest.fixture
def images():
    return ImageSet(RAM)


@pytest.fixture
def bus():
    block = RamBlock("ram", SIZE)
    bus = AddressMap()
    bus.add(BASE, block)
    yield bus
    block.close()


def refused(images, path, message, **options):
    with pytest.raises(ImageError, match=message) as caught:
        load_program(images, "kernel", path, BASE, **options)
    assert "\n" not in str(caught.value)
    assert list(images) == []


def test_elf_segments_go_to_their_physical_addresses_and_bss_is_zero(images, bus, make_elf, in_file):
    elf = make_elf((BASE + 0x1000, b"code"), (BASE + 0x3000, b"data", 0x100), entry=BASE + 0x1002)
    loaded = load_program(images, "kernel", in_file(elf), BASE)
    assert (loaded.low, loaded.high, loaded.entry) == (BASE + 0x1000, BASE + 0x3100, BASE + 0x1002)
    bus.write_ram(BASE + 0x3000, b"\xff" * 0x101)
    images.write(bus, blank=False)
    assert bus.read_ram(BASE + 0x1000, 4) == b"code"
    assert bus.read_ram(BASE + 0x3000, 0x101) == b"data" + bytes(0xFC) + b"\xff"


def test_entry_point_is_translated_to_a_physical_address(images, make_elf, in_file):
    elf = make_elf((BASE, b"kernel"), entry=0xFFFFFFFF80000004, virtual_offset=0xFFFFFFFF00000000)
    assert load_program(images, "kernel", in_file(elf), BASE).entry == BASE + 4


def test_entry_point_outside_all_segments_is_none(images, make_elf, in_file):
    assert load_program(images, "kernel", in_file(make_elf((BASE, b"code"), entry=0)), BASE).entry is None


def test_segments_that_take_no_memory_are_skipped(images, make_elf, in_file):
    load_program(images, "kernel", in_file(make_elf((0, b"", 0), (BASE, b"code"))), BASE)
    assert [image.start for image in images] == [BASE]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"elf_class": 1}, "not a 64-bit ELF"),
        ({"elf_data": 2}, "not a little-endian ELF"),
        ({"e_machine": 62}, "for EM_X86_64, not for EM_RISCV"),
        ({"e_machine": 0xABCD}, "not for EM_RISCV"),
        ({"e_type": 1}, "not an ELF executable but ET_REL"),
        ({"e_type": 4}, "not an ELF executable but ET_CORE"),
        ({"e_phnum": 0}, "no program headers"),
        ({"e_phnum": 2}, "truncated: its program headers"),
        ({"e_phnum": 0xFFFF}, "claims 65535 program headers"),
        ({"e_phentsize": 0}, "program headers of 0 bytes"),
        ({"e_phentsize": 0xFFFF}, "program headers of 65535 bytes"),
        ({"e_phoff": 0xFFFFFFFFFFFFFFFF}, "truncated: its program headers"),
        ({"p_type": 2}, "no segment to load"),
        ({"p_filesz": 3}, "segment 0 is truncated"),
        ({"p_filesz": 0xFFFFFFFFFFFFFFFF}, "bytes in the file but"),
        ({"p_offset": 0xFFFFFFFFFFFFFFFF}, "segment 0 is truncated"),
    ],
)
def test_elf_with_a_wrong_field_is_refused(images, make_elf, in_file, fields, message):
    refused(images, in_file(make_elf((BASE, b"xx", 3), **fields)), message)


@pytest.mark.parametrize(
    ("address", "size"),
    [(BASE - 1, 4), (BASE + SIZE - 3, 4), (0, 4), (0xFFFFFFFFFFFFFFFF, 4), (BASE, 0xFFFFFFFFFFFFFFFF)],
)
def test_segment_outside_ram_is_refused(images, make_elf, in_file, address, size):
    refused(images, in_file(make_elf((address, b"code", size))), r"segment 0 \(.*\) does not fit into RAM")


def test_every_truncation_of_an_elf_is_refused(make_elf, in_file):
    elf = make_elf((BASE, b"text"), (BASE + 0x100, b"data"))
    for length in range(4, len(elf)):
        with pytest.raises(ImageError, match="truncated"):
            load_program(ImageSet(RAM), "kernel", in_file(elf[:length]), BASE)


def test_corrupted_elf_is_refused_or_stays_inside_ram(make_elf, in_file):
    chance = random.Random(1)
    elf = make_elf((BASE, b"text"), (BASE + 0x100, b"data", 0x80))
    for _ in range(1000):
        data = bytearray(elf)
        for _ in range(chance.randint(1, 4)):
            data[chance.randrange(4, 64 + 2 * 56)] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
        images = ImageSet(RAM)
        with contextlib.suppress(ImageError):
            load_program(images, "kernel", in_file(bytes(data)), BASE)
        assert all(RAM.holds(image.start, image.end) for image in images)


def test_elf_segments_that_overlap_each_other_are_refused(images, make_elf, in_file):
    elf = make_elf((BASE, b"text"), (BASE + 3, b"data"))
    with pytest.raises(ImageError, match=r"image segment 1 \(.*\) overlaps image segment 0 \("):
        load_program(images, "kernel", in_file(elf), BASE)


def test_huge_sparse_elf_costs_no_memory(images, make_elf, in_file):
    path = in_file(make_elf((BASE, b"code", 1 << 40), p_filesz=1 << 40))
    with path.open("r+b") as file:
        file.truncate(1 << 41)
    load_program(ImageSet(RAM), "kernel", in_file(make_elf((BASE, b"warm up")), "other"), BASE)
    tracemalloc.start()
    try:
        refused(images, path, "does not fit into RAM")
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_raw_file_goes_to_the_given_address(images, bus, in_file):
    loaded = load_program(images, "kernel", in_file(b"raw"), BASE + 0x200)
    images.write(bus, blank=True)
    assert (loaded.low, loaded.high, loaded.entry) == (BASE + 0x200, BASE + 0x203, None)
    assert bus.read_ram(BASE + 0x200, 3) == b"raw"


def test_raw_file_may_fill_ram_to_the_last_byte(images, in_file):
    assert load_program(images, "kernel", in_file(bytes(SIZE)), BASE).high == RAM.end


def test_raw_file_larger_than_ram_is_refused(images, in_file):
    refused(images, in_file(bytes(SIZE + 1)), "does not fit into the 65536 bytes")


def test_endless_raw_file_is_refused(images):
    with pytest.raises(ImageError, match="does not fit"):
        load_raw(images, "ramdisk", Path("/dev/zero"), BASE)


def test_raw_file_beyond_ram_is_refused(images, in_file):
    with pytest.raises(ImageError, match="does not fit into the 0 bytes"):
        load_raw(images, "ramdisk", in_file(b"raw"), BASE + SIZE + 4096)


def test_empty_file_is_refused(images, in_file):
    refused(images, in_file(b""), "is empty")


def test_missing_file_and_directory_are_refused(images, tmp_path):
    refused(images, tmp_path / "none", re.escape(f"could not load kernel '{tmp_path}/none': No such file"))
    refused(images, tmp_path, "Is a directory")


@pytest.mark.parametrize("load", [load_program, load_raw])
def test_uimage_is_refused_plainly(images, in_file, load):
    with pytest.raises(ImageError, match="U-Boot uImage"):
        load(images, "kernel", in_file(b"\x27\x05\x19\x56" + bytes(60)), BASE)


def test_gzip_kernel_is_unpacked(images, bus, in_file):
    load_program(images, "kernel", in_file(gzip.compress(b"unpacked")), BASE, unpack=True)
    images.write(bus, blank=True)
    assert bus.read_ram(BASE, 9) == b"unpacked\0"


def test_gzip_elf_is_unpacked_and_placed_by_its_segments(images, make_elf, in_file):
    elf = gzip.compress(make_elf((BASE + 0x800, b"code"), entry=BASE + 0x800))
    assert load_program(images, "kernel", in_file(elf), BASE, unpack=True).entry == BASE + 0x800


def zboot(payload: bytes, *, offset: int = 0x200, length: int | None = None) -> bytes:
    """A kernel in an EFI application that unpacks itself."""
    length = len(payload) if length is None else length
    return (b"MZ\0\0zimg" + struct.pack("<2I", offset, length)).ljust(offset, b"\0") + payload + b"signature"


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
@pytest.mark.parametrize("wrap", [bytes, zboot])
def test_packed_kernel_is_unpacked(images, bus, in_file, pack, wrap):
    kernel = random.Random(1).randbytes(SIZE // 2)
    load_program(images, "kernel", in_file(wrap(pack(kernel))), BASE, unpack=True)
    images.write(bus, blank=True)
    assert bus.read_ram(BASE, len(kernel)) == kernel


@pytest.mark.parametrize("pack", [gzip.compress, zstandard.compress])
def test_every_truncation_of_a_kernel_that_unpacks_itself_is_refused(images, in_file, pack):
    packed = zboot(pack(b"unpacked"), offset=0x40)[: -len(b"signature")]
    for length in range(8, len(packed)):
        refused(images, in_file(packed[:length]), "truncated", unpack=True)


def test_kernel_packed_in_another_way_is_refused(images, in_file):
    refused(images, in_file(zboot(b"\xfd7zXZ\0 and so on")), "not supported: use gzip or zstd", unpack=True)


@pytest.mark.parametrize(
    ("compress", "size", "limit"), [(gzip.compress, 1 << 26, 1 << 22), (zstandard.compress, 1 << 28, 1 << 26)]
)
def test_bomb_is_refused_without_unpacking_all_of_it(images, in_file, compress, size, limit):
    path = in_file(compress(bytes(size)))
    tracemalloc.start()
    try:
        refused(images, path, "does not fit, unpacked", unpack=True)
        assert tracemalloc.get_traced_memory()[1] < limit
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("compress", "shortest", "name"), [(gzip.compress, 2, "gzip"), (zstandard.compress, 8, "zstd")]
)
def test_every_truncation_of_a_packed_kernel_is_refused(images, in_file, compress, shortest, name):
    packed = compress(b"unpacked")
    for length in range(shortest, len(packed)):
        refused(images, in_file(packed[:length]), f"truncated {name}", unpack=True)


def test_zstd_kernel_with_a_wrong_byte_is_refused(images, in_file):
    packed = bytearray(zstandard.compress(b"unpacked" * 100))
    packed[6] ^= 0xFF
    refused(images, in_file(bytes(packed)), "broken zstd|truncated zstd", unpack=True)


def test_gzip_initrd_stays_packed(images, bus, in_file):
    packed = gzip.compress(b"initrd")
    load_raw(images, "ramdisk", in_file(packed), BASE)
    images.write(bus, blank=True)
    assert bus.read_ram(BASE, len(packed)) == packed


def test_gzip_kernel_with_a_wrong_checksum_is_refused(images, in_file):
    packed = bytearray(gzip.compress(b"unpacked"))
    packed[-8] ^= 1
    refused(images, in_file(bytes(packed)), "broken gzip", unpack=True)


def test_overlap_names_both_images(images):
    images.add("firmware", BASE, bytes(0x100))
    images.add("kernel", BASE + 0x100, bytes(0x100))
    with pytest.raises(ImageError, match=r"initrd \(0x800001ff-0x800001ff\) overlaps kernel \(0x80000100-0x800001ff\)"):
        images.add("initrd", BASE + 0x1FF, b"x")


def test_reserved_room_counts_for_overlaps(images):
    images.add("device tree", BASE, b"x", size=0x1000)
    with pytest.raises(ImageError, match="overlaps device tree"):
        images.add("kernel", BASE + 0xFFF, b"x")


def test_replaced_image_is_what_is_written_next(images, bus):
    image = images.add("device tree", BASE, b"old")
    images.replace(image, b"new")
    images.write(bus, blank=False)
    assert bus.read_ram(BASE, 3) == b"new"


def test_file_over_its_limit_is_refused(in_file):
    assert read_file("device tree", in_file(b"1234"), 4) == b"1234"
    with pytest.raises(ImageError, match="does not fit into the 3 bytes"):
        read_file("device tree", in_file(b"1234"), 3)
