"""Named snapshots: a directory of files in the mapped layout, each complete in itself.

A snapshot is either the old one, the new one, or not there, whatever happens to process or host while it is written:
see `files.replacing`. Any number of processes may use one directory. A file must not be changed once it is there, as
machines that were loaded from it go on reading it; a new one takes its name, and the old one lives as long as they do.
"""

from __future__ import annotations

import difflib
import itertools
import os
import time
import urllib.parse
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.core.errors import ConfigError, EmulatorError, FileError, ForeignError, SnapshotError
from emulator.core.memory import PAGE_SIZE
from emulator.migration import blocklist, mappedram, savevm, seal
from emulator.migration.errors import ChecksumError, FieldRangeError, StreamError
from emulator.migration.files import locked, mapped, replacing, sync_directory
from emulator.migration.format import Configuration, SectionReader, find_description, get_header
from emulator.migration.savevm import Loaded, Subject
from emulator.migration.wire import Reader

EXTENSION = ".snapshot"
TAG_LIMIT = 128
"""Characters of a tag."""
NAME_LIMIT = 200
"""Characters of a file's name."""
LAST_SECOND = 253_000_000_000
"""Of what may be a date: in the year 9987."""
INT64 = (1 << 63) - 1
NOTED = ("tag", "taken", "virtual_clock", "icount", "machine", "ram_size")
"""What a snapshot's note says beside its checksums; see `Snapshot`."""
_PLAIN = " ()+,@=[]{}~!#$&;'"
"""What may stand in a file's name beside letters, digits and -._ without being spelled in hexadecimal."""
_ZERO_PAGE = bytes(PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """What is known of a snapshot without loading it."""

    tag: str
    path: Path
    machine: str
    """The machine type."""
    taken: float
    """When: seconds since 1970."""
    virtual_clock: int
    """The guest's time in ns."""
    icount: int | None
    """Instructions that had run, where they were counted."""
    ram_size: int
    """Bytes, as `-m` has them."""
    disk_size: int
    """Bytes that the file takes on disk."""


class SnapshotDirectory:
    """The snapshots in one directory, which is created when the first is saved."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, tag: str | None, subject: Subject, *, ram_size: int, virtual_clock: int, icount: int | None) -> str:
        """Save a stopped machine under `tag`, in place of what has that name, or under a new name; returns the name.

        Raises SnapshotError or FileError, with the old snapshot still there.
        """
        if tag is not None:
            self._path_of(tag)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot create '{self.path}': {error.strerror or error}") from error
        note = {
            "taken": time.time(),
            "virtual_clock": virtual_clock,
            "icount": icount,
            "machine": subject.machine,
            "ram_size": ram_size,
        }
        with ExitStack() as stack:
            if tag is None:
                stack.enter_context(locked(self.path))  # nobody else takes the new name before it is there
                tag = self._new_tag()
            file = stack.enter_context(replacing(self._path_of(tag)))
            savevm.save_mapped(subject, file.fileno(), {"tag": tag, **note})
        return tag

    def load(self, tag: str, subject: Subject) -> Loaded:
        """Read the snapshot `tag` for this machine, which does not change yet; raises SnapshotError or StreamError."""
        path = self._existing(tag)
        with mapped(path) as (data, fd):
            _note_in(data, path)
            return savevm.load(subject, data, fd)

    def delete(self, tag: str) -> None:
        """Delete the snapshot `tag`; machines that were loaded from it keep it until they end."""
        path = self._existing(tag)
        try:
            path.unlink()
            sync_directory(self.path)
        except OSError as error:
            raise FileError(f"cannot delete '{path}': {error.strerror or error}") from error

    def __iter__(self) -> Iterator[Snapshot]:
        """All snapshots, oldest first; what is damaged or foreign is passed over. Raises FileError."""
        return iter(self.examine()[0])

    def examine(self) -> tuple[list[Snapshot], dict[str, EmulatorError]]:
        """All snapshots, oldest first, and by their tags those that cannot be loaded, and why; raises FileError.

        The reason is a StreamError if one is damaged, a ForeignError, or a FileError if it cannot be opened.
        Looks only at what each says about itself: see `verify`.
        """
        sound: list[Snapshot] = []
        others: dict[str, EmulatorError] = {}
        for tag, path in self._files():
            try:
                sound.append(_read_note(tag, path))
            except (StreamError, FileError, SnapshotError) as error:
                if not isinstance(error.__cause__, FileNotFoundError):  # it may have been deleted since
                    others[tag] = error
        return sorted(sound, key=lambda snapshot: (snapshot.taken, snapshot.tag)), others

    def verify(self, tag: str) -> None:
        """Read all of the snapshot `tag`; raises StreamError if anything is not as it was written, or SnapshotError."""
        verify(self._existing(tag))

    def tags(self) -> list[str]:
        """The names of all snapshots, damaged ones included, in alphabetical order; raises FileError."""
        return [tag for tag, _path in self._files()]

    def _files(self) -> list[tuple[str, Path]]:
        found = []
        try:
            for path in self.path.iterdir():
                tag = urllib.parse.unquote(path.name.removesuffix(EXTENSION))
                if _is_possible(tag) and path == self.path / _name_of(tag) and path.is_file():
                    found.append((tag, path))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise FileError(f"cannot read '{self.path}': {error.strerror or error}") from error
        return sorted(found)

    def _existing(self, tag: str) -> Path:
        paths = dict(self._files())
        if tag not in paths:
            close = difflib.get_close_matches(tag, paths, n=1)
            hint = f" (did you mean '{close[0]}'?)" if close else ""
            raise SnapshotError(f"there is no snapshot '{tag}' in '{self.path}'{hint}")
        return paths[tag]

    def _path_of(self, tag: str) -> Path:
        if not _is_possible(tag):
            raise SnapshotError(f"a snapshot's name has 1 to {TAG_LIMIT} printable characters")
        name = _name_of(tag)
        if len(name) > NAME_LIMIT:
            raise SnapshotError(f"the snapshot's name '{tag[:20]}...' is too long for a file")
        return self.path / name

    def _new_tag(self) -> str:
        """As QEMU names a snapshot, `vm-` and the local time; a number behind it if that is taken."""
        tag = time.strftime("vm-%Y%m%d%H%M%S")
        numbered = (f"{tag}-{number}" for number in itertools.count(2))
        return next(name for name in itertools.chain([tag], numbered) if not self._path_of(name).exists())


def _is_possible(tag: str) -> bool:
    return 0 < len(tag) <= TAG_LIMIT and tag.isprintable()


def _name_of(tag: str) -> str:
    """The file's name for a possible tag."""
    name = urllib.parse.quote(tag, safe=_PLAIN) + EXTENSION
    return f"%{ord('.'):02X}{name[1:]}" if name.startswith(".") else name


def verify(path: Path) -> None:
    """Read all of a snapshot file; raises StreamError if anything is not as it was written, or SnapshotError."""
    from emulator.migration.mappedfile import check_pages  # NumPy takes long to import

    with mapped(path) as (data, fd):
        note = _note_in(data, path)
        areas = areas_of(data)
        savevm.check_seal(data, areas)
        check_pages(data, areas, note.get("blocks"))
        for area in areas:
            _check_absent(data, area, fd)


def _check_absent(data: memoryview, area: mappedram.Area, fd: int) -> None:
    """Raise ChecksumError if there is anything where no page is: whoever loads the file trusts that it is zero."""
    for begin, end in mappedram.data_extents(fd, area.pages_offset, area.pages_end):
        for place in range(begin - begin % PAGE_SIZE, end, PAGE_SIZE):
            page = (place - area.pages_offset) // PAGE_SIZE
            is_present = area.bitmap[page // 8] >> page % 8 & 1
            if not is_present and data[place : place + PAGE_SIZE] != _ZERO_PAGE:
                raise ChecksumError(f"page {page} to be zero", "data", field=area.name, offset=place)


def _note_in(data: memoryview, path: Path) -> dict[str, Any]:
    """What a snapshot says about itself; raises StreamError, or ForeignError for what is no snapshot of ours."""
    note = seal.note_of(find_description(data)[1])
    if note is None:
        areas_of(data)
        raise ForeignError(f"'{path}' has no note and no checksums: it is not as savevm wrote it")
    _check_note(note)
    return note


def _check_note(note: dict[str, Any]) -> None:
    """Raise FieldRangeError unless a snapshot can be listed by what it says about itself."""
    limits = {"taken": (float, LAST_SECOND), "virtual_clock": (int, INT64), "ram_size": (int, INT64)}
    if note.get("icount") is not None:
        limits["icount"] = (int, INT64)
    for name, (kind, limit) in limits.items():
        if type(note.get(name)) is not kind or not 0 <= note[name] <= limit:
            raise FieldRangeError(f"{seal.NOTE}.{name}", note.get(name), limit + 1)
    machine = note.get("machine")
    if not isinstance(machine, str) or not machine.isprintable():
        raise FieldRangeError(f"{seal.NOTE}.machine", machine, "a machine type")


def areas_of(data: memoryview) -> list[mappedram.Area]:
    """Where a snapshot file holds each RAM block; raises StreamError or ForeignError."""
    reader = Reader(data)
    configuration: Configuration = get_header(reader)
    heading = SectionReader().next(reader)
    if mappedram.CAPABILITY not in configuration.capabilities or heading is None or heading.name != blocklist.SECTION:
        raise ForeignError("not a snapshot: its RAM is not in the mapped layout")
    return mappedram.get_areas(reader)


def _read_note(tag: str, path: Path) -> Snapshot:
    with mapped(path) as (data, fd):
        note = _note_in(data, path)
        blocks = os.fstat(fd).st_blocks
    machine, icount = note["machine"], note.get("icount")
    return Snapshot(tag, path, machine, note["taken"], note["virtual_clock"], icount, note["ram_size"], blocks * 512)


def default_directory(machine: str) -> Path:
    """Where a user's snapshots of a machine type are unless another directory is asked for (XDG's state directory)."""
    state = Path(os.environ.get("XDG_STATE_HOME", ""))
    if not state.is_absolute():
        try:
            state = Path.home() / ".local" / "state"
        except RuntimeError:
            raise ConfigError("there is no home directory to keep snapshots in: choose a directory for them") from None
    return state / "mini-qemu" / "snapshots" / machine
