"""RAM blocks: guest memory as one anonymous `mmap` each, shared by the engine, the devices and NumPy."""

from __future__ import annotations

import ctypes
import mmap

from emulator.core.bits import align_up
from emulator.core.errors import ConfigError

PAGE_SIZE = 4096


class RamBlock:
    """A named, zero-filled block of guest memory.

    `name` is QEMU's RAM block name (it goes on the wire), `size` its length in bytes, a multiple of the page size.
    A block that is `readonly` for the guest can be written through `view` by the board and its devices.
    """

    def __init__(self, name: str, size: int, *, readonly: bool = False) -> None:
        if size <= 0 or size != align_up(size, PAGE_SIZE):
            raise ConfigError(f"RAM block {name}: size {size} is not a positive multiple of {PAGE_SIZE}")
        try:
            self._map = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise ConfigError(f"cannot allocate {size >> 20} MiB for RAM block {name}: {error.strerror}") from error
        self.name = name
        self.size = size
        self.readonly = readonly
        self.view = memoryview(self._map)
        self._anchor = ctypes.c_char.from_buffer(self._map)
        self.address = ctypes.addressof(self._anchor)
        """Host address of the first byte: what the engine maps."""

    def close(self) -> None:
        """Give the memory back; the engine must have been closed before."""
        del self._anchor
        self.view.release()
        self._map.close()
