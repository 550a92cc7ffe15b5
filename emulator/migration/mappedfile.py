"""Writing RAM in the mapped layout: pages straight from guest memory, holes for zeros, a checksum for each block.

Pages go to the file past the host's page cache where the file system can do that (O_DIRECT), from a thread of their
own, while this one adds up the checksums. Layout: see `mappedram.py`.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import xxhash

from emulator.core.bits import align_up
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration.blocklist import put_name
from emulator.migration.errors import ChecksumError
from emulator.migration.mappedram import ALIGNMENT, HEADER_VERSION, Area, bitmap_size
from emulator.migration.pages import bits_of, data_pages, runs
from emulator.migration.wire import Writer

GAP_PAGES = 16
"""So many zero pages between two others are written along with them: a write costs as much as 64 KiB."""
PIECE = 64 << 20
"""The most bytes of one write."""


class Part(NamedTuple):
    """Bytes of the file that are not pages, and where they stand."""

    offset: int
    data: bytes


def write_areas(fd: int, position: int, blocks: Sequence[RamBlock]) -> tuple[list[Part], int, dict[str, str]]:
    """Write every block's pages, the first one's entry in the list of blocks to stand at `position`.

    Returns the entries, which the caller writes; where the last block's pages end; and the checksum of each block's
    pages. Raises OSError.
    """
    parts: list[Part] = []
    checksums: dict[str, str] = {}
    writes: list[Future[None]] = []
    with _direct(fd) as direct, ThreadPoolExecutor(1, "pages") as pool:
        for block in blocks:
            has_data = data_pages(block)
            area, entry = _entry(block, position, np.packbits(has_data, bitorder="little").tobytes())
            parts.append(Part(position, entry))
            pieces = [(first * PAGE_SIZE, end * PAGE_SIZE) for first, end in runs(has_data, gap=GAP_PAGES)]
            for begin, end in pieces:
                block.populate(begin, end)
            writes.append(pool.submit(_write_pages, fd, direct, block.view, area.pages_offset, pieces))
            checksums[block.name] = checksum(block.view, area.bitmap)
            position = area.pages_end
        for write in writes:
            write.result()
    return parts, position, checksums


def checksum(pages: memoryview, bitmap: bytes) -> str:
    """XXH3 (128 bits, in hexadecimal) of those of the block's `pages` that the bitmap says are present."""
    digest = xxhash.xxh3_128()
    for first, end in runs(bits_of(bitmap)):
        digest.update(pages[first * PAGE_SIZE : end * PAGE_SIZE])
    return digest.hexdigest()


def _entry(block: RamBlock, position: int, bits: bytes) -> tuple[Area, bytes]:
    """Where the block goes, and its entry in the list of blocks with the bitmap behind it."""
    bitmap = bits.ljust(bitmap_size(block.size), b"\0")
    writer = Writer()
    put_name(writer, block.name)
    writer.u64(block.size)
    writer.u32(HEADER_VERSION)
    writer.u64(PAGE_SIZE)
    bitmap_offset = position + writer.position + 16
    area = Area(block.name, block.size, bitmap, bitmap_offset, align_up(bitmap_offset + len(bitmap), ALIGNMENT))
    writer.u64(area.bitmap_offset)
    writer.u64(area.pages_offset)
    return area, bytes(writer.data + bitmap)


@contextlib.contextmanager
def _direct(fd: int) -> Iterator[int]:
    """The same file once more, for writes past the page cache; `fd` itself where there is no such thing."""
    try:
        direct = os.open(f"/proc/self/fd/{fd}", os.O_WRONLY | os.O_DIRECT)
    except (OSError, AttributeError):
        yield fd
        return
    try:
        yield direct
    finally:
        os.close(direct)


def _write_pages(fd: int, direct: int, view: memoryview, offset: int, pieces: list[tuple[int, int]]) -> None:
    for begin, end in pieces:
        while begin < end:
            piece = view[begin : min(begin + PIECE, end)]
            try:
                begin += os.pwrite(direct, piece, offset + begin)
            except OSError as error:
                if error.errno != errno.EINVAL or direct == fd:
                    raise
                direct = fd  # the file system takes no direct writes of this kind


def write_at(fd: int, part: Part) -> None:
    """Write all of a part; raises OSError."""
    done = 0
    while done < len(part.data):
        done += os.pwrite(fd, memoryview(part.data)[done:], part.offset + done)


def check_pages(data: memoryview, areas: Sequence[Area], checksums: object) -> None:
    """Raise ChecksumError unless the pages in a file, `data`, are as the note in it says, by name of the block."""
    for area in areas:
        expected = checksums.get(area.name) if isinstance(checksums, dict) else None
        found = checksum(data[area.pages_offset : area.pages_end], area.bitmap)
        if found != expected:
            raise ChecksumError(f"pages of {area.name} with checksum {expected}", found, field=area.name)
