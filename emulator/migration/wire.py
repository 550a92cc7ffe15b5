"""Exact big-endian reading and writing: the byte level of QEMU's migration stream.

A `Reader` never runs past its end: a short read raises TruncatedError with the offset at which the value began, and
nothing is allocated for it.
"""

from __future__ import annotations

import struct
from typing import Any

from emulator.migration.errors import TruncatedError

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_U64 = struct.Struct(">Q")


class Reader:
    """Reads values one after the other from `data`; `base` is the offset of its first byte in the whole stream.

    `ran_dry` tells whether somebody has looked for bytes behind the end, and taken it that there are none.
    """

    __slots__ = ("_base", "_data", "_position", "ran_dry")

    def __init__(self, data: bytes | bytearray | memoryview, *, base: int = 0) -> None:
        self._data = memoryview(data).cast("B")
        self._position = 0
        self._base = base
        self.ran_dry = False

    @property
    def offset(self) -> int:
        """Where the next byte lies in the whole stream."""
        return self._base + self._position

    @property
    def remaining(self) -> int:
        """Bytes that have not been read yet."""
        return len(self._data) - self._position

    def read(self, length: int) -> bytes:
        """The next `length` bytes (0 or more)."""
        return self.view(length).tobytes()

    def view(self, length: int) -> memoryview:
        """The next `length` bytes (0 or more), not copied."""
        begin = self._advance(length)
        return self._data[begin : self._position]

    def skip(self, length: int) -> None:
        """Pass over `length` bytes (0 or more)."""
        self._advance(length)

    def unpack(self, layout: struct.Struct) -> tuple[Any, ...]:
        """The values of a `struct` layout."""
        return layout.unpack_from(self._data, self._advance(layout.size))

    def u8(self) -> int:
        """An unsigned byte."""
        return self._data[self._advance(1)]

    def u16(self) -> int:
        """An unsigned 16-bit number."""
        return int(self.unpack(_U16)[0])

    def u32(self) -> int:
        """An unsigned 32-bit number."""
        return int(self.unpack(_U32)[0])

    def u64(self) -> int:
        """An unsigned 64-bit number."""
        return int(self.unpack(_U64)[0])

    def peek(self, ahead: int = 0) -> int | None:
        """The byte `ahead` of the next one, or None past the end; nothing is consumed."""
        position = self._position + ahead
        if position < len(self._data):
            return self._data[position]
        self.ran_dry = True
        return None

    def peek_bytes(self, ahead: int, length: int) -> bytes:
        """Up to `length` bytes, fewer at the end, from `ahead` bytes after the next one; nothing is consumed."""
        begin = self._position + ahead
        found = self._data[begin : begin + length].tobytes()
        self.ran_dry |= len(found) < length
        return found

    def rest(self) -> memoryview:
        """Everything that has not been read yet, not copied; nothing is consumed."""
        return self._data[self._position :]

    def _advance(self, length: int) -> int:
        begin = self._position
        if length > len(self._data) - begin:
            raise TruncatedError(length, len(self._data) - begin, offset=self._base + begin)
        self._position = begin + length
        return begin


class Writer:
    """Collects bytes; `data` is what has been written so far."""

    __slots__ = ("data", "write")

    def __init__(self) -> None:
        self.data = bytearray()
        self.write = self.data.extend
        """Append bytes; an attribute rather than a method, as it is called for every field."""

    @property
    def position(self) -> int:
        """How many bytes have been written."""
        return len(self.data)

    def u8(self, value: int) -> None:
        """Append an unsigned byte."""
        self.data.append(value)

    def u16(self, value: int) -> None:
        """Append an unsigned 16-bit number."""
        self.write(_U16.pack(value))

    def u32(self, value: int) -> None:
        """Append an unsigned 32-bit number."""
        self.write(_U32.pack(value))

    def u64(self, value: int) -> None:
        """Append an unsigned 64-bit number."""
        self.write(_U64.pack(value))
