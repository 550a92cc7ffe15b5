"""What a stream holds of each RAM block, page by page, without a machine to load it into; both layouts.

A page is absent (never sent: zero at the receiver), zero, or data. If it was sent several times, as happens while the
guest runs, the last time counts. Eight bytes are kept for each page and sixteen for each delta; the content stays where
it is in the stream.
"""

from __future__ import annotations

import enum
from array import array
from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE
from emulator.migration import mappedram
from emulator.migration.blocklist import PAGE_RECORD, VERSION, get_block_list, get_eos
from emulator.migration.errors import RamError, UnknownSectionError, VersionError
from emulator.migration.format import Heading, Mark
from emulator.migration.mappedram import Area, get_areas
from emulator.migration.pages import runs
from emulator.migration.ram import PageDelta, PageRun, RecordReader
from emulator.migration.wire import Reader
from emulator.migration.xbzrle import decode

MAP_BYTES = 32 << 20
"""A map may take so much more than its stream: a page that was sent takes nine bytes there at least, and eight here."""

DELTA_BYTES = 17
"""What each delta takes beside the map, which may be more than its record does: the shortest has 14."""
DELTA_ROOM = 32 << 20
"""All of them may take so much more than their stream."""

IGNORE_SHARED = "x-ignore-shared"
"""The capability with which a block's address follows its size, and shared blocks send no pages."""

_ADDRESS = 8
_ABSENT, _ZERO = 0, 1
_DELTAS = -256
"""From here on down, the number of a delta."""
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
        # Where a page's bytes stand in the stream; or _ABSENT, _ZERO, or less than 0: the byte that fills it, negated,
        # or _DELTAS less the number of the latest delta.
        self._where: NDArray[np.int64] = np.zeros(size // PAGE_SIZE, np.int64)
        self._deltas = array("q")
        """For each delta what `_where` was before it, and where it stands in the stream."""

    @property
    def pages(self) -> int:
        """How many pages the block has."""
        return len(self._where)

    def put_delta(self, delta: PageDelta, length: int) -> None:
        """Note that a page was changed, in `length` bytes."""
        page = delta.address // PAGE_SIZE
        number = len(self._deltas) // 2
        self._deltas.extend((int(self._where[page]), delta.offset))
        self._where[page] = _DELTAS - number
        self.sent[Kind.DATA] += 1
        self.stream_bytes += length

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
        later: list[int] = []
        while where <= _DELTAS:
            where, offset = self._deltas[2 * (_DELTAS - where) : 2 * (_DELTAS - where) + 2]
            later.append(offset)
        page = self._whole(where)
        for offset in reversed(later):
            length = int.from_bytes(self._stream[offset - 2 : offset], "big")
            decode(page, self._stream[offset : offset + length].tobytes())
        return bytes(page)

    def _whole(self, where: int) -> bytearray:
        if where < 0:
            return bytearray((-where,)) * PAGE_SIZE
        if where in (_ABSENT, _ZERO):
            return bytearray(PAGE_SIZE)
        return bytearray(self._stream[where : where + PAGE_SIZE])

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
        self._deltas = 0
        self._scratch = bytearray(PAGE_SIZE)
        """A page to try each delta on, as what it was made for is not put together here."""

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
            block, length = self.blocks[run.block], reader.offset - before
            if isinstance(run, PageDelta):
                self._check_delta(run)
                block.put_delta(run, length)
            else:
                block.put(run, length)
            before = reader.offset

    def _check_delta(self, delta: PageDelta) -> None:
        """Raise RamError for one that fits no page, or that is one too many."""
        delta.apply(self._scratch)
        self._deltas += 1
        room = (DELTA_ROOM + len(self._data)) // DELTA_BYTES
        if self._deltas > room:
            raise RamError(f"at most {room} deltas", "more", field=delta.block, offset=delta.offset)

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
