"""The JSON description of itself that a stream ends with: writing it, reading it, reading a payload by it.

QEMU describes what was saved, not what could have been: one object for each field that was on the wire, with `name`,
`type`, `size` in bytes, and for arrays `array_len` (one object for all elements, which are alike) or `index` (an object
for each). A struct has its own `fields` and `subsections` under `struct`. `emulator.migration.vmstate` builds these
objects while saving; like QEMU 7.2, it describes a compressed array by its first element, even if that is a null
pointer, and a queue or tree by its last.

Reading is for streams from anywhere: nothing in the JSON is believed before it is checked.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

from emulator.migration.errors import StreamError, SubsectionError, VmdescError, quote
from emulator.migration.vmstate import SUBSECTION, VMStateDescription
from emulator.migration.wire import Reader, Writer

VALUE_LIMIT = 1 << 20
"""Values that a payload may decode to; QEMU's largest sections have a few thousand."""

DEPTH_LIMIT = 32
"""Structs within structs."""


def save_section(
    description: VMStateDescription,
    state: Any,
    writer: Writer,
    *,
    name: str,
    instance_id: int,
    version_id: int | None = None,
) -> dict[str, Any]:
    """Append a section's payload, and return its object for the stream's description; raises StateError.

    The payload has the form of `version_id`, by default the newest.
    """
    section: dict[str, Any] = {"name": name, "instance_id": instance_id}
    description.save(state, writer, version_id=version_id, vmdesc=section)
    return section


def to_json(sections: list[dict[str, Any]], *, page_size: int) -> bytes:
    """The whole description as QEMU spells it; `page_size` (bytes) is that of the guest's RAM."""
    return json.dumps({"page_size": page_size, "devices": sections}).encode()


def from_json(text: bytes | bytearray | memoryview) -> dict[tuple[str, int], dict[str, Any]]:
    """The sections of a description by name and instance id; raises VmdescError."""
    return sections_of(parse(text))


def parse(text: bytes | bytearray | memoryview) -> dict[str, Any]:
    """A description as it is; raises VmdescError for what is no JSON object."""
    try:
        whole = json.loads(bytes(text))
    except (ValueError, RecursionError):
        whole = None
    if not isinstance(whole, dict):
        raise VmdescError("a JSON description", bytes(text[:32]))
    return whole


def sections_of(whole: dict[str, Any]) -> dict[tuple[str, int], dict[str, Any]]:
    """The sections of a parsed description, as from `from_json`."""
    sections = {}
    for section in _list_in(whole, "devices"):
        sections[_item(section, "name", str), _item(section, "instance_id", int)] = section
    return sections


