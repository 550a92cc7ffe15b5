"""`mini-qemu inspect`: what is in a stream or snapshot file, as JSON for scripts; `inspectiontext.py` has the text.

What was read before an error is shown, then the error is raised.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

from emulator.core.errors import FileError
from emulator.core.memory import PAGE_SIZE
from emulator.inspectiontext import Page
from emulator.migration.difference import Difference, RamDifference, differences, ram_differences
from emulator.migration.examine import Contents, Section, examine, printable
from emulator.migration.files import mapped
from emulator.migration.pagemap import BlockMap, Kind

DIFFERENT = 2
"""The exit status for streams that are not the same; 1 is an error's, as everywhere."""


def inspect_file(path: Path, *, as_json: bool, verbose: bool) -> int:
    """Show a file on standard output; returns 0, or raises FileError for one that cannot be read to its end."""
    with mapped(path) as (data, _fd):
        contents = examine(data)
        if as_json:
            _write_json({"file": str(path), **_plain(contents)})
        else:
            Page(verbose).contents(path, contents)
        _raise_error(path, contents)
    return 0


def diff_files(first: Path, second: Path, *, as_json: bool, verbose: bool) -> int:
    """Show on standard output where two files hold different machines; returns 0 if nowhere, otherwise DIFFERENT.

    Raises FileError for a file that cannot be read to its end.
    """
    with ExitStack() as stack:
        both = []
        for path in (first, second):
            contents = examine(stack.enter_context(mapped(path))[0])
            _raise_error(path, contents)
            both.append(contents)
        fields, ram = list(differences(*both)), list(ram_differences(*both))
    if as_json:
        files = [str(first), str(second)]
        rows = {"fields": [_plain_difference(row) for row in fields], "ram": [_plain_ram(row) for row in ram]}
        _write_json({"files": files, "same": not fields and not ram, **rows})
    else:
        Page(verbose).differences(fields, ram)
    return DIFFERENT if fields or ram else 0


def _raise_error(path: Path, contents: Contents) -> None:
    if contents.error is not None:
        sys.stdout.flush()  # the error's line comes behind what was read, also where both go into one pipe
        raise FileError(f"{printable(str(path))}: {contents.error}") from contents.error


def _write_json(document: dict[str, Any]) -> None:
    for piece in json.JSONEncoder().iterencode(document):
        sys.stdout.write(piece)
    sys.stdout.write("\n")


class _Ranges(list[list[int]]):
    """A list for the JSON encoder that is made while it is written: there may be millions."""

    def __init__(self, ranges: Callable[[], Iterator[tuple[int, int]]]) -> None:
        super().__init__()
        self._ranges = ranges

    def __iter__(self) -> Iterator[list[int]]:
        return ([begin * PAGE_SIZE, end * PAGE_SIZE] for begin, end in self._ranges())

    def __bool__(self) -> bool:
        return next(self._ranges(), None) is not None


def _plain(contents: Contents) -> dict[str, Any]:
    document: dict[str, Any] = {"size": contents.size, "configuration": None}
    if (configuration := contents.configuration) is not None:
        document["configuration"] = {
            "machine": configuration.machine,
            "target_page_bits": configuration.target_page_bits or None,
            "capabilities": configuration.capabilities,
            "uuid": configuration.uuid.hex() if any(configuration.uuid) else None,
        }
    document["ram"] = [_plain_block(block) for block in contents.blocks.values()]
    document["sections"] = [_plain_section(section) for section in contents.sections]
    document["description_size"] = contents.description_size
    document |= {name: note for name, note in contents.notes.items() if name not in document}
    document["error"] = None
    if (error := contents.error) is not None:
        where = {"section": error.section, "field": error.path, "offset": error.offset}
        document["error"] = {"kind": type(error).__name__, **where, "message": str(error)}
    return document


def _plain_section(section: Section) -> dict[str, Any]:
    names = ("name", "instance_id", "version_id", "section_id", "offset", "size", "parts")
    return {name: getattr(section, name) for name in names} | {"fields": _plain_value(section.values)}


def _plain_block(block: BlockMap) -> dict[str, Any]:
    return {
        "name": block.name,
        "size": block.size,
        "pages": {kind.value: block.count(kind) for kind in Kind},
        "sent": {kind.value: count for kind, count in block.sent.items()},
        "stream_bytes": block.stream_bytes,
        "ranges": {kind.value: _Ranges(partial(block.ranges, kind)) for kind in (Kind.DATA, Kind.ZERO)},
    }


def _plain_value(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _plain_value(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_plain_value(item) for item in value]
    if isinstance(value, bytes):
        return value.hex()
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _plain_difference(row: Difference) -> dict[str, Any]:
    return {"section": row.section, "field": row.path, "values": [_plain_value(row.first), _plain_value(row.second)]}


def _plain_ram(row: RamDifference) -> dict[str, Any]:
    ranges = [[begin * PAGE_SIZE, end * PAGE_SIZE] for begin, end in row.pages]
    pages = sum(end - begin for begin, end in row.pages)
    return {"block": row.block, "sizes": row.sizes, "pages": pages, "ranges": ranges}
