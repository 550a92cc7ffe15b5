"""Pages that are read straight into their place: what is as expected stays there, all else is taken back."""

from __future__ import annotations

import ctypes
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from emulator.core.memory import PAGE_SIZE, StagedMemory
from emulator.migration.blocklist import PAGE_RECORD
from emulator.migration.format import Heading, Mark, put_footer
from emulator.migration.incoming import Incoming
from emulator.migration.landing import Expected, Landing
from emulator.migration.ram import LONG_ROW, RamCollector
from emulator.migration.transports import Channel
from emulator.migration.wire import Reader, Writer

FIRST = 0x10
A, B = b"a" * PAGE_SIZE, b"b" * PAGE_SIZE
PAGE_10 = bytes.fromhex("00 00 00 00 00 01 00 28") + A
PAGE_11 = bytes.fromhex("00 00 00 00 00 01 10 28") + B
PAGE_13 = bytes.fromhex("00 00 00 00 00 01 30 28") + B
ZERO_12 = bytes.fromhex("00 00 00 00 00 01 20 22   00")
EOS = bytes.fromhex("00 00 00 00 00 00 00 10")


def fill(rows: NDArray[np.uint64], data: bytes) -> int:
    """What a scatter read of a stream does in which `data` has arrived; how many bytes fitted."""
    done = 0
    for address, length in rows.tolist():
        piece = data[done : done + length]
        ctypes.memmove(address, piece, len(piece))
        done += len(piece)
    return done


@pytest.fixture
def pages() -> NDArray[np.uint8]:
    return np.zeros((4, PAGE_SIZE), np.uint8)


@pytest.fixture
def expected(pages: NDArray[np.uint8]) -> Expected:
    return Expected("ram", FIRST, 0x10028, pages)


def land(expected: Expected, begun: bytes, arrives: bytes) -> tuple[int, bytes] | None:
    return Landing().read(lambda rows: fill(rows, arrives), memoryview(begun), expected)


def test_pages_land_and_what_comes_behind_them_is_handed_out(expected: Expected, pages: NDArray[np.uint8]) -> None:
    assert land(expected, b"", PAGE_10 + PAGE_11 + EOS) == (2, EOS)
    assert pages.tobytes() == A + B + bytes(2 * PAGE_SIZE)


@pytest.mark.parametrize("begun", [1, 7, 8, 9, PAGE_RECORD - 1])
def test_a_record_goes_on_where_it_was_cut(expected: Expected, pages: NDArray[np.uint8], begun: int) -> None:
    assert land(expected, PAGE_10[:begun], PAGE_10[begun:] + PAGE_11[:100]) == (1, PAGE_11[:100])
    assert pages.tobytes() == A + bytes(3 * PAGE_SIZE)


@pytest.mark.parametrize("wrong", [ZERO_12 + PAGE_13, PAGE_13 + PAGE_11, EOS + b"\x7e", PAGE_11[::-1]])
def test_bytes_that_are_not_as_expected_are_taken_back(
    expected: Expected, pages: NDArray[np.uint8], wrong: bytes
) -> None:
    assert land(expected, b"", PAGE_10 + wrong) == (1, wrong)
    assert pages.tobytes() == A + bytes(3 * PAGE_SIZE)


def test_no_more_is_read_than_what_is_expected(expected: Expected, pages: NDArray[np.uint8]) -> None:
    records = b"".join((0x10028 + number * PAGE_SIZE).to_bytes(8, "big") + A for number in range(5))
    assert land(expected, b"", records) == (4, b"")
    assert pages.tobytes() == 4 * A


def test_the_end_of_the_stream_is_told(expected: Expected) -> None:
    assert land(expected, PAGE_10[:50], b"") is None


@pytest.mark.parametrize(
    ("data", "fits"), [(b"", True), (PAGE_10[:5], True), (PAGE_10[:-1], True), (PAGE_10, False), (PAGE_11[:7], False)]
)
def test_only_the_beginning_of_the_first_record_can_be_gone_on_with(
    expected: Expected, data: bytes, fits: bool
) -> None:
    assert expected.begins_with(memoryview(data)) is fits


# Together with the records that are read as usual


class Trickle(Channel):
    """A stream that arrives in pieces of these lengths, over and over again."""

    def __init__(self, data: bytes, lengths: list[int]) -> None:
        super().__init__("test:")
        self._data, self._lengths = data, lengths
        self._reads = 0

    def _next(self, take: Callable[[bytes], int]) -> int:
        length = self._lengths[self._reads % len(self._lengths)]
        self._reads += 1
        count = take(self._data[:length])
        self._data = self._data[count:]
        return count

    def read_into(self, view: memoryview) -> int:
        def put(piece: bytes) -> int:
            view[: len(piece)] = piece
            return len(piece)

        return self._next(put)

    def readv(self, iovec: NDArray[np.uint64]) -> int:
        return self._next(lambda piece: fill(iovec, piece))


PAGES = 4 * LONG_ROW


def record(number: int, kind: str) -> bytes:
    word = number * PAGE_SIZE | 0x20
    return (word | 2).to_bytes(9, "big")[1:] + b"\0" if kind == "zero" else (word | 8).to_bytes(8, "big") + A


@st.composite
def parts(draw: st.DrawFn) -> bytes:
    """Long rows of pages, which overlap, with zeros between them, behind one that names the block."""
    runs = draw(
        st.lists(
            st.tuples(
                st.integers(0, PAGES - 1), st.integers(1, 2 * LONG_ROW), st.sampled_from(["data"] * 3 + ["zero"])
            ),
            max_size=6,
        )
    )
    records = [bytes.fromhex("00 00 00 00 00 00 00 08   03 72 61 6d") + B]
    records += [
        record(number, kind) for first, count, kind in runs for number in range(first, min(first + count, PAGES))
    ]
    return b"".join((*records, EOS))


@settings(max_examples=60, deadline=None)
@given(
    part=parts(),
    lengths=st.lists(st.sampled_from([1, 8, 9, 4000, PAGE_RECORD, 100_000, 1 << 20]), min_size=1, max_size=5),
)
def test_memory_is_the_same_however_the_stream_arrives(part: bytes, lengths: list[int]) -> None:
    if max(lengths) < PAGE_RECORD:
        lengths = [*lengths, 100_000]
    plain, landed = (StagedMemory(PAGES * PAGE_SIZE) for _ in range(2))
    try:
        RamCollector({"ram": plain}).read(Reader(part))
        heading = Heading(Mark.PART, 1, "ram", 0, 4)
        footer = Writer()
        put_footer(footer, heading.section_id)
        received = Incoming(None, Trickle(part + bytes(footer.data), lengths), None)  # type: ignore[arg-type]
        received._read_pages(RamCollector({"ram": landed}), heading)
        assert received._inbox.offset == len(part) + len(footer.data)
        assert bytes(landed.view) == bytes(plain.view)
    finally:
        plain.close()
        landed.close()
