"""The byte level: exact numbers, and never a step past the end."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest

from emulator.migration.errors import StreamError, TruncatedError, quote
from emulator.migration.wire import Reader, Writer


def test_numbers_are_big_endian_both_ways() -> None:
    writer = Writer()
    writer.u8(0x01)
    writer.u16(0x0203)
    writer.u32(0x04050607)
    writer.u64(0x08090A0B0C0D0E0F)
    writer.write(b"\x10")
    assert writer.data == bytes(range(1, 17))
    assert writer.position == 16
    reader = Reader(writer.data)
    assert (reader.u8(), reader.u16(), reader.u32(), reader.u64()) == (0x01, 0x0203, 0x04050607, 0x08090A0B0C0D0E0F)
    assert reader.remaining == 1
    assert reader.read(1) == b"\x10"


@pytest.mark.parametrize(
    ("read", "needed"),
    [
        (Reader.u16, 2),
        (Reader.u32, 4),
        (Reader.u64, 8),
        (lambda reader: reader.read(2), 2),
        (lambda reader: reader.view(1 << 62), 1 << 62),
        (lambda reader: reader.skip(3), 3),
        (lambda reader: reader.unpack(struct.Struct(">HH")), 4),
    ],
)
def test_a_short_read_says_where_and_consumes_nothing(read: Callable[[Reader], object], needed: int) -> None:
    reader = Reader(b"abc", base=0x1000)
    reader.skip(2)
    with pytest.raises(TruncatedError) as caught:
        read(reader)
    assert (caught.value.offset, caught.value.needed, caught.value.available) == (0x1002, needed, 1)
    assert str(caught.value) == f"stream at byte 0x1002: expected {needed} bytes, got only 1"
    assert reader.read(1) == b"c"


def test_peeking_consumes_nothing_and_knows_the_end() -> None:
    reader = Reader(b"abc")
    reader.skip(1)
    assert (reader.peek(), reader.peek(1), reader.peek(2)) == (ord("b"), ord("c"), None)
    assert (reader.peek_bytes(0, 2), reader.peek_bytes(1, 9), reader.peek_bytes(5, 1)) == (b"bc", b"c", b"")
    assert reader.offset == 1


def test_an_error_is_one_line_whatever_came() -> None:
    error = StreamError("a name", "two\nlines" * 1000, offset=0)
    assert "\n" not in str(error)
    assert len(str(error)) < 120
    assert quote("pci") == "pci"
    assert quote(b"\n") == "b'\\n'"


def test_a_reader_tells_that_it_was_looked_past_the_end() -> None:
    reader = Reader(b"ab")
    assert (reader.peek(1), reader.peek_bytes(0, 2), reader.ran_dry) == (0x62, b"ab", False)
    assert reader.peek(2) is None
    assert reader.ran_dry
    reader = Reader(b"ab")
    assert reader.peek_bytes(1, 2) == b"b"
    assert reader.ran_dry
