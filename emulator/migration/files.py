"""Stream files on disk: one that takes another's place only when it is complete, and one to read by mapping it."""

from __future__ import annotations

import contextlib
import fcntl
import mmap
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from emulator.core.errors import FileError

SUFFIX = ".unfinished"
"""How the name of a file ends that is being written; it begins with a dot."""


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new file, opened for writing and reading, that becomes `path` when the block ends, and not if that fails.

    Whatever happens, a crash of the host included, `path` is the old file or the new one, or still missing. Something
    that is no regular file, such as a pipe, is written to directly. What killed processes have left in the directory is
    removed. Raises FileError for what goes wrong with the file.
    """
    try:
        if path.exists() and not stat.S_ISREG(path.stat().st_mode):
            with path.open("wb") as stream:
                yield stream
            return
        _remove_leftovers(path.parent)
        temporary, file = _create_beside(path)
        try:
            with file:
                yield file
                file.flush()
                os.fsync(file.fileno())
                temporary.replace(path)
                sync_directory(path.parent)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
    except OSError as error:
        raise FileError(f"cannot write '{path}': {error.strerror or error}") from error


def _create_beside(path: Path) -> tuple[Path, BinaryIO]:
    """A new file in the directory of `path`, locked: one that nobody holds is what a killed process has left."""
    while True:
        temporary = path.with_name(f".{path.name[:40]}.{secrets.token_hex(8)}{SUFFIX}")
        file = temporary.open("x+b")
        with contextlib.suppress(OSError):  # a file system without locks keeps its leftovers
            fcntl.flock(file, fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return temporary, file
        file.close()  # another process took it for a leftover before it was locked


def _remove_leftovers(directory: Path) -> None:
    """Delete the unfinished files of processes that are gone; raises nothing."""
    with contextlib.suppress(OSError):
        for path in directory.glob(f".*{SUFFIX}"):
            with contextlib.suppress(OSError), open(path, "rb", opener=_without_waiting) as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()


@contextlib.contextmanager
def locked(directory: Path) -> Iterator[None]:
    """Let one process at a time in, where the file system can do that; raises FileError."""
    try:
        number = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    except OSError as error:
        raise FileError(f"cannot use '{directory}': {error.strerror or error}") from error
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(number, fcntl.LOCK_EX)
        yield
    finally:
        os.close(number)


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
    with contextlib.ExitStack() as stack:
        try:  # not around the yield: what the block writes to is no concern of this file's
            file = stack.enter_context(open(path, "rb", opener=_without_waiting))
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise FileError(f"cannot load '{path}': not a regular file")
            size = status.st_size
            content = mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) if size else b""
        except OSError as error:
            raise FileError(f"cannot load '{path}': {error.strerror or error}") from error
        yield memoryview(content), file.fileno()


def _without_waiting(path: str, flags: int) -> int:
    """Open a pipe at once, too, and not when somebody opens its other end."""
    return os.open(path, flags | os.O_NONBLOCK)
