"""Stream files on disk: one that takes another's place only when it is complete, and one to read by mapping it."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from emulator.core.errors import FileError

SUFFIX = ".tmp"


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, opened for writing and reading, that becomes `path` when the block ends, and not if that fails.

    Whatever happens, a crash of the host included, `path` is the old file or the new one, or still missing. Something
    that is no regular file, such as a pipe, is written to directly. Raises FileError for what goes wrong with the file.
    """
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as stream:
                yield stream
            return
        number, name = tempfile.mkstemp(SUFFIX, f".{path.name[:100]}.", path.parent)
        temporary = Path(name)
        try:
            with os.fdopen(number, "w+b") as file:
                # Held while the file is being written: without a holder it is what a killed process has left.
                fcntl.flock(file, fcntl.LOCK_EX)
                yield file
                file.flush()
                os.fchmod(file.fileno(), 0o666 & ~_umask())
                os.fsync(file.fileno())
                temporary.replace(path)
                sync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(f"cannot write '{path}': {error.strerror or error}") from error


def remove_leftovers(directory: Path) -> None:
    """Delete the unfinished files of processes that are gone; raises nothing."""
    for path in directory.glob(f".*{SUFFIX}"):
        with contextlib.suppress(OSError), path.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.unlink()


def sync_directory(directory: Path) -> None:
    """Make what was created, renamed or deleted in `directory` last; raises OSError."""
    number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


@contextlib.contextmanager
def mapped(path: Path) -> Iterator[tuple[memoryview, int]]:
    """A file's content, not read before it is looked at, and its descriptor; raises FileError."""
    try:
        with path.open("rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise FileError(f"cannot load '{path}': not a regular file")
            size = os.fstat(file.fileno()).st_size
            if not size:
                yield memoryview(b""), file.fileno()
                return
            content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)
            yield memoryview(content), file.fileno()
    except OSError as error:
        raise FileError(f"cannot load '{path}': {error.strerror or error}") from error


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
