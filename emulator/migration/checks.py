"""What can be known of a description without any state: whether it is sound, and whether it is complete.

`check_description` runs whenever one is built; `unknown_attributes` is for the tests of whoever owns the state.
"""

from __future__ import annotations

import dataclasses
import itertools
import typing
from typing import TYPE_CHECKING, Any

from emulator.migration.errors import DescriptionError
from emulator.migration.fields.base import Field
from emulator.migration.fields.structs import StructAtVersion, WithTmp

if TYPE_CHECKING:
    from emulator.migration.vmstate import VMStateDescription

NAME_LIMIT = 255
"""Bytes in the name of a section or subsection."""

PARENT = "parent"
"""The attribute by which a temporary reaches the state object."""


def check_description(description: VMStateDescription) -> None:
    """Raise DescriptionError if `description` contradicts itself or its state class."""
    try:
        _check_heading(description)
        _check_versions(description)
        _check_attributes(description)
        _check_duplicates(description)
        _check_counters(description)
        _check_subsections(description)
    except _Contradiction as contradiction:
        raise DescriptionError(description.name, str(contradiction)) from None


def unknown_attributes(description: VMStateDescription) -> tuple[str, ...]:
    """Paths of the attributes that no field describes, nested structs included, and that are not marked derived."""
    known = _described(description) | set(description.derived)
    unknown = list(_undescribed(description.state_class, "", known))
    for path, nested in _nested(description):
        unknown += [f"{path}.{name}" for name in unknown_attributes(nested)]
    for name, nested in _temporaries(description):
        unknown += [f"{name}.{path}" for path in unknown_attributes(nested) if path.split(".")[0] != PARENT]
    return tuple(dict.fromkeys(unknown))


class _Contradiction(Exception):  # noqa: N818 - never leaves this file
    pass


def _check_heading(description: VMStateDescription) -> None:
    if not description.name.isascii() or not 0 < len(description.name) <= NAME_LIMIT:
        raise _Contradiction(f"a name has 1 to {NAME_LIMIT} ASCII characters")
    if not dataclasses.is_dataclass(description.state_class):
        raise _Contradiction(f"{description.state_class.__name__} is not a dataclass")


def _check_versions(description: VMStateDescription) -> None:
    if not 0 <= description.minimum_version_id <= description.version_id:
        raise _Contradiction(f"no version from {description.minimum_version_id} to {description.version_id}")
    for field in description.fields:
        last = description.version_id if field.last_version_id is None else field.last_version_id
        if field.field_exists is None and not 0 <= field.version_id <= min(last, description.version_id):
            raise _Contradiction(f"field {field.wire_name} of version {field.version_id} is never on the wire")
        info = getattr(field, "info", None)
        if isinstance(info, StructAtVersion):
            nested = info.description
            if not nested.minimum_version_id <= info.version_id <= nested.version_id:
                raise _Contradiction(f"field {field.wire_name}: {nested.name} has no version {info.version_id}")


def _check_attributes(description: VMStateDescription) -> None:
    for field in description.fields:
        for attribute in field.attributes:
            _require(description.state_class, attribute.path)
        if field.counter and field.counter.attribute:
            _require(description.state_class, field.counter.attribute.path, computed=True)
        if isinstance(field, WithTmp):
            _require(field.description.state_class, PARENT)
            for path in field.covers:
                _require(description.state_class, path)
            _check_inline(description, field)
    described = _described(description)
    for path in description.derived:
        _require(description.state_class, path)
        if path in described:
            raise _Contradiction(f"{path} is described and yet marked derived")


def _check_inline(description: VMStateDescription, field: WithTmp) -> None:
    """Raise if the fields of a temporary cannot be described as if they were the parent's."""
    if not field.inline:
        return
    if field.description.subsections:
        raise _Contradiction(f"{field.description.name} is inline and has subsections")
    names = {other.wire_name for other in description.fields}
    for part in field.description.fields:
        if part.wire_name in names:
            raise _Contradiction(f"{part.wire_name} is described twice, once in {field.description.name}")


def _check_duplicates(description: VMStateDescription) -> None:
    stored = [(attribute.path, field) for field in description.fields for attribute in field.attributes]
    for (path, field), (other_path, other) in itertools.combinations(stored, 2):
        if (field.field_exists and other.field_exists) or _take_turns(field, other) or _take_turns(other, field):
            continue
        same = path == other_path and _overlap(field, other)
        if same or path.startswith(other_path + ".") or other_path.startswith(path + "."):
            raise _Contradiction(f"{max(path, other_path, key=len)} is described twice")