def decode(
    section: dict[str, Any], reader: Reader, *, limit: int = VALUE_LIMIT, into: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Read a payload by nothing but its description, an item of `from_json`.

    Returns values by the fields' names: int, bool, float, bytes for what is opaque, lists for arrays, dicts for
    structs; subsections by their names after the fields. Raises StreamError where the bytes do not follow, or have
    more values than `limit`; what was read before that is in `into`, if given.
    """
    return _Decoder(reader, limit).struct(section, 0, {} if into is None else into)


def struct_of(entry: dict[str, Any]) -> dict[str, Any] | None:
    """The description of the struct that a field holds, or None if it holds something else."""
    nested = entry if str(entry.get("type")) in INLINE else entry.get("struct")
    return nested if isinstance(nested, dict) and "fields" in nested else None


class _Decoder:
    def __init__(self, reader: Reader, limit: int) -> None:
        self._reader = reader
        self._limit = self._budget = limit

    def struct(self, description: dict[str, Any], depth: int, values: dict[str, Any]) -> dict[str, Any]:
        if depth == DEPTH_LIMIT:
            raise VmdescError(f"at most {DEPTH_LIMIT} structs within each other", "more", offset=self._reader.offset)
        entries = _list_in(description, "fields")
        self._charge(len(entries))
        for entry in entries:
            name = _item(entry, "name", str)
            try:
                self._field(values, name, entry, depth)
            except StreamError as error:
                error.within(quote(name))
                raise
        for subsection in _list_in(description, "subsections"):
            name = _item(subsection, "vmsd_name", str)
            try:
                if name in values:
                    raise VmdescError("each name once", name, offset=self._reader.offset)
                self._subsection_header(name)
                values[name] = self.struct(subsection, depth + 1, {})
            except StreamError as error:
                error.within(quote(name))
                raise
        return values

    def _field(self, values: dict[str, Any], name: str, entry: dict[str, Any], depth: int) -> None:
        if name in values and "index" not in entry:
            raise VmdescError("each name once", name, offset=self._reader.offset)
        if "array_len" in entry:
            count = _item(entry, "array_len", int)
            if not 0 <= count <= self._budget:
                raise VmdescError(f"at most {self._budget} elements", count, offset=self._reader.offset)
            values[name] = [self._value(entry, depth) for _ in range(count)]
        elif "index" in entry:
            elements = values.setdefault(name, [])
            if not isinstance(elements, list) or _item(entry, "index", int) != len(elements):
                raise VmdescError("elements in their order", entry["index"], offset=self._reader.offset)
            elements.append(self._value(entry, depth))
        else:
            values[name] = self._value(entry, depth)

    def _value(self, entry: dict[str, Any], depth: int) -> Any:
        self._charge(1)
        size = _item(entry, "size", int)
        if size < 0:
            raise VmdescError("a size of 0 or more", size, offset=self._reader.offset)
        nested = struct_of(entry)
        if nested is None:
            return _plain(str(entry.get("type")), self._reader.read(size))
        begin = self._reader.offset
        value = self.struct(nested, depth + 1, {})
        if self._reader.offset - begin != size:
            raise VmdescError(f"a struct of {size} bytes", self._reader.offset - begin, offset=begin)
        return value

    def _charge(self, work: int) -> None:
        """Count what is decoded, so that small descriptions of nothing, over and over, come to an end."""
        self._budget -= work
        if self._budget < 0:
            raise VmdescError(f"at most {self._limit} values", "more", offset=self._reader.offset)

    def _subsection_header(self, name: str) -> None:
        begin = self._reader.offset
        if self._reader.u8() != SUBSECTION or self._reader.read(self._reader.u8()) != name.encode():
            raise SubsectionError(f"subsection {quote(name)}", "something else", offset=begin)
        self._reader.u32()


INLINE = frozenset({"vstruct", "tmp"})
"""Types whose fields stand in the entry itself."""

_SIGNED = ("int8", "int16", "int32", "int64", "int32 equal", "int32 le", "timer")
_UNSIGNED = ("uint8", "uint16", "uint32", "uint64", "uint8 equal", "uint16 equal", "uint32 equal", "int64 equal")

_READERS: dict[str, Callable[[bytes], Any]] = {
    **dict.fromkeys(_SIGNED, lambda data: int.from_bytes(data, "big", signed=True)),
    **dict.fromkeys(_UNSIGNED, lambda data: int.from_bytes(data, "big")),
    "bool": lambda data: any(data),
    "CPU_Double_U": lambda data: struct.unpack(">d", data)[0] if len(data) == 8 else data,
}


def _plain(type_name: str, data: bytes) -> Any:
    """A value without structure: a number where type and size say so, otherwise its bytes."""
    return _READERS.get(type_name, bytes)(data) if len(data) <= 8 else data


def _list_in(owner: Any, key: str) -> list[dict[str, Any]]:
    items = owner.get(key, []) if isinstance(owner, dict) else None
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise VmdescError(f"a list of objects under {key}", items)
    return items


def _item(owner: dict[str, Any], key: str, kind: type[Any]) -> Any:
    value = owner.get(key)
    if type(value) is not kind:
        raise VmdescError(f"{key}, a {kind.__name__}", value)
    return value
