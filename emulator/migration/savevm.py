"""A whole machine to bytes and back.

A stream has its header and the machine's configuration, section `ram`, a section for each entry of the registry, and
the description of itself. Loading goes through all of it before anything of the machine changes: RAM is collected in
memory beside the machine's, each section's payload in a fresh state. What comes out, a `Loaded`, is then adopted as a
whole, or closed.

Sections may come in any order. Each that the machine has must come, and only once; there may be no other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

from emulator.core.errors import ConfigError
from emulator.core.memory import PAGE_SIZE, RamBlock, StagedMemory, close_later
from emulator.core.uuids import NO_UUID, format_uuid
from emulator.migration import blocklist, mappedram, seal
from emulator.migration.devices import DeviceLoader, put_devices
from emulator.migration.errors import (
    ChecksumError,
    FieldMismatchError,
    StreamError,
    UnknownSectionError,
    VersionError,
)
from emulator.migration.format import (
    Command,
    Configuration,
    Heading,
    Mark,
    Order,
    SectionReader,
    find_description,
    get_description,
    get_footer,
    get_header,
    naming,
    put_end,
    put_footer,
    put_header,
    put_heading,
    put_order,
)
from emulator.migration.registry import Owner, Registry
from emulator.migration.wire import Reader, Writer

PAGE_BITS = PAGE_SIZE.bit_length() - 1

Write = Callable[[bytes | bytearray | memoryview], object]


@dataclass(frozen=True, slots=True)
class Subject:
    """What is saved or loaded: a machine as streams see it."""

    machine: str
    """The machine type in a stream's configuration."""
    registry: Registry
    blocks: Sequence[RamBlock]
    announces_switchover: bool = False
    """Whether a command precedes the last part of RAM."""
    uuid: bytes = NO_UUID
    """A stream for a machine with another one is refused; but a machine without any loads every stream."""


def save(subject: Subject, write: Write) -> None:
    """Write the stream of a stopped machine piece by piece; raises StateError, or whatever `write` raises."""
    from emulator.migration.ram import write_pages  # NumPy takes long to import, and loading a mapped file needs none

    blocks = blocklist.in_sending_order(subject.blocks)
    writer = Writer()
    put_header(writer, Configuration.of(subject.machine))
    put_ram_heading(writer, Mark.START)
    blocklist.put_block_list(writer, blocks)
    end_ram(writer)
    put_ram_heading(writer, Mark.PART)
    write(writer.data)
    for block in blocks:
        write_pages(block, write)
    writer = Writer()
    end_ram(writer)
    put_last_ram_heading(writer, subject)
    end_ram(writer)
    put_end(writer, put_devices(subject.registry, writer))
    write(writer.data)


def save_mapped(subject: Subject, fd: int, note: Mapping[str, Any]) -> None:
    """Write a stopped machine to an empty file in the mapped layout, which is loaded by mapping it.

    `note` goes into the stream's description of itself under `NOTE`, with `blocks`, the checksum of each block's pages,
    and `state`, the checksum of all else up to where that stands, added to it. Raises StateError or OSError.
    """
    from emulator.migration.mappedfile import Part, write_areas, write_at

    blocks = blocklist.in_sending_order(subject.blocks)
    writer = Writer()
    put_header(writer, Configuration.of(subject.machine, mappedram.CAPABILITY))
    put_ram_heading(writer, Mark.START)
    blocklist.put_total(writer, blocks)
    head = Part(0, bytes(writer.data))
    entries, end, checksums = write_areas(fd, len(head.data), blocks)
    writer = Writer()
    end_ram(writer)
    put_ram_heading(writer, Mark.PART)
    end_ram(writer)
    put_last_ram_heading(writer, subject)
    end_ram(writer)
    description = put_devices(subject.registry, writer)
    put_end(writer, seal.with_note(description, {**note, "blocks": checksums}))
    tail = bytes(writer.data)
    parts = [head, *entries, Part(end, seal.sealed((head.data, *(entry.data for entry in entries)), tail))]
    for part in parts:
        write_at(fd, part)


