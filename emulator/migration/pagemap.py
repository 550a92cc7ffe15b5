"""What a stream holds of each RAM block, page by page, without a machine to load it into; both layouts.

A page is absent (never sent: zero at the receiver), zero, or data. If it was sent several times, as happens while the
guest runs, the last time counts. Eight bytes are kept for each page, and the content stays where it is in the stream.
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE
from emulator.migration import mappedram
from emulator.migration.blocklist import VERSION, get_block_list, get_eos
from emulator.migration.errors import RamError, UnknownSectionError, VersionError
from emulator.migration.format import Heading, Mark
from emulator.migration.mappedram import Area, get_areas
from emulator.migration.pages import runs
from emulator.migration.ram import PAGE_RECORD, PageRun, RecordReader
from emulator.migration.wire import Reader

MAP_BYTES = 32 << 20
"""A map may take so much more than its stream: a page that was sent takes nine bytes there at least, and eight here."""

IGNORE_SHARED = "x-ignore-shared"
"""The capability with which a block's address follows its size, and shared blocks send no pages."""

_ADDRESS = 8
_ABSENT, _ZERO = 0, 1
_WINDOW = 1 << 16
"""Pages that are looked at in one expression: it bounds what that needs beside the map."""


class Kind(enum.Enum):
    """What a stream holds of a page."""

    DATA = "data"
    ZERO = "zero"
    ABSENT = "absent"


class BlockMap:
    """The pages of one block."""

    def __init__(self, name: str, size: int, stream: memoryview) -> None:
        self.name = name
        self.size = size
        self.sent = dict.fromkeys((Kind.DATA, Kind.ZERO), 0)
        """Pages in the stream, those that were sent again included."""
        self.stream_bytes = 0
        """What all of them take in the stream."""
        self._stream = stream
        # Where a page's bytes stand in the stream; or _ABSENT, _ZERO, or less than 0: the byte that fills it, negated.
        self._where: NDArray[np.int64] = np.zeros(size // PAGE_SIZE, np.int64)

    @property
    def pages(self) -> int:
        """How many pages the block has."""
        return len(self._where)

    def put(self, run: PageRun, length: int) -> None:
        """Note pages that were sent, in `length` bytes."""
        first = run.address // PAGE_SIZE
        kind, count = (Kind.ZERO, run.pages) if isinstance(run.pages, int) else (Kind.DATA, len(run.pages))
        if isinstance(run.pages, int):
            self._where[first : first + count] = _ZERO
        elif run.offset:
            self._where[first : first + count] = np.arange(count) * PAGE_RECORD + run.offset
        else:
            self._where[first : first + count] = -run.pages[:, 0].astype(np.int64)
        self.sent[kind] += count
        self.stream_bytes += length

    def put_area(self, area: Area) -> None:
        """Note the pages that are present in a block's place in the mapped layout."""
        bits = np.unpackbits(np.frombuffer(area.bitmap, np.uint8), count=self.pages, bitorder="little")
        present = np.flatnonzero(bits)
        self._where[present] = present * PAGE_SIZE + area.pages_offset
        self.sent[Kind.DATA] = len(present)
        self.stream_bytes = len(present) * PAGE_SIZE

    def page(self, number: int) -> bytes:
        """The content of a page."""
        where = int(self._where[number])
        if where < 0:
            return bytes((-where,)) * PAGE_SIZE
        if where in (_ABSENT, _ZERO):
            return bytes(PAGE_SIZE)
        return self._stream[where : where + PAGE_SIZE].tobytes()

    def count(self, kind: Kind, first: int = 0, end: int | None = None) -> int:
        """How many pages from `first` up to `end` are of that kind."""
        return sum(
            int(self._are(kind, part).sum()) for part in self._windows(first, self.pages if end is None else end)
        )

    def ranges(self, kind: Kind) -> Iterator[tuple[int, int]]:
        """The first page of each row of that kind, and the one behind it."""
        return merged(
            (part.start + first, part.start + end)
            for part in self._windows(0, self.pages)
            for first, end in runs(self._are(kind, part))
        )

    def differing(self, other: BlockMap) -> Iterator[tuple[int, int]]:
        """The first page of each row whose content is not the same in a block of the same size, and the one behind."""
        return merged((number, number + 1) for number in self._differing(other))

    def _differing(self, other: BlockMap) -> Iterator[int]:
        for part in self._windows(0, self.pages):
            candidates = self._are(Kind.DATA, part) | other._are(Kind.DATA, part)
            for number in np.flatnonzero(candidates).tolist():
                if self.page(part.start + number) != other.page(part.start + number):
                    yield part.start + number

    def _are(self, kind: Kind, part: slice) -> NDArray[np.bool_]:
        where = self._where[part]
        if kind is Kind.DATA:
            return np.asarray((where != _ZERO) & (where != _ABSENT))
        return np.asarray(where == (_ZERO if kind is Kind.ZERO else _ABSENT))

    @staticmethod
    def _windows(first: int, end: int) -> Iterator[slice]:
        return (slice(begin, min(begin + _WINDOW, end)) for begin in range(first, end, _WINDOW))


def merged(ranges: Iterator[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """Ranges in their order, those that touch made one."""
    begin = end = -1
    for first, behind in ranges:
        if first != end and end >= 0:
            yield begin, end
        if first != end:
            begin = first
        end = behind
    if end >= 0:
        yield begin, end


class RamReader:
    """Reads section `ram` of a whole stream, `data`, part by part; `capabilities` are those in its configuration."""

    def __init__(self, data: memoryview, capabilities: Collection[str] = ()) -> None:
        self.blocks: dict[str, BlockMap] = {}
        self._data = data
        self._mapped = mappedram.CAPABILITY in capabilities
        self._ignore_shared = IGNORE_SHARED in capabilities
        self._records = RecordReader({})

    def read(self, reader: Reader, heading: Heading) -> None:
        """Read one payload; raises a StreamError."""
        if heading.version_id != VERSION or heading.mark == Mark.FULL:
            raise VersionError(f"version {VERSION}, in parts", heading.version_id, offset=reader.offset)
        if (heading.mark == Mark.START) == bool(self.blocks):
            raise UnknownSectionError("RAM started once, then continued", heading.mark.name, offset=reader.offset)
        if heading.mark == Mark.START:
            self._start(reader)
        if heading.mark == Mark.START or self._mapped:
            get_eos(reader)
            return
        before = reader.offset
        for run in self._records.runs(reader):
            self.blocks[run.block].put(run, reader.offset - before)
            before = reader.offset

    def _start(self, reader: Reader) -> None:
        begin = reader.offset
        areas: list[Area] = []
        if self._mapped:
            areas = get_areas(reader)
            sizes = {area.name: area.size for area in areas}
        elif self._ignore_shared:
            sizes = get_block_list(reader, lambda _name, _size: reader.skip(_ADDRESS))
        else:
            sizes = get_block_list(reader)
        room = MAP_BYTES + len(self._data)
        if sum(sizes.values()) // PAGE_SIZE * 8 > room:
            raise RamError(f"RAM of at most {room // 8 * PAGE_SIZE} bytes", sum(sizes.values()), offset=begin)
        self.blocks = {name: BlockMap(name, size, self._data) for name, size in sizes.items()}
        for area in areas:
            self.blocks[area.name].put_area(area)
        self._records = RecordReader(sizes)
