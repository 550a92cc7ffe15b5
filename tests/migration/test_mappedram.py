"""RAM at fixed places of a file: the layout byte by byte, stale data, and headers that lie."""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration.errors import ChecksumError, RamError, StreamError, TruncatedError
from emulator.migration.mappedfile import check_pages, write_areas, write_at
from emulator.migration.mappedram import Area, bitmap_size, data_extents, get_areas, outside_of_pages, stage
from emulator.migration.wire import Reader

MIB = 1 << 20
A, B = b"a" * PAGE_SIZE, b"b" * PAGE_SIZE
ZERO = bytes(PAGE_SIZE)
PAGES = 4

# The list of one block of four pages, of which the second and the last are present, at byte 0 of the file.
ENTRY = """
00 00 00 00 00 00 40 04   | four pages in all, flag 04
03 72 61 6d               | ram
00 00 00 00 00 00 40 00   | four pages
00 00 00 01               | version of the header
00 00 00 00 00 00 10 00   | page size
00 00 00 00 00 00 00 30   | the bitmap's offset
00 00 00 00 00 10 00 00   | the pages' offset
0a 00 00 00 00 00 00 00   | bitmap: a little-endian word, pages 1 and 3
"""
SIZE, VERSION, PAGE, BITMAP_AT, PAGES_AT, BITMAP = 12, 20, 24, 32, 40, 48
"""Where the fields stand."""

Wire = Callable[[str], bytes]


@pytest.fixture
def file(tmp_path: Path) -> Iterator[int]:
    descriptor = os.open(tmp_path / "mapped", os.O_RDWR | os.O_CREAT)
    yield descriptor
    os.close(descriptor)


def whole_file(entry: bytes) -> bytes:
    return entry.ljust(MIB, b"\0") + ZERO + A + ZERO + B


def refusal(data: bytes) -> StreamError:
    with pytest.raises(StreamError) as caught:
        get_areas(Reader(data))
    assert str(caught.value).isprintable()
    assert caught.value.offset is not None
    return caught.value


def test_an_entry_says_where_bitmap_and_pages_are(wire: Wire) -> None:
    (area,) = get_areas(Reader(whole_file(wire(ENTRY))))
    assert area == Area("ram", PAGES * PAGE_SIZE, b"\x0a" + bytes(7), 0x30, MIB)
    assert area.pages_end == MIB + PAGES * PAGE_SIZE


@pytest.mark.parametrize(("pages", "size"), [(1, 8), (64, 8), (65, 16), (8192, 1024)])
def test_a_bitmap_has_whole_words(pages: int, size: int) -> None:
    assert bitmap_size(pages * PAGE_SIZE) == size


@pytest.mark.parametrize(
    ("position", "data", "message"),
    [
        (VERSION, b"\0\0\0\2", "expected version 1 with pages of 4096 bytes, got version 2, 4096 bytes"),
        (PAGE, (8192).to_bytes(8, "big"), "got version 1, 8192 bytes"),
        (BITMAP_AT, (0x31).to_bytes(8, "big"), "ram at byte 0x14: expected the bitmap at 0x30, got 0x31"),
        (BITMAP_AT, b"\xff" * 8, "expected the bitmap at 0x30, got 0xffffffffffffffff"),
        (PAGES_AT, (MIB + 8).to_bytes(8, "big"), "expected whole pages from 0x38 on, got 0x100008"),
        (PAGES_AT, bytes(8), "expected whole pages from 0x38 on, got 0x0"),
        (BITMAP, b"\x1a", "ram at byte 0x30: expected a bitmap of 4 pages, got more"),
        (BITMAP + 7, b"\x80", "expected a bitmap of 4 pages, got more"),
    ],
)
def test_an_entry_that_lies_is_refused(wire: Wire, position: int, data: bytes, message: str) -> None:
    entry = wire(ENTRY)
    error = refusal(whole_file(entry[:position] + data + entry[position + len(data) :]))
    assert isinstance(error, RamError)
    assert message in str(error)


@pytest.mark.parametrize("pages_at", [MIB + PAGE_SIZE, 1 << 40, (1 << 64) - PAGE_SIZE])
def test_pages_out_of_the_file_are_refused(wire: Wire, pages_at: int) -> None:
    entry = wire(ENTRY)
    data = whole_file(entry[:PAGES_AT] + pages_at.to_bytes(8, "big") + entry[PAGES_AT + 8 :])
    assert isinstance(refusal(data), TruncatedError)


