"""Runs: scalars that stand side by side, saved with one `struct` call and loaded with one.

A run is only a faster way to do what its fields do one after the other. Whenever something is wrong, it lets them do
it, so that the error names the field and the byte.
"""

from __future__ import annotations

import itertools
import operator
import struct
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from emulator.migration.errors import StateError, StreamError
from emulator.migration.fields.base import Field
from emulator.migration.fields.scalar import ScalarField
from emulator.migration.wire import Reader, Writer


class Run:
    """Two or more scalar fields that are always on the wire, one after the other."""

    wire_name = ""
    field_exists = None
    must_exist = False

    def __init__(self, fields: list[ScalarField]) -> None:
        infos = [field.info for field in fields]
        self._fields = fields
        self._codes = "".join(info.code for info in infos)
        self._layout = struct.Struct(">" + self._codes)
        self._get = operator.attrgetter(*(field.attribute.path for field in fields))
        self._encoders = [(index, info.encode) for index, info in enumerate(infos) if info.encode]
        self._decoders = [(index, info.decode) for index, info in enumerate(infos) if info.decode]
        self._owners = _by_owner(fields)

    def save(self, state: Any, writer: Writer) -> None:
        """Append all values."""
        values: Sequence[Any] = self._get(state)
        try:
            if self._encoders:
                values = self._encode(values)
            writer.write(self._layout.pack(*values))
        except (StateError, struct.error, TypeError, OverflowError):
            for field in self._fields:
                _save_named(field, state, writer)

    def load(self, state: Any, reader: Reader) -> None:
        """Read all values, and then give each to its attribute."""
        if reader.remaining < self._layout.size:
            for field in self._fields:
                _load_named(field, state, reader)
        values = reader.unpack(self._layout)
        if self._decoders:
            values = self._decode(values, reader)
        for owner, names, part in self._owners:
            target = owner(state) if owner else state
            for name, value in zip(names, values[part], strict=True):
                setattr(target, name, value)

    @property
    def repeats(self) -> bool:
        """Whether `save_all` and `load_all` can be used: the values are as on the wire, and the states' own."""
        return not (self._encoders or self._decoders or any(owner for owner, _names, _part in self._owners))

    def save_all(self, states: Sequence[Any], writer: Writer) -> bool:
        """Append the values of all states one after the other; False, and nothing is appended, if one is wrong."""
        values = itertools.chain.from_iterable(map(self._get, states))
        try:
            writer.write(struct.pack(">" + self._codes * len(states), *values))
        except (struct.error, TypeError, OverflowError, AttributeError):
            return False
        return True

    def load_all(self, states: Sequence[Any], reader: Reader) -> bool:
        """Read the values of all states one after the other; False, and nothing is read, if that is not all there."""
        layout = struct.Struct(">" + self._codes * len(states))
        if reader.remaining < layout.size:
            return False
        values = iter(reader.unpack(layout))
        for state in states:
            for field in self._fields:
                setattr(state, field.attribute.name, next(values))
        return True

    def _encode(self, values: Sequence[Any]) -> list[Any]:
        wire = list(values)
        for index, encode in self._encoders:
            wire[index] = encode(wire[index])
        return wire

    def _decode(self, wire: tuple[Any, ...], reader: Reader) -> tuple[Any, ...]:
        values = list(wire)
        for index, decode in self._decoders:
            try:
                values[index] = decode(values[index])
            except StreamError as error:
                behind = struct.calcsize(">" + self._codes[index:])
                error.offset = reader.offset - behind
                error.within(self._fields[index].wire_name)
                raise
        return tuple(values)


def _by_owner(
    fields: list[ScalarField],
) -> list[tuple[Callable[[Any], Any] | None, tuple[str, ...], slice]]:
    """Neighbours whose attributes belong to the same object: how to reach it, their names, which values are theirs."""
    groups = []
    begin = 0
    for _, group in itertools.groupby(fields, lambda field: field.attribute.path.rpartition(".")[0]):
        members = list(group)
        names = tuple(field.attribute.name for field in members)
        groups.append((members[0].attribute.owner, names, slice(begin, begin + len(members))))
        begin += len(members)
    return groups


def _save_named(field: Field, state: Any, writer: Writer) -> None:
    try:
        field.save(state, writer)
    except StateError as error:
        error.within(field.wire_name)
        raise


def _load_named(field: Field, state: Any, reader: Reader) -> None:
    try:
        field.load(state, reader)
    except StreamError as error:
        error.within(field.wire_name)
        raise


def compile_fields(fields: Iterable[Field], version_id: int) -> list[Field | Run]:
    """The fields that a version can have, with runs of scalars in place of neighbours that always are on the wire."""
    steps: list[Field | Run] = []
    present = (field for field in fields if field.is_in(version_id))
    for is_plain, group in itertools.groupby(present, _is_plain):
        members = list(group)
        plain = [field for field in members if isinstance(field, ScalarField)]
        if is_plain and len(plain) > 1:
            steps.append(Run(plain))
        else:
            steps.extend(members)
    return steps


def _is_plain(field: Field) -> bool:
    return isinstance(field, ScalarField) and field.field_exists is None
