"""Arrays: fixed, counted, two-dimensional, in part, allocated on load, and of pointers.

An element is a scalar's class (`UInt32`, or `UInt32.below(96)`), a VMStateDescription for a struct, or any other
`Info`. In the state an array is a list, or a bytearray for bytes; a two-dimensional one is a list of those. Elements
are loaded into the place that the fresh state has for them, so its lists have their full length beforehand.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Unpack

from emulator.migration.errors import MarkerError, StateError
from emulator.migration.fields.base import Attribute, Count, Counter, Entry, Field, FieldOptions, Info
from emulator.migration.fields.scalar import ScalarField
from emulator.migration.wire import Reader, Writer

if TYPE_CHECKING:
    from emulator.migration.vmstate import VMStateDescription

NULL_POINTER = 0x30
"""The byte that stands on the wire where an array of pointers holds a null pointer."""

Element = Info | type[ScalarField]


class Pointer(Info):
    """An element that may be missing: None in the state, one marker byte on the wire.

    The marker could as well be the first byte of an element, so the fresh state decides: an element that is None there
    must be missing in the stream, and no other may be.
    """

    def __init__(self, element: Element) -> None:
        self._info = info_of(element)
        self.type_name = self._info.type_name
        self.compresses = self._info.compresses

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """The element's, if it is a struct."""
        return self._info.descriptions

    def put(self, writer: Writer, value: Any, entry: Entry | None = None) -> None:
        """Append the element or the marker."""
        if value is not None:
            self._info.put(writer, value, entry)
            return
        if entry is not None and self.type_name == "struct":
            entry["struct"] = {}
        writer.u8(NULL_POINTER)

    def get(self, reader: Reader, current: Any) -> Any:
        """Read an element, or the marker if `current` is None."""
        if current is not None:
            return self._info.get(reader, current)
        begin = reader.offset
        if (marker := reader.u8()) != NULL_POINTER:
            raise MarkerError(f"a null pointer, 0x{NULL_POINTER:02x}", f"0x{marker:02x}", offset=begin)
        return None


def info_of(element: Element) -> Info:
    """The `Info` that an array's element stands for."""
    return element if isinstance(element, Info) else element.info


class _Elements(Field):
    """What arrays share: a sequence of elements, all of one form."""

    def __init__(self, name: str, element: Element, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, **options)
        self.attribute = Attribute(name)
        self.info = info_of(element)
        self.type_name = self.info.type_name

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The one attribute."""
        return (self.attribute,)

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """The elements', if they are structs."""
        return self.info.descriptions

    @property
    def compresses(self) -> bool:
        """Whether the first element describes all."""
        return self.field_exists is None and self.info.compresses

    @abstractmethod
    def _to_save(self, state: Any) -> Sequence[Any]:
        """The elements to be saved."""

    @abstractmethod
    def _to_load(self, state: Any, reader: Reader) -> Sequence[Any]:
        """The elements of the fresh state that are going to be loaded."""

    @abstractmethod
    def _store(self, state: Any, values: Sequence[Any]) -> None:
        """Put the loaded elements into their places."""

    def save(self, state: Any, writer: Writer) -> None:
        """Append the elements."""
        self.info.put_many(writer, self._to_save(state))

    def load(self, state: Any, reader: Reader) -> None:
        """Read the elements."""
        self._store(state, self.info.get_many(reader, self._to_load(state, reader)))

    def save_described(self, state: Any, writer: Writer, name: str) -> list[Entry]:
        """Append the elements, and describe the first for all if all have the same form."""
        values = self._to_save(state)
        entries: list[Entry] = []
        for index, value in enumerate(values):
            entry: Entry = {"name": name}
            if len(values) > 1:
                entry |= {"array_len": len(values)} if self.compresses else {"index": index}
            entry["type"] = self.type_name
            begin = writer.position
            self.info.put(writer, value, entry)
            entry["size"] = writer.position - begin
            entries.append(entry)
            if self.compresses:
                self.info.put_many(writer, values[1:])
                break
        return entries


