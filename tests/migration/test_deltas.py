"""Passes with XBZRLE from a sender's memory into a receiver's, and into the page map of `inspect`."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE, RamBlock, StagedMemory
from emulator.migration import pagemap
from emulator.migration.blocklist import RamFlag, put_block_list, put_eos
from emulator.migration.errors import RamError, StreamError, TruncatedError
from emulator.migration.examine import Contents, examine
from emulator.migration.format import Configuration, Heading, Mark, put_end, put_footer, put_header, put_heading
from emulator.migration.pagemap import Kind
from emulator.migration.pages import rows_of
from emulator.migration.ram import RamCollector
from emulator.migration.ramsend import DELTA_PAGES, RamSender
from emulator.migration.status import Figures
from emulator.migration.wire import Reader, Writer

PAGES = DELTA_PAGES + 100


class Wire:
    """Keeps what is sent."""

    def __init__(self) -> None:
        self.data = bytearray()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.data += data

    def writev(self, iovec: NDArray[np.uint64]) -> None:
        for address, length in iovec.tolist():
            self.data += ctypes.string_at(address, length)


class Source:
    """Two blocks that are sent in passes; each pass ends up in `parts`."""

    def __init__(self) -> None:
        self.blocks = [RamBlock("a", PAGES * PAGE_SIZE), RamBlock("b", 8 * PAGE_SIZE)]
        self.figures = Figures()
        self.wire = Wire()
        self.sender = RamSender(self.wire, self.figures, limit=lambda: 0, rest=lambda _seconds: None)
        self.parts: list[bytes] = []

    def send(self, pages: dict[str, NDArray[np.bool_]] | None = None, *, cache: int | None = None) -> bytes:
        """One pass, of all pages or of these; with a cache of so many pages."""
        if cache is not None:
            self.sender.use_deltas(cache * PAGE_SIZE)
        for block in self.blocks:
            count = block.size // PAGE_SIZE
            self.sender.send(block, rows_of(block), np.ones(count, np.bool_) if pages is None else pages[block.name])
        writer = Writer()
        put_eos(writer)
        self.wire.write(writer.data)
        self.parts.append(bytes(self.wire.data))
        self.wire.data.clear()
        self.figures.dirty_sync_count += 1
        return self.parts[-1]

    def scribble(self, dice: np.random.Generator) -> dict[str, NDArray[np.bool_]]:
        """Write to some pages, to little of each or all of it, with zeros or not; which ones."""
        dirty = {}
        for block in self.blocks:
            rows = rows_of(block)
            dirty[block.name] = dice.random(len(rows)) < 0.5
            for page in np.flatnonzero(dirty[block.name]).tolist():
                how = dice.random()
                if how < 0.2:
                    rows[page] = 0
                elif how < 0.4:
                    rows[page] = dice.integers(0, 1 << 63, 512, np.uint64)
                elif how < 0.9:
                    rows[page, dice.integers(0, 512, 5)] ^= np.uint64(0xFF00)
        return dirty


class Destination:
    """Memory that passes are put into."""

    def __init__(self, source: Source) -> None:
        self.staged = {block.name: StagedMemory(block.size) for block in source.blocks}
        self.collector = RamCollector(self.staged)

    def read(self, part: bytes) -> None:
        reader = Reader(part)
        self.collector.read(reader)
        assert not reader.remaining

    def content(self, name: str) -> bytes:
        return bytes(self.staged[name].view)


@pytest.fixture
def source() -> Iterator[Source]:
    source = Source()
    yield source
    for block in source.blocks:
        block.close()


@pytest.fixture
def destination(source: Source) -> Iterator[Destination]:
    destination = Destination(source)
    yield destination
    for memory in destination.staged.values():
        memory.close()


@pytest.mark.parametrize("cache", [1, 64, 2048])
def test_the_destination_has_what_the_source_has_after_every_pass(
    source: Source, destination: Destination, cache: int
) -> None:
    dice = np.random.default_rng(cache)
    source.scribble(dice)
    destination.read(source.send())
    for number in range(12):
        dirty = source.scribble(dice)
        source.sender.unlimited = number == 11
        destination.read(source.send(dirty, cache=cache if number < 8 else 2 * cache))
        for block in source.blocks:
            assert destination.content(block.name) == bytes(block.view)
    figures = source.figures.xbzrle
    assert figures is not None
    assert figures.cache_miss
    assert figures.pages
    assert figures.cache_size == 2 * cache * PAGE_SIZE
    names = 2 * 2 * len(source.parts)
    assert 0 <= sum(map(len, source.parts)) - 8 * len(source.parts) - source.figures.transferred <= names


def test_without_the_capability_no_delta_is_sent(source: Source) -> None:
    rows_of(source.blocks[0])[:] = 1
    first = source.send()
    assert source.send() == first
    assert source.figures.xbzrle is None


def test_the_first_pass_with_a_cache_sends_whole_pages_and_the_next_what_changed(source: Source) -> None:
    rows = rows_of(source.blocks[0])
    rows[:] = 1
    whole = len(source.send())
    assert len(source.send(cache=1024)) > PAGES * PAGE_SIZE
    rows[:, 7] = 2
    assert len(source.send(cache=1024)) < whole // 100
    rows[5, 9] = 3
    sent = source.send(cache=1024)
    zeros = 2 + 8 * 9 + 8  # block b, which is not compared, and the end mark
    assert sent[:-zeros].hex(" ") == "00 00 00 00 00 00 50 40 01 61 01 00 03 48 01 03"


def test_what_the_guest_writes_while_a_page_is_compared_comes_with_the_next_pass(
    source: Source, destination: Destination
) -> None:
    """The page changes between its copy being taken and being sent: nothing may be sent against what was not."""
    rows = rows_of(source.blocks[0])
    rows[:8] = 1
    some = {"a": np.arange(PAGES) < 8, "b": np.zeros(8, np.bool_)}
    destination.read(source.send())
    write, writev = source.wire.write, source.wire.writev

    def changing_write(data: bytes | bytearray | memoryview) -> None:
        rows[:8] += np.uint64(1)
        write(data)

    def changing_writev(iovec: NDArray[np.uint64]) -> None:
        rows[:8] += np.uint64(1)
        writev(iovec)

    source.wire.write, source.wire.writev = changing_write, changing_writev  # type: ignore[method-assign]
    for _ in range(6):
        rows[:8, ::2] ^= np.uint64(0x100)
        destination.read(source.send(some, cache=64))
    source.wire.write, source.wire.writev = write, writev  # type: ignore[method-assign]
    destination.read(source.send(some, cache=64))
    assert destination.content("a") == bytes(source.blocks[0].view)


def test_a_part_that_arrives_in_pieces_is_put_together(source: Source, destination: Destination) -> None:
    rows = rows_of(source.blocks[0])
    rows[:] = 1
    destination.read(source.send())
    destination.read(source.send(cache=1024))
    rows[:40, 100] = 2
    part = source.send(cache=1024)
    done, ended = 0, False
    for end in range(len(part) + 1):
        reader = Reader(part[done:end], base=done)
        try:
            for _ in destination.collector.steps(reader):
                done = reader.offset
            ended = True
        except TruncatedError:
            pass
    assert ended
    assert destination.content("a") == bytes(source.blocks[0].view)


def delta_record(address: int, delta: str, *, name: str = "a") -> bytes:
    writer = Writer()
    writer.u64(address | RamFlag.XBZRLE | (0 if name else RamFlag.CONTINUE))
    if name:
        writer.u8(len(name))
        writer.write(name.encode())
    data = bytes.fromhex(delta)
    writer.u8(1)
    writer.u16(len(data))
    writer.write(data)
    return bytes(writer.data)


@pytest.mark.parametrize(
    ("record", "message"),
    [
        (delta_record(0, "0000"), "a at byte 0xd: expected changed bytes up to byte 0x1000, got 0 after 0 that stay"),
        (delta_record(0, ""), "a at byte 0xb: expected a delta of 1 to 4096 bytes, got 0"),
        (delta_record(PAGES * PAGE_SIZE, "0001ff"), f"a at byte 0x0: expected an address below 0x{PAGES:x}000"),
        (delta_record(0, "0001ff", name="c"), "stream at byte 0x0: expected one of a, b, got a block c"),
    ],
)
def test_a_hostile_record_is_refused(destination: Destination, record: bytes, message: str) -> None:
    with pytest.raises(RamError) as caught:
        destination.read(record)
    assert str(caught.value).startswith(message)


# inspect


def whole_stream(source: Source, parts: list[bytes]) -> bytes:
    writer = Writer()
    put_header(writer, Configuration.of("virt"))
    put_heading(writer, Heading(Mark.START, 2, "ram", 0, 4))
    put_block_list(writer, source.blocks)
    put_eos(writer)
    put_footer(writer, 2)
    for part in parts:
        put_heading(writer, Heading(Mark.PART, 2, "ram", 0, 4))
        writer.write(part)
        put_footer(writer, 2)
    put_end(writer, b'{"devices": []}')
    return bytes(writer.data)


def look(source: Source, parts: list[bytes]) -> Contents:
    return examine(memoryview(whole_stream(source, parts)))


def test_inspect_puts_pages_together(source: Source) -> None:
    dice = np.random.default_rng(5)
    source.scribble(dice)
    source.send()
    for _ in range(5):
        source.send(source.scribble(dice), cache=1024)
    contents = look(source, source.parts)
    assert contents.error is None
    for block in source.blocks:
        found = contents.blocks[block.name]
        content = b"".join(found.page(number) for number in range(found.pages))
        assert content == bytes(block.view)
        whole = int(np.count_nonzero(rows_of(block).any(axis=1)))
        assert found.count(Kind.DATA) >= whole
        assert found.count(Kind.ABSENT) == 0
    sent = sum(block.stream_bytes for block in contents.blocks.values())
    assert sent == sum(map(len, source.parts)) - 8 * len(source.parts)


def test_inspect_refuses_a_delta_that_fits_no_page(source: Source) -> None:
    error = look(source, [delta_record(0, "0000")]).error
    assert isinstance(error, StreamError)
    assert "expected changed bytes up to byte 0x1000, got 0 after 0 that stay" in str(error)


def test_inspect_bounds_what_deltas_take(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pagemap, "DELTA_ROOM", 0)
    record = delta_record(0, "0001ff") + delta_record(0, "0001ff", name="") * 1000
    error = look(source, [record]).error
    assert isinstance(error, RamError)
    assert "deltas, got more" in str(error)
