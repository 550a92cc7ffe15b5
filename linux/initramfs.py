"""Build the initial RAM disk of a small Linux: BusyBox, and a file tree of a few lines.

python linux/initramfs.py BUSYBOX OUTPUT [FILE=PATH]...

FILE=PATH puts a further program or script at PATH. The format is the kernel's "newc"
(Documentation/driver-api/early-userspace/buffer-format.rst).
"""

from __future__ import annotations

import stat
import sys
from pathlib import Path

FILES = Path(__file__).parent / "files"
"""Text files, with the places that they get."""
DIRECTORIES = ("bin", "dev", "etc", "proc", "root", "sbin", "sys", "tmp", "usr", "usr/bin", "usr/sbin")
DIRECTORY, PROGRAM, LINK = stat.S_IFDIR | 0o755, stat.S_IFREG | 0o755, stat.S_IFLNK | 0o777
MAGIC = b"070701"
TRAILER = "TRAILER!!!"
ALIGNMENT = 4


def entry(name: str, mode: int, data: bytes = b"", *, number: int = 0) -> bytes:
    """One file of an archive; `number` tells files apart that are not links of each other."""
    path = name.encode() + b"\0"
    links, size, path_size = 1, len(data), len(path)
    # Inode, mode, owner, group, links, time, size, device, device that the file is (major and minor), name, checksum.
    fields = (number, mode, 0, 0, links, 0, size, 0, 0, 0, 0, path_size, 0)
    return _padded(MAGIC + b"".join(b"%08X" % field for field in fields) + path) + _padded(data)


def archive(files: list[tuple[str, int, bytes]]) -> bytes:
    """An archive of files, each a name, a mode and its data."""
    entries = [entry(name, mode, data, number=number) for number, (name, mode, data) in enumerate(files, start=1)]
    return b"".join(entries) + entry(TRAILER, 0)


def small_linux(busybox: bytes) -> list[tuple[str, int, bytes]]:
    """BusyBox as /init, and the files that tell it what to do; at its first run it makes the links by itself."""
    texts = [path for path in sorted(FILES.glob("**/*")) if path.is_file()]
    return [
        *((name, DIRECTORY, b"") for name in DIRECTORIES),
        ("bin/busybox", PROGRAM, busybox),
        ("bin/sh", LINK, b"busybox"),
        ("init", LINK, b"bin/busybox"),
        *((path.relative_to(FILES).as_posix(), PROGRAM, path.read_bytes()) for path in texts),
    ]


def main(busybox: str, output: str, *more: str) -> None:
    """Write the archive."""
    added = [argument.split("=", 1) for argument in more]
    files = [(place.lstrip("/"), PROGRAM, Path(path).read_bytes()) for path, place in added]
    Path(output).write_bytes(archive([*small_linux(Path(busybox).read_bytes()), *files]))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % ALIGNMENT)


if __name__ == "__main__":
    main(*sys.argv[1:])
