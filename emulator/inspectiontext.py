"""What is in a stream, or differs between two, as text for people.

On a terminal lines are coloured and wrapped; elsewhere each field is one line, so that grep finds it.
"""

from __future__ import annotations

import heapq
import itertools
import json
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console
from rich.text import Text

from emulator.core.memory import PAGE_SIZE
from emulator.migration.difference import MISSING, Difference, RamDifference
from emulator.migration.examine import Contents, Section, printable
from emulator.migration.pagemap import BlockMap, Kind
from emulator.migration.seal import NOTE
from emulator.migration.vmdesc import struct_of

TAKEN = f"{NOTE} taken"
"""The note that is a time."""
PATH_WIDTH, TYPE_WIDTH = 40, 16
"""Columns that are lined up, at most."""
CELLS = 64
"""Characters of a block's map."""
SHOWN_BYTES = 32
SHOWN_VALUES = 64
SHOWN_RANGES = 8
SHOWN_CHARACTERS = 256
"""How much of something long is shown unless all is asked for."""


class _Row(NamedTuple):
    """One field to show, or (without type) the head of a subsection."""

    depth: int
    path: str
    type: str
    value: Any


class Page:
    """Writes text on standard output."""

    def __init__(self, verbose: bool) -> None:
        self._console = Console(highlight=False)
        self._verbose = verbose

    def contents(self, path: Path, contents: Contents) -> None:
        """What is in one file."""
        self._line((f"{printable(str(path))}: {_count(contents.size, 'byte')}", "bold"))
        if (configuration := contents.configuration) is None:
            return
        self._line((f"machine {printable(configuration.machine)}", ""))
        if configuration.capabilities:
            self._line((f"capabilities {', '.join(map(printable, configuration.capabilities))}", ""))
        if any(configuration.uuid):
            self._line((f"uuid {configuration.uuid.hex()}", ""))
        self._notes(contents.notes, "")
        for section in contents.sections:
            self._section(section, contents.blocks)
        if not contents.description_size:
            self._line(("no description of itself to read fields by: sections and RAM only", "yellow"))

    def _notes(self, notes: Any, path: str) -> None:
        if isinstance(notes, dict):
            for name, note in notes.items():
                self._notes(note, f"{path} {printable(name)}".lstrip())
        else:
            text = printable(notes) if isinstance(notes, str) else json.dumps(notes)
            if path == TAKEN and isinstance(notes, float) and 0 <= notes < 1 << 36:
                text = time.strftime("%Y-%m-%d %H:%M:%S %z", time.localtime(notes))
            self._wrapped(0, [(path, "")], _cut(text, self._verbose))

    def _section(self, section: Section, blocks: dict[str, BlockMap]) -> None:
        parts = f" in {section.parts} parts" if section.parts > 1 else ""
        where = f"version {section.version_id}, {_count(section.size, 'byte')} at 0x{section.offset:x}{parts}"
        self._line(("", ""))
        self._line((printable(str(section)), "bold"), (f"  {where}", ""))
        if section.opaque is not None:
            self._line((f"  {_count(len(section.opaque), 'byte')} without description", "yellow"))
        elif section.description is None:
            for block in blocks.values():
                self._block(block)
            self._line(("  each character of a map: # data, + data and others, . zeros, blank: absent", "dim"))
        else:
            rows = list(_rows(section.description, section.values or {}, "", 0))
            path_width = max((2 * row.depth + len(row.path) for row in rows if row.type), default=0)
            type_width = max((len(row.type) for row in rows), default=0)
            for row in rows:
                self._row(row, min(path_width, PATH_WIDTH), min(type_width, TYPE_WIDTH))

    def _row(self, row: _Row, path_width: int, type_width: int) -> None:
        indent = 2 + 2 * row.depth
        if not row.type:
            self._line((" " * indent + row.path, "bold"), (f"  {row.value}", ""))
            return
        head = [(row.path.ljust(path_width - 2 * row.depth), "cyan"), (row.type.ljust(type_width), "dim")]
        self._wrapped(indent, head, _value(row.value, row.type, self._verbose))

    def _block(self, block: BlockMap) -> None:
        counts = ", ".join(f"{block.count(kind)} {kind.value}" for kind in Kind)
        again = block.sent[Kind.DATA] + block.sent[Kind.ZERO] - block.count(Kind.DATA) - block.count(Kind.ZERO)
        sent = f", {again} sent again" if again else ""
        size = f"{_size(block.size)}, {_count(block.pages, 'page')}"
        self._line((f"  {printable(block.name)}", "cyan"), (f"  {size}: {counts}{sent}", ""))
        self._line((f"    [{_bar(block)}] {_count(block.stream_bytes, 'byte')}", "green"))
        if self._verbose:
            present = (zip(block.ranges(kind), itertools.repeat(kind.value)) for kind in (Kind.DATA, Kind.ZERO))
            for pages, what in heapq.merge(*present):
                self._line((f"    {_range(pages)} {what}", ""))

    def differences(self, fields: list[Difference], ram: list[RamDifference]) -> None:
        """Where two files differ."""
        for row in fields:
            sides = (show_side(side, verbose=self._verbose) for side in (row.first, row.second))
            self._wrapped(0, [(f"{show_place(row)}:", "cyan")], " | ".join(sides))
        for block in ram:
            if block.pages:
                pages = sum(end - begin for begin, end in block.pages)
                shown = block.pages if self._verbose else block.pages[:SHOWN_RANGES]
                more = [f"and {len(block.pages) - len(shown)} more"] if len(shown) < len(block.pages) else []
                value = f"{_count(pages, 'page')}: " + " ".join([*map(_range, shown), *more])
            else:
                value = " | ".join("missing" if size is None else _size(size) for size in block.sizes)
            self._wrapped(0, [(f"ram {printable(block.block)}:", "cyan")], value)
        if not fields and not ram:
            self._line(("the same machine", ""))

    def _wrapped(self, indent: int, head: list[tuple[str, str]], value: str) -> None:
        """One field: on a terminal, what is too long goes on below where the value began."""
        width = indent + sum(len(text) + 1 for text, _style in head)
        lines = [value]
        if self._console.is_terminal:
            lines = textwrap.wrap(value, max(self._console.width - width, 20)) or [""]
        begin = (" " * indent, "")
        self._line(begin, *((text + " ", style) for text, style in head), (lines[0], ""))
        for line in lines[1:]:
            self._line((" " * width + line, ""))

    def _line(self, *parts: tuple[str, str]) -> None:
        self._console.print(Text.assemble(*parts), soft_wrap=True)


