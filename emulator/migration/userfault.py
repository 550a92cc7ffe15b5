"""Dirty logging by the kernel: userfaultfd in write-protect mode, read out with PAGEMAP_SCAN. Linux 6.7 and newer.

A page is write-protected until somebody writes to it: the guest, a device, or the kernel on their behalf. The kernel
takes the protection off by itself (WP_ASYNC), so nobody is told and nothing waits. A scan finds the pages without
protection and protects them again, both at once. Where no page has been yet nothing is protected, as that would take
memory and time: a page that appears there has no protection, so a scan finds it, even if it was only read.
Source: Linux, Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst; numbers from its include/uapi.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import sys
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from emulator.core.errors import ConfigError
from emulator.core.memory import PAGE_SIZE, RamBlock
from emulator.migration import pages

REGIONS = 4096
"""Runs of written pages that one scan can tell; for more, there are more scans."""
FILE_GAP = 256
"""Pages of a file that are protected along with those around them rather than make another call."""

_SYSCALLS = {"x86_64": 323, "aarch64": 282, "riscv64": 282}
_USER_MODE_ONLY = 1  # what makes it free for all; in WP_ASYNC mode writes by the kernel count all the same

_API = 0xAA
_FEATURES = 1 << 13 | 1 << 15  # WP_UNPOPULATED, which scans ask for, and WP_ASYNC
_REGISTER_MODE_WP = 1 << 1
_WRITEPROTECT_MODE_WP = 1 << 0
_UFFDIO_API = 0xC018AA3F
_UFFDIO_REGISTER = 0xC020AA00
_UFFDIO_WRITEPROTECT = 0xC018AA06

_PAGEMAP_SCAN = 0xC0606610
_SCAN_SIZE = 96
_WP_MATCHING, _CHECK_WPASYNC = 1, 2
_IS_WRITTEN, _IS_PRESENT, _IS_SWAPPED = 1 << 1, 1 << 3, 1 << 4
_WALK_END = 4
"""Index of the scan's argument at which the kernel says how far it came."""


class UserfaultLog:
    """See `DirtyLog`. Costs the guest 4 to 5 µs for its first write to each page after a scan.

    Raises OSError where the kernel does not offer it, does not know it yet, or does not let this process.
    """

    name = "userfaultfd"

    def __init__(self, blocks: Sequence[RamBlock]) -> None:
        self._regions = np.zeros((REGIONS, 3), np.uint64)
        self._pagemap = -1
        self._fd = _open()
        try:
            _ioctl(self._fd, _UFFDIO_API, _API, _FEATURES, 0)
            self._pagemap = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            for block in blocks:
                _ioctl(self._fd, _UFFDIO_REGISTER, block.address, block.size, _REGISTER_MODE_WP, 0)
                self._protect_file(block)
                self._collect(block)  # protects what is there; an older kernel says here that it cannot
        except BaseException:
            self.close()
            raise

    def _protect_file(self, block: RamBlock) -> None:
        """Protect also what is still in the file that the block comes from: to read it will not make it dirty."""
        if block.present is None:
            return
        for first, end in pages.runs(pages.bits_of(block.present)[: block.size // PAGE_SIZE], gap=FILE_GAP):
            begin, length = block.address + first * PAGE_SIZE, (end - first) * PAGE_SIZE
            _ioctl(self._fd, _UFFDIO_WRITEPROTECT, begin, length, _WRITEPROTECT_MODE_WP)

    def collect(self, block: RamBlock) -> NDArray[np.bool_]:
        """See `DirtyLog.collect`; raises ConfigError if the block's content was exchanged."""
        if self._fd < 0:
            raise ValueError("the dirty log is closed")
        try:
            return self._collect(block)
        except PermissionError as error:
            raise ConfigError(f"RAM block {block.name} has become another guest's meanwhile") from error

    def _collect(self, block: RamBlock) -> NDArray[np.bool_]:
        steps = np.zeros(block.size // PAGE_SIZE + 1, np.int8)
        begin, end = block.address, block.address + block.size
        while begin < end:
            count, begin = self._scan(begin, end)
            edges = ((self._regions[:count, :2] - np.uint64(block.address)) // np.uint64(PAGE_SIZE)).astype(np.intp)
            steps[edges[:, 0]] += 1
            steps[edges[:, 1]] -= 1
        pages = steps[:-1]
        return (np.cumsum(pages, dtype=np.int8) if pages.any() else pages).view(np.bool_)

    def _scan(self, begin: int, end: int) -> tuple[int, int]:
        """Find regions of written pages and protect them; how many, and up to which address they are all."""
        vector = self._regions.ctypes.data, REGIONS
        argument = (
            _SCAN_SIZE,
            _WP_MATCHING | _CHECK_WPASYNC,
            begin,
            end,
            0,
            *vector,
            0,
            0,
            _IS_WRITTEN,
            _IS_PRESENT | _IS_SWAPPED,  # pages only: a place where none has been counts as written, too
            _IS_WRITTEN,
        )
        count, answer = _ioctl(self._pagemap, _PAGEMAP_SCAN, *argument)
        return count, int(answer[_WALK_END])

    def rows(self, block: RamBlock) -> NDArray[np.uint64]:
        """See `DirtyLog.rows`: the block itself."""
        return pages.rows_of(block)

    def data_pages(self, block: RamBlock) -> NDArray[np.bool_]:
        """See `DirtyLog.data_pages`."""
        return pages.data_pages(block)

    def close(self) -> None:
        """See `DirtyLog.close`; the kernel takes off all protection."""
        for fd in (self._fd, self._pagemap):
            if fd >= 0:
                os.close(fd)
        self._fd = self._pagemap = -1


def _open() -> int:
    number = _SYSCALLS.get(platform.machine()) if sys.platform == "linux" and sys.maxsize > 1 << 32 else None
    if number is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    libc = ctypes.CDLL(None, use_errno=True)
    fd: int = libc.syscall(ctypes.c_long(number), ctypes.c_int(os.O_CLOEXEC | os.O_NONBLOCK | _USER_MODE_ONLY))
    if fd < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return fd


def _ioctl(fd: int, request: int, *words: int) -> tuple[int, NDArray[np.uint64]]:
    """What an ioctl returns for a structure of so many 64-bit words, and what it makes of the structure."""
    structure = np.array(words, np.uint64)
    return fcntl.ioctl(fd, request, structure.data, True), structure
