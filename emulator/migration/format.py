"""The frame of a stream: header, configuration, sections with their footers, commands, the description at the end.

Layout, version 3, all numbers big-endian: `QEVM`, u32 3; byte 07, the configuration; then sections until byte 00, and
behind that byte 06, u32 length, JSON. A section is byte 01 (start), 02 (part), 03 (end) or 04 (full), u32 section id;
start and full also u8 length and name, u32 instance id, u32 version; the payload; byte 7e, u32 section id. A command is
byte 08, u16 command, u16 length, data. Source: streams of QEMU 7.2 and 10.0.

A payload has no length of its own: only who knows its description can tell where its footer is.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from emulator.migration.errors import FramingError, StateError, StreamError, TruncatedError, quote
from emulator.migration.fields import Buffer, UInt32, VArrayAlloc, VBufferAlloc
from emulator.migration.fields.base import Info
from emulator.migration.vmstate import VMStateDescription
from emulator.migration.wire import Reader, Writer

MAGIC = b"QEVM"
VERSION = 3

NAME_LIMIT = 255
CAPABILITY_LIMIT = 64
"""More capabilities than any QEMU has."""
DESCRIPTION_LIMIT = 1 << 20
"""Bytes of JSON that are looked at, as parsing it takes up to 30 times as many; QEMU's have about 12 KiB."""


class Mark(enum.IntEnum):
    """The bytes that announce what follows."""

    EOF = 0x00
    START = 0x01
    PART = 0x02
    END = 0x03
    FULL = 0x04
    VMDESCRIPTION = 0x06
    CONFIGURATION = 0x07
    COMMAND = 0x08
    FOOTER = 0x7E


class Command(enum.IntEnum):
    """What a source says in the stream, as far as it is understood here (QEMU's MIG_CMD_...)."""

    OPEN_RETURN_PATH = 1
    PING = 2
    SWITCHOVER_START = 11


COMMAND_SIZES = {Command.OPEN_RETURN_PATH: 0, Command.PING: 4, Command.SWITCHOVER_START: 0}
"""Bytes of data behind each command."""


class Order(NamedTuple):
    """A command and its data."""

    command: Command
    data: bytes = b""


class Heading(NamedTuple):
    """How a section begins; a part and an end have the name and version of their start."""

    mark: Mark
    section_id: int
    name: str
    instance_id: int
    version_id: int

    def __str__(self) -> str:
        return quote(self.name if not self.instance_id else f"{self.name}[{self.instance_id}]")


class _Capability(Info):
    """A name behind its length."""

    type_name = "capability"

    def put(self, writer: Writer, value: Any, _entry: Any = None) -> None:
        """Append a name."""
        data = str(value).encode()
        if len(data) > NAME_LIMIT:
            raise StateError(f"at most {NAME_LIMIT} bytes", value)
        writer.u8(len(data))
        writer.write(data)

    def get(self, reader: Reader, _current: Any) -> str:
        """Read a name."""
        return reader.read(reader.u8()).decode("latin-1")


@dataclass(slots=True)
class Configuration:
    """What sender and receiver must agree on before the first section."""

    length: int = 0
    name: bytes = b""
    """The machine type, such as `virt`."""
    target_page_bits: int = 0
    capability_count: int = 0
    capabilities: list[str] = field(default_factory=list)
    uuid: bytes = b""

    @classmethod
    def of(cls, machine: str, *capabilities: str) -> Configuration:
        """The configuration of a machine type with these capabilities on."""
        name = machine.encode()
        return cls(len(name), name, capability_count=len(capabilities), capabilities=list(capabilities))

    @property
    def machine(self) -> str:
        """The machine type as text."""
        return self.name.decode("latin-1")

    def pre_load(self) -> None:
        """Make room for an identifier, which a stream need not have."""
        self.uuid = bytes(16)


