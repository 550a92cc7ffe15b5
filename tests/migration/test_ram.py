"""RAM as page records: bytes typed from the layout, runs of pages, and records that lie."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest

from emulator.core.memory import PAGE_SIZE, RamBlock, StagedMemory
from emulator.migration.blocklist import (
    BLOCK_LIMIT,
    get_block_list,
    get_eos,
    in_sending_order,
    put_block_list,
    put_eos,
    same_blocks,
)
from emulator.migration.errors import RamError, StreamError, TruncatedError
from emulator.migration.ram import CHUNK_PAGES, RamCollector, RecordReader, write_pages
from emulator.migration.wire import Reader, Writer

Wire = Callable[[str], bytes]

PAGES = 8
A, B = b"a" * PAGE_SIZE, b"b" * PAGE_SIZE
ZERO = bytes(PAGE_SIZE)

EOS = bytes.fromhex("0000000000000010")

LIST = """
00 00 00 00 00 00 a0 04   | ten pages in all, flag 04
03                        | length of the name
72 61 6d                  | ram
00 00 00 00 00 00 80 00   | eight pages
03                        | length of the name
72 6f 6d                  | rom
00 00 00 00 00 00 20 00   | two pages
"""

NAMED_PAGE = "00 00 00 00 00 00 10 08   03 72 61 6d"  # page 1 of ram; 4096 bytes follow
NEXT_PAGE = "00 00 00 00 00 00 20 28"  # page 2 of the same block
NAMED_ZERO = "00 00 00 00 00 00 30 02   03 72 61 6d   00"  # page 3 of ram, the byte that fills it
NEXT_ZERO = "00 00 00 00 00 00 40 22   00"


@pytest.fixture
def blocks() -> Iterator[list[RamBlock]]:
    blocks = [RamBlock("rom", 2 * PAGE_SIZE), RamBlock("ram", PAGES * PAGE_SIZE)]
    yield blocks
    for block in blocks:
        block.close()


@pytest.fixture
def staged() -> Iterator[dict[str, StagedMemory]]:
    staged = {"ram": StagedMemory(PAGES * PAGE_SIZE), "rom": StagedMemory(2 * PAGE_SIZE)}
    yield staged
    for memory in staged.values():
        memory.close()


def pages_of(memory: StagedMemory | RamBlock) -> list[bytes]:
    return [bytes(memory.view[begin : begin + PAGE_SIZE]) for begin in range(0, memory.size, PAGE_SIZE)]


def collect(staged: dict[str, StagedMemory], *parts: bytes) -> list[bytes]:
    """The pages of `ram` after these parts, each of which must end with its mark."""
    collector = RamCollector(staged)
    for part in parts:
        reader = Reader(part)
        collector.read(reader)
        assert reader.remaining == 0
    return pages_of(staged["ram"])


def refusal(data: bytes, staged: dict[str, StagedMemory]) -> StreamError:
    with pytest.raises(StreamError) as caught:
        RamCollector(staged).read(Reader(data))
    assert str(caught.value).isprintable()
    assert caught.value.offset is not None
    return caught.value


# The list of blocks


def test_the_largest_block_is_listed_first(wire: Wire, blocks: list[RamBlock]) -> None:
    writer = Writer()
    put_block_list(writer, in_sending_order(blocks))
    assert writer.data == wire(LIST)
    sizes = get_block_list(Reader(writer.data))
    assert sizes == {"ram": 8 * PAGE_SIZE, "rom": 2 * PAGE_SIZE}
    same_blocks(sizes, blocks, offset=0)


def test_a_cut_list_is_refused(wire: Wire) -> None:
    data = wire(LIST)
    for length in range(len(data)):
        with pytest.raises(TruncatedError):
            get_block_list(Reader(data[:length]))


@pytest.mark.parametrize(
    ("position", "data", "message"),
    [
        (7, b"\x08", "at byte 0x0: expected the list of RAM blocks, got flags 0x8"),
        (6, b"\x70", "ram at byte 0x8: expected whole pages, at most 0x7000 bytes, got 0x8000"),
        (12, bytes(8), "ram at byte 0x8: expected whole pages, at most 0xa000 bytes, got 0x0"),
        (19, b"\x01", "ram at byte 0x8: expected whole pages, at most 0xa000 bytes, got 0x8001"),
        (12, b"\xff" * 8, "ram at byte 0x8: expected whole pages, at most 0xa000 bytes, got 0xffffffffffffffff"),
        (21, b"ram", "at byte 0x14: expected at most 256 blocks, each once, got ram as well"),
        (0, b"\x80", "at byte 0x20: expected "),
    ],
)
def test_a_list_that_lies_is_refused(wire: Wire, position: int, data: bytes, message: str) -> None:
    whole = wire(LIST)
    with pytest.raises(StreamError) as caught:
        get_block_list(Reader(whole[:position] + data + whole[position + len(data) :]))
    assert message in str(caught.value)


def test_a_list_of_too_many_blocks_is_refused() -> None:
    count = BLOCK_LIMIT + 1
    entries = b"".join(b"\x04%04d" % number + PAGE_SIZE.to_bytes(8, "big") for number in range(count))
    with pytest.raises(RamError, match="at most 256 blocks"):
        get_block_list(Reader((count * PAGE_SIZE | 4).to_bytes(8, "big") + entries))


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"ram": 0x8000, "rom": 0x2000, "/rom@etc": 0x1000}, "expected one of rom, ram, got a block /rom@etc"),
        ({"ram": 0x8000}, "expected block rom, got a list without it"),
        ({"ram": 0x9000, "rom": 0x2000}, "ram at byte 0x0: expected 0x8000 bytes, as here, got 0x9000"),
    ],
)
def test_other_blocks_than_the_machines_are_refused(
    blocks: list[RamBlock], sizes: dict[str, int], message: str
) -> None:
    with pytest.raises(RamError) as caught:
        same_blocks(sizes, blocks, offset=0)
    assert message in str(caught.value)


def test_another_size_of_ram_says_which_option_to_look_at() -> None:
    block = RamBlock("riscv_virt_board.ram", PAGE_SIZE)
    with pytest.raises(RamError, match=r"as here \(is -m the same as where this comes from, 16M\?\), got 0x1000000"):
        same_blocks({"riscv_virt_board.ram": 16 << 20}, [block], offset=0)
    block.close()


def test_a_part_without_records_is_an_end_mark() -> None:
    writer = Writer()
    put_eos(writer)
    assert writer.data == EOS
    get_eos(Reader(EOS))
    with pytest.raises(RamError, match="the end of this part of RAM, got a record 0x1010"):
        get_eos(Reader(bytes.fromhex("0000000000001010")))


# Records, written


def written(block: RamBlock) -> bytes:
    data = bytearray()
    write_pages(block, data.extend)
    return bytes(data)


def test_pages_are_written_in_runs_of_data_and_of_zeros(blocks: list[RamBlock]) -> None:
    block = blocks[1]
    block.view[PAGE_SIZE : 3 * PAGE_SIZE] = A + B
    assert written(block) == b"".join(
        (
            bytes.fromhex("00 00 00 00 00 00 00 02   03 72 61 6d   00"),  # page 0 of ram: zeros
            bytes.fromhex("00 00 00 00 00 00 10 28"),  # page 1 of the same block: data
            A,
            bytes.fromhex("00 00 00 00 00 00 20 28"),
            B,
            *(bytes.fromhex(f"00 00 00 00 00 00 {page:x}0 22   00") for page in range(3, PAGES)),
        )
    )


def test_the_first_record_names_the_block_if_it_is_data(blocks: list[RamBlock]) -> None:
    block = blocks[0]
    block.view[:] = A + A
    assert written(block) == b"".join(
        (bytes.fromhex("0000000000000008 03 726f6d"), A, bytes.fromhex("0000000000001028"), A)
    )


@pytest.mark.parametrize("pattern", ["data", "zeros", "both", "all data"])
def test_what_is_written_is_what_is_read(pattern: str) -> None:
    count = 2 * CHUNK_PAGES + 3
    block, staged = RamBlock("ram", count * PAGE_SIZE), StagedMemory(count * PAGE_SIZE)
    rows = np.frombuffer(block.view, np.uint8).reshape(count, PAGE_SIZE)
    generator = np.random.default_rng(1)
    chosen = {
        "data": np.arange(count) == 5,
        "zeros": np.zeros(count, bool),
        "both": generator.random(count) < 0.5,
        "all data": np.ones(count, bool),
    }[pattern]
    rows[chosen, 17] = 1 + generator.integers(0, 255, chosen.sum())
    reader = Reader(written(block) + EOS)
    RamCollector({"ram": staged}).read(reader)
    assert reader.remaining == 0
    assert bytes(staged.view) == bytes(block.view)
    staged.close()
    del rows
    block.close()


# Records, read


def test_records_are_read_page_by_page_or_in_runs(wire: Wire, staged: dict[str, StagedMemory]) -> None:
    data = wire(NAMED_PAGE) + A + wire(NEXT_PAGE) + B + wire(NAMED_ZERO) + wire(NEXT_ZERO) + EOS
    assert collect(staged, data) == [ZERO, A, B, *[ZERO] * 5]
    assert pages_of(staged["rom"]) == [ZERO] * 2


def test_runs_are_found_whole(wire: Wire) -> None:
    data = wire(NAMED_PAGE) + A + wire(NEXT_PAGE) + B + wire(NAMED_ZERO) + wire(NEXT_ZERO) + EOS
    runs = list(RecordReader({"ram": PAGES * PAGE_SIZE}).runs(Reader(data)))
    assert [(run.address, len(run.pages) if isinstance(run.pages, np.ndarray) else run.pages) for run in runs] == [
        (0x1000, 2),
        (0x3000, 2),
    ]


def test_a_page_sent_again_counts(wire: Wire, staged: dict[str, StagedMemory]) -> None:
    first = wire(NAMED_PAGE) + A + wire(NEXT_PAGE) + B + EOS
    again = wire(NAMED_PAGE) + B + bytes.fromhex("0000000000002022 00") + EOS  # page 2 has become zero
    assert collect(staged, first, again) == [ZERO, B, *[ZERO] * 6]


def test_the_block_is_remembered_from_one_part_to_the_next(wire: Wire, staged: dict[str, StagedMemory]) -> None:
    assert collect(staged, wire(NAMED_PAGE) + A + EOS, wire(NEXT_PAGE) + B + EOS)[1:3] == [A, B]


def test_the_last_page_ends_a_run(staged: dict[str, StagedMemory]) -> None:
    # page 7, the last, and behind it page 8, as if the run went on
    data = bytes.fromhex("0000000000007008 03 72616d") + A + bytes.fromhex("0000000000008028") + B + EOS
    assert "ram at byte 0x100c: expected an address below 0x8000, got 0x8000" in str(refusal(data, staged))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("0000000000000008 03 666f6f", "at byte 0x0: expected one of ram, rom, got a block foo"),
        ("0000000000000028", "at byte 0x0: expected one of ram, rom, got a block"),
        ("0000000000008002 03 72616d 00", "ram at byte 0x0: expected an address below 0x8000, got 0x8000"),
        ("fffffffffffff008 03 72616d", "expected an address below 0x8000, got 0xfffffffffffff000"),
        ("0000000000000100 03 72616d", "got flags 0x100 (COMPRESSED)"),
        ("0000000000000200", "got flags 0x200 (MULTIFD_FLUSH)"),
        ("000000000000000a 03 72616d", "got flags 0xa ("),
        ("0000000000000001", "got flags 0x1 (unknown)"),
        ("0000000000001010", "at byte 0x0: expected a page, "),
        ("0000000000000000", "got flags 0x0"),
        ("0000000000000002 03 72616d ff", "ram at byte 0xc: expected the byte 0, got a page filled with 0xff"),
        ("0000000000000008 ff 72616d", "expected 255 bytes, got only 3"),
        ("0000000000000008 03 72616d 00", "expected 4096 bytes, got only 1"),
        ("", "at byte 0x0: expected 8 bytes, got only 0"),
    ],
)
def test_a_record_that_lies_is_refused(staged: dict[str, StagedMemory], data: str, message: str) -> None:
    assert message in str(refusal(bytes.fromhex(data), staged))


def test_records_cut_anywhere_are_refused(wire: Wire, staged: dict[str, StagedMemory]) -> None:
    data = wire(NAMED_ZERO) + wire(NEXT_ZERO) + wire(NAMED_PAGE) + A + wire(NEXT_PAGE) + B + EOS
    for length in [*range(60), *range(60, len(data), 97), *range(len(data) - 20, len(data))]:
        assert isinstance(refusal(data[:length], staged), TruncatedError)
