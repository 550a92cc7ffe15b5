"""A stream's frame, byte by byte, and everything that can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from emulator.migration.errors import CountError, FieldRangeError, FramingError, StreamError, TruncatedError
from emulator.migration.format import (
    DESCRIPTION_LIMIT,
    Configuration,
    Heading,
    Mark,
    SectionReader,
    find_description,
    get_description,
    get_footer,
    get_header,
    put_end,
    put_footer,
    put_header,
    put_heading,
)
from emulator.migration.wire import Reader, Writer

HEADER = """
51 45 56 4d   | magic, QEVM
00 00 00 03   | version 3
07            | configuration
00 00 00 04   | length of the name
76 69 72 74   | virt
"""

CAPABILITIES = """
05            | subsection
1a            | length of its name
63 6f 6e 66 69 67 75 72 61 74 69 6f 6e 2f 63 61 70 61 62 69 6c 69 74 69 65 73 | configuration/capabilities
00 00 00 01   | version
00 00 00 01   | one capability
0a            | length of its name
6d 61 70 70 65 64 2d 72 61 6d | mapped-ram
"""

PAGE_BITS = """
05            | subsection
1e            | length of its name
63 6f 6e 66 69 67 75 72 61 74 69 6f 6e 2f | configuration/
74 61 72 67 65 74 2d 70 61 67 65 2d 62 69 74 73 | target-page-bits
00 00 00 01   | version
00 00 00 0c   | 12
"""

UART = """
04            | a full section
00 00 00 07   | its id
06            | length of its name
73 65 72 69 61 6c | serial
00 00 00 01   | instance
00 00 00 03   | version
"""

FOOTER = """
7e            | footer
00 00 00 07   | id of the section
"""

UART_HEADING = Heading(Mark.FULL, 7, "serial", 1, 3)

Wire = Callable[[str], bytes]


def refused(data: bytes, read: Callable[[Reader], object]) -> StreamError:
    with pytest.raises(StreamError) as caught:
        read(Reader(data))
    assert str(caught.value).isprintable()
    assert caught.value.offset is not None
    return caught.value


@pytest.mark.parametrize(
    ("table", "configuration"),
    [(HEADER, Configuration.of("virt")), (HEADER + CAPABILITIES, Configuration.of("virt", "mapped-ram"))],
)
def test_a_header_is_written_and_read(wire: Wire, table: str, configuration: Configuration) -> None:
    data, writer = wire(table), Writer()
    put_header(writer, configuration)
    assert writer.data == data
    found = get_header(Reader(data))
    assert (found.machine, found.capabilities) == (configuration.machine, configuration.capabilities)
    for length in range(len(data)):
        if length != len(wire(HEADER)):
            refused(data[:length], get_header)


def test_the_target_page_bits_are_read(wire: Wire) -> None:
    assert get_header(Reader(wire(HEADER + PAGE_BITS))).target_page_bits == 12


@pytest.mark.parametrize(
    ("position", "data", "error", "message"),
    [
        (0, b"QEVN", FramingError, "stream at byte 0x0: expected a migration stream, which begins with QEVM"),
        (4, b"\0\0\0\4", FramingError, "stream at byte 0x4: expected stream version 3, got 4"),
        (8, b"\4", FramingError, "stream at byte 0x8: expected the machine's configuration, got byte 0x04"),
        (9, b"\0\0\0\5", TruncatedError, "configuration name at byte 0xd: expected 5 bytes, got only 4"),
        (9, b"\xff\xff\xff\xff", CountError, "expected a count of 0 to 255 bytes, got 4294967295"),
    ],
)
def test_a_wrong_header_is_refused(
    wire: Wire, position: int, data: bytes, error: type[StreamError], message: str
) -> None:
    header = wire(HEADER)
    found = refused(header[:position] + data + header[position + len(data) :], get_header)
    assert isinstance(found, error)
    assert message in str(found)


def test_a_number_of_capabilities_that_no_qemu_has_is_refused(wire: Wire) -> None:
    data = wire(HEADER + CAPABILITIES).replace(b"\0\0\0\1\x0a", b"\xff\xff\xff\xff\x0a")
    assert isinstance(refused(data, get_header), FieldRangeError)


def test_a_section_is_framed(wire: Wire) -> None:
    writer = Writer()
    put_heading(writer, UART_HEADING)
    assert writer.data == wire(UART)
    put_footer(writer, 7)
    assert writer.data == wire(UART + FOOTER)
    reader = Reader(writer.data)
    heading = SectionReader().next(reader)
    assert heading == UART_HEADING
    assert str(heading) == "serial[1]"
    get_footer(reader, heading)
    assert reader.remaining == 0


def test_parts_have_the_name_of_their_start() -> None:
    writer = Writer()
    for mark in (Mark.START, Mark.PART, Mark.END):
        put_heading(writer, Heading(mark, 2, "ram", 0, 4))
    writer.u8(Mark.EOF)
    # 01, id 2, 03 ram, instance 0, version 4; 02, id 2; 03, id 2; 00
    assert writer.data.hex() == "01000000020372616d0000000000000004" + "0200000002" + "0300000002" + "00"
    reader, sections = Reader(writer.data), SectionReader()
    found = [sections.next(reader) for _ in range(4)]
    assert found == [Heading(mark, 2, "ram", 0, 4) for mark in (Mark.START, Mark.PART, Mark.END)] + [None]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("02 00000002", "at byte 0x1: expected the id of a section that was started, got 2"),
        ("09", "at byte 0x0: expected a section or the end, got byte 0x09"),
        ("08 0007 0000", "at byte 0x1: expected a command"),
        ("08 000b 0001 00", "got 11 with 1"),
        ("04 00000001 ff 61", "expected 255 bytes, got only 1"),
        ("", "at byte 0x0: expected 1 byte, got only 0"),
    ],
)
def test_what_is_no_section_is_refused(data: str, message: str) -> None:
    assert message in str(refused(bytes.fromhex(data), SectionReader().next))


def test_a_section_id_is_used_once(wire: Wire) -> None:
    reader, sections = Reader(wire(UART) * 2), SectionReader()
    sections.next(reader)
    with pytest.raises(FramingError, match="each section id once, got 7 for serial again"):
        sections.next(reader)


def test_a_full_section_has_no_parts(wire: Wire) -> None:
    reader, sections = Reader(wire(UART) + b"\2\0\0\0\7"), SectionReader()
    sections.next(reader)
    with pytest.raises(FramingError, match="the id of a section that was started"):
        sections.next(reader)


def test_the_switchover_is_passed_over(wire: Wire) -> None:
    # command 11, no data: what QEMU 10 sends before the guest's state
    assert SectionReader().next(Reader(bytes.fromhex("08 000b 0000") + wire(UART))) == UART_HEADING


def test_names_that_cannot_be_shown_are_escaped(wire: Wire) -> None:
    heading = SectionReader().next(Reader(wire(UART).replace(b"serial", b"\x1b[2J\n\xff")))
    assert str(heading).isprintable()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("7f 00000007", "serial[1] at byte 0x0: expected the section's footer, 0x7e, got byte 0x7f"),
        ("7e 00000008", "serial[1] at byte 0x1: expected the footer of section 7, got 8"),
        ("7e 0000", "serial[1] at byte 0x1: expected 4 bytes, got only 2"),
        ("", "serial[1] at byte 0x0: expected 1 byte, got only 0"),
    ],
)
def test_a_wrong_footer_is_refused(data: str, message: str) -> None:
    assert str(refused(bytes.fromhex(data), lambda reader: get_footer(reader, UART_HEADING))) == message


def ended(description: bytes) -> bytes:
    writer = Writer()
    put_end(writer, description)
    return bytes(writer.data)


def test_the_description_comes_last() -> None:
    data = ended(b"{}")
    assert data.hex() == "00" + "06" + "00000002" + "7b7d"  # end, description, length, JSON
    assert get_description(Reader(data[1:])) == b"{}"
    assert get_description(Reader(b"")) == b""
    assert find_description(memoryview(data)) == (1, b"{}")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"\0", "at byte 0x0: expected the stream's description, or its end, got byte 0x00"),
        (b"\6\0\0\0\3{}", "at byte 0x5: expected 3 bytes, got only 2"),
        (b"\6\xff\xff\xff\xff{}", "at byte 0x5: expected 4294967295 bytes, got only 2"),
        (b"\6\0\0\0\1{}", "at byte 0x0: expected the end of the stream, got 1 bytes more"),
        (b"\6\0", "at byte 0x1: expected 4 bytes, got only 1"),
    ],
)
def test_a_wrong_end_is_refused(data: bytes, message: str) -> None:
    assert message in str(refused(data, get_description))


def test_a_description_that_is_too_long_is_refused() -> None:
    data = ended(b"{" + b" " * DESCRIPTION_LIMIT)
    assert "a description of at most" in str(refused(data[1:], get_description))
    with pytest.raises(FramingError, match="a description of itself"):
        find_description(memoryview(data))


@pytest.mark.parametrize("length", [2, 255, 256, 0x7B00, 0x1007B, 0x17B7B, 0x7B7B7])
def test_a_description_of_any_length_is_found_from_the_end(length: int) -> None:
    """Some of these lengths have a brace, 7b, among their bytes."""
    description = b"{".ljust(length, b" ")
    data = bytes(100) + b"{" + ended(description)
    assert find_description(memoryview(data)) == (102, description)


@pytest.mark.parametrize("data", [b"", b"{}", b"\0{}", b"\6\0\0\0\3{}", b"\6\0\0\0\2[]", bytes(200)])
def test_a_stream_without_a_description_has_none_to_find(data: bytes) -> None:
    with pytest.raises(FramingError):
        find_description(memoryview(data))