def show_place(row: Difference) -> str:
    """Where two files differ: the section, and which field of it."""
    return printable(f"{row.section} {row.path}".rstrip())


def show_side(value: Any, *, verbose: bool = False) -> str:
    """What one of two files has in a place; a long value is cut unless `verbose`."""
    if value is MISSING:
        return "missing"
    return "present" if isinstance(value, dict) else _value(value, "", verbose)


def _value(value: Any, type_name: str, verbose: bool) -> str:
    """A field's value, all of it or as much as is shown without -v."""
    if isinstance(value, list):
        groups = [(item, len(list(alike))) for item, alike in itertools.groupby(value)]
        shown = groups if verbose else groups[:SHOWN_VALUES]
        texts = [_value(item, type_name, verbose) + (f" x{count}" if count > 1 else "") for item, count in shown]
        return ", ".join(texts) + (", ..." if len(shown) < len(groups) else "")
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if value < 0 or type_name.startswith(("int", "timer")) else f"0x{value:x}"
    return _bytes(value, verbose) if isinstance(value, bytes) else _cut(printable(str(value)), verbose)


def _bytes(value: bytes, verbose: bool) -> str:
    text = value.rstrip(b"\0")
    if len(text) > 1 and text.isascii() and text.decode().isprintable():
        return _cut(f'"{text.decode()}"', verbose) + f" ({_count(len(value), 'byte')})"
    if not text:
        return f"zeros ({_count(len(value), 'byte')})"
    shown = value if verbose else value[:SHOWN_BYTES]
    return shown.hex(" ") + (f" ... ({_count(len(value), 'byte')})" if len(shown) < len(value) else "")


