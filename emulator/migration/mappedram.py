"""RAM at fixed places of a file: QEMU's mapped-ram layout, which a machine takes over by mapping it.

The configuration names the capability `mapped-ram`. Behind each block in the list of blocks stand u32 version 1, u64
page size, u64 offset of a bitmap of the pages present, u64 offset of the pages, both in the file; then the bitmap, in
64-bit little-endian words; then, from the next MiB on, room for the whole block, each page at its address. A page that
is absent is zero, and a hole in the file. The next block's entry follows the room. Source: files of QEMU 10.0.

Loading takes the same time whatever the size: it maps each block's room privately. A file that QEMU wrote may hold
outdated data where a page is absent now; `exact=True` says that this one does not, which saves looking.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from emulator.core.bits import align_up
from emulator.core.memory import PAGE_SIZE, StagedMemory
from emulator.migration.blocklist import get_block_list
from emulator.migration.errors import RamError, StreamError, TruncatedError, quote
from emulator.migration.wire import Reader

CAPABILITY = "mapped-ram"
HEADER_VERSION = 1
ALIGNMENT = 1 << 20
WORD_BYTES = 8


def bitmap_size(block_size: int) -> int:
    """Bytes of the bitmap of a block's pages."""
    return align_up(block_size // PAGE_SIZE, 8 * WORD_BYTES) // 8


@dataclass(frozen=True, slots=True)
class Area:
    """Where a file holds one block."""

    name: str
    size: int
    bitmap: bytes
    """Bit n of byte n // 8 tells whether page n is present."""
    bitmap_offset: int
    pages_offset: int

    @property
    def pages_end(self) -> int:
        """The first byte behind the room for the pages."""
        return self.pages_offset + self.size


def get_areas(reader: Reader) -> list[Area]:
    """Read the payload of the section's start, from a reader of the whole file; raises RamError or TruncatedError."""
    areas: list[Area] = []

    def more(name: str, size: int) -> None:
        try:
            areas.append(_get_area(reader, name, size))
        except StreamError as error:
            error.within(quote(name))
            raise

    get_block_list(reader, more)
    return areas


def _get_area(reader: Reader, name: str, size: int) -> Area:
    begin = reader.offset
    version, page_size = reader.u32(), reader.u64()
    bitmap_offset, pages_offset = reader.u64(), reader.u64()
    if version != HEADER_VERSION or page_size != PAGE_SIZE:
        expected = f"version {HEADER_VERSION} with pages of {PAGE_SIZE} bytes"
        raise RamError(expected, f"version {version}, {page_size} bytes", offset=begin)
    if bitmap_offset != reader.offset:
        raise RamError(f"the bitmap at 0x{reader.offset:x}", f"0x{bitmap_offset:x}", offset=begin)
    bitmap = reader.read(bitmap_size(size))
    if int.from_bytes(bitmap, "little").bit_length() > size // PAGE_SIZE:
        raise RamError(f"a bitmap of {size // PAGE_SIZE} pages", "more", offset=bitmap_offset)
    if pages_offset < reader.offset or pages_offset % PAGE_SIZE:
        raise RamError(f"whole pages from 0x{reader.offset:x} on", f"0x{pages_offset:x}", offset=begin)
    gap = pages_offset - reader.offset
    if gap + size > reader.remaining:
        raise TruncatedError(gap + size, reader.remaining, offset=reader.offset)
    reader.skip(gap + size)
    return Area(name, size, bitmap, bitmap_offset, pages_offset)


def stage(area: Area, fd: int, *, exact: bool) -> StagedMemory:
    """Map the area's pages privately, as content for a RAM block."""
    staged = StagedMemory(area.size, fd, area.pages_offset, present=area.bitmap)
    if not exact:
        try:
            _clear_absent(area, fd, staged)
        except BaseException:
            staged.close()
            raise
    return staged


def outside_of_pages(data: memoryview, areas: Sequence[Area]) -> list[memoryview]:
    """All of a file that is neither pages nor the gap before them."""
    begins = [0, *(area.pages_end for area in areas)]
    ends = [*(area.bitmap_offset + len(area.bitmap) for area in areas), len(data)]
    return [data[begin:end] for begin, end in zip(begins, ends, strict=True)]


def _clear_absent(area: Area, fd: int, staged: StagedMemory) -> None:
    """Zero the pages that are absent and yet hold data in the file."""
    for begin, end in data_extents(fd, area.pages_offset, area.pages_end):
        first = (begin - area.pages_offset) // PAGE_SIZE
        last = (end - area.pages_offset - 1) // PAGE_SIZE
        for page in range(first, last + 1):
            if not area.bitmap[page // 8] >> page % 8 & 1:
                staged.view[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = bytes(PAGE_SIZE)


def data_extents(fd: int, begin: int, end: int) -> Iterator[tuple[int, int]]:
    """First and end of each part of the file from `begin` up to `end` that is no hole."""
    while begin < end:
        try:
            begin = os.lseek(fd, begin, os.SEEK_DATA)
        except OSError:  # nothing but a hole up to the end of the file
            return
        if begin >= end:
            return
        hole = min(os.lseek(fd, begin, os.SEEK_HOLE), end)
        yield begin, hole
        begin = hole
