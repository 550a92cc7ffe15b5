"""Named snapshots: a directory of files in the mapped layout, each complete in itself.

A snapshot is either the old one, the new one, or not there, whatever happens to process or host while it is written:
see `files.replacing`. Any number of processes may use one directory. A file must not be changed once it is there, as
machines that were loaded from it go on reading it; a new one takes its name, and the old one lives as long as they do.
"""

from __future__ import annotations

import contextlib
import os
import time
import urllib.parse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emulator.core.errors import FileError, SnapshotError
from emulator.migration import blocklist, mappedram, savevm, seal
from emulator.migration.errors import StreamError
from emulator.migration.files import mapped, remove_leftovers, replacing, sync_directory
from emulator.migration.format import Configuration, SectionReader, find_description, get_header
from emulator.migration.savevm import Loaded, Subject
from emulator.migration.wire import Reader

EXTENSION = ".snapshot"
TAG_LIMIT = 128
"""Characters of a tag."""
_PLAIN = " ()+,@=[]{}~!#$&;'"
"""What may stand in a file's name beside letters, digits and -._ without being spelled in hexadecimal."""


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
    """Bytes of the RAM blocks together."""
    disk_size: int
    """Bytes that the file takes on disk."""


class SnapshotDirectory:
    """The snapshots in one directory, which is created when the first is saved."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def save(self, tag: str, subject: Subject, *, virtual_clock: int, icount: int | None) -> None:
        """Save a stopped machine under `tag`, in place of what has that name; raises SnapshotError or FileError."""
        path = self._path_of(tag)
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileError(f"cannot create '{self.path}': {error.strerror or error}") from error
        remove_leftovers(self.path)
        note = {
            "tag": tag,
            "taken": time.time(),
            "virtual_clock": virtual_clock,
            "icount": icount,
            "machine": subject.machine,
            "ram_size": sum(block.size for block in subject.blocks),
        }
        with replacing(path) as file:
            savevm.save_mapped(subject, file.fileno(), note)

    def load(self, tag: str, subject: Subject) -> Loaded:
        """Read the snapshot `tag` for this machine, which does not change yet; raises SnapshotError or StreamError."""
        with mapped(self._existing(tag)) as (data, fd):
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
        """All snapshots, oldest first; files that are none, or damaged, are passed over."""
        found = []
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            for path in self.path.iterdir():
                if path.suffix == EXTENSION and not path.name.startswith("."):
                    with contextlib.suppress(StreamError, FileError):
                        found.append(_read_note(path))
        return iter(sorted(found, key=lambda snapshot: (snapshot.taken, snapshot.tag)))

    def verify(self, tag: str) -> None:
        """Read every byte of the snapshot `tag`, and raise StreamError if any is not as it was written."""
        verify(self._existing(tag))

    def tags(self) -> list[str]:
        """The names of all snapshot files, damaged ones included, in alphabetical order."""
        if not self.path.is_dir():
            return []
        paths = (path for path in self.path.iterdir() if path.suffix == EXTENSION and not path.name.startswith("."))
        return sorted(_tag_of(path) for path in paths)

    def _existing(self, tag: str) -> Path:
        path = self._path_of(tag)
        if not path.is_file():
            raise SnapshotError(f"there is no snapshot '{tag}' in '{self.path}'")
        return path

    def _path_of(self, tag: str) -> Path:
        if not tag or len(tag) > TAG_LIMIT or not tag.isprintable():
            raise SnapshotError(f"a snapshot's name has 1 to {TAG_LIMIT} printable characters")
        name = urllib.parse.quote(tag, safe=_PLAIN, errors="surrogateescape") + EXTENSION
        if name.startswith("."):
            name = f"%{ord('.'):02X}{name[1:]}"
        if len(name) > 200:
            raise SnapshotError(f"the snapshot's name '{tag[:20]}...' is too long for a file")
        return self.path / name


def verify(path: Path) -> None:
    """Read every byte of a snapshot file, and raise StreamError if any is not as it was written."""
    from emulator.migration.mappedfile import check_pages  # NumPy takes long to import

    with mapped(path) as (data, _fd):
        areas = _areas_of(data)
        if not savevm.check_seal(data, areas):
            raise SnapshotError(f"'{path}' has no checksums: it was not written by savevm here")
        note = seal.note_of(find_description(data)[1]) or {}
        check_pages(data, areas, note.get("blocks"))


def _areas_of(data: memoryview) -> list[mappedram.Area]:
    reader = Reader(data)
    configuration: Configuration = get_header(reader)
    heading = SectionReader(reader).next()
    if mappedram.CAPABILITY not in configuration.capabilities or heading is None or heading.name != blocklist.SECTION:
        raise SnapshotError("not a snapshot: its RAM is not in the mapped layout")
    return mappedram.get_areas(reader)


def _read_note(path: Path) -> Snapshot:
    with mapped(path) as (data, fd):
        note: dict[str, Any] = seal.note_of(find_description(data)[1]) or {}
        blocks = os.fstat(fd).st_blocks
    kinds = {"machine": str, "taken": float, "virtual_clock": int, "ram_size": int}
    values = {name: note.get(name) for name in kinds}
    icount = note.get("icount")
    if any(type(values[name]) is not kind for name, kind in kinds.items()) or type(icount) not in (int, type(None)):
        raise SnapshotError(f"'{path}' has no note about when and what it was")
    return Snapshot(_tag_of(path), path, icount=icount, disk_size=blocks * 512, **values)  # type: ignore[arg-type]


def _tag_of(path: Path) -> str:
    return urllib.parse.unquote(path.name.removesuffix(EXTENSION), errors="surrogateescape")


def default_directory(machine: str) -> Path:
    """Where a user's snapshots of a machine type are unless another directory is asked for (XDG's state directory)."""
    state = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "mini-qemu" / "snapshots" / machine


def timestamp_tag() -> str:
    """What a snapshot without a name is called, as in QEMU: `vm-` and the local time."""
    return time.strftime("vm-%Y%m%d%H%M%S")
