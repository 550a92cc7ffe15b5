"""Bytes and bits: buffers, whole, in part and counted; bitmaps; space that is not used any more.

In the state a buffer is `bytes` or a bytearray, a bitmap an integer whose bit n is bit n of the map.
"""

from __future__ import annotations

from typing import Any, Unpack

from emulator.migration.errors import FieldRangeError, StateError
from emulator.migration.fields.base import Attribute, Count, Counter, Entry, Field, FieldOptions
from emulator.migration.wire import Reader, Writer

WORD_BITS = 64


class _Bytes(Field):
    """What buffers share: an attribute that holds bytes, mutable or not."""

    type_name = "buffer"

    def __init__(self, name: str, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, **options)
        self.attribute = Attribute(name)

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The one attribute."""
        return (self.attribute,)

    def _store(self, state: Any, begin: int, data: bytes) -> None:
        """Put `data` at `begin`, in place where the state's buffer lets itself be changed."""
        current = self.attribute.get(state)
        if isinstance(current, bytes):
            self.attribute.set(state, current[:begin] + data + current[begin + len(data) :])
        else:
            current[begin : begin + len(data)] = data


class Buffer(_Bytes):
    """A buffer of `size` bytes, all of them."""

    def __init__(self, name: str, size: int, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, **options)
        self._size = size

    def save(self, state: Any, writer: Writer) -> None:
        """Append the bytes."""
        data = self.attribute.get(state)
        if len(data) != self._size:
            raise StateError(f"{self._size} bytes", len(data))
        writer.write(data)

    def load(self, state: Any, reader: Reader) -> None:
        """Read the bytes."""
        self._store(state, 0, reader.read(self._size))


class PartialBuffer(_Bytes):
    """`size` bytes of a buffer, from byte `start` on; the others are not on the wire."""

    def __init__(self, name: str, size: int, *, start: int = 0, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, **options)
        self._part = slice(start, start + size)

    @property
    def extent(self) -> tuple[int, int]:
        """First and end of the bytes."""
        return self._part.start, self._part.stop

    def save(self, state: Any, writer: Writer) -> None:
        """Append the bytes."""
        data = self.attribute.get(state)
        if len(data) < self._part.stop:
            raise StateError(f"at least {self._part.stop} bytes", len(data))
        writer.write(data[self._part])

    def load(self, state: Any, reader: Reader) -> None:
        """Read the bytes."""
        self._store(state, self._part.start, reader.read(self._part.stop - self._part.start))


class VBuffer(_Bytes):
    """The first bytes of a buffer, `multiply` for each that `size` tells; the others stay as they are.

    The buffer's length in the fresh state bounds the size, and `maximum` (bytes) does if that is given.
    """

    def __init__(
        self,
        name: str,
        size: Count,
        *,
        maximum: int | None = None,
        multiply: int = 1,
        **options: Unpack[FieldOptions],
    ) -> None:
        super().__init__(name, **options)
        self._counter = Counter(size, unit="bytes", multiply=multiply, maximum=maximum)

    @property
    def counter(self) -> Counter:
        """What tells the number of bytes."""
        return self._counter

    def save(self, state: Any, writer: Writer) -> None:
        """Append the bytes."""
        data = self.attribute.get(state)
        writer.write(data[: self._counter.to_save(state, len(data))])

    def load(self, state: Any, reader: Reader) -> None:
        """Read the bytes."""
        size = self._counter.to_load(state, reader, len(self.attribute.get(state)))
        self._store(state, 0, reader.read(size))