CONFIGURATION = VMStateDescription(
    "configuration",
    Configuration,
    version_id=1,
    fields=(UInt32("length", wire_name="len"), VBufferAlloc("name", "length", maximum=NAME_LIMIT)),
    subsections=(
        VMStateDescription(
            "configuration/target-page-bits",
            Configuration,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: bool(state.target_page_bits),
            fields=(UInt32("target_page_bits", limit=64),),
        ),
        VMStateDescription(
            "configuration/capabilities",
            Configuration,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: bool(state.capabilities),
            fields=(
                UInt32("capability_count", limit=CAPABILITY_LIMIT + 1, wire_name="caps_count"),
                VArrayAlloc("capabilities", _Capability(), "capability_count", maximum=CAPABILITY_LIMIT),
            ),
        ),
        VMStateDescription(
            "configuration/uuid",
            Configuration,
            version_id=1,
            minimum_version_id=1,
            needed=lambda state: any(state.uuid),
            fields=(Buffer("uuid", 16),),
        ),
    ),
)


def put_header(writer: Writer, configuration: Configuration) -> None:
    """Append what every stream begins with."""
    writer.write(MAGIC)
    writer.u32(VERSION)
    writer.u8(Mark.CONFIGURATION)
    CONFIGURATION.save(configuration, writer)


def get_header(reader: Reader) -> Configuration:
    """Read what every stream begins with; raises StreamError for anything else."""
    magic = reader.peek_bytes(0, len(MAGIC))
    if magic != MAGIC:
        raise FramingError(f"a migration stream, which begins with {MAGIC.decode()}", magic, offset=reader.offset)
    reader.skip(len(MAGIC))
    begin = reader.offset
    if (version := reader.u32()) != VERSION:
        raise FramingError(f"stream version {VERSION}", version, offset=begin)
    begin = reader.offset
    if (mark := reader.u8()) != Mark.CONFIGURATION:
        raise FramingError("the machine's configuration", f"byte 0x{mark:02x}", offset=begin)
    configuration: Configuration = CONFIGURATION.load(reader)
    return configuration


def put_heading(writer: Writer, heading: Heading) -> None:
    """Append how a section begins."""
    writer.u8(heading.mark)
    writer.u32(heading.section_id)
    if heading.mark in (Mark.START, Mark.FULL):
        name = heading.name.encode()
        writer.u8(len(name))
        writer.write(name)
        writer.u32(heading.instance_id)
        writer.u32(heading.version_id)


def put_footer(writer: Writer, section_id: int) -> None:
    """Append how a section ends."""
    writer.u8(Mark.FOOTER)
    writer.u32(section_id)


def get_footer(reader: Reader, heading: Heading) -> None:
    """Read how the section of `heading` ends; raises FramingError if its payload is longer than was read."""
    with naming(heading):
        begin = reader.offset
        if (mark := reader.u8()) != Mark.FOOTER:
            raise FramingError("the section's footer, 0x7e", f"byte 0x{mark:02x}", offset=begin)
        begin = reader.offset
        if (section_id := reader.u32()) != heading.section_id:
            raise FramingError(f"the footer of section {heading.section_id}", section_id, offset=begin)


@contextmanager
def naming(heading: Heading) -> Iterator[None]:
    """Let errors in a section name it."""
    try:
        yield
    except StreamError as error:
        error.section = error.section or str(heading)
        raise


