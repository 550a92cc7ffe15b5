"""RAM as page records, in passes: what a stream carries.

Section `ram`, version 4. A record begins with a u64: an address in a block, whose low 12 bits are flags. A page record
holds 4096 bytes, a zero record the byte that fills the page, an XBZRLE record what has changed in a page that was sent
before. One that does not continue the block of the record before names its own: u8 length, name. The payload of the
section's start is the list of blocks and an end mark; those of the parts and of the end are records and an end mark.
Source: streams of QEMU 7.2 and 10.0.

Pages that follow each other make a run, and each run is read and written by one NumPy expression.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE, RamBlock, StagedMemory
from emulator.migration.blocklist import FLAGS, HEADER_BYTES, PAGE_RECORD, RamFlag, get_name, put_name
from emulator.migration.errors import RamError, quote
from emulator.migration.pages import data_pages, rows_of, runs
from emulator.migration.wire import Reader, Writer
from emulator.migration.xbzrle import decode, get_delta

_ZERO_RECORD = HEADER_BYTES + 1
# Plain numbers: there is a record for each scattered page, and arithmetic with enumerations is slow.
_PAGE, _ZERO, _XBZRLE = int(RamFlag.PAGE), int(RamFlag.ZERO), int(RamFlag.XBZRLE)
_CONTINUE, _EOS = int(RamFlag.CONTINUE), int(RamFlag.EOS)
_NEXT_PAGE = _PAGE | _CONTINUE
_NEXT_ZERO = _ZERO | _CONTINUE

LARGE_PAGE = 512
"""Pages in a row that make large pages worth their while."""
CHUNK_PAGES = 1024
"""Pages that are put together before they are written: 4 MiB."""


class PageRun(NamedTuple):
    """Pages of one block that follow each other; `address` is the first byte's, in the block."""

    block: str
    address: int
    pages: NDArray[np.uint8] | int
    """A row of 4096 bytes for each page; or, where all are filled with zeros, how many there are."""
    offset: int = 0
    """Where the first page's bytes stand in the stream, the next each `PAGE_RECORD` further; 0 if they do not."""


class PageDelta(NamedTuple):
    """What has changed in one page, at byte `address` of the block, since the stream last said what it holds."""

    block: str
    address: int
    delta: bytes
    offset: int
    """Where the delta stands in the stream."""

    def apply(self, page: bytearray | memoryview) -> None:
        """Change the page, or raise RamError."""
        decode(page, self.delta, block=self.block, offset=self.offset)


def write_pages(block: RamBlock, write: Callable[[bytes | bytearray | memoryview], object]) -> None:
    """Write all pages of a block as records."""
    rows = rows_of(block).view(np.uint8)
    has_data = data_pages(block)
    named = False
    for is_data, first, end in _alternating(has_data):
        for begin in range(first, end, CHUNK_PAGES):
            stop = min(begin + CHUNK_PAGES, end)
            records = _page_records(rows, begin, stop) if is_data else _zero_records(begin, stop)
            if not named:
                named = True
                records = _with_name(records, block.name)
            write(records)


def _alternating(has_data: NDArray[np.bool_]) -> Iterator[tuple[bool, int, int]]:
    """All pages as rows of data and of zeros, in their order."""
    done = 0
    for first, end in runs(has_data):
        if done < first:
            yield False, done, first
        yield True, first, end
        done = end
    if done < len(has_data):
        yield False, done, len(has_data)


def _page_records(rows: NDArray[np.uint8], first: int, end: int) -> bytearray:
    records = bytearray((end - first) * PAGE_RECORD)
    table = np.frombuffer(records, np.uint8).reshape(-1, PAGE_RECORD)
    table[:, :HEADER_BYTES] = _headers(first, end, _NEXT_PAGE)
    table[:, HEADER_BYTES:] = rows[first:end]
    return records


def _zero_records(first: int, end: int) -> bytearray:
    records = bytearray((end - first) * _ZERO_RECORD)
    np.frombuffer(records, np.uint8).reshape(-1, _ZERO_RECORD)[:, :HEADER_BYTES] = _headers(first, end, _NEXT_ZERO)
    return records


def _headers(first: int, end: int, flags: int) -> NDArray[np.uint8]:
    words = np.arange(first, end, dtype=np.uint64) * PAGE_SIZE + flags
    return words.astype(">u8").view(np.uint8).reshape(-1, HEADER_BYTES)


def _with_name(records: bytearray, name: str) -> bytearray:
    """The same records, of which the first names its block."""
    writer = Writer()
    writer.u64(int.from_bytes(records[:HEADER_BYTES], "big") & ~_CONTINUE)
    put_name(writer, name)
    return writer.data + records[HEADER_BYTES:]


