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
from numpy.typing import NDArray

from emulator.core.bits import align_up
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration.blocklist import put_name
from emulator.migration.errors import ChecksumError
from emulator.migration.mappedram import ALIGNMENT, HEADER_VERSION, Area, bitmap_size
from emulator.migration.pages import bits_of, data_windows, runs
from emulator.migration.wire import Writer

GAP_PAGES = 16
"""So many zero pages between two others are written along with them: a write costs as much as 64 KiB."""
ENTRY_BYTES = 8 + 4 + 8 + 8 + 8
"""What stands behind a block's name: its size, the layout's version, the page size and two offsets."""
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
            bitmap_offset, pages_offset = _places(block, position)
            digest, found = xxhash.xxh3_128(), []
            for first_page, has_data in data_windows(block):
                begin = first_page * PAGE_SIZE
                pieces = [(begin + first, begin + end) for first, end in _byte_runs(has_data, gap=GAP_PAGES)]
                for piece in pieces:
                    block.populate(*piece)
                writes.append(pool.submit(_write_pages, fd, direct, block.view, pages_offset, pieces))
                _add(digest, block.view[begin:], has_data)
                found.append(np.packbits(has_data, bitorder="little").tobytes())
            entry = _entry(block, bitmap_offset, pages_offset, b"".join(found))
            parts.append(Part(position, entry))
            checksums[block.name] = digest.hexdigest()
            position = pages_offset + block.size
        for write in writes:
            write.result()
    return parts, position, checksums


def checksum(pages: memoryview, bitmap: bytes) -> str:
    """XXH3 (128 bits, in hexadecimal) of those of the block's `pages` that the bitmap says are present."""
    digest = xxhash.xxh3_128()
    _add(digest, pages, bits_of(bitmap))
    return digest.hexdigest()


def _add(digest: xxhash.xxh3_128, pages: memoryview, present: NDArray[np.bool_]) -> None:
    for begin, end in _byte_runs(present):
        digest.update(pages[begin:end])


def _byte_runs(pages: NDArray[np.bool_], *, gap: int = 0) -> Iterator[tuple[int, int]]:
    """`runs` in bytes."""
    return ((first * PAGE_SIZE, end * PAGE_SIZE) for first, end in runs(pages, gap=gap))


def _places(block: RamBlock, position: int) -> tuple[int, int]:
    """Where bitmap and pages of a block go whose entry stands at `position`."""
    bitmap_offset = position + 1 + len(block.name.encode()) + ENTRY_BYTES
    return bitmap_offset, align_up(bitmap_offset + bitmap_size(block.size), ALIGNMENT)


def _entry(block: RamBlock, bitmap_offset: int, pages_offset: int, bits: bytes) -> bytes:
    """The block's entry in the list of blocks, with the bitmap behind it."""
    writer = Writer()
    put_name(writer, block.name)
    writer.u64(block.size)
    writer.u32(HEADER_VERSION)
    writer.u64(PAGE_SIZE)
    writer.u64(bitmap_offset)
    writer.u64(pages_offset)
    writer.write(bits.ljust(bitmap_size(block.size), b"\0"))
    return bytes(writer.data)


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
