"""Containers that say themselves when they end: tail queue, list, balanced tree.

Each element is announced by a byte 01, the end by 00. In the state, a queue or list is a list (or deque) of structs
and a tree is a dict. `maximum` bounds the number of elements that are loaded.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Unpack

from emulator.migration.errors import CountError, FieldRangeError, MarkerError, StateError, StreamError
from emulator.migration.fields.base import Attribute, Entry, Field, FieldOptions
from emulator.migration.wire import Reader, Writer

if TYPE_CHECKING:
    from emulator.migration.vmstate import VMStateDescription

END, ELEMENT = 0, 1


def _announces_element(reader: Reader) -> bool:
    begin = reader.offset
    if (marker := reader.u8()) > ELEMENT:
        raise MarkerError("01 before an element or 00 at the end", f"{marker:02x}", offset=begin)
    return marker == ELEMENT


class QTailQ(Field):
    """A tail queue of structs, first to last."""

    type_name = "qtailq"

    def __init__(
        self, name: str, description: VMStateDescription, *, maximum: int, **options: Unpack[FieldOptions]
    ) -> None:
        super().__init__(name, **options)
        self.attribute = Attribute(name)
        self.description = description
        self._maximum = maximum

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The one attribute."""
        return (self.attribute,)

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """The elements'."""
        return (self.description,)

    def save(self, state: Any, writer: Writer) -> None:
        """Append the elements."""
        self._save_into(state, writer, None)

    def load(self, state: Any, reader: Reader) -> None:
        """Read the elements; they replace those of the fresh state."""
        values: list[Any] = []
        while _announces_element(reader):
            if len(values) == self._maximum:
                raise CountError("", "one more", f"at most {self._maximum} elements", offset=reader.offset - 1)
            try:
                values.append(self.description.get(reader, None))
            except StreamError as error:
                error.within(f"[{len(values)}]")
                raise
        queue = self.attribute.get(state)
        queue.clear()
        queue.extend(values)

    def _save_into(self, state: Any, writer: Writer, entry: Entry | None) -> None:
        values = self.attribute.get(state)
        if len(values) > self._maximum:
            raise StateError(f"at most {self._maximum} elements", len(values))
        for index, value in enumerate(values):
            writer.u8(ELEMENT)
            try:
                self.description.save(value, writer, vmdesc=entry)
            except StateError as error:
                error.within(f"[{index}]")
                raise
        writer.u8(END)


class QList(QTailQ):
    """A list of structs, from its head on; on the wire as a tail queue."""

    type_name = "qlist"


class GTree(Field):
    """A balanced tree of structs: a dict in the state, in the keys' order on the wire, after the number of nodes.

    Without `key`, keys are unsigned 64-bit numbers. With it they are structs of that description, whose state class
    must be hashable, and `order` gives what they are sorted by. Keys that are loaded must ascend, none twice.
    """

    type_name = "gtree"

    def __init__(
        self,
        name: str,
        value: VMStateDescription,
        *,
        maximum: int,
        key: VMStateDescription | None = None,
        order: Callable[[Any], Any] = int,
        **options: Unpack[FieldOptions],
    ) -> None:
        super().__init__(name, **options)
        if key is not None and (order is int or key.state_class.__hash__ is None):
            raise ValueError(f"{name}: keys that are structs need an order and a hash")
        self.attribute = Attribute(name)
        self.value = value
        self.key = key
        self._order = order
        self._maximum = maximum

    @property
    def attributes(self) -> tuple[Attribute, ...]:
        """The one attribute."""
        return (self.attribute,)

    @property
    def descriptions(self) -> tuple[VMStateDescription, ...]:
        """The values' and, if they are structs, the keys'."""
        return (self.value, self.key) if self.key else (self.value,)

    def save(self, state: Any, writer: Writer) -> None:
        """Append the nodes."""
        self._save_into(state, writer, None)

    def load(self, state: Any, reader: Reader) -> None:
        """Read the nodes; they replace those of the fresh state."""
        begin = reader.offset
        count = reader.u32()
        if count > self._maximum:
            raise CountError("", count, f"0 to {self._maximum} nodes", offset=begin)
        tree: dict[Any, Any] = {}
        last: Any = None
        while _announces_element(reader):
            begin = reader.offset
            if len(tree) == count:
                raise CountError("", "one more", f"{count} nodes", offset=begin - 1)
            try:
                key = self.key.get(reader, None) if self.key else reader.u64()
                if tree and not self._order(last) < self._order(key):
                    raise FieldRangeError("", key, f"a key above {last}", offset=begin)
                tree[key] = self.value.get(reader, None)
            except StreamError as error:
                error.within(f"[{len(tree)}]")
                raise
            last = key
        if len(tree) != count:
            raise CountError("", len(tree), f"{count} nodes", offset=reader.offset)
        nodes = self.attribute.get(state)
        nodes.clear()
        nodes.update(tree)

    def _save_into(self, state: Any, writer: Writer, entry: Entry | None) -> None:
        tree = self.attribute.get(state)
        if len(tree) > self._maximum:
            raise StateError(f"at most {self._maximum} nodes", len(tree))
        writer.u32(len(tree))
        for index, key in enumerate(sorted(tree, key=self._order)):
            writer.u8(ELEMENT)
            try:
                self._put_key(writer, key, entry)
                self.value.save(tree[key], writer, vmdesc=entry)
            except StateError as error:
                error.within(f"[{index}]")
                raise
        writer.u8(END)

    def _put_key(self, writer: Writer, key: Any, entry: Entry | None) -> None:
        if self.key is not None:
            self.key.save(key, writer, vmdesc=entry)
            return
        try:
            writer.u64(key)
        except struct.error:
            raise StateError("an unsigned 64-bit key", key) from None