class RecordReader:
    """Reads the records of a stream whose blocks have these `sizes`, part by part."""

    def __init__(self, sizes: Mapping[str, int]) -> None:
        self._sizes = sizes
        self._block = ""

    def runs(self, reader: Reader) -> Iterator[PageRun | PageDelta]:
        """The pages of one part, up to and including its end mark; raises RamError or TruncatedError."""
        while True:
            begin = reader.offset
            word = reader.u64()
            flags, address = word & FLAGS, word & ~FLAGS
            if word == _EOS:
                return
            kind = flags & ~_CONTINUE
            if kind not in (_PAGE, _ZERO, _XBZRLE):
                got = f"flags 0x{flags:x} ({RamFlag(kind).name or 'unknown'})"
                raise RamError("a page, what has changed in one, or the end of this part", got, offset=begin)
            if not flags & _CONTINUE:
                self._block = get_name(reader)
            size = self._sizes.get(self._block)
            if size is None:
                raise RamError(f"one of {quote(', '.join(self._sizes))}", f"a block {quote(self._block)}", offset=begin)
            if address >= size:
                raise RamError(f"an address below 0x{size:x}", f"0x{address:x}", field=self._block, offset=begin)
            room = (size - address) // PAGE_SIZE
            if kind == _PAGE:
                yield self._pages(reader, address, room)
            elif kind == _ZERO:
                yield self._zeros(reader, address, room)
            else:
                delta = get_delta(reader, self._block)
                yield PageDelta(self._block, address, delta, reader.offset - len(delta))

    def _pages(self, reader: Reader, address: int, room: int) -> PageRun:
        count = 1 + _following(reader.rest()[PAGE_SIZE:], PAGE_RECORD, address + PAGE_SIZE | _NEXT_PAGE, room - 1)
        begin = reader.offset
        data = reader.view(count * PAGE_RECORD - HEADER_BYTES)
        table = np.ndarray((count, PAGE_SIZE), np.uint8, data, strides=(PAGE_RECORD, 1))
        return PageRun(self._block, address, table, begin)

    def _zeros(self, reader: Reader, address: int, room: int) -> PageRun:
        if fill := reader.u8():
            return PageRun(self._block, address, np.full((1, PAGE_SIZE), fill, np.uint8))
        rest = reader.rest()
        count = _following(rest, _ZERO_RECORD, address + PAGE_SIZE | _NEXT_ZERO, room - 1)
        if count:
            fills = np.ndarray((count,), np.uint8, rest, HEADER_BYTES, strides=(_ZERO_RECORD,))
            if fills.any():
                count = int(fills.argmax())
            reader.skip(count * _ZERO_RECORD)
        return PageRun(self._block, address, 1 + count)


def _following(rest: memoryview, record: int, first: int, room: int) -> int:
    """How many whole records of this length begin with `first` and go on page by page; at most `room`."""
    count, window = 0, 16
    most = min(room, len(rest) // record)
    if most > 0 and rest[:HEADER_BYTES] != first.to_bytes(HEADER_BYTES, "big"):
        return 0  # scattered pages are many, and NumPy takes its time to start
    while count < most:
        length = min(window, most - count)
        words = np.ndarray((length,), ">u8", rest, count * record, strides=(record,))
        wrong = words != np.arange(length, dtype=np.uint64) * PAGE_SIZE + (first + count * PAGE_SIZE)
        if wrong.any():
            return count + int(wrong.argmax())
        count += length
        window = min(4 * window, 4096)
    return count


class RamCollector:
    """Puts a stream's pages into memory staged for its blocks; pages that never come are zero."""

    def __init__(self, staged: Mapping[str, StagedMemory]) -> None:
        sizes = {name: memory.size for name, memory in staged.items()}
        self._staged = staged
        self._records = RecordReader(sizes)
        self._rows = {
            name: np.frombuffer(memory.view, np.uint8).reshape(-1, PAGE_SIZE) for name, memory in staged.items()
        }
        self._filled = {name: np.zeros(size // PAGE_SIZE, np.bool_) for name, size in sizes.items()}
        self._row = ("", 0, 0)
        """The latest pages that came one behind the other, however many at a time: block, first, end."""

    def read(self, reader: Reader) -> None:
        """Read the records of one part; raises RamError or TruncatedError."""
        for _ in self.steps(reader):
            pass

    def steps(self, reader: Reader) -> Iterator[None]:
        """Read the records of one part run by run; behind each, what was read so far needs not be read again."""
        for run in self._records.runs(reader):
            first = run.address // PAGE_SIZE
            row, self._row = self._row, ("", 0, 0)
            if isinstance(run, PageDelta):
                run.apply(self._staged[run.block].view[run.address : run.address + PAGE_SIZE])
                self._filled[run.block][first] = True
            elif isinstance(run.pages, int):
                # Memory is zero to begin with, and stays untouched unless an earlier pass has put something there.
                part = slice(first, first + run.pages)
                if self._filled[run.block][part].any():
                    self._rows[run.block][part] = 0
            elif not run.offset:
                # No QEMU that has this board sends one, and nine bytes would take a page of memory.
                got = f"a page filled with 0x{run.pages[0, 0]:02x}"
                raise RamError("the byte 0", got, field=run.block, offset=reader.offset - 1)
            else:
                part = slice(first, first + len(run.pages))
                begin = row[1] if row[::2] == (run.block, first) else first
                self._row = run.block, begin, part.stop
                if part.stop - begin >= LARGE_PAGE:
                    self._staged[run.block].use_large_pages()
                self._rows[run.block][part] = run.pages
                self._filled[run.block][part] = True
            yield