class VBufferAlloc(VBuffer):
    """As many bytes as `size` tells, in a buffer made anew on load: at most `maximum` of them."""

    def __init__(
        self, name: str, size: Count, *, maximum: int, multiply: int = 1, **options: Unpack[FieldOptions]
    ) -> None:
        super().__init__(name, size, maximum=maximum, multiply=multiply, **options)

    def save(self, state: Any, writer: Writer) -> None:
        """Append the bytes."""
        data = self.attribute.get(state)
        if self._counter.to_save(state, len(data)) != len(data):
            raise StateError(f"{self._counter.to_save(state, len(data))} bytes", len(data))
        writer.write(data)

    def load(self, state: Any, reader: Reader) -> None:
        """Read the bytes."""
        data = reader.view(self._counter.to_load(state, reader, None))
        kind = bytes if isinstance(self.attribute.get(state), bytes) else bytearray
        self.attribute.set(state, kind(data))


class Bitmap(Field):
    """A map of as many bits as `size` tells, at most `maximum`, in 64-bit words from bit 0 on."""

    type_name = "bitmap"

    def __init__(self, name: str, size: Count, *, maximum: int, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, **options)
        self.attribute = Attribute(name)
        self._counter = Counter(size, unit="bits", maximum=maximum)
        self._maximum = maximum

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The one attribute."""
        return (self.attribute,)

    @property
    def counter(self) -> Counter:
        """What tells the number of bits."""
        return self._counter

    def save(self, state: Any, writer: Writer) -> None:
        """Append the words."""
        size = self._counter.to_save(state, self._maximum)
        bits = self.attribute.get(state)
        if bits < 0 or bits.bit_length() > size:
            raise StateError(f"bits 0 to {size - 1} only", hex(bits))
        words = -(-size // WORD_BITS)
        writer.write(_reverse_words(bits.to_bytes(8 * words, "big")))

    def load(self, state: Any, reader: Reader) -> None:
        """Read the words; bits past the size must be clear."""
        size = self._counter.to_load(state, reader, None)
        begin = reader.offset
        bits = int.from_bytes(_reverse_words(reader.read(-(-size // WORD_BITS) * 8)), "big")
        if bits.bit_length() > size:
            raise FieldRangeError("", f"bit {bits.bit_length() - 1}", f"bits 0 to {size - 1} only", offset=begin)
        self.attribute.set(state, bits)


def _reverse_words(data: bytes) -> bytes:
    """The 8-byte words of `data` in reverse order."""
    return b"".join(data[begin : begin + 8] for begin in range(len(data) - 8, -1, -8))


class Unused(Field):
    """`size` bytes that an older version used: zeros when saved, ignored when loaded."""

    type_name = "unused_buffer"

    def __init__(self, size: int, **options: Unpack[FieldOptions]) -> None:
        super().__init__("unused", **options)
        self._size = size

    def save(self, _state: Any, writer: Writer) -> None:
        """Append zeros."""
        writer.write(bytes(self._size))

    def load(self, _state: Any, reader: Reader) -> None:
        """Pass over the bytes."""
        reader.skip(self._size)


class UnusedVArray(Field):
    """Unused space of `size` bytes for each that `count` tells, at most `maximum` of those."""

    type_name = "unused_buffer"

    def __init__(self, count: Count, size: int, *, maximum: int, **options: Unpack[FieldOptions]) -> None:
        super().__init__("unused", **options)
        self._counter = Counter(count, unit="elements", maximum=maximum)
        self._maximum = maximum
        self._size = size

    @property
    def counter(self) -> Counter:
        """What tells the number of elements."""
        return self._counter

    def save(self, state: Any, writer: Writer) -> None:
        """Append zeros."""
        writer.write(bytes(self._counter.to_save(state, self._maximum) * self._size))

    def load(self, state: Any, reader: Reader) -> None:
        """Pass over the bytes."""
        reader.skip(self._counter.to_load(state, reader, None) * self._size)

    def save_described(self, state: Any, writer: Writer, name: str) -> list[Entry]:
        """Append zeros, and describe them as the array that they were."""
        self.save(state, writer)
        count = self._counter.to_save(state, self._maximum)
        entry: Entry = {"type": self.type_name, "size": self._size}
        if count < 2:
            return [{"name": name} | entry] * count
        if self.compresses:
            return [{"name": name, "array_len": count} | entry]
        return [{"name": name, "index": index} | entry for index in range(count)]
