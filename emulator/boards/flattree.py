"""A flattened device tree as bytes: checked as a whole, and `/chosen` edited in place.

Format: Devicetree Specification v0.4, chapter 5 (DTB version 17). Any tree may come in, the user's own included, so
every offset and length is checked first, in one pass, and what is not edited stays byte for byte what it was: memory
reservations, unusual values and the order of nodes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple

from emulator.core.bits import align_up
from emulator.core.errors import ImageError

MAGIC = 0xD00DFEED
VERSION = 17
LAST_COMPATIBLE_VERSION = 16
MAX_SIZE = 1 << 20
"""Bytes of the largest tree taken: what QEMU sets aside for its own."""

_HEADER = struct.Struct(">10I")
_RESERVATION = struct.Struct(">2Q")
_WORD = struct.Struct(">I")
_BEGIN_NODE, _END_NODE, _PROP, _NOP, _END = 1, 2, 3, 4, 9


class _Token(NamedTuple):
    """One element of the structure block, from `start` up to `end`; `depth` counts the nodes around it."""

    kind: int
    start: int
    end: int
    depth: int
    name: bytes
    value_start: int
    value_size: int


class FlatTree:
    """One device tree; `source` names it in errors, each of which is an ImageError."""

    def __init__(self, data: bytes, source: str) -> None:
        self.source = source
        if len(data) < _HEADER.size:
            raise self._error("shorter than a device tree's header")
        magic, total, off_struct, off_strings, off_reserved, version, last_compatible, cpu, len_strings, len_struct = (
            _HEADER.unpack_from(data)
        )
        if magic != MAGIC:
            raise self._error(f"magic number 0x{magic:08x} is not 0x{MAGIC:08x}")
        if not _HEADER.size <= total <= min(len(data), MAX_SIZE):
            raise self._error(f"total size {total} does not fit {len(data)} bytes of file or the limit of {MAX_SIZE}")
        if version < VERSION or last_compatible > VERSION:
            raise self._error(f"version {version} (compatible with {last_compatible}) cannot be read, need {VERSION}")
        if off_struct + len_struct > total or off_strings + len_strings > total or off_struct % 4 or off_reserved % 8:
            raise self._error("a block lies outside the tree or is not aligned")
        self.boot_cpu: int = cpu
        self.reserved = self._read_reservations(data[:total], off_reserved)
        self.structure = bytearray(data[off_struct : off_struct + len_struct])
        self.strings = bytearray(data[off_strings : off_strings + len_strings])
        for _token in self._tokens():
            pass

    def to_bytes(self) -> bytes:
        """The tree, packed: header, reservations, structure, strings."""
        off_reserved = _HEADER.size
        off_struct = off_reserved + len(self.reserved)
        off_strings = off_struct + len(self.structure)
        total = off_strings + len(self.strings)
        header = _HEADER.pack(
            MAGIC, total, off_struct, off_strings, off_reserved, VERSION, LAST_COMPATIBLE_VERSION, self.boot_cpu,
            len(self.strings), len(self.structure),
        )  # fmt: skip
        return header + self.reserved + bytes(self.structure) + bytes(self.strings)

    def set_chosen(self, name: str, value: bytes) -> None:
        """Give `/chosen` the property `name`: in place of an old value, otherwise as the first; adds a missing node."""
        first, old = self._find_chosen(name)
        if first is None:
            first = self._add_chosen()
        padding = bytes(align_up(len(value), 4) - len(value))
        record = struct.pack(">III", _PROP, len(value), self._string_offset(name)) + value + padding
        if old is None:
            self.structure[first:first] = record
        else:
            self.structure[old.start : old.end] = record

    def chosen_value_offset(self, name: str) -> int | None:
        """Where the value of a property of `/chosen` begins in `to_bytes()`; None if there is no such property."""
        _first, old = self._find_chosen(name)
        return None if old is None else _HEADER.size + len(self.reserved) + old.value_start

    def _find_chosen(self, name: str) -> tuple[int | None, _Token | None]:
        """Where the contents of `/chosen` begin, and its property `name`; None for what is missing."""
        first = None
        for token in self._tokens():
            if token.kind == _BEGIN_NODE and token.depth == 1:
                if first is not None:
                    break
                if token.name == b"chosen":
                    first = token.end
            elif first is not None and token.kind == _PROP and token.depth == 2 and token.name == name.encode():
                return first, token
            elif first is not None and token.kind == _END_NODE and token.depth == 1:
                break
        return first, None

    def _add_chosen(self) -> int:
        """Append an empty `/chosen` to the root; returns where its contents begin."""
        root_end = next(token.start for token in self._tokens() if token.kind == _END_NODE and token.depth == 0)
        begin = _WORD.pack(_BEGIN_NODE) + b"chosen\0\0"
        self.structure[root_end:root_end] = begin + _WORD.pack(_END_NODE)
        return root_end + len(begin)

    def _string_offset(self, name: str) -> int:
        text = name.encode() + b"\0"
        offset = self.strings.find(text)
        if offset < 0:
            offset = len(self.strings)
            self.strings += text
        return offset

    def _tokens(self) -> Iterator[_Token]:
        """The structure block's elements; raises ImageError where the block breaks off or makes no sense."""
        structure, position, depth = self.structure, 0, 0
        while True:
            start = position
            kind = self._word(position)
            position += 4
            name, value_start, value_size = b"", 0, 0
            if kind == _BEGIN_NODE:
                end = structure.find(b"\0", position)
                if end < 0 or (depth == 0 and start != 0):
                    raise self._error(f"broken node at structure offset 0x{start:x}")
                name, position = bytes(structure[position:end]), align_up(end + 1, 4)
                level, depth = depth, depth + 1
            elif kind == _PROP and depth:
                value_size, value_start = self._word(position), position + 8
                name = self._property_name(self._word(position + 4))
                position, level = align_up(value_start + value_size, 4), depth
            elif kind == _END_NODE and depth:
                level = depth = depth - 1
            elif kind == _NOP:
                level = depth
            elif kind == _END and depth == 0 and start != 0:
                return
            else:
                raise self._error(f"unexpected token {kind} at structure offset 0x{start:x}")
            if position > len(structure):
                raise self._error(f"the structure block ends inside a token at offset 0x{start:x}")
            yield _Token(kind, start, position, level, name, value_start, value_size)

    def _word(self, offset: int) -> int:
        if offset + 4 > len(self.structure):
            raise self._error("the structure block has no end")
        return int.from_bytes(self.structure[offset : offset + 4], "big")

    def _property_name(self, offset: int) -> bytes:
        end = self.strings.find(b"\0", offset, offset + 256)
        if end < 0:
            raise self._error(f"no property name at strings offset 0x{offset:x}")
        return bytes(self.strings[offset:end])

    def _read_reservations(self, data: bytes, offset: int) -> bytes:
        for position in range(offset, len(data) - _RESERVATION.size + 1, _RESERVATION.size):
            if _RESERVATION.unpack_from(data, position) == (0, 0):
                return data[offset : position + _RESERVATION.size]
        raise self._error("the memory reservations have no end")

    def _error(self, why: str) -> ImageError:
        return ImageError(f"cannot use device tree {self.source}: {why}")
