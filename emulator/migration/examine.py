"""What is in a stream or snapshot file, without a machine: by nothing but the JSON description that the file carries.

A stream without a description is gone through as well: a section's footer, and what can follow it, tell where the
section ends, but not what is in it. Whatever goes wrong ends the reading and is kept beside what was read until then.
Nothing is believed: lengths, counts, depths and sizes are bounded, so that no file costs more memory than its own size
and 64 MiB.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from typing import Any

from emulator.core.memory import PAGE_SIZE
from emulator.migration.blocklist import SECTION as RAM
from emulator.migration.errors import FramingError, StreamError, UnknownSectionError, VmdescError
from emulator.migration.format import (
    Configuration,
    Heading,
    Mark,
    SectionReader,
    find_description,
    get_description,
    get_footer,
    get_header,
    naming,
)
from emulator.migration.pagemap import BlockMap, RamReader
from emulator.migration.vmdesc import decode, parse, sections_of
from emulator.migration.wire import Reader

VALUE_LIMIT = 1 << 18
"""Values in all sections together; QEMU's have about 600 for each hart."""
SECTION_LIMIT = 4096
OPAQUE_LIMIT = 1 << 20
"""Bytes within which the end of a section without description is looked for."""
NOTE_DEPTH = 8

_NOT_NOTES = {"configuration", "devices", "page_size"}


@dataclass(slots=True)
class Section:
    """One section, all its parts together."""

    name: str
    instance_id: int
    version_id: int
    section_id: int
    offset: int
    """Where its first heading stands in the stream."""
    size: int = 0
    """Bytes in the stream, with headings and footers."""
    parts: int = 0
    description: dict[str, Any] | None = None
    """Its object in the stream's JSON; None for RAM, and where there is none."""
    values: dict[str, Any] | None = None
    """What `vmdesc.decode` makes of it."""
    opaque: memoryview | None = None
    """The (last) payload, if nothing tells what is in it."""

    def __str__(self) -> str:
        return self.name if not self.instance_id else f"{self.name}[{self.instance_id}]"


@dataclass(slots=True)
class Contents:
    """What is in a stream, as far as it could be read."""

    size: int
    """Bytes of the whole."""
    configuration: Configuration | None = None
    sections: list[Section] = field(default_factory=list)
    blocks: dict[str, BlockMap] = field(default_factory=dict)
    description_size: int = 0
    """Bytes of JSON at the end; 0 if there is none, or none that can be used."""
    notes: dict[str, Any] = field(default_factory=dict)
    """What the JSON says beyond what QEMU writes, by key: a snapshot's note about itself."""
    error: StreamError | None = None
    """What ended the reading too early."""


def examine(data: memoryview) -> Contents:
    """Read a whole stream or snapshot file; raises nothing for what is wrong with it, see `Contents.error`.

    The result refers to `data`, where the pages stay.
    """
    contents = Contents(len(data))
    try:
        _Examiner(data, contents).run()
    except StreamError as error:
        error.section, error.path = printable(error.section), printable(error.path)
        contents.error = error
    return contents


def printable(text: str) -> str:
    """A name from a stream for people: control characters escaped, so that a terminal does not obey them."""
    return text if text.isprintable() else text.encode("unicode_escape", "backslashreplace").decode("ascii")


class _Examiner:
    """One pass through a stream."""

    def __init__(self, data: memoryview, contents: Contents) -> None:
        self._data = data
        self._reader = Reader(data)
        self._contents = contents
        self._described: dict[tuple[str, int], dict[str, Any]] = {}
        self._budget = VALUE_LIMIT
        self._ram = RamReader(data)
        self._sections: dict[int, Section] = {}
        self._names: set[tuple[str, int]] = set()

    def run(self) -> None:
        """Read everything into the contents; raises StreamError where that ends too early."""
        contents, reader = self._contents, self._reader
        configuration = contents.configuration = get_header(reader)
        self._ram = RamReader(self._data, configuration.capabilities)
        trouble = self._read_description()
        sections = SectionReader()
        while heading := sections.next(reader):
            with naming(heading):
                self._section(heading)
        get_description(reader)
        if trouble is not None:
            raise trouble

    def _read_description(self) -> StreamError | None:
        """Parse the JSON at the end, and return what is wrong with it; if there is none, that shows at the end."""
        try:
            _, text = find_description(self._data)
        except StreamError:
            return None
        try:
            whole = parse(text)
            self._described = sections_of(whole)
            self._contents.notes = {name: value for name, value in whole.items() if name not in _NOT_NOTES}
            _check_notes(self._contents.notes, NOTE_DEPTH)
            if (page_size := whole.get("page_size", PAGE_SIZE)) != PAGE_SIZE:
                raise VmdescError(f"pages of {PAGE_SIZE} bytes", page_size)
        except VmdescError as error:
            self._described, self._contents.notes = {}, {}
            return error
        self._contents.description_size = len(text)
        return None

    def _section(self, heading: Heading) -> None:
        reader = self._reader
        is_first = heading.mark in (Mark.START, Mark.FULL)
        begin = reader.offset - (14 + len(heading.name) if is_first else 5)
        section = self._add(heading, begin) if is_first else self._sections[heading.section_id]
        section.parts += 1
        try:
            self._payload(heading, section)
            get_footer(reader, heading)
        finally:
            section.size += reader.offset - begin

    def _add(self, heading: Heading, begin: int) -> Section:
        key = (heading.name, heading.instance_id)
        if key in self._names or len(self._names) == SECTION_LIMIT:
            expected = f"at most {SECTION_LIMIT} sections, each once"
            raise UnknownSectionError(expected, f"{heading} again", offset=begin)
        self._names.add(key)
        section = Section(*key, heading.version_id, heading.section_id, begin)
        self._sections[heading.section_id] = section
        self._contents.sections.append(section)
        return section

    def _payload(self, heading: Heading, section: Section) -> None:
        description = self._described.get((heading.name, heading.instance_id))
        if heading.name == RAM and not heading.instance_id:
            try:
                self._ram.read(self._reader, heading)
            finally:
                self._contents.blocks = self._ram.blocks
        elif description is not None and heading.mark == Mark.FULL:
            section.description = description
            section.values = {}
            decode(description, self._reader, limit=self._budget, into=section.values)
            self._budget -= _count(section.values)
        else:
            section.opaque = self._opaque(heading)

    def _opaque(self, heading: Heading) -> memoryview:
        """Pass over a payload up to its footer, behind which a section, a command or the end must follow."""
        footer = bytes((Mark.FOOTER,)) + heading.section_id.to_bytes(4, "big")
        window = self._reader.rest()[:OPAQUE_LIMIT]
        found = re.search(re.escape(footer) + rb"(?:[\x00-\x04\x08]|\Z)", window)
        if found is None:
            raise FramingError(f"the section's footer within {len(window)} bytes", "none", offset=self._reader.offset)
        return self._reader.view(found.start())


def _count(value: Any) -> int:
    """How many values there are in a decoded one, containers included."""
    if isinstance(value, dict):
        return 1 + sum(map(_count, value.values()))
    return 1 + sum(map(_count, value)) if isinstance(value, list) else 1


def _check_notes(value: Any, depth: int) -> None:
    """Refuse what could not be written as JSON again."""
    if not depth:
        raise VmdescError(f"notes at most {NOTE_DEPTH} deep", "more")
    if isinstance(value, float) and not math.isfinite(value):
        raise VmdescError("finite numbers", value)
    if isinstance(value, int) and value.bit_length() > 64:
        raise VmdescError("numbers of at most 64 bits", "more")
    for item in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _check_notes(item, depth - 1)