def _take_turns(earlier: Field, later: Field) -> bool:
    """Whether the versions that have the first end before those that have the other begin."""
    return earlier.last_version_id is not None and earlier.last_version_id < later.version_id


def _overlap(field: Field, other: Field) -> bool:
    if field.extent is None or other.extent is None:
        return True
    return field.extent[0] < other.extent[1] and other.extent[0] < field.extent[1]


def _check_counters(description: VMStateDescription) -> None:
    later: set[str] = set()
    for field in reversed(description.fields):
        later |= {attribute.path for attribute in field.attributes}
        if field.counter and field.counter.attribute and field.counter.attribute.path in later:
            raise _Contradiction(f"{field.counter.attribute.path} is loaded after {field.wire_name}, which it counts")


def _check_subsections(description: VMStateDescription) -> None:
    names = [subsection.name for subsection in description.subsections]
    for subsection in description.subsections:
        if not subsection.name.startswith(description.name) or subsection.name == description.name:
            raise _Contradiction(f"subsection {subsection.name} is not named {description.name}...")
        if names.count(subsection.name) > 1:
            raise _Contradiction(f"subsection {subsection.name} is there twice")
        if subsection.state_class is not description.state_class:
            raise _Contradiction(f"subsection {subsection.name} describes {subsection.state_class.__name__}")


def _require(state_class: type[Any], path: str, *, computed: bool = False) -> None:
    """Raise unless the class has the attribute; `computed` allows a property."""
    owner, _, name = path.rpartition(".")
    if owner:
        state_class = _class_of(state_class, owner)
    if computed and isinstance(getattr(state_class, name, None), property):
        return
    if name not in {field.name for field in dataclasses.fields(state_class)}:
        raise _Contradiction(f"{state_class.__name__} has no attribute {name}")


def _class_of(state_class: type[Any], path: str) -> type[Any]:
    """The dataclass of the object at `path`."""
    for name in path.split("."):
        _require(state_class, name)
        try:
            hint = typing.get_type_hints(state_class)[name]
        except NameError as error:
            raise _Contradiction(f"cannot tell what {state_class.__name__}.{name} is: {error}") from None
        choices = [choice for choice in typing.get_args(hint) or (hint,) if dataclasses.is_dataclass(choice)]
        if len(choices) != 1 or not isinstance(choices[0], type):
            raise _Contradiction(f"{state_class.__name__}.{name} is not a dataclass")
        state_class = choices[0]
    return state_class


def _described(description: VMStateDescription) -> set[str]:
    """Paths of all attributes of the state that the description or one of its subsections stores."""
    paths: set[str] = set()
    for field in description.fields:
        paths |= {attribute.path for attribute in field.attributes}
        if isinstance(field, WithTmp):
            paths |= set(field.covers) | _described_through_tmp(field)
    for subsection in description.subsections:
        paths |= _described(subsection)
    return paths


def _described_through_tmp(field: WithTmp) -> set[str]:
    """Paths of the state's attributes that a temporary's fields store in its parent."""
    paths: set[str] = set()
    for part in field.description.fields:
        for attribute in part.attributes:
            owner, _, path = attribute.path.partition(".")
            if owner == PARENT and path:
                paths.add(path)
            elif owner == PARENT:
                paths = paths.union(*(_described(nested) for nested in part.descriptions))
    return paths


def _nested(description: VMStateDescription) -> list[tuple[str, VMStateDescription]]:
    """The descriptions of structs in the state, and where they are; those of a temporary's parent are its own."""
    found: list[tuple[str, VMStateDescription]] = []
    for field in description.fields:
        for attribute, nested in itertools.product(field.attributes, field.descriptions):
            found += _nested(nested) if attribute.path == PARENT else [(attribute.path, nested)]
    for subsection in description.subsections:
        found += _nested(subsection)
    return found


def _temporaries(description: VMStateDescription) -> list[tuple[str, VMStateDescription]]:
    """The descriptions of temporaries, and their names."""
    found = [(field.description.name, field.description) for field in description.fields if isinstance(field, WithTmp)]
    for subsection in description.subsections:
        found += _temporaries(subsection)
    return found


def _undescribed(state_class: type[Any], prefix: str, described: set[str]) -> typing.Iterator[str]:
    for field in dataclasses.fields(state_class):
        path = prefix + field.name
        if path in described:
            continue
        if any(other.startswith(path + ".") for other in described):
            yield from _undescribed(_class_of(state_class, field.name), path + ".", described)
        else:
            yield path