def put_ram_heading(writer: Writer, mark: Mark) -> None:
    """Append how a part of section `ram` begins."""
    put_heading(writer, Heading(mark, blocklist.SECTION_ID, blocklist.SECTION, 0, blocklist.VERSION))


def put_last_ram_heading(writer: Writer, subject: Subject) -> None:
    """Append how the last part of section `ram` begins, which is sent while the guest stands still."""
    if subject.announces_switchover:
        put_order(writer, Order(Command.SWITCHOVER_START))
    put_ram_heading(writer, Mark.END)


def end_ram(writer: Writer) -> None:
    """Append how a part of section `ram` ends."""
    blocklist.put_eos(writer)
    put_footer(writer, blocklist.SECTION_ID)


@dataclass(slots=True)
class Loaded:
    """A stream that has been read and found good: to be adopted once, and closed in any case."""

    ram: dict[str, StagedMemory] = field(default_factory=dict)
    states: list[tuple[Owner, Any]] = field(default_factory=list)

    def adopt(self, subject: Subject) -> None:
        """Let the machine, which must be stopped, take over everything.

        Raises ConfigError if the system has no memory or cannot move it about, and then nothing has changed.
        """
        for block in subject.blocks:
            if block.name not in self.ram:  # tables for firmware, which the stream need not have
                self.ram[block.name] = StagedMemory(block.size)
        exchanged: list[RamBlock] = []
        try:
            for block in subject.blocks:
                block.exchange(self.ram[block.name])
                exchanged.append(block)
        except MemoryError as error:
            for block in exchanged:
                block.exchange(self.ram[block.name])
            raise ConfigError(f"cannot exchange the machine's memory: {error}") from error
        for owner, state in self.states:
            owner.adopt(state)

    def close(self) -> None:
        """Free the staged memory, or what the blocks held before."""
        close_later(self.ram.values())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def load(subject: Subject, data: memoryview, fd: int) -> Loaded:
    """Read a whole stream, `data`, which is what the file `fd` holds; nothing of the machine changes.

    Raises StreamError, or ConfigError where memory is short.
    """
    reader = Reader(data)
    configuration = get_header(reader)
    check_configuration(configuration, subject, end=reader.offset)
    loaded = Loaded()
    try:
        if configuration.capabilities:
            ram: _Ram = _MappedRam(subject.blocks, loaded.ram, data, fd)
        else:
            ram = _StreamedRam(subject.blocks, loaded.ram)
        devices = DeviceLoader(subject.registry)
        _read_sections(reader, ram, devices)
        loaded.states = devices.states()
    except BaseException:
        loaded.close()
        raise
    return loaded


def check_configuration(configuration: Configuration, subject: Subject, *, end: int) -> None:
    """Raise FieldMismatchError unless a stream whose header ends at byte `end` is for such a machine."""
    machine = subject.machine
    unknown = [name for name in configuration.capabilities if name != mappedram.CAPABILITY]
    if configuration.machine != machine:
        error = FieldMismatchError(f"machine type {machine} (see -M)", configuration.machine, field="name", offset=13)
    elif configuration.target_page_bits not in (0, PAGE_BITS):
        bits = configuration.target_page_bits
        error = FieldMismatchError(f"{PAGE_BITS}, or none", bits, field="target_page_bits", offset=end)
    elif unknown:
        error = FieldMismatchError(
            f"no capability but {mappedram.CAPABILITY}", unknown[0], field="capabilities", offset=end
        )
    elif any(subject.uuid) and any(configuration.uuid) and configuration.uuid != subject.uuid:
        ours, theirs = format_uuid(subject.uuid), format_uuid(configuration.uuid)
        error = FieldMismatchError(f"{ours} (see -uuid)", theirs, field="uuid", offset=end)
    else:
        return
    error.section = "configuration"
    raise error