class Array(_Elements):
    """`count` elements: all that the state's list has."""

    def __init__(self, name: str, element: Element, count: int, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, element, **options)
        self._count = count

    def _to_save(self, state: Any) -> Sequence[Any]:
        values: Sequence[Any] = self.attribute.get(state)
        if len(values) != self._count:
            raise StateError(f"{self._count} elements", len(values))
        return values

    def _to_load(self, state: Any, _reader: Reader) -> Sequence[Any]:
        return self._to_save(state)

    def _store(self, state: Any, values: Sequence[Any]) -> None:
        self.attribute.get(state)[:] = values


class SubArray(_Elements):
    """`count` elements of the state's list, from index `start` on; the others are not on the wire."""

    def __init__(self, name: str, element: Element, start: int, count: int, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, element, **options)
        self._part = slice(start, start + count)

    @property
    def extent(self) -> tuple[int, int]:
        """First and end of the elements."""
        return self._part.start, self._part.stop

    def _to_save(self, state: Any) -> Sequence[Any]:
        values: Sequence[Any] = self.attribute.get(state)
        if len(values) < self._part.stop:
            raise StateError(f"at least {self._part.stop} elements", len(values))
        return values[self._part]

    def _to_load(self, state: Any, _reader: Reader) -> Sequence[Any]:
        return self._to_save(state)

    def _store(self, state: Any, values: Sequence[Any]) -> None:
        self.attribute.get(state)[self._part] = values


class Array2D(_Elements):
    """`rows` times `columns` elements, row by row."""

    def __init__(self, name: str, element: Element, rows: int, columns: int, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, element, **options)
        self._rows = rows
        self._columns = columns

    def _to_save(self, state: Any) -> Sequence[Any]:
        rows = self.attribute.get(state)
        if [len(row) for row in rows] != [self._columns] * self._rows:
            raise StateError(f"{self._rows} rows of {self._columns} elements", [len(row) for row in rows])
        return list(itertools.chain.from_iterable(rows))

    def _to_load(self, state: Any, _reader: Reader) -> Sequence[Any]:
        return self._to_save(state)

    def _store(self, state: Any, values: Sequence[Any]) -> None:
        for index, row in enumerate(self.attribute.get(state)):
            row[:] = values[index * self._columns : (index + 1) * self._columns]


class VArray(_Elements):
    """The first elements of the state's list, `multiply` for each that `count` tells; the others stay as they are.

    The list's length in the fresh state bounds the count, and `maximum` does if that is given.
    """

    def __init__(
        self,
        name: str,
        element: Element,
        count: Count,
        *,
        maximum: int | None = None,
        multiply: int = 1,
        **options: Unpack[FieldOptions],
    ) -> None:
        super().__init__(name, element, **options)
        self._counter = Counter(count, unit="elements", multiply=multiply, maximum=maximum)

    @property
    def counter(self) -> Counter:
        """What tells the number of elements."""
        return self._counter

    def _to_save(self, state: Any) -> Sequence[Any]:
        values: Sequence[Any] = self.attribute.get(state)
        return values[: self._counter.to_save(state, len(values))]

    def _to_load(self, state: Any, reader: Reader) -> Sequence[Any]:
        values: Sequence[Any] = self.attribute.get(state)
        return values[: self._counter.to_load(state, reader, len(values))]

    def _store(self, state: Any, values: Sequence[Any]) -> None:
        self.attribute.get(state)[: len(values)] = values


class VArrayAlloc(VArray):
    """A list of as many elements as `count` tells, made anew on load: at most `maximum` of them."""

    def __init__(
        self,
        name: str,
        element: Element,
        count: Count,
        *,
        maximum: int,
        multiply: int = 1,
        **options: Unpack[FieldOptions],
    ) -> None:
        super().__init__(name, element, count, maximum=maximum, multiply=multiply, **options)

    def _to_save(self, state: Any) -> Sequence[Any]:
        values = super()._to_save(state)
        if len(values) != len(self.attribute.get(state)):
            raise StateError(f"{len(values)} elements", len(self.attribute.get(state)))
        return values

    def _to_load(self, state: Any, reader: Reader) -> Sequence[Any]:
        return [None] * self._counter.to_load(state, reader, None)

    def _store(self, state: Any, values: Sequence[Any]) -> None:
        self.attribute.set(state, list(values))


class ArrayOfPointer(Array):
    """`count` elements of which some may be None; see `Pointer`."""

    def __init__(self, name: str, element: Element, count: int, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, Pointer(element), count, **options)
