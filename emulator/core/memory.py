"""RAM blocks: guest memory as one private mapping each, shared by the engine, the devices and NumPy.

A block's address never changes. Its content can be exchanged as a whole all the same: `StagedMemory` is mapped beside
it, filled or backed by a file, and takes the block's place by moving page tables, in the same time whatever the size.
Until then nothing has changed, so a load that fails leaves the block as it was.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import threading
import time
from collections.abc import Iterable
from pathlib import Path

from emulator.core.bits import align_up
from emulator.core.errors import ConfigError

PAGE_SIZE = 4096

_MREMAP_MAYMOVE, _MREMAP_FIXED, _MREMAP_DONTUNMAP = 1, 2, 4
_MADV_HUGEPAGE = 14
_MADV_POPULATE_READ = 22
_PIECE = 8 << 20
_HEAD_START_SECONDS = 0.05
"""How long old memory is kept while whoever got the new one takes its first pages, which freeing slows down."""
_FAILED = ctypes.c_void_p(-1).value
_PAGEMAP = Path("/proc/self/pagemap")
_PAGEMAP_ENTRY = 8

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64]
_libc.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
_libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
if hasattr(_libc, "mremap"):
    _libc.mremap.restype = ctypes.c_void_p
    _libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]


class StagedMemory:
    """Content of `size` bytes that a RAM block may take over; zero-filled, or what a file holds at `offset`.

    A file is mapped privately: it is read as the guest touches it, and must not be written to or cut short any more.
    `present` is then a bitmap of the pages that may hold anything but zeros. Whoever makes one closes it in the end.
    Raises ConfigError if there is no memory for it.
    """

    def __init__(self, size: int, fd: int = -1, offset: int = 0, *, present: bytes | None = None) -> None:
        flags = mmap.MAP_PRIVATE | (mmap.MAP_ANONYMOUS if fd < 0 else 0)
        address = _libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, flags, fd, offset)
        if address == _FAILED:
            raise ConfigError(f"cannot map {size} bytes of memory: {os.strerror(ctypes.get_errno())}")
        self.size = size
        self.present = present
        self.address: int = address
        self._closed = False

    @property
    def view(self) -> memoryview:
        """The content; to be used before `RamBlock.exchange` and `close` only."""
        return memoryview((ctypes.c_char * self.size).from_address(self.address)).cast("B")

    def use_large_pages(self) -> None:
        """Have 2 MiB at a time from the system, where it can: for content that leaves few gaps.

        The system then gives memory five times as fast, and more of it than is asked for. Harmless when repeated.
        """
        _libc.madvise(self.address, self.size, _MADV_HUGEPAGE)

    def close(self) -> None:
        """Free the memory, piece by piece, as nobody else can map anything while one is being freed; once is enough."""
        if self._closed:
            return
        self._closed = True
        for offset in range(0, self.size, _PIECE):
            _libc.madvise(self.address + offset, min(_PIECE, self.size - offset), mmap.MADV_DONTNEED)
        _libc.munmap(self.address, self.size)


class RamBlock:
    """A named, zero-filled block of guest memory.

    `name` is QEMU's RAM block name (it goes on the wire), `size` its length in bytes, a multiple of the page size.
    A block that is `readonly` for the guest can be written through `view` by the board and its devices.
    """

    def __init__(self, name: str, size: int, *, readonly: bool = False, reserved: int = 0) -> None:
        if size <= 0 or size != align_up(size, PAGE_SIZE):
            raise ConfigError(f"RAM block {name}: size {size} is not a positive multiple of {PAGE_SIZE}")
        try:
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise ConfigError(f"cannot allocate {size >> 20} MiB for RAM block {name}: {error.strerror}") from error
        self.name = name
        self.size = size
        self.readonly = readonly
        self.reserved = max(size, reserved)
        """How large the block could become in QEMU, where it can grow: streams have the largest first."""
        self.view = memoryview(self._map)
        self.present: bytes | None = None
        """Which pages may hold anything but zeros although nobody has touched them, as they come from a file: bit n of
        byte n // 8 stands for page n. None if there are no such pages."""
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        """Host address of the first byte: what the engine maps."""

    def exchange(self, staged: StagedMemory) -> None:
        """Swap contents with `staged`, which has the same size; the engine is to forget translated code afterwards.

        Nobody may look at the block meanwhile. Raises MemoryError, and then nothing has changed.
        """
        if staged.size != self.size:
            raise ValueError(f"RAM block {self.name} has {self.size} bytes, not {staged.size}")
        if (old := _move_away(self.address, self.size)) is not None:
            try:
                _move(staged.address, self.size, self.address)
            except MemoryError:
                _move(old, self.size, self.address)
                raise
            staged.address = old
        else:
            old_content = bytes(self.view)
            self.view[:] = staged.view
            staged.view[:] = old_content
        self.present, staged.present = staged.present, self.present

    def touched(self) -> bytes | None:
        """For each page an 8-byte word, native endian, of which bits 62 and 63 tell whether it was ever touched.

        None where the system does not tell (Linux does: /proc/PID/pagemap).
        """
        with contextlib.suppress(OSError), _PAGEMAP.open("rb", buffering=0) as pagemap:
            length = self.size // PAGE_SIZE * _PAGEMAP_ENTRY
            entries = os.pread(pagemap.fileno(), length, self.address // PAGE_SIZE * _PAGEMAP_ENTRY)
            if len(entries) == length:
                return entries
        return None

    def populate(self, begin: int, end: int) -> None:
        """Read what is still in a file from offset `begin` up to `end`, in large pieces; only faster than not to."""
        if self.present is not None:
            _libc.madvise(self.address + begin, end - begin, _MADV_POPULATE_READ)

    def close(self) -> None:
        """Give the memory back; the engine must have been closed before. Somebody's view of it delays that."""
        del self._anchor
        with contextlib.suppress(BufferError):
            self.view.release()
            self._map.close()


def _move_away(address: int, size: int) -> int | None:
    """Move a mapping's pages to another place, where a new mapping has them; None if this system cannot do that.

    The old one stays, empty: another thread may ask for memory at any time, and must not be given that address.
    """
    if not hasattr(_libc, "mremap"):
        return None
    place: int = _libc.mmap(None, size, 0, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
    if place == _FAILED:
        raise MemoryError(os.strerror(ctypes.get_errno()))
    flags = _MREMAP_MAYMOVE | _MREMAP_FIXED | _MREMAP_DONTUNMAP
    if _libc.mremap(address, size, size, flags, place) != _FAILED:
        return place
    error = ctypes.get_errno()
    _libc.munmap(place, size)
    if error != errno.EINVAL:  # Linux before 5.13 cannot keep every mapping
        raise MemoryError(os.strerror(error))
    return None


def _move(address: int, size: int, to: int) -> None:
    """Move a mapping with its pages, in place of what is at `to`."""
    if _libc.mremap(address, size, size, _MREMAP_MAYMOVE | _MREMAP_FIXED, to) == _FAILED:
        raise MemoryError(os.strerror(ctypes.get_errno()))


def close_later(memories: Iterable[StagedMemory]) -> None:
    """Close all of them in the background: a GiB that was in use takes 60 ms, for which a guest need not wait."""
    threading.Thread(target=_close_soon, args=(tuple(memories),), name="old memory").start()


def _close_soon(memories: Iterable[StagedMemory]) -> None:
    time.sleep(_HEAD_START_SECONDS)
    for memory in memories:
        memory.close()