def check_seal(data: memoryview, areas: Sequence[mappedram.Area]) -> bool:
    """Whether a mapped file has our note; raises ChecksumError if it has, and not all but the pages is as written."""
    begin, description = find_description(data)
    try:
        if seal.note_of(description) is None:
            return False
        if not seal.is_intact(mappedram.outside_of_pages(data, areas)):
            raise ChecksumError("a file as it was written", "one with another checksum", field="state")
    except StreamError as error:
        error.offset = begin
        raise
    return True


class _Ram:
    """What both layouts of RAM share: the section is started once, continued, and ended."""

    def __init__(self, blocks: Sequence[RamBlock], staged: dict[str, StagedMemory]) -> None:
        self.blocks = blocks
        self.staged = staged
        self.ended = False

    def load(self, reader: Reader, heading: Heading) -> None:
        """Read one payload."""
        if self.ended or (heading.mark == Mark.START) == bool(self.staged):
            raise UnknownSectionError("RAM started, continued and ended once", heading.mark.name, offset=reader.offset)
        if heading.mark == Mark.START:
            self.start(reader)
            blocklist.get_eos(reader)
        else:
            self.part(reader)
            self.ended = heading.mark == Mark.END

    def start(self, reader: Reader) -> None:
        """Read the list of blocks, and stage memory for each."""
        raise NotImplementedError

    def part(self, reader: Reader) -> None:
        """Read the records of one part."""
        raise NotImplementedError


class _StreamedRam(_Ram):
    """RAM as page records."""

    def start(self, reader: Reader) -> None:
        """See _Ram."""
        from emulator.migration.ram import RamCollector

        begin = reader.offset
        sizes = blocklist.get_block_list(reader)
        blocklist.same_blocks(sizes, self.blocks, offset=begin)
        for name, size in sizes.items():
            self.staged[name] = StagedMemory(size)
        self._collector = RamCollector(self.staged)

    def part(self, reader: Reader) -> None:
        """See _Ram."""
        self._collector.read(reader)


class _MappedRam(_Ram):
    """RAM that stays in the file."""

    def __init__(self, blocks: Sequence[RamBlock], staged: dict[str, StagedMemory], data: memoryview, fd: int) -> None:
        super().__init__(blocks, staged)
        self._data = data
        self._fd = fd

    def start(self, reader: Reader) -> None:
        """See _Ram."""
        begin = reader.offset
        areas = mappedram.get_areas(reader)
        blocklist.same_blocks({area.name: area.size for area in areas}, self.blocks, offset=begin)
        is_ours = check_seal(self._data, areas)
        for area in areas:
            self.staged[area.name] = mappedram.stage(area, self._fd, exact=is_ours)

    def part(self, reader: Reader) -> None:
        """See _Ram."""
        blocklist.get_eos(reader)


def _read_sections(reader: Reader, ram: _Ram, devices: DeviceLoader) -> None:
    """Read all sections and what is behind them, and check that nothing is missing."""
    sections = SectionReader()
    while heading := sections.next(reader):
        if heading.name == blocklist.SECTION and not heading.instance_id:
            _read_ram(reader, ram, heading)
        else:
            devices.read(reader, heading)
    end = reader.offset
    get_description(reader)
    if not ram.ended:
        raise UnknownSectionError(f"section {blocklist.SECTION}", "the end of the stream", offset=end)
    devices.check_complete(end)


def _read_ram(reader: Reader, ram: _Ram, heading: Heading) -> None:
    with naming(heading):
        if heading.version_id != blocklist.VERSION or heading.mark == Mark.FULL:
            got = f"{heading.version_id}, {heading.mark.name}"
            raise VersionError(f"version {blocklist.VERSION}, in parts", got, offset=reader.offset)
        ram.load(reader, heading)
    get_footer(reader, heading)
