"""Payloads taken apart: where each number of a section lies, which of them are bounded, what else they could be."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from emulator.migration.fields import WithTmp
from emulator.migration.fields.scalar import Scalar
from emulator.migration.vmstate import VMStateDescription

NUMBERS = frozenset(
    "bool,int8,int16,int32,int64,uint8,uint16,uint32,uint64,timer,"
    "uint8 equal,uint16 equal,uint32 equal,int32 equal,int64 equal,int32 le".split(",")
)
"""Types that are one number on the wire."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where something lies in a payload, and what errors call it."""

    path: str
    offset: int
    size: int
    type_name: str


def places_of(section: dict[str, Any]) -> list[Place]:
    """Every field, element and subsection heading of a payload, by its description, in the order of the wire."""
    found: list[Place] = []
    _walk(section, "", 0, found)
    return found


HEADING = "heading"
"""The `type_name` of what announces a subsection."""


def _walk(description: dict[str, Any], prefix: str, offset: int, found: list[Place]) -> int:
    for entry in description["fields"]:
        count = entry.get("array_len", 1)
        for index in range(count):
            shown = f"[{entry.get('index', index)}]" if "index" in entry or "array_len" in entry else ""
            path = prefix + re.sub(r"\[\d+\]$", "", entry["name"]) + shown
            nested = entry if "fields" in entry else entry.get("struct")
            if nested:
                _walk(nested, f"{path}.", offset, found)
            else:
                found.append(Place(path, offset, entry["size"], entry["type"]))
            offset += entry["size"]
    for subsection in description.get("subsections", ()):
        name = subsection["vmsd_name"]
        found.append(Place(prefix + name, offset, 1 + 1 + len(name) + 4, HEADING))
        offset = _walk(subsection, f"{prefix}{name}.", offset + found[-1].size, found)
    return offset


def bounds_of(description: VMStateDescription, prefix: str = "") -> Iterator[tuple[str, Scalar]]:
    """The bounded numbers of a description, by the paths of their places without indexes."""
    for field in description.fields:
        name = f"{prefix}{field.wire_name}"
        info = getattr(field, "info", None)
        if isinstance(info, Scalar) and info.excess is not None:
            yield name, info
        nested = field.descriptions
        if isinstance(field, WithTmp):
            nested, name = (field.description,), prefix.rstrip(".") if field.inline else name
        for each in nested:
            yield from bounds_of(each, f"{name}." if name else "")
    for subsection in description.subsections:
        yield from bounds_of(subsection, f"{prefix}{subsection.name}.")


def without_indexes(path: str) -> str:
    """A place's path as `bounds_of` has it."""
    return re.sub(r"\[\d+\]", "", path)


def extremes(place: Place, payload: bytes) -> Iterator[bytes]:
    """Other contents for a number: neighbours, and both ends of its range, signed and not."""
    bits = 8 * place.size
    now = int.from_bytes(payload[place.offset : place.offset + place.size], "big")
    for value in dict.fromkeys((0, 1, 2, now + 1, now - 1, 0xFF, (1 << bits - 1) - 1, 1 << bits - 1, (1 << bits) - 1)):
        if value != now and 0 <= value < 1 << bits:
            yield value.to_bytes(place.size, "big")


def excess_of(info: Scalar) -> bytes | None:
    """A number that its bound refuses, if the wire has room for one."""
    try:
        return info.layout.pack(info.excess)
    except struct.error:
        return None


def replaced(payload: bytes, place: Place, content: bytes) -> bytes:
    """The payload with other content in one place."""
    return payload[: place.offset] + content + payload[place.offset + place.size :]