def _cut(text: str, verbose: bool) -> str:
    return text if verbose or len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."


def _rows(description: dict[str, Any], values: dict[str, Any], prefix: str, depth: int) -> Iterator[_Row]:
    """A section's fields in their order, structs taken apart, equal elements of an array of structs once."""
    for entry, value in _decoded(description, values):
        path, type_name, nested = prefix + printable(entry["name"]), printable(str(entry.get("type"))), struct_of(entry)
        if nested is None:
            index = f"[{entry['index']}]" if "index" in entry else ""
            length = f"[{len(value)}]" if "array_len" in entry else ""
            yield _Row(depth, path + index, type_name + length, value)
        elif "array_len" in entry:
            for index, element in _alike(value):
                yield from _rows(nested, element, f"{path}{index}.", depth)
        else:
            index = f"[{entry['index']}]" if "index" in entry else ""
            yield from _rows(nested, value, f"{path}{index}.", depth)
    for subsection in _objects(description.get("subsections")):
        name = subsection.get("vmsd_name")
        if isinstance(name, str) and name in values:
            version = printable(str(subsection.get("version")))
            yield _Row(depth, printable(name), "", f"subsection, version {version}")
            yield from _rows(subsection, values[name], "", depth + 1)


def _decoded(description: dict[str, Any], values: dict[str, Any]) -> Iterator[tuple[dict[str, Any], Any]]:
    """The fields with their values, up to where the reading ended; nothing behind that has been checked."""
    shown: set[str] = set()
    for entry in _objects(description.get("fields")):
        name, index, length = (entry.get(key) for key in ("name", "index", "array_len"))
        if not isinstance(name, str) or name not in values:
            return
        value = values[name]
        if "index" in entry and "array_len" not in entry:
            if not (isinstance(value, list) and isinstance(index, int) and 0 <= index < len(value)):
                return
            yield entry, value[index]
            continue
        if name in shown or ("array_len" in entry and not (isinstance(value, list) and isinstance(length, int))):
            return
        shown.add(name)
        yield entry, value[:length] if "array_len" in entry else value


def _objects(items: Any) -> Iterator[dict[str, Any]]:
    """Those of a list in a description, if it is one."""
    return (item for item in items if isinstance(item, dict)) if isinstance(items, list) else iter(())


def _alike(values: list[Any]) -> Iterator[tuple[str, Any]]:
    """Elements with their index, or with first and last of a row of equal ones."""
    begin = 0
    for value, alike in itertools.groupby(values):
        end = begin + len(list(alike))
        yield f"[{begin}]" if end == begin + 1 else f"[{begin}..{end - 1}]", value
        begin = end


def _bar(block: BlockMap) -> str:
    cells = min(CELLS, block.pages)
    edges = [block.pages * cell // cells for cell in range(cells + 1)]
    return "".join(_cell(block, first, end) for first, end in itertools.pairwise(edges))


def _cell(block: BlockMap, first: int, end: int) -> str:
    data = block.count(Kind.DATA, first, end)
    if data:
        return "#" if data == end - first else "+"
    return "." if block.count(Kind.ZERO, first, end) else " "


def _range(pages: tuple[int, int]) -> str:
    return f"0x{pages[0] * PAGE_SIZE:x}-0x{pages[1] * PAGE_SIZE - 1:x}"


def _size(size: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if size >> shift and not size & (1 << shift) - 1:
            return f"{size >> shift} {unit}"
    return _count(size, "byte")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
