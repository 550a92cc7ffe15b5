"""Where two streams hold different machines: machine type, sections, fields, content of RAM pages.

How the state was put into the stream does not count: layout and order, section ids, passes, capabilities, notes. A
page that is absent is the same as one of zeros.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from emulator.migration.examine import Contents, Section
from emulator.migration.pages import runs

MISSING: Final = None
"""In place of what only one of the streams has."""

RUN_LIMIT = 64
"""Places in one buffer that are told apart."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A value that is not the same in both."""

    section: str
    path: str
    """The field, such as `env.gpr[10]` or `config[0][0x3c..0x3f]`; empty for a whole section."""
    first: Any
    second: Any


@dataclass(frozen=True, slots=True)
class RamDifference:
    """A block that is not the same in both."""

    block: str
    sizes: tuple[int | None, int | None]
    """Bytes in each stream, None where there is no such block."""
    pages: list[tuple[int, int]]
    """First page of each row with other content, and the one behind; only where the sizes are the same."""


def differences(first: Contents, second: Contents) -> Iterator[Difference]:
    """All that differs but RAM, in the order of the first stream."""
    if first.configuration is not None and second.configuration is not None:
        yield from _values("configuration", "machine", first.configuration.machine, second.configuration.machine)
        yield from _values("configuration", "uuid", first.configuration.uuid, second.configuration.uuid)
    ours, theirs = ({str(section): section for section in contents.sections} for contents in (first, second))
    for name, section in ours.items():
        if name in theirs:
            yield from _sections(name, section, theirs[name])
        else:
            yield Difference(name, "", f"version {section.version_id}", MISSING)
    for name, section in theirs.items():
        if name not in ours:
            yield Difference(name, "", MISSING, f"version {section.version_id}")


def ram_differences(first: Contents, second: Contents) -> Iterator[RamDifference]:
    """All blocks that differ."""
    for name in dict.fromkeys([*first.blocks, *second.blocks]):
        ours, theirs = first.blocks.get(name), second.blocks.get(name)
        sizes = (None if ours is None else ours.size, None if theirs is None else theirs.size)
        if ours is None or theirs is None or ours.size != theirs.size:
            yield RamDifference(name, sizes, [])
        elif pages := list(ours.differing(theirs)):
            yield RamDifference(name, sizes, pages)


def _sections(name: str, first: Section, second: Section) -> Iterator[Difference]:
    yield from _values(name, "version_id", first.version_id, second.version_id)
    if first.opaque is not None and second.opaque is not None:
        yield from _values(name, "", first.opaque.tobytes(), second.opaque.tobytes())
    elif first.opaque is not None or second.opaque is not None:
        known = ["described" if section.opaque is None else "not described" for section in (first, second)]
        yield Difference(name, "", *known)
    else:
        yield from _values(name, "", first.values, second.values)


def _values(section: str, path: str, first: Any, second: Any) -> Iterator[Difference]:
    if isinstance(first, dict) and isinstance(second, dict):
        for name in dict.fromkeys([*first, *second]):
            inner = f"{path}.{name}" if path else name
            yield from _values(section, inner, first.get(name, MISSING), second.get(name, MISSING))
    elif isinstance(first, list) and isinstance(second, list):
        for index in range(max(len(first), len(second))):
            ours, theirs = (values[index] if index < len(values) else MISSING for values in (first, second))
            yield from _values(section, f"{path}[{index}]", ours, theirs)
    elif isinstance(first, bytes) and isinstance(second, bytes) and len(first) == len(second):
        yield from _buffers(section, path, first, second)
    elif first != second and repr(first) != repr(second):  # not a number is not equal to itself
        yield Difference(section, path, first, second)


def _buffers(section: str, path: str, first: bytes, second: bytes) -> Iterator[Difference]:
    if first == second:
        return
    differs = np.frombuffer(first, np.uint8) != np.frombuffer(second, np.uint8)
    if np.count_nonzero(differs[1:] & ~differs[:-1]) < RUN_LIMIT:
        places = list(runs(differs))
    else:
        places = [(int(differs.argmax()), len(differs) - int(differs[::-1].argmax()))]
    for begin, end in places:
        where = f"[0x{begin:x}]" if end == begin + 1 else f"[0x{begin:x}..0x{end - 1:x}]"
        yield Difference(section, path + where, first[begin:end], second[begin:end])