class SectionReader:
    """Goes through a stream's sections: each `next` reads a heading; who asks reads the payload, then `get_footer`."""

    def __init__(self) -> None:
        self._started: dict[int, Heading] = {}

    def next(self, reader: Reader) -> Heading | None:
        """The next section's heading, or None at the end of the sections; commands need no answer here."""
        while True:
            item = self.next_item(reader)
            if not isinstance(item, Order):
                return item

    def next_item(self, reader: Reader) -> Heading | Order | None:
        """The next section's heading or the next command, or None at the end of the sections."""
        begin = reader.offset
        mark = reader.u8()
        if mark == Mark.EOF:
            return None
        if mark == Mark.COMMAND:
            return _get_order(reader)
        if mark in (Mark.START, Mark.FULL):
            return self._heading(reader, Mark(mark))
        if mark in (Mark.PART, Mark.END):
            return self._continued(reader, Mark(mark))
        raise FramingError("a section or the end", f"byte 0x{mark:02x}", offset=begin)

    def _heading(self, reader: Reader, mark: Mark) -> Heading:
        begin = reader.offset
        section_id = reader.u32()
        name = reader.read(reader.u8()).decode("latin-1")
        heading = Heading(mark, section_id, name, reader.u32(), reader.u32())
        if section_id in self._started:
            raise FramingError("each section id once", f"{section_id} for {quote(name)} again", offset=begin)
        self._started[section_id] = heading
        return heading

    def _continued(self, reader: Reader, mark: Mark) -> Heading:
        begin = reader.offset
        section_id = reader.u32()
        start = self._started.get(section_id)
        if start is None or start.mark != Mark.START:
            raise FramingError("the id of a section that was started", section_id, offset=begin)
        return start._replace(mark=mark)


def put_order(writer: Writer, order: Order) -> None:
    """Append a command."""
    writer.u8(Mark.COMMAND)
    writer.u16(order.command)
    writer.u16(len(order.data))
    writer.write(order.data)


def _get_order(reader: Reader) -> Order:
    begin = reader.offset
    number, length = reader.u16(), reader.u16()
    if number not in list(Command) or COMMAND_SIZES[Command(number)] != length:
        names = ", ".join(f"{command} with {size} bytes" for command, size in COMMAND_SIZES.items())
        raise FramingError(f"a command: {names}", f"{number} with {length}", offset=begin)
    return Order(Command(number), reader.read(length))


def put_end(writer: Writer, description: bytes) -> None:
    """Append the end of the sections, and the stream's description of itself."""
    put_end_mark(writer)
    put_description(writer, description)


def put_end_mark(writer: Writer) -> None:
    """Append the end of the sections."""
    writer.u8(Mark.EOF)


def put_description(writer: Writer, description: bytes) -> None:
    """Append the stream's description of itself, which is JSON."""
    writer.u8(Mark.VMDESCRIPTION)
    writer.u32(len(description))
    writer.write(description)


def get_description(reader: Reader) -> bytes:
    """Read the description behind the sections, which must be the last of the stream; empty if there is none."""
    if not reader.remaining:
        return b""
    begin = reader.offset
    if (mark := reader.u8()) != Mark.VMDESCRIPTION:
        raise FramingError("the stream's description, or its end", f"byte 0x{mark:02x}", offset=begin)
    length = reader.u32()
    if length != reader.remaining:
        if length > reader.remaining:
            raise TruncatedError(length, reader.remaining, offset=reader.offset)
        raise FramingError("the end of the stream", f"{reader.remaining - length} bytes more", offset=begin)
    if length > DESCRIPTION_LIMIT:
        raise FramingError(f"a description of at most {DESCRIPTION_LIMIT} bytes", length, offset=begin)
    return reader.read(length)


def find_description(data: memoryview) -> tuple[int, bytes]:
    """The description at the end of a whole stream, found from there: where its mark stands, and the JSON.

    The JSON holds no NUL, and the length before it has one or more: so it begins behind the last NUL, with a brace.
    Raises FramingError where there is none.
    """
    for window in (64 << 10, DESCRIPTION_LIMIT):
        tail = data[-min(len(data), window) :].tobytes()
        behind_nul = tail.rfind(b"\0") + 1
        for begin in range(behind_nul, behind_nul + 4):  # what is left of the length may hold a brace as well
            json = tail[begin:]
            mark = len(data) - len(json) - 5
            heading = bytes((Mark.VMDESCRIPTION,)) + len(json).to_bytes(4, "big")
            if json.startswith(b"{") and mark >= 0 and data[mark : mark + 5].tobytes() == heading:
                return mark, json
    raise FramingError("a description of itself at the stream's end", "none", offset=len(data))