def test_a_file_cut_anywhere_is_refused(wire: Wire) -> None:
    data = whole_file(wire(ENTRY))
    for length in [*range(57), MIB, MIB + 1, len(data) - 1]:
        refusal(data[:length])


def test_a_name_that_cannot_be_shown_is_escaped(wire: Wire) -> None:
    entry = wire(ENTRY).replace(b"ram", b"\n\x1b\xff").replace(bytes.fromhex("00000001"), bytes(4), 1)
    assert str(refusal(whole_file(entry))).startswith(r"'\n\x1bÿ' at byte 0x14: expected version 1")


def test_areas_that_overlap_are_refused(wire: Wire) -> None:
    """The second block's pages would lie in the first one's room; its own entry stands behind that."""
    first = b"\0\0\0\0\0\0\x80\x04" + wire(ENTRY)[8:]
    second = wire(ENTRY)[8:].replace(b"ram", b"rom")
    end = MIB + PAGES * PAGE_SIZE
    second = second[:24] + (end + 40).to_bytes(8, "big") + MIB.to_bytes(8, "big") + second[40:]
    error = refusal(whole_file(first) + second.ljust(2 * MIB, b"\0"))
    assert f"expected whole pages from 0x{end + 48:x} on, got 0x100000" in str(error)


def staged_pages(file: int, data: bytes, *, exact: bool) -> list[bytes]:
    os.write(file, data)
    (area,) = get_areas(Reader(data))
    staged = stage(area, file, exact=exact)
    pages = [bytes(staged.view[begin : begin + PAGE_SIZE]) for begin in range(0, staged.size, PAGE_SIZE)]
    staged.close()
    return pages


@pytest.mark.parametrize("exact", [False, True])
def test_present_pages_are_mapped(wire: Wire, file: int, exact: bool) -> None:
    assert staged_pages(file, whole_file(wire(ENTRY)), exact=exact) == [ZERO, A, ZERO, B]


def test_what_is_left_where_a_page_is_absent_is_zero(wire: Wire, file: int) -> None:
    """QEMU leaves old data in the file when a page has become zero since it was written."""
    data = wire(ENTRY).ljust(MIB, b"\0") + B + A + B + B
    assert staged_pages(file, data, exact=False) == [ZERO, A, ZERO, B]
    assert os.pread(file, PAGE_SIZE, MIB) == B


def test_holes_are_passed_over(file: int) -> None:
    os.ftruncate(file, 8 * MIB)
    assert list(data_extents(file, 0, 8 * MIB)) == []
    os.pwrite(file, A, 4 * MIB)
    ((begin, end),) = data_extents(file, 0, 8 * MIB)
    assert begin <= 4 * MIB < 4 * MIB + PAGE_SIZE <= end
    assert list(data_extents(file, 6 * MIB, 8 * MIB)) == []


def test_what_is_written_is_what_is_read(file: int) -> None:
    blocks = [RamBlock("ram", 300 * PAGE_SIZE), RamBlock("rom", 2 * PAGE_SIZE)]
    for page in (0, 7, 8, 100, 299):
        blocks[0].view[page * PAGE_SIZE + 3] = page % 200 + 1
    blocks[1].view[PAGE_SIZE:] = A
    head = b"\0\0\0\0\0\x12\xe0\x04"  # 302 pages in all
    parts, end, checksums = write_areas(file, len(head), blocks)
    for part in parts:
        write_at(file, part)
    os.pwrite(file, head, 0)
    data = mmap.mmap(file, 0, access=mmap.ACCESS_READ)
    areas = get_areas(Reader(data))
    assert [area.name for area in areas] == ["ram", "rom"]
    assert areas[-1].pages_end == end == len(data)
    assert all(area.pages_offset % MIB == 0 for area in areas)
    assert os.fstat(file).st_blocks * 512 < end
    for area, block in zip(areas, blocks, strict=True):
        for exact in (False, True):
            staged = stage(area, file, exact=exact)
            assert bytes(staged.view) == bytes(block.view)
            staged.close()
    check_pages(memoryview(data), areas, checksums)
    with pytest.raises(ChecksumError, match="pages of rom with checksum"):
        check_pages(memoryview(data), areas, checksums | {"rom": "0" * 32})
    for absent in (None, {}, []):
        with pytest.raises(ChecksumError, match="pages of ram with checksum None"):
            check_pages(memoryview(data), areas, absent)
    outside = outside_of_pages(memoryview(data), areas)
    assert bytes(outside[0]) == head + parts[0].data
    assert bytes(outside[1]) == parts[1].data
    for block in blocks:
        block.close()
