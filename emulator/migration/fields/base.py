"""The two ideas that every field is made of.

An `Info` (QEMU's VMStateInfo) knows how one value looks on the wire. A `Field` (QEMU's VMStateField) knows where the
values are in the state, how many there are, and when they are sent. A VMStateDescription is itself an `Info`, of which
a struct is the value.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, TypedDict, Unpack

from emulator.migration.errors import CountError, StateError, StreamError
from emulator.migration.wire import Reader, Writer

if TYPE_CHECKING:
    from emulator.migration.vmstate import VMStateDescription

Entry = dict[str, Any]
"""The JSON object that describes one saved field or element; see vmdesc.py."""

Exists = Callable[[Any, int], bool]
"""A field's condition, given the state and the version that is being saved or loaded."""

Count = str | Callable[[Any], int]
"""Where a count comes from: the name of an attribute, or a function of the state."""


class Info(ABC):
    """How one value looks on the wire; `type_name` is QEMU's name for that form."""

    type_name: str
    compresses: bool = True
    """Whether the JSON may describe all elements of an array by the first one."""

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """The description of the value, if that is a struct."""
        return ()

    @abstractmethod
    def put(self, writer: Writer, value: Any, entry: Entry | None = None) -> None:
        """Append `value`, and to `entry` what its description needs; raises StateError for a value that cannot be."""

    @abstractmethod
    def get(self, reader: Reader, current: Any) -> Any:
        """Read a value; `current` is what the fresh state has in its place. Raises StreamError."""

    def put_many(self, writer: Writer, values: Sequence[Any]) -> None:
        """Append an array's elements."""
        for index, value in enumerate(values):
            try:
                self.put(writer, value)
            except StateError as error:
                error.within(f"[{index}]")
                raise

    def get_many(self, reader: Reader, current: Sequence[Any]) -> Sequence[Any]:
        """Read as many elements as `current` has."""
        values = []
        for index, value in enumerate(current):
            try:
                values.append(self.get(reader, value))
            except StreamError as error:
                error.within(f"[{index}]")
                raise
        return values


class Attribute:
    """An attribute of a state, named by a path such as `env.pc`."""

    __slots__ = ("get", "name", "owner", "path")

    def __init__(self, path: str) -> None:
        owner, _, self.name = path.rpartition(".")
        self.path = path
        self.get: Callable[[Any], Any] = operator.attrgetter(path)
        self.owner: Callable[[Any], Any] | None = operator.attrgetter(owner) if owner else None
        """From the state to the object that has the attribute; None if that is the state itself."""

    def set(self, state: Any, value: Any) -> None:
        """Give the attribute a new value."""
        setattr(self.owner(state) if self.owner else state, self.name, value)


class Counter:
    """A number of elements, bytes or bits that some other part of the state tells.

    `unit` is what one is called in messages, `multiply` how many there are for each that the source counts, `maximum`
    the most that may be loaded.
    """

    def __init__(self, source: Count, *, unit: str, multiply: int = 1, maximum: int | None = None) -> None:
        if multiply < 1 or (maximum is not None and maximum < 0):
            raise ValueError("multiply must be at least 1, maximum at least 0")
        self.attribute = Attribute(source) if isinstance(source, str) else None
        self._get: Callable[[Any], int] = operator.attrgetter(source) if isinstance(source, str) else source
        self._unit = unit
        self._multiply = multiply
        self._maximum = maximum

    def to_save(self, state: Any, available: int) -> int:
        """The count, which `available` and the maximum must cover; raises StateError."""
        count, most = self._look(state, available)
        if not 0 <= count <= most:
            raise StateError(f"a count of 0 to {most} {self._unit}", count)
        return count

    def to_load(self, state: Any, reader: Reader, available: int | None) -> int:
        """The count; raises CountError beyond the maximum or, unless it is to be allocated, what is `available`."""
        count, most = self._look(state, available)
        if not 0 <= count <= most:
            raise CountError("", count, f"a count of 0 to {most} {self._unit}", offset=reader.offset)
        return count

    def _look(self, state: Any, available: int | None) -> tuple[int, int]:
        bounds = [bound for bound in (available, self._maximum) if bound is not None]
        return self._get(state) * self._multiply, min(bounds)


class FieldOptions(TypedDict, total=False):
    """What can be said about every field."""

    wire_name: str
    version_id: int
    last_version_id: int
    field_exists: Exists


class Field(ABC):
    """A part of a state, in its place in the wire's order.

    `wire_name` is the name in the stream's own description, QEMU's if that differs from the attribute's. The field is
    on the wire from `version_id` on, up to `last_version_id` if that is given (QEMU drops a field by breaking with all
    older versions; who speaks several of them needs both ends). If `field_exists` is given, that alone decides.
    """

    type_name: str
    must_exist: ClassVar[bool] = False
    """Whether `field_exists` is a test that every state must pass."""

    def __init__(self, name: str, **options: Unpack[FieldOptions]) -> None:
        self.wire_name = options.get("wire_name", name)
        self.version_id = options.get("version_id", 0)
        self.last_version_id = options.get("last_version_id")
        self.field_exists = options.get("field_exists")

    def is_in(self, version_id: int) -> bool:
        """Whether the field can be on the wire of that version."""
        if self.field_exists is not None:
            return True
        return self.version_id <= version_id and (self.last_version_id is None or version_id <= self.last_version_id)

    @property
    def compresses(self) -> bool:
        """Whether the JSON may describe an array of structs with this field by its first element."""
        return self.field_exists is None

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """What the field stores in the state."""
        return ()

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """The descriptions of the structs that the attribute holds."""
        return ()

    @property
    def counter(self) -> Counter | None:
        """What tells how much of the field there is, if that is not fixed."""
        return None

    @property
    def extent(self) -> tuple[int, int] | None:
        """First and end of the part of the attribute that the field stores; None for all of it."""
        return None

    @abstractmethod
    def save(self, state: Any, writer: Writer) -> None:
        """Append the field of `state`; raises StateError."""

    @abstractmethod
    def load(self, state: Any, reader: Reader) -> None:
        """Read the field into the fresh `state`; raises StreamError."""

    def save_described(self, state: Any, writer: Writer, name: str) -> list[Entry]:
        """Append the field of `state`, and return how it would be described under `name`."""
        entry: Entry = {"name": name, "type": self.type_name}
        begin = writer.position
        self._save_into(state, writer, entry)
        entry["size"] = writer.position - begin
        return [entry]

    def _save_into(self, state: Any, writer: Writer, _entry: Entry) -> None:
        self.save(state, writer)


class Single(Field):
    """One value in one attribute: `Single("config", PciConfig())` for an `Info` of one's own."""

    def __init__(self, name: str, info: Info, **options: Unpack[FieldOptions]) -> None:
        super().__init__(name, **options)
        self.attribute = Attribute(name)
        self.info = info
        self.type_name = info.type_name

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The one attribute."""
        return (self.attribute,)

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """The value's, if it is a struct."""
        return self.info.descriptions

    @property
    def compresses(self) -> bool:
        """Whether field and value have the same form in every element."""
        return self.field_exists is None and self.info.compresses

    def save(self, state: Any, writer: Writer) -> None:
        """Append the value."""
        self.info.put(writer, self.attribute.get(state))

    def load(self, state: Any, reader: Reader) -> None:
        """Read the value."""
        self.attribute.set(state, self.info.get(reader, self.attribute.get(state)))

    def _save_into(self, state: Any, writer: Writer, entry: Entry) -> None:
        self.info.put(writer, self.attribute.get(state), entry)
