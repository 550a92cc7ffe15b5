"""States taken apart: their leaves, what else a leaf could be, and which of them a description leaves out."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

from emulator.migration.checks import PARENT
from emulator.migration.fields import WithTmp
from emulator.migration.vmstate import VMStateDescription

Token = str | int | tuple[Any]
"""One step into a state: an attribute's name, an index, or a key in a tuple of its own."""
Path = tuple[Token, ...]


def leaves(value: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
    """Everything in a state that has no parts of its own; an empty list or dict is a leaf, a set always is."""
    parts: list[tuple[Token, Any]] = []
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        parts = [(field.name, getattr(value, field.name)) for field in dataclasses.fields(value)]
    elif isinstance(value, list | tuple):
        parts = list(enumerate(value))
    elif isinstance(value, dict):
        parts = [((key,), item) for key, item in value.items()]
    if not parts:
        yield path, value
    for token, part in parts:
        yield from leaves(part, (*path, token))


def leaf_at(state: Any, path: Path) -> Any:
    """What is at the end of a path; raises LookupError or AttributeError where it does not lead anywhere."""
    for token in path:
        state = getattr(state, token) if isinstance(token, str) else state[_index(token)]
    return state


def change(state: Any, path: Path, value: Any) -> None:
    """Put another value at the end of a path; a bytearray stays the object that it is, for it may have other names."""
    owner, token = leaf_at(state, path[:-1]), path[-1]
    current = leaf_at(owner, (token,))
    if isinstance(current, bytearray):
        current[:] = value
    elif isinstance(token, str):
        setattr(owner, token, value)
    else:
        owner[_index(token)] = value


def _index(token: int | tuple[Any]) -> Any:
    return token[0] if isinstance(token, tuple) else token


def others(value: Any) -> list[Any]:
    """Some values that could stand in a leaf's place."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [other for other in (value ^ 1, value + 1, value - 1, value ^ 0x80, 0, 1) if other != value]
    if isinstance(value, float):
        return [value + 1]
    if isinstance(value, str):
        return [value + "x"]
    if isinstance(value, bytes | bytearray) and value:
        return [bytes((value[0] ^ 1,)) + value[1:], value[:-1] + bytes((value[-1] ^ 1,))]
    if isinstance(value, set | frozenset) and value:
        return [value - {member} for member in value]
    return [1, 1.0] if value is None else []


def name_of(path: Path) -> str:
    """A path without its indexes and keys: what its attribute is called in a description."""
    return ".".join(token for token in path if isinstance(token, str))


def derived_names(description: VMStateDescription, prefix: str = "") -> set[str]:
    """What a description, and those of structs in the state, mark as derived."""
    names = {prefix + name for name in description.derived}
    for field in description.fields:
        for attribute in field.attributes:
            within = prefix if attribute.path == PARENT else f"{prefix}{attribute.path}."
            names = names.union(*(derived_names(nested, within) for nested in field.descriptions))
        if isinstance(field, WithTmp):
            for part in field.description.fields:
                for attribute in part.attributes:
                    if attribute.path == PARENT:
                        names = names.union(*(derived_names(nested, prefix) for nested in part.descriptions))
    return names.union(*(derived_names(subsection, prefix) for subsection in description.subsections))


def is_within(name: str, names: set[str]) -> bool:
    """Whether a dotted name, or what it is a part of, is among `names`."""
    return any(name == other or name.startswith(other + ".") for other in names)
